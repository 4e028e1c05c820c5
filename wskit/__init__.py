"""wskit: trained networks' weights treated as data.

The map of the kit, from files up to the screen:

=================  ==============================================================
`wskit.data`         manifests, checksummed downloads, data sets as tensors
`wskit.checkpoints`  open_checkpoint: a lazy, read-only Mapping[str, Tensor]; save_weights
`wskit.spectra`      matrices of a set of weights, and their eigenvalues
`wskit.fits`         power laws, Marchenko-Pastur laws, phases of training (no torch)
`wskit.geometry`     distances and angles between models, permutation matching, projections
`wskit.averaging`    averages: at once, running, of a recorded run; SWAG; merge rules
`wskit.zoo`          many small models as stacked tensors, trained together
`wskit.features`     tables: one row a layer, or one a model
`wskit.landscape`    losses on a path, on a plane, in a region; barrier, edges, sharpness
`wskit.soups`        soups of fine-tuned models: uniform, greedy, learned
`wskit.predictors`   accuracy from features: estimators, splits, scores (no torch)
`wskit.plots`        results drawn on matplotlib Axes
`wskit.widgets`      panels: CheckpointPicker, EsdExplorer, ZooExplorer, RegionExplorer,
                     SwaExplorer, SoupKitchen
`wskit.report`       one page on a set of weights, or on what two of them have in common
`wskit.exercises`    the tutorials' self-checks
=================  ==============================================================

Conventions
-----------
Weights are a ``Mapping[str, Tensor]`` with the flat names of a ``state_dict``. A matrix W is
N x M with N >= M; eigenvalues are those of W^T W, in ascending order, float64; Q = N/M.
One result is a frozen dataclass, many are a `pandas.DataFrame`. Every error that the kit
raises on purpose is a `WskitError`.

Submodules are imported when they are first used, so ``import wskit`` costs next to nothing.
"""

import importlib
from types import ModuleType

from wskit.errors import WskitError

__version__ = "0.1.0"

_SUBMODULES = (
    "averaging",
    "checkpoints",
    "data",
    "exercises",
    "features",
    "fits",
    "geometry",
    "landscape",
    "plots",
    "predictors",
    "report",
    "soups",
    "spectra",
    "widgets",
    "zoo",
)

__all__ = ["WskitError", "__version__", *_SUBMODULES]  # noqa: PLE0604 - strings, all of them


def __getattr__(name: str) -> ModuleType:
    """Import a submodule on first use (PEP 562)."""
    if name in _SUBMODULES:
        return importlib.import_module(f"wskit.{name}")
    raise AttributeError(f"module 'wskit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
