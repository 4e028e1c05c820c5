"""The average of several models, and a point on the line through two."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from wskit.averaging._layout import Layout, all_finite, block_size, diverged, layout_of
from wskit.errors import AveragingError

_SUM_TOLERANCE = 1e-6  # what is left of 1 by coefficients that were computed in float32


def average(
    weights: Sequence[Mapping[str, Tensor]],
    coefficients: ArrayLike | None = None,
    *,
    lazy: bool = False,
) -> Mapping[str, Tensor]:
    """Average models: the sum over i of c_i theta_i, with coefficients c_i that sum to 1.

    Each sum is made in float32 (in float64 where the models are) and rounded once. Every model is
    read once, and one tensor of one model is in memory at a time, beyond the result.

    Parameters
    ----------
    weights : sequence of mappings of str to Tensor
        The models: state dicts, lazily opened checkpoints, ``zoo.model(row)``. A mapping that does
        not tell ``shape(name)`` and ``dtype(name)`` by itself is read once more for these.
    coefficients : array of shape (models,), optional
        They must sum to 1, and may be negative. None gives each model 1/n.
    lazy : bool, default False
        Whether a tensor is computed only when it is asked for, each time anew, so that a result
        larger than the memory can be gone through or saved.

    Returns
    -------
    mapping of str to Tensor
        With the first model's names, dtypes, devices, ties and integer tensors. A dict whose
        memory is its own; where `lazy`, a mapping with ``shape(name)``, ``dtype(name)`` and
        ``ties``.

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
    if isinstance(weights, Mapping):
        raise AveragingError("average takes a list of models, got one mapping; put it in a list.")
    models = list(weights)
    if not models:
        raise AveragingError("there are no models to average.")
    layout = layout_of(models[0])
    for number, model in enumerate(models[1:], start=2):
        layout.check(model, f"model {number}")
    result = _LazyAverage(models, layout, _checked(coefficients, len(models)))
    return result if lazy else result.read()


def interpolate(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], alpha: float
) -> Mapping[str, Tensor]:
    """Return the model (1 - alpha) a + alpha b, on the line through two models.

    Parameters
    ----------
    a, b : mappings of str to Tensor
    alpha : float
        0 is `a` and 1 is `b`, but for the integer tensors, which are always those of `a`; below 0
        or above 1 the line goes on.

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
    return average([a, b], [1 - alpha, alpha])


class _LazyAverage(Mapping[str, Tensor]):
    """A mapping with the first model's header, whose tensors are averaged when they are read."""

    def __init__(
        self,
        models: list[Mapping[str, Tensor]],
        layout: Layout,
        coefficients: list[float] | None,
    ) -> None:
        self._models, self._layout, self._coefficients = models, layout, coefficients

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._layout.shapes:
            raise KeyError(name)
        owner = self._layout.ties.get(name, name)
        if owner in self._layout.others:
            return self._layout.others[owner].clone()
        return self._mean(owner)

    def __contains__(self, name: object) -> bool:
        return name in self._layout.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._layout.shapes)

    def __len__(self) -> int:
        return len(self._layout.shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._layout.shapes[name]

    def dtype(self, name: str) -> torch.dtype:
        return self._layout.dtypes[name]

    @property
    def ties(self) -> Mapping[str, str]:
        return dict(self._layout.ties)

    def read(self) -> dict[str, Tensor]:
        """Compute every tensor, tied ones once."""
        result: dict[str, Tensor] = {}
        for name in self:
            owner = self._layout.ties.get(name, name)
            result[name] = result[owner] if owner in result else self[name]
        return result

    def _mean(self, name: str) -> Tensor:
        layout, n = self._layout, len(self._models)
        # Without coefficients the sum is divided once, which rounds less than n products do.
        coefficients = [1.0] * n if self._coefficients is None else self._coefficients
        total: Tensor | None = None
        for model, coefficient in zip(self._models, coefficients, strict=True):
            tensor = model[name].detach()
            if total is None:
                dtype = torch.promote_types(tensor.dtype, torch.float32)
                total = torch.zeros(tensor.numel(), dtype=dtype, device=tensor.device)
            _add(total, tensor.reshape(-1).to(total.device), coefficient)
            del tensor  # before the next model's is read
        assert total is not None
        if self._coefficients is None:
            total /= n
        result = total.to(layout.dtypes[name]).view(layout.shapes[name])
        if not all_finite(result):  # NaN and inf never leave a sum: one check for all models
            raise self._diverged(name)
        return result

    def _diverged(self, name: str) -> AveragingError:
        """Find the model whose tensor is not finite; they are read once more."""
        for number, model in enumerate(self._models, start=1):
            tensor = model[name].detach()
            if not all_finite(tensor):
                return diverged(tensor, name, f"model {number}")
        return AveragingError(
            f"the average of tensor {name!r} overflows {self._layout.dtypes[name]}; convert the "
            "models to a wider dtype first."
        )


def _add(total: Tensor, values: Tensor, coefficient: float) -> None:
    """Add to a sum, block by block, so that no whole tensor is converted at a time."""
    step = block_size(total.device)
    for low in range(0, len(total), step):
        block = values[low : low + step].to(total.dtype)
        total[low : low + step].add_(block, alpha=coefficient)


def _checked(coefficients: ArrayLike | None, n: int) -> list[float] | None:
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
