"""Power laws fitted to the tail of a sample."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import ArrayLike

from wskit._checks import check_choice, check_whole, numbers
from wskit.errors import FitError
from wskit.fits._scan import Tails, best_xmin, tails

Method = Literal["ks", "hill"]

__all__ = ["PowerLawFit", "fit_clipped", "fit_power_law", "ks_curve"]


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
        How many values the exponent was fitted to.
    n : int
        How many values there were above the noise threshold, clipped ones included.
    n_clipped : int
        How many of the largest values were left out as "fingers", see `fit_clipped`.
    """

    alpha: float
    xmin: float
    ks: float
    sigma: float
    n_tail: int
    n: int
    n_clipped: int = 0

    def pdf(self, x: ArrayLike) -> Float[np.ndarray, " k"]:
        """Density of the tail at `x`; its integral over [xmin, inf) is 1, and it is 0 below.

        Examples
        --------
        >>> PowerLawFit(alpha=3.0, xmin=1.0, ks=0.1, sigma=0.2, n_tail=100, n=200).pdf([0.5, 1, 2])
        array([0.  , 2.  , 0.25])
        """
        ratio = np.atleast_1d(numbers(x, FitError, "x")) / self.xmin
        density = np.where(np.isnan(ratio), np.nan, 0.0)
        tail = ratio >= 1
        density[tail] = (self.alpha - 1) / self.xmin * ratio[tail] ** -self.alpha
        return density


def fit_power_law(
    x: ArrayLike,
    *,
    method: Method = "ks",
    xmin: float | None = None,
    min_tail: int = 2,
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
        share of the tail strictly below x (Clauset et al., section 3.3). The search is exact: no
        value is skipped that could win. "hill" takes the k = n // 2 largest values for the tail
        and the next one below them for xmin (Hill 1975; with this k, the exponent of TempBalance,
        AlphaPruning and FARMS).
    xmin : float, optional
        Where the tail begins. None leaves it to `method`.
    min_tail : int, default 2
        The fewest values that a tail may hold; at least 2 of them must differ.
    rtol : float, default 1e-12
        Values of at most ``rtol * max(x)`` are dropped: they are the eigensolver's noise. The
        threshold is relative, so that alpha is the same for ``x`` and for ``c * x``.

    Returns
    -------
    PowerLawFit
        `xmin` is in the units of `x`; the rest has no units.

    Raises
    ------
    FitError
        If `x` holds NaN, inf or negative values, if no tail has `min_tail` values, or if a fixed
        `xmin` is asked for together with "hill".

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

    Hill's tail of four values is the upper two, here measured from exp(1):

    >>> round(fit_power_law(np.exp([0.0, 1.0, 2.0, 4.0]), method="hill").alpha, 6)
    1.5
    """
    check_choice(method, Method, FitError, "method")
    values = above_noise(x, rtol)
    if method == "hill":
        if xmin is not None:
            raise FitError(
                f'method="hill" begins the tail at its own xmin, got xmin={xmin} as well; '
                'leave one of the two out, or take method="ks".'
            )
        k = values.size // 2
        if k == 0:
            raise FitError(f"Hill's estimator needs at least 2 values, got {values.size}.")
        return _fit_tail(values, values.size - k, values[-k - 1], min_tail)
    if xmin is None:
        return _fit_by_scan(values, min_tail)
    if not (isinstance(xmin, float | int | np.number) and np.isfinite(xmin) and xmin > 0):
        raise FitError(f"xmin must be a positive number, got {xmin}.")
    return _fit_tail(values, int(np.searchsorted(values, xmin)), xmin, min_tail)


def fit_clipped(
    x: ArrayLike,
    *,
    max_clipped: int = 10,
    min_drop: float = 1.0,
    min_tail: int = 2,
    rtol: float = 1e-12,
) -> PowerLawFit:
    r"""Fit a power law, without the few largest values where these alone make it steep.

    A handful of eigenvalues that stand apart from the tail, "fingers", can push xmin up to where
    few values are left, and alpha far up. They are found by leaving out the largest value, the
    two largest, and so on to `max_clipped`: the first of these fits with
    alpha < alpha_0 - `min_drop` is returned, where alpha_0 is the exponent of all values. If there
    is none, nothing is left out. The idea is WeightWatcher's ``fix_fingers="clip_xmax"``; the
    rule is plainer, and never skips the case of one finger.

    Parameters
    ----------
    x : array of any shape
        Non-negative values, such as the eigenvalues of W^T W.
    max_clipped : int, default 10
        The most values to leave out. No more than half of the values are ever left out.
    min_drop : float, default 1.0
        By how much alpha must fall.
    min_tail, rtol
        As for `fit_power_law`. The threshold of noise is relative to the largest value of all.

    Returns
    -------
    PowerLawFit
        `n_clipped` says how many values were left out.

    Raises
    ------
    FitError
        As `fit_power_law`.

    Examples
    --------
    The quantiles of a tail with alpha = 2, and a cluster of eight values far above them:

    >>> x = np.concatenate([1 / np.linspace(1, 0.02, 50), 1e6 * np.linspace(1, 1.1, 8)])
    >>> round(fit_power_law(x).alpha, 1)
    21.7
    >>> fit = fit_clipped(x)
    >>> round(fit.alpha, 2), fit.n_clipped, fit.n_tail, fit.n
    (1.43, 2, 56, 58)
    """
    values = above_noise(x, rtol)
    first = _fit_by_scan(values, min_tail)
    for n_clipped in range(1, min(max_clipped, values.size // 2) + 1):
        try:
            fit = _fit_by_scan(values[:-n_clipped], min_tail)
        except FitError:  # what is left is all equal: no tail, and none further down
            break
        if fit.alpha < first.alpha - min_drop:
            return replace(fit, n=values.size, n_clipped=n_clipped)
    return first


def ks_curve(x: ArrayLike, *, min_tail: int = 2, rtol: float = 1e-12) -> pd.DataFrame:
    """Fit the tail that begins at each value: what `fit_power_law` chooses from.

    Parameters
    ----------
    x : array of any shape
        Non-negative values, such as the eigenvalues of W^T W.
    min_tail, rtol
        As for `fit_power_law`.

    Returns
    -------
    DataFrame
        A row for each candidate, ascending: xmin (units of `x`), alpha, ks and n_tail.

    Raises
    ------
    FitError
        As `fit_power_law`.

    Examples
    --------
    >>> ks_curve(np.exp([0.0, 1.0, 2.0])).round(3).values.tolist()
    [[1.0, 2.0, 0.299, 3.0], [2.718, 3.0, 0.365, 2.0]]
    """
    values = above_noise(x, rtol)
    t = all_tails(values, min_tail)
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


def above_noise(x: ArrayLike, rtol: float) -> Float[np.ndarray, " n"]:
    """Return the values above ``rtol * max(x)``, ascending, or say why they cannot be fitted."""
    values = np.sort(numbers(x, FitError, "the values of a power law"), axis=None)
    if values.size == 0:
        raise FitError("A power law needs values to fit, got an empty array.")
    if not np.isfinite(values).all():
        n_bad = np.count_nonzero(~np.isfinite(values))
        raise FitError(
            f"A power law is fitted to finite values, got {n_bad} NaN or inf of {values.size}; "
            "drop them, or look for the layer that diverged."
        )
    noise = rtol * max(values[-1], 0.0)
    if values[0] < -noise:
        raise FitError(
            f"A power law is fitted to non-negative values, got {values[0]:g}; give the "
            "eigenvalues of W^T W, not of W."
        )
    return values[values > noise]


def all_tails(values: Float[np.ndarray, " n"], min_tail: int) -> Tails:
    """Fit the tails of ascending values, or say that there is none."""
    check_whole(min_tail, FitError, "min_tail")
    unique, start = np.unique(values, return_index=True)
    if unique.size:
        t = tails(np.log(unique), start, values.size, min_tail)
    if unique.size == 0 or t.exponent.size == 0:
        raise FitError(
            f"A power law needs a tail of at least {min_tail} positive values that are not "
            f"all equal, got {values.size} values, {unique.size} of them different."
        )
    return t


def _fit_by_scan(values: Float[np.ndarray, " n"], min_tail: int) -> PowerLawFit:
    """Fit ascending values from the xmin that has the smallest distance."""
    t = all_tails(values, min_tail)
    start = int(t.start[best_xmin(t)[0]])
    return _fit_tail(values, start, values[start], min_tail)


def _fit_tail(
    values: Float[np.ndarray, " n"], start: int, xmin: float, min_tail: int
) -> PowerLawFit:
    """Fit ``values[start:]``, which are ascending and at or above `xmin`."""
    check_whole(min_tail, FitError, "min_tail")
    tail = values[start:]
    log_ratio = np.log(tail / xmin)
    total = log_ratio.sum()
    if tail.size < min_tail or total == 0:
        raise FitError(
            f"The tail from xmin={xmin:g} holds {tail.size} values, and {min_tail} that are not "
            f"all equal are needed; choose an xmin below the largest value, "
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
