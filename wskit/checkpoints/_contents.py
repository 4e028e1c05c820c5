"""What a reader hands over: names, shapes and dtypes now, values on request."""

import contextlib
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from wskit.errors import CheckpointError

Scalar = str | int | float | bool | None


@dataclass(frozen=True, eq=False)
class Entry:
    """One tensor that can be read; entries with equal `identity` are tied.

    `read_rows` reads the rows from one to another and nothing else, where the file allows it.
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

    `views` tells whether a tensor that is read costs nothing until its entries are looked at.
    """

    entries: Mapping[str, Entry]
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    close: Callable[[], None] = lambda: None
    views: bool = True


def row_reader(
    path: Path, start: int, dtype: torch.dtype, shape: Sequence[int]
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
        with path.open("rb") as file:
            file.seek(start + first * nbytes)
            if file.readinto(content) != len(content):
                raise EOFError("the file has become shorter")
        return torch.frombuffer(content, dtype=dtype).reshape(-1, *row)

    return read


@contextlib.contextmanager
def refusing(where: Path | str, expected: str) -> Iterator[None]:
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


def shorten(names: list[str], limit: int = 5) -> str:
    """List a few names, and say how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + more
