"""Soups drawn: how a greedy one came about, what soups are worth, and what they are made of."""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from wskit.plots._style import COLORBLIND, PALETTE, legend_above, measure_name, new_axes, styled

if TYPE_CHECKING:
    import pandas as pd

_INGREDIENT = "ingredient"
_COLORS = [COLORBLIND[i] for i in (3, 0, 2, 4, 1, 5, 9, 8, 6)]  # grey is for the ingredients
_MARKERS = "DosP^vX*p"
_FEW = 24  # ingredients or layers that are named one by one
_LETTERS = 220  # points of height for all of their names
_SLANTED: dict[str, Any] = {
    "rotation": 45,
    "ha": "right",
    "rotation_mode": "anchor",
    "parse_math": False,
}


def plot_greedy_path(history: "pd.DataFrame", *, ax: Axes | None = None, **kwargs: Any) -> Axes:
    """Draw the held-out scores of a greedy soup, in the order in which ingredients were tried.

    Parameters
    ----------
    history : DataFrame
        Of `wskit.soups.greedy_soup`.
    ax : Axes, optional
        Where to draw. None makes a new figure.
    **kwargs
        For the points of what was accepted (`matplotlib.axes.Axes.plot`).

    Returns
    -------
    Axes
        The line is the score of the soup after each step. Up to 24 ingredients are named.

    Raises
    ------
    ValueError
        If a column is not there, or there is no step.
    """
    _check(history, ["ingredient", "own_score", "held_out_score", "accepted"])
    step = np.arange(1, len(history) + 1)
    scores, own = (history[name].to_numpy(float) for name in ("held_out_score", "own_score"))
    kept = history["accepted"].to_numpy(bool)
    latest = np.maximum.accumulate(np.where(kept, np.arange(len(kept)), 0))
    with styled(ax):
        ax = new_axes() if ax is None else ax
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
        A row a model. Its column "kind" says what it is: each "ingredient" is small and grey, any
        other kind ("greedy soup", "ensemble", ...) has a colour and a marker of its own. Nine of
        these can be told apart.
    x, y : str
        Columns of numbers.
    ax : Axes, optional
        Where to draw. None makes a new figure.
    **kwargs
        For the points of all kinds but the ingredients (`matplotlib.axes.Axes.plot`).

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If a column is not there, there is no row, or there are too many kinds.
    """
    _check(table, ["kind", x, y])
    kinds = [kind for kind in table["kind"].unique() if kind != _INGREDIENT]
    if len(kinds) > len(_COLORS):
        raise ValueError(
            f"there are {len(kinds)} kinds of models, and {len(_COLORS)} at most can be told "
            "apart; leave some out."
        )
    with styled(ax):
        ax = new_axes() if ax is None else ax
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


def plot_coefficients(
    coefficients: "pd.Series | pd.DataFrame", *, ax: Axes | None = None, **kwargs: Any
) -> Axes:
    """Draw what a soup is made of: a bar an ingredient, or colours where each layer has its own.

    Parameters
    ----------
    coefficients : Series or DataFrame
        ``soup.coefficients``: by ingredient; where it is a DataFrame, a column a layer.
    ax : Axes, optional
        Where to draw. None makes a new figure.
    **kwargs
        For the bars (`matplotlib.axes.Axes.barh`) or the image (`matplotlib.axes.Axes.imshow`).

    Returns
    -------
    Axes
        The first ingredient is on top. A line is at equal coefficients. Up to 24 ingredients and
        layers are named.

    Raises
    ------
    ValueError
        If there is no coefficient.
    """
    n = len(coefficients)
    if not coefficients.size:
        raise ValueError("there are no coefficients to draw.")
    place = np.arange(n)
    with styled(ax):
        ax = new_axes() if ax is None else ax
        if coefficients.ndim == 1:
            label = {"label": "coefficient", "color": PALETTE["data"], "height": 0.7}
            ax.barh(place, coefficients.to_numpy(float), **(label | kwargs))
            ax.axvline(1 / n, color=PALETTE["null"], ls="--", lw=1.5, label="all equal")
            ax.set(xlabel="coefficient", ylim=(n - 0.5, -0.5))
            legend_above(ax)
        else:
            values = coefficients.to_numpy(float)
            style = {"cmap": "viridis", "aspect": "auto", "vmin": min(0.0, values.min())}
            style |= {"interpolation": "nearest", "label": "coefficient"}
            image = ax.imshow(values, **(style | kwargs))
            ax.figure.colorbar(image, ax=ax, label=f"coefficient (all equal: {1 / n:.3g})")
            layers = [str(layer) for layer in coefficients.columns]
            shown = layers if len(layers) <= _FEW else []
            ax.set_xticks(range(len(shown)), shown, fontsize=_size(len(shown)), **_SLANTED)
            ax.set(xlabel="layer")
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
        names = [str(name) for name in coefficients.index] if n <= _FEW else []
        ax.set_yticks(range(len(names)), names, fontsize=_size(n), parse_math=False)
        if not names:
            ax.set_ylabel(f"{n} ingredients")
    return ax


def _size(n: int) -> float:
    """Return the size of the letters of n names on an axis."""
    return min(11.0, _LETTERS / max(n, 1))


def _check(table: "pd.DataFrame", columns: list[str]) -> None:
    for name in columns:
        if name not in table:
            raise ValueError(f"there is no column {name!r}; there is {', '.join(map(str, table))}.")
    if table.empty:
        raise ValueError("there is no row to draw.")
