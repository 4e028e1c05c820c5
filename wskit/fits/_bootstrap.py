"""How far a fitted exponent can be trusted, by resampling."""

import numpy as np
from numpy.typing import ArrayLike

from wskit._checks import number
from wskit.errors import FitError
from wskit.fits._power_law import above_noise, all_tails
from wskit.fits._scan import best_xmin, tails

__all__ = ["alpha_interval", "goodness_of_fit"]


def alpha_interval(
    x: ArrayLike,
    *,
    n_resamples: int = 200,
    level: float = 0.9,
    rng: np.random.Generator | int,
    min_tail: int = 2,
    rtol: float = 1e-12,
) -> tuple[float, float]:
    """Bootstrap an interval for the exponent of `wskit.fits.fit_power_law`.

    Values are drawn with replacement, the search for xmin is repeated for each resample, and the
    interval lies between the percentiles (1 - level)/2 and (1 + level)/2 of the exponents. That
    xmin is searched again matters: the standard error (alpha - 1)/sqrt(n_tail) takes it for
    known. The values are taken for independent, which eigenvalues are not: they repel each other,
    so that the interval tends to be wide.

    Parameters
    ----------
    x : array of any shape
        Non-negative values, such as the eigenvalues of W^T W.
    n_resamples : int, default 200
        How many resamples are fitted.
    level : float, default 0.9
        Share of the exponents inside the interval.
    rng : numpy Generator or int
        The source of randomness, or a seed for a new one.
    min_tail, rtol
        As for `wskit.fits.fit_power_law`.

    Returns
    -------
    tuple of float
        Lower and upper end, without units.

    Raises
    ------
    FitError
        If `level` or `n_resamples` make no sense, and as `wskit.fits.fit_power_law`.

    References
    ----------
    Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7 (1979).

    Examples
    --------
    >>> x = 1 + np.random.default_rng(0).pareto(1.5, 500)  # alpha = 2.5
    >>> low, high = alpha_interval(x, rng=0)
    >>> bool(low < 2.5 < high)
    True
    """
    if not 0 < number(level, FitError, "level") < 1:
        raise FitError(f"level must be between 0 and 1, got {level}.")
    _check_resamples(n_resamples)
    values = above_noise(x, rtol)
    t = all_tails(values, min_tail)
    rng = np.random.default_rng(rng)
    # A resample is a count for each of the different values: nothing is sorted again, and no
    # logarithm is taken again.
    groups = np.repeat(np.arange(t.log_x.size), np.diff(t.start, append=t.n))
    alphas = np.empty(n_resamples)
    n_done = 0
    while n_done < n_resamples:
        counts = np.bincount(groups[rng.integers(t.n, size=t.n)], minlength=t.log_x.size)
        drawn = np.flatnonzero(counts)
        counts = counts[drawn]
        resampled = tails(t.log_x[drawn], np.cumsum(counts) - counts, t.n, min_tail)
        if resampled.exponent.size:  # else all values are equal: draw again
            alphas[n_done] = 1 + resampled.exponent[best_xmin(resampled)[0]]
            n_done += 1
    low, high = np.quantile(alphas, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def goodness_of_fit(
    x: ArrayLike,
    *,
    n_resamples: int = 1000,
    rng: np.random.Generator | int,
    min_tail: int = 2,
    rtol: float = 1e-12,
) -> float:
    """Test whether a sample could have the power-law tail that `fit_power_law` finds in it.

    Clauset et al. (section 4.1): samples are made of which the tail is one, each value from the
    fitted law with probability n_tail/n and else from the values below xmin. They are fitted as
    the data were, xmin included; p is the share of them with a distance as large as the data's.
    A small p (the paper takes 0.1) rules the power law out; a large one does not prove it.

    Parameters
    ----------
    x : array of any shape
        Non-negative values, such as the eigenvalues of W^T W.
    n_resamples : int, default 1000
        How many samples are made; p is good to about 1/(2 sqrt(n_resamples)).
    rng : numpy Generator or int
        The source of randomness, or a seed for a new one.
    min_tail, rtol
        As for `wskit.fits.fit_power_law`.

    Returns
    -------
    float
        p, in [0, 1].

    Raises
    ------
    FitError
        If `n_resamples` is below 1, and as `wskit.fits.fit_power_law`.

    References
    ----------
    Clauset, Shalizi and Newman, "Power-law distributions in empirical data", SIAM Review 51
    (2009), arXiv:0706.1062.

    Examples
    --------
    A power law is taken for one, a half-normal is not:

    >>> draws = np.random.default_rng(0)
    >>> goodness_of_fit(1 + draws.pareto(1.5, 300), n_resamples=100, rng=0) > 0.1
    True
    >>> goodness_of_fit(np.full(300, 1.0) + np.arange(300), n_resamples=100, rng=0) > 0.1
    False
    """
    _check_resamples(n_resamples)
    t = all_tails(above_noise(x, rtol), min_tail)
    rng = np.random.default_rng(rng)
    i, ks = best_xmin(t)
    start = int(t.start[i])
    body = np.repeat(t.log_x[:i], np.diff(t.start[: i + 1]))
    n_as_far = 0
    for _ in range(n_resamples):
        n_body = rng.binomial(t.n, start / t.n)
        log_body = rng.choice(body, size=n_body) if n_body else body[:0]
        log_tail = t.log_x[i] + rng.exponential(1 / t.exponent[i], size=t.n - n_body)
        log_x = np.sort(np.concatenate([log_body, log_tail]))
        made = tails(*np.unique(log_x, return_index=True), t.n, min_tail)
        n_as_far += made.exponent.size == 0 or best_xmin(made)[1] >= ks
    return n_as_far / n_resamples


def _check_resamples(n_resamples: int) -> None:
    if n_resamples < 1:
        raise FitError(f"n_resamples must be at least 1, got {n_resamples}; raise it.")
