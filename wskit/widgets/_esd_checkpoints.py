"""What EsdExplorer works on: checkpoints under their labels, and their layers."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from wskit._base.weights import DerivedWeights, LazyWeights, read_rows
from wskit._texts import size_text
from wskit.checkpoints import Checkpoint
from wskit.errors import SpectrumError
from wskit.spectra import ConvRule, inventory
from wskit.widgets._panel import open_weights

Weights = Mapping[str, Tensor]
Label = str | int | float


def label_text(label: Label | None) -> str:
    """Return what a checkpoint is called in a sentence and a legend."""
    return "" if label is None else label if isinstance(label, str) else f"step {label}"


def legend_text(label: Label | None) -> str:
    """Return it for a legend, where dollar signs would begin a formula."""
    return label_text(label).replace("$", r"\$")


def by_label(weights: Any) -> dict[Label | None, Weights]:
    """Return the opened checkpoints under their labels; just one is under None."""
    many = isinstance(weights, Mapping) and not isinstance(weights, Checkpoint | LazyWeights)
    if not many or isinstance(next(iter(weights.values()), Tensor()), Tensor):
        return {None: open_weights(weights)}
    labels = [key.item() if isinstance(key, np.generic) else key for key in weights]
    return dict(zip(labels, map(open_weights, weights.values()), strict=True))


def common_layers(checkpoints: Mapping[Label | None, Weights], conv: ConvRule) -> pd.DataFrame:
    """Return the rows of `inventory` that have a matrix, the same in all checkpoints."""
    tables = {}
    for label, weights in checkpoints.items():
        table = inventory(weights, conv=conv)
        tables[label] = table[table["reason"] == ""].set_index("name")
        if tables[label].empty:
            raise SpectrumError(
                f"None of the {len(table)} tensors has a matrix; spectra.inventory(weights) gives "
                "the reason for each."
            )
    (first, common), *others = tables.items()
    for label, table in others:
        for name in [*common.index, *table.index]:
            here, there = (
                size_text(t.loc[name]) if name in t.index else "missing" for t in (common, table)
            )
            if here != there:
                raise SpectrumError(
                    f"All checkpoints need the same layers, and {name!r} is {here} at "
                    f"{label_text(first)!r} and {there} at {label_text(label)!r}."
                )
    return common


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
        return read_rows(self._like, name, start, stop)

    def _note(self, name: str) -> None:
        self._seen.add(name)
        self._report(len(self._seen), len(self._like))


def opening(checkpoints: Mapping[Label | None, Weights]) -> list[str]:
    """Return the lines that open the weights, where all of them came from files."""
    opened = {}
    for label, weights in checkpoints.items():
        source = weights.source if isinstance(weights, Checkpoint) else ""
        if not (source.startswith("hf://") or (source and Path(source).exists())):
            return []
        opened[label] = f"checkpoints.open_checkpoint({source!r})"
    if None in opened:
        return [f"weights = {opened[None]}"]
    return ["weights = {", *(f"    {label!r}: {each}," for label, each in opened.items()), "}"]
