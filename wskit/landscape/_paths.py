"""Losses on the line through two models, the barrier between them, and losses on a plane."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike
from torch import Tensor, nn

from wskit.errors import LandscapeError
from wskit.landscape._evaluate import Evaluator, evaluate_mixtures, grams, read_models

_FLAT = 1e-5  # of a triangle: its height over its side


@dataclass(frozen=True, eq=False)
class LossPath:
    """Losses on the line w(alpha) = (1 - alpha) a + alpha b.

    Attributes
    ----------
    alphas : array of shape (points,)
        0 is `a`, 1 is `b`; the line goes on beyond the two.
    measures : mapping of str to array of shape (points,)
        "loss" and the other measures of the evaluator; read-only.
    ends : pair of str
        Names of `a` and `b`.
    length : float
        Euclidean distance of `a` and `b`, without running statistics. ``alphas * length`` is a
        coordinate in the units of the weights.
    """

    alphas: Float64[np.ndarray, " points"]
    measures: Mapping[str, Float64[np.ndarray, " points"]]
    ends: tuple[str, str]
    length: float

    @property
    def losses(self) -> Float64[np.ndarray, " points"]:
        """The measure "loss"."""
        return self.measures["loss"]

    @property
    def accuracies(self) -> Float64[np.ndarray, " points"] | None:
        """The measure "accuracy", if there is one."""
        return self.measures.get("accuracy")


def loss_path(
    evaluate: Evaluator,
    a: Mapping[str, Tensor] | nn.Module,
    b: Mapping[str, Tensor] | nn.Module,
    *,
    alphas: ArrayLike | None = None,
    names: tuple[str, str] = ("a", "b"),
) -> LossPath:
    """Evaluate the line through two models, between them and beyond.

    Parameters
    ----------
    evaluate : Evaluator
    a, b : mapping of str to Tensor, or nn.Module
        Two models of one architecture.
    alphas : array of shape (points,), optional
        Points of the line; None means -0.5, -0.45, ..., 1.5.
    names : pair of str, default ("a", "b")

    Returns
    -------
    LossPath

    Raises
    ------
    LandscapeError
        As `evaluate_mixtures`.

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
    models = read_models([a, b])
    where = np.linspace(-0.5, 1.5, 41) if alphas is None else np.array(alphas, dtype=np.float64)
    coefficients = np.stack([1 - where, where], 1)
    table = evaluate_mixtures(evaluate, models, coefficients)
    measures = {str(name): _lock(table[name].to_numpy().copy()) for name in table}
    length = float(np.sqrt(grams(models[1:], models[0]).sum()))
    return LossPath(_lock(where), measures, names, length)


def barrier(path: LossPath) -> float:
    r"""Return how far the loss rises on the segment above the straight line between its ends.

    .. math:: \max_{0 \le \alpha \le 1} \big[ L(w(\alpha))
              - (1 - \alpha) L(a) - \alpha L(b) \big]

    This is the definition of Entezari et al. 2021 (arXiv:2110.06296). Frankle et al. 2020
    (arXiv:1912.05671) subtract the mean of the two ends instead of the line; the two agree where
    the ends' losses do. The maximum is over the points of the path, and at least 0.

    Parameters
    ----------
    path : LossPath
        With points at alpha 0 and 1. Points beyond these are left out.

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


@dataclass(frozen=True, eq=False)
class Plane:
    """The plane through three models w1, w2, w3, with an orthonormal basis (Gram-Schmidt).

    With u = w2 - w1 and v = w3 - w1, the point (x, y) is w1 + x e1 + y e2, where e1 = u/|u| and
    e2 is the part of v that is orthogonal to u, normalised (Garipov et al. 2018,
    arXiv:1802.10026; Izmailov et al. 2018, arXiv:1803.05407). Coordinates are in the units of the
    weights. e1 and e2 are never computed: a point is a combination of the three models.

    Attributes
    ----------
    corners : array of shape (3, 2)
        Coordinates of the three models: (0, 0), (|u|, 0) and the third.
    """

    corners: Float64[np.ndarray, "3 2"]

    def coefficients(self, points: ArrayLike) -> Float64[np.ndarray, "points 3"]:
        """Return the coefficients of the three models that give the points (x, y).

        Parameters
        ----------
        points : array of shape (points, 2)

        Returns
        -------
        array of shape (points, 3)
            Each row sums to 1; none is negative inside the triangle.

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
            Whether to go as far in y as in x. A triangle that is flat, such as that of two models
            and a third one close to their line, has next to no height to look at otherwise.

        Returns
        -------
        pair of arrays of shape (n,)

        Examples
        --------
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
        "loss" and the other measures of the evaluator; read-only.
    corners : array of shape (3, 2)
        Coordinates of the three models.
    names : tuple of three str
    """

    x: Float64[np.ndarray, " columns"]
    y: Float64[np.ndarray, " rows"]
    measures: Mapping[str, Float64[np.ndarray, "rows columns"]]
    corners: Float64[np.ndarray, "3 2"]
    names: tuple[str, str, str]

    @property
    def losses(self) -> Float64[np.ndarray, "rows columns"]:
        """The measure "loss"."""
        return self.measures["loss"]


def plane_through(
    w1: Mapping[str, Tensor] | nn.Module,
    w2: Mapping[str, Tensor] | nn.Module,
    w3: Mapping[str, Tensor] | nn.Module,
) -> Plane:
    """Lay a plane through three models.

    Parameters
    ----------
    w1, w2, w3 : mapping of str to Tensor, or nn.Module
        Three models of one architecture. Distances are over all floating-point tensors except the
        running statistics of batch norms.

    Returns
    -------
    Plane

    Raises
    ------
    LandscapeError
        If the models differ in names or shapes, hold NaN or inf, or lie on one line.

    Examples
    --------
    >>> import torch
    >>> corners = [{"w": torch.tensor(p)} for p in ([0.0, 1.0], [0.0, 3.0], [4.0, 2.0])]
    >>> plane_through(*corners).corners.tolist()
    [[0.0, 0.0], [2.0, 0.0], [1.0, 4.0]]
    """
    first, *others = read_models([w1, w2, w3])
    gram = grams(others, first).sum(0)
    side = np.sqrt(gram[0, 0])
    along = gram[0, 1] / side if side > 0 else 0.0
    height = np.sqrt(max(0.0, gram[1, 1] - along**2))
    if side == 0 or height <= _FLAT * max(side, np.sqrt(gram[1, 1])):
        raise LandscapeError(
            "the three models lie on one line (or two are equal), and a plane needs three that "
            "do not; take `loss_path`, or another model."
        )
    return Plane(_lock(np.array([[0.0, 0.0], [side, 0.0], [along, height]])))


def loss_plane(
    evaluate: Evaluator,
    w1: Mapping[str, Tensor] | nn.Module,
    w2: Mapping[str, Tensor] | nn.Module,
    w3: Mapping[str, Tensor] | nn.Module,
    *,
    x: ArrayLike | None = None,
    y: ArrayLike | None = None,
    names: tuple[str, str, str] = ("w1", "w2", "w3"),
) -> LossPlane:
    """Evaluate a grid of the plane through three models.

    For a picture of the neighbourhood of one model along two random directions (Li et al. 2018),
    let `w2` and `w3` be the model plus a `random_direction` each, and let `x` and `y` go from
    minus to plus the length of the directions.

    Parameters
    ----------
    evaluate : Evaluator
    w1, w2, w3 : mapping of str to Tensor, or nn.Module
        As for `plane_through`.
    x, y : arrays of shape (columns,) and (rows,), optional
        Coordinates in that plane. None means those of ``plane_through(w1, w2, w3).grid()``.
    names : tuple of three str
        Names of the models.

    Returns
    -------
    LossPlane

    Raises
    ------
    LandscapeError
        As `plane_through` and `evaluate_mixtures`.

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
    models = read_models([w1, w2, w3])
    plane = plane_through(*models)
    default = plane.grid()
    columns = default[0] if x is None else np.array(x, dtype=np.float64)
    rows = default[1] if y is None else np.array(y, dtype=np.float64)
    points = np.stack(np.meshgrid(columns, rows), -1)
    coefficients = plane.coefficients(points.reshape(-1, 2))
    table = evaluate_mixtures(evaluate, models, coefficients)
    shape = points.shape[:2]
    measures = {str(name): _lock(table[name].to_numpy().reshape(shape).copy()) for name in table}
    return LossPlane(_lock(columns), _lock(rows), measures, plane.corners, names)


def _lock(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
