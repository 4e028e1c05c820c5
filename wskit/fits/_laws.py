"""All laws of one spectrum at once, for tables and panels: what cannot be fitted is left out."""

import contextlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from wskit.errors import FitError
from wskit.fits._marchenko_pastur import MPFit, fit_marchenko_pastur
from wskit.fits._phases import classify_phase
from wskit.fits._power_law import PowerLawFit, fit_power_law


@dataclass(frozen=True)
class Laws:
    """What could be fitted to a spectrum.

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


def fit_laws(eigenvalues: Float64[np.ndarray, " k"], *, N: int, M: int) -> Laws:
    """Fit the tail and the bulk of a spectrum and name its phase; where one fails, others stand.

    Parameters
    ----------
    eigenvalues : array of shape (k,)
        Of W^T W, pooled over the matrices of a layer.
    N, M : int
        The larger and the smaller side of a matrix.

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
