"""Distributions fitted to eigenvalues: arrays in, frozen dataclasses out, no torch.

All functions take eigenvalues of W^T W (squared singular values, without a 1/N) in any order,
and return results in the same units.
"""

from wskit.fits._evidence import alpha_interval, compare_tails, goodness_of_fit
from wskit.fits._marchenko_pastur import MarchenkoPastur, MPFit, fit_marchenko_pastur
from wskit.fits._phases import FEW_EIGENVALUES as FEW_EIGENVALUES
from wskit.fits._phases import Laws as Laws
from wskit.fits._phases import Phase as Phase
from wskit.fits._phases import caveats, classify_phase, fit_laws
from wskit.fits._power_law import PowerLawFit, fit_power_law, ks_curve

__all__ = [
    "MPFit",
    "MarchenkoPastur",
    "PowerLawFit",
    "alpha_interval",
    "caveats",
    "classify_phase",
    "compare_tails",
    "fit_laws",
    "fit_marchenko_pastur",
    "fit_power_law",
    "goodness_of_fit",
    "ks_curve",
]


def __dir__() -> list[str]:
    return __all__
