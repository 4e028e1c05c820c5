"""The Small CNN Zoo's triple of files: a matrix of weights, a table, and a layout."""

import ast
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from wskit.errors import ZooError
from wskit.zoo._load_files import complete_records
from wskit.zoo._reading import explain_read_errors, read_csv
from wskit.zoo._zoo import Zoo

SMALL_CNN_FILES = ("weights.npy", "metrics.csv.gz", "layout.csv")
_RENAMED = {"l2reg": "weight_decay", "w_init": "init", "random_seed": "seed", "step": "epoch"}


def read_small_cnn_zoo(folder: Path) -> Zoo:
    """Open the triple; the matrix is mapped, and the tensors are strided views of it."""
    for name in SMALL_CNN_FILES:
        if not (folder / name).is_file():
            raise ZooError(
                f"{folder}: the Small CNN Zoo is {', '.join(SMALL_CNN_FILES)}, and {name} is "
                "missing; get all three files."
            )
    weights, table, layout = (folder / name for name in SMALL_CNN_FILES)
    matrix, frame = _open_matrix(weights), read_csv(table)
    if len(frame) != len(matrix):
        raise ZooError(
            f"{table} has {len(frame)} rows where {weights} has {len(matrix)}; get both again."
        )
    frame.columns = frame.columns.str.removeprefix("config.")
    frame = frame.rename(columns=_RENAMED)
    for column, name in (("modeldir", "modeldir"), ("epoch", "step")):
        if column not in frame or frame[column].isna().any():
            raise ZooError(f"{table}: the column {name!r} is missing or has gaps; get it again.")
    frame["run"] = pd.factorize(frame["modeldir"])[0]
    if "weight_decay" in frame:
        with explain_read_errors(table, "numbers in the column 'config.l2reg'"):
            # Keras's penalty is l2reg |w|^2, torch's optimisers have weight_decay |w|^2 / 2.
            frame["weight_decay"] = 2 * frame["weight_decay"].astype(float)
    flat = torch.from_numpy(matrix)
    stacks = {
        variable: flat[:, start:end].view(len(flat), *shape)
        for variable, start, end, shape in _read_layout(layout, matrix.shape[1])
    }
    return Zoo(_name_as_torch(stacks, layout), complete_records(frame, table))


def _open_matrix(path: Path) -> np.ndarray:
    with explain_read_errors(path, "a matrix of weights"):
        # "c": what is written into the tensors stays in memory, and never reaches the file.
        matrix = np.load(path, mmap_mode="c", allow_pickle=False)
    if matrix.ndim != 2 or matrix.dtype.kind != "f" or not matrix.dtype.isnative:
        raise ZooError(
            f"{path}: expected a matrix of floating-point numbers with one row per model, got "
            f"{matrix.dtype} of shape {matrix.shape}."
        )
    return matrix


def _read_layout(path: Path, width: int) -> list[tuple[str, int, int, tuple[int, ...]]]:
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


def _name_as_torch(variables: Mapping[str, Tensor], layout: Path) -> dict[str, Tensor]:
    """Name Keras's variables as torch would, and turn the kernels to torch's axes, as views.

    A kernel's last two axes are in and out in Keras: (models, h, w, in, out) of a convolution,
    (models, in, out) of a dense layer. torch has them first.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for variable, stack in variables.items():
        layer, _, part = variable.removesuffix(":0").rpartition("/")
        known = part == "bias" or (part == "kernel" and stack.ndim >= 3)
        if not known or part in layers.setdefault(layer, {}):
            raise ZooError(
                f"{layout}: the variable {variable!r} is neither the kernel nor the bias of a "
                "dense or convolution layer."
            )
        layers[layer][part] = stack
    for layer, parts in layers.items():
        if "kernel" not in parts:
            raise ZooError(f"{layout}: the layer {layer!r} has a bias and no kernel beside it.")
    kinds = ["fc" if parts["kernel"].ndim == 3 else "conv" for parts in layers.values()]
    counts: Counter[str] = Counter()
    weights = {}
    for kind, parts in zip(kinds, layers.values(), strict=True):
        counts[kind] += 1
        name = "fc" if kind == "fc" and kinds.count("fc") == 1 else f"{kind}{counts[kind]}"
        weights[f"{name}.weight"] = parts["kernel"].movedim((-1, -2), (1, 2))
        if "bias" in parts:
            weights[f"{name}.bias"] = parts["bias"]
    return weights
