"""What ZooExplorer shows: two pictures, numbers of the chosen model, a list of models."""

import base64
import html
import io
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from wskit import plots
from wskit.widgets._panel import Picture, _thin_ticks
from wskit.widgets._zoo_table import TARGET

_DASH = "–"
_ROWS = 200  # of the list: more would be slow in the browser
_CELL = 'style="text-align:left;font-weight:normal;padding-right:1.2em;white-space:nowrap"'

STYLE = """<style>
.wskit-models { flex-direction: column; align-items: stretch; }
.wskit-models > label.widget-label { text-align: left; width: auto; max-width: none; }
.wskit-models > label.widget-label, .wskit-models select {
  font-family: var(--jp-code-font-family, monospace); font-size: 13px; padding: 0 6px; }
.wskit-models select { flex: none; overflow-x: auto; padding: 2px 0; }
.wskit-models option { padding: 1px 5px; }
</style>"""


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
        pixels = self._canvas.get_width_height()
        size = f"width:{pixels[0]}px;max-width:100%;aspect-ratio:{pixels[0]}/{pixels[1]}"
        self._style = f"display:block;{size}"
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
        self.png = buffer.getvalue()
        source = base64.b64encode(self.png).decode()
        self.value = (
            f'<img alt="{html.escape(description)}" src="data:image/png;base64,{source}" '
            f'style="{self._style};border-radius:4px">'
        )


def model_table(row: "pd.Series[float]", number: int, predicted: float | None) -> str:
    """Return what is known about a model as HTML; always the same rows."""
    known = {str(key): _text(value) for key, value in row.items()}
    if predicted is not None:
        known["predicted accuracy"] = _text(predicted)
    return _html(f"Model {number}", [], {key: [value] for key, value in known.items()})


def score_table(evaluation: pd.DataFrame | None, n: int) -> str:
    """Return the scores of the latest evaluation as HTML; empty if there is none."""
    if evaluation is None:
        return ""
    names = {"r2": "R²", "tau": "Kendall's τ", "mae": "mean absolute error"}
    cells = {
        names[str(metric)]: [_text(row["value"]), f"{_text(row['low'])} to {_text(row['high'])}"]
        for metric, row in evaluation.iterrows()
    }
    return _html(f"Predicted on {n} models, held out by run", ["", "90 % interval"], cells)


def _html(caption: str, head: list[str], rows: dict[str, list[str]]) -> str:
    titles = "".join(f'<th scope="col" {_CELL}>{html.escape(text)}</th>' for text in head)
    body = "".join(
        f'<tr><th scope="row" {_CELL}>{html.escape(key.replace("_", " "))}</th>'
        + "".join(f"<td {_CELL}>{html.escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for key, cells in rows.items()
    )
    return (
        '<div style="overflow-x:auto"><table style="margin-left:1em;line-height:1.5">'
        f'<caption style="text-align:left"><b>{html.escape(caption)}</b></caption>'
        + (f"<thead><tr><td></td>{titles}</tr></thead>" if head else "")
        + f"<tbody>{body}</tbody></table></div>"
    )


def _text(value: Any) -> str:
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        return _DASH if np.isnan(value) else f"{value:.4g}"
    return _DASH if pd.isna(value) else str(value)


def model_rows(table: pd.DataFrame, rows: np.ndarray) -> tuple[str, list[tuple[str, int]]]:
    """Return the heading and the options of the list of models, best accuracy first."""
    if TARGET in table:
        order = table[TARGET].iloc[rows].rank(ascending=False, method="first").fillna(np.inf)
        rows = rows[np.argsort(order.to_numpy(), kind="stable")]
    shown = rows[:_ROWS]
    names = [name for name in ("run", "epoch", TARGET) if name in table]
    columns = {"Model": [str(row) for row in shown]}
    columns |= {
        name.replace("_", " "): [_text(value) for value in table[name].iloc[shown]]
        for name in names
    }
    padded = []
    for title, values in columns.items():
        width = max(map(len, [title, *values]))
        padded.append([text.rjust(width) for text in [title, *values]])
    # Browsers would draw several spaces as one.
    heading, *lines = (
        "  ".join(parts).replace(" ", "\N{NO-BREAK SPACE}") for parts in zip(*padded, strict=True)
    )
    if len(shown) < len(rows):
        heading += f"  (first {len(shown)} of {len(rows)})".replace(" ", "\N{NO-BREAK SPACE}")
    return heading, list(zip(lines, (int(row) for row in shown), strict=True))
