"""Training runs drawn: means over seeds by epoch, and the path of the weights."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from wskit.plots._style import (
    COLORBLIND,
    PALETTE,
    axes_in_style,
    legend_above,
    measure_name,
)

_LINES = ("-", "--", "-.", ":", (0, (6, 1.5, 1, 1.5, 1, 1.5)))
_SPREAD = "± 1 standard deviation"


def plot_mean_curves(
    table: pd.DataFrame,
    *,
    x: str,
    y: str,
    by: str | None = None,
    unit: str | None = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Draw the mean of one column against another, with its spread: one line per group.

    It shows the error by epoch, say, over several seeds. The bands are one standard deviation
    (divisor n - 1) to either side of the mean, where there are two rows or more. Groups keep the
    order in which they come.

    Parameters
    ----------
    table : DataFrame
        One row for each `x`, group and seed, in any order.
    x, y : str
        Columns of numbers. Rows without a `y` are left out.
    by : str, optional
        Column with the groups, ten at most. None means that all rows are one group.
    unit : str, optional
        Unit of losses, such as "nats" for cross-entropies.
    ax, **kwargs
        Where to draw, and options of all lines (`Axes.plot`).

    Raises
    ------
    ValueError
        If there is no row to draw, or there are more than ten groups.
    """
    rows = table[table[y].notna()]
    if rows.empty:
        raise ValueError(f"there is no row with a value of {y!r} to draw.")
    groups = {measure_name(y, unit): rows}
    if by is not None:
        groups = {
            _group(by, value): rows[rows[by] == value] for value in rows[by].dropna().unique()
        }
    if len(groups) > len(COLORBLIND):
        raise ValueError(
            f"at most {len(COLORBLIND)} groups can be told apart, got {len(groups)} by {by!r}."
        )
    with axes_in_style(ax) as ax:
        named: list[Artist] = list(ax.get_legend_handles_labels()[0])
        spread = False
        for i, (label, group) in enumerate(groups.items()):
            found = group.groupby(x)[y].agg(["mean", "std"])
            at, mean, std = found.index.to_numpy(float), found["mean"], found["std"]
            look = {"color": COLORBLIND[i], "ls": _LINES[i % len(_LINES)], "label": label}
            (line,) = ax.plot(at, mean.to_numpy(float), **(look | kwargs))
            named.append(line)
            if std.notna().any():
                band = {"color": line.get_color(), "alpha": 0.18, "lw": 0}
                ax.fill_between(at, mean - std, mean + std, label=f"{label} {_SPREAD}", **band)
                spread = True
        if spread:  # named once for all groups
            named.append(Patch(color=PALETTE["null"], alpha=0.35, lw=0, label=_SPREAD))
        ax.set(xlabel=measure_name(x, unit), ylabel=measure_name(y, unit))
        if len(named) > 1:
            legend_above(ax, handles=named)
    return ax


def plot_trajectory(
    coordinates: ArrayLike,
    steps: ArrayLike,
    *,
    shares: ArrayLike | None = None,
    marks: Mapping[str, ArrayLike] | None = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Draw the path of a training run on the plane of its first two principal components.

    Both axes have one scale, so that distances can be compared.

    Parameters
    ----------
    coordinates : array of shape (steps, components)
        Principal components of the weights, from ``sklearn.decomposition.PCA().fit_transform``;
        the first two are drawn.
    steps : array of shape (steps,)
        Training step of each row.
    shares : array of shape (components,), optional
        Shares of the variance, ``explained_variance_ratio_`` of the same estimator.
    marks : mapping of str to array of shape (2,), optional
        Named points (x, y) in the same coordinates. The mean of some steps is at the mean of
        their rows.
    ax, **kwargs
        Where to draw, and options of the steps (`Axes.scatter`).
    """
    places = np.asarray(coordinates, dtype=float)[:, :2]
    if places.shape[1] < 2:
        raise ValueError("a trajectory needs two principal components, got 1.")
    points = {name: np.asarray(at, dtype=float) for name, at in (marks or {}).items()}
    for name, point in points.items():
        if point.shape != (2,):
            raise ValueError(f"the mark {name!r} must have shape (2,), got {point.shape}.")
    with axes_in_style(ax) as ax:
        ax.plot(*places.T, color=PALETTE["null"], lw=1, alpha=0.7, zorder=1, label="_path")
        style = {"c": np.asarray(steps), "cmap": "viridis", "s": 36, "lw": 0, "label": "steps"}
        ax.figure.colorbar(ax.scatter(*places.T, **(style | kwargs)), ax=ax, label="step")
        colors = (PALETTE["fit"], PALETTE["other"], "black")
        for i, (name, point) in enumerate(points.items()):
            look = {"marker": "PXDsp"[i % 5], "ms": 12, "mfc": colors[i % 3], "mec": "white"}
            ax.plot(*point, **look, ls="", zorder=3, label=name.replace("$", r"\$"))
        labels = ["component 1", "component 2"]
        if shares is not None:
            percent = 100 * np.asarray(shares, dtype=float)[:2]
            labels = [
                f"{a}, {b:.3g} % of the variance" for a, b in zip(labels, percent, strict=True)
            ]
        ax.set(xlabel=labels[0], ylabel=labels[1])
        ax.set_aspect("equal", adjustable="datalim")
        if points:  # named over the Axes: a mean and a last step lie close together
            legend_above(ax, handles=[line for line in ax.get_lines() if line.get_ls() == "None"])
    return ax


def _group(by: str, value: Any) -> str:
    """Return the label of a group; a number says nothing without the column's name."""
    return value if isinstance(value, str) else f"{by.replace('_', ' ')} {value}"
