"""How far a fitted power law can be trusted: resampling, and other laws for the same tail."""

import contextlib
import io
import warnings

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from wskit.errors import FitError
from wskit.fits._power_law import PowerLawFit, above_noise, all_tails, best_xmin, tails

# The sign of a likelihood ratio counts below this p (Clauset et al. 2009, section 5).
_SIGNIFICANT = 0.1
# powerlaw 2 keeps the exponent of a truncated power law within [0, 3] by default.
_RANGES = {"truncated_power_law": {"alpha": [0.0, 1000.0], "Lambda": [0.0, None]}}


def alpha_interval(
    x: ArrayLike,
    *,
    n_resamples: int = 200,
    level: float = 0.9,
    rng: np.random.Generator | int,
) -> tuple[float, float]:
    """Bootstrap an interval for the exponent of `wskit.fits.fit_power_law`.

    Values are drawn with replacement, the search for xmin is repeated for each resample, and the
    interval lies between the percentiles (1 - level)/2 and (1 + level)/2 of the exponents. The
    standard error (alpha - 1)/sqrt(n_tail) takes xmin as known; this interval does not. The
    bootstrap assumes independent values. Eigenvalues repel each other, so that the interval tends
    to be too wide.

    Parameters
    ----------
    x : array of any shape
        Non-negative values, such as the eigenvalues of W^T W.
    n_resamples : int, default 200
        Number of resamples.
    level : float, default 0.9
        Share of the exponents inside the interval.
    rng : numpy Generator or int
        The source of randomness, or a seed for a new one.

    Returns
    -------
    tuple of float
        Lower and upper end, without units.

    Raises
    ------
    FitError
        As `wskit.fits.fit_power_law`.

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
    t = all_tails(above_noise(x))
    rng = np.random.default_rng(rng)
    # A resample is a count for each distinct value: nothing is sorted again, and no logarithm is
    # taken again.
    groups = np.repeat(np.arange(t.log_x.size), np.diff(t.start, append=t.n))
    alphas: list[float] = []
    while len(alphas) < n_resamples:
        counts = np.bincount(groups[rng.integers(t.n, size=t.n)], minlength=t.log_x.size)
        drawn = np.flatnonzero(counts)
        counts = counts[drawn]
        resampled = tails(t.log_x[drawn], np.cumsum(counts) - counts, t.n)
        if resampled.exponent.size:  # else all values are equal: draw again
            alphas.append(1 + resampled.exponent[best_xmin(resampled)[0]])
    low, high = np.quantile(alphas, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def goodness_of_fit(
    x: ArrayLike,
    *,
    n_resamples: int = 1000,
    rng: np.random.Generator | int,
) -> float:
    """Test whether a sample could have the power-law tail that `fit_power_law` finds in it.

    Samples with a true power-law tail are drawn (Clauset et al., section 4.1): each value comes
    from the fitted law with probability n_tail/n, and else from the values below xmin. They are
    fitted as the data were, xmin included. p is the share of them whose distance is at least as
    large as the data's. A small p (the paper takes 0.1) rules the power law out; a large one does
    not prove it.

    Parameters
    ----------
    x : array of any shape
        Non-negative values, such as the eigenvalues of W^T W.
    n_resamples : int, default 1000
        Number of samples; p is accurate to about 1/(2 sqrt(n_resamples)).
    rng : numpy Generator or int
        The source of randomness, or a seed for a new one.

    Returns
    -------
    float
        p, in [0, 1].

    Raises
    ------
    FitError
        As `wskit.fits.fit_power_law`.

    References
    ----------
    Clauset, Shalizi and Newman, "Power-law distributions in empirical data", SIAM Review 51
    (2009), arXiv:0706.1062.

    Examples
    --------
    A power law passes; evenly spaced values do not:

    >>> draws = np.random.default_rng(0)
    >>> goodness_of_fit(1 + draws.pareto(1.5, 300), n_resamples=100, rng=0) > 0.1
    True
    >>> goodness_of_fit(np.full(300, 1.0) + np.arange(300), n_resamples=100, rng=0) > 0.1
    False
    """
    t = all_tails(above_noise(x))
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
        drawn = tails(*np.unique(log_x, return_index=True), t.n)
        n_as_far += drawn.exponent.size == 0 or best_xmin(drawn)[1] >= ks
    return n_as_far / n_resamples


def compare_tails(
    x: ArrayLike,
    fit: PowerLawFit,
) -> pd.DataFrame:
    """Test whether other laws describe the fitted tail better than the power law.

    The alternatives are a lognormal law, an exponential law and a truncated power law,
    x^(-alpha) exp(-Lambda x). Each is fitted by maximum likelihood to the same values (by the
    `powerlaw` package), and compared by the ratio of the likelihoods (Vuong 1989; Clauset et al.
    2009, section 5.2 and appendix C). The truncated power law includes the power law: it is never
    less likely, and p says whether its cutoff is needed.

    Parameters
    ----------
    x : array of any shape
        The values that `fit` was fitted to.
    fit : PowerLawFit
        The tail and its exponent.

    Returns
    -------
    DataFrame
        One row per alternative: `alternative`; `R`, the log-likelihood of the power law minus
        the alternative's, over its standard deviation (no units; positive favours the power
        law); `p`, the probability of so large an R if both are equally good; and `preferred`:
        "power_law" or the alternative where p < 0.1, else "neither".

    Raises
    ------
    FitError
        If the tail holds fewer than 3 different values, or is not that of `fit`.

    References
    ----------
    Alstott, Bullmore and Plenz, "powerlaw: a Python package for analysis of heavy-tailed
    distributions", PLoS ONE 9 (2014), arXiv:1305.0215.

    Examples
    --------
    The quantiles of an exponential law are no power law:

    >>> from wskit.fits import fit_power_law
    >>> x = -np.log(np.linspace(0.999, 0.001, 400))
    >>> fit = fit_power_law(x, xmin=0.1)
    >>> compare_tails(x, fit).set_index("alternative").preferred["exponential"]
    'exponential'
    """
    import powerlaw

    values = above_noise(x)
    # With xmin = 1 the optimiser sees the same numbers in all units.
    tail = values[values >= fit.xmin][-fit.n_tail :] / fit.xmin
    n_distinct = np.unique(tail).size
    if tail.size != fit.n_tail or n_distinct < 3:
        raise FitError(
            f"laws are compared on the {fit.n_tail} values of the fit's tail, 3 of them different, "
            f"got {tail.size} values, {n_distinct} of them different; pass the values that were "
            "fitted."
        )
    expected = np.log(fit.alpha - 1) - fit.alpha * np.log(tail)
    kinds = {
        "lognormal": powerlaw.Lognormal,
        "exponential": powerlaw.Exponential,
        "truncated_power_law": powerlaw.Truncated_Power_Law,
    }
    rows = []
    for name, kind in kinds.items():
        # powerlaw's fits warn, print and divide by zero on the way to a good result.
        with (
            warnings.catch_warnings(),
            np.errstate(all="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            law = kind(data=tail, xmin=1.0, parameter_ranges=_RANGES.get(name), verbose=False)
            ratio, p = powerlaw.loglikelihood_ratio(
                expected.copy(),
                law.loglikelihoods(tail),
                nested=name == "truncated_power_law",
                normalized_ratio=True,
            )
        preferred = "neither"
        if p < _SIGNIFICANT:
            preferred = "power_law" if ratio > 0 else name
        rows.append((name, float(ratio), float(p), preferred))
    return pd.DataFrame(rows, columns=["alternative", "R", "p", "preferred"])
