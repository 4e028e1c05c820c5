"""Losses on the plane through three models, and inside the simplex of several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64
from numpy.typing import ArrayLike
from torch import Tensor

from wskit._checks import check_whole, numbers
from wskit.errors import LandscapeError
from wskit.landscape._evaluate import Compute, Evaluation, evaluate_mixtures
from wskit.landscape._mix import checked, grams
from wskit.landscape._paths import read_only

_FLAT = 1e-5  # of a triangle: its height over its side


@dataclass(frozen=True, eq=False)
class Plane:
    """The plane through three models w1, w2, w3, with an orthonormal basis (Gram-Schmidt).

    With u = w2 - w1 and v = w3 - w1, the point (x, y) is w1 + x e1 + y e2 where e1 = u/|u| and
    e2 is the part of v that is orthogonal to u, normalised (Garipov et al. 2018,
    arXiv:1802.10026; Izmailov et al. 2018, arXiv:1803.05407). Both are in the units of the
    weights. e1 and e2 are never made: a point is a combination of the three models.

    Attributes
    ----------
    corners : array of shape (3, 2)
        Coordinates of the three models: (0, 0), (|u|, 0) and the third.
    """

    corners: Float64[np.ndarray, "3 2"]

    def coefficients(self, points: ArrayLike) -> Float64[np.ndarray, "points 3"]:
        """Return what to multiply the three models by to get to points (x, y).

        Parameters
        ----------
        points : array of shape (points, 2)

        Returns
        -------
        array of shape (points, 3)
            Each row's sum is 1; for points inside the triangle none is negative.

        Examples
        --------
        >>> Plane(np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 4.0]])).coefficients([[1.0, 2.0]])
        array([[0.25, 0.25, 0.5 ]])
        """
        x, y = np.asarray(points, dtype=np.float64).T
        third = y / self.corners[2, 1]
        second = (x - third * self.corners[2, 0]) / self.corners[1, 0]
        return np.stack([1 - second - third, second, third], 1)

    def grid(
        self, n: int = 21, margin: float = 0.2, *, square: bool = False
    ) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """Return `n` values of x and of y around the triangle.

        Parameters
        ----------
        n : int, default 21
        margin : float, default 0.2
            How far they go beyond the triangle, as a part of its width and of its height.
        square : bool, default False
            Go as far in y as in x: around a triangle that is flat, such as that of two models and
            a third one close to their line, there is else next to no height to look at.

        Returns
        -------
        pair of arrays of shape (n,)

        Examples
        --------
        >>> Plane(np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 4.0]])).grid(3, margin=0.5)
        (array([-1.,  1.,  3.]), array([-2.,  2.,  6.]))
        >>> Plane(np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 4.0]])).grid(3, margin=0.5, square=True)
        (array([-3.,  1.,  5.]), array([-2.,  2.,  6.]))
        """
        low, high = self.corners.min(0), self.corners.max(0)
        if square:
            centre, half = (low + high) / 2, (high - low).max() / 2
            low, high = centre - half, centre + half
        reach = margin * (high - low)
        x, y = np.linspace(low - reach, high + reach, n).T
        return x, y


@dataclass(frozen=True, eq=False)
class LossPlane:
    """Losses on a grid of the plane through three models.

    Attributes
    ----------
    x, y : arrays of shape (columns,) and (rows,)
        In the units of the weights, from the first model.
    measures : mapping of str to array of shape (rows, columns)
        "loss", and what else the evaluation returned; read-only. NaN where `evaluated` is False.
    corners : array of shape (3, 2)
        Coordinates of the three models.
    names : tuple of three str
    evaluated : boolean array of shape (rows, columns)
        False where the evaluation was stopped before.
    """

    x: Float64[np.ndarray, " columns"]
    y: Float64[np.ndarray, " rows"]
    measures: Mapping[str, Float64[np.ndarray, "rows columns"]]
    corners: Float64[np.ndarray, "3 2"]
    names: tuple[str, str, str]
    evaluated: Bool[np.ndarray, "rows columns"]

    @property
    def losses(self) -> Float64[np.ndarray, "rows columns"]:
        """The measure "loss"."""
        return self.measures["loss"]

    @property
    def accuracies(self) -> Float64[np.ndarray, "rows columns"] | None:
        """The measure "accuracy", if there is one."""
        return self.measures.get("accuracy")


def plane_through(
    w1: Mapping[str, Tensor], w2: Mapping[str, Tensor], w3: Mapping[str, Tensor]
) -> Plane:
    """Lay a plane through three models.

    Parameters
    ----------
    w1, w2, w3 : mapping of str to Tensor
        Of one architecture. Distances are those of all floating-point tensors together, but for
        a batch norm's running statistics.

    Returns
    -------
    Plane

    Raises
    ------
    LandscapeError
        If the three cannot be mixed, or lie on one line.

    Examples
    --------
    >>> import torch
    >>> corners = [{"w": torch.tensor(p)} for p in ([0.0, 1.0], [0.0, 3.0], [4.0, 2.0])]
    >>> plane_through(*corners).corners.tolist()
    [[0.0, 0.0], [2.0, 0.0], [1.0, 4.0]]
    """
    models = checked([w1, w2, w3])
    gram = grams(models[1:], models[0]).sum(0)
    side = np.sqrt(gram[0, 0])
    along = gram[0, 1] / side if side > 0 else 0.0
    height = np.sqrt(max(0.0, gram[1, 1] - along**2))
    if side == 0 or height <= _FLAT * max(side, np.sqrt(gram[1, 1])):
        raise LandscapeError(
            "the three models lie on one line (or two are equal), and a plane needs three that "
            "do not; take `loss_path`, or another model."
        )
    return Plane(read_only(np.array([[0.0, 0.0], [side, 0.0], [along, height]])))


def loss_plane(
    evaluate: Evaluation,
    w1: Mapping[str, Tensor],
    w2: Mapping[str, Tensor],
    w3: Mapping[str, Tensor],
    *,
    x: ArrayLike | None = None,
    y: ArrayLike | None = None,
    names: tuple[str, str, str] = ("w1", "w2", "w3"),
    compute: Compute = Compute(),  # noqa: B008 - frozen
) -> LossPlane:
    """Evaluate a grid of the plane through three models.

    For a picture of the neighbourhood of one model along two random directions (Li et al. 2018),
    let `w2` and `w3` be ``moved(w1, random_direction(w1, seed=0))`` and the same with another
    seed, and `x` and `y` go from minus to plus the directions' length.

    Parameters
    ----------
    evaluate : Evaluation
    w1, w2, w3 : mapping of str to Tensor
        As for `plane_through`.
    x, y : arrays of shape (columns,) and (rows,), optional
        Coordinates in that plane. None means those of ``plane_through(w1, w2, w3).grid()``.
    names : tuple of three str
        Of the models.
    compute : Compute
        If it stops, the rows that come last are not evaluated.

    Returns
    -------
    LossPlane

    Raises
    ------
    LandscapeError
        As `plane_through` and `iterate_mixtures`.

    Examples
    --------
    >>> import torch
    >>> from wskit.landscape import one_by_one
    >>> evaluate = one_by_one(lambda weights: weights["w"].square().sum())
    >>> corners = [{"w": torch.tensor(p)} for p in ([0.0, 0.0], [2.0, 0.0], [1.0, 1.0])]
    >>> loss_plane(evaluate, *corners, x=[0, 3], y=[0, 4]).losses
    array([[ 0.,  9.],
           [16., 25.]])
    """
    models = checked([w1, w2, w3])
    plane = plane_through(*models)
    default = plane.grid()
    columns = default[0] if x is None else _coordinates(x, "x")
    rows = default[1] if y is None else _coordinates(y, "y")
    points = np.stack(np.meshgrid(columns, rows), -1)
    coefficients = plane.coefficients(points.reshape(-1, 2))
    table = evaluate_mixtures(evaluate, models, coefficients, compute=compute)
    shape = points.shape[:2]
    evaluated = (np.arange(len(coefficients)) < len(table)).reshape(shape)
    measures = {}
    for name in table:
        values = np.full(shape, np.nan)
        values[evaluated] = table[name]
        measures[str(name)] = read_only(values)
    return LossPlane(
        read_only(columns), read_only(rows), measures, plane.corners, names, read_only(evaluated)
    )


def _coordinates(values: ArrayLike, what: str) -> np.ndarray:
    found = numbers(values, LandscapeError, what).copy()
    if found.ndim != 1:
        raise LandscapeError(
            f"{what} must be a row of coordinates, got the shape {found.shape}; flatten it."
        )
    return found


def loss_simplex(
    evaluate: Evaluation,
    models: Sequence[Mapping[str, Tensor]],
    *,
    n_points: int,
    seed: int,
    names: Sequence[str] | None = None,
    compute: Compute = Compute(),  # noqa: B008 - frozen
) -> pd.DataFrame:
    """Evaluate points drawn at random inside the simplex whose corners are k models.

    The coefficients are drawn from the flat Dirichlet distribution, Dirichlet(1, ..., 1), which
    is uniform on the simplex.

    Parameters
    ----------
    evaluate : Evaluation
    models : sequence of mapping of str to Tensor
    n_points : int
    seed : int
        Of the coefficients.
    names : sequence of str, optional
        Of the models; None means "w1", "w2", ...
    compute : Compute
        If it stops, the table has the points that were evaluated.

    Returns
    -------
    DataFrame
        A row a point: each model's coefficient under its name, then "loss" and the other
        measures.

    Raises
    ------
    LandscapeError
        As `iterate_mixtures`, or if there is not a name of its own for each model.

    Examples
    --------
    >>> import torch
    >>> from wskit.landscape import one_by_one
    >>> evaluate = one_by_one(lambda weights: weights["w"].sum())
    >>> table = loss_simplex(evaluate, [{"w": torch.eye(3)[i]} for i in range(3)],
    ...                      n_points=2, seed=0)
    >>> list(table), table.loss.round(6).tolist()
    (['w1', 'w2', 'w3', 'loss'], [1.0, 1.0])
    """
    check_whole(n_points, LandscapeError, "n_points")
    columns = [f"w{i + 1}" for i in range(len(models))] if names is None else list(names)
    if not models:
        raise LandscapeError("there are no models; give one at least.")
    coefficients = np.random.default_rng(seed).dirichlet(np.ones(len(models)), n_points)
    table = evaluate_mixtures(evaluate, models, coefficients, compute=compute)
    if len(set(columns) | set(table)) != len(models) + table.shape[1]:
        raise LandscapeError(f"each model needs a name of its own, not a measure's, got {columns}.")
    found = pd.DataFrame(coefficients[: len(table)], columns=columns)
    return pd.concat([found, table], axis=1)
