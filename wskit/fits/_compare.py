"""Other laws that the tail of a sample could follow."""

import contextlib
import io
import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from wskit._checks import check_choice
from wskit.errors import FitError
from wskit.fits._power_law import PowerLawFit, above_noise

__all__ = ["Alternative", "compare_tails"]

Alternative = Literal["lognormal", "exponential", "truncated_power_law"]

# Below it, the sign of a likelihood ratio is taken for real (Clauset et al. 2009, section 5).
_SIGNIFICANT = 0.1
# powerlaw 2 keeps the exponent of a truncated power law within [0, 3] unless it is told otherwise.
_RANGES = {"truncated_power_law": {"alpha": [0.0, 1000.0], "Lambda": [0.0, None]}}


def compare_tails(
    x: ArrayLike,
    fit: PowerLawFit,
    *,
    alternatives: Sequence[Alternative] = ("lognormal", "exponential", "truncated_power_law"),
    rtol: float = 1e-12,
) -> pd.DataFrame:
    """Ask whether other laws describe the fitted tail better than the power law.

    Each alternative is fitted by maximum likelihood to the same values (by the `powerlaw`
    package), and compared by the ratio of the likelihoods (Vuong 1989; Clauset et al. 2009,
    section 5.2 and appendix C).

    Parameters
    ----------
    x : array of any shape
        The values that `fit` was fitted to.
    fit : PowerLawFit
        Where the tail begins, its exponent, and how many of the largest values it leaves out.
    alternatives : sequence of {"lognormal", "exponential", "truncated_power_law"}
        The laws to compare with. The truncated power law, x^(-alpha) exp(-Lambda x), includes
        the power law: it is never less likely, and p tells whether its cutoff is needed.
    rtol : float, default 1e-12
        The threshold of noise that `fit` was made with.

    Returns
    -------
    DataFrame
        A row for each alternative: `alternative`; `R`, the log-likelihood of the power law minus
        the alternative's, over its standard deviation (no units; positive favours the power
        law); `p`, how probable so large an R is if both are equally good; and `preferred`:
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
    Exponential values, in their quantiles, are no power law:

    >>> from wskit.fits import fit_power_law
    >>> x = -np.log(np.linspace(0.999, 0.001, 400))
    >>> fit = fit_power_law(x, xmin=0.1)
    >>> compare_tails(x, fit, alternatives=["exponential"])["preferred"].tolist()
    ['exponential']
    """
    import powerlaw

    values = above_noise(x, rtol)
    # With xmin = 1 the optimiser sees the same numbers whatever the units are.
    tail = values[: values.size - fit.n_clipped]
    tail = tail[tail >= fit.xmin][-fit.n_tail :] / fit.xmin
    if tail.size != fit.n_tail:
        raise FitError(
            f"The fit has {fit.n_tail} values in its tail, got {tail.size} from xmin="
            f"{fit.xmin:g}; give the values that were fitted."
        )
    if np.unique(tail).size < 3:
        raise FitError(
            f"Laws are compared on 3 different values or more, got {np.unique(tail).size}."
        )
    expected = np.log(fit.alpha - 1) - fit.alpha * np.log(tail)
    kinds = {
        "lognormal": powerlaw.Lognormal,
        "exponential": powerlaw.Exponential,
        "truncated_power_law": powerlaw.Truncated_Power_Law,
    }
    rows = []
    for name in alternatives:
        check_choice(name, kinds, FitError, "an alternative")
        # Its fits warn, print and divide by zero on the way to a good answer.
        with (
            warnings.catch_warnings(),
            np.errstate(all="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            law = kinds[name](
                data=tail, xmin=1.0, parameter_ranges=_RANGES.get(name), verbose=False
            )
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
