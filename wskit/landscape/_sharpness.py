"""How sharply the loss rises around one model: along random directions, and by its Hessian."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from wskit._base.checks import check_choice
from wskit._base.layout import layout_of
from wskit._base.weights import as_weights
from wskit.errors import LandscapeError
from wskit.landscape._evaluate import (
    Evaluator,
    collect,
    evaluate_mixtures,
    iterate_mixtures,
    points_at_once,
    read_models,
    weight_names,
)

Normalize = Literal["filter", "unit"]


def random_direction(
    weights: Mapping[str, Tensor] | nn.Module, *, seed: int, normalize: Normalize = "filter"
) -> dict[str, Tensor]:
    r"""Draw a random direction of weight space.

    Parameters
    ----------
    weights : mapping of str to Tensor, or nn.Module
        The model that the direction starts from.
    seed : int
        Seed of a generator of its own on the CPU, so that the direction is the same everywhere.
    normalize : {"filter", "unit"}, default "filter"
        "filter" scales each filter of a Gaussian direction to the norm of the model's filter,

        .. math:: d_{i,j} \leftarrow \frac{d_{i,j}}{\|d_{i,j}\|} \|w_{i,j}\|,

        where j counts the filters of layer i, the entries of the tensor's first axis (in a dense
        layer, the weights into one neuron). Tensors of one axis, biases and batch norms, are 0
        (Li et al. 2018, arXiv:1712.09913, and their code). Losses along it can be compared
        between networks whose weights have other scales. "unit" scales the whole Gaussian
        direction to length 1.

    Returns
    -------
    dict of str to Tensor
        With the names, shapes and dtypes of the weights. Running statistics and tensors of
        integers are 0.

    Raises
    ------
    LandscapeError
        If `normalize` is neither.

    Examples
    --------
    >>> weights = {"fc.weight": torch.tensor([[3.0, 4.0], [0.0, 1.0]]), "fc.bias": torch.ones(2)}
    >>> direction = random_direction(weights, seed=0)
    >>> direction["fc.weight"].norm(dim=1).round(decimals=3), direction["fc.bias"]
    (tensor([5., 1.]), tensor([0., 0.]))
    """
    check_choice(normalize, Normalize, LandscapeError, "normalize")
    weights = as_weights(weights, LandscapeError)
    rng = torch.Generator().manual_seed(seed)
    drawn: dict[str, Tensor] = {}
    for name in weight_names(weights):
        start = weights[name].detach().double()
        if normalize == "filter" and start.ndim < 2:
            continue
        d = torch.randn(start.shape, generator=rng).to(start)
        if normalize == "filter":
            axes = tuple(range(1, d.ndim))
            size = start.square().sum(axes, keepdim=True).sqrt()
            d *= size / d.square().sum(axes, keepdim=True).sqrt()
        drawn[name] = d
    if normalize == "unit":
        length = math.sqrt(sum(float(d.square().sum()) for d in drawn.values()))
        drawn = {name: d / length for name, d in drawn.items()}
    return {name: drawn.get(name, torch.zeros_like(w)).to(w.dtype) for name, w in weights.items()}


def ray_sharpness(
    evaluate: Evaluator,
    weights: Mapping[str, Tensor] | nn.Module,
    *,
    distances: ArrayLike,
    n_rays: int = 10,
    normalize: Normalize = "filter",
    seed: int,
) -> pd.DataFrame:
    """Measure how much the loss rises along random rays from a model.

    The sharpness at a distance is the mean over the rays,
    ``table.groupby("distance").increase.mean()``. For a quadratic loss with the Hessian H it is
    distance^2 tr(H) / (2 n) on average, where `normalize` is "unit" and there are n weights.

    Parameters
    ----------
    evaluate : Evaluator
    weights : mapping of str to Tensor, or nn.Module
    distances : array of shape (k,)
        In multiples of the direction: of the filters' norms for "filter", in the units of the
        weights for "unit".
    n_rays : int, default 10
    normalize : {"filter", "unit"}, default "filter"
        As for `random_direction`.
    seed : int
        Each ray has a seed of its own, which follows from this one.

    Returns
    -------
    DataFrame
        One row per ray and distance: `ray`, `distance`, "loss" and the other measures, and
        `increase`, the loss minus that of the model itself.

    Raises
    ------
    LandscapeError
        As `evaluate_mixtures`.

    Examples
    --------
    >>> from wskit.landscape import one_by_one
    >>> evaluate = one_by_one(lambda weights: weights["w"].square().sum())
    >>> table = ray_sharpness(evaluate, {"w": torch.zeros(5)}, distances=[1.0, 2.0],
    ...                       n_rays=3, normalize="unit", seed=0)
    >>> table.groupby("distance").increase.mean().round(5).to_dict()
    {1.0: 1.0, 2.0: 4.0}
    """
    where = np.asarray(distances, dtype=np.float64)
    [start] = read_models([weights])
    seeds = np.random.SeedSequence(seed).generate_state(n_rays)
    step = max(1, points_at_once(start) // len(where))

    def parts() -> Iterator[pd.DataFrame]:
        for block in np.array_split(seeds, math.ceil(n_rays / step)):
            rays = [random_direction(start, seed=int(s), normalize=normalize) for s in block]
            along = np.kron(np.eye(len(rays)), where[:, None])
            coefficients = np.hstack([np.ones((len(along), 1)), along])
            yield from iterate_mixtures(evaluate, [start, *rays], coefficients)

    at_start = evaluate_mixtures(evaluate, [start], [[1.0]]).loss[0]
    table = collect(parts())
    ray, place = np.divmod(np.arange(len(table)), len(where))
    table.insert(0, "ray", ray)
    table.insert(1, "distance", where[place])
    return table.assign(increase=table.loss - at_start)


@dataclass(frozen=True, eq=False)
class HessianEigenvalue:
    """An eigenvalue of the Hessian of the loss, and how well it is known.

    Attributes
    ----------
    value : float
        The estimate, in the units of the loss over those of the weights squared.
    vector : mapping of str to Tensor
        The eigenvector, of length 1 over all tensors.
    residual : float
        |H v - value v|. The Hessian has an eigenvalue no farther from `value` than this.
    n_iterations : int
    converged : bool
        Whether the residual fell below the tolerance.
    """

    value: float
    vector: Mapping[str, Tensor]
    residual: float
    n_iterations: int
    converged: bool


def top_hessian_eigenvalue(
    loss: Callable[[Mapping[str, Tensor]], Tensor],
    weights: Mapping[str, Tensor] | nn.Module,
    *,
    n_iterations: int = 200,
    rtol: float = 0.01,
    seed: int,
) -> HessianEigenvalue:
    """Find the largest eigenvalue of the Hessian by power iteration.

    v is multiplied by H again and again, by `torch.func.vjp` of the gradient, which costs about as
    much as a gradient. That leads to the eigenvalue of the largest size. Where it is negative, the
    iteration is repeated with H shifted by it, which leads to the largest one.

    Parameters
    ----------
    loss : callable
        Maps the weights of one model to the loss, a tensor of one value that can be
        differentiated twice, such as
        ``lambda w: cross_entropy(torch.func.functional_call(module, w, (x,)), y)``.
    weights : mapping of str to Tensor, or nn.Module
        The point at which to differentiate. Tensors of integers and the running statistics of
        batch norms are held fixed.
    n_iterations : int, default 200
        The largest number of products with H, in each of the two iterations.
    rtol : float, default 0.01
        The iteration ends when the residual is at most this part of the eigenvalue (of H as it is
        shifted).
    seed : int
        Seed of the first vector.

    Returns
    -------
    HessianEigenvalue
        Where it did not converge, the value is still within its residual of an eigenvalue.

    Raises
    ------
    LandscapeError
        If the weights hold NaN or inf, or a product with the Hessian does.

    Examples
    --------
    >>> scale = torch.tensor([1.0, 2.0, 5.0])
    >>> found = top_hessian_eigenvalue(
    ...     lambda weights: (scale * weights["w"].square()).sum() / 2,
    ...     {"w": torch.ones(3)}, rtol=1e-3, seed=0)
    >>> round(found.value, 3), found.converged
    (5.0, True)
    """
    [start] = read_models([weights])
    layout = layout_of(start, error=LandscapeError, names=weight_names(start))
    point = layout.flatten(start)

    def loss_at(vector: Tensor) -> Tensor:
        return loss(start | layout.unflatten(vector))

    _, multiply = torch.func.vjp(torch.func.grad(loss_at), point)
    rng = torch.Generator().manual_seed(seed)
    first = torch.randn(point.shape, generator=rng).to(point)
    shift, total = 0.0, 0
    for _ in range(2):
        v = first / first.norm()
        for iteration in range(1, n_iterations + 1):
            Hv = multiply(v)[0] - shift * v
            value = float(v.double() @ Hv.double())
            residual, length = float((Hv - value * v).norm()), float(Hv.norm())
            if not length < math.inf:
                raise LandscapeError(
                    "a product with the Hessian is NaN or inf; the loss cannot be differentiated "
                    "twice at these weights."
                )
            converged = residual <= rtol * abs(value)
            if converged or iteration == n_iterations:
                break
            v = Hv / length
        total += iteration
        if value >= 0 or shift:
            break
        shift = value
    vector = layout.unflatten(v)
    return HessianEigenvalue(value + shift, vector, residual, total, converged)
