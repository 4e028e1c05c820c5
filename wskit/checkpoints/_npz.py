"""``.npz``: headers at once, arrays one by one when they are asked for."""

import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from wskit.checkpoints._reading import Contents, Entry, Source, explain_damage
from wskit.errors import CheckpointError

_MAX_HEADER = 65_536  # bytes of a member's beginning that are looked at
_MAX_RATIO = 1_100  # deflate cannot shrink further than about 1 : 1032


def read_npz(source: Source) -> Contents:
    """Describe the arrays of an ``.npz`` file; pickled objects are refused, never loaded.

    The arrays may be compressed, so the file's size says little about the memory that they
    take: together they may take at most `max_bytes`.
    """
    with explain_damage(source.path, "an .npz file"):
        archive = zipfile.ZipFile(source.path)
    try:
        with explain_damage(source.path, "an .npz file"):
            entries = _entries(source.path, archive)
        total = sum(entry.nbytes for entry in entries.values())
        if not entries or total > source.max_bytes:
            raise CheckpointError(
                f"{source.path}: expected arrays of at most max_bytes={source.max_bytes} in all,"
                f" got {len(entries)} arrays of {total} bytes; raise max_bytes if you trust the"
                " file"
            )
    except BaseException:
        archive.close()
        raise
    return Contents(entries, close=archive.close, views=False)


def _entries(path: Path, archive: zipfile.ZipFile) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        where = f"{path}, array {name!r}"
        if name == member.filename or name in entries:
            raise CheckpointError(
                f"{path}: expected .npy members with names of their own, got"
                f" {member.filename!r}; save it again with numpy.savez"
            )
        shape, dtype, start = _npy_header(where, archive, member)
        claimed = start + math.prod(shape) * dtype.itemsize
        if claimed != member.file_size or claimed > _MAX_RATIO * (member.compress_size + 1):
            raise CheckpointError(
                f"{where}: expected as many bytes as its shape {shape} needs, {claimed}, got"
                f" {member.file_size} from {member.compress_size} in the file; get the file again"
            )
        entries[name] = Entry(shape, _torch_dtype(where, dtype), _reader(archive, member), name)
    return entries


def _npy_header(
    where: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> tuple[tuple[int, ...], np.dtype[np.generic], int]:
    """Return shape, dtype and the offset of the data."""
    with archive.open(member) as file:
        head = io.BytesIO(file.read(_MAX_HEADER))
    version = npy.read_magic(head)
    if version == (1, 0):
        shape, _, dtype = npy.read_array_header_1_0(head)
    elif version == (2, 0):
        shape, _, dtype = npy.read_array_header_2_0(head)
    else:  # version 3 is for structured arrays with names beyond ASCII
        raise CheckpointError(f"{where}: expected numbers, got a structured array; save it apart")
    if dtype.hasobject:
        raise CheckpointError(
            f"{where}: expected numbers, got Python objects, whose loading can run code;"
            " convert it to numbers and save it again"
        )
    if dtype.subdtype is not None or any(length < 0 for length in shape):
        raise CheckpointError(f"{where}: expected an array, got {dtype} of the shape {shape}")
    return shape, dtype, head.tell()


def _torch_dtype(where: str, dtype: np.dtype[np.generic]) -> torch.dtype:
    try:
        return torch.from_numpy(np.empty(0, dtype.newbyteorder("="))).dtype
    except TypeError as error:
        raise CheckpointError(
            f"{where}: expected numbers that torch has a dtype for, got {dtype};"
            " convert it or leave it out"
        ) from error


def _reader(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], Tensor]:
    def read() -> Tensor:
        with archive.open(member) as file:
            array = npy.read_array(file, allow_pickle=False)
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))

    return read
