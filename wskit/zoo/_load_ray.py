"""Ray Tune's trees, in which the Model Zoos are published: a folder a trial."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from wskit.errors import ZooError
from wskit.zoo._load_tables import METRICS, complete, inside, stack_files
from wskit.zoo._reading import load_json, reading
from wskit.zoo._zoo import Zoo

_RENAMED = {
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
_NOT_MEASURED = -999  # what the Model Zoos' code reports as training metrics before any training
_FOLDER = re.compile(r"checkpoint_(\d+)")


def trials(folder: Path) -> list[Path]:
    """Return the folders of a tree's trials: those with results."""
    return sorted(path for path in folder.iterdir() if (path / "result.json").is_file())


def read_ray(folder: Path, epochs: str | Sequence[int], *, progress: bool) -> Zoo:
    """Read some epochs of each trial."""
    if isinstance(epochs, str) and epochs not in ("last", "all"):
        raise ZooError(f'epochs must be "last", "all" or numbers of epochs, got {epochs!r}.')
    records: list[dict[str, Any]] = []
    paths: list[Path] = []
    for run, trial in enumerate(trials(folder)):
        inside(folder, trial.name, str(folder))
        found = {
            int(match[1]): path.name
            for path in trial.iterdir()
            if (match := _FOLDER.fullmatch(path.name)) and (path / "checkpoints").is_file()
        }
        if not found:
            raise ZooError(
                f"{trial}: the trial has no checkpoint_N/checkpoints; move it out of the tree if "
                "it was broken off."
            )
        config = _config(trial)
        chosen = sorted(found) if epochs == "all" else [max(found)] if epochs == "last" else epochs
        for epoch in map(int, chosen):
            if epoch not in found:
                raise ZooError(
                    f"{trial}: there is no checkpoint of epoch {epoch}, only of {sorted(found)}; "
                    "ask for other epochs, or move the trial out of the tree."
                )
            measured = _measured(trial / "result.json", epoch, with_zero=0 in found)
            ok = all(math.isfinite(value) for value in measured.values())
            status = "trained" if ok else "diverged"
            records.append(
                config
                | {"run": run, "epoch": epoch, "status": status, "trial": trial.name}
                | measured
            )
            entry = f"{trial.name}/{found[epoch]}/checkpoints"
            paths.append(inside(folder, entry, str(trial)))
    table = complete(pd.DataFrame(records), folder)
    return Zoo(stack_files(paths, _read_state_dict, progress=progress), table)


def _config(trial: Path) -> dict[str, Any]:
    path = next((trial / n for n in ("params.json", "config.json") if (trial / n).is_file()), None)
    if path is None:
        raise ZooError(f"{trial}: expected params.json or config.json beside result.json.")
    config = load_json(path)
    if not isinstance(config, dict):
        raise ZooError(f"{path}: expected an object with a trial's settings; get it again.")
    return {
        _RENAMED.get(key, str(key)): json.dumps(value) if isinstance(value, dict | list) else value
        for key, value in config.items()
    }


def _measured(path: Path, epoch: int, *, with_zero: bool) -> dict[str, float]:
    """Return what was measured at an epoch; nothing of epoch 0 where no line tells of it."""
    lines = load_json(path, lines=True)
    if not all(isinstance(line, dict) for line in lines):
        raise ZooError(f"{path}: expected an object a line; get it again.")
    if all("training_iteration" in line for line in lines):
        by_epoch = {line["training_iteration"]: line for line in lines}
    else:
        # Line 0 is of epoch 0 where a checkpoint was written before training, else of epoch 1.
        by_epoch = dict(enumerate(lines, start=0 if with_zero else 1))
    if epoch not in by_epoch:
        if epoch == 0:
            return {}
        raise ZooError(f"{path}: no line is of epoch {epoch}, which has a checkpoint.")
    found = {_RENAMED.get(str(key), key): value for key, value in by_epoch[epoch].items()}
    with reading(path, f"numbers as the metrics of epoch {epoch}"):
        values = {name: float(found[name]) for name in METRICS if found.get(name) is not None}
    return {name: value for name, value in values.items() if value != _NOT_MEASURED}


def _read_state_dict(path: Path) -> Mapping[str, Tensor]:
    # These files have no suffix, by which a reader of checkpoints would know them.
    with reading(path, "a state dict of torch.save"):
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises what it likes at a damaged file
            raise ValueError(str(error) or type(error).__name__) from error
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ZooError(f"{path}: expected a state dict of torch.save, got something else.")
    return loaded
