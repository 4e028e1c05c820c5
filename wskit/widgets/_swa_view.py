"""What SwaExplorer shows: a table of numbers, the picture of the curve, a sentence."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wskit import plots
from wskit._texts import cell_text
from wskit.widgets._swa_code import ROOM, SPAN
from wskit.widgets._tables import html_table


def window_text(epochs: np.ndarray, every: int) -> str:
    """Say which epochs are averaged."""
    if len(epochs) == 1:
        return f"Average of one epoch, {epochs[0]}"
    steps = f", one in {every}" if every > 1 else ""
    return f"Average of {len(epochs)} epochs, {epochs[0]} to {epochs[-1]}{steps}"


def number_table(numbers: pd.DataFrame, caption: str) -> str:
    """Return the measures of the window's models as HTML."""
    head = [str(name).replace("_", " ") for name in numbers]
    rows = {str(name): [cell_text(value) for value in row] for name, row in numbers.iterrows()}
    return html_table(caption, head, rows)


def draw_curve(
    figure: Figure, curve: pd.DataFrame, measure: str, unit: str | None, epochs: np.ndarray
) -> Axes:
    """Draw a measure by epoch, and the window that is averaged, which sets the scale."""
    with mpl.rc_context(plots.STYLE):
        ax = figure.add_subplot()
        ax.axvspan(epochs[0] - 0.5, epochs[-1] + 0.5, **SPAN)
        plots.plot_mean_curves(curve, x="epoch", y=measure, by="model", unit=unit, ax=ax)
        if limits := scale(curve, measure, epochs):
            ax.set_ylim(limits)
        return ax


def scale(curve: pd.DataFrame, measure: str, epochs: np.ndarray) -> tuple[float, float] | None:
    """Return the limits of the window's values: beside those of the first epochs all are one."""
    inside = curve.loc[curve["epoch"].between(epochs[0], epochs[-1]), measure]
    room = ROOM * (inside.max() - inside.min())
    return (inside.min() - room, inside.max() + room) if room > 0 else None
