"""Stacked weights: their headers, their blocks, and the table of a row a model."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from wskit._checks import check_choice, check_weights
from wskit._weights import header
from wskit.errors import FeatureError
from wskit.spectra import inventory

TEXT = pd.Series([""]).dtype  # of a column of reasons, whether or not one is missing

_BLOCK = 2**25  # bytes of float64 that are computed at a time
_UNDEFINED = {
    "alpha_hill": "fewer than two different eigenvalues are in its upper half",
    "correlation": "there are no two neurons to compare, whose weights are not all zero",
    "correlation_term": "no layer has two neurons to compare, whose weights are not all zero",
}


def headers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that training moves, no counters, as shapes and dtypes without values.

    A lazy mapping that does not tell them is read one tensor at a time.
    """
    check_weights(weights, FeatureError)
    told = {name: header(weights, name) for name in weights}
    found = {
        name: torch.empty(shape, dtype=dtype, device="meta")
        for name, (shape, dtype) in told.items()
    }
    return {name: empty for name, empty in found.items() if empty.is_floating_point()}


def count_models(known: Mapping[str, Tensor]) -> int:
    """Return the length of the first axis, or say which tensor of the stack does not fit."""
    if not known:
        raise FeatureError(
            "stacked weights (models, ...) are needed, and there is no floating tensor; give those "
            "of a zoo."
        )
    first = next(iter(known))
    for name, stack in known.items():
        if stack.ndim == 0:
            raise FeatureError(
                f"stacked weights have an entry a model, and {name!r} is a scalar; give "
                "`zoo.weights`, or stack one model with `W[None]`."
            )
        if len(stack) != len(known[first]):
            raise FeatureError(
                f"stacked weights have an entry a model, and {first!r} has {len(known[first])} "
                f"where {name!r} has {len(stack)}; give `zoo.weights`, not those of one model."
            )
        if stack.numel() == 0:
            raise FeatureError(
                f"tensor {name!r} of shape {tuple(stack.shape)} holds no values; leave it out."
            )
    return len(known[first])


def layers_of(known: Mapping[str, Tensor], conv: Literal["unfold", "slices"]) -> dict[str, str]:
    """Return the names and kinds of the tensors that hold a matrix for each model."""
    check_choice(conv, ("unfold", "slices"), FeatureError, "conv")
    kinds = {
        name: _kind_of(name, tuple(stack.shape[1:]), stack.dtype, conv)
        for name, stack in known.items()
    }
    found = {name: kind for name, kind in kinds.items() if kind}
    if not found:
        tensors = f"none of the tensors {', '.join(map(repr, kinds))} holds one"
        raise FeatureError(
            f"a layer with a matrix is needed, and {tensors if kinds else 'no tensor is floating'}"
            "; dense layers are stacked to (models, O, I), convolutions to (models, O, I, *kernel)."
        )
    return found


@functools.lru_cache  # a penalty asks for the same few layers at every step
def _kind_of(name: str, shape: tuple[int, ...], dtype: torch.dtype, conv: Any) -> str:
    """Return the kind of one model's tensor in the inventory; empty where it has no matrix.

    Each tensor is asked for by itself: the factors of a low-rank pair are two layers here.
    """
    header = torch.empty(shape, dtype=dtype, device="meta")  # shapes are all that the rules read
    row = inventory({name: header}, conv=conv).iloc[0]
    return "" if row["reason"] else str(row["kind"])


def diverged(weights: Mapping[str, Tensor]) -> dict[int, str]:
    """Return the number of each model with NaN or inf, and which tensor holds it."""
    found: dict[int, str] = {}
    for name in headers(weights):
        parts = [
            part.isfinite().reshape(len(part), -1).all(dim=1) for part in blocks(weights[name])
        ]
        for model in (~torch.cat(parts).cpu()).nonzero()[:, 0].tolist():
            found.setdefault(model, f"tensor {name!r} holds NaN or inf; the model diverged.")
    return found


def as_table(
    columns: Mapping[str, Tensor], diverged: Mapping[int, str], failures: dict[int, str] | None
) -> pd.DataFrame:
    """Make the table, with NaN in the rows of models that diverged, and say why there is NaN."""
    table = pd.DataFrame({key: x.detach().double().cpu().numpy() for key, x in columns.items()})
    table.loc[list(diverged)] = np.nan
    if failures is not None:
        holes = table.isna().to_numpy()
        for model in np.flatnonzero(holes.any(axis=1)).tolist():
            failures[model] = diverged.get(model) or _undefined(table.columns[holes[model]][0])
    return table


def _undefined(column: str) -> str:
    layer, _, measure = column.rpartition(".")
    why = _UNDEFINED.get(measure, "its weights are all zero, or too small or large for float64")
    return f"{measure}{f' of {layer!r}' if layer else ''} is not defined: {why}."


def blocks(stack: Tensor, device: torch.device | str | None = None) -> Iterator[Tensor]:
    """Cut a stack into models that fit a block, each moved when it is used."""
    per_model = 8 * stack.numel() // len(stack)
    for part in stack.detach().split(max(1, _BLOCK // per_model)):
        yield part.to(device or stack.device)
