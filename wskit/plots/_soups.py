"""Soups drawn: how a greedy one came about, and what soups are worth."""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from wskit.plots._style import COLORBLIND, PALETTE, axes_in_style, legend_above, measure_name

if TYPE_CHECKING:
    import pandas as pd

_INGREDIENT = "ingredient"
_COLORS = [COLORBLIND[i] for i in (3, 0, 2, 4, 1, 5, 9, 8, 6)]  # grey is for the ingredients
_MARKERS = "DosP^vX*p"
_FEW = 24  # ingredients that are named one by one
_LETTERS = 220  # points of height for all of their names
_SLANTED: dict[str, Any] = {
    "rotation": 45,
    "ha": "right",
    "rotation_mode": "anchor",
    "parse_math": False,
}


def plot_greedy_path(history: "pd.DataFrame", *, ax: Axes | None = None, **kwargs: Any) -> Axes:
    """Draw the held-out scores of a greedy soup, in the order in which ingredients were tried.

    The line is the score of the soup after each step. Up to 24 ingredients are named.

    Parameters
    ----------
    history : DataFrame
        ``history`` of `wskit.soups.greedy_soup`.
    ax, **kwargs
        Where to draw, and options of the accepted points (`Axes.plot`).
    """
    step = np.arange(1, len(history) + 1)
    scores, own = (history[name].to_numpy(float) for name in ("held_out_score", "own_score"))
    kept = history["accepted"].to_numpy(bool)
    latest = np.maximum.accumulate(np.where(kept, np.arange(len(kept)), 0))
    with axes_in_style(ax) as ax:
        faint = {"color": PALETTE["null"], "lw": 1}
        ax.plot(step, own, **faint, marker="o", ms=4, label="the ingredient alone")
        line = {"color": PALETTE["data"], "lw": 1.5, "drawstyle": "steps-post"}
        ax.plot(step, scores[latest], **line, label="the soup so far")
        style = {"color": PALETTE["data"], "marker": "o", "ls": "", "ms": 9, "label": "accepted"}
        ax.plot(step[kept], scores[kept], **(style | kwargs))
        style = {"color": PALETTE["fit"], "marker": "X", "ls": "", "ms": 9, "label": "rejected"}
        ax.plot(step[~kept], scores[~kept], **style)
        ax.set(ylabel="held-out score", xlim=(0.5, len(step) + 0.5))
        if len(step) <= _FEW:
            ax.set_xlabel("ingredient, in the order in which they are tried")
            names = history["ingredient"].astype(str)
            ax.set_xticks(step, names, fontsize=_size(len(step)), **_SLANTED)
        else:
            ax.set_xlabel("step")
        legend_above(ax)
    return ax


def plot_soup_scores(
    table: "pd.DataFrame", *, x: str, y: str, ax: Axes | None = None, **kwargs: Any
) -> Axes:
    """Draw models as points: a score on clean data against one on shifted data.

    Figure 1 of Wortsman et al. (2022, arXiv:2203.05482).

    Parameters
    ----------
    table : DataFrame
        One row per model. Its column "kind" says what it is: an "ingredient" is small and grey, and
        each other kind ("greedy soup", "ensemble" ...) has its own colour and marker; nine at most.
    x, y : str
        Columns of numbers.
    ax, **kwargs
        Where to draw, and options of all points but the ingredients (`Axes.plot`).

    Raises
    ------
    ValueError
        If there are too many kinds.
    """
    kinds = [kind for kind in table["kind"].unique() if kind != _INGREDIENT]
    if len(kinds) > len(_COLORS):
        raise ValueError(
            f"at most {len(_COLORS)} kinds of models can be told apart, got {len(kinds)}."
        )
    with axes_in_style(ax) as ax:
        singles = table[table["kind"] == _INGREDIENT]
        if len(singles):
            small = {"color": PALETTE["null"], "marker": "o", "ls": "", "ms": 5, "alpha": 0.7}
            ax.plot(singles[x], singles[y], **small, label=_INGREDIENT)
        for kind, color, marker in zip(kinds, _COLORS, _MARKERS, strict=False):
            rows = table[table["kind"] == kind]
            style = {"color": color, "marker": marker, "ls": "", "ms": 12, "mec": "white"}
            style |= {"alpha": 0.9, "label": str(kind)}
            ax.plot(rows[x], rows[y], **(style | kwargs))
        ax.set(xlabel=measure_name(x), ylabel=measure_name(y))
        ax.margins(0.08)
        legend_above(ax)
    return ax


def _size(n: int) -> float:
    """Return the size of the letters of n names on an axis."""
    return min(11.0, _LETTERS / max(n, 1))
