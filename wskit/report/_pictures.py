"""Pictures of a report: drawn to PNG, each with what it shows in words."""

import base64
import io
import warnings
from dataclasses import dataclass

import matplotlib as mpl
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from wskit import plots
from wskit._texts import printable, shorten
from wskit.report._report import Specimen

_DPI = 144  # an inch is 100 points of the page: sharp on a dense screen, and still small


@dataclass(frozen=True)
class Picture:
    """A PNG, what it shows in words, and its size on the page."""

    png: bytes
    description: str
    width: int
    height: int

    @property
    def address(self) -> str:
        """The picture as a data: address."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


def spectrum_picture(specimen: Specimen) -> Picture:
    """Draw a layer's spectrum with the laws that were fitted to it."""
    figure = Figure(figsize=(5.6, 4.2))
    # Of a spectrum whose rest is zero, no law says anything.
    collapsed = specimen.laws.phase == "rank-collapse"
    with mpl.rc_context(plots.STYLE):
        ax = plots.plot_esd(
            specimen.spectrum,
            fit=None if collapsed else specimen.laws.tail,
            mp=None if collapsed else specimen.laws.mp,
            null=specimen.null,
            ax=figure.subplots(),
        )
        ax.set_title("")  # the page has it
        above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.1}
        ax.legend(ncols=2, fontsize=9, **above)
    return _drawn(figure)


def depth_picture(table: pd.DataFrame, metric: str, *, x: str, y: str) -> Picture:
    """Draw a column of a table from the first row to the last; `x` and `y` name the axes."""
    figure = Figure(figsize=(9.0, 4.4 if len(table) <= 30 else 3.6))
    with mpl.rc_context(plots.STYLE):
        named = table.assign(name=[shorten(printable(name)) for name in table["name"]])
        ax = plots.plot_metric_by_depth(named, metric=metric, ax=figure.subplots())
        ax.set(xlabel=x, ylabel=y)
        if len(ax.get_legend_handles_labels()[0]) == 1:
            ax.get_legend().remove()
    return _drawn(figure)


def _drawn(figure: Figure) -> Picture:
    figure.set_layout_engine("constrained")
    width, height = (round(100 * inches) for inches in figure.get_size_inches())
    buffer = io.BytesIO()
    with mpl.rc_context(plots.STYLE), warnings.catch_warnings():
        # A letter of a name that the font has not is a box; the page's text has it.
        warnings.filterwarnings("ignore", message="Glyph")
        FigureCanvasAgg(figure)
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return Picture(buffer.getvalue(), plots.describe(figure), width, height)
