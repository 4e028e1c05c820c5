"""Figures of the panels: drawn to PNG, shown as an image with alternative text."""

import base64
import html
import io

import ipywidgets as widgets
import matplotlib as mpl
import matplotlib.image
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import ArrayLike

from wskit import plots

_TITLE_LETTERS = 58  # of a picture's width; a longer title is set smaller
_MOST_LETTERS = 76  # at the smallest size; of a longer title the middle is left out


class Picture(widgets.HTML):
    """A figure shown as an image with alternative text.

    The one figure is drawn again and again: its canvas remembers how its texts are laid out,
    which is most of the work of drawing it.
    """

    def __init__(self) -> None:
        super().__init__()
        with mpl.rc_context(plots.STYLE | {"figure.constrained_layout.use": False}):
            self._figure = Figure(figsize=(6.4, 5.0))
        self._canvas = FigureCanvasAgg(self._figure)
        self.blank()

    def new_axes(self) -> Axes:
        """Return new Axes to draw on, in place of the former ones."""
        self._figure.clear()
        # Fixed margins: laying the figure out anew at each step would double the time. Above the
        # Axes there is room for a legend of four rows: among the data it would hide some of them.
        self._figure.subplots_adjust(left=0.15, right=0.97, bottom=0.122, top=0.71)
        return self._figure.add_subplot()

    def blank(self) -> None:
        """Leave the picture's place empty."""
        width, height = self._canvas.get_width_height()
        size = f"width:{width}px;max-width:100%;aspect-ratio:{width}/{height}"
        self._style = f"display:block;{size}"
        self.png = b""
        self.value = f'<div style="{self._style}"></div>'

    def draw(self, description: str) -> None:
        """Show the Axes as they are now."""
        for ax in self._figure.axes:
            _thin_ticks(ax.xaxis)
            _thin_ticks(ax.yaxis)
            title = ax.get_title(loc="left")
            if len(title) > _MOST_LETTERS:
                half = _MOST_LETTERS // 2
                title = f"{title[: half - 1]}…{title[-half:]}"
            size = 12 * min(1.0, _TITLE_LETTERS / max(len(title), 1))
            rows = -(-len(ax.get_legend_handles_labels()[0]) // 2)
            # A tensor's name is no formula, whatever dollar signs are in it.
            ax.set_title(title, loc="left", pad=21 * rows, fontsize=size, parse_math=False)
            ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.1)
        buffer = io.BytesIO()
        # savefig would draw twice, the first time to lay the figure out.
        self._canvas.print_png(buffer, metadata={"Software": None})
        self.show(buffer.getvalue(), description)

    def show(self, png: bytes, description: str) -> None:
        """Show a picture, with its description as alternative text."""
        self.png = png
        source = base64.b64encode(png).decode()
        self.value = (
            f'<img alt="{html.escape(description)}" src="data:image/png;base64,{source}" '
            f'style="{self._style};border-radius:4px">'
        )


class FigurePicture(Picture):
    """A picture whose figure lays itself out: colour bars and several Axes have room.

    Parameters
    ----------
    width, height : float
        In inches of 100 points of the screen.
    """

    def __init__(self, width: float, height: float) -> None:
        super().__init__()
        self._figure.set_size_inches(width, height)
        self.blank()

    def new_figure(self) -> Figure:
        """Return the figure, empty."""
        self._figure.clear()
        self._figure.set_layout_engine("constrained")
        return self._figure

    def draw(self, description: str) -> None:
        """Show the figure as it is now."""
        for ax in self._figure.axes:
            if not hasattr(ax, "_colorbar"):  # which has a locator of its own
                _thin_ticks(ax.xaxis)
                _thin_ticks(ax.yaxis)
        buffer = io.BytesIO()
        with mpl.rc_context(plots.STYLE):
            self._canvas.print_png(buffer, metadata={"Software": None})
        self.show(buffer.getvalue(), description)


class PointPicture(FigurePicture):
    """A picture that is kept but for its point: moving that draws nothing else anew."""

    _point: Line2D

    def draw_with_point(self, ax: Axes) -> None:
        """Show the Axes of `plots.plot_loss_plane` as they are now."""
        self._point = next(line for line in ax.get_lines() if line.get_gid() == "point")
        self._point.set_animated(True)  # the canvas leaves it out
        with mpl.rc_context(plots.STYLE):
            self._canvas.draw()
        self._background = self._canvas.copy_from_bbox(self._figure.bbox)
        self.move(np.asarray(self._point.get_xydata())[0])

    def move(self, place: ArrayLike) -> None:
        """Show the point at another place (x, y)."""
        x, y = np.asarray(place, dtype=float)
        self._point.set_data([x], [y])
        self._canvas.restore_region(self._background)
        self._point.axes.draw_artist(self._point)
        buffer = io.BytesIO()
        pixels = np.asarray(self._canvas.buffer_rgba())
        mpl.image.imsave(buffer, pixels, format="png", pil_kwargs={"compress_level": 1})
        self.show(buffer.getvalue(), plots.describe(self._point.axes))


def _thin_ticks(axis: Axis) -> None:
    """Drop the minor ticks of a logarithmic axis: each costs as much as a line of text.

    Where few powers of ten are left, 1, 2 and 5 of each decade are written out.
    """
    if axis.get_scale() != "log":
        return
    low, high = axis.get_view_interval()
    if np.log10(high / low) < 2.5:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())
