"""Zoos drawn: their models, one of them, and what predicts their accuracies."""

import math
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from numpy.typing import ArrayLike

from wskit.plots._style import (
    COLORBLIND,
    PALETTE,
    legend_above,
    new_axes,
    no_formula,
    readable_on,
    styled,
)

if TYPE_CHECKING:
    import pandas as pd

_METRICS = {"r2": r"$R^2$", "tau": r"Kendall's $\tau$"}
_CATEGORIES = len(COLORBLIND)  # as many as have a colour; each has a marker of its own as well
_MARKERS = "osD^vPX*ph"
_FEW = 6  # so many different numbers are drawn as categories
_DECADES = 2  # a column of positive numbers that spans more is drawn on a logarithmic scale
_TILES = 64  # kernels in a picture
_Z90 = 1.645  # standard errors on either side of a mean: 90 % of a normal distribution


def plot_models(
    table: "pd.DataFrame",
    *,
    x: str,
    y: str,
    colour: str | None = None,
    selected: ArrayLike | None = None,
    chosen: int | None = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Draw the models of a zoo as points: a column against another, coloured by a third.

    A column of positive numbers that spans more than two decades has a logarithmic scale.

    Parameters
    ----------
    table : DataFrame of a row a model
        A zoo's records, its features, or both side by side.
    x, y : str
        Columns of numbers.
    colour : str, optional
        Column. Of more than six different numbers, a colour bar; of fewer, or of ten texts at
        most, a colour and a marker for each.
    selected : array of bool of shape (models,), optional
        The others are grey. None selects all.
    chosen : int, optional
        Position of a row that is marked.
    ax : Axes, optional
        Where to draw. None makes a new figure.
    **kwargs
        For the points (`matplotlib.axes.Axes.scatter`).

    Returns
    -------
    Axes
        The legend says how many models each entry has, those that have no place included.

    Raises
    ------
    ValueError
        If a column is missing, is not of numbers, or has too many texts for its colours.
    """
    for name in (x, y, *([] if colour is None else [colour])):
        if name not in table:
            raise ValueError(f"the table has no column {name!r}.")
    for name in (x, y):
        if not _is_numeric(table[name]):
            raise ValueError(f"column {name!r} holds no numbers, and cannot be a place.")
    horizontal, vertical = (table[name].to_numpy(float, na_value=np.nan) for name in (x, y))
    shown = np.ones(len(table), bool) if selected is None else np.asarray(selected, bool)
    placed = np.isfinite(horizontal) & np.isfinite(vertical)

    with styled(ax):
        ax = new_axes() if ax is None else ax
        size = 36.0 if len(table) < 300 else 16.0

        def draw(rows: np.ndarray, label: str, **style: Any) -> Any:
            n, n_out = rows.sum(), (rows & ~placed).sum()
            text = f"{label} ({n}, {n_out} of them not placed)" if n_out else f"{label} ({n})"
            at = rows & placed
            options = {"s": size, "alpha": 0.75, "lw": 0, "label": no_formula(text)} | style
            return ax.scatter(horizontal[at], vertical[at], **options)

        if not shown.all():
            draw(~shown, "not selected", color=PALETTE["null"], alpha=0.25, s=size / 2)
        groups = {} if colour is None else _groups(table[colour])
        if colour is None:
            draw(shown, "models", **({"color": PALETTE["data"]} | kwargs))
        elif groups:
            looks = zip(COLORBLIND, _MARKERS, strict=True)
            for (text, rows), (color, marker) in zip(groups.items(), looks, strict=False):
                draw(rows & shown, text, **({"color": color, "marker": marker} | kwargs))
        else:
            values = table[colour].to_numpy(float, na_value=np.nan)
            known = np.isfinite(values)
            if (shown & ~known).any():
                draw(shown & ~known, f"no {colour}", fc="none", ec=PALETTE["null"], lw=1)
            at = shown & known
            lowest, highest = values[known].min(), values[known].max()
            norm = LogNorm if _is_log(values) else mpl.colors.Normalize
            style = {"c": values[at & placed], "norm": norm(lowest, highest), "cmap": "viridis"}
            points = draw(at, "models", **(style | kwargs))
            bar = ax.figure.colorbar(points, ax=ax, label=_words(colour))
            bar.solids.set(alpha=1)
        if chosen is not None and placed[chosen]:
            ring = {"marker": "o", "ls": "", "ms": 13, "mfc": "none", "mew": 2.5}
            at_x, at_y = horizontal[[chosen]], vertical[[chosen]]
            ax.plot(at_x, at_y, color=PALETTE["fit"], label=f"model {chosen}", **ring)
        ax.set(xlabel=_words(x), ylabel=_words(y))
        ax.set_xscale("log" if _is_log(horizontal) else "linear")
        ax.set_yscale("log" if _is_log(vertical) else "linear")
        title = _words(colour) if groups and colour else None
        legend_above(ax, room=1.0 if groups else 0.8, title=title)
    return ax


def _words(column: str) -> str:
    return no_formula(column.replace("_", " "))


def plot_training_curve(
    records: "pd.DataFrame",
    *,
    metric: Literal["accuracy", "loss"] = "accuracy",
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Draw how one training run went, on the training and on the test images.

    Parameters
    ----------
    records : DataFrame
        The rows of one run in a zoo's table, with the columns epoch and ``train_accuracy``,
        ``test_accuracy`` (or ``train_loss``, ``test_loss``); one of the two will do.
    metric : {"accuracy", "loss"}, default "accuracy"
    ax : Axes, optional
        Where to draw. None makes a new figure.
    **kwargs
        For both lines (`matplotlib.axes.Axes.plot`).

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If neither column is there.
    """
    rows = records.sort_values("epoch")
    parts = [part for part in ("train", "test") if f"{part}_{metric}" in rows]
    if not parts:
        raise ValueError(f"the table has neither train_{metric} nor test_{metric}.")
    looks = {
        "train": {"color": PALETTE["other"], "marker": "s", "ls": "--"},
        "test": {"color": PALETTE["data"], "marker": "o"},
    }
    with styled(ax):
        ax = new_axes() if ax is None else ax
        for part in parts:
            values = rows[f"{part}_{metric}"].to_numpy(float, na_value=np.nan)
            style = {"label": part, "ms": 5} | looks[part]
            ax.plot(rows["epoch"].to_numpy(float), values, **(style | kwargs))
        ax.set(xlabel="epoch", ylabel="loss in nats" if metric == "loss" else metric)
        legend_above(ax)
    return ax


def plot_kernels(W: ArrayLike, *, name: str = "", ax: Axes | None = None, **kwargs: Any) -> Axes:
    """Draw the weights of a layer as small images, on one scale of colours.

    Parameters
    ----------
    W : array of shape (O, I, height, width) or (O, I)
        Of a convolution, the kernel of each pair of filter and input channel is a tile; of a
        dense layer, the weights of each unit, where I is a square number (the pixels of a square
        image), and else the matrix is one picture. The first 64 tiles are drawn.
    name : str, optional
        Of the layer, for the title.
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
        If `W` has neither two nor four dimensions.
    """
    values = np.asarray(W, dtype=float)
    if values.ndim not in (2, 4):
        raise ValueError(f"weights of shape (O, I, height, width) or (O, I), got {values.shape}.")
    side = math.isqrt(values.shape[1])
    if values.ndim == 4:
        tiles = values.reshape(-1, *values.shape[2:])
    elif side**2 == values.shape[1] and side > 1:
        tiles = values.reshape(-1, side, side)
    else:
        tiles = values[None]
    n, (height, width) = min(len(tiles), _TILES), tiles.shape[1:]
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    picture = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), np.nan)
    for i, tile in enumerate(tiles[:n]):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        picture[top : top + height, left : left + width] = tile
    with styled(ax):
        ax = new_axes() if ax is None else ax
        largest = np.abs(tiles[:n][np.isfinite(tiles[:n])]).max(initial=0) or 1.0
        style = {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest, "label": "weights"}
        image = ax.imshow(picture, **(style | {"interpolation": "nearest"} | kwargs))
        ax.figure.colorbar(image, ax=ax, label="weight")
        of = f"{n}" if n == len(tiles) else f"{n} of {len(tiles)}"
        size = f"{of} × ({height} × {width})" if len(tiles) > 1 else f"{height} × {width}"
        ax.set_title(f"{name}  {size}" if name else size, parse_math=False)
        ax.set_axis_off()
    return ax


def plot_predictions(
    predictions: "pd.DataFrame",
    *,
    calibration: "pd.DataFrame | None" = None,
    chosen: int | None = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Draw true against predicted accuracy; a good predictor's points are on the diagonal.

    Parameters
    ----------
    predictions : DataFrame
        With the columns y and predicted: those of `wskit.predictors.evaluate`, say.
    calibration : DataFrame, optional
        Of `wskit.predictors.calibration`, drawn over the points: the mean of the true accuracies
        in each bin with its 90 % interval, 1.645 standard errors to either side.
    chosen : int, optional
        What the column ``row`` says of the model that is marked.
    ax : Axes, optional
        Where to draw. None makes a new figure.
    **kwargs
        For the points (`matplotlib.axes.Axes.scatter`).

    Returns
    -------
    Axes
    """
    y, predicted = (predictions[name].to_numpy(float) for name in ("y", "predicted"))
    with styled(ax):
        ax = new_axes() if ax is None else ax
        few = y.size < 300
        style = {"color": PALETTE["data"], "s": 24 if few else 10, "alpha": 0.6 if few else 0.3}
        ax.scatter(predicted, y, **(style | {"lw": 0, "label": f"held-out ({y.size})"} | kwargs))
        ends = np.array([min(y.min(), predicted.min()), max(y.max(), predicted.max())])
        ax.plot(ends, ends, color=PALETTE["null"], ls="--", lw=1.5, label="predicted = true")
        if calibration is not None:
            at, mean = calibration["predicted"], calibration["true"]
            error = _Z90 * calibration["standard_error"]
            color = PALETTE["fit"]
            ax.vlines(at, mean - error, mean + error, color=color, lw=2, label="90 % interval")
            ax.plot(at, mean, color=color, marker="o", ms=5, lw=1.2, label="bin means")
        if chosen is not None and (rows := predictions["row"].to_numpy() == chosen).any():
            ring = {"marker": "o", "ls": "", "ms": 11, "mfc": "none", "mew": 2}
            color = PALETTE["accent"] if calibration is not None else PALETTE["fit"]
            ax.plot(predicted[rows], y[rows], color=color, label=f"model {chosen}", **ring)
        ax.set(xlabel="predicted accuracy", ylabel="true accuracy")
        legend_above(ax)
    return ax


def plot_importance(
    table: "pd.DataFrame",
    *,
    metric: Literal["r2", "tau"] = "r2",
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Draw how much worse predictions are with a layer's columns shuffled, first layer on top.

    Parameters
    ----------
    table : DataFrame
        Of `wskit.predictors.importance_by_layer`.
    metric : {"r2", "tau"}, default "r2"
        The score whose drop is drawn, with a standard deviation over splits and repeats to
        either side.
    ax : Axes, optional
        Where to draw. None makes a new figure.
    **kwargs
        For the points (`matplotlib.axes.Axes.plot`).

    Returns
    -------
    Axes
    """
    with styled(ax):
        ax = new_axes() if ax is None else ax
        drop, spread = table[f"{metric}_drop"].to_numpy(), table[f"{metric}_drop_std"].to_numpy()
        place, color = np.arange(len(table)), PALETTE["data"]
        ax.axvline(0, color=PALETTE["null"], ls="--", lw=1.5, label="no drop")
        label = "± 1 standard deviation"
        ax.hlines(place, drop - spread, drop + spread, color=color, alpha=0.5, lw=3, label=label)
        style = {"color": color, "marker": "o", "ls": "", "ms": 8, "label": "mean"}
        ax.plot(drop, place, **(style | kwargs))
        ax.set_yticks(place, table["layer"], parse_math=False)
        ax.set(xlabel=f"drop in {_METRICS[metric]}", ylim=(len(table) - 0.5, -0.5))
        legend_above(ax)
    return ax


def plot_learning_curve(table: "pd.DataFrame", *, ax: Axes | None = None, **kwargs: Any) -> Axes:
    r"""Draw R2 and Kendall's tau against the number of models that were fitted to.

    Parameters
    ----------
    table : DataFrame
        Of `wskit.predictors.learning_curve`. The bands are one standard deviation over the
        splits to either side of the mean.
    ax : Axes, optional
        Where to draw. None makes a new figure.
    **kwargs
        For both lines (`matplotlib.axes.Axes.plot`).

    Returns
    -------
    Axes
    """
    looks = {
        "r2": {"color": PALETTE["data"], "marker": "o"},
        "tau": {"color": PALETTE["accent"], "marker": "s", "ls": "--"},
    }
    with styled(ax):
        ax = new_axes() if ax is None else ax
        rows = table.sort_values("n_models")
        n = rows["n_models"].to_numpy()
        for metric, look in looks.items():
            mean, spread = rows[metric].to_numpy(), rows[f"{metric}_std"].to_numpy()
            band = {"color": look["color"], "alpha": 0.2, "lw": 0}
            label = f"{_METRICS[metric]} ± 1 standard deviation"
            ax.fill_between(n, mean - spread, mean + spread, label=label, **band)
            ax.plot(n, mean, **({"label": _METRICS[metric]} | look | kwargs))
        ax.set_xscale("log")
        # The sizes themselves: powers of ten alone would name one or two of them.
        ax.set_xticks(n, [f"{size}" for size in n])
        ax.xaxis.set_minor_locator(mpl.ticker.NullLocator())
        ax.set(xlabel="models fitted to", ylabel="score on held-out models")
        legend_above(ax)
    return ax


def plot_transfer(table: "pd.DataFrame", *, ax: Axes | None = None, **kwargs: Any) -> Axes:
    r"""Draw how well the predictor of one zoo does on each: tau in colour, R2 written.

    tau says whether the ranking carries over, R2 whether the values do.

    Parameters
    ----------
    table : DataFrame
        Of `wskit.predictors.transfer`: rows that were fitted to, columns that were scored on.
    ax : Axes, optional
        Where to draw. None makes a new figure.
    **kwargs
        For the image (`matplotlib.axes.Axes.imshow`).

    Returns
    -------
    Axes
    """
    tau, r2 = table["tau"], table["r2"][table["tau"].columns]
    values = tau.to_numpy(float)
    with styled(ax):
        ax = new_axes() if ax is None else ax
        lowest = min(0.0, np.nanmin(values, initial=0.0))
        style = {"cmap": "viridis", "vmin": lowest, "vmax": 1.0, "label": r"$\tau$"}
        image = ax.imshow(values, **(style | kwargs))
        for (i, j), written in np.ndenumerate(r2.to_numpy(float)):
            tile = image.cmap(image.norm(values[i, j]))
            color = readable_on(tile) if np.isfinite(values[i, j]) else "black"
            text = "–" if np.isnan(written) else f"{written:.2f}".replace("-", "−")
            ax.text(j, i, text, ha="center", va="center", color=color)
        upright = sum(len(str(name)) for name in tau.columns) > 30
        turned = {"rotation": 30, "ha": "right"} if upright else {}
        ax.set_xticks(range(tau.shape[1]), tau.columns.astype(str), parse_math=False, **turned)
        ax.set_yticks(range(tau.shape[0]), tau.index.astype(str), parse_math=False)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set(xlabel="scored on", ylabel="fitted to", title=r"$R^2$ written")
        ax.figure.colorbar(image, ax=ax, label=_METRICS["tau"])
    return ax


def _is_numeric(column: "pd.Series") -> bool:
    return column.dtype.kind in "iuf"


def _is_log(values: np.ndarray) -> bool:
    known = values[np.isfinite(values)]
    return bool(known.size and known.min() > 0 and known.max() > 10**_DECADES * known.min())


def _groups(column: "pd.Series") -> dict[str, np.ndarray]:
    """Return the rows of each category; nothing for a column of many numbers."""
    known = column[column.notna()]
    different = sorted(known.unique())
    if _is_numeric(column) and len(different) > _FEW:
        return {}
    if len(different) > _CATEGORIES:
        raise ValueError(
            f"column {column.name!r} has {len(different)} different texts, and {_CATEGORIES} at "
            "most have a colour; take another column."
        )
    groups = {
        f"{value:g}" if _is_numeric(column) else str(value): (column == value).to_numpy(bool)
        for value in different
    }
    if len(known) < len(column):
        groups[f"no {column.name}"] = column.isna().to_numpy()
    return groups
