"""Power laws fitted to the tail of a sample, and the exact search for where the tail begins."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from wskit._base.checks import check_choice
from wskit.errors import FitError

Method = Literal["ks", "hill"]

# Columns at which all candidates are compared first; more of them lie in the upper tail.
_N_PROBES = 12


@dataclass(frozen=True)
class PowerLawFit:
    r"""A power-law tail p(x) = (alpha - 1)/xmin (x/xmin)^(-alpha) for x >= xmin.

    Attributes
    ----------
    alpha : float
        The exponent.
    xmin : float
        Where the tail begins, in the units of the data.
    ks : float
        Kolmogorov-Smirnov distance between the tail and the fitted law, in [0, 1].
    sigma : float
        Standard error of `alpha`, (alpha - 1)/sqrt(n_tail).
    n_tail : int
        Number of values in the tail.
    n : int
        Number of values above the noise threshold.
    """

    alpha: float
    xmin: float
    ks: float
    sigma: float
    n_tail: int
    n: int

    def pdf(self, x: ArrayLike) -> Float[np.ndarray, " k"]:
        """Return the density of the tail at `x`: its integral is 1, and it is 0 below xmin.

        Examples
        --------
        >>> PowerLawFit(alpha=3.0, xmin=1.0, ks=0.1, sigma=0.2, n_tail=100, n=200).pdf([0.5, 1, 2])
        array([0.  , 2.  , 0.25])
        """
        ratio = np.atleast_1d(np.asarray(x, dtype=np.float64)) / self.xmin
        density = np.where(np.isnan(ratio), np.nan, 0.0)
        tail = ratio >= 1
        density[tail] = (self.alpha - 1) / self.xmin * ratio[tail] ** -self.alpha
        return density


def fit_power_law(
    x: ArrayLike,
    *,
    method: Method = "ks",
    xmin: float | None = None,
    rtol: float = 1e-12,
) -> PowerLawFit:
    r"""Fit a power law to the tail of `x` by maximum likelihood.

    For a tail x_1 <= ... <= x_n that begins at xmin, the exponent is (Clauset et al. 2009,
    eq. 3.1)

    .. math:: \alpha = 1 + n \Big/ \sum_{i=1}^n \ln (x_i / x_{min}).

    Parameters
    ----------
    x : array of any shape
        Non-negative values, such as the eigenvalues of W^T W.
    method : {"ks", "hill"}, default "ks"
        Where the tail begins if `xmin` is None. "ks" tries every value as xmin and keeps the one
        with the smallest Kolmogorov-Smirnov distance D = max abs(F(x) - S(x)), where S(x) is the
        share of the tail strictly below x (Clauset et al., section 3.3). The search is exact: it
        skips no value that could win. "hill" takes the k = n // 2 largest values as the tail and
        the next smaller value as xmin (Hill 1975).
    xmin : float, optional
        Where the tail begins. None leaves it to `method`.
    rtol : float, default 1e-12
        Values of at most ``rtol * max(x)`` are dropped as noise of the eigensolver. The threshold
        is relative, so that alpha is the same for ``x`` and for ``c * x``.

    Returns
    -------
    PowerLawFit
        `xmin` is in the units of `x`; the rest has no units.

    Raises
    ------
    FitError
        If `x` holds NaN, inf or negative values, if no tail has two different values, or if
        both `xmin` and "hill" are given.

    References
    ----------
    Clauset, Shalizi and Newman, "Power-law distributions in empirical data", SIAM Review 51
    (2009), arXiv:0706.1062. Hill, "A simple general approach to inference about the tail of a
    distribution", Annals of Statistics 3 (1975).

    Examples
    --------
    With xmin = 1 the mean logarithm of the tail is (0 + 1 + 2)/3 = 1, hence alpha = 2:

    >>> fit_power_law(np.exp([0.0, 1.0, 2.0]), xmin=1.0).alpha
    2.0

    Hill's tail of four values is the upper two, measured from exp(1):

    >>> round(fit_power_law(np.exp([0.0, 1.0, 2.0, 4.0]), method="hill").alpha, 6)
    1.5
    """
    check_choice(method, Method, FitError, "method")
    values = above_noise(x, rtol)
    if method == "hill":
        k = values.size // 2
        if xmin is not None or k == 0:
            raise FitError(
                'method="hill" needs at least 2 values and finds xmin itself, got '
                f"{values.size} values and xmin={xmin}."
            )
        return _fit_tail(values, values.size - k, values[-k - 1])
    if xmin is None:
        t = all_tails(values)
        start = int(t.start[best_xmin(t)[0]])
        return _fit_tail(values, start, values[start])
    if not 0 < xmin < np.inf:
        raise FitError(f"xmin must be positive and finite, got {xmin}.")
    return _fit_tail(values, int(np.searchsorted(values, xmin)), xmin)


def ks_curve(x: ArrayLike) -> pd.DataFrame:
    """Fit the tail that begins at each value: the candidates of `fit_power_law`.

    Parameters
    ----------
    x : array of any shape
        Non-negative values, such as the eigenvalues of W^T W.

    Returns
    -------
    DataFrame
        One row per candidate, ascending: xmin (units of `x`), alpha, ks and n_tail.

    Raises
    ------
    FitError
        As `fit_power_law`.

    Examples
    --------
    >>> ks_curve(np.exp([0.0, 1.0, 2.0])).round(3).values.tolist()
    [[1.0, 2.0, 0.299, 3.0], [2.718, 3.0, 0.365, 2.0]]
    """
    values = above_noise(x)
    t = all_tails(values)
    candidates = range(t.exponent.size)
    start = t.start[: t.exponent.size]
    return pd.DataFrame(
        {
            "xmin": values[start],
            "alpha": 1 + t.exponent,
            "ks": [t.row(i).max() for i in candidates],
            "n_tail": t.n - start,
        }
    )


def above_noise(x: ArrayLike, rtol: float = 1e-12) -> Float[np.ndarray, " n"]:
    """Return the values above ``rtol * max(x)`` in ascending order; refuse NaN and negatives."""
    values = np.sort(np.asarray(x, dtype=np.float64), axis=None)
    n_bad = np.count_nonzero(~np.isfinite(values))
    if values.size == 0 or n_bad:
        raise FitError(
            f"a power law is fitted to finite values, got {n_bad} NaN or inf among {values.size}."
        )
    noise = rtol * max(values[-1], 0.0)
    if values[0] < -noise:
        raise FitError(
            f"a power law is fitted to non-negative values, got {values[0]:g}; pass the "
            "eigenvalues of W^T W, not of W."
        )
    return values[values > noise]


def _fit_tail(values: Float[np.ndarray, " n"], start: int, xmin: float) -> PowerLawFit:
    """Fit ``values[start:]``, which are ascending and at or above `xmin`."""
    tail = values[start:]
    log_ratio = np.log(tail / xmin)
    total = log_ratio.sum()
    if tail.size < 2 or total == 0:
        raise FitError(
            f"a tail needs at least 2 values that are not all equal, got {tail.size} "
            f"from xmin={xmin:g} on; choose an xmin below the largest value, "
            f"{values.max(initial=0):g}."
        )
    exponent = tail.size / total
    below = np.searchsorted(tail, tail, side="left") / tail.size
    return PowerLawFit(
        alpha=float(1 + exponent),
        xmin=float(xmin),
        ks=float(np.abs(-np.expm1(-exponent * log_ratio) - below).max()),
        sigma=float(exponent / np.sqrt(tail.size)),
        n_tail=int(tail.size),
        n=int(values.size),
    )


@dataclass(frozen=True, eq=False)
class Tails:
    """The tails of a sample that begin at each of its distinct values.

    Attributes
    ----------
    log_x : Float[ndarray, "m"]
        Logarithms of the distinct values, ascending.
    start : Int[ndarray, "m"]
        Number of values of the sample below each.
    n : int
        Size of the sample.
    exponent : Float[ndarray, "c"]
        alpha - 1 of the tail that begins at each candidate for xmin, in closed form.
    """

    log_x: Float[np.ndarray, " m"]
    start: Int[np.ndarray, " m"]
    n: int
    exponent: Float[np.ndarray, " c"]

    def row(self, i: int) -> Float[np.ndarray, " k"]:
        """Return the distances between law and sample at every value of the i-th tail."""
        law = 1 - np.exp(self.exponent[i] * (self.log_x[i] - self.log_x[i:]))
        law -= (self.start[i:] - self.start[i]) / (self.n - self.start[i])
        return np.abs(law, out=law)

    def at(
        self, candidates: Int[np.ndarray, " c"], j: Int[np.ndarray, "*p 1"] | int
    ) -> Float[np.ndarray, "*p c"]:
        """Return the distances of some tails at the values `j`, and 0 below a tail."""
        j = np.maximum(j, candidates)
        law = 1 - np.exp(self.exponent[candidates] * (self.log_x[candidates] - self.log_x[j]))
        start = self.start[candidates]
        law -= (self.start[j] - start) / (self.n - start)
        return np.abs(law, out=law)


def tails(log_x: Float[np.ndarray, " m"], start: Int[np.ndarray, " m"], n: int) -> Tails:
    """Fit all tails of values that are not all equal.

    The sums T_i = sum over the tail of ln(x_j/x_i) follow from T_i = T_{i+1} + n_{i+1} (ln x_{i+1}
    - ln x_i), in which all terms are positive, so that nothing cancels.
    """
    n_tail = n - start
    n_candidates = int(np.searchsorted(log_x, log_x[-1]))  # different values may have one log
    sums = np.cumsum((n_tail[1:] * np.diff(log_x))[::-1])[::-1][:n_candidates]
    return Tails(log_x, start, n, n_tail[:n_candidates] / sums)


def all_tails(values: Float[np.ndarray, " n"]) -> Tails:
    """Fit all tails of ascending values; raise if there is none."""
    unique, start = np.unique(values, return_index=True)
    if unique.size:
        t = tails(np.log(unique), start, values.size)
    if unique.size == 0 or t.exponent.size == 0:
        raise FitError(
            "a power law needs a tail of at least 2 positive values that are not all equal, got "
            f"{values.size} values, {unique.size} of them different."
        )
    return t


def best_xmin(t: Tails) -> tuple[int, float]:
    """Find the candidate with the smallest KS distance; of equals, the smallest xmin.

    The naive search computes m^2/2 exponentials: all values of all tails. This one first bounds
    the distance of every candidate from below by a few values. It then repeats: the candidate
    with the smallest bound is computed in full, and drops all candidates whose bound is larger
    than its distance. The value at which its law is farthest from its tail tends to be bad for
    its neighbours too, so that their bounds are raised there. The search is exact: a candidate is
    dropped only if its bound is above the distance of another.

    Returns
    -------
    tuple of int and float
        Index of the candidate, and its distance.
    """
    m, candidates = t.log_x.size, np.arange(t.exponent.size)
    fractions = np.linspace(0, 1, _N_PROBES + 1)[1:] ** 2
    columns = m - 1 - np.rint(fractions * (m - 1)).astype(np.intp)
    bounds = t.at(candidates, columns[:, None]).max(axis=0)
    best, best_ks = 0, np.inf
    while candidates.size:
        k = int(bounds.argmin())
        i = int(candidates[k])
        row = t.row(i)
        worst = int(row.argmax())
        ks = float(row[worst])
        if (ks, i) < (best_ks, best):
            best, best_ks = i, ks
        bounds[k] = np.inf
        keep = bounds <= best_ks
        candidates, bounds = candidates[keep], bounds[keep]
        bounds = np.maximum(bounds, t.at(candidates, i + worst))
        keep = bounds <= best_ks
        candidates, bounds = candidates[keep], bounds[keep]
    return best, best_ks
