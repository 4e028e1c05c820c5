"""The matrices in a set of weights, and their eigenvalues. Tensors in, spectra out."""

from wskit.spectra._controls import (
    LazyWeights,
    aspect_spectrum,
    difference,
    shuffled,
    shuffled_weights,
)
from wskit.spectra._density import ApproximateDensity, spectral_density
from wskit.spectra._eigen import MAX_SIDE, Method, Spectrum, low_rank_spectrum, spectra, spectrum
from wskit.spectra._layers import ConvRule, QkvRule, inventory, matrices

__all__ = [
    "MAX_SIDE",
    "ApproximateDensity",
    "ConvRule",
    "LazyWeights",
    "Method",
    "QkvRule",
    "Spectrum",
    "aspect_spectrum",
    "difference",
    "inventory",
    "low_rank_spectrum",
    "matrices",
    "shuffled",
    "shuffled_weights",
    "spectra",
    "spectral_density",
    "spectrum",
]
