"""A file takes its place in one step; so do two folders, where the system can do that."""

import ctypes
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from wskit.errors import CheckpointError

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
_rename: Any = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None

CAN_EXCHANGE = _rename is not None


def exchange(a: Path, b: Path) -> bool:
    """Exchange two names, at no moment of which one is missing; tell whether that was done."""
    return bool(_rename(_HERE, os.fsencode(a), _HERE, os.fsencode(b), _EXCHANGE) == 0)


@contextmanager
def atomic(target: Path, of: Path | None = None) -> Iterator[BinaryIO]:
    """Give a file beside `target` that takes its place if all goes well, else vanishes.

    If writing fails, the error names `of`: what the caller knows of, and the file is a part of.
    """
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    with writing(of or target):
        try:
            with part.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Say of which target it was that writing failed."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{target}: expected to write it, but {error.strerror or error}; free some space or"
            " choose another folder"
        ) from error
