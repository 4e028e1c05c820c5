"""Tables, JSON and paths of strangers: read, or refused in one sentence."""

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd

from wskit.errors import ZooError

_MAX_TABLE = 2**30  # bytes of a table or of JSON, unpacked


@contextmanager
def explain_read_errors(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a reader of files raises at a damaged one into one sentence."""
    try:
        yield
    except ZooError:
        raise
    except (OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError, zlib.error) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ZooError(
            f"{path}: expected {what}, which cannot be read ({reason}); get it again."
        ) from error


def read_csv(path: Path, **kwargs: Any) -> pd.DataFrame:
    """Read a table with a header, packed with gzip or not."""
    with explain_read_errors(path, "a table"):
        frame: pd.DataFrame = pd.read_csv(BytesIO(_read_bytes(path)), **kwargs)
    if not isinstance(frame.index, pd.RangeIndex):
        raise ZooError(f"{path}: a row has more fields than the first line has; get it again.")
    return frame


def read_json(path: Path, *, lines: bool = False) -> Any:
    """Parse a file of JSON, or of one JSON value per line."""
    with explain_read_errors(path, "JSON"):
        text = _read_bytes(path).decode("utf-8")
        if lines:
            value = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            value = json.loads(text)
    return value


def _read_bytes(path: Path) -> bytes:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        found = file.read(_MAX_TABLE + 1)
    if len(found) > _MAX_TABLE:
        raise ZooError(f"{path}: expected at most {_MAX_TABLE} bytes when unpacked, got more.")
    return found


def find_inside(folder: Path, entry: object, where: str) -> Path:
    """Return the path of a table's entry, if it exists and no link leads it out of `folder`."""
    if not isinstance(entry, str) or not entry:
        raise ZooError(f"{where}: expected the name of a model's file, got {entry!r}.")
    path, root = folder / entry, folder.resolve()
    try:
        missing = not path.exists()
        within = [path, *(path.iterdir() if path.is_dir() else ())]
        out = next((p for p in within if not p.resolve().is_relative_to(root)), None)
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a loop of links
        raise ZooError(f"{where}: {entry!r} cannot be looked up ({error}).") from error
    if out is not None:
        raise ZooError(
            f"{where}: {entry!r} leads out of {folder}, to {out.resolve()}; only what lies inside "
            "is read, so move the file there."
        )
    if missing:
        raise ZooError(f"{where}: there is no {entry!r} in {folder}; get it, or drop the row.")
    return path
