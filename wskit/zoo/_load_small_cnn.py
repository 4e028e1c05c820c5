"""The Small CNN Zoo's triple of files: a matrix of weights, a table, and a layout."""

import ast
import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from wskit.errors import ZooError
from wskit.zoo._load_keras import torch_layout
from wskit.zoo._load_tables import complete
from wskit.zoo._reading import load_json, read_csv, reading
from wskit.zoo._zoo import Zoo

MATRICES = ("weights.npy", "all_weights.npy")
LAYOUT = ("layout.csv",)
_TABLES = ("metrics.csv.gz", "metrics.csv", "all_metrics.csv.gz", "all_metrics.csv")
_RENAMED = {"l2reg": "weight_decay", "w_init": "init", "random_seed": "seed", "step": "epoch"}


def read_small_cnn_zoo(folder: Path, splits: Path | None) -> Zoo:
    """Open the triple; the matrix is mapped, and the tensors are strided views of it."""
    weights, table, layout = (_find(folder, names) for names in (MATRICES, _TABLES, LAYOUT))
    matrix = _matrix(weights)
    frame = read_csv(table)
    if len(frame) != len(matrix):
        longer, row = (table, len(matrix)) if len(frame) > len(matrix) else (weights, len(frame))
        raise ZooError(
            f"{table} has {len(frame)} rows where {weights} has {len(matrix)}: row {row} (counted "
            f"from 0) is in {longer.name} only; get both files again."
        )
    frame.columns = frame.columns.str.removeprefix("config.")
    frame = frame.rename(columns=_RENAMED)
    for column, name in (("modeldir", "modeldir"), ("epoch", "step")):
        if column not in frame:
            raise ZooError(f"{table}: the column {name!r} is missing; get the file again.")
        if frame[column].isna().any():
            row = int(frame[column].isna().argmax())
            raise ZooError(
                f"{table}, row {row} (counted from 0): {name!r} is empty; get the file again."
            )
    frame["run"] = pd.factorize(frame["modeldir"])[0]
    if "weight_decay" in frame:
        with reading(table, "numbers in the column 'config.l2reg'"):
            # Keras's penalty is l2reg |w|^2, torch's optimisers have weight_decay |w|^2 / 2.
            frame["weight_decay"] = 2 * frame["weight_decay"].astype(float)
    if splits is not None:
        frame["split"] = _splits(splits, frame["epoch"])
    flat = torch.from_numpy(matrix)
    stacks = {
        variable: flat[:, start:end].view(len(flat), *shape)
        for variable, start, end, shape in _layout(layout, matrix.shape[1])
    }
    return Zoo(torch_layout(stacks, str(layout)), complete(frame, table))


def _find(folder: Path, names: Sequence[str]) -> Path:
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found:
        raise ZooError(
            f"{folder}: the Small CNN Zoo is {MATRICES[0]}, {_TABLES[0]} and {LAYOUT[0]}, and "
            f"{names[0]} is missing; get all three files."
        )
    return found[0]


def _matrix(path: Path) -> np.ndarray:
    with reading(path, "a matrix of weights"):
        # "c": what is written into the tensors stays in memory, and never reaches the file.
        matrix = np.load(path, mmap_mode="c", allow_pickle=False)
    if matrix.ndim != 2 or matrix.dtype.kind != "f" or not matrix.dtype.isnative:
        raise ZooError(
            f"{path}: expected a matrix of floating-point numbers, a row a model, got "
            f"{matrix.dtype} of shape {matrix.shape}."
        )
    return matrix


def _layout(path: Path, width: int) -> list[tuple[str, int, int, tuple[int, ...]]]:
    """Return each variable's name, first and last column, and shape."""
    frame = read_csv(path)
    if not {"varname", "start_idx", "end_idx", "shape"} <= set(frame.columns):
        raise ZooError(
            f"{path}: expected the columns varname, start_idx, end_idx and shape, got "
            f"{', '.join(map(str, frame.columns))}."
        )
    found, named = [], set[str]()
    for row, entry in enumerate(frame.to_dict("records")):
        try:
            start, end = int(entry["start_idx"]), int(entry["end_idx"])
            shape = tuple(int(n) for n in ast.literal_eval(str(entry["shape"])))
            fits = 0 <= start <= end <= width and math.prod(shape) == end - start
            fits = fits and min(shape, default=0) > 0
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            fits = False
        if not fits or not isinstance(entry["varname"], str) or entry["varname"] in named:
            raise ZooError(
                f"{path}, row {row} (counted from 0): {entry} does not describe columns of a "
                f"matrix of {width}; get the file again."
            )
        named.add(entry["varname"])
        found.append((entry["varname"], start, end, shape))
    ends = [0, *sorted(end for _, _, end, _ in found)]
    if [*sorted(start for _, start, _, _ in found), width] != ends:
        raise ZooError(
            f"{path}: its variables must cover all {width} columns of the weights, each once; "
            "get both files again."
        )
    return found


def _splits(path: Path, epochs: pd.Series) -> list[str | None]:
    """Give each row's part of the split; None where the row is in none."""
    rows = len(epochs)
    parts: list[str | None] = [None] * rows
    if path.suffix == ".json":
        listed = load_json(path)
        with reading(path, '{"train": [row, ...], ...}'):
            named = [(str(part), int(row)) for part, some in dict(listed).items() for row in some]
        _check_rows(path, [row for _, row in named], rows)
        for part, row in named:
            parts[row] = part
        return parts
    order = read_csv(path, header=None).to_numpy().ravel()
    if order.dtype.kind != "i":
        raise ZooError(f"{path}: expected a row's number on each line, as the NFN splits have.")
    if len(order) > 1 and order[0] == 0 and (order[1:] == 0).any():
        # The published files begin with the name of their only column, which is 0 as well. Their
        # authors' reader takes it for a row; it changes nothing unless row 0 is a last epoch.
        order = order[1:]
    _check_rows(path, order.tolist(), rows)
    # The NFN protocol: models of the last epoch, in this order; the second half is the test set,
    # a fifth of the first is drawn for validation by Python's generator of seed 0.
    last = order[(epochs == epochs.max()).to_numpy()[order]].tolist()
    first, test = last[: len(last) // 2], last[len(last) // 2 :]
    random.Random(0).shuffle(first)
    n_train = int(0.8 * len(first))
    for part, some in (("train", first[:n_train]), ("val", first[n_train:]), ("test", test)):
        for row in some:
            parts[row] = part
    return parts


def _check_rows(path: Path, listed: list[int], rows: int) -> None:
    seen: set[int] = set()
    for row in listed:
        if row in seen or not 0 <= row < rows:
            wrong = "twice" if row in seen else f"where the table has {rows} rows"
            raise ZooError(f"{path}: lists row {row} {wrong}; take the split of this very zoo.")
        seen.add(row)
