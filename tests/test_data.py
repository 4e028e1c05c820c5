"""`wskit.data`: the manifests, what the catalogue says of them, and the data sets as tensors."""

import gzip
import io
import json
import re
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import frictionless
import numpy as np
import pandas as pd
import pytest
import torch
from data_site import describe, prepare, resource
from sklearn.datasets import load_digits

from wskit import data
from wskit.data import _manifests
from wskit.data._datasets import read_idx
from wskit.errors import DataError

MANIFESTS = sorted(_manifests.manifest_folder().glob("*.json"))
DESCRIPTORS = [json.loads(path.read_text(encoding="utf-8")) for path in MANIFESTS]
RESOURCES = [r for descriptor in DESCRIPTORS for r in descriptor["resources"]]


def named(values: list[Any]) -> list[str]:
    return [value["name"] for value in values]


# --- the manifests of the kit ------------------------------------------------------------------


@pytest.mark.parametrize("descriptor", DESCRIPTORS, ids=named(DESCRIPTORS))
def test_a_manifest_is_a_data_package_with_origin_and_terms(descriptor: dict[str, Any]) -> None:
    assert descriptor["$schema"] == "https://datapackage.org/profiles/2.0/datapackage.json"
    assert [e.note for e in frictionless.Package.metadata_validate(descriptor)] == []
    assert descriptor["title"]
    assert re.match(r"@\w+\{\w+,.*title = \{", descriptor["wskit:citation"])
    assert all(s["path"].startswith("https://") for s in descriptor["sources"])
    assert bool(descriptor.get("licenses")) != ("licenses" in descriptor.get("wskit:unknown", []))
    assert all(x["path"].startswith("https://") for x in descriptor.get("licenses", []))
    descriptor = json.loads(json.dumps(descriptor))
    descriptor["resources"][0]["bytes"] = "many"
    found = str(list(frictionless.Package.metadata_validate(descriptor)))
    assert "not of type 'integer'" in found, "the validator finds faults"


@pytest.mark.parametrize("entry", RESOURCES, ids=named(RESOURCES))
def test_a_resource_is_checkable_or_says_what_is_unknown(entry: dict[str, Any]) -> None:
    unknown = entry.get("wskit:unknown", [])
    assert ("hash" in entry) != ("hash" in unknown)
    assert ("bytes" in entry) != ("bytes" in unknown)
    assert ("bytes" in entry) != ("wskit:maxBytes" in entry)
    assert ("hash" in entry) or entry["wskit:note"]
    assert entry["wskit:urls"]
    for url in entry["wskit:urls"]:
        assert re.fullmatch(r"https://[\w.-]+/[\w./~%-]+", url)
        if ("github" in url or "huggingface" in url) and "revision" not in unknown:
            assert re.search(r"/[0-9a-f]{40}/", url), f"{url} is not pinned to a commit"


def test_names_and_addresses_are_unique() -> None:
    names = named(RESOURCES) + named(DESCRIPTORS)
    assert len(names) == len(set(names))
    urls = [url for r in RESOURCES for url in r["wskit:urls"]]
    assert len(urls) == len(set(urls))


def test_the_catalogue_has_one_row_per_file_and_admits_what_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSKIT_CACHE", str(tmp_path))
    table = data.catalog().set_index("name")
    assert sorted(table.index) == sorted(named(RESOURCES))
    assert not table["cached"].any()
    net, zoo = table.loc["cifar-resnet20"], table.loc["small-cnn-zoo-cifar10"]
    assert (net["bytes"], net["max_bytes"]) == (1099231, 1099231)
    assert net["sha256"] == "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8"
    assert (net["licence"], net["kind"], net["unknown"]) == ("BSD-2-Clause", "weights", ())
    assert "Idelbayev" in net["citation"]
    assert (zoo["max_bytes"], zoo["unknown"]) == (6 * 10**9, ("bytes", "hash"))
    assert zoo["bytes"] is pd.NA and pd.isna(zoo["sha256"])
    images = table.loc["cifar10-binary"]
    assert (images["licence"], images["unknown"]) == ("unknown", ("licenses",))
    assert data.verify().empty
    assert list(data.verify("cifar-resnet20", "cifar-resnets")["state"]) == ["missing"] * 6


def test_an_unknown_name_gets_a_proposal() -> None:
    with pytest.raises(DataError, match=r"called 'resnet20'; did you mean .*cifar-resnet20"):
        data.fetch("resnet20")


def test_the_names_of_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WSKIT_CACHE", raising=False)
    assert data.cache_folder().is_absolute() and "wskit" in str(data.cache_folder())
    assert "load_dataset" in dir(data) and "Any" not in dir(data)
    with pytest.raises(AttributeError, match=r"'wskit\.data' has no attribute 'downlaod'"):
        data.downlaod  # noqa: B018
    code = "import sys, wskit.data; wskit.data.catalog(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- manifests that mean harm ------------------------------------------------------------------

PATHS = ["../x", "/etc/passwd", "a/../../b", "..", "", ".incoming/x", "C:\\x", "a\\..\\b", "a//b"]


def use(folder: Path, monkeypatch: pytest.MonkeyPatch, entries: list[Any], **changes: Any) -> None:
    prepare(folder, monkeypatch)
    describe(folder, *entries)
    path = folder / "manifests" / "nets.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    data.catalog()


@pytest.mark.parametrize("path", PATHS)
def test_a_path_out_of_the_folder_is_refused(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"is not a line that matches .*; mend or remove it"):
        use(tmp_path, monkeypatch, [resource(path=path)])


BAD_VALUES = {
    "name": [["net"], "a/b", 3],
    "hash": ["", "md5:0", 3, "sha256:" + "A" * 64],
    "bytes": [True, float("nan"), 2**63, -1, "3"],
    "title": ["a\x1b[2J", "a\nb", None],
    "wskit:urls": [
        [], "https://a.org", ["file:///etc/passwd"], ["http://["], ["https://a:x/"], ["http:///x"],
    ],
    "wskit:sha256Prefix": ["xyz", 3],
    "wskit:maxBytes": [0],
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field in BAD_VALUES for value in BAD_VALUES[field]]
)
def test_a_value_that_cannot_be_used_is_refused(
    field: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = resource() | {field: value} | ({"bytes": None} if field == "wskit:maxBytes" else {})
    with pytest.raises(DataError, match=r"nets\.json cannot be used .*mend or remove it") as caught:
        use(tmp_path, monkeypatch, [entry])
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["net.bin", "NET.bin"], "two of its resources have the same path"),
        (["net.bin", "net.bin/b"], "the path of a file is also a folder's"),
        ([], "it has no resources"),
    ],
)
def test_files_must_lie_apart(
    paths: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [resource(f"net{i}", path=path) for i, path in enumerate(paths)]
    with pytest.raises(DataError, match=message):
        use(tmp_path, monkeypatch, entries)


@pytest.mark.parametrize("name", ["nets", "net"])
def test_a_name_must_be_unique(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=f"names a resource '{name}', .*: rename one"):
        use(tmp_path, monkeypatch, [resource("net"), resource(name, path="b")])


# --- data sets ---------------------------------------------------------------------------------

Publish = Callable[[str, dict[str, tuple[str, bytes]]], None]

PARTS = ("train", "validation", "test")


def idx(array: np.ndarray) -> bytes:
    """Encode an array of bytes as an IDX file."""
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return head + array.astype(np.uint8).tobytes()


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Return a function that makes files fetchable as a package, with a folder as the mirror."""
    prepare(tmp_path, monkeypatch)
    monkeypatch.setenv("WSKIT_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("WSKIT_OFFLINE", "1")

    def write(package: str, files: dict[str, tuple[str, bytes]]) -> None:
        folder = tmp_path / "mirror" / package
        folder.mkdir(parents=True)
        for path, content in files.values():
            (folder / path).write_bytes(content)
        entries = [resource(name, content, path=path) for name, (path, content) in files.items()]
        describe(tmp_path, *entries, package=package)

    return write


def as_rows(images: torch.Tensor) -> list[tuple[float, ...]]:
    return sorted(tuple(image.flatten().tolist()) for image in images)


def test_every_digit_is_in_one_part_with_its_label() -> None:
    digits = data.load_dataset("digits", validation_fraction=0.1, test_fraction=0.3)
    for part in PARTS:
        x, y = getattr(digits, f"{part}_x"), getattr(digits, f"{part}_y")
        assert (x.dtype, y.dtype, x.shape) == (torch.float32, torch.int64, (len(y), 1, 8, 8))
    found = load_digits()
    together = torch.cat([getattr(digits, f"{part}_x") for part in PARTS])
    labels = torch.cat([getattr(digits, f"{part}_y") for part in PARTS])
    restored = np.column_stack([together.reshape(-1, 64).double().numpy(), labels.numpy()])
    expected = np.column_stack([(found.images / 16).reshape(-1, 64), found.target])
    assert sorted(map(tuple, restored)) == sorted(map(tuple, expected))


def test_the_split_is_stratified_and_depends_on_the_seed_alone() -> None:
    before = np.random.get_state()[1].copy(), torch.random.get_rng_state()  # noqa: NPY002
    one, again = data.load_dataset("digits"), data.load_dataset("digits")
    other = data.load_dataset("digits", seed=1)
    assert torch.equal(one.train_x, again.train_x)
    assert not torch.equal(one.train_x, other.train_x)
    assert as_rows(one.test_x) != as_rows(other.test_x)
    whole = np.bincount(load_digits().target) / 1797
    for part in PARTS:
        shares = torch.bincount(getattr(one, f"{part}_y")) / len(getattr(one, f"{part}_y"))
        np.testing.assert_allclose(shares.numpy(), whole, atol=0.003)
    assert np.array_equal(before[0], np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(before[1], torch.random.get_rng_state())


def mnist_files(images: np.ndarray, labels: np.ndarray) -> dict[str, tuple[str, bytes]]:
    """Files as MNIST's: the first 40 images to train on, the rest to test on."""
    files = {}
    for part, rows in (("train", slice(40)), ("t10k", slice(40, None))):
        files[f"{part}-x"] = (f"{part}-images-idx3-ubyte.gz", gzip.compress(idx(images[rows])))
        files[f"{part}-y"] = (f"{part}-labels-idx1-ubyte.gz", gzip.compress(idx(labels[rows])))
    return files


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_mnist_keeps_its_test_set(name: str, publish: Publish) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 28, 28)).astype(np.uint8)
    labels = np.arange(50, dtype=np.uint8) % 2
    publish(name, mnist_files(images, labels))
    got = data.load_dataset(name, validation_fraction=0.25)
    assert [len(getattr(got, f"{part}_y")) for part in PARTS] == [30, 10, 10]
    np.testing.assert_array_equal((got.test_x[:, 0] * 255).round().byte(), images[40:])
    np.testing.assert_array_equal(got.test_y, labels[40:])
    rows = as_rows(torch.cat([got.train_x, got.validation_x]))
    assert rows == as_rows(torch.from_numpy(images[:40]).float() / 255)
    assert (got.source, got.licence, got.citation) == ("https://example.org", "MIT", "none")
    assert got.classes[9] == ("9" if name == "mnist" else "Ankle boot")


def test_splits_that_cannot_be() -> None:
    with pytest.raises(DataError, match="mnist has a standard test set: leave test_fraction out"):
        data.load_dataset("mnist", test_fraction=0.2)
    for validation, test in [(0.0, 0.2), (0.5, 0.5), (0.2, -0.1), (1.2, 0.0)]:
        with pytest.raises(DataError, match="must be positive and leave some images to train on"):
            data.load_dataset("digits", validation_fraction=validation, test_fraction=test)
    with pytest.raises(DataError, match="images cannot be split so"):
        data.load_dataset("digits", validation_fraction=0.001)


def test_images_without_labels_are_an_error(publish: Publish) -> None:
    files = mnist_files(np.zeros((50, 28, 28), np.uint8), np.zeros(50, np.uint8))
    files["train-y"] = (files["train-y"][0], gzip.compress(idx(np.zeros(39, np.uint8))))
    publish("mnist", files)
    with pytest.raises(DataError, match="40 train images, but 39 labels"):
        data.load_dataset("mnist")


WHOLE = idx(np.arange(24).reshape(2, 3, 4))
BROKEN = [
    gzip.compress(WHOLE)[:-12],
    gzip.compress(WHOLE)[:20] + bytes(30),
    b"",
    *[WHOLE, gzip.compress(b""), gzip.compress(idx(np.arange(5)))],
    *[gzip.compress(b"\0\0\x0d\x03" + WHOLE[4:]), gzip.compress(WHOLE[:4] + bytes(12))],
    *[gzip.compress(WHOLE[:-1]), gzip.compress(WHOLE + b"\0"), gzip.compress(WHOLE[:9])],
    gzip.compress(WHOLE[:4] + b"\xff" * 12),
]


def test_idx_is_read_or_refused_whole(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(WHOLE))
    np.testing.assert_array_equal(read_idx(path, 3), np.arange(24).reshape(2, 3, 4))
    for content in BROKEN:
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"images\.gz is damaged or .*delete it and fetch it"):
            read_idx(path, 3)


def cifar_archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def cifar_members() -> tuple[np.ndarray, dict[str, bytes]]:
    """Rows and batches as CIFAR-10's, of four rows each."""
    rows = np.random.default_rng(0).integers(0, 256, (24, 3073)).astype(np.uint8)
    rows[:, 0] = np.arange(24) % 2
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    return rows, {
        f"cifar-10-batches-bin/{name}": rows[4 * i : 4 * i + 4].tobytes()
        for i, name in enumerate(names)
    }


def test_cifar10_is_read_without_extracting(publish: Publish, tmp_path: Path) -> None:
    rows, members = cifar_members()
    members |= {"../../escaped": b"x", "/tmp/escaped": b"x"}
    publish("cifar10", {"cifar10-binary": ("cifar.tar.gz", cifar_archive(members))})
    got = data.load_dataset("cifar10")
    assert [len(getattr(got, f"{part}_y")) for part in PARTS] == [16, 4, 4]
    red = rows[20:, 1:1025].reshape(4, 32, 32)
    np.testing.assert_array_equal((got.test_x[:, 0] * 255).round().byte(), red)
    np.testing.assert_array_equal(got.test_y, rows[20:, 0])
    images = as_rows(torch.cat([got.train_x, got.validation_x]))
    assert images == as_rows(torch.from_numpy(rows[:20, 1:]).float() / 255)
    assert got.classes[:2] == ("airplane", "automobile")
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("damage", ["drop", "short", "cut"])
def test_a_broken_cifar_archive_is_named(publish: Publish, damage: str) -> None:
    _, members = cifar_members()
    content = members.pop("cifar-10-batches-bin/test_batch.bin")
    if damage != "drop":
        members["cifar-10-batches-bin/test_batch.bin"] = content[
            : -1 if damage == "short" else None
        ]
    archive = cifar_archive(members)
    archive = archive[:-2000] if damage == "cut" else archive
    publish("cifar10", {"cifar10-binary": ("cifar.tar.gz", archive)})
    with pytest.raises(DataError, match=r"cifar\.tar\.gz is damaged or .*delete it and fetch"):
        data.load_dataset("cifar10")
