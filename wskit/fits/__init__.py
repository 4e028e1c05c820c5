"""Distributions fitted to eigenvalues. Arrays in, frozen dataclasses out; no torch.

All functions take eigenvalues of W^T W (squared singular values, without a 1/N), in any order,
and answer in the same units.
"""

from wskit.fits._bootstrap import alpha_interval, goodness_of_fit
from wskit.fits._compare import compare_tails
from wskit.fits._laws import Laws, fit_laws
from wskit.fits._marchenko_pastur import MarchenkoPastur, MPFit, fit_marchenko_pastur
from wskit.fits._phases import FEW_EIGENVALUES, Phase, caveats, classify_phase
from wskit.fits._power_law import PowerLawFit, fit_clipped, fit_power_law, ks_curve

__all__ = [
    "FEW_EIGENVALUES",
    "Laws",
    "MPFit",
    "MarchenkoPastur",
    "Phase",
    "PowerLawFit",
    "alpha_interval",
    "caveats",
    "classify_phase",
    "compare_tails",
    "fit_clipped",
    "fit_laws",
    "fit_marchenko_pastur",
    "fit_power_law",
    "goodness_of_fit",
    "ks_curve",
]
