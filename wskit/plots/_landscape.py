"""Landscapes drawn: losses on a path, on a plane and in a triangle; distances; a map of models."""

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
    legend_above,
    measure_name,
    new_axes,
    styled,
    write_beside,
)

if TYPE_CHECKING:
    import pandas as pd

    from wskit.landscape import LossPath, LossPlane

_MARKERS = "osD^vPX*ph"
_LEVELS = 21  # contours
_SPAN = 10  # positive losses whose largest is more times the smallest have logarithmic levels
_PATH = "loss-path"  # marks the lines of paths that are on the Axes already
_FLAT = 0.1  # of a triangle: its height over the picture's, below which names would collide
_FEW = 40  # models that are named one by one beside a matrix
_TRIANGLE = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])


def plot_loss_path(
    path: "LossPath",
    *,
    measure: str = "loss",
    unit: str | None = None,
    label: str | None = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    r"""Draw a measure along the line through two models; they are marked.

    For several paths in one picture, call it again with the same Axes.

    Parameters
    ----------
    path : LossPath
    measure : str, default "loss"
        One of ``path.measures``.
    unit : str, optional
        Of losses: "nats" where they are cross-entropies. None writes none.
    label : str, optional
        Of the path, in the legend. None means the names of its ends.
    ax : Axes, optional
        Where to draw. None makes a new figure.
    **kwargs
        For the line (`matplotlib.axes.Axes.plot`).

    Returns
    -------
    Axes
        A circle is the model at alpha = 0, a square that at alpha = 1, where they were evaluated.

    Raises
    ------
    ValueError
        If there is no such measure.
    """
    values = _measured(path.measures, measure)
    with styled(ax):
        ax = new_axes() if ax is None else ax
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
    """Draw a measure on the plane through three models as contours; the models are named.

    The picture of Garipov et al. 2018 (arXiv:1802.10026). Positive values that span more than a
    factor of ten have logarithmic levels. What was not evaluated, or is not finite, is white.

    Parameters
    ----------
    plane : LossPlane
    measure : str, default "loss"
        One of ``plane.measures``.
    unit : str, optional
        Of losses: "nats" where they are cross-entropies. None writes none.
    point : array of shape (2,), optional
        Coordinates of a point that is marked.
    ax : Axes, optional
        Where to draw. None makes a new figure.
    **kwargs
        For the filled contours (`matplotlib.axes.Axes.contourf`).

    Returns
    -------
    Axes
        Its title has the range of the measure.

    Raises
    ------
    ValueError
        If there is no such measure.
    """
    values = np.asarray(_measured(plane.measures, measure), dtype=float)
    values = np.ma.masked_invalid(values)
    with styled(ax):
        ax = new_axes() if ax is None else ax
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


def plot_loss_simplex(
    table: "pd.DataFrame",
    *,
    measure: str = "loss",
    unit: str | None = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Draw points inside the triangle of three models, coloured by a measure.

    Each corner is a model; a point's coefficients are its barycentric coordinates, so that all
    triangles look the same, whatever the distances of their models.

    Parameters
    ----------
    table : DataFrame
        Coefficients of three models, by name, before the column "loss" and other measures.
    measure : str, default "loss"
    unit : str, optional
        Of losses: "nats" where they are cross-entropies. None writes none.
    ax : Axes, optional
        Where to draw. None makes a new figure.
    **kwargs
        For the points (`matplotlib.axes.Axes.scatter`).

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If there are not three models, or there is no such measure.
    """
    columns = list(table)
    names = columns[: columns.index("loss")] if "loss" in columns else []
    if len(names) != 3:
        raise ValueError(
            "a triangle needs a table with the coefficients of three models before its column "
            f"'loss', got {len(names)} in the columns {columns}."
        )
    values = np.asarray(
        _measured({str(name): table[name].to_numpy() for name in columns[3:]}, measure), float
    )
    places = table[names].to_numpy(float) @ _TRIANGLE
    with styled(ax):
        ax = new_axes() if ax is None else ax
        ax.plot(*_TRIANGLE[[0, 1, 2, 0]].T, color=PALETTE["null"], lw=1.5, label="_triangle")
        known = np.isfinite(values)
        if known.any():
            norm, _ = _levels(values[known])
            style = {"c": values[known], "norm": norm, "cmap": "viridis", "s": 30, "lw": 0}
            points = ax.scatter(*places[known].T, **(style | {"label": measure} | kwargs))
            ax.figure.colorbar(points, ax=ax, label=measure_name(measure, unit))
        if not known.all():
            look = {"fc": "none", "ec": PALETTE["null"], "label": "not finite"}
            ax.scatter(*places[~known].T, **look)
        for name, corner, (x, y) in zip(names, _TRIANGLE, [(0, -9), (0, -9), (0, 9)], strict=True):
            va = "top" if y < 0 else "bottom"
            style = {"textcoords": "offset points", "ha": "center", "va": va, "parse_math": False}
            ax.annotate(str(name), corner, (x, y), **style)
        ax.set(aspect="equal", xlim=(-0.12, 1.12), ylim=(-0.12, 1.0))
        ax.set_title(_title(measure, np.ma.masked_invalid(values)), parse_math=False)
        ax.set_axis_off()
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
    """Draw how far apart models are, those of a group side by side.

    The colours span the values off the diagonal, which is the same for all models.

    Parameters
    ----------
    matrix : array of shape (models, models)
        Distances, cosines or angles.
    groups : iterable of length models, optional
        What the models are ordered by, with lines between the groups, and named by.
    labels : iterable of str of length models, optional
        Of the models, written where there are no groups and 40 models at most.
    measure : str, default "distance"
        What the numbers are, for the colour bar.
    ax : Axes, optional
        Where to draw. None makes a new figure.
    **kwargs
        For the image (`matplotlib.axes.Axes.imshow`).

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the matrix is not square, or there is not a group or a label for each model.
    """
    values = np.asarray(matrix, dtype=float)
    n = len(values)
    if values.shape != (n, n):
        raise ValueError(f"a square matrix is needed, got an array of shape {values.shape}.")
    names = None if groups is None else _texts(groups, n, "group")
    written = None if labels is None else _texts(labels, n, "label")
    order = np.arange(n) if names is None else np.argsort(names, kind="stable")
    values = values[np.ix_(order, order)]
    off = values[~np.eye(n, dtype=bool) & np.isfinite(values)]
    with styled(ax):
        ax = new_axes() if ax is None else ax
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
        The data set and the task that each was trained on, say. Ten different ones at most.
    base : array of shape (2,), optional
        Where the base is, which is marked and at the centre of the picture. None: there is none.
    chosen : mapping of str to int, optional
        Names of models that are marked, and their rows.
    ax : Axes, optional
        Where to draw. None makes a new figure.
    **kwargs
        For the points (`matplotlib.axes.Axes.scatter`).

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the points are not of shape (models, 2), or a grouping does not fit them.
    """
    places = np.asarray(points, dtype=float)
    if places.ndim != 2 or places.shape[1] != 2 or not len(places):
        raise ValueError(f"points of shape (models, 2) are needed, got {places.shape}.")
    looks = {"groups": (groups, COLORBLIND), "markers": (markers, list(_MARKERS))}
    which: dict[str, np.ndarray] = {}
    legends: dict[str, dict[str, str]] = {}
    for key, (given, available) in looks.items():
        which[key] = _texts([""] * len(places) if given is None else given, len(places), key[:-1])
        found = list(dict.fromkeys(which[key].tolist()))  # in the order in which they come
        if len(found) > len(available):
            raise ValueError(
                f"there are {len(found)} different {key}, and {len(available)} at most can be "
                "told apart; take a coarser grouping."
            )
        legends[key] = dict(zip(found, available, strict=False))
    with styled(ax):
        ax = new_axes() if ax is None else ax
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
    """Name colours and markers once each, over the Axes."""
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


def _measured(measures: Mapping[str, Any], measure: str) -> Any:
    if measure not in measures:
        raise ValueError(f"there is no measure {measure!r}; there is {', '.join(measures)}.")
    return measures[measure]


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


def _texts(values: Iterable[Any], n: int, what: str) -> np.ndarray:
    texts = [str(value) for value in values]
    if len(texts) != n:
        raise ValueError(f"a {what} for each of the {n} models is needed, got {len(texts)}.")
    return np.array(texts)
