"""Knowledge as a region: scores inside a group of models, at its edge, outside, and at random."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64
from numpy.typing import ArrayLike
from torch import Tensor

from wskit._checks import numbers
from wskit.errors import LandscapeError
from wskit.landscape._evaluate import (
    Compute,
    Evaluation,
    collect,
    iterate_mixtures,
    points_at_once,
)
from wskit.landscape._mix import checked, grams, weight_names


def region_losses(
    evaluate: Evaluation,
    models: Sequence[Mapping[str, Tensor]],
    base: Mapping[str, Tensor],
    *,
    n_points: int = 50,
    alphas: Sequence[float] = (-1.0, 2.0),
    seed: int,
    compute: Compute = Compute(),  # noqa: B008 - frozen
) -> pd.DataFrame:
    """Evaluate points inside the region that a group of models spans, at its edge and outside.

    The groups of Gueta et al. 2023 (arXiv:2302.04863), and a control:

    - "edge" (In): the models themselves, which are the corners of their convex hull;
    - "inside" (In'): points drawn uniformly in that hull, Dirichlet(1, ..., 1);
    - "outside" (Ex): (1 - alpha) a + alpha b for pairs of models drawn at random, with alpha
      outside [0, 1], beyond `b` or before `a`;
    - "random": as far from the base as the "inside" point of the same number, in a random
      direction. In each tensor the random step is as long as the inside point's, so that the
      two differ in direction only.

    Parameters
    ----------
    evaluate : Evaluation
        Of the loss that the groups are compared by.
    models : sequence of mapping of str to Tensor
        The group, at least two.
    base : mapping of str to Tensor
        The model that all of them were fine-tuned from.
    n_points : int, default 50
        Of each of the groups "inside", "outside" and "random".
    alphas : sequence of float, default (-1.0, 2.0)
        How far outside; used in turn.
    seed : int
    compute : Compute
        If it stops, the table has the points that were evaluated.

    Returns
    -------
    DataFrame
        A row a point: `group`, `alpha` (NaN but outside), `distance` from the base (Euclidean,
        without running statistics), "loss" and the other measures; `reason`, why one of these is
        NaN, or "".

    Raises
    ------
    LandscapeError
        If there are fewer than two models, an alpha is in [0, 1], or as `iterate_mixtures`.

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
    k = len(models)
    if k < 2 or n_points < 1:
        raise LandscapeError(f"a region needs two models and a point, got {k} and {n_points}.")
    if not alphas or any(0 <= alpha <= 1 for alpha in alphas):
        raise LandscapeError(f"alphas outside [0, 1] are needed, got {list(alphas)}.")
    anchors = checked([base, *models])
    rng = np.random.default_rng(seed)
    inside = rng.dirichlet(np.ones(k), n_points)
    alpha = np.resize(np.asarray(alphas, dtype=np.float64), n_points)
    outside = np.zeros((n_points, k))
    for row, a in zip(outside, alpha, strict=True):
        row[rng.permutation(k)[:2]] = 1 - a, a
    mixtures = np.vstack([np.eye(k), inside, outside])
    gram = grams(anchors[1:], anchors[0])
    squares = np.einsum("pi,tij,pj->pt", mixtures, gram, mixtures).clip(min=0)
    lengths = np.sqrt(squares[k : k + n_points])
    seeds = np.random.SeedSequence(seed).generate_state(n_points)

    def parts() -> Iterator[pd.DataFrame]:
        size = points_at_once(anchors[0], compute.chunk_size)
        padded = np.hstack([np.zeros((len(mixtures), 1)), mixtures])
        yield from iterate_mixtures(evaluate, anchors, padded, chunk_size=size)
        for rows in np.array_split(np.arange(n_points), math.ceil(n_points / size)):
            steps = [_step(anchors[0], lengths[i], int(seeds[i])) for i in rows]
            c = np.hstack([np.ones((len(rows), 1)), np.eye(len(rows))])
            yield from iterate_mixtures(evaluate, [anchors[0], *steps], c, chunk_size=size)

    table = collect(parts(), len(mixtures) + n_points, compute)
    holes = table.isna()
    table["reason"] = [
        f"the evaluation gave NaN for {name}" if hole else ""
        for name, hole in zip(holes.idxmax(axis=1), holes.any(axis=1), strict=True)
    ]
    groups = np.repeat(["edge", "inside", "outside", "random"], [k, *[n_points] * 3])
    unknown = np.full(n_points, np.nan)
    each_alpha = np.concatenate([np.full(k, np.nan), unknown, alpha, unknown])
    distance = np.sqrt(np.concatenate([squares.sum(1), (lengths**2).sum(1)]))
    table.insert(0, "group", groups[: len(table)].astype(object))
    table.insert(1, "alpha", each_alpha[: len(table)])
    table.insert(2, "distance", distance[: len(table)])
    return table


def probability_of_better(a: ArrayLike, b: ArrayLike) -> float:
    """Return the share of pairs in which a model of group `a` has a lower loss than one of `b`.

    The metric PB of Gueta et al. 2023 (arXiv:2302.04863). A tie is not better.

    Parameters
    ----------
    a, b : arrays of shape (n,) and (m,)
        Losses. All n m pairs count the same.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    LandscapeError
        If a group is empty, or holds NaN.

    Examples
    --------
    >>> probability_of_better([1.0, 3.0], [2.0, 4.0])
    0.75
    """
    ours, theirs = (
        numbers(group, LandscapeError, name).ravel() for name, group in (("a", a), ("b", b))
    )
    for name, group in (("a", ours), ("b", theirs)):
        if group.size == 0 or np.isnan(group).any():
            raise LandscapeError(
                f"losses to compare are needed, and group {name!r} has {group.size} of which "
                f"{np.isnan(group).sum()} are NaN; leave those models out, or count them as inf."
            )
    higher = theirs.size - np.searchsorted(np.sort(theirs), ours, side="right")
    return float(higher.sum() / (ours.size * theirs.size))


def _step(
    base: Mapping[str, Tensor], lengths: Float64[np.ndarray, " tensors"], seed: int
) -> dict[str, Tensor]:
    """Draw a random step with that length in each tensor."""
    rng = torch.Generator().manual_seed(seed)
    step = {name: torch.zeros_like(tensor) for name, tensor in base.items()}
    for name, length in zip(weight_names(base), lengths, strict=True):
        d = torch.randn(base[name].shape, generator=rng).double()
        step[name] = (d * (length / d.norm())).to(base[name])
    return step
