"""Averages whose coefficients follow, tensor by tensor, from angles between the models."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from wskit._checks import number
from wskit._weights import Layout, block_size, layout_of
from wskit.averaging._average import LinearMerge, numbered
from wskit.averaging._lazy import entries
from wskit.errors import AveragingError

_SINGULAR = 1e-6  # of 1 + (N - 1) cos: below, the models' steps from the base cancel


def slerp(
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    t: float,
    *,
    threshold: float = 0.9995,
    lazy: bool = False,
) -> Mapping[str, Tensor]:
    r"""Interpolate on an arc instead of a line: spherical linear interpolation, tensor by tensor.

    Shoemake 1985, doi:10.1145/325334.325242, has it for quaternions, which are vectors of length
    1. With a tensor's entries as a vector and \theta the angle between the two models',

    .. math::
        \frac{\sin (1 - t) \theta}{\sin \theta}\, a + \frac{\sin t \theta}{\sin \theta}\, b,

    so that the length does not shrink between two vectors of one length, as it does on the line.

    Parameters
    ----------
    a, b : mappings of str to Tensor
    t : float
        0 is `a` and 1 is `b`, but for the integer tensors, which are those of `a`.
    threshold : float, default 0.9995
        The line of `interpolate` is taken instead where \|cos \theta\| is at least this, and
        where a tensor is 0, which makes no angle. Beyond, the arc is the line but for rounding;
        between opposite vectors it is any of many.
    lazy : bool, default False
        As for `average`. The angles are computed when a tensor is first asked for, and kept.

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
    >>> a, b = {"w": torch.tensor([2.0, 0.0])}, {"w": torch.tensor([0.0, 2.0])}
    >>> slerp(a, b, 1 / 3)["w"]
    tensor([1.7321, 1.0000])
    """
    t = number(t, AveragingError, "t")
    if not 0 < threshold <= 1:
        raise AveragingError(f"threshold must lie in (0, 1], got {threshold}.")
    models = numbered([a, b])
    layout = layout_of(a)
    layout.check(b, "model 2")
    rule = partial(_slerp_coefficients, t=t, threshold=threshold)
    result = _AngleMerge(layout, models, rule, centred=False)
    return result if lazy else result.read()


def merge_model_stock(
    models: Sequence[Mapping[str, Tensor]],
    base: Mapping[str, Tensor],
    *,
    lazy: bool = False,
) -> Mapping[str, Tensor]:
    r"""Move from the base towards the average of fine-tuned models, as far as they agree.

    Model Stock (Jang et al. 2024, arXiv:2403.19522): of every tensor, with \cos \theta the mean
    cosine between the steps that two of the N models made from the base,

    .. math::
        t\, \bar\theta + (1 - t)\, \theta_{base}, \qquad
        t = \frac{N \cos \theta}{1 + (N - 1) \cos \theta}.

    If fine-tuned models lie on a sphere around a centre, at one angle to each other seen from the
    base, this is the point of the plane through base and models that is nearest to that centre.
    Where the steps cancel and leave no denominator, the tensor is the base's.

    Parameters
    ----------
    models : sequence of mappings of str to Tensor
        Two or more, all fine-tuned from the base.
    base : mapping of str to Tensor
    lazy : bool, default False
        As for `slerp`.

    Returns
    -------
    mapping of str to Tensor
        As `average` returns it, with the integer tensors of the base.

    Raises
    ------
    AveragingError
        As `average`, and if there is one model only.

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
    ingredients = numbered(models)
    if len(ingredients) < 2:
        raise AveragingError("a model stock needs at least 2 models beside the base, got 1.")
    layout = layout_of(base, "the base")
    for label, model in ingredients.items():
        layout.check(model, label)
    everyone = {"the base": base, **ingredients}
    result = _AngleMerge(layout, everyone, _stock_coefficients, centred=True)
    return result if lazy else result.read()


class _AngleMerge(LinearMerge):
    """A sum whose coefficients are a function of a tensor's inner products between models.

    Where `centred` they are inner products of the differences from the first ingredient.
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
        vectors = [entries(model, name, slice(None)) for model in self._ingredients.values()]
        device, step = vectors[0].device, block_size(vectors[0].device)
        n = len(vectors) - self._centred
        gram = torch.zeros(n, n, dtype=torch.float64, device=device)
        for low in range(0, len(vectors[0]), step):
            X = torch.stack([v[low : low + step].to(device, torch.float64) for v in vectors])
            if self._centred:
                X = X[1:] - X[0]
            gram.addmm_(X, X.mT)
        return gram.cpu()


def _slerp_coefficients(gram: Tensor, t: float, threshold: float) -> list[float]:
    norms = gram.diagonal().sqrt()
    cosine = float((gram[0, 1] / norms[0] / norms[1]).clamp(-1, 1))
    if not norms.all() or abs(cosine) >= threshold:
        return [1 - t, t]
    angle = math.acos(cosine)
    return [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]


def _stock_coefficients(gram: Tensor) -> list[float]:
    n, norms = len(gram), gram.diagonal().sqrt()
    norms[norms == 0] = 1  # who did not move has the cosine 0 to the others
    cosines = gram / norms / norms[:, None]
    cosine = float(cosines.triu(1).sum()) / (n * (n - 1) / 2)
    denominator = 1 + (n - 1) * cosine
    t = 0.0 if denominator < _SINGULAR else n * cosine / denominator
    return [1 - t, *[t / n] * n]
