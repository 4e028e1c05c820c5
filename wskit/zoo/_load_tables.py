"""Zoos of a file a model: what every table needs, paths that stay inside, and stacks."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from wskit.errors import ZooError
from wskit.zoo._load_keras import H5_SUFFIXES, read_h5
from wskit.zoo._reading import reading

Reader = Callable[[Path], Mapping[str, Tensor]]
METRICS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
_STEP = re.compile(r"checkpoint_0*(\d+)")


def complete(records: pd.DataFrame, table: Path) -> pd.DataFrame:
    """Add `status` where it is missing, from the metrics' being finite, and check the numbers."""
    if not records.columns.is_unique:
        name = records.columns[records.columns.duplicated()][0]
        raise ZooError(f"{table}: two columns would be called {name!r}; rename one of them.")
    finite = np.ones(len(records), dtype=bool)
    for name in ("epoch", *METRICS):
        if name in records:
            with reading(table, f"numbers in the column {name!r}"):
                records[name] = records[name].astype(float)
            if name != "epoch":
                finite &= np.isfinite(records[name].to_numpy())
    if "status" not in records:
        records["status"] = np.where(finite, "trained", "diverged")
    first = ["run", "epoch", "status"]
    return records[first + [name for name in records if name not in first]]


def inside(folder: Path, entry: object, where: str) -> Path:
    """Return the path of a table's entry, if it is there and no link leads it out of `folder`."""
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
            "is read, put the file there."
        )
    if missing:
        raise ZooError(f"{where}: there is no {entry!r} in {folder}; get it, or drop the row.")
    return path


def files_of_table(folder: Path, entries: Sequence[Any], rows: Sequence[str]) -> list[Path]:
    """Find the file of each row; `rows` name them in messages."""
    paths: list[Path] = []
    seen: dict[Path, str] = {}
    for entry, where in zip(entries, rows, strict=True):
        path = inside(folder, entry, where)
        first = seen.setdefault(path.resolve(), where)
        if first != where:
            raise ZooError(f"{where}: {entry!r} has a row already, {first}; drop one of them.")
        paths.append(path)
    return paths


def check_all_listed(folder: Path, paths: Sequence[Path], table: Path) -> None:
    """Refuse models' files that no row tells of: nothing is skipped silently."""
    listed = {path.resolve() for path in paths}
    suffixes = {path.suffix for path in paths if path.is_file()} - {".json"}  # an index of shards
    for path in sorted(folder.rglob("*")):
        if path.suffix in suffixes and path.is_file():
            real = path.resolve()
            if listed.isdisjoint({real, *real.parents}):
                raise ZooError(
                    f"{table}: no row tells of {path}; add one, or move the file out of the folder."
                )


def add_runs(records: pd.DataFrame, paths: Sequence[Path]) -> None:
    """Add `run` and `epoch`, where they are missing, from folders ``TRIAL/checkpoint_N/file``."""
    steps = [_STEP.fullmatch(path.parent.name) for path in paths]
    if "run" not in records:
        runs = [
            str(path.parent.parent if step else path)
            for path, step in zip(paths, steps, strict=True)
        ]
        records["run"] = pd.factorize(np.asarray(runs, dtype=object))[0]
    if "epoch" not in records:
        records["epoch"] = [float(step[1]) if step else np.nan for step in steps]


def stack_files(
    paths: Sequence[Path], reader: Reader | None, *, progress: bool
) -> dict[str, Tensor]:
    """Read a file a model into stacks that are made once, one model in memory at a time."""
    if not paths:
        raise ZooError("the table has no rows, and a zoo has at least one model.")
    stacks: dict[str, Tensor] = {}
    for i, path in enumerate(tqdm(paths, disable=not progress, unit="model")):
        with _opened(path, reader) as opened:
            model = dict(opened.items())  # a lazy mapping reads a tensor each time it is asked
            if i == 0:
                stacks = {
                    name: torch.empty((len(paths), *value.shape), dtype=value.dtype)
                    for name, value in model.items()
                }
            _check_alike(model, stacks, path, paths[0])
            for name, stack in stacks.items():
                stack[i] = model[name].detach()
    return stacks


@contextmanager
def _opened(path: Path, reader: Reader | None) -> Iterator[Mapping[str, Tensor]]:
    if path.suffix in H5_SUFFIXES:
        yield read_h5(path)
    elif reader is None:
        raise ZooError(
            f"{path}: a zoo of a file a model needs a reader of checkpoints; pass "
            "open_checkpoint=wskit.checkpoints.open_checkpoint."
        )
    else:
        weights = reader(path)
        if isinstance(weights, AbstractContextManager):
            with weights:
                yield weights
        else:
            yield weights


def _check_alike(
    model: Mapping[str, Tensor], stacks: Mapping[str, Tensor], path: Path, first: Path
) -> None:
    for name in {**stacks, **model}:
        there = [
            (tuple(value.shape[skip:]), value.dtype) if value is not None else "none"
            for value, skip in ((stacks.get(name), 1), (model.get(name), 0))
        ]
        if there[0] != there[1]:
            raise ZooError(
                f"{path}: models of one architecture are needed, and tensor {name!r} is "
                f"{there[1]} where {first} has {there[0]}; keep models of one kind in the table."
            )
