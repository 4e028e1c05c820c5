"""One function, thousands of checkpoints: on one core, on all of them, or on a cluster."""

import functools
import hashlib
import inspect
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import joblib
import pandas as pd
import torch
from threadpoolctl import ThreadpoolController
from tqdm.auto import tqdm

from wskit._checks import calling
from wskit._parallel import results
from wskit.errors import FeatureError
from wskit.features._stacks import TEXT

Row = Mapping[str, object]
Function = Callable[[str], Row | pd.Series | pd.DataFrame]

_EVERY = 1.0  # seconds between two files of rows: what a killed run can lose
_AT_MOST = 1024  # models in one of them
_OWN = ("source", "reason")


def model_table(
    func: Function,
    sources: Iterable[str | os.PathLike[str]],
    *,
    n_jobs: int | None = None,
    store: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Call a function on every checkpoint, and put what it returns into one table.

    joblib does the calls: one after the other, in processes of this machine (``n_jobs=2``), or on
    a Dask cluster, within ``with joblib.parallel_config("dask"):``. Each call runs on one thread,
    so that the numbers are the same in all three, bit for bit.

    Parameters
    ----------
    func : callable
        Takes a path, as text; returns a row (a mapping or a Series of numbers and texts) or a
        DataFrame of several, such as a row a layer. It must depend on nothing but the path and
        what `functools.partial` has bound, and is pickled to reach another process.
    sources : iterable of path
        Files or folders.
    n_jobs : int, optional
        As for `joblib.Parallel`: None is 1, unless a ``joblib.parallel_config`` says otherwise.
    store : path, optional
        A folder for Parquet files, in which rows are kept as they come, by the sha256 of the
        checkpoint and by the function: its name, source text and bound arguments. What is found
        there is not computed again, so that an interrupted run goes on. Where you change what the
        function calls, take another folder.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    DataFrame
        In the order of `sources`: `source`, `reason` (missing, or the error of a checkpoint
        that failed, which has nothing else in its row and is tried again the next time), and the
        columns of `func`.

    Raises
    ------
    FeatureError
        If a result is no row, if a row cannot be stored, if the folder cannot be written, or if
        the processes or the cluster are gone; what was stored until then stays.

    Examples
    --------
    >>> import tempfile
    >>> def size(path):
    ...     return {"bytes": os.path.getsize(path)}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "model.bin")
    ...     _ = path.write_bytes(b"abc")
    ...     table = model_table(size, [path, Path(folder, "none.bin")])
    >>> table["bytes"].tolist(), table.reason.notna().tolist()
    ([3.0, nan], [False, True])
    """
    with calling(FeatureError, "reading the sources", "give paths"):
        paths = [os.fspath(source) for source in sources]
    if not paths:
        raise FeatureError("there are no sources; give one checkpoint at least.")
    rows: list[list[Row] | None] = [None] * len(paths)
    kept = None if store is None else _Store(Path(store), _identity(func))
    with tqdm(total=len(paths), disable=not progress, unit="model") as bar:
        if kept is not None and kept.rows:
            for place, sha256 in _parallel(_hashed, paths, range(len(paths)), n_jobs, kept):
                rows[place] = kept.rows.get(sha256)
            bar.update(sum(found is not None for found in rows))
        left = [place for place, found in enumerate(rows) if found is None]
        task = functools.partial(_called, func, with_hash=kept is not None)
        try:
            for place, outcome in _parallel(task, paths, left, n_jobs, kept):
                rows[place] = [_lean(row) for row in outcome.rows]
                if kept is not None and outcome.sha256:
                    kept.add(outcome)
                bar.update()
        finally:
            if kept is not None:
                kept.flush()
    return _assemble(paths, [found or [] for found in rows])


@dataclass(frozen=True)
class _Outcome:
    """What one checkpoint gave; the hash is there if the rows may be stored."""

    rows: list[Row]
    sha256: str = ""


def _called(func: Function, path: str, *, with_hash: bool) -> _Outcome:
    """Call the function; an error becomes a row. This is what runs in another process."""
    torch.get_num_threads()  # torch sets its threads up when first asked: before the limit
    with _threads().limit(limits=1):
        try:
            sha256 = _hash(Path(path)) if with_hash else ""
            found = func(path)
        except Exception as error:
            words = " ".join(str(error).split())
            return _Outcome([{"reason": f"{type(error).__name__}: {words}"}])
    return _Outcome(_as_rows(found, func), sha256)


@functools.cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


def _as_rows(found: object, func: Function) -> list[Row]:
    if isinstance(found, pd.DataFrame):
        rows = _records(found)
    elif isinstance(found, Mapping | pd.Series):
        rows = [dict(found)]
    else:
        raise FeatureError(
            f"{_name(func)} must return a row (a mapping or a Series) or a DataFrame, and "
            f"returned {type(found).__name__}."
        )
    for row in rows:
        if taken := [name for name in row if name in _OWN or not isinstance(name, str)]:
            raise FeatureError(
                f"{_name(func)} returned a column {taken[0]!r}; names of columns are texts, and "
                f"{' and '.join(_OWN)} are taken: rename it."
            )
    return rows


def _records(table: pd.DataFrame) -> list[Row]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _parallel(
    task: Callable[[str], Any],
    paths: list[str],
    places: Iterable[int],
    n_jobs: int | None,
    kept: "_Store | None",
) -> Iterator[tuple[int, Any]]:
    """Yield (place, result) as they come."""
    yield from results(
        (joblib.delayed(_numbered)(place, task, paths[place]) for place in places),
        n_jobs=n_jobs,
        error=FeatureError,
        kept=None if kept is None else kept.folder,
    )


def _numbered(place: int, task: Callable[[str], Any], path: str) -> tuple[int, Any]:
    return place, task(path)


def _hashed(path: str) -> str:
    try:
        return _hash(Path(path))
    except OSError:
        return ""  # the call itself will say what is wrong


def _hash(path: Path) -> str:
    """Return the sha256 of a file, or of the names and hashes of a folder's files."""
    if not path.is_dir():
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    files = sorted(file for file in path.rglob("*") if file.is_file())
    lines = [f"{file.relative_to(path).as_posix()} {_hash(file)}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _identity(func: Function) -> str:
    """Hash what a function is: its name, its source text, what is bound to it."""
    bound = []
    while isinstance(func, functools.partial):
        bound.append((func.args, sorted(func.keywords.items())))
        func = func.func
    try:
        text = inspect.getsource(func)
    except (OSError, TypeError):  # built in, typed at a prompt, or an object
        text = str(joblib.hash(func))
    parts = (_name(func), text, joblib.hash(bound))
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()


def _name(func: object) -> str:
    while isinstance(func, functools.partial):
        func = func.func
    kind = func if hasattr(func, "__qualname__") else type(func)
    return f"{kind.__module__}.{kind.__qualname__}"


@dataclass
class _Store:
    """A folder of Parquet files; rows of one function, by the hash of the checkpoint."""

    folder: Path
    function: str
    rows: dict[str, list[Row]] = field(default_factory=dict)
    _new: list[_Outcome] = field(default_factory=list)
    _last: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(self.folder.glob("[!.]*.parquet")):
                self._read(path)
        except OSError as error:
            raise self._unkept(error) from error

    def _unkept(self, error: OSError) -> FeatureError:
        why = os.strerror(error.errno) if error.errno else "the disk refuses it"
        return FeatureError(
            f"rows cannot be kept in {self.folder}, {why}: free some space, or take another folder."
        )

    def _read(self, path: Path) -> None:
        try:
            table = pd.read_parquet(path, filters=[("function", "==", self.function)])
            by_model = {
                str(sha256): _records(part.drop(columns=["function", "sha256"]))
                for sha256, part in table.groupby("sha256", sort=False)
            }
        except (ValueError, KeyError) as error:
            raise FeatureError(
                f"{path} holds no rows of model_table ({error}): move it away, or take another "
                "folder."
            ) from error
        self.rows.update(by_model)

    def add(self, outcome: _Outcome) -> None:
        self._new.append(outcome)
        if len(self._new) >= _AT_MOST or time.monotonic() - self._last > _EVERY:
            self.flush()

    def flush(self) -> None:
        """Write the new rows as one file: beside its place, then moved there."""
        new, self._new = self._new, []
        rows = [
            {"function": self.function, "sha256": outcome.sha256, **row}
            for outcome in new
            for row in outcome.rows
        ]
        if rows:
            name = uuid4().hex
            temporary = self.folder / f".{name}.parquet"
            try:
                pd.DataFrame(rows).to_parquet(temporary, index=False)
                temporary.replace(self.folder / f"{name}.parquet")
            except OSError as error:
                raise self._unkept(error) from error
            except (ValueError, TypeError) as error:  # pyarrow's are among them
                raise FeatureError(
                    f"rows cannot be kept in {self.folder} ({error}): they must hold numbers and "
                    "texts, one kind a column."
                ) from error
            finally:
                temporary.unlink(missing_ok=True)
        self._last = time.monotonic()


def _lean(row: Row) -> Row:
    """Share the names of columns among all rows: they would take more memory than the numbers."""
    return {sys.intern(name): value for name, value in row.items()}


def _assemble(paths: list[str], rows: list[list[Row]]) -> pd.DataFrame:
    table = pd.DataFrame([row for found in rows for row in found])
    reason = table.pop("reason") if "reason" in table else None
    sources = [path for path, found in zip(paths, rows, strict=True) for _ in found]
    table.insert(0, "source", pd.Series(sources, dtype=None if sources else object))
    table.insert(1, "reason", pd.Series(reason, table.index, dtype=TEXT))
    return table
