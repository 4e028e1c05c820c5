"""The cell of plain calls that draws what EsdExplorer shows."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from wskit.checkpoints import Checkpoint
from wskit.widgets._esd_weights import Label, Weights, is_whole, legend_text

if TYPE_CHECKING:
    from wskit.widgets._esd import EsdExplorer

NULL_SEED = 0
_LINE = 100  # letters


def cell(panel: "EsdExplorer") -> str:
    """Return the cell, see `EsdExplorer.code`."""
    modules = ["checkpoints", "features", "fits", "plots", "spectra"]
    if panel.table is None:
        modules.remove("features")
    lines = [f"from wskit import {', '.join(modules)}", "", *_opening(panel._checkpoints)]
    name, conv, step = panel.layer, panel.conv, panel.step
    weights = "weights" if step is None else f"weights[{step!r}]"
    if is_whole(panel._layers.loc[name], conv):
        lines += [
            f"W = {weights}[{name!r}]",
            f"s = spectra.spectrum(W, conv={conv!r}, name={name!r})",
        ]
        null = f"spectra.spectrum(spectra.shuffled(W, seed={NULL_SEED}), conv={conv!r})"
        other = f"spectra.spectrum(weights[{panel.compare!r}][{name!r}], conv={conv!r})"
    else:
        rule = f"names=[{name!r}], conv={conv!r})[0]"
        lines.append(f"s = spectra.spectra({weights}, {rule}")
        shuffled = f"spectra.shuffled_weights({weights}, seed={NULL_SEED})"
        null = f"spectra.spectra({shuffled}, {rule}"
        other = f"spectra.spectra(weights[{panel.compare!r}], {rule}"

    options = []
    if panel.show_fit and panel.fit is not None:
        chosen = "" if panel.xmin is None else f", xmin={panel.xmin!r}"
        lines.append(f"fit = fits.fit_power_law(s.eigenvalues{chosen})")
        options.append("fit=fit")
    if panel.show_null and panel.null is not None:
        lines.append(f"null = {null}")
        options.append("null=null")
    if panel.show_mp and panel.mp is not None:
        lines.append("mp = fits.fit_marchenko_pastur(s.eigenvalues, N=s.N, M=s.M)")
        options.append("mp=mp")
    if panel.other is not None:
        lines.append(f"other = {other}")
        options.append(f"others={{{legend_text(panel.compare)!r}: other}}")
    options += [f"scale={panel.scale!r}", f"bins={panel.bins}"]
    if step is not None:
        options.append(f"label={legend_text(step)!r}")
    lines += _call("ax = plots.plot_esd", ["s", *options])
    if (best := panel._best_to_mark()) is not None:
        style = 'color=plots.PALETTE["accent"], ls="--", label="best xmin"'
        lines += [f"ax.axvline({best.xmin!r}, {style})", "ax.legend()"]
    if panel.table is not None:
        lines.append(f"table = features.spectral_table({weights}, conv={conv!r})")
    return "\n".join(lines)


def _call(function: str, arguments: list[str]) -> list[str]:
    line = f"{function}({', '.join(arguments)})"
    if len(line) <= _LINE:
        return [line]
    return [f"{function}(", *(f"    {argument}," for argument in arguments), ")"]


def _opening(checkpoints: Mapping[Label | None, Weights]) -> list[str]:
    """Return the lines that open the weights, where all of them came from files."""
    opened = {}
    for label, weights in checkpoints.items():
        if not isinstance(weights, Checkpoint) or not _can_be_reopened(weights.source):
            return []
        opened[label] = f"checkpoints.open_checkpoint({weights.source!r})"
    if None in opened:
        return [f"weights = {opened[None]}"]
    return ["weights = {", *(f"    {label!r}: {call}," for label, call in opened.items()), "}"]


def _can_be_reopened(source: str) -> bool:
    return source.startswith("hf://") or Path(source).exists()
