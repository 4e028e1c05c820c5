"""What RegionExplorer shows: a picture whose one point moves fast, and a table of numbers."""

import io

import matplotlib as mpl
import matplotlib.image
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from wskit import plots
from wskit.widgets._picture import FigurePicture
from wskit.widgets._tables import cell_text, html_table


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


def number_table(numbers: pd.DataFrame, shares: ArrayLike) -> str:
    """Return the measures at the point, at the three models and of the control as HTML."""
    columns = [str(name) for name in numbers.index]
    rest = [""] * (len(columns) - 1)
    rows = {
        f"share of the {which}": [cell_text(round(float(share), 4)), *rest]
        for which, share in zip(("first", "second", "third"), np.asarray(shares), strict=True)
    }
    rows |= {str(name): [cell_text(value) for value in numbers[name]] for name in numbers}
    return html_table("At the point and at the models", columns, rows)
