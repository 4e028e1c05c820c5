"""What a spectrum looks like, in the words of the 5+1 phases; and when alpha means nothing."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from wskit.fits._marchenko_pastur import MPFit, checked, fit_marchenko_pastur
from wskit.fits._power_law import PowerLawFit, fit_power_law

__all__ = ["FEW_EIGENVALUES", "Phase", "PhaseName", "caveats", "classify_phase"]

PhaseName = Literal[
    "random-like", "bleeding-out", "bulk+spikes", "bulk-decay", "heavy-tailed", "rank-collapse"
]

# The paper describes the phases by their looks. The numbers below are this kit's, chosen on planted
# matrices of 50 to 300 columns so that each of the paper's examples gets its name.

# An eigenvalue is zero below this share of the largest, and more such eigenvalues than that share
# are a collapse: mass at 0 where the aspect ratio gives no reason for it.
ZERO, COLLAPSED_SHARE = 1e-10, 0.05
# The bulk is a Marchenko-Pastur law if its KS distance is below KS_LIMIT + KS_FINITE/M, the second
# for finite size, with few eigenvalues outside.
KS_LIMIT, KS_FINITE, SPIKES_SHARE = 0.02, 1.5, 0.1
# Spikes are apart from the bulk, not its blurred edge, if the largest is that far out.
SEPARATE = 1.5
# A heavy tail: alpha of 4 or less (mu < 4, the paper's moderately and very heavy-tailed classes;
# alpha = 1 + mu/2 gives 3 for infinite matrices, finite ones measure more), over a decade.
HEAVY_ALPHA, HEAVY_SPAN = 4.0, 10.0

# Caveats. Below 50 eigenvalues alpha of noise and of signal are alike; 20 values in the tail leave
# a standard error of 22 % in alpha - 1.
FEW_EIGENVALUES, FEW_IN_TAIL = 50, 20
# 5 % point of Kolmogorov's distribution of ks * sqrt(n).
KOLMOGOROV = 1.358
# alpha = 1 + mu/2 of matrices whose entries have a tail exponent mu: below 1.5 (mu < 1) these have
# no mean; above 6 (Martin, Peng and Mahoney 2021) layers are no longer told from noise.
LEAST_ALPHA, LARGEST_ALPHA = 1.5, 6.0


@dataclass(frozen=True)
class Phase:
    """The phase of a spectrum, and why.

    Attributes
    ----------
    name : {"random-like", "bleeding-out", "bulk+spikes", "bulk-decay", "heavy-tailed", \
"rank-collapse"}
        The phase.
    evidence : dict of str to float
        The numbers that the rule looked at; none has units.
    rule : str
        The rule that applied, in words.
    """

    name: PhaseName
    evidence: dict[str, float]
    rule: str


def classify_phase(
    eigenvalues: ArrayLike,
    *,
    N: int,
    M: int,
    mp: MPFit | None = None,
    tail: PowerLawFit | None = None,
) -> Phase:
    r"""Say which of the 5+1 phases of training a spectrum looks like.

    The phases are those of Martin and Mahoney (2021, section 4), who describe them by their
    looks; the thresholds are ours, constants of this module. The first that applies:

    ============= ==============================================================================
    rank-collapse more than 5 % of the eigenvalues are zero (the "+1")
    random-like   the bulk is a Marchenko-Pastur (MP) law, and no eigenvalue is beyond its edge
    bleeding-out  the bulk is MP, and a few eigenvalues lie just beyond: none above 1.5 lambda_plus
    bulk+spikes   the bulk is MP, and a few eigenvalues, at most 10 %, are well apart from it
    heavy-tailed  no MP bulk, and a power law with alpha <= 4 over a decade or more
    bulk-decay    no MP bulk, and no such power law: the bulk decays into its tail
    ============= ==============================================================================

    The bulk is MP if its KS distance from the fitted law is at most 0.02 + 1.5/M. Matrices of a few
    dozen columns hold little evidence, and neighbours are easily taken for each other.

    Parameters
    ----------
    eigenvalues : array of any shape
        Eigenvalues of W^T W (no 1/N), pooled over one or more matrices, zeros as well.
    N, M : int
        Rows and columns of the matrices, N >= M.
    mp : MPFit, optional
        `wskit.fits.fit_marchenko_pastur` of the same eigenvalues. None means it is computed here.
    tail : PowerLawFit, optional
        `wskit.fits.fit_power_law` of the same eigenvalues. None means that it is computed here
        where a rule asks for it.

    Returns
    -------
    Phase

    Raises
    ------
    FitError
        As `wskit.fits.fit_marchenko_pastur` and `wskit.fits.fit_power_law`.

    References
    ----------
    Martin and Mahoney, "Implicit self-regularization in deep neural networks", JMLR 22(165)
    (2021), arXiv:1810.01075.

    Examples
    --------
    >>> W = np.random.default_rng(0).standard_normal((400, 200))
    >>> classify_phase(np.linalg.eigvalsh(W.T @ W), N=400, M=200).name
    'random-like'
    >>> W[:, 0] += 5
    >>> classify_phase(np.linalg.eigvalsh(W.T @ W), N=400, M=200).name
    'bulk+spikes'
    """
    values = checked(eigenvalues, N, M)
    zero_share = np.mean(values <= ZERO * values[-1])
    evidence = {"zero_share": float(zero_share)}
    if zero_share > COLLAPSED_SHARE:
        rule = f"more than {COLLAPSED_SHARE:.0%} of the eigenvalues are zero"
        return Phase("rank-collapse", evidence, rule)

    mp = mp or fit_marchenko_pastur(values, N=N, M=M)
    evidence |= {
        "mp_ks": mp.ks,
        "spike_share": mp.n_spikes / values.size,
        "largest_over_edge": 1 / mp.soft_rank,
    }
    limit = KS_LIMIT + KS_FINITE / M
    if mp.ks <= limit and evidence["spike_share"] <= SPIKES_SHARE:
        bulk = f"the bulk is a Marchenko-Pastur law (KS distance at most {limit:.3f})"
        if mp.n_spikes == 0:
            return Phase("random-like", evidence, f"{bulk} and nothing is beyond its edge")
        if evidence["largest_over_edge"] <= SEPARATE:
            rule = f"{bulk} and what is beyond its edge is within {SEPARATE} times lambda_plus"
            return Phase("bleeding-out", evidence, rule)
        rule = f"{bulk} and at most {SPIKES_SHARE:.0%} of the eigenvalues are apart from it"
        return Phase("bulk+spikes", evidence, rule)

    tail = tail or fit_power_law(values)
    evidence |= {"alpha": tail.alpha, "tail_span": float(values.max() / tail.xmin)}
    law = f"power law with alpha at most {HEAVY_ALPHA:g} over a factor of {HEAVY_SPAN:g} or more"
    if tail.alpha <= HEAVY_ALPHA and evidence["tail_span"] >= HEAVY_SPAN:
        return Phase("heavy-tailed", evidence, f"no Marchenko-Pastur bulk, and a {law}")
    return Phase("bulk-decay", evidence, f"no Marchenko-Pastur bulk, and no {law}")


def caveats(fit: PowerLawFit, *, mp: MPFit | None = None) -> list[str]:
    """Say in words why an exponent may mean nothing.

    Parameters
    ----------
    fit : PowerLawFit
        The fit of a layer's eigenvalues.
    mp : MPFit, optional
        The Marchenko-Pastur fit of the same eigenvalues, to tell whether there is more than
        chance.

    Returns
    -------
    list of str
        One sentence for each reason, with its numbers; empty if there is none.

    References
    ----------
    Clauset, Shalizi and Newman (2009), arXiv:0706.1062. Martin, Peng and Mahoney, Nature
    Communications 12, 4122 (2021), arXiv:2002.06716.

    Examples
    --------
    >>> fit = PowerLawFit(alpha=3.0, xmin=1.0, ks=0.05, sigma=0.3, n_tail=45, n=40)
    >>> for sentence in caveats(fit):
    ...     print(sentence)
    Only 40 eigenvalues: below 50, alpha is mostly chance.
    """
    found = []
    if fit.n < FEW_EIGENVALUES:
        found.append(f"Only {fit.n} eigenvalues: below {FEW_EIGENVALUES}, alpha is mostly chance.")
    if fit.n_tail < FEW_IN_TAIL:
        found.append(
            f"The tail holds only {fit.n_tail} of {fit.n} eigenvalues, which leaves a standard "
            f"error of {fit.sigma:.2g} in alpha = {fit.alpha:.2f}."
        )
    if mp is not None and mp.n_spikes == 0:
        found.append(
            f"The largest eigenvalue is {1 / mp.soft_rank:.2f} times the Marchenko-Pastur edge, "
            "as by chance: a random matrix has no power law, whatever alpha says."
        )
    distance = fit.ks * np.sqrt(fit.n_tail)
    if distance > KOLMOGOROV:
        found.append(
            f"The tail is no power law: KS distance {fit.ks:.3f} * sqrt({fit.n_tail}) = "
            f"{distance:.2f}, above the 5 % point {KOLMOGOROV} of Kolmogorov."
        )
    if not LEAST_ALPHA <= fit.alpha <= LARGEST_ALPHA:
        found.append(
            f"alpha = {fit.alpha:.2f} is outside of {LEAST_ALPHA} to {LARGEST_ALPHA:g}, where the "
            "literature gives it a meaning."
        )
    return found
