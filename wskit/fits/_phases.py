"""What a spectrum looks like, in the words of the 5+1 phases, and when alpha means nothing."""

import contextlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from wskit.errors import FitError
from wskit.fits._marchenko_pastur import MPFit, fit_marchenko_pastur, sort_eigenvalues
from wskit.fits._power_law import PowerLawFit, fit_power_law

PhaseName = Literal[
    "random-like", "bleeding-out", "bulk+spikes", "bulk-decay", "heavy-tailed", "rank-collapse"
]

# The paper describes the phases by their looks. The numbers below are this kit's, chosen on planted
# matrices of 50 to 300 columns so that each of the paper's examples gets its name.

# An eigenvalue is zero below this share of the largest, and more such eigenvalues than that share
# are a collapse: mass at 0 where the aspect ratio gives no reason for it.
ZERO, COLLAPSED_SHARE = 1e-10, 0.05
# The bulk is a Marchenko-Pastur law if its KS distance is below KS_LIMIT + KS_FINITE/M, where the
# second term allows for finite size, and few eigenvalues are outside.
KS_LIMIT, KS_FINITE, SPIKES_SHARE = 0.02, 1.5, 0.1
# Spikes are apart from the bulk, and not its blurred edge, if the largest is that far out.
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
    """The phase of a spectrum, and the numbers that decided it.

    Attributes
    ----------
    name : {"random-like", "bleeding-out", "bulk+spikes", "bulk-decay", "heavy-tailed", \
"rank-collapse"}
        The phase.
    evidence : dict of str to float
        The numbers that the rules of `classify_phase` used; none has units.
    """

    name: PhaseName
    evidence: dict[str, float]


def classify_phase(
    eigenvalues: ArrayLike,
    *,
    N: int,
    M: int,
    mp: MPFit | None = None,
    tail: PowerLawFit | None = None,
) -> Phase:
    r"""Name the one of the 5+1 phases of training that a spectrum looks like.

    The phases are those of Martin and Mahoney (2021, section 4), who describe them by their
    looks; the thresholds are ours, constants of this module. The first rule that applies wins:

    ============= ==============================================================================
    rank-collapse more than 5 % of the eigenvalues are zero (the "+1")
    random-like   the bulk is a Marchenko-Pastur (MP) law, and no eigenvalue is beyond its edge
    bleeding-out  the bulk is MP, and a few eigenvalues lie just beyond: none above 1.5 lambda_plus
    bulk+spikes   the bulk is MP, and a few eigenvalues, at most 10 %, are well apart from it
    heavy-tailed  no MP bulk, and a power law with alpha <= 4 over a decade or more
    bulk-decay    no MP bulk, and no such power law: the bulk decays into its tail
    ============= ==============================================================================

    The bulk is MP if its KS distance from the fitted law is at most 0.02 + 1.5/M. Matrices of a few
    dozen columns hold little evidence, and neighbouring phases are easily confused.

    Parameters
    ----------
    eigenvalues : array of any shape
        Eigenvalues of W^T W (no 1/N), pooled over one or more matrices, zeros included.
    N, M : int
        Rows and columns of the matrices, N >= M.
    mp : MPFit, optional
        `wskit.fits.fit_marchenko_pastur` of the same eigenvalues. None computes it.
    tail : PowerLawFit, optional
        `wskit.fits.fit_power_law` of the same eigenvalues. None computes it where a rule needs it.

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
    values = sort_eigenvalues(eigenvalues, N, M)
    evidence = {"zero_share": float(np.mean(values <= ZERO * values[-1]))}
    if evidence["zero_share"] > COLLAPSED_SHARE:
        return Phase("rank-collapse", evidence)

    mp = mp or fit_marchenko_pastur(values, N=N, M=M)
    evidence |= {
        "mp_ks": mp.ks,
        "spike_share": mp.n_spikes / values.size,
        "largest_over_edge": 1 / mp.soft_rank,
    }
    if mp.ks <= KS_LIMIT + KS_FINITE / M and evidence["spike_share"] <= SPIKES_SHARE:
        if mp.n_spikes == 0:
            return Phase("random-like", evidence)
        separate = evidence["largest_over_edge"] > SEPARATE
        return Phase("bulk+spikes" if separate else "bleeding-out", evidence)

    tail = tail or fit_power_law(values)
    evidence |= {"alpha": tail.alpha, "tail_span": float(values[-1] / tail.xmin)}
    heavy = tail.alpha <= HEAVY_ALPHA and evidence["tail_span"] >= HEAVY_SPAN
    return Phase("heavy-tailed" if heavy else "bulk-decay", evidence)


def caveats(fit: PowerLawFit, *, mp: MPFit | None = None) -> list[str]:
    """Say in words why an exponent may mean nothing.

    Parameters
    ----------
    fit : PowerLawFit
        The fit of a layer's eigenvalues.
    mp : MPFit, optional
        The Marchenko-Pastur fit of the same eigenvalues. It shows whether there is more than
        chance.

    Returns
    -------
    list of str
        One sentence per reason, with its numbers; empty if there is none.

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


@dataclass(frozen=True)
class Laws:
    """The laws that could be fitted to a spectrum.

    Attributes
    ----------
    tail : PowerLawFit or None
    mp : MPFit or None
    phase : str
        Name of the phase of training, or empty.
    reasons : dict of str to str
        Under "tail" and "mp", why there is none.
    """

    tail: PowerLawFit | None
    mp: MPFit | None
    phase: str
    reasons: dict[str, str]


def fit_laws(eigenvalues: ArrayLike, *, N: int, M: int) -> Laws:
    """Fit the tail and the bulk of a spectrum and name its phase, each if it can be.

    Parameters
    ----------
    eigenvalues : array of any shape
        Eigenvalues of W^T W (no 1/N), pooled over the matrices of a layer.
    N, M : int
        Rows and columns of the matrices, N >= M.

    Returns
    -------
    Laws
        `fit_power_law`, `fit_marchenko_pastur` and `classify_phase`, each with its defaults.

    Examples
    --------
    >>> laws = fit_laws(np.ones(4), N=8, M=4)
    >>> laws.tail is None, sorted(laws.reasons)
    (True, ['tail'])
    """
    mp = tail = None
    phase = ""
    reasons = {}
    try:
        mp = fit_marchenko_pastur(eigenvalues, N=N, M=M)
    except FitError as error:
        reasons["mp"] = str(error)
    try:
        tail = fit_power_law(eigenvalues)
    except FitError as error:
        reasons["tail"] = str(error)
    # Not every phase needs both laws: zeros are a collapse of rank, though no law fits them.
    with contextlib.suppress(FitError):
        phase = classify_phase(eigenvalues, N=N, M=M, mp=mp, tail=tail).name
    return Laws(tail, mp, phase, reasons)
