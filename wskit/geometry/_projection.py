"""Models as points on a plane through weight space."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from wskit.errors import GeometryError
from wskit.geometry._distances import WeightDistances


@dataclass(frozen=True, eq=False)
class UpdateProjection:
    """Models on the principal axes of their updates. Arrays are read-only float64.

    Attributes
    ----------
    coordinates : array of shape (models, components)
        In the units of the weights, measured from the models' mean.
    base : array of shape (components,), or None
        Where the base is projected to; None where the distances have no base.
    explained_variance_ratio : array of shape (components,)
        Share of the models' variance along each axis.
    loadings : array of shape (components, models)
        Each axis as a combination of the models: the unit vector of axis k is the sum of
        ``loadings[k, i] * w_i``. Each row sums to 0.
    """

    coordinates: Float64[np.ndarray, "models components"]
    base: Float64[np.ndarray, " components"] | None
    explained_variance_ratio: Float64[np.ndarray, " components"]
    loadings: Float64[np.ndarray, "components models"]

    def coefficients(self, points: ArrayLike) -> Float64[np.ndarray, "points models"]:
        """Coefficients of the models that give the weights at points of the plane.

        Parameters
        ----------
        points : array of shape (components,) or (points, components)
            In the coordinates of the projection.

        Returns
        -------
        array of shape (points, models)
            The weights at point p are the sum of ``coefficients[p, i] * w_i``. Each row sums to
            1; coefficients may be negative.

        Raises
        ------
        GeometryError
            If the points have not as many coordinates as there are components.
        """
        p = np.atleast_2d(np.asarray(points, dtype=np.float64))
        k, n = self.loadings.shape
        if p.ndim != 2 or p.shape[1] != k:
            raise GeometryError(
                f"points on this projection have {k} coordinates, got the shape {np.shape(points)}."
            )
        return 1 / n + p @ self.loadings


def project_updates(
    distances: WeightDistances, *, n_components: int = 2, group: str | None = None
) -> UpdateProjection:
    r"""Principal component analysis of updates, from the distances between the models.

    With :math:`D_{ij}` the squared distances and :math:`J = I - 11^T/n`, the Gram matrix of the
    models measured from their mean is :math:`B = -J D J/2 = V \Lambda V^T`, and the coordinates
    are :math:`V \Lambda^{1/2}` (classical scaling of Euclidean distances, which is PCA). No weight
    is read again, and the result is that of PCA of the flattened weights, or of the updates: the
    base cancels in the mean.

    Parameters
    ----------
    distances : WeightDistances
    n_components : int, default 2
    group : str, optional
        Of the distances: a layer, a tensor. None means all weights.

    Returns
    -------
    UpdateProjection
        Of each axis, the coordinate that is largest in size is positive.

    Raises
    ------
    GeometryError
        If the models span fewer dimensions than `n_components`.

    Examples
    --------
    >>> import torch
    >>> from wskit.geometry import weight_distances
    >>> models = [{"w": torch.tensor([x, 0.0])} for x in (0.0, 1.0, 5.0)]
    >>> projection = project_updates(weight_distances(models), n_components=1)
    >>> projection.coordinates.round(6).ravel(), projection.explained_variance_ratio.round(6)
    (array([-2., -1.,  3.]), array([1.]))
    >>> (projection.coefficients([2.0]) @ [0.0, 1.0, 5.0]).round(6)  # 2 away from the mean of 2
    array([4.])
    """
    squared = distances.euclidean(group) ** 2
    n = len(squared)
    means = squared.mean(axis=0)
    gram = -0.5 * (squared - means - means[:, None] + means.mean())
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1], vectors[:, ::-1]
    rank = int(np.count_nonzero(values > 1e-12 * max(values[0], 0.0))) if n else 0
    if not 1 <= n_components <= rank:
        raise GeometryError(
            f"{n_components} components were asked for, and these {n} models span {rank} "
            f"dimensions; give n_components from 1 to {rank}, or more models."
        )
    total = values[values > 0].sum()
    values, vectors = values[:n_components], vectors[:, :n_components]
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, np.arange(n_components)])
    loadings = (vectors / np.sqrt(values)).T
    loadings -= loadings.mean(axis=1, keepdims=True)  # rounding only: vectors are orthogonal to 1
    base = None
    if distances.squared_updates is not None:
        # Its products with the models, measured from their mean, but for a constant that the
        # loadings, which sum to 0, take out.
        base = loadings @ (0.5 * (means - distances.update_norms(group) ** 2))
    return UpdateProjection(
        coordinates=_read_only(vectors * np.sqrt(values)),
        base=None if base is None else _read_only(base),
        explained_variance_ratio=_read_only(values / total),
        loadings=_read_only(loadings),
    )


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
