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
    axes_in_style,
    legend_above,
    no_formula,
    readable_on,
)

if TYPE_CHECKING:
    import pandas as pd

_METRICS = {"r2": r"$R^2$", "tau": r"Kendall's $\tau$"}
_CATEGORIES = len(COLORBLIND)
_MARKERS = "osD^vPX*ph"
_FEW = 6  # different numbers that are drawn as categories
_DECADES = 2  # span of positive numbers above which a scale is logarithmic
_TILES = 64  # kernels per picture
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
    """Draw the models of a zoo as points: one column against another, coloured by a third.

    A column of positive numbers that spans more than two decades has a logarithmic scale. The
    legend counts the models of each entry, including those that have no place.

    Parameters
    ----------
    table : DataFrame
        One row per model: a zoo's records, its features, or both side by side.
    x, y : str
        Columns of numbers.
    colour : str, optional
        Column. More than six different numbers have a colour bar; fewer numbers, or up to ten
        strings, have a colour and a marker each.
    selected : array of bool of shape (models,), optional
        Models that are not grey. None selects all.
    chosen : int, optional
        Position of a row to mark.
    ax, **kwargs
        Where to draw, and options of the points (`Axes.scatter`).

    Raises
    ------
    ValueError
        If a column has more strings than there are colours.
    """
    horizontal, vertical = (table[name].to_numpy(float, na_value=np.nan) for name in (x, y))
    shown = np.ones(len(table), bool) if selected is None else np.asarray(selected, bool)
    placed = np.isfinite(horizontal) & np.isfinite(vertical)

    with axes_in_style(ax) as ax:
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
    """Draw the accuracy or loss of one training run by epoch, on training and on test images.

    Parameters
    ----------
    records : DataFrame
        Rows of one run in a zoo's table, with the columns epoch and ``train_accuracy`` or
        ``test_accuracy`` (``train_loss`` or ``test_loss``), or both.
    metric : {"accuracy", "loss"}, default "accuracy"
    ax, **kwargs
        Where to draw, and options of both lines (`Axes.plot`).
    """
    rows = records.sort_values("epoch")
    looks = {
        "train": {"color": PALETTE["other"], "marker": "s", "ls": "--"},
        "test": {"color": PALETTE["data"], "marker": "o"},
    }
    with axes_in_style(ax) as ax:
        for part, look in looks.items():
            if f"{part}_{metric}" not in rows:
                continue
            values = rows[f"{part}_{metric}"].to_numpy(float, na_value=np.nan)
            style = {"label": part, "ms": 5} | look
            ax.plot(rows["epoch"].to_numpy(float), values, **(style | kwargs))
        ax.set(xlabel="epoch", ylabel="loss in nats" if metric == "loss" else metric)
        legend_above(ax)
    return ax


def plot_kernels(W: ArrayLike, *, name: str = "", ax: Axes | None = None, **kwargs: Any) -> Axes:
    """Draw the weights of a layer as small images, on one scale of colours.

    Parameters
    ----------
    W : array of shape (O, I, height, width) or (O, I)
        In a convolution, each pair of filter and input channel is a tile. In a dense layer, each
        unit is a tile where I is a square number (the pixels of a square image); elsewhere the
        matrix is one picture. The first 64 tiles are drawn.
    name : str, optional
        Name of the layer, for the title.
    ax, **kwargs
        Where to draw, and options of the image (`Axes.imshow`).
    """
    values = np.asarray(W, dtype=float)
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
    with axes_in_style(ax) as ax:
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
    """Draw true against predicted accuracy; the points of a good predictor are on the diagonal.

    Parameters
    ----------
    predictions : DataFrame
        The columns y and predicted, as of `wskit.predictors.evaluate`.
    calibration : DataFrame, optional
        Result of `wskit.predictors.calibration`, drawn over the points: the mean true accuracy in
        each bin with its 90 % interval, 1.645 standard errors to either side.
    chosen : int, optional
        Value in the column ``row`` of the model to mark.
    ax, **kwargs
        Where to draw, and options of the points (`Axes.scatter`).
    """
    y, predicted = (predictions[name].to_numpy(float) for name in ("y", "predicted"))
    with axes_in_style(ax) as ax:
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
    """Draw how much worse predictions get when a layer's columns are shuffled, first layer on top.

    Parameters
    ----------
    table : DataFrame
        Result of `wskit.predictors.importance_by_layer`.
    metric : {"r2", "tau"}, default "r2"
        Score whose drop is drawn, with one standard deviation over splits and repeats to either
        side.
    ax, **kwargs
        Where to draw, and options of the points (`Axes.plot`).
    """
    with axes_in_style(ax) as ax:
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
    """Draw R2 and Kendall's tau against the number of models fitted to.

    Parameters
    ----------
    table : DataFrame
        Result of `wskit.predictors.learning_curve`. The bands are one standard deviation over the
        splits to either side of the mean.
    ax, **kwargs
        Where to draw, and options of both lines (`Axes.plot`).
    """
    looks = {
        "r2": {"color": PALETTE["data"], "marker": "o"},
        "tau": {"color": PALETTE["accent"], "marker": "s", "ls": "--"},
    }
    with axes_in_style(ax) as ax:
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
    """Draw how well the predictor of each zoo does on every zoo: tau in colour, R2 written.

    tau says whether the ranking carries over, R2 whether the values do.

    Parameters
    ----------
    table : DataFrame
        Result of `wskit.predictors.transfer`: rows were fitted to, columns scored on.
    ax, **kwargs
        Where to draw, and options of the image (`Axes.imshow`).
    """
    tau, r2 = table["tau"], table["r2"][table["tau"].columns]
    values = tau.to_numpy(float)
    with axes_in_style(ax) as ax:
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
    """Return the rows of each category, and no category for a column of many numbers."""
    known = column[column.notna()]
    different = sorted(known.unique())
    if _is_numeric(column) and len(different) > _FEW:
        return {}
    if len(different) > _CATEGORIES:
        raise ValueError(
            f"at most {_CATEGORIES} strings have a colour, and column {column.name!r} has "
            f"{len(different)}."
        )
    groups = {
        f"{value:g}" if _is_numeric(column) else str(value): (column == value).to_numpy(bool)
        for value in different
    }
    if len(known) < len(column):
        groups[f"no {column.name}"] = column.isna().to_numpy()
    return groups
