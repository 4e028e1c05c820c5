"""Averages of several models, with coefficients that are given or follow from angles."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from wskit._base.checks import check_choice
from wskit._base.layout import Layout, check_one_architecture
from wskit._base.weights import block_size, name_models
from wskit.averaging._merge import SUM_TOLERANCE, LinearMerge, read_entries
from wskit.errors import AveragingError

BASE = "the base"
Weights: TypeAlias = Mapping[str, Tensor] | nn.Module

_SAME_DIRECTION = 0.9995  # of |cos|: beyond, an arc is its chord but for rounding
_SINGULAR = 1e-6  # of 1 + (n - 1) cos: below, the models' steps from the base cancel


def average(
    weights: Iterable[Weights] | Mapping[str, Weights],
    coefficients: ArrayLike | None = None,
    *,
    precision: Literal["float32", "float64"] = "float32",
    lazy: bool = False,
) -> Mapping[str, Tensor]:
    """Average models: the sum over i of c_i theta_i, with coefficients c_i that sum to 1.

    Every model is read once. Beyond the result, one tensor of one model is in memory at a time.

    Parameters
    ----------
    weights : sequence of weights, or mapping of str to weights
        The models: state dicts, modules, lazily opened checkpoints, ``zoo.model(row)``. The keys
        of a mapping are what messages call the models.
    coefficients : array of shape (models,), optional
        Must sum to 1, and may be negative: ``[1 - t, t]`` is a point on the line through two
        models. None gives each model 1/n.
    precision : {"float32", "float64"}
        Dtype of the sums; float64 tensors are always summed in float64. The error of a sum in
        float32 grows with the number of models, up to a few units in the last place for 72 of
        them. float64 takes about twice as long.
    lazy : bool, default False
        Whether to compute a tensor only on access, each time anew. A result larger than the memory
        can then be saved.

    Returns
    -------
    mapping of str to Tensor
        Has the first model's names, dtypes, devices, ties and integer tensors. It is a dict with
        memory of its own, or with `lazy` a mapping that has ``shape(name)``, ``dtype(name)``,
        ``ties`` and ``read_block(name, start, stop)``.

    Raises
    ------
    AveragingError
        If there is no model, the coefficients do not fit, two models differ in names, shapes,
        dtypes, ties or masks, or a tensor holds NaN or inf (on access, if `lazy`).

    Examples
    --------
    >>> a, b = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 6.0])}
    >>> average([a, b])
    {'w': tensor([2., 4.])}
    >>> average([a, b], [0.75, 0.25])["w"]
    tensor([1.5000, 3.0000])
    """
    check_choice(precision, ("float32", "float64"), AveragingError, "precision")
    layout, models = prepare(weights)
    c = check_coefficients(coefficients, len(models))
    result = LinearMerge(layout, models, c, getattr(torch, precision))
    return result if lazy else result.read()


def slerp(a: Weights, b: Weights, t: float, *, lazy: bool = False) -> Mapping[str, Tensor]:
    r"""Interpolate spherically, on an arc instead of a line, tensor by tensor.

    With the entries of a tensor as a vector and \theta the angle between the two models' vectors,

    .. math::
        \frac{\sin (1 - t) \theta}{\sin \theta}\, a + \frac{\sin t \theta}{\sin \theta}\, b

    (Shoemake 1985, doi:10.1145/325334.325242, for quaternions). Between two vectors of one length
    the length does not shrink, as it does on the line. The line is taken where |cos \theta| is at
    least 0.9995 and where a tensor is 0, which makes no angle.

    Parameters
    ----------
    a, b : weights
    t : float
        0 is `a` and 1 is `b`, except for the integer tensors, which are those of `a`.
    lazy : bool, default False
        As for `average`. The angles are computed when a tensor is first accessed, and kept.

    Returns
    -------
    mapping of str to Tensor
        As `average` returns it.

    Raises
    ------
    AveragingError
        As `average`; messages call `a` model 1 and `b` model 2.

    Examples
    --------
    >>> a, b = {"w": torch.tensor([2.0, 0.0])}, {"w": torch.tensor([0.0, 2.0])}
    >>> slerp(a, b, 1 / 3)["w"]
    tensor([1.7321, 1.0000])
    """
    layout, models = prepare([a, b])
    result = _AngleMerge(layout, models, partial(_slerp_coefficients, t=t), centred=False)
    return result if lazy else result.read()


def merge_model_stock(
    models: Iterable[Weights] | Mapping[str, Weights], base: Weights, *, lazy: bool = False
) -> Mapping[str, Tensor]:
    r"""Move from the base towards the average of fine-tuned models, as far as they agree.

    Model Stock (Jang et al. 2024, arXiv:2403.19522). For each tensor, with \cos \theta the mean
    cosine between the steps from the base to two of the N models,

    .. math::
        t\, \bar\theta + (1 - t)\, \theta_{base}, \qquad
        t = \frac{N \cos \theta}{1 + (N - 1) \cos \theta}.

    If the models lie on a sphere around a centre, at one angle to each other seen from the base,
    this is the point nearest to the centre in the plane through base and models. Where the steps
    cancel, so that the denominator is 0, the tensor is the base's.

    Parameters
    ----------
    models : sequence of weights, or mapping of str to weights
        Two or more models that were fine-tuned from the base.
    base : weights
    lazy : bool, default False
        As for `slerp`.

    Returns
    -------
    mapping of str to Tensor
        As `average` returns it, with the integer tensors of the base.

    Raises
    ------
    AveragingError
        As `average`, and if there is only one model.

    Examples
    --------
    >>> base = {"w": torch.zeros(2)}
    >>> models = [{"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([3.0, -4.0])}]
    >>> merge_model_stock(models, base)["w"]  # cos = -0.28: the models pull apart
    tensor([-2.3333,  0.0000])
    >>> models = [{"w": torch.tensor([4.0, 3.0])}, {"w": torch.tensor([4.0, -3.0])}]
    >>> merge_model_stock(models, base)["w"]  # cos = 0.28, t = 0.4375
    tensor([1.7500, 0.0000])
    """
    layout, everyone = prepare(models, base)
    if len(everyone) < 3:
        raise AveragingError("a model stock needs at least 2 models beside the base, got 1.")
    result = _AngleMerge(layout, everyone, _stock_coefficients, centred=True)
    return result if lazy else result.read()


class _AngleMerge(LinearMerge):
    """A sum whose coefficients are a function of the models' inner products in each tensor.

    If `centred`, these are inner products of the differences from the first ingredient.
    """

    def __init__(
        self,
        layout: Layout,
        ingredients: Mapping[str, Mapping[str, Tensor]],
        rule: Callable[[Tensor], list[float]],
        *,
        centred: bool,
    ) -> None:
        super().__init__(layout, ingredients, None)
        self._rule, self._centred = rule, centred
        self._found: dict[str, list[float]] = {}

    def _coefficients(self, name: str) -> list[float]:
        if name not in self._found:  # two threads may both compute the same few numbers
            self._found[name] = self._rule(self._gram(name))
        return self._found[name]

    def _gram(self, name: str) -> Tensor:
        vectors = [read_entries(model, name, slice(None)) for model in self._ingredients.values()]
        device, step = vectors[0].device, block_size(vectors[0].device)
        n = len(vectors) - self._centred
        gram = torch.zeros(n, n, dtype=torch.float64, device=device)
        for low in range(0, len(vectors[0]), step):
            X = torch.stack([v[low : low + step].to(device, torch.float64) for v in vectors])
            if self._centred:
                X = X[1:] - X[0]
            gram.addmm_(X, X.mT)
        return gram.cpu()


def _slerp_coefficients(gram: Tensor, t: float) -> list[float]:
    norms = gram.diagonal().sqrt()
    cosine = float((gram[0, 1] / norms[0] / norms[1]).clamp(-1, 1))
    if not norms.all() or abs(cosine) >= _SAME_DIRECTION:
        return [1 - t, t]
    angle = math.acos(cosine)
    return [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]


def _stock_coefficients(gram: Tensor) -> list[float]:
    n, norms = len(gram), gram.diagonal().sqrt()
    norms[norms == 0] = 1  # a model that did not move has the cosine 0 to the others
    cosines = gram / norms / norms[:, None]
    cosine = float(cosines.triu(1).sum()) / (n * (n - 1) / 2)
    denominator = 1 + (n - 1) * cosine
    t = 0.0 if denominator < _SINGULAR else n * cosine / denominator
    return [1 - t, *[t / n] * n]


def prepare(
    models: Iterable[Weights] | Mapping[str, Weights],
    base: Weights | None = None,
    *,
    any_float: bool = False,
) -> tuple[Layout, dict[str, Mapping[str, Tensor]]]:
    """Check models, the base first if there is one; return them by label, and their layout."""
    named = name_models(models, AveragingError)
    if base is not None:
        named = name_models({BASE: base, **named}, AveragingError)
    layout = check_one_architecture(
        named, error=AveragingError, any_float=any_float, keep_others=True
    )
    return layout, named


def check_coefficients(coefficients: ArrayLike | None, n: int) -> list[float] | None:
    """Raise unless there are n coefficients that sum to 1, or none."""
    if coefficients is None:
        return None
    c = np.asarray(coefficients, dtype=np.float64)
    if c.shape != (n,):
        raise AveragingError(f"{n} models need {n} coefficients, got an array of shape {c.shape}.")
    if not abs(c.sum() - 1) <= SUM_TOLERANCE:  # NaN is refused too
        raise AveragingError(
            f"coefficients must sum to 1, got {c.sum():g}; divide them by their sum."
        )
    return c.tolist()
