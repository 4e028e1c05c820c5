"""Knowledge as a region: losses inside a group of models and around it, and where a region ends."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from wskit.errors import LandscapeError
from wskit.landscape._evaluate import (
    Evaluator,
    collect,
    evaluate_mixtures,
    grams,
    iterate_mixtures,
    points_at_once,
    read_models,
    weight_names,
)


def region_edges(
    evaluate: Evaluator,
    centre: Mapping[str, Tensor] | nn.Module,
    directions: Sequence[Mapping[str, Tensor]],
    *,
    level: float,
    first: float = 1.0,
    largest: float = 64.0,
    rtol: float = 0.01,
) -> pd.DataFrame:
    """Find where each ray from a centre leaves the region in which the loss is below a level.

    From `first`, alpha is doubled until the loss at centre + alpha * direction is not below the
    level. Then the bracket is halved. All rays go on together, with one point each per round. What
    lies between two points is not seen: a ridge that is thinner than the steps is passed over.

    Parameters
    ----------
    evaluate : Evaluator
    centre : mapping of str to Tensor, or nn.Module
    directions : sequence of mapping of str to Tensor
        As from `random_direction`, or differences of a model and the centre. All are in memory.
    level : float
        In the units of the loss. A loss of NaN is not below it.
    first, largest : float, default 1.0 and 64.0
        The first and the largest alpha to try.
    rtol : float, default 0.01
        Width of the last bracket, as a part of alpha.

    Returns
    -------
    DataFrame
        One row per direction. `alpha` is the largest alpha known to be inside, or NaN where no
        edge was found; `inside` and `outside` are the last bracket (`outside` is NaN where all was
        inside); `n_evaluations` counts those on this ray; `reason` says why there is no edge, or
        is "".

    Raises
    ------
    LandscapeError
        If the loss at the centre is not below the level, if `first`, `largest` and `rtol` are not
        positive and in order, or as `evaluate_mixtures`.

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
    models = read_models([centre, *directions])
    at_centre = evaluate_mixtures(evaluate, models[:1], [[1.0]]).loss[0]
    if not at_centre < level:
        raise LandscapeError(
            f"the loss at the centre must be below the level {level:g}, got {at_centre:g}; raise "
            "the level."
        )
    n = len(directions)
    inside, outside = np.zeros(n), np.full(n, np.inf)
    trial, evaluations = np.full(n, float(first)), np.zeros(n, dtype=int)
    rays = np.arange(n)
    while rays.size:
        along = np.eye(n)[rays] * trial[rays, None]
        coefficients = np.hstack([np.ones((len(rays), 1)), along])
        below = evaluate_mixtures(evaluate, models, coefficients).loss.to_numpy() < level
        evaluations[rays] += 1
        inside[rays[below]] = trial[rays[below]]
        outside[rays[~below]] = trial[rays[~below]]
        growing = np.isinf(outside)
        width = np.maximum(rtol * outside, 1e-12 * first)
        trial = np.where(growing, np.minimum(2 * inside, largest), (inside + outside) / 2)
        unfinished = np.where(growing, inside < largest, outside - inside > width)
        rays = rays[unfinished[rays]]
    endless = np.isinf(outside)
    return pd.DataFrame(
        {
            "alpha": np.where(endless, np.nan, inside),
            "inside": inside,
            "outside": np.where(endless, np.nan, outside),
            "n_evaluations": evaluations,
            "reason": np.where(endless, f"the loss is below the level up to {largest:g}", ""),
        }
    )


def region_losses(
    evaluate: Evaluator,
    models: Any,
    base: Mapping[str, Tensor] | nn.Module,
    *,
    n_points: int = 50,
    alphas: Sequence[float] = (-1.0, 2.0),
    seed: int,
) -> pd.DataFrame:
    """Evaluate points inside the region that a group of models spans, at its edge and outside.

    The groups are those of Gueta et al. 2023 (arXiv:2302.04863), and a control:

    - "edge" (In): the models themselves, which are the corners of their convex hull;
    - "inside" (In'): points drawn uniformly in that hull, Dirichlet(1, ..., 1);
    - "outside" (Ex): (1 - alpha) a + alpha b for pairs of models drawn at random, with alpha
      outside [0, 1], beyond `b` or before `a`;
    - "random": as far from the base as the "inside" point of the same number, in a random
      direction. In each tensor the random step is as long as that of the inside point, so that
      the two differ in direction only.

    Parameters
    ----------
    evaluate : Evaluator
        Gives the loss that the groups are compared by.
    models : list or mapping of models
        The group, at least two.
    base : mapping of str to Tensor, or nn.Module
        The model that all of them were fine-tuned from.
    n_points : int, default 50
        Number of points in each of the groups "inside", "outside" and "random".
    alphas : sequence of float, default (-1.0, 2.0)
        How far outside; used in turn.
    seed : int

    Returns
    -------
    DataFrame
        One row per point: `group`, `alpha` (NaN except outside), `distance` from the base
        (Euclidean, without running statistics), "loss" and the other measures, and `reason`, why
        one of these is NaN, or "".

    Raises
    ------
    LandscapeError
        If there are fewer than two models, an alpha is in [0, 1], or as `evaluate_mixtures`.

    Examples
    --------
    >>> from wskit.landscape import one_by_one
    >>> evaluate = one_by_one(lambda weights: (weights["w"] - 1).square().sum())
    >>> models = [{"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([2.0, 1.0])}]
    >>> table = region_losses(evaluate, models, {"w": torch.zeros(2)}, n_points=2, seed=0)
    >>> table.group.tolist()
    ['edge', 'edge', 'inside', 'inside', 'outside', 'outside', 'random', 'random']
    >>> table.loss[table.group == "outside"].tolist()
    [5.0, 5.0]
    """
    group = list(models.values()) if isinstance(models, Mapping) else list(models)
    k = len(group)
    if k < 2 or any(0 <= alpha <= 1 for alpha in alphas):
        raise LandscapeError(
            f"two models and alphas outside [0, 1] are needed, got {k} and {list(alphas)}."
        )
    start, *corners = anchors = read_models([base, *group])
    rng = np.random.default_rng(seed)
    inside = rng.dirichlet(np.ones(k), n_points)
    alpha = np.resize(np.asarray(alphas, dtype=np.float64), n_points)
    outside = np.zeros((n_points, k))
    for row, a in zip(outside, alpha, strict=True):
        row[rng.permutation(k)[:2]] = 1 - a, a
    mixtures = np.vstack([np.eye(k), inside, outside])
    squares = np.einsum("pi,tij,pj->pt", mixtures, grams(corners, start), mixtures).clip(min=0)
    lengths = np.sqrt(squares[k : k + n_points])
    seeds = np.random.SeedSequence(seed).generate_state(n_points)

    def parts() -> Iterator[pd.DataFrame]:
        padded = np.hstack([np.zeros((len(mixtures), 1)), mixtures])
        yield from iterate_mixtures(evaluate, anchors, padded)
        for rows in np.array_split(
            np.arange(n_points), math.ceil(n_points / points_at_once(start))
        ):
            steps = [_draw_step(start, lengths[i], int(seeds[i])) for i in rows]
            each = np.hstack([np.ones((len(rows), 1)), np.eye(len(rows))])
            yield from iterate_mixtures(evaluate, [start, *steps], each)

    table = collect(parts())
    holes = table.isna()
    table["reason"] = [
        f"the evaluation gave NaN for {name}" if hole else ""
        for name, hole in zip(holes.idxmax(axis=1), holes.any(axis=1), strict=True)
    ]
    sizes = [k, n_points, n_points, n_points]
    names = np.repeat(np.array(["edge", "inside", "outside", "random"], dtype=object), sizes)
    distance = np.sqrt(np.concatenate([squares.sum(1), (lengths**2).sum(1)]))
    table.insert(0, "group", names)
    table.insert(1, "alpha", np.nan)
    table.insert(2, "distance", distance)
    table.loc[table.group == "outside", "alpha"] = alpha
    return table


def _draw_step(
    base: Mapping[str, Tensor], lengths: Float64[np.ndarray, " tensors"], seed: int
) -> dict[str, Tensor]:
    """Draw a random step with the given length in each tensor."""
    rng = torch.Generator().manual_seed(seed)
    step = {name: torch.zeros_like(tensor) for name, tensor in base.items()}
    for name, length in zip(weight_names(base), lengths, strict=True):
        d = torch.randn(base[name].shape, generator=rng).double()
        step[name] = (d * (length / d.norm())).to(base[name])
    return step
