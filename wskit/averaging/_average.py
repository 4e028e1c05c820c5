"""The average of several models, and a point on the line through two."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from wskit._checks import check_choice, number, numbers
from wskit._weights import Layout, block_size, layout_of
from wskit.averaging._lazy import LazyMerge, entries
from wskit.errors import AveragingError

_SUM_TOLERANCE = 1e-6  # what is left of 1 by coefficients that were computed in float32


def average(
    weights: Sequence[Mapping[str, Tensor]] | Mapping[str, Mapping[str, Tensor]],
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
    weights : sequence of mappings of str to Tensor, or mapping of str to these
        The models: state dicts, lazily opened checkpoints, ``zoo.model(row)``; in a mapping, each
        by what messages call it. A model that does not tell ``shape(name)`` and ``dtype(name)`` by
        itself is read once more for these.
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
    check_choice(precision, ("float32", "float64"), AveragingError, "precision")
    models = numbered(weights)
    first, *labels = models
    layout = layout_of(models[first], first)
    for label in labels:
        if models[label] is not models[first]:
            layout.check(models[label], label)
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
    alpha = number(alpha, AveragingError, "alpha")
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
        self._views: dict[tuple[int, str], Tensor] = {}
        self._local = threading.local()

    def _coefficients(self, name: str) -> list[float] | None:
        return self._constants

    def _values(self, name: str, part: slice) -> Tensor:
        models = self._ingredients.values()
        return self._sum(name, (entries(model, name, part) for model in models))

    def _rounded(
        self, name: str, part: slice, out: Tensor | None = None, *, later: bool = False
    ) -> Tensor:
        """Sum what is in memory, or mapped there, piece by piece: a piece stays in the cache."""
        owner = self.layout.ties.get(name, name)
        if not self._in_memory or owner not in self.layout.spans:
            return super()._rounded(name, part, out, later=later)
        models = enumerate(self._ingredients.values())
        views = [self._view(number, model, owner)[part] for number, model in models]
        if out is None:
            out = torch.empty_like(views[0], dtype=self.layout.dtypes[owner])
        dtype, step = torch.promote_types(out.dtype, self._dtype), block_size(out.device) // 2
        c = self._coefficients(owner)
        # A mean lies between finite numbers; another sum may be too large for a narrow dtype.
        mean = c is None or (min(c) >= 0 and abs(sum(c) - 1) < _SUM_TOLERANCE)
        for low in range(0, len(out), step):
            piece = out[low : low + step]
            total = piece if out.dtype == dtype else self._scratch(piece, dtype)[0]
            self._sum(owner, [view[low : low + step] for view in views], total)
            if total is not piece:
                piece.copy_(total)
            self._check(total if mean else piece, owner, later=later)
        return out

    def _sum(self, name: str, parts: Iterable[Tensor], total: Tensor | None = None) -> Tensor:
        """Sum a part of each model's tensor, one after the other, in `total` or a new tensor."""
        coefficients, n = self._coefficients(name), len(self._ingredients)
        parts = iter(parts)
        first = next(parts)
        if total is None:
            dtype = torch.promote_types(first.dtype, self._dtype)
            total = torch.empty_like(first, dtype=dtype).copy_(first)
            first = total  # what was read is let go of before the next model's is
        elif (
            n == 1
            or coefficients is not None
            or first.dtype != total.dtype
            or first.device != total.device
        ):
            first = total.copy_(first)
        if coefficients is not None and coefficients[0] != 1:
            total *= coefficients[0]
        dtype, device = total.dtype, total.device
        for c in [1.0] * (n - 1) if coefficients is None else coefficients[1:]:
            values = next(parts)
            if values.dtype == dtype and values.device == device:
                torch.add(first, values, alpha=c, out=total)
            else:  # converted in a small buffer, which stays in the cache
                step = block_size(device) // 4
                for low in range(0, len(total), step):
                    piece = total[low : low + step]
                    converted = self._scratch(piece, dtype)[1].copy_(values[low : low + step])
                    torch.add(first[low : low + step], converted, alpha=c, out=piece)
            first = total
            del values  # before the next model's are read
        if coefficients is None:  # divided once, which rounds less than a product for each model
            # By a power of two a product is the same number, and faster.
            return total.div_(n) if n & (n - 1) else total.mul_(1 / n)
        return total

    def _scratch(self, like: Tensor, dtype: torch.dtype) -> Tensor:
        """Return memory for a piece and for one converted; each thread's own, made once."""
        n, device, kept = len(like), like.device, getattr(self._local, "kept", None)
        if kept is None or kept.shape[1] < n or (kept.dtype, kept.device) != (dtype, device):
            kept = self._local.kept = torch.empty(2, n, dtype=dtype, device=device)
        return kept[:, :n]

    @property
    def _in_memory(self) -> bool:
        """Whether all tensors are in memory, or mapped there."""
        models = self._ingredients.values()
        return all(isinstance(m, dict) or getattr(m, "views", False) for m in models)

    @property
    def block_entries(self) -> int:
        return 2**20 if self._in_memory else super().block_entries

    def _view(self, number: int, model: Mapping[str, Tensor], name: str) -> Tensor:
        """Look at a flat tensor; at a mapped file's once, as that costs as much as its sum."""
        if isinstance(model, dict):
            return entries(model, name, slice(None))
        if (number, name) not in self._views:
            self._views[number, name] = entries(model, name, slice(None))
        return self._views[number, name]


def numbered(
    models: Sequence[Mapping[str, Tensor]] | Mapping[str, Mapping[str, Tensor]],
) -> dict[str, Mapping[str, Tensor]]:
    """Give each model the label that messages call it by, unless it has one."""
    if isinstance(models, Mapping):
        if models and all(isinstance(model, Mapping) for model in models.values()):
            return dict(models)
        raise AveragingError("a list of models is needed, got one mapping; put it in a list.")
    found = {f"model {number}": model for number, model in enumerate(models, start=1)}
    if not found:
        raise AveragingError("there are no models to average; give one at least.")
    return found


def checked(coefficients: ArrayLike | None, n: int) -> list[float] | None:
    """Raise unless there are n coefficients, or none, that sum to 1."""
    if coefficients is None:
        return None
    c = numbers(coefficients, AveragingError, "coefficients")
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
