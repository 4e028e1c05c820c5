"""Landscapes drawn: losses on a path and on a plane, distances, a map of models."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from wskit.plots._style import (
    COLORBLIND,
    PALETTE,
    axes_in_style,
    legend_above,
    measure_name,
    write_beside,
)

if TYPE_CHECKING:
    from wskit.landscape import LossPath, LossPlane

_MARKERS = "osD^vPX*ph"
_LEVELS = 21  # contours
_SPAN = 10  # ratio of positive losses above which levels are logarithmic
_PATH = "loss-path"  # marks the lines of paths already on the Axes
_FLAT = 0.1  # of a triangle: its height over the picture's, below which names would collide
_FEW = 40  # models that are named one by one beside a matrix


def plot_loss_path(
    path: "LossPath",
    *,
    measure: str = "loss",
    unit: str | None = None,
    label: str | None = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Draw a measure along the line through two models.

    A circle marks the model at alpha = 0, a square the one at alpha = 1, where they were evaluated.
    For several paths in one picture, call it again with the same Axes.

    Parameters
    ----------
    path : LossPath
    measure : str, default "loss"
        One of ``path.measures``.
    unit : str, optional
        Unit of losses, such as "nats" for cross-entropies.
    label : str, optional
        Label of the path in the legend. None means the names of its ends.
    ax, **kwargs
        Where to draw, and options of the line (`Axes.plot`).
    """
    values = path.measures[measure]
    with axes_in_style(ax) as ax:
        before = sum(line.get_gid() == _PATH for line in ax.get_lines())
        if not before:
            for at in (0, 1):
                ax.axvline(at, color=PALETTE["null"], ls=":", lw=1.5, zorder=0)
        text = " to ".join(path.ends) if label is None else label
        style = {"color": COLORBLIND[before % len(COLORBLIND)], "label": text, "gid": _PATH}
        (line,) = ax.plot(path.alphas, values, **(style | kwargs))
        for at, marker in ((0, "o"), (1, "s")):
            near = np.isclose(path.alphas, at, rtol=0, atol=1e-9)
            look = {"color": line.get_color(), "marker": marker, "ls": "", "ms": 8}
            ax.plot(path.alphas[near], values[near], **look)
        ax.set(
            xlabel=r"$\alpha$, 0 at the first model and 1 at the second",
            ylabel=measure_name(measure, unit),
        )
        legend_above(ax)
    return ax


def plot_loss_plane(
    plane: "LossPlane",
    *,
    measure: str = "loss",
    unit: str | None = None,
    point: ArrayLike | None = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Draw a measure on the plane through three models as contours, and name the models.

    The picture of Garipov et al. 2018 (arXiv:1802.10026), with the range of the measure in its
    title. Positive values that span more than a factor of ten have logarithmic levels. Points that
    were not evaluated, or are not finite, stay white.

    Parameters
    ----------
    plane : LossPlane
    measure : str, default "loss"
        One of ``plane.measures``.
    unit : str, optional
        Unit of losses, such as "nats" for cross-entropies.
    point : array of shape (2,), optional
        Coordinates of a point to mark.
    ax, **kwargs
        Where to draw, and options of the filled contours (`Axes.contourf`).
    """
    values = np.asarray(plane.measures[measure], dtype=float)
    values = np.ma.masked_invalid(values)
    with axes_in_style(ax) as ax:
        known = values.compressed()
        if known.size:
            norm, levels = _levels(known)
            style = {"levels": levels, "norm": norm, "cmap": "viridis"}
            filled = ax.contourf(plane.x, plane.y, values, **(style | kwargs))
            ax.contour(filled, levels=filled.levels[::2], colors="white", linewidths=0.5, alpha=0.6)
            bar = ax.figure.colorbar(filled, ax=ax, label=measure_name(measure, unit))
            bar.set_ticks(
                filled.levels[::4], labels=[f"{level:.3g}" for level in filled.levels[::4]]
            )
            bar.ax.minorticks_off()
        triangle = plane.corners[[0, 1, 2, 0]]
        ax.plot(*triangle.T, color="black", ls="--", lw=1, label="_triangle")
        sides = ["right"] * 3
        if np.ptp(plane.corners[:, 1]) < _FLAT * np.ptp(plane.y):  # no name on another's model
            sides = ["below"] * 3
            sides[plane.corners[:, 0].argsort()[1]] = "above"
        for name, corner, side in zip(plane.names, plane.corners, sides, strict=True):
            ax.plot(*corner, marker="o", ms=9, mfc="white", mec="black", ls="", label=f"_{name}")
            write_beside(ax, corner, name, side)
        if point is not None:
            style = {"marker": "P", "ms": 13, "mfc": PALETTE["fit"], "mec": "white", "ls": ""}
            ax.plot(*np.asarray(point, dtype=float), **style, gid="point", label="point")
        ax.set(xlabel="distance in the plane", ylabel="distance in the plane", aspect="equal")
        ax.set_xlim(plane.x.min(), plane.x.max())
        ax.set_ylim(plane.y.min(), plane.y.max())
        ax.set_title(_title(measure, values), parse_math=False)
    return ax


def plot_distance_matrix(
    matrix: ArrayLike,
    *,
    groups: Iterable[Any] | None = None,
    labels: Iterable[str] | None = None,
    measure: str = "distance",
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Draw how far apart models are, with the models of a group side by side.

    The colours span the values off the diagonal, which are the ones that differ.

    Parameters
    ----------
    matrix : array of shape (models, models)
        Distances, cosines or angles.
    groups : iterable of length models, optional
        Group of each model: they order the models, and are separated by lines and named.
    labels : iterable of str of length models, optional
        Names of the models, written where there are no groups and at most 40 models.
    measure : str, default "distance"
        Meaning of the numbers, for the colour bar.
    ax, **kwargs
        Where to draw, and options of the image (`Axes.imshow`).

    Raises
    ------
    ValueError
        If the matrix is not square, or there is not a group or a label for each model.
    """
    values = np.asarray(matrix, dtype=float)
    n = len(values)
    if values.shape != (n, n):
        raise ValueError(f"the matrix must be square, got shape {values.shape}.")
    names = None if groups is None else _as_strings(groups, n, "group")
    written = None if labels is None else _as_strings(labels, n, "label")
    order = np.arange(n) if names is None else np.argsort(names, kind="stable")
    values = values[np.ix_(order, order)]
    off = values[~np.eye(n, dtype=bool) & np.isfinite(values)]
    with axes_in_style(ax) as ax:
        limits = {"vmin": off.min(), "vmax": off.max()} if off.size else {}
        style = {"cmap": "viridis", "interpolation": "nearest", "label": measure} | limits
        image = ax.imshow(values, **(style | kwargs))
        ax.figure.colorbar(image, ax=ax, label=measure_name(measure))
        if names is not None:
            found, counts = np.unique(names, return_counts=True)
            ends = np.cumsum(counts)
            for end in ends[:-1]:
                ax.axhline(end - 0.5, color="white", lw=1.5, label="_border")
                ax.axvline(end - 0.5, color="white", lw=1.5, label="_border")
            places, texts = ends - counts / 2 - 0.5, list(found)
        elif written is not None and n <= _FEW:
            places, texts = order.astype(float), list(written)
        else:
            places, texts = np.empty(0), []
        ax.set_xticks(places, texts, rotation=45, ha="right", parse_math=False)
        ax.set_yticks(places, texts, parse_math=False)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_title(f"{n} models", parse_math=False)
    return ax


def plot_model_map(
    points: ArrayLike,
    *,
    groups: Iterable[Any] | None = None,
    markers: Iterable[Any] | None = None,
    base: ArrayLike | None = (0.0, 0.0),
    chosen: Mapping[str, int] | None = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Draw models as points of a plane, coloured by one grouping, with markers for another.

    Parameters
    ----------
    points : array of shape (models, 2)
        Such as ``wskit.geometry.project_updates(distances).coordinates``.
    groups, markers : iterable of length models, optional
        Data set and task of each model, say; at most ten different ones.
    base : array of shape (2,), optional
        Place of the base, which is marked at the centre of the picture. None marks no base.
    chosen : mapping of str to int, optional
        Names of models to mark, with their rows.
    ax, **kwargs
        Where to draw, and options of the points (`Axes.scatter`).

    Raises
    ------
    ValueError
        If a grouping does not have one entry per model, or has more than ten different ones.
    """
    places = np.asarray(points, dtype=float)
    if places.ndim != 2 or places.shape[1] != 2:
        raise ValueError(f"points must have shape (models, 2), got {places.shape}.")
    looks = {"groups": (groups, COLORBLIND), "markers": (markers, list(_MARKERS))}
    which: dict[str, np.ndarray] = {}
    legends: dict[str, dict[str, str]] = {}
    for key, (given, available) in looks.items():
        which[key] = _as_strings(
            [""] * len(places) if given is None else given, len(places), key[:-1]
        )
        found = list(dict.fromkeys(which[key].tolist()))  # in the order in which they come
        if len(found) > len(available):
            raise ValueError(f"at most {len(available)} {key} can be told apart, got {len(found)}.")
        legends[key] = dict(zip(found, available, strict=False))
    with axes_in_style(ax) as ax:
        for group, color in legends["groups"].items():
            for kind, marker in legends["markers"].items():
                rows = (which["groups"] == group) & (which["markers"] == kind)
                label = ", ".join(filter(None, (group, kind))) or "models"
                style = {"color": color, "marker": marker, "s": 45, "alpha": 0.8, "lw": 0}
                if rows.any():
                    ax.scatter(*places[rows].T, **(style | {"label": label} | kwargs))
        for name, row in (chosen or {}).items():
            ring = {"marker": "o", "ls": "", "ms": 14, "mfc": "none", "mew": 2, "mec": "black"}
            ax.plot(*places[row], **ring, label=name)
            middle = (np.nanmin(places[:, 0]) + np.nanmax(places[:, 0])) / 2
            write_beside(ax, places[row], name, "left" if places[row, 0] > middle else "right")
        if base is not None:
            centre = np.asarray(base, dtype=float)
            star = {"marker": "*", "ls": "", "ms": 18, "mfc": "black", "mec": "white"}
            ax.plot(*centre, **star, label="base")
            reach = 1.12 * np.nanmax(np.abs(places - centre), axis=0, initial=1e-12)
            ax.set_xlim(centre[0] - reach[0], centre[0] + reach[0])
            ax.set_ylim(centre[1] - reach[1], centre[1] + reach[1])
        ax.set(xlabel="component 1", ylabel="component 2")
        _map_legend(ax, legends, base is not None)
    return ax


def _map_legend(ax: Axes, legends: Mapping[str, Mapping[str, str]], has_base: bool) -> None:
    """Name each colour and each marker once, above the Axes."""
    dot = {"ls": "", "ms": 7}
    handles = [
        Line2D([], [], color=color, marker="o", label=group, **dot)
        for group, color in legends["groups"].items()
        if group
    ]
    handles += [
        Line2D([], [], color=PALETTE["null"], marker=marker, label=kind, **dot)
        for kind, marker in legends["markers"].items()
        if kind
    ]
    if has_base:
        handles.append(Line2D([], [], color="black", marker="*", ls="", ms=11, label="base"))
    if handles:
        legend_above(ax, handles=handles)


def _title(measure: str, values: np.ma.MaskedArray) -> str:
    known = values.compressed()
    if not known.size:
        return f"{measure.replace('_', ' ')}: not evaluated yet"
    of = "" if known.size == values.size else f" at {known.size} of {values.size} points"
    return f"{measure.replace('_', ' ')} {known.min():.3g} to {known.max():.3g}{of}"


def _levels(known: np.ndarray) -> tuple[Normalize, np.ndarray]:
    """Return the scale of colours and the levels of contours for these values."""
    low, high = float(known.min()), float(known.max())
    if low == high:
        low, high = low - 0.5 * abs(low or 1), high + 0.5 * abs(high or 1)
    if low > 0 and high > _SPAN * low:
        levels = np.geomspace(low, high, _LEVELS)
        levels[[0, -1]] = low, high
        return LogNorm(low, high), levels
    return Normalize(low, high), np.linspace(low, high, _LEVELS)


def _as_strings(values: Iterable[Any], n: int, what: str) -> np.ndarray:
    strings = [str(value) for value in values]
    if len(strings) != n:
        raise ValueError(f"each of {n} models needs a {what}, got {len(strings)}.")
    return np.array(strings)
