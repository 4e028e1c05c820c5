"""What the manifests describe: one `Resource` per file.

A manifest is a Frictionless Data Package (v2) with a few properties of our own: ``wskit:urls``
(addresses of the file, in order of preference), ``wskit:citation``, ``wskit:kind``,
``wskit:maxBytes`` and ``wskit:sha256Prefix`` (bounds on a file whose size or hash is not known),
``wskit:unknown`` (fields that are not known) and ``wskit:note``. The tests validate the manifests
of the kit in full. What is checked here is what a hostile one could do harm with.
"""

import difflib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from wskit.errors import DataError

# No leading dot or slash, no backslash, no drive: such a path cannot leave its folder. It is short
# enough for every file system, with what is added to it during a download.
_NAME = r"[A-Za-z0-9][\w.+-]*"
_SAFE_NAME = re.compile(rf"(?=.{{1,200}}$){_NAME}", re.ASCII)
_SAFE_PATH = re.compile(rf"(?=.{{1,200}}$){_NAME}(/{_NAME})*", re.ASCII)
_KIND = re.compile("weights|dataset|zoo")
_HASH = re.compile("sha256:[0-9a-f]{64}")
_PREFIX = re.compile("[0-9a-f]{0,64}")
_URL = re.compile("https?://[!-~]+")
_LINE = re.compile(".*")
_MAX_SIZE = 2**63  # bytes; a table of sizes holds no more


@dataclass(frozen=True)
class Resource:
    """One file that a manifest describes; see `wskit.data.catalog` for the fields."""

    name: str
    package: str
    title: str
    kind: str
    file: str
    bytes: int | None
    max_bytes: int
    sha256: str | None
    sha256_prefix: str
    licence: str
    source: str
    citation: str
    urls: tuple[str, ...]
    unknown: tuple[str, ...]
    note: str

    def explain_size(self, size: int) -> str:
        """Say why a file of `size` bytes cannot be this one, or return an empty string."""
        if self.bytes not in (None, size):
            return f"the file has {size} bytes, the manifest says {self.bytes}"
        if size > self.max_bytes:
            return f"the file has {size} bytes, the manifest allows {self.max_bytes}"
        return ""


def manifest_folder() -> Path:
    """Return the folder of the manifests: in the wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "_data_manifests"
    return shipped if shipped.is_dir() else package.parent / "data_manifests"


def resources() -> tuple[Resource, ...]:
    """Return the resources of all manifests, package by package.

    Raises
    ------
    DataError
        If a manifest cannot be used, or two resources have the same name.
    """
    folder = manifest_folder()
    found = tuple(r for path in sorted(folder.glob("*.json")) for r in _read(path))
    if not found:
        raise DataError(f"{folder} holds no manifest (*.json): reinstall wskit")
    taken = {r.package for r in found}
    for r in found:
        if r.name in taken:
            raise DataError(
                f"manifest {r.package}.json names a resource {r.name!r}, which is also the name of "
                "another resource or of a package: rename one"
            )
        taken.add(r.name)
    return found


def select(name: str) -> tuple[Resource, ...]:
    """Return the resource called `name`, or all resources of the package called `name`.

    Raises
    ------
    DataError
        If there is neither; the message proposes similar names.
    """
    known = resources()
    chosen = tuple(r for r in known if name in (r.name, r.package))
    if chosen:
        return chosen
    names = sorted({r.name for r in known} | {r.package for r in known})
    close = difflib.get_close_matches(str(name), names, n=3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise DataError(
        f"no manifest has a resource or package called {name!r}; {hint}"
        "`wskit data list` and data.catalog() show all"
    )


def _read(path: Path) -> list[Resource]:
    """Read one manifest, and believe nothing of what it says."""
    try:
        package = json.loads(path.read_text(encoding="utf-8"))
        if package["name"] != path.stem:
            raise ValueError(f"its name is {package['name']!r:.80}")
        found = [_resource(entry, package) for entry in package["resources"]]
        if not found:
            raise ValueError("it has no resources")
        _check_apart([r.file.lower() for r in found])
        return found
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise DataError(f"manifest {path} cannot be used ({reason}); mend or remove it") from error


def _resource(entry: Any, package: Any) -> Resource:
    """Turn one entry of a manifest into a `Resource`."""
    size = None if entry.get("bytes") is None else _size(entry["bytes"])
    urls = tuple(_text(url, _URL) for url in entry["wskit:urls"])
    if not all(urlsplit(url).hostname and urlsplit(url).port != 0 for url in urls) or not urls:
        raise ValueError(f"{urls} are not http(s) addresses")
    licences = [_text(licence["name"]) for licence in package.get("licenses", [])]
    sources = [_text(source["path"]) for source in package["sources"]]
    unknown = [*package.get("wskit:unknown", []), *entry.get("wskit:unknown", [])]
    known_hash = entry.get("hash")
    return Resource(
        name=_text(entry["name"], _SAFE_NAME),
        package=_text(package["name"], _SAFE_NAME),
        title=_text(entry["title"]),
        kind=_text(package["wskit:kind"], _KIND),
        file=_text(entry["path"], _SAFE_PATH),
        bytes=size,
        max_bytes=_size(entry["wskit:maxBytes"]) if size is None else size,
        sha256=None if known_hash is None else _text(known_hash, _HASH).removeprefix("sha256:"),
        sha256_prefix=_text(entry.get("wskit:sha256Prefix", ""), _PREFIX),
        licence="; ".join(licences) or "unknown",
        source="; ".join(sources),
        citation=_text(package["wskit:citation"]),
        urls=urls,
        unknown=tuple(_text(field) for field in unknown),
        note=_text(entry.get("wskit:note", "")),
    )


def _text(value: object, pattern: re.Pattern[str] = _LINE) -> str:
    """Return a value that is a line of printable letters and matches a pattern."""
    if not isinstance(value, str) or not value.isprintable() or not pattern.fullmatch(value):
        raise ValueError(f"{value!r:.80} is not a line that matches {pattern.pattern}")
    return value


def _size(value: object) -> int:
    """Return a value that is the size of a file."""
    if type(value) is not int or not 0 < value < _MAX_SIZE:  # True is no number here
        raise ValueError(f"{value!r:.40} is not the size of a file")
    return value


def _check_apart(files: list[str]) -> None:
    """Raise unless all files can lie in one folder, whatever the file system."""
    if len(set(files)) < len(files):
        raise ValueError("two of its resources have the same path")
    folders = {str(parent) for file in files for parent in Path(file).parents}
    if not folders.isdisjoint(files):
        raise ValueError("the path of a file is also a folder's")
