"""One function, thousands of checkpoints: on one core, on all of them, or on a cluster."""

import functools
import hashlib
import inspect
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import torch
from tqdm.auto import tqdm

from wskit._base.files import explain_write_errors, hash_file, write_atomically
from wskit._parallel import run_tasks
from wskit.errors import FeatureError
from wskit.features._stacks import TEXT

Row = Mapping[str, object]
Function = Callable[[str], Row | pd.Series | pd.DataFrame]

_EVERY = 1.0  # seconds between two files of rows, which a killed run can lose
_OWN = ("source", "reason")


def model_table(
    func: Function,
    sources: Iterable[str | os.PathLike[str]],
    *,
    n_jobs: int | None = None,
    store: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Call a function on every checkpoint, and collect what it returns in one table.

    joblib makes the calls: one after the other, in processes of this machine (``n_jobs=2``), or on
    a Dask cluster, within ``with joblib.parallel_config("dask"):``. Each call runs on one thread,
    so that the numbers are the same in all three, bit for bit.

    Parameters
    ----------
    func : callable
        Takes a path as a string. Returns a row (a mapping or a Series of numbers and strings) or a
        DataFrame of several, such as one row per layer. Its result must depend only on the path
        and on what `functools.partial` has bound. It is pickled to reach another process.
    sources : iterable of path
        Files or folders.
    n_jobs : int, optional
        As for `joblib.Parallel`: None is 1, unless a ``joblib.parallel_config`` says otherwise.
    store : path, optional
        A folder for Parquet files that keep the rows, by the sha256 of the checkpoint and by the
        function: its name, source code and bound arguments. Rows that are found there are not
        computed again, so that an interrupted run goes on. Use another folder when you change
        something that the function calls.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    DataFrame
        In the order of `sources`: `source`, `reason`, and the columns of `func`. The reason is
        missing, or the error of a checkpoint that failed; such a row has nothing else, and is
        tried again the next time.

    Raises
    ------
    FeatureError
        If a result is not a row, a row cannot be stored, the folder cannot be written, or the
        processes or the cluster are gone. What was stored until then stays.

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
    import joblib

    paths = [os.fspath(source) for source in sources]
    if not paths:
        raise FeatureError("at least one source is needed, got none.")
    rows: list[list[Row] | None] = [None] * len(paths)
    kept = None if store is None else _Store(Path(store), _identify(func))
    folder = None if kept is None else kept.folder
    run = functools.partial(run_tasks, n_jobs=n_jobs, error=FeatureError, kept=folder)
    with tqdm(total=len(paths), disable=not progress, unit="model") as bar:
        if kept is not None and kept.rows:
            for place, sha256 in run(joblib.delayed(_look_up)(*task) for task in enumerate(paths)):
                rows[place] = kept.rows.get(sha256)
            bar.update(sum(found is not None for found in rows))
        left = [place for place, found in enumerate(rows) if found is None]
        call = joblib.delayed(functools.partial(_call, func, with_hash=kept is not None))
        try:
            for place, (sha256, found) in run(call(place, paths[place]) for place in left):
                # Rows share the names of their columns, which take more memory than the numbers.
                rows[place] = [{sys.intern(k): v for k, v in row.items()} for row in found]
                if kept is not None and sha256:
                    kept.add(sha256, found)
                bar.update()
        finally:
            if kept is not None:
                kept.flush()
    return _assemble(paths, [found or [] for found in rows])


def _call(
    func: Function, place: int, path: str, *, with_hash: bool
) -> tuple[int, tuple[str, list[Row]]]:
    """Return the place, and the hash, if the rows may be stored, with the rows.

    An error becomes a row.

    This is what runs in another process.
    """
    torch.get_num_threads()  # torch sets its threads up when first asked: before the limit
    with _threads().limit(limits=1):
        try:
            sha256 = _hash(Path(path)) if with_hash else ""
            found = func(path)
        except Exception as error:
            words = " ".join(str(error).split())
            return place, ("", [{"reason": f"{type(error).__name__}: {words}"}])
    return place, (sha256, _as_rows(found, func))


@functools.cache
def _threads() -> Any:
    from threadpoolctl import ThreadpoolController

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
                f"{_name(func)} returned a column {taken[0]!r}; columns are named by strings "
                f"other than {' and '.join(_OWN)}."
            )
    return rows


def _records(table: pd.DataFrame) -> list[Row]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _look_up(place: int, path: str) -> tuple[int, str]:
    try:
        return place, _hash(Path(path))
    except OSError:
        return place, ""  # the call itself will say what is wrong


def _hash(path: Path) -> str:
    """Return the sha256 of a file, or of the names and hashes of a folder's files."""
    if not path.is_dir():
        return hash_file(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    lines = [f"{file.relative_to(path).as_posix()} {hash_file(file)}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _identify(func: Function) -> str:
    """Hash what a function is: its name, its source code, and its bound arguments."""
    import joblib

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


class _Store:
    """A folder of Parquet files: rows of one function, by the hash of the checkpoint.

    `joblib.Memory` would unpickle what lies in the folder, which runs code; Parquet does not.
    """

    def __init__(self, folder: Path, function: str) -> None:
        self.folder, self.function = folder, function
        self.rows: dict[str, list[Row]] = {}
        self._new: list[tuple[str, list[Row]]] = []
        self._last = time.monotonic()
        with explain_write_errors(folder, FeatureError):
            folder.mkdir(parents=True, exist_ok=True)
            files = sorted(folder.glob("[!.]*.parquet"))
        for path in files:
            try:
                table = pd.read_parquet(path, filters=[("function", "==", function)])
                for sha256, part in table.groupby("sha256", sort=False):
                    self.rows[str(sha256)] = _records(part.drop(columns=["function", "sha256"]))
            except (ValueError, KeyError, OSError) as error:
                raise FeatureError(
                    f"{path} holds no rows of model_table ({error}); move it away, or choose "
                    "another folder."
                ) from error

    def add(self, sha256: str, rows: list[Row]) -> None:
        self._new.append((sha256, rows))
        if time.monotonic() - self._last > _EVERY:
            self.flush()

    def flush(self) -> None:
        """Write the new rows as one file."""
        new, self._new = self._new, []
        rows = [
            {"function": self.function, "sha256": sha256, **row}
            for sha256, found in new
            for row in found
        ]
        if rows:
            try:
                content = pd.DataFrame(rows).to_parquet(index=False)
            except (ValueError, TypeError) as error:  # pyarrow's are among them
                raise FeatureError(
                    f"rows must hold numbers and strings, one kind per column, to be kept in "
                    f"{self.folder} ({error})."
                ) from error
            target = self.folder / f"{uuid4().hex}.parquet"
            with write_atomically(target, FeatureError, named=self.folder) as file:
                file.write(content)
        self._last = time.monotonic()


def _assemble(paths: list[str], rows: list[list[Row]]) -> pd.DataFrame:
    table = pd.DataFrame([row for found in rows for row in found])
    reason = table.pop("reason") if "reason" in table else None
    sources = [path for path, found in zip(paths, rows, strict=True) for _ in found]
    table.insert(0, "source", pd.Series(sources, dtype=None if sources else object))
    table.insert(1, "reason", pd.Series(reason, table.index, dtype=TEXT))
    return table
