"""Spectra of layers drawn, and the laws fitted to them."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, Literal

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from wskit.plots._style import PALETTE, axes_in_style, legend_above, no_formula, styled

if TYPE_CHECKING:
    import pandas as pd

    from wskit.fits import MPFit, PowerLawFit
    from wskit.spectra import Spectrum

Scale = Literal["log-log", "log-linear", "linear"]


def plot_esd(
    spectrum: "Spectrum",
    *,
    fit: "PowerLawFit | None" = None,
    null: "Spectrum | None" = None,
    mp: "MPFit | None" = None,
    others: "Mapping[str, Spectrum] | None" = None,
    scale: Scale = "log-log",
    bins: int = 60,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Draw the empirical spectral density (ESD) of a weight matrix.

    Parameters
    ----------
    spectrum : Spectrum
        Drawn as a histogram whose bins are equal on the axis that is shown. A logarithmic axis
        begins at 1e-5 of the largest eigenvalue or above; the legend gives the share to its left.
    fit : PowerLawFit, optional
        Drawn as the tail's density, scaled by the share of eigenvalues in the tail, with xmin.
    null : Spectrum, optional
        Spectrum of the shuffled weights, drawn as an outline.
    mp : MPFit, optional
        Drawn as the density of the bulk, scaled by the share of eigenvalues in it, with a mark
        under each eigenvalue beyond its edge.
    others : mapping of str to Spectrum, optional
        Spectra to compare with, by label, drawn as outlines in different dashes.
    scale : {"log-log", "log-linear", "linear"}, default "log-log"
        Scales of the eigenvalue axis and the density axis. In "log-linear" the density is that
        of log10 of the eigenvalue, so that equal areas hold equally many eigenvalues.
    bins : int, default 60
        Number of bins of the histogram.
    ax, **kwargs
        Where to draw, and options of the histogram (`Axes.stairs`).
    """
    log_x = scale != "linear"
    per_decade = scale == "log-linear"
    values = spectrum.eigenvalues
    with axes_in_style(ax) as ax:
        beside = [*([] if null is None else [null]), *(others or {}).values()]
        edges = _edges(np.concatenate([s.eigenvalues for s in [spectrum, *beside]]), bins, log_x)
        label = kwargs.pop("label", "eigenvalues")
        left_out = np.mean(values < edges[0])
        if left_out > 0:
            label += f" ({left_out:.0%} left of the axis)"
        style = {"color": PALETTE["data"], "alpha": 0.55, "fill": True, "label": label}
        ax.stairs(_density(values, edges, per_decade), edges, **(style | kwargs))
        if null is not None:
            density = _density(null.eigenvalues, edges, per_decade)
            ax.stairs(density, edges, color=PALETTE["null"], lw=2, label="shuffled weights")
        for (text, s), dashes in zip((others or {}).items(), cycle(["-", "--", ":", "-."])):
            density = _density(s.eigenvalues, edges, per_decade)
            ax.stairs(density, edges, color=PALETTE["other"], lw=2, ls=dashes, label=text)
        if mp is not None:
            _draw_mp(ax, mp, values, edges, per_decade)
        if fit is not None:
            x = np.geomspace(fit.xmin, values[-1], 200)
            tail = fit.n_tail / values.size * fit.pdf(x) * (x * np.log(10) if per_decade else 1)
            label = rf"power law, $\alpha$ = {fit.alpha:.2f}"
            ax.plot(x, tail, color=PALETTE["fit"], label=label)
            label = rf"$x_{{\min}}$ = {fit.xmin:.3g}"
            ax.axvline(fit.xmin, color=PALETTE["fit"], ls=":", lw=1.5, label=label)
        ax.set(
            xscale="log" if log_x else "linear",
            yscale="log" if scale == "log-log" and values[-1] > 0 else "linear",
            xlabel=r"eigenvalue $\lambda$ of $W^\top W$",
            ylabel=r"density of $\log_{10}\lambda$" if per_decade else "density",
        )
        ax.set_title(_title(spectrum), parse_math=False)
        ax.legend()
    return ax


def plot_xmin_scan(
    curve: "pd.DataFrame",
    *,
    fit: "PowerLawFit | None" = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Draw the search for the beginning of the tail: KS distance and alpha of every xmin.

    Parameters
    ----------
    curve : DataFrame
        Result of `wskit.fits.ks_curve`, with the columns xmin, ks and alpha.
    fit : PowerLawFit, optional
        Marked on both curves.
    ax, **kwargs
        Where to draw, and options of the line of the KS distance (`Axes.plot`). Alpha
        has its own axis on the right.
    """
    with axes_in_style(ax) as ax:
        style = {"color": PALETTE["data"], "label": "KS distance (left)"}
        ax.plot(curve["xmin"], curve["ks"], **(style | kwargs))
        right = ax.twinx()
        color = PALETTE["accent"]
        right.plot(curve["xmin"], curve["alpha"], color=color, lw=1.5, label=r"$\alpha$ (right)")
        right.spines["right"].set_visible(True)
        if fit is not None:
            label = rf"best: $x_{{\min}}$ = {fit.xmin:.3g}, $\alpha$ = {fit.alpha:.2f}"
            ax.axvline(fit.xmin, color=PALETTE["fit"], ls=":", lw=1.5, label=label)
        ax.set(xscale="log", xlabel=r"$x_{\min}$", ylabel="KS distance", ylim=(0, None))
        right.set_ylabel(r"$\alpha$")
        handles = [*ax.get_legend_handles_labels()[0], *right.get_lines()]
        legend_above(right, handles=handles)
    return ax


def plot_layers_grid(
    spectra: "Sequence[Spectrum]",
    *,
    fits: "Sequence[PowerLawFit | None] | None" = None,
    columns: int = 4,
    bins: int = 40,
) -> tuple[Figure, np.ndarray]:
    """Draw the ESD of many layers side by side, on the same logarithmic axes.

    Parameters
    ----------
    spectra : sequence of Spectrum
    fits : sequence of PowerLawFit or None, optional
        One per spectrum; None where there is none.
    columns : int, default 4
        Pictures per row.
    bins : int, default 40
        Number of bins of each histogram.

    Returns
    -------
    fig : Figure
    axs : array of Axes, of shape (rows, columns)
        Those without a spectrum are hidden.
    """
    rows = -(-len(spectra) // columns)
    laws = [None] * len(spectra) if fits is None else fits
    with styled(None):
        size = (2.6 * columns, 2.3 * rows)
        share = {"sharex": True, "sharey": True, "squeeze": False}
        fig, axs = plt.subplots(rows, columns, figsize=size, **share)
        for ax, s, fit in zip(axs.flat[: len(spectra)], spectra, laws, strict=True):
            plot_esd(s, fit=fit, bins=bins, ax=ax)
            ax.get_legend().remove()
            title = s.name
            if fit is not None:
                title = rf"{no_formula(s.name)}  $\alpha$ = {fit.alpha:.2f}"
            ax.set_title(title, fontsize=9, parse_math=fit is not None)
            ax.set(xlabel="", ylabel="")
        for ax in axs.flat[len(spectra) :]:
            ax.set_visible(False)
        fig.supxlabel(r"eigenvalue $\lambda$ of $W^\top W$", fontsize=12)
        fig.supylabel("density", fontsize=12)
    return fig, axs


def plot_metric_by_depth(
    table: "pd.DataFrame", *, metric: str = "alpha", ax: Axes | None = None, **kwargs: Any
) -> Axes:
    """Draw one column of a spectral table from the first layer to the last.

    Parameters
    ----------
    table : DataFrame
        Result of `wskit.features.spectral_table`. Layers with a `warning` are hollow.
    metric : str, default "alpha"
        The column.
    ax, **kwargs
        Where to draw, and options of the points (`Axes.plot`).
    """
    with axes_in_style(ax) as ax:
        depth = np.arange(len(table))
        values = table[metric].to_numpy(dtype=float, na_value=np.nan)
        doubt = (
            table["warning"].to_numpy() != "" if "warning" in table else np.zeros(len(table), bool)
        )
        color = PALETTE["data"]
        ax.plot(depth, values, color=color, lw=1, alpha=0.4, label="_line")
        points = {"color": color, "ls": "", "marker": "o"} | kwargs
        ax.plot(depth[~doubt], values[~doubt], **({"label": metric} | points))
        if doubt.any():
            hollow = {"mfc": "white", "label": "with a warning"}
            ax.plot(depth[doubt], values[doubt], **(points | hollow))
        if len(table) <= 30:
            ax.set_xticks(depth, table["name"], rotation=90, fontsize=9, parse_math=False)
        else:
            ax.set_xlabel("layer, from the input on")
        ax.set_ylabel(r"$\alpha$" if metric == "alpha" else metric.replace("_", " "))
        legend_above(ax)
    return ax


def plot_esd_evolution(
    spectra: "Sequence[Spectrum]",
    steps: ArrayLike,
    *,
    step_name: str = "epoch",
    bins: int = 40,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Draw the ESD of one layer at several steps of training, from dark to light.

    Parameters
    ----------
    spectra : sequence of Spectrum
        Spectra of one layer.
    steps : array of shape (n_spectra,)
        Number of each step.
    step_name : str, default "epoch"
        Name of a step in the legend.
    bins : int, default 40
        Number of bins, which are the same for all.
    ax, **kwargs
        Where to draw, and options of each outline (`Axes.stairs`).
    """
    with axes_in_style(ax) as ax:
        edges = _edges(np.concatenate([s.eigenvalues for s in spectra]), bins, log_x=True)
        shades = np.linspace(0, 1, len(spectra) + 2)[1:-1]  # neither the darkest nor the palest
        colors = [to_hex(color) for color in plt.colormaps["viridis"](shades)]
        for s, step, color in zip(spectra, np.asarray(steps, dtype=float), colors, strict=True):
            density = _density(s.eigenvalues, edges, per_decade=False)
            style = {"color": color, "lw": 1.5, "label": f"{step_name} {step:g}"}
            ax.stairs(density, edges, **(style | kwargs))
        ax.set(
            xscale="log",
            yscale="log",
            xlabel=r"eigenvalue $\lambda$ of $W^\top W$",
            ylabel="density",
        )
        ax.set_title(_title(spectra[-1]), parse_math=False)
        ax.legend(fontsize="small")
    return ax


def _draw_mp(
    ax: Axes, mp: "MPFit", values: np.ndarray, edges: np.ndarray, per_decade: bool
) -> None:
    low, high = max(mp.lambda_minus, edges[0]), mp.lambda_plus
    if low < high:
        # The density rises like a root at its edges: half a circle of points is dense there.
        x = low + (high - low) * (1 - np.cos(np.linspace(0, np.pi, 202)[1:-1])) / 2
        share = 1 - mp.n_spikes / values.size
        density = share * mp.pdf(x) * (x * np.log(10) if per_decade else 1)
        ax.plot(x, density, color=PALETTE["accent"], label="Marchenko-Pastur")
    spikes = values[values.size - mp.n_spikes :]
    if spikes.size:
        label = f"{spikes.size} beyond its edge"
        marks = {"marker": "|", "ls": "", "ms": 10, "color": PALETTE["accent"], "label": label}
        ax.plot(spikes, np.full(spikes.size, 0.02), transform=ax.get_xaxis_transform(), **marks)


def _edges(eigenvalues: np.ndarray, bins: int, log_x: bool) -> np.ndarray:
    """Return the edges of bins; the last one is just above the largest eigenvalue."""
    high = eigenvalues.max() * (1 + 1e-9) or 1.0
    if not log_x:
        return np.linspace(0, high, bins + 1)
    floor = 1e-5 * high
    return np.geomspace(eigenvalues[eigenvalues >= floor].min(initial=high / 2), high, bins + 1)


def _density(values: np.ndarray, edges: np.ndarray, per_decade: bool) -> np.ndarray:
    widths = np.diff(np.log10(edges) if per_decade else edges)
    return np.histogram(values, edges)[0] / (values.size * widths)


def _title(spectrum: "Spectrum") -> str:
    times = f"{spectrum.n_matrices} × " if spectrum.n_matrices > 1 else ""
    size = f"{times}{spectrum.N} × {spectrum.M}"
    return f"{spectrum.name}  ({size})" if spectrum.name else size
