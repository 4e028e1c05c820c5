"""The average of several models, and a point on the line through two."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from wskit.averaging._layout import Layout, block_size, layout_of
from wskit.averaging._lazy import LazyMerge, entries
from wskit.errors import AveragingError

_SUM_TOLERANCE = 1e-6  # what is left of 1 by coefficients that were computed in float32


def average(
    weights: Sequence[Mapping[str, Tensor]],
    coefficients: ArrayLike | None = None,
    *,
    precision: Literal["float32", "float64"] = "float32",
    lazy: bool = False,
) -> Mapping[str, Tensor]:
    """Average models: the sum over i of c_i theta_i, with coefficients c_i that sum to 1.

    Each sum is made in float32 or better, and rounded once. Every model is read once, and one
    tensor of one model is in memory at a time, beyond the result.

    Parameters
    ----------
    weights : sequence of mappings of str to Tensor
        The models: state dicts, lazily opened checkpoints, ``zoo.model(row)``. A mapping that does
        not tell ``shape(name)`` and ``dtype(name)`` by itself is read once more for these.
    coefficients : array of shape (models,), optional
        They must sum to 1, and may be negative. None gives each model 1/n.
    precision : {"float32", "float64"}
        What the sums are made in; those of float64 tensors are always in float64. The error of
        a sum in float32 grows with the models, up to a few units in the last place for 72 of
        them; float64 takes about twice as long.
    lazy : bool, default False
        Whether a tensor is computed only when it is asked for, each time anew, so that a result
        larger than the memory can be gone through or saved.

    Returns
    -------
    mapping of str to Tensor
        With the first model's names, dtypes, devices, ties and integer tensors. A dict whose
        memory is its own; where `lazy`, a mapping with ``shape(name)``, ``dtype(name)``, ``ties``
        and ``read_block(name, start, stop)``, which reads no more of each model.

    Raises
    ------
    AveragingError
        If there is no model, the coefficients do not fit, names, shapes, dtypes, ties or masks of
        two models differ, or a tensor holds NaN or inf. What can be told from the headers is told
        at once; NaN, where `lazy`, when the tensor is asked for.

    Examples
    --------
    >>> a, b = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 6.0])}
    >>> average([a, b])
    {'w': tensor([2., 4.])}
    >>> average([a, b], [0.75, 0.25])["w"]
    tensor([1.5000, 3.0000])
    """
    models = numbered(weights)
    layout = layout_of(models["model 1"])
    for label, model in models.items():
        if model is not models["model 1"]:
            layout.check(model, label)
    c = checked(coefficients, len(models))
    result = LinearMerge(layout, models, c, getattr(torch, precision))
    return result if lazy else result.read()


def interpolate(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], alpha: float, *, lazy: bool = False
) -> Mapping[str, Tensor]:
    """Return the model (1 - alpha) a + alpha b, on the line through two models.

    Parameters
    ----------
    a, b : mappings of str to Tensor
    alpha : float
        0 is `a` and 1 is `b`, but for the integer tensors, which are always those of `a`; below 0
        or above 1 the line goes on.
    lazy : bool, default False
        As for `average`.

    Returns
    -------
    mapping of str to Tensor
        As `average` returns it.

    Raises
    ------
    AveragingError
        As `average`; `a` is called model 1 and `b` model 2.

    Examples
    --------
    >>> interpolate({"w": torch.zeros(2)}, {"w": torch.tensor([4.0, 8.0])}, 0.25)["w"]
    tensor([1., 2.])
    """
    if not math.isfinite(alpha):
        raise AveragingError(f"alpha must be a finite number, got {alpha}.")
    return average([a, b], [1 - alpha, alpha], lazy=lazy)


class LinearMerge(LazyMerge):
    """The sum over i of c_i theta_i; the mean where the coefficients are None."""

    def __init__(
        self,
        layout: Layout,
        ingredients: Mapping[str, Mapping[str, Tensor]],
        coefficients: list[float] | None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(layout, ingredients)
        self._constants, self._dtype = coefficients, dtype

    def _coefficients(self, name: str) -> list[float] | None:
        return self._constants

    def _values(self, name: str, part: slice) -> Tensor:
        # Without coefficients the sum is divided once, which rounds less than n products do.
        models, constants = list(self._ingredients.values()), self._coefficients(name)
        coefficients = [1.0] * len(models) if constants is None else constants
        dtype = torch.promote_types(self.layout.dtypes[name], self._dtype)
        if all(isinstance(m, dict) or getattr(m, "views", False) for m in models):
            total = self._in_pieces([entries(m, name, part) for m in models], coefficients, dtype)
        else:  # one tensor of one model at a time
            total = _sum((entries(m, name, part) for m in models), coefficients, dtype)
        if constants is None and len(models) & (len(models) - 1):
            total /= len(models)
        elif constants is None:  # a power of two: the same number, and a product is faster
            total *= 1 / len(models)
        return total

    @staticmethod
    def _in_pieces(views: list[Tensor], coefficients: list[float], dtype: torch.dtype) -> Tensor:
        """Sum tensors that are in memory, or mapped there: a piece of all of them at a time.

        A piece of the sum stays in the cache; each view was made once, which costs as much as a
        piece's sum.
        """
        total = torch.empty(len(views[0]), dtype=dtype, device=views[0].device)
        step = block_size(total.device) // 4
        for low in range(0, len(total), step):
            pieces = (view[low : low + step] for view in views)
            _sum(pieces, coefficients, dtype, total[low : low + step])
        return total


def numbered(models: Sequence[Mapping[str, Tensor]]) -> dict[str, Mapping[str, Tensor]]:
    """Give each model the label that messages call it by."""
    if isinstance(models, Mapping):
        raise AveragingError("a list of models is needed, got one mapping; put it in a list.")
    found = {f"model {number}": model for number, model in enumerate(models, start=1)}
    if not found:
        raise AveragingError("there are no models to average.")
    return found


def _sum(
    parts: Iterator[Tensor],
    coefficients: list[float],
    dtype: torch.dtype,
    out: Tensor | None = None,
) -> Tensor:
    """Sum coefficient times part; no part is kept while the next one is read.

    What must be converted is so in a small buffer that stays in the cache.
    """
    total, buffer = out, None
    for number, coefficient in enumerate(coefficients):
        values = next(parts)
        if total is None:
            total = torch.empty(len(values), dtype=dtype, device=values.device)
        if number == 0:
            total.copy_(values)
            if coefficient != 1:
                total *= coefficient
        elif values.dtype == dtype and values.device == total.device:
            total.add_(values, alpha=coefficient)
        else:
            if buffer is None:
                buffer = total.new_empty(min(len(total), block_size(total.device) // 4))
            for low in range(0, len(total), max(len(buffer), 1)):
                piece = total[low : low + len(buffer)]
                converted = buffer[: len(piece)].copy_(values[low : low + len(buffer)])
                piece.add_(converted, alpha=coefficient)
        del values
    assert total is not None
    return total


def checked(coefficients: ArrayLike | None, n: int) -> list[float] | None:
    """Raise unless there are n coefficients, or none, that sum to 1."""
    if coefficients is None:
        return None
    c = np.asarray(coefficients, dtype=np.float64)
    if c.shape != (n,):
        raise AveragingError(
            f"{n} models need {n} coefficients in one row, got an array of shape {c.shape}."
        )
    if not np.isfinite(c).all() or abs(c.sum() - 1) > _SUM_TOLERANCE:
        raise AveragingError(
            f"coefficients must be finite and sum to 1, and these sum to {c.sum():g}; divide them "
            "by their sum."
        )
    return c.tolist()
