"""Image data sets as tensors, split into train, validation and test."""

import gzip
import math
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from wskit._base.checks import check_choice
from wskit.data._cache import fetch
from wskit.data._manifests import select
from wskit.errors import DataError

DatasetName = Literal["digits", "mnist", "fashion-mnist", "cifar10"]

_DIGITS = tuple("0123456789")
_FASHION = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
_CIFAR = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"
_CIFAR_PIXELS = 3 * 32 * 32
_CIFAR_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
_CIFAR_TEST = "test_batch.bin"
_MAX_IDX_VALUES = 1 << 30


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels in three parts.

    Attributes
    ----------
    name : str
        As in `load_dataset`.
    train_x, validation_x, test_x : Tensor
        Images, float32 in [0, 1], (n, channels, height, width).
    train_y, validation_y, test_y : Tensor
        Labels, int64 from 0, (n,).
    classes : tuple of str
        What the labels mean.
    source, licence, citation : str
        Where the images are from, and on what terms ("unknown" where the authors state none).
    """

    name: str
    train_x: Float[Tensor, "train channels height width"]
    train_y: Int64[Tensor, " train"]
    validation_x: Float[Tensor, "validation channels height width"]
    validation_y: Int64[Tensor, " validation"]
    test_x: Float[Tensor, "test channels height width"]
    test_y: Int64[Tensor, " test"]
    classes: tuple[str, ...]
    source: str
    licence: str
    citation: str

    def __repr__(self) -> str:
        sizes = f"{len(self.train_x)} train, {len(self.validation_x)} validation"
        shape = " x ".join(str(n) for n in self.train_x.shape[1:])
        return f"Dataset({self.name!r}: {sizes}, {len(self.test_x)} test, images {shape})"


@dataclass(eq=False)
class _Raw:
    """A data set before it is split; `test` is its standard test set, if it has one."""

    images: UInt8[np.ndarray, "n channels height width"]
    labels: UInt8[np.ndarray, " n"]
    test: tuple[UInt8[np.ndarray, "m channels height width"], UInt8[np.ndarray, " m"]] | None
    brightest: int
    classes: tuple[str, ...]


def load_dataset(
    name: DatasetName,
    *,
    validation_fraction: float = 0.2,
    test_fraction: float | None = None,
    seed: int = 0,
) -> Dataset:
    """Load a data set of small images as tensors, split into train, validation and test.

    The split is stratified (each part has the classes in the same proportions) and depends on
    `seed` only. "digits" is embedded in scikit-learn and needs no download.

    Parameters
    ----------
    name : {"digits", "mnist", "fashion-mnist", "cifar10"}
        Images of 1 x 8 x 8, 1 x 28 x 28, 1 x 28 x 28 and 3 x 32 x 32.
    validation_fraction : float, default 0.2
        Part of the images that go to validation: of all images for digits; for the others of
        those that are not their standard test set.
    test_fraction : float, optional
        Part of all images that go to test; default 0.2 for digits. The other sets have a
        standard test set, which is the test part, so that it cannot be given for them.
    seed : int, default 0
        Decides which image goes where.

    Returns
    -------
    Dataset
        Images float32 in [0, 1], labels int64.

    Raises
    ------
    DataError
        If the name or the fractions are wrong, or a file cannot be had or read.

    Examples
    --------
    >>> load_dataset("digits")
    Dataset('digits': 1077 train, 360 validation, 360 test, images 1 x 8 x 8)
    """
    check_choice(name, DatasetName, DataError, "name")
    if test_fraction is not None and name != "digits":
        raise DataError(f"{name} has a standard test set: leave test_fraction out")
    if test_fraction is None:
        test_fraction = 0.2 if name == "digits" else 0.0
    if not (0 < validation_fraction < 1 and 0 <= test_fraction < 1 - validation_fraction):
        raise DataError(
            "the fractions for validation and test must be positive and leave some images to "
            f"train on, got {validation_fraction} and {test_fraction}"
        )
    raw = _LOADERS[name](name)
    rest = np.arange(len(raw.labels))
    if raw.test is None:
        rest, test = _split(rest, raw.labels, test_fraction, seed)
        raw.test = raw.images[test], raw.labels[test]
    train, validation = _split(rest, raw.labels, validation_fraction / (1 - test_fraction), seed)
    source, licence, citation = _provenance(name)
    return Dataset(
        name,
        *_tensors(raw.images[train], raw.labels[train], raw.brightest),
        *_tensors(raw.images[validation], raw.labels[validation], raw.brightest),
        *_tensors(*raw.test, raw.brightest),
        classes=raw.classes,
        source=source,
        licence=licence,
        citation=citation,
    )


def _split(
    rows: np.ndarray, labels: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split rows in two, the second being `fraction` of them, stratified by label; both sorted."""
    from sklearn.model_selection import train_test_split

    try:
        first, second = train_test_split(
            rows, test_size=fraction, stratify=labels[rows], random_state=seed
        )
    except ValueError as error:
        raise DataError(f"{len(rows)} images cannot be split so: {error}") from error
    return np.sort(first), np.sort(second)


def _tensors(images: np.ndarray, labels: np.ndarray, brightest: int) -> tuple[Tensor, Tensor]:
    """Scale images to [0, 1] as float32, and make labels int64."""
    scaled = torch.from_numpy(images.astype(np.float32)).div_(brightest)
    return scaled, torch.from_numpy(labels.astype(np.int64))


def _provenance(name: str) -> tuple[str, str, str]:
    """Return source, licence and citation."""
    if name == "digits":
        return (
            "https://archive.ics.uci.edu/dataset/80 (through sklearn.datasets.load_digits)",
            "CC-BY-4.0",
            "E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, "
            "UCI Machine Learning Repository, 1998, doi:10.24432/C50P49",
        )
    first = select(name)[0]
    return first.source, first.licence, first.citation


def _load_digits(name: str) -> _Raw:
    from sklearn.datasets import load_digits

    found = load_digits()
    images = found.images.astype(np.uint8)[:, None]
    labels = found.target.astype(np.uint8)
    return _Raw(images, labels, None, 16, _DIGITS)


def _load_mnist(name: str) -> _Raw:
    """Read MNIST, or a set that comes in its four files."""
    folder = fetch(name)
    parts = []
    for part in ("train", "t10k"):
        images = read_idx(folder / f"{part}-images-idx3-ubyte.gz", 3)[:, None]
        labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz", 1)
        if len(images) != len(labels):
            raise DataError(f"{folder}: {len(images)} {part} images, but {len(labels)} labels")
        parts.append((images, labels))
    classes = tuple(_FASHION.split(",")) if name == "fashion-mnist" else _DIGITS
    return _Raw(*parts[0], parts[1], 255, classes)


def read_idx(path: Path, n_dimensions: int) -> UInt8[np.ndarray, "..."]:
    """Read a gzipped IDX file of unsigned bytes, or raise `DataError`."""
    with _explain_damage(path), gzip.open(path) as file:
        head = file.read(4 + 4 * n_dimensions)
        if head[:4] != bytes([0, 0, 8, n_dimensions]):
            raise ValueError(f"it begins with {head[:4].hex()}, not as {n_dimensions}-d bytes")
        shape = np.frombuffer(head[4:], ">u4", count=n_dimensions).tolist()
        count = math.prod(shape)
        if not 0 < count <= _MAX_IDX_VALUES:
            raise ValueError(f"it states the shape {shape}")
        # One byte more than stated: a file that goes on is as wrong as one that stops early.
        return np.frombuffer(file.read(count + 1), np.uint8).reshape(shape)


def _load_cifar10(name: str) -> _Raw:
    path = fetch("cifar10-binary")
    # Members are read where they are: nothing is extracted, no name can lead out of a folder.
    with _explain_damage(path), tarfile.open(path, "r:gz") as archive:
        train = [_read_cifar(archive, member) for member in _CIFAR_TRAIN]
        test = _read_cifar(archive, _CIFAR_TEST)
    rows = np.concatenate(train)
    classes = tuple(_CIFAR.split(","))
    return _Raw(*_images_and_labels(rows), _images_and_labels(test), 255, classes)


def _read_cifar(archive: tarfile.TarFile, member: str) -> UInt8[np.ndarray, "n 3073"]:
    """Read one batch: rows of a label byte and 3072 pixel bytes (red, green, blue planes)."""
    file = archive.extractfile(f"cifar-10-batches-bin/{member}")
    if file is None:
        raise ValueError(f"{member} is not a file")
    return np.frombuffer(file.read(), np.uint8).reshape(-1, 1 + _CIFAR_PIXELS)


def _images_and_labels(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]


@contextmanager
def _explain_damage(path: Path) -> Iterator[None]:
    """Turn what the readers of a damaged file raise into one sentence."""
    try:
        yield
    except (EOFError, OSError, ValueError, KeyError, tarfile.TarError, zlib.error) as error:
        raise DataError(
            f"{path} is damaged or another file ({error}); delete it and fetch it again"
        ) from error


_LOADERS = {
    "digits": _load_digits,
    "mnist": _load_mnist,
    "fashion-mnist": _load_mnist,
    "cifar10": _load_cifar10,
}
