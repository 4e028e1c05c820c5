"""The cell of plain calls that gives what RegionExplorer shows."""

from typing import TYPE_CHECKING

from wskit.widgets._plane import MARGIN

if TYPE_CHECKING:
    from wskit.widgets._region import RegionExplorer

N_RANDOM = 5  # directions of the random control; direction i has the seed i
FIGSIZE = (6.4, 5.0)


def cell(panel: "RegionExplorer") -> str:
    """Return the cell, see `RegionExplorer.code`."""
    names, c = panel.chosen, [float(value) for value in panel.coefficients]
    labels = tuple(map(str, names))
    plane, mapped = panel.landscape is not None, panel._places is not None
    lines = ["import matplotlib.pyplot as plt"] if plane or mapped else []
    lines += ["import numpy as np"] if panel.show_random else []
    lines.append("import pandas as pd")
    modules = ["geometry"] if panel.show_random else []
    modules += ["landscape", *(["plots"] if plane or mapped else [])]
    lines += [
        f"from wskit import {', '.join(modules)}",
        "",
        f"chosen = [models[name] for name in {names!r}]",
        f"c = {c!r}",
        "at = [c, [1, 0, 0], [0, 1, 0], [0, 0, 1]]",
        "numbers = landscape.evaluate_mixtures(evaluate, chosen, at)",
        f'numbers.index = ["point", *{labels!r}]',
    ]
    if panel.show_random:
        lines += [
            f"seeds = range({N_RANDOM})",
            "directions = [",
            '    landscape.random_direction(base, seed=seed, normalize="unit") for seed in seeds',
            "]",
            "moving = [name for name, d in directions[0].items() if d.any()]",
            "apart = geometry.weight_distances(chosen, base, names=moving)",
            "# |sum c w - w0|^2, from the distances: the coefficients sum to 1.",
            "squared = c @ apart.update_norms() ** 2 - c @ apart.euclidean() ** 2 @ c / 2",
            "at = np.hstack([np.ones((len(seeds), 1)), max(squared, 0) ** 0.5 * np.eye(5)])",
            "control = landscape.evaluate_mixtures(evaluate, [base, *directions], at)",
            'numbers.loc["random"] = control.mean()',
        ]
    if plane:
        unit = f", unit={panel._unit!r}" if panel._unit else ""
        n = len(panel.landscape.x) if panel.landscape is not None else 0
        lines += [
            "plane = landscape.plane_through(*chosen)",
            f"x, y = plane.grid({n}, margin={MARGIN})",
            f"names = {labels!r}",
            "found = landscape.loss_plane(evaluate, *chosen, x=x, y=y, names=names)",
            "with plt.rc_context(plots.STYLE):",
            f"    fig, ax = plt.subplots(figsize={FIGSIZE})",
            "at = c @ plane.corners",
            f"plots.plot_loss_plane(found, measure={panel.measure!r}{unit}, point=at, ax=ax)",
        ]
    if mapped:
        groupings = list(panel._places)[2:4] if panel._places is not None else []
        options = [
            f"{key}=map[{column!r}]"
            for key, column in zip(("groups", "markers"), groupings, strict=False)
        ]
        options += [] if panel.base is not None else ["base=None"]
        options.append(f"chosen={panel._rows!r}")
        lines += [
            "with plt.rc_context(plots.STYLE):",
            f"    map_fig, map_ax = plt.subplots(figsize={FIGSIZE})",
            "plots.plot_model_map(",
            "    map.iloc[:, :2],",
            *(f"    {option}," for option in options),
            "    ax=map_ax,",
            ")",
        ]
    lines.append("numbers")
    return "\n".join(lines) + "\n"
