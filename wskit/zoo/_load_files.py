"""Zoos with one file per model: plain tables, and the Model Zoos' trees of Ray Tune."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from wskit._base.layout import layout_of
from wskit.errors import ZooError
from wskit.zoo._reading import explain_read_errors, find_inside, read_csv, read_json
from wskit.zoo._zoo import Zoo

Reader = Callable[[Path], Mapping[str, Tensor]]
FILE_COLUMNS = ("file", "path", "checkpoint", "name")
TABLE_SUFFIXES = (".csv", ".csv.gz")
_METRICS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")

_RAY_FOLDER = re.compile(r"checkpoint_(\d+)")
_RAY_RENAMED = {
    "model::nlin": "activation",
    "model::dropout": "dropout",
    "model::init_type": "init",
    "optim::optimizer": "optimizer",
    "optim::lr": "learning_rate",
    "optim::wd": "weight_decay",
    "optim::momentum": "momentum",
    "training::batchsize": "batch_size",
    "train_acc": "train_accuracy",
    "test_acc": "test_accuracy",
}
_RAY_NOT_MEASURED = -999  # what the Model Zoos' code reports as training metrics at epoch 0


def complete_records(records: pd.DataFrame, table: Path) -> pd.DataFrame:
    """Check the numbers, and add `status` where it is missing: whether the metrics are finite."""
    if not records.columns.is_unique:
        name = records.columns[records.columns.duplicated()][0]
        raise ZooError(f"{table}: two columns would be called {name!r}; rename one of them.")
    finite = np.ones(len(records), dtype=bool)
    for name in ("epoch", *_METRICS):
        if name in records:
            with explain_read_errors(table, f"numbers in the column {name!r}"):
                records[name] = records[name].astype(float)
            if name != "epoch":
                finite &= np.isfinite(records[name].to_numpy())
    if "status" not in records:
        records["status"] = np.where(finite, "trained", "diverged")
    first = ["run", "epoch", "status"]
    return records[first + [name for name in records if name not in first]]


def read_table(path: Path) -> pd.DataFrame:
    """Read a table that names each model's file."""
    frame = read_csv(path, dtype=dict.fromkeys(FILE_COLUMNS, str))
    if not set(FILE_COLUMNS) & set(frame.columns):
        raise ZooError(
            f"{path}: no column names each model's file; call it one of {', '.join(FILE_COLUMNS)}."
        )
    return frame


def read_files_of_table(path: Path, reader: Reader | None, *, progress: bool) -> Zoo:
    """Read a table and the files that it names."""
    records, folder = read_table(path), path.parent
    column = next(name for name in FILE_COLUMNS if name in records)
    paths: list[Path] = []
    rows: dict[Path, int] = {}
    for row, entry in enumerate(records[column].tolist()):
        where = f"{path}, row {row} (counted from 0)"
        paths.append(find_inside(folder, entry, where))
        first = rows.setdefault(paths[-1].resolve(), row)
        if first != row:
            raise ZooError(f"{where}: {entry!r} has a row already, {first}; drop one of them.")
    _check_all_listed(folder, paths, path)
    if "run" not in records:
        records["run"] = range(len(records))
    if "epoch" not in records:
        records["epoch"] = np.nan
    records = complete_records(records, path)
    return Zoo(_stack_files(paths, reader, progress=progress), records)


def _check_all_listed(folder: Path, paths: Sequence[Path], table: Path) -> None:
    """Refuse models' files that have no row: nothing is skipped silently."""
    listed = {path.resolve() for path in paths}
    suffixes = {path.suffix for path in paths if path.is_file()} - {".json"}  # an index of shards
    for path in sorted(folder.rglob("*")):
        if path.suffix in suffixes and path.is_file():
            real = path.resolve()
            if listed.isdisjoint({real, *real.parents}):
                raise ZooError(
                    f"{table}: no row is about {path}; add one, or move the file out of the folder."
                )


def find_trials(folder: Path) -> list[Path]:
    """Return the folders of a Ray tree's trials: those with results."""
    return sorted(path for path in folder.iterdir() if (path / "result.json").is_file())


def read_ray(
    folder: Path, epochs: str | Sequence[int], reader: Reader | None, *, progress: bool
) -> Zoo:
    """Read some epochs of each trial."""
    records: list[dict[str, Any]] = []
    paths: list[Path] = []
    for run, trial in enumerate(find_trials(folder)):
        find_inside(folder, trial.name, str(folder))
        found = {
            int(match[1]): path.name
            for path in trial.iterdir()
            if (match := _RAY_FOLDER.fullmatch(path.name)) and (path / "checkpoints").is_file()
        }
        if not found:
            raise ZooError(
                f"{trial}: the trial has no checkpoint_N/checkpoints; move it out of the tree if "
                "it was broken off."
            )
        config = _read_config(trial)
        chosen = sorted(found) if epochs == "all" else [max(found)] if epochs == "last" else epochs
        for epoch in map(int, chosen):
            if epoch not in found:
                raise ZooError(
                    f"{trial}: there is no checkpoint of epoch {epoch}, only of {sorted(found)}; "
                    "ask for other epochs, or move the trial out of the tree."
                )
            measured = _read_metrics(trial / "result.json", epoch, with_zero=0 in found)
            ok = all(math.isfinite(value) for value in measured.values())
            status = "trained" if ok else "diverged"
            row = {"run": run, "epoch": epoch, "status": status, "trial": trial.name}
            records.append(config | row | measured)
            entry = f"{trial.name}/{found[epoch]}/checkpoints"
            paths.append(find_inside(folder, entry, str(trial)))
    table = complete_records(pd.DataFrame(records), folder)
    return Zoo(_stack_files(paths, reader, progress=progress), table)


def _read_config(trial: Path) -> dict[str, Any]:
    path = next((trial / n for n in ("params.json", "config.json") if (trial / n).is_file()), None)
    if path is None:
        raise ZooError(f"{trial}: expected params.json or config.json beside result.json.")
    config = read_json(path)
    if not isinstance(config, dict):
        raise ZooError(f"{path}: expected an object with a trial's settings; get it again.")
    return {
        _RAY_RENAMED.get(key, str(key)): json.dumps(v) if isinstance(v, dict | list) else v
        for key, v in config.items()
    }


def _read_metrics(path: Path, epoch: int, *, with_zero: bool) -> dict[str, float]:
    """Return what was measured at an epoch: nothing at epoch 0 where no line is about it."""
    lines = read_json(path, lines=True)
    if not all(isinstance(line, dict) for line in lines):
        raise ZooError(f"{path}: expected one object per line; get it again.")
    if all("training_iteration" in line for line in lines):
        by_epoch = {line["training_iteration"]: line for line in lines}
    else:
        # Line 0 is of epoch 0 where a checkpoint was written before training, else of epoch 1.
        by_epoch = dict(enumerate(lines, start=0 if with_zero else 1))
    if epoch not in by_epoch:
        if epoch == 0:
            return {}
        raise ZooError(f"{path}: no line is of epoch {epoch}, which has a checkpoint.")
    found = {_RAY_RENAMED.get(key, str(key)): value for key, value in by_epoch[epoch].items()}
    with explain_read_errors(path, f"numbers as the metrics of epoch {epoch}"):
        values = {name: float(found[name]) for name in _METRICS if found.get(name) is not None}
    return {name: value for name, value in values.items() if value != _RAY_NOT_MEASURED}


def _stack_files(
    paths: Sequence[Path], reader: Reader | None, *, progress: bool
) -> dict[str, Tensor]:
    """Read models into stacks that are allocated once, with one model in memory at a time."""
    if not paths:
        raise ZooError("the table has no rows, and a zoo has at least one model.")
    if reader is None:
        raise ZooError(
            f"{paths[0]}: a zoo with one file per model needs a reader of checkpoints; pass "
            "open_checkpoint=wskit.checkpoints.open_checkpoint."
        )
    stacks: dict[str, Tensor] = {}
    for i, path in enumerate(tqdm(paths, disable=not progress, unit="model")):
        found = reader(path)
        with found if isinstance(found, AbstractContextManager) else nullcontext(found) as opened:
            model = dict(opened.items())  # a lazy mapping reads a tensor each time it is asked
            if i == 0:
                layout = layout_of(model, str(path), error=ZooError)
                stacks = {
                    name: torch.empty((len(paths), *shape), dtype=layout.dtypes[name])
                    for name, shape in layout.shapes.items()
                }
            layout.check(model, str(path))
            for name, stack in stacks.items():
                stack[i] = model[name].detach()
    return stacks
