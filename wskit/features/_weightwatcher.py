"""The table of WeightWatcher 0.7.7, number for number, for comparison with it."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from tqdm.auto import tqdm

from wskit.errors import FitError
from wskit.features._stacks import TEXT
from wskit.fits import MarchenkoPastur, fit_power_law
from wskit.spectra import inventory, matrices

_EVALS_THRESHOLD = 1e-5  # absolute: below it an eigenvalue is not fitted
_WEAK_RANK = 1e-6  # absolute as well
_EPS = np.finfo(float).eps
# The constants of WeightWatcher 0.7.7: kernel width, grid, least density, penalty of a residual.
_BANDWIDTH, _N_GRID, _LEAST_DENSITY, _PENALTY = 0.1, 1000, 0.01, 1000.0


def table(
    weights: Mapping[str, Tensor], *, device: torch.device | str | None, progress: bool
) -> pd.DataFrame:
    """Make WeightWatcher's columns for each 2-D and 4-D weight, without the random ones."""
    listed = inventory(weights)
    listed = listed[listed["shape"].map(len).isin([2, 4]) & (listed["kind"] != "low-rank")]
    rows = []
    for entry in tqdm(listed.to_dict("records"), disable=not progress, unit="layer"):
        longname = entry["name"].removesuffix(".weight")
        row = {"name": longname.rpartition(".")[2], "longname": longname, "reason": entry["reason"]}
        if not entry["reason"]:
            name = entry["name"]
            W = dict(matrices({name: weights[name]}))[name]
            # conv2d_norm: WeightWatcher multiplies the slices of a convolution by sqrt(1/2).
            factor = np.sqrt(0.5) if W.ndim == 3 else 1.0
            exact = factor * W.to(device=device, dtype=torch.float64)
            if torch.isfinite(exact).all():
                singular = torch.linalg.svdvals(exact).cpu().numpy().reshape(-1, entry["M"])
                row |= _row(singular, entry["N"], entry["M"])
            else:
                row["reason"] = f"tensor {name!r} holds NaN or inf; the model diverged."
        rows.append(row)
    return pd.DataFrame(rows, columns=_COLUMNS).astype({"reason": TEXT})


_COLUMNS = ["name", "longname", "N", "M", "Q", "rf", "num_evals"]
_COLUMNS += ["alpha", "xmin", "xmax", "D", "sigma", "num_pl_spikes", "status", "warning"]
_COLUMNS += ["norm", "log_norm", "lambda_max", "spectral_norm", "log_spectral_norm"]
_COLUMNS += ["alpha_weighted", "log_alpha_norm", "stable_rank", "matrix_rank", "entropy"]
_COLUMNS += ["sv_min", "sv_max", "rank_loss", "weak_rank_loss"]
_COLUMNS += ["sigma_mp", "W_scale", "bulk_min", "bulk_max", "mp_softrank", "num_spikes", "reason"]


def _row(singular: Float64[np.ndarray, "k M"], N: int, M: int) -> dict[str, object]:
    e = np.sort(singular.ravel() ** 2)
    total, largest = e.sum(), e[-1]
    rank = int(np.count_nonzero(np.sqrt(e) > np.sqrt(largest) * len(e) * _EPS))
    p = e / total + 1e-10
    lost = singular <= singular.max(axis=1, keepdims=True) * N * _EPS
    row: dict[str, object] = {
        "N": N,
        "M": M,
        "Q": N / M,
        "rf": len(singular),
        "num_evals": e.size,
        "norm": total,
        "log_norm": np.log10(total),
        "lambda_max": largest,
        "spectral_norm": largest,
        "log_spectral_norm": np.log10(largest),
        "stable_rank": total / largest,
        "matrix_rank": rank,
        "entropy": -(p * np.log(p)).sum() / np.log(rank),
        "sv_min": singular.min(axis=1).max(),  # sic: the largest of the slices' smallest
        "sv_max": singular.max(),
        "rank_loss": int(lost.sum()),
        "weak_rank_loss": int(np.count_nonzero(e < _WEAK_RANK)),
    }
    try:
        fit = fit_power_law(e[e > _EVALS_THRESHOLD], rtol=0.0)
        sigma, edge = fit_bulk(e, N, M)
    except FitError as error:
        return row | {"status": "failed", "warning": "", "reason": str(error)}
    law, scale = MarchenkoPastur(sigma, N, M), np.sqrt(e.size / total)
    warning = "over-trained" if fit.alpha < 2 else "under-trained" if fit.alpha > 6 else ""
    return row | {
        "alpha": fit.alpha,
        "xmin": fit.xmin,
        "xmax": largest,
        "D": fit.ks,
        "sigma": fit.sigma,
        "num_pl_spikes": fit.n_tail,
        "status": "success",
        "warning": warning,
        "alpha_weighted": fit.alpha * np.log10(largest),
        "log_alpha_norm": np.log10(np.sum(e**fit.alpha)),
        "sigma_mp": sigma * scale * np.sqrt(N),
        "W_scale": scale,
        "bulk_min": law.lambda_minus,
        "bulk_max": law.lambda_plus,
        "mp_softrank": law.lambda_plus / largest,
        "num_spikes": np.count_nonzero(e > edge),
    }


def fit_bulk(values: Float[np.ndarray, " n"], N: int, M: int) -> tuple[float, float]:
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
            f'{scaled[-1]:.0f} times the mean; use convention="wskit".'
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
