"""What every reader takes, an open `Source`, and what it returns, the `Contents`."""

import io
import math
import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from wskit.errors import CheckpointError

Scalar = str | int | float | bool | None


@dataclass(frozen=True, eq=False)
class Entry:
    """One tensor that can be read; entries with equal `identity` are tied.

    `read_rows` reads the rows from one to another and nothing else, where the format allows it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]
    identity: Hashable
    read_rows: Callable[[int, int], Tensor] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's values."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Contents:
    """Everything that a source holds: tensors, plain values beside them, names left out.

    `views` says whether a tensor costs nothing until its entries are looked at.
    """

    entries: Mapping[str, Entry]
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    close: Callable[[], None] = lambda: None
    views: bool = True


class Source:
    """A file of weights as it was when it was opened.

    Parameters
    ----------
    path : Path
    within : str, optional
        The entry that holds the weights, as in `open_checkpoint`.
    max_bytes : int
        The most bytes that may be held in memory, as in `open_checkpoint`.
    """

    def __init__(self, path: Path, within: str | None, max_bytes: int) -> None:
        with explain_damage(path, "a readable file"):
            if not path.exists():
                raise CheckpointError(f"{path}: expected weights, found nothing; check the path")
            if not path.is_file():
                raise CheckpointError(f"{path}: expected a regular file, got something else")
            with path.open("rb") as file:
                self.head = file.read(16)
                self._version = _version(file)
        if not self.head:
            raise CheckpointError(f"{path}: expected a checkpoint, got an empty file; get it again")
        self.path, self.within, self.max_bytes = path, within, max_bytes
        self.size = self._version[2]

    @contextmanager
    def open(self) -> Iterator[io.BufferedReader]:
        """Open the file again; raise `OSError` if it is another by now, or was written to."""
        with self.path.open("rb") as file:
            if _version(file) != self._version:
                raise OSError("the file was changed or replaced after it was opened; open it again")
            yield file

    def row_reader(
        self, start: int, dtype: torch.dtype, shape: Sequence[int]
    ) -> Callable[[int, int], Tensor] | None:
        """Return what reads rows that lie one after the other from `start`; None for a scalar."""
        if not shape:
            return None
        row = shape[1:]
        nbytes = math.prod(row) * dtype.itemsize

        def read(first: int, last: int) -> Tensor:
            if first == last or not nbytes:
                return torch.empty(last - first, *row, dtype=dtype)
            content = bytearray((last - first) * nbytes)
            with self.open() as file:
                file.seek(start + first * nbytes)
                if file.readinto(content) != len(content):
                    raise EOFError("the file has become shorter")
            return torch.frombuffer(content, dtype=dtype).reshape(-1, *row)

        return read


def _version(file: io.BufferedReader) -> tuple[int, ...]:
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@contextmanager
def explain_damage(where: Path | str, expected: str) -> Iterator[None]:
    """Turn whatever a parser raises on a bad file into one `CheckpointError`.

    The parsers of torch, numpy, zipfile and safetensors raise nearly every built-in exception
    when they are fed damaged bytes, so the net is wide on purpose.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{where}: expected {expected}, but it is damaged, cut short or cannot be read"
            f" ({first_line(error)}); get the file again or save it again"
        ) from error


def first_line(error: BaseException, limit: int = 160) -> str:
    """Shorten an exception to its type and the beginning of its first line."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."


def shorten(names: Sequence[str], limit: int = 5) -> str:
    """List a few names, and say how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + more
