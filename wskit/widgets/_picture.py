"""Pictures of the panels: figures drawn to PNG and shown as images with alternative text."""

import base64
import html
import io
from collections.abc import Callable
from typing import Any

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


class Picture(widgets.HTML):
    """A figure shown as an image.

    The one figure is drawn again and again: its canvas remembers how its texts are laid out,
    which is most of the work of drawing it. A line whose gid is "point" can be moved without
    drawing anything else.

    Parameters
    ----------
    width, height : float
        In inches of 100 pixels.
    fixed : bool, default False
        The figure does not lay itself out: that takes as long as drawing it.

    Attributes
    ----------
    png : bytes
        What is shown; empty before anything is.
    words : str
        The picture in words, see `wskit.plots.describe`.
    """

    def __init__(self, width: float = 6.4, height: float = 5.0, *, fixed: bool = False) -> None:
        super().__init__()
        self._fixed = fixed
        with mpl.rc_context(plots.STYLE | {"figure.constrained_layout.use": False}):
            self.figure = Figure(figsize=(width, height))
        self._canvas = FigureCanvasAgg(self.figure)
        self._point: Line2D | None = None
        self.blank()

    def plot(
        self,
        function: Callable[..., Axes],
        *results: Any,
        then: Callable[[Axes], object] | None = None,
        **options: Any,
    ) -> Axes:
        """Draw results with a function of `wskit.plots`, and show the picture.

        Parameters
        ----------
        function : callable
            Takes the results, the options and ``ax``.
        then : callable, optional
            Adds something to the Axes before they are shown.

        Returns
        -------
        Axes
        """
        self.figure.clear()
        if not self._fixed:
            self.figure.set_layout_engine("constrained")
        with mpl.rc_context(plots.STYLE):
            ax = self.figure.add_subplot()
            function(*results, ax=ax, **options)
            if then is not None:
                then(ax)
            self._render()
        return ax

    def blank(self, note: str = "") -> None:
        """Show nothing but a note, and keep the room."""
        width, height = self._canvas.get_width_height()
        self._style = f"width:{width}px;max-width:100%;aspect-ratio:{width}/{height}"
        self.png, self.words = b"", ""
        self.value = f'<div style="{self._style}">{html.escape(note)}</div>'

    def _render(self) -> None:
        axes = self.figure.axes
        for ax in axes:
            if not hasattr(ax, "_colorbar"):  # which has a locator of its own
                _thin_ticks(ax.xaxis)
                _thin_ticks(ax.yaxis)
        lines = [line for ax in axes for line in ax.get_lines()]
        self._point = next((line for line in lines if line.get_gid() == "point"), None)
        if self._point is not None:
            self._point.set_animated(True)  # the canvas leaves it out
            self._canvas.draw()
            self._background = self._canvas.copy_from_bbox(self.figure.bbox)
            self.move(np.asarray(self._point.get_xydata())[0])
            return
        buffer = io.BytesIO()
        # savefig would draw twice, the first time to lay the figure out.
        self._canvas.print_png(buffer, metadata={"Software": None})
        self.show(buffer.getvalue())

    def move(self, place: ArrayLike) -> None:
        """Show the point at another place (x, y)."""
        assert self._point is not None
        x, y = np.asarray(place, dtype=float)
        self._point.set_data([x], [y])
        self._canvas.restore_region(self._background)
        self._point.axes.draw_artist(self._point)
        buffer = io.BytesIO()
        pixels = np.asarray(self._canvas.buffer_rgba())
        mpl.image.imsave(buffer, pixels, format="png", pil_kwargs={"compress_level": 1})
        self.show(buffer.getvalue())

    def show(self, png: bytes) -> None:
        """Show a PNG of the figure, with its description as alternative text."""
        self.png, self.words = png, plots.describe(self.figure)
        source = base64.b64encode(png).decode()
        self.value = (
            f'<img alt="{html.escape(self.words)}" src="data:image/png;base64,{source}" '
            f'style="display:block;{self._style};border-radius:4px">'
        )


def _thin_ticks(axis: Axis) -> None:
    """Drop the minor ticks of a logarithmic axis: each costs as much as a line of text.

    Where few powers of ten are left, write out 1, 2 and 5 of each decade.
    """
    if axis.get_scale() != "log":
        return
    low, high = axis.get_view_interval()
    if np.log10(high / low) < 2.5:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())
