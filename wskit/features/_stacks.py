"""Stacked weights: their headers, their blocks, and the table with one row per model."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from wskit._base.weights import header
from wskit.errors import FeatureError
from wskit.spectra import inventory

TEXT = pd.Series([""]).dtype  # of a column of reasons, whether or not one is missing

_BLOCK = 2**25  # bytes of float64 that are computed at a time

Shapes = dict[str, tuple[int, ...]]


def float_shapes(weights: Mapping[str, Tensor]) -> Shapes:
    """Return the shapes of the tensors that training moves, which excludes counters."""
    told = {name: header(weights, name) for name in weights}
    return {name: shape for name, (shape, dtype) in told.items() if dtype.is_floating_point}


def stack_shapes(weights: Mapping[str, Tensor]) -> Shapes:
    """Return the shapes of one model of stacked weights; refuse what is no stack."""
    shapes = float_shapes(weights)
    if len({shape[:1] for shape in shapes.values()}) != 1 or () in shapes.values():
        raise FeatureError(
            "stacked weights need floating tensors with one first axis, that of the models, got "
            f"{dict(list(shapes.items())[:5])}; pass `zoo.weights`, or one model as `W[None]`."
        )
    return {name: shape[1:] for name, shape in shapes.items()}


def layer_kinds(shapes: Shapes, conv: Any) -> dict[str, str]:
    """Return the names and kinds of those tensors of one model that hold a matrix."""
    kinds = {name: _kind(name, shape, conv) for name, shape in shapes.items()}
    found = {name: kind for name, kind in kinds.items() if kind}
    if not found:
        raise FeatureError(
            f"a layer with a matrix is needed, and none of {', '.join(map(repr, shapes))} holds "
            "one; stacked weights are (models, O, I) or (models, O, I, *kernel)."
        )
    return found


@functools.lru_cache  # a penalty needs the same few layers at every step
def _kind(name: str, shape: tuple[int, ...], conv: Any) -> str:
    """Return the kind of one model's tensor in the inventory, or "" if it has no matrix.

    Each tensor is looked up by itself: the factors of a low-rank pair are two layers here.
    """
    row = inventory({name: torch.empty(shape, device="meta")}, conv=conv).iloc[0]
    return "" if row["reason"] else str(row["kind"])


def make_table(columns: Mapping[str, Tensor], *stacks: Mapping[str, Tensor]) -> pd.DataFrame:
    """Make the table, with NaN in the row of each model that holds NaN or inf in a stack."""
    table = pd.DataFrame({key: x.detach().double().cpu().numpy() for key, x in columns.items()})
    for weights in stacks:
        for name in float_shapes(weights):
            finite = map_blocks(_are_finite, weights[name])["finite"]
            table.loc[~finite.numpy()] = np.nan
    return table


def _are_finite(part: Tensor) -> dict[str, Tensor]:
    return {"finite": part.isfinite().reshape(len(part), -1).all(dim=1)}


def map_blocks(
    func: Callable[[Tensor], dict[str, Tensor]],
    stack: Tensor,
    device: torch.device | str | None = None,
) -> dict[str, Tensor]:
    """Call a function on each block of models, and join its columns on the CPU."""
    parts = [func(part) for part in blocks(stack, device)]
    return {key: torch.cat([part[key] for part in parts]).cpu() for key in parts[0]}


def blocks(stack: Tensor, device: torch.device | str | None = None) -> Iterator[Tensor]:
    """Cut a stack into blocks of models, and move each when it is used."""
    per_model = 8 * stack.numel() // len(stack)
    for part in stack.detach().split(max(1, _BLOCK // max(1, per_model))):
        yield part.to(device or stack.device)
