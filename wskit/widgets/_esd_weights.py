"""What EsdExplorer works on: checkpoints under their labels, their layers, a spectrum's laws."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from wskit._base.weights import LazyWeights
from wskit._texts import size_text
from wskit.errors import FitError, SpectrumError
from wskit.fits import Laws, MPFit, PowerLawFit, fit_laws, fit_power_law
from wskit.spectra import ConvRule, DerivedWeights, Spectrum, inventory

Weights = Mapping[str, Tensor]
Label = str | int | float


def label_text(label: Label | None) -> str:
    """Return how a checkpoint is called in a sentence and a legend."""
    return "" if label is None else label if isinstance(label, str) else f"step {label}"


def legend_text(label: Label | None) -> str:
    """Return it for a legend, where dollar signs would begin a formula."""
    return label_text(label).replace("$", r"\$")


def by_label(weights: Mapping[Any, Any]) -> dict[Label | None, Weights]:
    """Return the checkpoints under their labels; weights that are just one are under None."""
    lazy = hasattr(weights, "shape")  # then reading a tensor, to see what it is, takes time
    if lazy or not isinstance(next(iter(weights.values()), None), Mapping):
        return {None: weights}
    found: dict[Label | None, Weights] = {}
    for key, checkpoint in weights.items():
        label = key.item() if isinstance(key, np.generic) else key
        if not isinstance(label, str | int | float):
            raise SpectrumError(f"A checkpoint's label is a text or a number, got {label!r}.")
        if not isinstance(checkpoint, Mapping):
            raise SpectrumError(
                f"Under each label weights are needed, a mapping from names to tensors; "
                f"under {label!r} there is a {type(checkpoint).__name__}."
            )
        found[label] = checkpoint
    return found


def common_layers(checkpoints: Mapping[Label | None, Weights], conv: ConvRule) -> pd.DataFrame:
    """Return the rows of `inventory` that have a matrix, the same in all checkpoints."""
    tables = {label: _layers(weights, conv) for label, weights in checkpoints.items()}
    (first, common), *others = tables.items()
    for label, table in others:
        for name in [*common.index, *table.index]:
            sizes = [size_text(t.loc[name]) if name in t.index else "missing"
                     for t in (common, table)]  # fmt: skip
            if sizes[0] != sizes[1]:
                raise SpectrumError(
                    f"All checkpoints need the same layers, and {name!r} is {sizes[0]} at "
                    f"{label_text(first)!r} and {sizes[1]} at {label_text(label)!r}."
                )
    return common


def _layers(weights: Weights, conv: ConvRule) -> pd.DataFrame:
    table = inventory(weights, conv=conv)
    found = table[table["reason"] == ""].set_index("name")
    if found.empty:
        raise SpectrumError(
            f"None of the {len(table)} tensors has a matrix; "
            "spectra.inventory(weights) tells why of each."
        )
    return found


def is_whole(layer: Any, conv: ConvRule) -> bool:
    """Whether a layer is a tensor whose shape tells the rule; of others `spectra` needs the name.

    `layer` is a row of `common_layers`.
    """
    dense = layer["kind"] == "matrix" and len(layer["shape"]) == 2
    return conv != "per-slice" and bool(dense or layer["kind"] == "convolution")


@dataclass(frozen=True, eq=False)
class Reading:
    """A spectrum and its laws; of shuffled weights, none."""

    spectrum: Spectrum
    laws: Laws | None = None

    @property
    def best(self) -> PowerLawFit | None:
        return self.laws.tail if self.laws else None

    @property
    def mp(self) -> MPFit | None:
        return self.laws.mp if self.laws else None

    @property
    def phase(self) -> str:
        return self.laws.phase if self.laws else ""

    def tail(self, xmin: float | None) -> PowerLawFit | None:
        """Return the power law from `xmin` on, or the best one; raise where there is none."""
        if self.laws is not None and self.best is None:
            raise FitError(self.laws.reasons["tail"])
        return self.best if xmin is None else fit_power_law(self.spectrum.eigenvalues, xmin=xmin)


def read(s: Spectrum) -> Reading:
    """Fit what can be fitted to a spectrum."""
    return Reading(s, fit_laws(s.eigenvalues, N=s.N, M=s.M))


class WatchedWeights(DerivedWeights):
    """Weights that report how many of their tensors have been read."""

    def __init__(self, weights: Weights, report: Callable[[int, int], None]) -> None:
        super().__init__(weights)
        self._report = report
        self._seen: set[str] = set()

    @property
    def block_reads(self) -> bool:
        return isinstance(self._like, LazyWeights) and self._like.block_reads

    def __getitem__(self, name: str) -> Tensor:
        self._note(name)
        return self._like[name]

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        self._note(name)
        if isinstance(self._like, LazyWeights):
            return self._like.rows(name, start, stop)
        return self._like[name][start:stop]

    def _note(self, name: str) -> None:
        self._seen.add(name)
        self._report(len(self._seen), len(self._like))
