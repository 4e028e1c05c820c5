"""The matrices in a set of weights, and their eigenvalues. Tensors in, spectra out."""

from wskit.spectra._controls import aspect_spectrum, difference, shuffled, shuffled_weights
from wskit.spectra._density import spectral_density
from wskit.spectra._eigen import Spectrum, spectra, spectrum
from wskit.spectra._layers import ConvRule as ConvRule
from wskit.spectra._layers import QkvRule as QkvRule
from wskit.spectra._layers import inventory, matrices

__all__ = [
    "Spectrum",
    "aspect_spectrum",
    "difference",
    "inventory",
    "matrices",
    "shuffled",
    "shuffled_weights",
    "spectra",
    "spectral_density",
    "spectrum",
]


def __dir__() -> list[str]:
    return __all__
