"""Every choice between texts that the library offers, and one that it does not have."""

from collections.abc import Callable

import numpy as np
from fault_entries import LABELS, data, evaluate, mlp, score, stacked, table
from fault_kit import Entry, draw, module, net, scalars

from wskit import (
    averaging,
    features,
    fits,
    geometry,
    landscape,
    report,
    soups,
    spectra,
    zoo,
)

VALUES = np.geomspace(1, 9, 60)
CONV = {"conv.weight": draw(3, 3, 2, 2)}
STACK = {"fc.weight": draw(2, 6, 4)}

CALLS: dict[str, Callable[..., object]] = {
    "spectra.spectrum conv": lambda c: spectra.spectrum(draw(3, 3, 2, 2), conv=c),
    "spectra.spectrum conv, of a matrix": lambda c: spectra.spectrum(draw(3, 3), conv=c),
    "spectra.spectrum method": lambda c: spectra.spectrum(draw(3, 3), method=c),
    "spectra.spectra conv": lambda c: spectra.spectra(CONV, conv=c),
    "spectra.spectra qkv": lambda c: spectra.spectra(net(), qkv=c),
    "spectra.matrices conv": lambda c: spectra.matrices(CONV, conv=c),
    "spectra.inventory qkv": lambda c: spectra.inventory(net(), qkv=c),
    "fits.fit_power_law method": lambda c: fits.fit_power_law(VALUES, method=c),
    "fits.fit_marchenko_pastur method": lambda c: fits.fit_marchenko_pastur(
        VALUES, N=80, M=60, method=c
    ),
    "fits.compare_tails one alternative": lambda c: fits.compare_tails(
        VALUES, fits.fit_power_law(VALUES), alternatives=[c]
    ),
    "geometry.weight_distances by": lambda c: geometry.weight_distances([net(), net(1)], by=c),
    "averaging.average precision": lambda c: averaging.average([net(), net(1)], precision=c),
    "averaging.merge_ties trim": lambda c: averaging.merge_ties([net(1)], net(), trim=c),
    "averaging.merge_dare combine": lambda c: averaging.merge_dare(
        [net(1)], net(), seed=0, combine=c
    ),
    "zoo.train_zoo form": lambda c: zoo.train_zoo(
        mlp, data(), table(), compute=zoo.Compute(form=c)
    ),
    "zoo.outputs one activation": lambda c: zoo.outputs(mlp, stacked(), draw(5, 4), activation=c),
    "features.spectral_table convention": lambda c: features.spectral_table(net(), convention=c),
    "features.spectral_table conv": lambda c: features.spectral_table(net(), conv=c),
    "features.spectral_features conv": lambda c: features.spectral_features(STACK, conv=c),
    "landscape.random_direction normalize": lambda c: landscape.random_direction(
        net(), seed=0, normalize=c
    ),
    "landscape.zoo_metrics activation": lambda c: landscape.zoo_metrics(
        mlp, draw(5, 4), LABELS, activation=c
    ),
    "landscape.module_metrics form": lambda c: landscape.module_metrics(
        module(), draw(5, 4), LABELS, form=c
    ),
    "landscape.ray_sharpness normalize": lambda c: landscape.ray_sharpness(
        evaluate, net(), distances=[0.1], n_rays=2, seed=0, normalize=c
    ),
    "soups.greedy_soup accept": lambda c: soups.greedy_soup([net(), net(1)], score, accept=c),
    "soups.learned_soup per": lambda c: soups.learned_soup(
        [net(), net(1)], module(), draw(5, 4), LABELS, steps=2, per=c
    ),
    "report.examine conv": lambda c: report.examine(CONV, conv=c),
}
FAULTS = scalars(wrong_choice="x", wrong_dtype=3)

CHOICE_ENTRIES = {name: Entry(FAULTS, call) for name, call in CALLS.items()}
