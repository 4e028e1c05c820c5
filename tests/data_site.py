"""What the tests of `wskit.data` share: a cache, manifests and files of their own."""

import hashlib
import json
import random
from pathlib import Path

import pytest
from http_server import Reply, Server

from wskit.data import _download, _manifests

CONTENT = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)

QUICK = {"retries": 2, "timeout": 5.0, "progress": False}


def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point wskit at a cache and manifests in `tmp_path`; no mirror, not offline."""
    (tmp_path / "manifests").mkdir()
    monkeypatch.setattr(_manifests, "manifest_folder", lambda: tmp_path / "manifests")
    monkeypatch.setattr(_download, "BACKOFF", 0.01)
    monkeypatch.setenv("WSKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("WSKIT_MIRROR", raising=False)
    monkeypatch.delenv("WSKIT_OFFLINE", raising=False)
    return tmp_path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def resource(name: str = "net", content: bytes = CONTENT, **changes: object) -> dict[str, object]:
    """A resource of a manifest; a change to None removes the field."""
    entry: dict[str, object] = {
        "name": name,
        "path": f"{name}.bin",
        "title": "a net",
        "bytes": len(content),
        "hash": f"sha256:{sha256(content)}",
        "wskit:urls": ["http://127.0.0.1:9/net.bin"],
    }
    return {key: value for key, value in (entry | changes).items() if value is not None}


def describe(folders: Path, *entries: dict[str, object], package: str = "nets") -> None:
    """Write a manifest."""
    descriptor = {
        "name": package,
        "licenses": [{"name": "MIT"}],
        "sources": [{"title": "tests", "path": "https://example.org"}],
        "wskit:kind": "weights",
        "wskit:citation": "none",
        "resources": list(entries),
    }
    (folders / "manifests" / f"{package}.json").write_text(json.dumps(descriptor))


def net(folders: Path, server: Server, *replies: Reply, **changes: object) -> None:
    """Describe one net that the server has."""
    url = server.serve("/net.bin", *replies)
    describe(folders, resource(**({"wskit:urls": [url]} | changes)))


def cached(folders: Path) -> list[str]:
    """What the cache holds, but partial files and locks."""
    cache = folders / "cache"
    files = (p.relative_to(cache) for p in cache.rglob("*") if p.is_file())
    return sorted(str(p) for p in files if p.parts[0] != ".incoming")


def part(folders: Path) -> Path:
    return folders / "cache" / ".incoming" / "nets" / "net.bin.part"
