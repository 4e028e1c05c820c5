"""Files that are read, or refused in one sentence."""

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from wskit.errors import ZooError


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
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


def read_csv(path: Path, **kwargs: object) -> pd.DataFrame:
    """Read a table, or say in one sentence that it cannot be read."""
    with reading(path, "a table"):
        frame: pd.DataFrame = pd.read_csv(path, **kwargs)  # type: ignore[call-overload]
    if not isinstance(frame.index, pd.RangeIndex):
        raise ZooError(f"{path}: a row has more fields than the first line has; get it again.")
    return frame


def load_json(path: Path, *, lines: bool = False) -> Any:
    """Parse a file of JSON, or of a JSON value a line; or say in one sentence that it is none."""
    with reading(path, "JSON"):
        text = path.read_text(encoding="utf-8")
        if lines:
            value = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            value = json.loads(text)
    return value
