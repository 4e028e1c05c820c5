"""Rays from one model: random directions, edges of the region around it, sharpness."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from wskit._checks import check_choice, check_weights, number, numbers
from wskit.errors import LandscapeError
from wskit.landscape._evaluate import (
    Compute,
    Evaluation,
    collect,
    evaluate_mixtures,
    iterate_mixtures,
    points_at_once,
)
from wskit.landscape._mix import checked, mix, weight_names

Normalize = Literal["filter", "unit"]


def random_direction(
    weights: Mapping[str, Tensor], *, seed: int, normalize: Normalize = "filter"
) -> dict[str, Tensor]:
    r"""Draw a random direction of weight space.

    Parameters
    ----------
    weights : mapping of str to Tensor
        The model that the direction starts from.
    seed : int
        Of a generator of its own, on the CPU, so that the direction is the same on every device.
    normalize : {"filter", "unit"}, default "filter"
        "filter" scales each filter of a Gaussian direction to the norm of the model's filter,

        .. math:: d_{i,j} \leftarrow \frac{d_{i,j}}{\|d_{i,j}\|} \|w_{i,j}\|,

        where j counts the filters of layer i, the entries of the tensor's first axis (of a dense
        layer, the weights into one neuron); tensors of one axis, biases and batch norms, are 0
        (Li et al. 2018, arXiv:1712.09913, and their code). Losses along it can be compared
        between networks whose weights have other scales. "unit" scales the whole Gaussian
        direction to length 1.

    Returns
    -------
    dict of str to Tensor
        Like the weights. Running statistics and tensors of integers are 0.

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
    check_weights(weights, LandscapeError)
    rng = torch.Generator().manual_seed(seed)
    result = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    for name in weight_names(weights):
        start = weights[name].detach()
        if normalize == "filter" and start.ndim < 2:
            continue
        d = torch.randn(start.shape, generator=rng).to(start.device).double()
        if normalize == "filter":
            axes = tuple(range(1, d.ndim))
            size = start.double().square().sum(axes, keepdim=True).sqrt()
            d *= size / d.square().sum(axes, keepdim=True).sqrt()
        result[name] = d.to(start.dtype) if normalize == "filter" else d
    if normalize == "unit":
        names = weight_names(weights)
        length = math.sqrt(sum(float(result[name].square().sum()) for name in names))
        for name in names:
            result[name] = (result[name] / length).to(weights[name].dtype)
    return result


def moved(
    weights: Mapping[str, Tensor], direction: Mapping[str, Tensor], distance: float = 1.0
) -> dict[str, Tensor]:
    """Return ``weights + distance * direction``, as new tensors.

    Parameters
    ----------
    weights, direction : mapping of str to Tensor
        With the same names and shapes. Tensors of integers are those of `weights`.
    distance : float, default 1.0

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    LandscapeError
        If the two do not fit, or hold NaN or inf.

    Examples
    --------
    >>> moved({"w": torch.ones(2)}, {"w": torch.tensor([0.0, 1.0])}, 3.0)
    {'w': tensor([1., 4.])}
    """
    distance = number(distance, LandscapeError, "distance")
    stacked = mix(checked([weights, direction]), np.array([[1.0, distance]]))
    return {name: stack[0].clone() for name, stack in stacked.items()}


def region_edges(
    evaluate: Evaluation,
    centre: Mapping[str, Tensor],
    directions: Sequence[Mapping[str, Tensor]],
    *,
    level: float,
    first: float = 1.0,
    largest: float = 64.0,
    rtol: float = 0.01,
    compute: Compute = Compute(),  # noqa: B008 - frozen
) -> pd.DataFrame:
    """Find where each ray from a centre leaves the region in which the loss is below a level.

    From `first`, alpha is doubled until the loss at centre + alpha * direction is not below the
    level; then the bracket is halved. All rays go on together, one point each a round. What lies
    between two points is not seen: a ridge that is thinner than the steps is passed over.

    Parameters
    ----------
    evaluate : Evaluation
    centre : mapping of str to Tensor
    directions : sequence of mapping of str to Tensor
        As from `random_direction`, or the difference of a model and the centre. All are in memory.
    level : float
        In the units of the loss. A loss of NaN is not below it.
    first, largest : float, default 1.0 and 64.0
        The first and the largest alpha to try.
    rtol : float, default 0.01
        Width of the last bracket, as a part of alpha.
    compute : Compute
        `should_stop` is asked before each round.

    Returns
    -------
    DataFrame
        A row a direction. `alpha`, the largest alpha known to be inside, or NaN where no edge was
        found; `inside` and `outside`, the last bracket (`outside` is NaN where all was inside);
        `n_evaluations`, those on this ray; `reason`, why there is no edge, or "".

    Raises
    ------
    LandscapeError
        If the loss at the centre is not below the level, if `first`, `largest` and `rtol` are not
        positive and in order, or as `iterate_mixtures`.

    Examples
    --------
    The loss |w|^2 is below 9 up to the distance 3:

    >>> from wskit.landscape import one_by_one
    >>> evaluate = one_by_one(lambda weights: weights["w"].square().sum())
    >>> centre, ray = {"w": torch.zeros(2)}, {"w": torch.tensor([0.0, 1.0])}
    >>> region_edges(evaluate, centre, [ray], level=9.0, rtol=1e-6).alpha.round(4).tolist()
    [3.0]
    """
    if not (0 < first <= largest < np.inf and rtol > 0):
        raise LandscapeError(
            f"0 < first <= largest and rtol > 0 are needed, got {first}, {largest} and {rtol}."
        )
    level = number(level, LandscapeError, "level")
    models = checked([centre, *directions])
    n = len(directions)

    def losses(rays: np.ndarray, alphas: np.ndarray) -> np.ndarray:
        coefficients = np.zeros((len(rays), n + 1))
        coefficients[:, 0] = 1
        coefficients[np.arange(len(rays)), rays + 1] = alphas
        chunks = Compute(compute.chunk_size)
        return evaluate_mixtures(evaluate, models, coefficients, compute=chunks).loss.to_numpy()

    at_centre = evaluate_mixtures(evaluate, models[:1], [[1.0]]).loss[0]
    if not at_centre < level:
        raise LandscapeError(
            f"the loss at the centre is {at_centre:g}, which is not below the level {level:g}; "
            "raise the level."
        )
    inside, outside = np.zeros(n), np.full(n, np.inf)
    trial, evaluations = np.full(n, float(first)), np.zeros(n, dtype=int)
    active, stopped = np.arange(n), False
    while active.size and not stopped:
        stopped = compute.should_stop is not None and compute.should_stop()
        if stopped:
            break
        below = losses(active, trial[active]) < level
        evaluations[active] += 1
        inside[active[below]] = trial[active[below]]
        outside[active[~below]] = trial[active[~below]]
        growing = np.isinf(outside)
        width = np.maximum(rtol * outside, 1e-12 * first)
        trial = np.where(growing, np.minimum(2 * inside, largest), (inside + outside) / 2)
        open_ = np.where(growing, inside < largest, outside - inside > width)
        active = active[open_[active]]
    reasons = np.where(np.isinf(outside), f"the loss is below the level up to {largest:g}", "")
    reasons = reasons.astype(object)
    if stopped:
        reasons[active] = "stopped before the edge was found"
    return pd.DataFrame(
        {
            "alpha": np.where(reasons == "", inside, np.nan),
            "inside": inside,
            "outside": np.where(np.isinf(outside), np.nan, outside),
            "n_evaluations": evaluations,
            "reason": reasons,
        }
    )


def ray_sharpness(
    evaluate: Evaluation,
    weights: Mapping[str, Tensor],
    *,
    distances: ArrayLike,
    n_rays: int = 10,
    normalize: Normalize = "filter",
    seed: int,
    compute: Compute = Compute(),  # noqa: B008 - frozen
) -> pd.DataFrame:
    """Measure how much the loss rises along random rays from a model.

    The sharpness at a distance is the mean over the rays:
    ``table.groupby("distance").increase.mean()``. For a quadratic loss with the Hessian H it is
    distance^2 tr(H) / (2 n) on average where `normalize` is "unit" and there are n weights.

    Parameters
    ----------
    evaluate : Evaluation
    weights : mapping of str to Tensor
    distances : array of shape (k,)
        In multiples of the direction: of the filters' norms for "filter", in the units of the
        weights for "unit".
    n_rays : int, default 10
    normalize : {"filter", "unit"}, default "filter"
        As for `random_direction`.
    seed : int
        From which each ray has a seed of its own.
    compute : Compute
        If it stops, the table has the points that were evaluated.

    Returns
    -------
    DataFrame
        A row a ray and distance: `ray`, `distance`, "loss" and the other measures, and
        `increase`, the loss minus that of the model itself.

    Raises
    ------
    LandscapeError
        If there is no ray or no distance, or as `iterate_mixtures`.

    Examples
    --------
    >>> from wskit.landscape import one_by_one
    >>> evaluate = one_by_one(lambda weights: weights["w"].square().sum())
    >>> table = ray_sharpness(evaluate, {"w": torch.zeros(5)}, distances=[1.0, 2.0],
    ...                       n_rays=3, normalize="unit", seed=0)
    >>> table.groupby("distance").increase.mean().round(5).to_dict()
    {1.0: 1.0, 2.0: 4.0}
    """
    where = numbers(distances, LandscapeError, "distances")
    if where.ndim != 1 or where.size == 0 or n_rays < 1:
        raise LandscapeError(
            "a sequence of distances and at least one ray are needed, got distances of shape "
            f"{where.shape} and {n_rays} rays."
        )
    start = checked([weights])[0]
    seeds = np.random.SeedSequence(seed).generate_state(n_rays)
    step = max(1, points_at_once(start, compute.chunk_size) // where.size)

    def parts() -> Iterator[pd.DataFrame]:
        for block in np.array_split(seeds, math.ceil(n_rays / step)):
            rays = [random_direction(start, seed=int(s), normalize=normalize) for s in block]
            along = np.kron(np.eye(len(rays)), where[:, None])
            coefficients = np.hstack([np.ones((len(along), 1)), along])
            size = compute.chunk_size
            yield from iterate_mixtures(evaluate, [start, *rays], coefficients, chunk_size=size)

    at_start = evaluate_mixtures(evaluate, [start], [[1.0]]).loss[0]
    table = collect(parts(), n_rays * where.size, compute)
    number = np.arange(len(table))
    table.insert(0, "ray", number // where.size)
    table.insert(1, "distance", where[number % where.size])
    return table.assign(increase=table.loss - at_start)
