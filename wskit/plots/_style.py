"""The look of the kit's pictures, and what a picture shows, in words."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import patheffects
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter

# In the order of hues of seaborn's "colorblind", and dark enough: on white each has a contrast of 3
# or more, and any two of them differ for every kind of colour vision.
COLORBLIND = [
    *("#016fac", "#bb8855", "#1c6039", "#d05b00", "#76116a"),
    *("#661100", "#cc66ff", "#949494", "#000000", "#6f3fd0"),
]
PALETTE = {
    "data": COLORBLIND[0],  # blue: what was measured
    "fit": COLORBLIND[3],  # vermilion: a law fitted to it
    "null": COLORBLIND[7],  # grey: what chance would give
    "accent": COLORBLIND[2],  # green: a point to look at
    "other": COLORBLIND[4],  # purple: what it is compared with
}
"""What each colour means in all pictures; they differ for every colour vision, and in grey."""

_INK = ".15"
STYLE: dict[str, Any] = {
    # The values of seaborn's style "ticks" in its context "notebook"; importing it takes a second.
    **dict.fromkeys(["axes.edgecolor", "axes.labelcolor", "text.color"], _INK),
    **dict.fromkeys(["xtick.color", "ytick.color"], _INK),
    **dict.fromkeys(["axes.linewidth", "xtick.major.width", "ytick.major.width"], 1.25),
    **dict.fromkeys(["grid.linewidth", "xtick.minor.width", "ytick.minor.width"], 1.0),
    **dict.fromkeys(["xtick.major.size", "ytick.major.size"], 6.0),
    **dict.fromkeys(["xtick.minor.size", "ytick.minor.size"], 4.0),
    **dict.fromkeys(["font.size", "axes.labelsize", "legend.title_fontsize"], 12),
    **dict.fromkeys(["xtick.labelsize", "ytick.labelsize", "legend.fontsize"], 11),
    "axes.axisbelow": True,
    "grid.color": ".8",
    "lines.solid_capstyle": "round",
    "patch.edgecolor": "w",
    "patch.force_edgecolor": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.prop_cycle": mpl.cycler(color=COLORBLIND),
    "figure.dpi": 100,
    "figure.figsize": (6.4, 4.0),
    "figure.constrained_layout.use": True,
    "font.family": ["DejaVu Sans"],
    "font.sans-serif": ["DejaVu Sans"],
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "legend.loc": "upper right",  # "best" takes a second where there is much to avoid
    "lines.linewidth": 2.0,
}
"""The look of the kit, for ``plt.rc_context(plots.STYLE)`` or ``plt.rcParams.update``."""

_HALO = [patheffects.withStroke(linewidth=3, foreground="white")]  # a name is read on any colour


def describe(figure: Figure | Axes) -> str:
    """Return what a figure shows in words and numbers, for readers who cannot see it and for tests.

    Parameters
    ----------
    figure : Figure or Axes

    Returns
    -------
    str
        One line for each Axes, followed by one for each artist with a label or data: lines,
        histograms, spans, points, error bars, bands and images, with the range of what they show
        to three digits. Then the texts, and the ticks that are names.

    Examples
    --------
    >>> ax = Figure().subplots()
    >>> _ = ax.plot([1, 2, 3], [2.0, 4.0, 8.0], label="loss")
    >>> print(describe(ax))
    Axes: x linear, y linear
      line 'loss': 3 points, x 1 to 3, y 2 to 8
    """
    axes = [figure] if isinstance(figure, Axes) else figure.axes
    return "\n".join(line for ax in axes for line in _describe_axes(ax))


def styled(ax: Axes | None) -> AbstractContextManager[None]:
    """Return a context in the kit's style; None means that a figure will be made in it."""
    if ax is None:
        # The first figure sets up the backend, in a notebook the interactive one: were that
        # inside the context, leaving the context would undo it, and no later figure would show.
        plt.draw_if_interactive()
    return mpl.rc_context(STYLE)


@contextmanager
def axes_in_style(ax: Axes | None) -> Iterator[Axes]:
    """Yield the Axes, or those of a new figure, in the kit's style."""
    with styled(ax):
        yield plt.figure().add_subplot() if ax is None else ax


def measure_name(measure: str, unit: str | None = None) -> str:
    """Return the label of an axis; `unit` is that of losses, which only the caller knows."""
    in_unit = f" in {unit}" if unit and measure.endswith("loss") else ""
    return measure.replace("_", " ") + in_unit


def readable_on(color: Any) -> str:
    """Return black or white, whichever has the larger contrast on that colour (WCAG 2.2)."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return "white" if (luminance + 0.05) ** 2 < 1.05 * 0.05 else "black"


_SIDES: dict[str, dict[str, Any]] = {
    "right": {"xytext": (9, 6)},
    "left": {"xytext": (-9, 6), "ha": "right"},
    "above": {"xytext": (0, 10), "ha": "center"},
    "below": {"xytext": (0, -10), "ha": "center", "va": "top"},
}


def write_beside(ax: Axes, at: np.ndarray, text: str, side: str = "right") -> None:
    """Write a name to the right or left of a point, above or below it."""
    style = {"textcoords": "offset points", "path_effects": _HALO, "clip_on": True}
    ax.annotate(text, at, **(style | _SIDES[side]), fontsize=11, parse_math=False)


def legend_above(
    ax: Axes,
    *,
    handles: Sequence[Artist] | None = None,
    room: float = 1.0,
    title: str | None = None,
) -> None:
    """Put the legend above the Axes, where it hides no point, in as many columns as fit.

    It names `handles`, or all artists with a label. `room` is the share of the Axes' width that it
    may take: a wider legend would make the layout squeeze the Axes to nothing.
    """
    size = 9
    named = ax.get_legend_handles_labels()[0] if handles is None else list(handles)
    texts = [_plain(str(handle.get_label())) for handle in named]
    letter = 0.55 * size * ax.figure.dpi / 72
    letters = room * ax.bbox.width / letter
    columns = int(letters // (max(map(len, texts)) + 4))
    legend = ax.legend(
        handles=named,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=max(1, min(columns, len(texts))),
        fontsize=size,
        title=title,
        title_fontsize=size,
        alignment="left",
        borderaxespad=0.2,
        columnspacing=1.2,
    )
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set(alpha=1, sizes=[30])  # points of thousands are too small and pale


def _describe_axes(ax: Axes) -> list[str]:
    title = ax.get_title() or ax.get_title(loc="left")
    heading = f"Axes {_plain(title)!r}" if title else "Axes"
    named = [
        f"{letter} {_plain(axis.get_label_text())!r} {axis.get_scale()}"
        if axis.get_label_text()
        else f"{letter} {axis.get_scale()}"
        for letter, axis in (("x", ax.xaxis), ("y", ax.yaxis))
    ]
    lines = [f"{heading}: {', '.join(named)}"]
    for line in ax.get_lines():
        x, y = (np.asarray(values, dtype=float) for values in line.get_data(orig=False))
        lines.append(f"  line{_label(line)}: {x.size} points, x {_range(x)}, y {_range(y)}")
    for patch in ax.patches:
        if hasattr(patch, "get_data") and hasattr(patch.get_data(), "edges"):
            values, edges, _ = patch.get_data()
            highest = np.flatnonzero(values >= values.max() * (1 - 1e-9))[0]  # of equals, the first
            peak = f"peak {values.max():.3g} at {edges[highest]:.3g}"
            lines.append(
                f"  histogram{_label(patch)}: {values.size} bins, x {_range(edges)}, {peak}"
            )
        elif isinstance(patch, Rectangle) and (label := _label(patch)):
            lines.append(f"  span{label}: x {_range(patch.get_corners()[:, 0])}")
    for container in ax.containers:
        if isinstance(container, BarContainer):
            values = np.asarray(container.datavalues, dtype=float)
            lines.append(f"  bars{_label(container)}: {values.size}, values {_range(values)}")
    for collection in ax.collections:
        lines += _describe_collection(collection)
    for image in ax.images:
        values = np.asarray(image.get_array(), dtype=float)
        size = " × ".join(map(str, values.shape))
        lines.append(f"  image{_label(image)}: {size}, values {_range(values)}")
    if texts := [_plain(text.get_text()) for text in ax.texts]:
        lines.append(f"  texts: {', '.join(texts)}")
    for letter, axis in (("x", ax.xaxis), ("y", ax.yaxis)):
        locator, formatter = axis.get_major_locator(), axis.get_major_formatter()
        # What `set_xticks(places, names)` leaves.
        if isinstance(locator, FixedLocator) and isinstance(formatter, FuncFormatter):
            names = [
                "" if name is None else str(name) for name in formatter.format_ticks(locator())
            ]
            lines.append(f"  {letter} ticks: {', '.join(names)}")
    return lines


def _describe_collection(collection: Any) -> list[str]:
    """Describe points, and labelled artists that are drawn by their outlines."""
    label = _label(collection)
    if isinstance(collection, PathCollection):
        x, y = np.asarray(collection.get_offsets(), dtype=float).reshape(-1, 2).T
        if not x.size:
            return [f"  points{label}: 0"] if label else []
        shown = f"  points{label}: {x.size}, x {_range(x)}, y {_range(y)}"
        values = collection.get_array()
        return [shown if values is None else f"{shown}, colour {_range(values)}"]
    outlines = [path.vertices for path in collection.get_paths() if len(path.vertices)]
    if not label or not outlines:
        return []
    x, y = np.concatenate(outlines).T
    if isinstance(collection, LineCollection):
        return [f"  bars{label}: {len(outlines)}, x {_range(x)}, y {_range(y)}"]
    if isinstance(collection, PolyCollection):
        return [f"  band{label}: x {_range(x)}, y {_range(y)}"]
    return []


def _label(artist: Any) -> str:
    label = _plain(str(artist.get_label()))
    return "" if label.startswith("_") else f" {label!r}"


def _range(values: np.ndarray) -> str:
    if np.isnan(values).all():
        return "empty"
    low, high = np.nanmin(values), np.nanmax(values)
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def no_formula(text: str) -> str:
    """Escape dollar signs, since a name in a file is not a formula."""
    return text.replace("$", r"\$")


_SYMBOLS = {
    r"\alpha": "alpha",
    r"\lambda": "lambda",
    r"\tau": "tau",
    r"\log_{10}": "log10 ",
    r"x_{\min}": "xmin",
    r"^\top": "^T",
}


def _plain(text: str) -> str:
    """Return mathtext as one would read it aloud."""
    for symbol, word in _SYMBOLS.items():
        text = text.replace(symbol, word)
    return text.replace("$", "")
