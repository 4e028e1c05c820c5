"""Files that are replaced whole or not at all, and their hashes."""

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from wskit.errors import WskitError


def hash_file(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with Path(path).open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextmanager
def write_atomically(
    target: Path, error: type[WskitError], *, named: Path | None = None
) -> Iterator[BinaryIO]:
    """Open a temporary file beside `target` and move it there when the block succeeds.

    The file is on disk before it takes the target's place. If the block raises, the target stays
    as it was and the temporary file is removed.

    Parameters
    ----------
    target : Path
        The file to write or to replace.
    error : type of WskitError
        The exception to raise when the file system refuses.
    named : Path, optional
        What the message names, where `target` is a part of something that the caller knows.

    Yields
    ------
    BinaryIO
        The temporary file.
    """
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    with explain_write_errors(named or target, error):
        try:
            with part.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def explain_write_errors(target: Path, error: type[WskitError]) -> Iterator[None]:
    """Turn an `OSError` of the block into one sentence that names `target` and the remedy."""
    try:
        yield
    except WskitError:  # a DataError is an OSError, and says already what is wrong
        raise
    except OSError as reason:
        raise error(
            f"{target}: cannot be written ({reason.strerror or reason}); free some space or choose "
            "another folder."
        ) from reason
