"""The Marchenko-Pastur law: the eigenvalues of a random matrix, and what sticks out of them."""

import functools
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from wskit.errors import FitError

# The Tracy-Widom law of real matrices as a shifted gamma law (Chiani 2014, table 1).
_TW_SHAPE, _TW_SCALE, _TW_SHIFT = 46.446, 0.186054, 9.84801
# How often the largest eigenvalue of pure noise stays below the edge.
_EDGE_LEVEL = 0.99
# Rounds of fit and removal of spikes. Most fits need four or five; two states may alternate.
_MAX_ROUNDS = 49


@dataclass(frozen=True)
class MarchenkoPastur:
    r"""The law of the eigenvalues of W^T W for a large N x M matrix W of independent entries.

    With entries of mean 0 and standard deviation sigma, and N >= M, the density is

    .. math:: p(x) = \sqrt{(\lambda_+ - x)(x - \lambda_-)} \big/ (2 \pi \sigma^2 M x),
       \qquad \lambda_\pm = \sigma^2 (\sqrt N \pm \sqrt M)^2.

    The eigenvalues are those of W^T W, without a 1/N: they are N times those of the textbooks.

    Attributes
    ----------
    sigma : float
        Standard deviation of the entries of W.
    N, M : int
        Rows and columns of W, N >= M.
    lambda_minus, lambda_plus : float
        Where the density begins and ends, in the units of the eigenvalues.
    tw_scale : float
        The spread of the largest eigenvalue around `lambda_plus`: it is about
        lambda_plus + tw_scale * T, and T follows the Tracy-Widom law (mean -1.21, standard
        deviation 1.27). sigma^2 (sqrt N + sqrt M)(1/sqrt N + 1/sqrt M)^(1/3), Johnstone 2001.

    Raises
    ------
    FitError
        If sigma is not positive, or N >= M >= 1 does not hold.

    References
    ----------
    Marchenko and Pastur, Math. USSR-Sbornik 1 (1967). Johnstone, "On the distribution of the
    largest eigenvalue in principal components analysis", Annals of Statistics 29 (2001).

    Examples
    --------
    >>> law = MarchenkoPastur(sigma=0.5, N=400, M=100)
    >>> law.lambda_minus, law.lambda_plus
    (25.0, 225.0)
    >>> law.cdf([25.0, 100.0, 225.0]).round(3)
    array([0.   , 0.553, 1.   ])
    """

    sigma: float
    N: int
    M: int
    lambda_minus: float = field(init=False)
    lambda_plus: float = field(init=False)
    tw_scale: float = field(init=False)

    def __post_init__(self) -> None:
        if not (self.N >= self.M >= 1 and 0 < self.sigma < np.inf):
            raise FitError(
                "a Marchenko-Pastur law needs a positive sigma and N >= M >= 1, got "
                f"sigma={self.sigma}, N={self.N}, M={self.M}; transpose the matrix if M > N."
            )
        n, m, variance = np.sqrt(self.N), np.sqrt(self.M), self.sigma**2
        derived = {
            "lambda_minus": variance * (n - m) ** 2,
            "lambda_plus": variance * (n + m) ** 2,
            "tw_scale": variance * (n + m) * (1 / n + 1 / m) ** (1 / 3),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, float(value))

    def pdf(self, x: ArrayLike) -> Float[np.ndarray, " k"]:
        """Return the density at the eigenvalues `x` of W^T W (no 1/N); its integral is 1.

        For a square matrix it grows without bound towards 0, and is inf there.
        """
        x = np.atleast_1d(np.asarray(x, dtype=np.float64))
        density = np.where(np.isnan(x), np.nan, 0.0)
        inside = (x > self.lambda_minus) & (x < self.lambda_plus)
        y = x[inside]
        root = np.sqrt((self.lambda_plus - y) * (y - self.lambda_minus))
        density[inside] = root / (2 * np.pi * self.sigma**2 * self.M * y)
        if self.lambda_minus == 0:
            density[x == 0] = np.inf
        return density

    def cdf(self, x: ArrayLike) -> Float[np.ndarray, " k"]:
        """Return the share of the eigenvalues of W^T W (no 1/N) at or below `x`."""
        a, b = self.lambda_minus, self.lambda_plus
        y = np.clip(np.atleast_1d(np.asarray(x, dtype=np.float64)), a, b)
        # The antiderivative of sqrt((b - y)(y - a))/y. Its arcsines are written as angles of a
        # triangle, which keeps their digits at both ends.
        low, high = np.sqrt(y - a), np.sqrt(b - y)
        share = low * high + (a + b) * np.arctan2(low, high)
        share -= 2 * np.sqrt(a * b) * np.arctan2(np.sqrt(b) * low, np.sqrt(a) * high)
        return np.clip(share / (2 * np.pi * self.sigma**2 * self.M), 0, 1)

    def quantile(self, p: ArrayLike) -> Float[np.ndarray, " k"]:
        """Return the eigenvalue of W^T W (no 1/N) below which a share `p` lies: inverts `cdf`."""
        x, share = _unit_law(self.N, self.M)
        return self.sigma**2 * np.interp(np.atleast_1d(np.asarray(p, dtype=np.float64)), share, x)


@dataclass(frozen=True)
class MPFit(MarchenkoPastur):
    """A Marchenko-Pastur law fitted to the eigenvalues of W^T W (no 1/N).

    Attributes
    ----------
    sigma, N, M, lambda_minus, lambda_plus, tw_scale
        The law, see `MarchenkoPastur`.
    n_matrices : int
        Number of N x M matrices whose eigenvalues are pooled.
    edge : float
        An eigenvalue beyond it counts as a spike.
    n_spikes : int
        Number of spikes.
    soft_rank : float
        lambda_plus/lambda_max, the MP soft rank (Martin and Mahoney 2021): 1 for noise, near 0
        if the largest eigenvalue is far outside of the bulk.
    ks : float
        Kolmogorov-Smirnov distance between the eigenvalues that are not spikes and the law that
        was fitted to them, which is that of an (N - k) x (M - k) matrix where k spikes per matrix
        were left out.
    """

    n_matrices: int
    edge: float
    n_spikes: int
    soft_rank: float
    ks: float


def fit_marchenko_pastur(
    eigenvalues: ArrayLike,
    *,
    N: int,
    M: int,
) -> MPFit:
    r"""Fit the Marchenko-Pastur law to the bulk of a spectrum, and count the spikes.

    The fit finds the sigma that brings the quantiles of the law nearest, by least squares, to the
    sorted singular values. Eigenvalues beyond the `edge` are spikes; they are taken out, and
    the fit is repeated until nothing changes. The k spikes of a matrix also take k dimensions from
    its noise, so that the rest is compared with the law of an (N - k) x (M - k) matrix. The edge
    is the 99 % point of the largest eigenvalue of all `n_matrices` under noise, lambda_plus +
    tw_scale * t, with t from the shifted-gamma form of the Tracy-Widom law (Chiani 2014).

    Parameters
    ----------
    eigenvalues : array of any shape
        Eigenvalues of W^T W (no 1/N), zeros included: M for each of the matrices, in any order.
    N, M : int
        Rows and columns of the matrices, N >= M.

    Returns
    -------
    MPFit

    Raises
    ------
    FitError
        If the number of eigenvalues is not a multiple of M, or they are not finite, negative
        beyond rounding, or mostly 0.

    References
    ----------
    Chiani, "Distribution of the largest eigenvalue for real Wishart and Gaussian random matrices
    and a simple approximation for the Tracy-Widom distribution", Journal of Multivariate Analysis
    129 (2014), arXiv:1209.3394. Martin and Mahoney, JMLR 22(165) (2021), arXiv:1810.01075.

    Examples
    --------
    Noise of standard deviation 0.1 and one direction on top of it:

    >>> W = 0.1 * np.random.default_rng(0).standard_normal((400, 200))
    >>> W[:, 0] += 1.0
    >>> fit = fit_marchenko_pastur(np.linalg.svd(W, compute_uv=False) ** 2, N=400, M=200)
    >>> round(fit.sigma, 3), fit.n_spikes
    (0.1, 1)
    """
    values = sort_eigenvalues(eigenvalues, N, M)
    sigma, edge, k = _fit_quantiles(values, N, M)
    bulk = values[values <= edge]
    steps = np.arange(bulk.size + 1) / max(bulk.size, 1)
    share = MarchenkoPastur(sigma, N - k, M - k).cdf(bulk)
    return MPFit(
        sigma=sigma,
        N=N,
        M=M,
        n_matrices=values.size // M,
        edge=edge,
        n_spikes=values.size - bulk.size,
        soft_rank=float(MarchenkoPastur(sigma, N, M).lambda_plus / values[-1]),
        ks=float(np.maximum(share - steps[:-1], steps[1:] - share).max(initial=0)),
    )


def sort_eigenvalues(eigenvalues: ArrayLike, N: int, M: int) -> Float[np.ndarray, " n"]:
    """Return the eigenvalues in ascending order; refuse those that cannot be of N x M matrices."""
    values = np.sort(np.asarray(eigenvalues, dtype=np.float64), axis=None)
    if not N >= M >= 1:
        raise FitError(f"W is N x M with N >= M >= 1, got N={N}, M={M}; transpose the matrix.")
    if values.size == 0 or values.size % M:
        raise FitError(
            f"the number of eigenvalues must be a multiple of M={M}, got {values.size}; pass all "
            "of them, zeros included."
        )
    if not np.isfinite(values).all() or values[0] < -1e-9 * values[-1] or values[-1] <= 0:
        raise FitError(
            "the eigenvalues of W^T W must be finite, non-negative and not all zero, got values "
            f"from {values.min():g} to {values.max():g}."
        )
    return np.maximum(values, 0)


# A network has many layers of few shapes. 64 KiB per entry.
@functools.lru_cache(maxsize=64)
def _unit_law(N: int, M: int) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Tabulate the law of sigma = 1: points from edge to edge, and the share at or below each."""
    # Even steps in the angle resolve the square roots at both ends.
    law = MarchenkoPastur(1.0, N, M)
    sine = np.sin(np.linspace(0, np.pi / 2, 4001))
    x = law.lambda_minus + (law.lambda_plus - law.lambda_minus) * sine**2
    return x, law.cdf(x)


def _fit_quantiles(values: Float[np.ndarray, " n"], N: int, M: int) -> tuple[float, float, int]:
    """Match quantiles of ascending eigenvalues.

    Returns
    -------
    tuple of float, float and int
        sigma, the edge of the spikes, and the spikes per matrix that were left out of the fit.
    """
    from scipy.special import gammaincinv

    n_matrices = values.size // M
    t = _TW_SCALE * gammaincinv(_TW_SHAPE, _EDGE_LEVEL ** (1 / n_matrices)) - _TW_SHIFT
    # The fit starts from the median, which a few spikes hardly move.
    median = float(np.median(values))
    if median == 0:
        raise FitError(
            f"a Marchenko-Pastur law needs a bulk, and at least half of {values.size} eigenvalues "
            "are 0: the matrix has lost its rank."
        )
    unit = MarchenkoPastur(1.0, N, M)
    unit_edge = unit.lambda_plus + t * unit.tw_scale
    singular = np.sqrt(values)
    sigma = np.sqrt(median / unit.quantile([0.5])[0])
    fitted: dict[int, float] = {}
    for _ in range(_MAX_ROUNDS):
        n_bulk = int(np.searchsorted(values, sigma**2 * unit_edge, side="right"))
        n_bulk = max(n_bulk, (values.size + 1) // 2)
        k = round((values.size - n_bulk) / n_matrices)
        if n_bulk not in fitted:
            x, share = _unit_law(N - k, M - k)
            quantiles = np.sqrt(np.interp((np.arange(n_bulk) + 0.5) / n_bulk, share, x))
            fitted[n_bulk] = singular[:n_bulk] @ quantiles / (quantiles @ quantiles)
        elif fitted[n_bulk] == sigma:
            break
        sigma = fitted[n_bulk]
    return float(sigma), float(sigma**2 * unit_edge), k
