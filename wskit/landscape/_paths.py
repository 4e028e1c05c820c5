"""Losses along a straight line through two models, and the barrier between them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float64
from numpy.typing import ArrayLike
from torch import Tensor

from wskit._checks import numbers
from wskit.errors import LandscapeError
from wskit.landscape._evaluate import Compute, Evaluation, evaluate_mixtures
from wskit.landscape._mix import checked, grams


@dataclass(frozen=True, eq=False)
class LossPath:
    """Losses on the line w(alpha) = (1 - alpha) a + alpha b.

    Attributes
    ----------
    alphas : array of shape (points,)
        0 is `a`, 1 is `b`; beyond the two the line goes on.
    measures : mapping of str to array of shape (points,)
        "loss", and what else the evaluation returned; read-only.
    ends : pair of str
        Names of `a` and `b`.
    length : float
        Euclidean distance of `a` and `b`, without running statistics: ``alphas * length`` is a
        coordinate in the units of the weights.
    """

    alphas: Float64[np.ndarray, " points"]
    measures: Mapping[str, Float64[np.ndarray, " points"]]
    ends: tuple[str, str]
    length: float

    @property
    def losses(self) -> Float64[np.ndarray, " points"]:
        """The measure "loss"."""
        if "loss" not in self.measures:
            raise LandscapeError(
                f"a path has its losses under the measure 'loss', got {', '.join(self.measures)}; "
                "name one of them so."
            )
        return self.measures["loss"]

    @property
    def accuracies(self) -> Float64[np.ndarray, " points"] | None:
        """The measure "accuracy", if there is one."""
        return self.measures.get("accuracy")


def loss_path(
    evaluate: Evaluation,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    *,
    alphas: ArrayLike | None = None,
    names: tuple[str, str] = ("a", "b"),
    compute: Compute = Compute(),  # noqa: B008 - frozen
) -> LossPath:
    """Evaluate the line through two models, between them and beyond.

    Parameters
    ----------
    evaluate : Evaluation
    a, b : mapping of str to Tensor
        Two models of one architecture. For a ray from `a` along a direction, let `b` be
        ``moved(a, direction)``.
    alphas : array of shape (points,), optional
        Where; None means -0.5, -0.45, ..., 1.5.
    names : pair of str, default ("a", "b")
    compute : Compute
        If it stops, the path has the points that were evaluated.

    Returns
    -------
    LossPath

    Raises
    ------
    LandscapeError
        As `iterate_mixtures`.

    Examples
    --------
    >>> import torch
    >>> from wskit.landscape import one_by_one
    >>> evaluate = one_by_one(lambda weights: weights["w"].square().sum())
    >>> a, b = {"w": torch.tensor([-1.0])}, {"w": torch.tensor([1.0])}
    >>> path = loss_path(evaluate, a, b, alphas=[0, 0.5, 1, 2])
    >>> path.losses, path.length
    (array([1., 0., 1., 9.]), 2.0)
    """
    where = (
        np.linspace(-0.5, 1.5, 41)
        if alphas is None
        else numbers(alphas, LandscapeError, "alphas").copy()
    )
    if where.ndim != 1:
        raise LandscapeError(f"alphas must be a sequence of numbers, got the shape {where.shape}.")
    models = checked([a, b])
    coefficients = np.stack([1 - where, where], 1)
    table = evaluate_mixtures(evaluate, models, coefficients, compute=compute)
    length = float(np.sqrt(grams(models[1:], models[0]).sum()))
    return LossPath(read_only(where[: len(table)]), as_measures(table), names, length)


def barrier(path: LossPath) -> float:
    r"""Return how far the loss rises on the segment above the straight line between its ends.

    .. math:: \max_{0 \le \alpha \le 1} \big[ L(w(\alpha))
              - (1 - \alpha) L(a) - \alpha L(b) \big]

    This is the definition of Entezari et al. 2021 (arXiv:2110.06296). Frankle et al. 2020
    (arXiv:1912.05671) subtract the mean of the two ends in place of the line; the two agree
    where the ends' losses do. The maximum is over the points of the path, and at least 0.

    Parameters
    ----------
    path : LossPath
        With points at alpha 0 and 1; those beyond are left out.

    Returns
    -------
    float
        In the units of the loss.

    Raises
    ------
    LandscapeError
        If an end is missing, or a loss on the segment is NaN.

    Examples
    --------
    >>> losses = np.array([1.0, 5.0, 3.0])
    >>> barrier(LossPath(np.array([0.0, 0.5, 1.0]), {"loss": losses}, ("a", "b"), 1.0))
    3.0
    """
    ends = []
    for alpha, name in zip((0, 1), path.ends, strict=True):
        at = np.flatnonzero(np.isclose(path.alphas, alpha, rtol=0, atol=1e-9))
        if at.size == 0:
            raise LandscapeError(
                f"a barrier needs the loss at both ends, and the path has none at alpha={alpha} "
                f"({name!r}); add it to the alphas."
            )
        ends.append(path.losses[at[0]])
    inside = (path.alphas > -1e-9) & (path.alphas < 1 + 1e-9)
    alphas, losses = path.alphas[inside], path.losses[inside]
    if np.isnan(losses).any():
        where = alphas[np.isnan(losses)][0]
        raise LandscapeError(f"the loss is NaN at alpha={where:g}, so that no barrier is defined.")
    return float(max(0.0, (losses - (1 - alphas) * ends[0] - alphas * ends[1]).max()))


def as_measures(table: pd.DataFrame) -> dict[str, Float64[np.ndarray, " points"]]:
    """Return the columns of a table as read-only arrays."""
    return {str(name): read_only(table[name].to_numpy().copy()) for name in table}


def read_only(array: np.ndarray) -> np.ndarray:
    """Return the array, locked."""
    array.flags.writeable = False
    return array
