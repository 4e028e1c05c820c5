"""`wskit.data.load_dataset`: on the digits, and on tiny files in the formats of the others."""

import gzip
import io
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from data_site import describe, prepare, resource
from sklearn.datasets import load_digits

from wskit import data
from wskit.data import _datasets
from wskit.data._datasets import read_idx
from wskit.errors import DataError

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


def mnist_files(images: np.ndarray, labels: np.ndarray) -> dict[str, tuple[str, bytes]]:
    """Files as MNIST's: the first 40 images to train on, the rest to test on."""
    files = {}
    for part, rows in (("train", slice(40)), ("t10k", slice(40, None))):
        files[f"{part}-x"] = (f"{part}-images-idx3-ubyte.gz", gzip.compress(idx(images[rows])))
        files[f"{part}-y"] = (f"{part}-labels-idx1-ubyte.gz", gzip.compress(idx(labels[rows])))
    return files


def as_rows(images: torch.Tensor) -> list[tuple[float, ...]]:
    return sorted(tuple(image.flatten().tolist()) for image in images)


def test_digits_are_tensors_in_three_parts() -> None:
    digits = data.load_dataset("digits")
    for part in PARTS:
        x, y = getattr(digits, f"{part}_x"), getattr(digits, f"{part}_y")
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        assert x.shape == (len(y), 1, 8, 8)
        assert (x.min(), x.max()) == (0.0, 1.0)
    assert [len(getattr(digits, f"{part}_y")) for part in PARTS] == [1077, 360, 360]
    assert digits.classes == tuple("0123456789")
    assert digits.licence == "CC-BY-4.0"


def test_every_digit_is_in_one_part_with_its_label() -> None:
    digits = data.load_dataset("digits", validation_fraction=0.1, test_fraction=0.3)
    found = load_digits()
    together = torch.cat([getattr(digits, f"{part}_x") for part in PARTS])
    labels = torch.cat([getattr(digits, f"{part}_y") for part in PARTS])
    original = (found.images / 16).reshape(-1, 64)
    restored = np.column_stack([together.reshape(-1, 64).double().numpy(), labels.numpy()])
    expected = np.column_stack([original, found.target])
    assert sorted(map(tuple, restored)) == sorted(map(tuple, expected))


def test_the_split_is_stratified_and_depends_on_the_seed() -> None:
    one, again = data.load_dataset("digits"), data.load_dataset("digits")
    other = data.load_dataset("digits", seed=1)
    assert torch.equal(one.train_x, again.train_x)
    assert not torch.equal(one.train_x, other.train_x)
    assert as_rows(one.test_x) != as_rows(other.test_x)
    whole = np.bincount(load_digits().target) / 1797
    for part in PARTS:
        shares = torch.bincount(getattr(one, f"{part}_y")) / len(getattr(one, f"{part}_y"))
        np.testing.assert_allclose(shares.numpy(), whole, atol=0.003)


def test_the_split_leaves_no_trace_in_global_state() -> None:
    before = np.random.get_state()[1].copy(), torch.random.get_rng_state()  # noqa: NPY002
    data.load_dataset("digits", seed=3)
    assert np.array_equal(before[0], np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(before[1], torch.random.get_rng_state())


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
    assert got.validation_y.sum() == 5
    assert (got.source, got.licence, got.citation) == ("https://example.org", "MIT", "none")
    assert got.classes[9] == ("9" if name == "mnist" else "Ankle boot")


def test_a_standard_test_set_cannot_be_resized() -> None:
    with pytest.raises(DataError, match="mnist has a standard test set: leave test_fraction out"):
        data.load_dataset("mnist", test_fraction=0.2)


@pytest.mark.parametrize(("validation", "test"), [(0.0, 0.2), (0.5, 0.5), (0.2, -0.1), (1.2, 0.0)])
def test_fractions_must_leave_something_to_train_on(validation: float, test: float) -> None:
    with pytest.raises(DataError, match="must be positive and leave some images to train on"):
        data.load_dataset("digits", validation_fraction=validation, test_fraction=test)


def test_too_small_a_part_is_an_error() -> None:
    with pytest.raises(DataError, match="images cannot be split so"):
        data.load_dataset("digits", validation_fraction=0.001)


def test_an_unknown_data_set_is_an_error() -> None:
    with pytest.raises(DataError, match="one of 'digits', 'mnist'"):
        _datasets._loader("imagenet")


def test_images_without_labels_are_an_error(publish: Publish) -> None:
    images = np.zeros((50, 28, 28), np.uint8)
    files = mnist_files(images, np.zeros(50, np.uint8))
    files["train-y"] = (files["train-y"][0], gzip.compress(idx(np.zeros(39, np.uint8))))
    publish("mnist", files)
    with pytest.raises(DataError, match="40 train images, but 39 labels"):
        data.load_dataset("mnist")


def test_idx_is_read(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(idx(array)))
    np.testing.assert_array_equal(read_idx(path, 3), array)


WHOLE = idx(np.arange(24).reshape(2, 3, 4))
HUGE = WHOLE[:4] + b"\xff" * 12
EMPTY = WHOLE[:4] + bytes(12)
FLOATS = b"\0\0\x0d\x03" + WHOLE[4:]

BROKEN = {
    "cut": (gzip.compress(WHOLE)[:-12], "is not a whole gzip file"),
    "damaged": (gzip.compress(WHOLE)[:20] + bytes(30), "is not a whole gzip file"),
    "not gzip": (WHOLE, "is not a whole gzip file"),
    "no bytes": (b"", "begins with , which is not an IDX file"),
    "nothing inside": (gzip.compress(b""), "begins with , which is not an IDX file"),
    "labels": (gzip.compress(idx(np.arange(5))), "begins with 00000801, .* of 3-dimensional"),
    "floats": (gzip.compress(FLOATS), "begins with 00000d03"),
    "too few": (gzip.compress(WHOLE[:-1]), "states 24 values, but holds 23"),
    "too many": (gzip.compress(WHOLE + b"\0"), "states 24 values, but holds more"),
    "half a header": (gzip.compress(WHOLE[:9]), "stops within its header"),
    "huge": (gzip.compress(HUGE), r"states the shape \[4294967295, .* which cannot be"),
    "empty": (gzip.compress(EMPTY), r"states the shape \[0, 0, 0\], which cannot be"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_idx_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"images\.gz {message}.*delete it and fetch it again"):
        read_idx(path, 3)


def cifar_archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def cifar_members(rows: np.ndarray) -> dict[str, bytes]:
    """Batches as CIFAR-10's, of four rows each."""
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    return {
        f"cifar-10-batches-bin/{name}": rows[4 * i : 4 * i + 4].tobytes()
        for i, name in enumerate(names)
    }


def cifar_rows() -> np.ndarray:
    rows = np.random.default_rng(0).integers(0, 256, (24, 3073)).astype(np.uint8)
    rows[:, 0] = np.arange(24) % 2
    return rows


def test_cifar10_is_read_without_extracting(publish: Publish, tmp_path: Path) -> None:
    rows = cifar_rows()
    members = cifar_members(rows) | {"../../escaped": b"x", "/tmp/escaped": b"x"}
    publish("cifar10", {"cifar10-binary": ("cifar.tar.gz", cifar_archive(members))})
    got = data.load_dataset("cifar10")
    assert [len(getattr(got, f"{part}_y")) for part in PARTS] == [16, 4, 4]
    red = rows[20:, 1:1025].reshape(4, 32, 32)
    np.testing.assert_array_equal((got.test_x[:, 0] * 255).round().byte(), red)
    np.testing.assert_array_equal(got.test_y, rows[20:, 0])
    assert as_rows(torch.cat([got.train_x, got.validation_x])) == as_rows(
        torch.from_numpy(rows[:20, 1:]).float() / 255
    )
    assert got.classes[:2] == ("airplane", "automobile")
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize(
    ("drop", "add", "cut", "message"),
    [
        ("test_batch.bin", b"", 0, "holds no file test_batch.bin"),
        ("data_batch_3.bin", bytes(3072), 0, "data_batch_3.bin has 3072 bytes, not rows of 3073"),
        ("", b"", 2000, "is not a whole .tar.gz file"),
    ],
)
def test_a_broken_cifar_archive_is_named(
    publish: Publish,
    drop: str,
    add: bytes,
    cut: int,
    message: str,
) -> None:
    members = cifar_members(cifar_rows())
    members.pop(f"cifar-10-batches-bin/{drop}", None)
    if add:
        members[f"cifar-10-batches-bin/{drop}"] = add
    content = cifar_archive(members)
    publish("cifar10", {"cifar10-binary": ("cifar.tar.gz", content[: len(content) - cut])})
    with pytest.raises(DataError, match=rf"cifar\.tar\.gz:? {message}.*delete it and fetch"):
        data.load_dataset("cifar10")
