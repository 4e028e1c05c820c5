"""WeightWatcher's Marchenko-Pastur fit, number for number, for comparison with its tables."""

import numpy as np
from jaxtyping import Float

from wskit.errors import FitError

# The constants of WeightWatcher 0.7.7: kernel width, grid, least density, penalty of a residual.
_BANDWIDTH, _N_GRID, _LEAST_DENSITY, _PENALTY = 0.1, 1000, 0.01, 1000.0


def fit_weightwatcher(values: Float[np.ndarray, " n"], N: int, M: int) -> tuple[float, float]:
    """Find WeightWatcher's sigma and its edge of the spikes.

    The eigenvalues are scaled to a mean of 1, and a triangular kernel estimates their density.
    sigma minimises the squared residuals of the law where the density is above 0.01, with a
    penalty where the law ends before the peak of the density or beyond the data. For N = M the
    singular values are compared with (4 - x^2)^(1/2)/(pi sigma^2) instead. WeightWatcher estimates
    the density again for every sigma that it tries; doing it once, and the whole grid of sigma
    together, changes nothing in the result.

    Parameters
    ----------
    values : Float[ndarray, "n"]
        Eigenvalues of W^T W (no 1/N), ascending.
    N, M : int
        Rows and columns of W, N >= M.

    Returns
    -------
    tuple of float
        sigma, the standard deviation of the entries of W, and the edge in the units of `values`.

    Raises
    ------
    FitError
        If no grid point has a density above 0.01; WeightWatcher fails there too.
    """
    from scipy.optimize import fmin

    scale = (np.sqrt(values.size) / np.sqrt(values.sum())) ** 2  # WeightWatcher's W_scale^2
    scaled = scale * values
    root = np.sqrt(M / N)
    points = np.sqrt(scaled) if N == M else scaled
    x = np.linspace(0, points[-1] + 0.5, _N_GRID)
    density = _triangular_kernel(points, x)
    dense = density > _LEAST_DENSITY
    if not dense.any():
        raise FitError(
            "WeightWatcher's density estimate misses the whole bulk, as the largest eigenvalue is "
            f'{scaled[-1]:.0f} times the mean; use method="quantiles".'
        )
    x, density = x[dense], density[dense]
    peak = x[density.argmax()]

    circle = np.sqrt(np.maximum(4 - x * x, 0)) / np.pi if N == M else None
    factor = 1 / np.where(x > 0, 2 * np.pi * x * root**2, 1)

    def cost(sigma: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
        if circle is not None:
            law = circle / sigma[:, None] ** 2 - density
            return np.einsum("ij,ij->i", law, law)
        out = np.full(sigma.size, _PENALTY**2 * x.size)
        low, high = (sigma * (1 - root)) ** 2, (sigma * (1 + root)) ** 2
        inside = (high >= peak) & (high <= x[-1]) & (low <= peak)
        s, a, b = (values[inside, None] for values in (sigma, low, high))
        # In place: these arrays take all the time.
        law = b - x
        law *= x - a
        np.sqrt(np.maximum(law, 0, out=law), out=law)
        law *= factor
        law /= s * s
        law -= density
        out[inside] = np.einsum("ij,ij->i", law, law)
        return out

    largest = np.sqrt(scaled[-1]) / (1 + root)
    grid = np.mgrid[0.05 * largest : 2.0 * largest : 0.01 * largest]
    best = grid[cost(grid).argmin()]
    sigma = float(fmin(lambda s: cost(s)[0], best, disp=False)[0])

    upper = (sigma * (1 + root)) ** 2
    edge = upper + np.sqrt(root * (upper / M) ** (2 / 3))
    return sigma / np.sqrt(scale * N), float(edge / scale)


def _triangular_kernel(
    points: Float[np.ndarray, " n"], x: Float[np.ndarray, " k"]
) -> Float[np.ndarray, " k"]:
    """Return the mean, at `x`, of triangles of half-width `_BANDWIDTH` around ascending points.

    The sum of ``h - abs(x - p)`` over the points within h of x needs only the number of points on
    each side of x and their sums, which cumulative sums give.
    """
    h = _BANDWIDTH
    low, middle, high = (np.searchsorted(points, x + shift) for shift in (-h, 0.0, h))
    sums = np.concatenate([[0.0], np.cumsum(points)])
    left = (middle - low) * (h - x) + (sums[middle] - sums[low])
    right = (high - middle) * (h + x) - (sums[high] - sums[middle])
    return (left + right) / (points.size * h * h)
