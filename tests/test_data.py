"""The manifests, and what `wskit.data` says of them."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import frictionless
import pandas as pd
import pytest

from wskit import data
from wskit.data import _manifests
from wskit.errors import DataError

MANIFESTS = sorted(data.manifest_folder().glob("*.json"))
DESCRIPTORS = [json.loads(path.read_text(encoding="utf-8")) for path in MANIFESTS]
RESOURCES = [r for descriptor in DESCRIPTORS for r in descriptor["resources"]]


def named(values: list[Any]) -> list[str]:
    return [value["name"] for value in values]


def test_the_collections_are_there() -> None:
    expected = {"cifar-resnets", "mnist", "fashion-mnist", "cifar10", "gpt2", "pythia-70m"}
    assert expected | {"small-cnn-zoo"} <= {path.stem for path in MANIFESTS}


@pytest.mark.parametrize("descriptor", DESCRIPTORS, ids=named(DESCRIPTORS))
def test_a_manifest_is_a_data_package(descriptor: dict[str, Any]) -> None:
    assert descriptor["$schema"] == "https://datapackage.org/profiles/2.0/datapackage.json"
    assert [e.note for e in frictionless.Package.metadata_validate(descriptor)] == []


def test_the_validator_finds_faults() -> None:
    broken = json.loads(json.dumps(DESCRIPTORS[0]))
    broken["resources"][0]["bytes"] = "many"
    assert "not of type 'integer'" in str(list(frictionless.Package.metadata_validate(broken)))


@pytest.mark.parametrize("descriptor", DESCRIPTORS, ids=named(DESCRIPTORS))
def test_a_manifest_states_origin_and_terms(descriptor: dict[str, Any]) -> None:
    assert descriptor["title"]
    assert re.match(r"@\w+\{\w+,.*title = \{", descriptor["wskit:citation"])
    assert all(s["path"].startswith("https://") for s in descriptor["sources"])
    assert bool(descriptor.get("licenses")) != ("licenses" in descriptor.get("wskit:unknown", []))
    assert all(x["path"].startswith("https://") for x in descriptor.get("licenses", []))


@pytest.mark.parametrize("entry", RESOURCES, ids=named(RESOURCES))
def test_a_resource_is_checkable_or_says_what_is_unknown(entry: dict[str, Any]) -> None:
    unknown = entry.get("wskit:unknown", [])
    assert ("hash" in entry) != ("hash" in unknown)
    assert ("bytes" in entry) != ("bytes" in unknown)
    assert ("bytes" in entry) != ("wskit:maxBytes" in entry)
    assert ("hash" in entry) or entry["wskit:note"]
    assert entry["wskit:urls"]
    assert all(re.fullmatch(r"https://[\w.-]+/[\w./~%-]+", url) for url in entry["wskit:urls"])
    hosts = {"github", "huggingface"}
    for url in entry["wskit:urls"]:
        if any(host in url for host in hosts) and "revision" not in unknown:
            assert re.search(r"/[0-9a-f]{40}/", url), f"{url} is not pinned to a commit"


def test_names_and_addresses_are_unique() -> None:
    names = [r["name"] for r in RESOURCES] + [d["name"] for d in DESCRIPTORS]
    assert len(names) == len(set(names))
    urls = [url for r in RESOURCES for url in r["wskit:urls"]]
    assert len(urls) == len(set(urls))
    paths = [(d["name"], r["path"]) for d in DESCRIPTORS for r in d["resources"]]
    assert len(paths) == len(set(paths))


def test_describe_tells_what_will_be_downloaded() -> None:
    net = data.describe("cifar-resnet20")
    assert (net.bytes, net.max_bytes) == (1099231, 1099231)
    assert net.sha256 == "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8"
    assert (net.licence, net.kind, net.unknown) == ("BSD-2-Clause", "weights", ())
    assert "Idelbayev" in net.citation


def test_describe_admits_what_is_unknown() -> None:
    zoo = data.describe("small-cnn-zoo-cifar10")
    assert (zoo.bytes, zoo.sha256, zoo.max_bytes) == (None, None, 6_000_000_000)
    assert zoo.unknown == ("bytes", "hash")
    images = data.describe("cifar10-binary")
    assert (images.licence, images.unknown) == ("unknown", ("licenses",))


def test_describe_refuses_a_package() -> None:
    with pytest.raises(DataError, match="'mnist' is a package of 4 files; describe one of them"):
        data.describe("mnist")


def test_an_unknown_name_gets_a_proposal() -> None:
    with pytest.raises(DataError, match=r"called 'resnet20'; did you mean .*cifar-resnet20"):
        data.fetch("resnet20")


def test_catalog_has_a_row_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSKIT_CACHE", str(tmp_path))
    monkeypatch.setenv("WSKIT_OFFLINE", "1")
    table = data.catalog().set_index("name")
    assert sorted(table.index) == sorted(r["name"] for r in RESOURCES)
    assert not table["cached"].any()
    assert table.loc["gpt2-small", "bytes"] == 548105171
    assert table.loc["cifar-resnet110", "bytes"] is pd.NA
    assert data.verify().empty
    assert list(data.verify("cifar-resnet20", "cifar-resnets")["state"]) == ["missing"] * 6


def test_the_cache_is_where_the_platform_keeps_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WSKIT_CACHE", raising=False)
    assert data.cache_folder().is_absolute()
    assert "wskit" in str(data.cache_folder())


def test_fetching_needs_no_torch() -> None:
    code = "import sys, wskit.data; wskit.data.catalog(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_attribute_is_an_error() -> None:
    with pytest.raises(AttributeError, match=r"'wskit\.data' has no attribute 'downlaod'"):
        data.downlaod  # noqa: B018


GOOD = {
    "name": "nets",
    "sources": [{"path": "https://example.org"}],
    "wskit:kind": "weights",
    "wskit:citation": "none",
}
ENTRY = {
    "name": "net",
    "path": "net.bin",
    "title": "a net",
    "bytes": 3,
    "wskit:urls": ["https://example.org/net.bin"],
}


def read(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (folder / "nets.json").write_text(text, encoding="utf-8")
    monkeypatch.setattr(_manifests, "manifest_folder", lambda: folder)
    data.describe("net")


@pytest.mark.parametrize(
    "path",
    [
        "../net.bin",
        "/etc/passwd",
        "a/../../b",
        "..",
        "",
        ".incoming/x",
        "C:\\net",
        "a\\..\\b",
        "a//b",
    ],
)
def test_a_path_out_of_the_folder_is_refused(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps(GOOD | {"resources": [ENTRY | {"path": path}]})
    with pytest.raises(DataError, match="is not a plain path inside a folder; mend or remove it"):
        read(tmp_path, monkeypatch, text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hash": "md5:0"}, "'md5:0' is not sha256:<64 hex digits>"),
        ({"wskit:urls": ["file:///etc/passwd"]}, r"are not http\(s\) addresses"),
        ({"wskit:urls": []}, r"are not http\(s\) addresses"),
        ({"bytes": None}, "lacks the field 'wskit:maxBytes'"),
        ({"name": "nets"}, "also the name of a package"),
        ({"name": ["net"]}, r"name is \['net'\], expected a text"),
        ({"name": "a/b"}, "resource 'a/b': a name has no slash"),
        ({"hash": ""}, "'' is not sha256:<64 hex digits>"),
        ({"hash": 3}, "resource 'net': hash is 3, expected a text"),
        ({"bytes": True}, "resource 'net': bytes is True, expected a whole number"),
        ({"bytes": float("nan")}, "bytes is nan, expected a whole number"),
        ({"bytes": 2**63}, "bytes is 9223372036854775808, which no file has"),
        ({"title": "a\x1b[2J"}, "expected one line without control characters"),
        ({"wskit:urls": "https://example.org"}, "expected a list"),
        ({"wskit:urls": ["https://a:x/"]}, r"are not http\(s\) addresses"),
        ({"wskit:sha256Prefix": "xyz"}, "'xyz' is not the beginning of a sha256"),
    ],
)
def test_a_resource_that_cannot_be_used_is_named(
    change: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, monkeypatch, json.dumps(GOOD | {"resources": [ENTRY | change]}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be used: Expecting"),
        ("[]", r"nets\.json cannot be used: expected an object with the field 'name', got \[\]"),
        ("[" * 20_000, "it is nested too deeply"),
        ("{}", "lacks the field 'name'"),
        (json.dumps(GOOD | {"name": "other"}), "its name is 'other', its file nets.json"),
        (
            json.dumps(GOOD | {"wskit:kind": "cat", "resources": [ENTRY]}),
            "'cat' is not one of",
        ),
        (json.dumps(GOOD | {"resources": [ENTRY, ENTRY | {"path": "b"}]}), "rename one"),
        (
            json.dumps(GOOD | {"resources": [ENTRY, ENTRY | {"path": "NET.bin"}]}),
            "two of its resources have the same path",
        ),
        (
            json.dumps(GOOD | {"resources": [ENTRY, ENTRY | {"path": "net.bin/b"}]}),
            "the path 'net.bin' is a file's and a folder's",
        ),
        (json.dumps(GOOD | {"resources": []}), "it has no resources"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_named(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, monkeypatch, text)


def test_a_folder_without_manifests_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_manifests, "manifest_folder", lambda: tmp_path)
    with pytest.raises(DataError, match=r"holds no manifest \(\*\.json\): reinstall wskit"):
        data.catalog()
    (tmp_path / "nets.json").mkdir()
    with pytest.raises(DataError, match=r"nets\.json cannot be read: Is a directory; mend or"):
        data.catalog()
