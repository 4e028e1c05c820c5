"""A panel to look at the spectrum of each layer, over the checkpoints of a training run."""

import contextlib
import threading
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import traitlets
from matplotlib.axes import Axes

from wskit import plots
from wskit._texts import DASH, size_text
from wskit.errors import FitError, SpectrumError
from wskit.features import spectral_table
from wskit.fits import Laws, MPFit, PowerLawFit, fit_laws, fit_power_law
from wskit.spectra import ConvRule, Spectrum, shuffled_weights, spectra
from wskit.widgets._esd_checkpoints import (
    Label,
    WatchedWeights,
    by_label,
    common_layers,
    label_text,
    legend_text,
    opening,
)
from wskit.widgets._panel import (
    Name,
    Panel,
    Task,
    button,
    call,
    html_table,
    labelled,
    row,
)
from wskit.widgets._picture import Picture

# Floating-point operations that take about 0.3 s on one slow core: above, a thread does the work.
_INLINE_OPERATIONS = 5e9
_SCALES = ("log-log", "log-linear", "linear")  # of `plot_esd`
_NULL_SEED = 0
_COLUMNS = ["N", "M", "alpha", "n_spikes", "phase"]  # of the table of layers that is shown
_BEST: dict[str, Any] = {"color": plots.PALETTE["accent"], "ls": "--", "label": "best xmin"}
_TITLE_LETTERS = 58  # of a picture's width; a longer title is set smaller
_MOST_LETTERS = 76  # at the smallest size; the middle of a longer title is left out

_Key = tuple[Label | None, bool]  # a checkpoint, and whether its weights are shuffled


@dataclass(frozen=True, eq=False)
class _Reading:
    """A spectrum and the laws fitted to it; none are fitted to shuffled weights."""

    spectrum: Spectrum
    laws: Laws | None = None

    def tail(self, xmin: float | None) -> PowerLawFit | None:
        """Return the power law from `xmin` on, or the best one; raise where there is none."""
        if self.laws is not None and self.laws.tail is None:
            raise FitError(self.laws.reasons["tail"])
        if xmin is not None:
            return fit_power_law(self.spectrum.eigenvalues, xmin=xmin)
        return self.laws.tail if self.laws else None


class EsdExplorer(Panel):
    """Look at the empirical spectral density of each layer, and at the laws fitted to it.

    Parameters
    ----------
    weights : mapping of str to Tensor, Module, path or name; or a mapping of labels to these
        A ``state_dict``, a network, an opened checkpoint, or what `wskit.checkpoints` opens.
        Several of them, with the same layers, go under the names or numbers of their training
        steps: then one is shown, and another can be compared with it.
    layer : str, optional
        The weight to begin with. None takes the first that has a matrix.
    step : str or number, optional
        The checkpoint to begin with. None takes the first.
    conv : {"slices", "unfold", "per-slice", "fft"}, default "slices"
        The rule for convolutions, see `wskit.spectra.inventory`.

    Attributes
    ----------
    layer, step, compare, scale, bins, xmin, show_fit, show_null, show_mp
        What is shown; set them, or move the controls. ``xmin=None`` is the best xmin;
        ``compare=None`` compares with nothing. Another layer or step begins with its best xmin.
    spectrum, null, other : Spectrum or None
        Of the layer, of its weights shuffled, and of the checkpoint that it is compared with.
        The weights of a low-rank pair cannot be shuffled.
    best, fit : PowerLawFit or None
        With the best xmin, and with the chosen one.
    mp : MPFit or None
        The Marchenko-Pastur law of the bulk.
    phase : str
        See `wskit.fits.classify_phase`; empty where there is none.
    table : DataFrame or None
        The `wskit.features.spectral_table` of the shown checkpoint, after `compute_table`.
    ax : Axes
        Of the latest picture.

    Raises
    ------
    SpectrumError
        If no tensor in `weights` has a matrix, `layer` is not one that has, or the layers of the
        checkpoints differ.
    """

    layer = traitlets.Unicode()
    step = traitlets.TraitType[Any, Any](None)
    compare = traitlets.TraitType[Any, Any](None, allow_none=True)
    scale = traitlets.Enum(_SCALES, "log-log")
    bins = traitlets.Int(60, min=5, max=200)
    xmin = traitlets.Float(None, allow_none=True)
    show_fit = traitlets.Bool(True)
    show_null = traitlets.Bool(False)
    show_mp = traitlets.Bool(False)

    def __init__(
        self,
        weights: Any,
        *,
        layer: str | None = None,
        step: Label | None = None,
        conv: ConvRule = "slices",
    ) -> None:
        self.conv = conv
        self._checkpoints = by_label(weights)
        self._layers = common_layers(self._checkpoints, conv)
        self.fit: PowerLawFit | None = None
        self.ax: Axes | None = None
        self.table: pd.DataFrame | None = None
        self._found: dict[_Key, _Reading] = {}  # of the layer
        self._fresh = True  # another layer or step, which begins with its best xmin
        self._candidates = np.empty(0)
        self._computing = threading.Lock()
        self.layer = self._layers.index[0] if layer is None else layer
        self.step = next(iter(self._checkpoints)) if step is None else step
        super().__init__()
        self._build()
        self._heed(self, "layer", self._on_layer)
        self._heed(self, "step", self._on_step)
        self._heed(self, ["show_null", "compare"], self._on_beside)
        self._heed(self, ["scale", "bins", "xmin", "show_fit", "show_mp"], self._draw)
        self._compute()

    @traitlets.validate("layer", "step", "compare")
    def _known(self, proposal: Any) -> Any:
        is_layer = proposal.trait.name == "layer"
        offered = self._layers.index if is_layer else self._checkpoints
        return self._check_offered(proposal, offered, SpectrumError)

    # -- what is shown -----------------------------------------------------------------------

    @property
    def spectrum(self) -> Spectrum | None:
        return self._shown.spectrum if self._shown else None

    @property
    def null(self) -> Spectrum | None:
        null = self._found.get((self.step, True))
        return null.spectrum if null else None

    @property
    def other(self) -> Spectrum | None:
        return self._other.spectrum if self._other else None

    @property
    def best(self) -> PowerLawFit | None:
        return self._laws.tail if self._laws else None

    @property
    def mp(self) -> MPFit | None:
        return self._laws.mp if self._laws else None

    @property
    def phase(self) -> str:
        return self._laws.phase if self._laws else ""

    @property
    def _shown(self) -> _Reading | None:
        return self._found.get((self.step, False))

    @property
    def _laws(self) -> Laws | None:
        return self._shown.laws if self._shown else None

    @property
    def _other(self) -> _Reading | None:
        wanted = self.compare not in (None, self.step)
        return self._found.get((self.compare, False)) if wanted else None

    def describe(self) -> str:
        """Return what the picture shows in words."""
        return self.message if self.ax is None else super().describe()

    def code(self) -> str:
        """Return a cell of plain calls that draws what the panel shows.

        The cell takes ``weights``, the mapping that the panel was given; where that was opened
        from a file, the cell opens it.
        """
        modules = ["checkpoints", "features", "fits", "plots", "spectra"]
        if self.table is None:
            modules.remove("features")
        step = self.step
        weights = "weights" if step is None else f"weights[{step!r}]"
        rule = {"names": [self.layer], "conv": self.conv}
        lines = [f"from wskit import {', '.join(modules)}", "", *opening(self._checkpoints)]
        lines.append(f"(s,) = {call('spectra.spectra', weights, **rule)}")
        if "fit" in self._drawn:
            chosen = {} if self.xmin is None else {"xmin": self.xmin}
            lines.append(f"fit = {call('fits.fit_power_law', 's.eigenvalues', **chosen)}")
        if "null" in self._drawn:
            shuffled = f"spectra.shuffled_weights({weights}, seed={_NULL_SEED})"
            lines.append(f"(null,) = {call('spectra.spectra', shuffled, **rule)}")
        if "mp" in self._drawn:
            lines.append("mp = fits.fit_marchenko_pastur(s.eigenvalues, N=s.N, M=s.M)")
        options = {name: Name(name) for name in self._drawn}
        if "others" in self._drawn:
            other = call("spectra.spectra", f"weights[{self.compare!r}]", **rule)
            lines.append(f"(other,) = {other}")
            options["others"] = Name(f"{{{legend_text(self.compare)!r}: other}}")
        lines.append(f"ax = {call('plots.plot_esd', 's', **options, **self._look)}")
        if (best := self._best_to_mark()) is not None:
            lines += [call("ax.axvline", repr(best.xmin), **_BEST), "ax.legend()"]
        if self.table is not None:
            lines.append(f"table = {call('features.spectral_table', weights, conv=self.conv)}")
        return "\n".join(lines)

    # -- the controls ------------------------------------------------------------------------

    def _build(self) -> None:
        layers = self._control("layer", "Layer", list(self._layers.index))
        scale = self._control("scale", "Axes", _SCALES)
        self._null_box = self._control("show_null", "Shuffled weights")
        fit = self._control("show_fit", "Power law")
        mp = self._control("show_mp", "Marchenko-Pastur")
        # The slider moves over the eigenvalues; the field beside it shows and takes the number.
        self._slider = labelled(widgets.IntSlider(readout=False, description="Tail from"), "22em")
        self._field = labelled(widgets.FloatText(description="xmin"), "12em")
        self._heed(self._slider, "value", self._move_tail)
        self._heed(self._field, "value", lambda xmin: self.set_trait("xmin", xmin))
        self._picture = Picture(fixed=True)
        self._pictures = [self._picture]
        self._numbers, self._table_view = widgets.HTML(), widgets.HTML()
        self.children = [
            *([self._step_controls()] if len(self._checkpoints) > 1 else []),
            row(layers, scale, self._control("bins", "Bins", width="8em")),
            row(self._slider, self._field, button("Best xmin", "magnet", self._choose_best)),
            row(fit, mp, self._null_box),
            self._state_view,
            row(self._picture, self._numbers),
            button("Table of layers", "table", self.compute_table),
            self._table_view,
        ]
        self.add_class("wskit-esd-explorer")

    def _step_controls(self) -> widgets.HBox:
        labels: list[Label | None] = list(self._checkpoints)
        choices = [(str(label), label) for label in labels]
        step = labelled(widgets.SelectionSlider(options=choices, description="Step"), "24em")
        # By index: a value of None would be no choice at all.
        names = ["none", *map(str, labels)]
        compare = labelled(widgets.Dropdown(options=names, description="Compare with"))
        chosen = [None, *labels]
        traitlets.link(
            (self, "compare"), (compare, "index"), transform=(chosen.index, chosen.__getitem__)
        )
        return row(self._link("step", step), compare)

    def _move_tail(self, index: int) -> None:
        if self._candidates.size:
            self.xmin = float(self._candidates[index])

    def _choose_best(self) -> None:
        self.xmin = None

    # -- the work ----------------------------------------------------------------------------

    def _on_layer(self, _: Any) -> None:
        self._found.clear()
        self._begin()

    def _on_step(self, _: Any) -> None:
        self.table, self._table_view.value = None, ""  # it was another checkpoint's
        self._begin()

    def _begin(self) -> None:
        # What was shown is not of this layer and step: should this work fail, nothing is.
        self.fit = self.ax = None
        self._fresh = True
        self._compute()

    def _on_beside(self, _: Any) -> None:
        if self._missing():
            self._compute()
        else:
            self._draw()

    def _missing(self) -> list[_Key]:
        """Return what is to be shown and not yet computed, the shown layer first."""
        low_rank = self._layers.loc[self.layer, "kind"] == "low-rank"
        self._null_box.disabled = bool(low_rank)  # its product, which it would take, is not formed
        wanted: list[_Key] = [(self.step, False)]
        if self.show_null and not low_rank:
            wanted.append((self.step, True))
        if self.compare not in (None, self.step):
            wanted.append((self.compare, False))
        return [key for key in wanted if key not in self._found]

    def _compute(self) -> None:
        """Compute what is missing, and show all."""
        name, missing = self.layer, self._missing()
        n_matrices, n, m = map(int, self._layers.loc[name, ["n_matrices", "N", "M"]])
        one = n_matrices * m**2 * (n + 10 * m)
        slow = len(missing) * one > _INLINE_OPERATIONS
        # Only one of several threads computes; cancelled ones end as soon as it is their turn.
        turn = self._computing if slow else contextlib.nullcontext()

        def work(task: Task) -> dict[_Key, _Reading]:
            found = {}
            with turn:
                for i, key in enumerate(missing):
                    task.report(i, len(missing))
                    found[key] = self._read(name, *key)
            return found

        def show(found: dict[_Key, _Reading]) -> None:
            self._found |= found
            s = self.spectrum
            if self._fresh and s is not None:
                self._fresh = False
                self._candidates = np.unique(s.eigenvalues)[:-1]
                if self.xmin is not None:
                    self.xmin = None  # and its observer draws
                    return
            self._draw()

        message = f"Computing the spectrum of {name}." if slow else ""
        self._run(work, show, thread=message)

    def _read(self, name: str, label: Label | None, null: bool) -> _Reading:
        weights = self._checkpoints[label]
        weights = shuffled_weights(weights, seed=_NULL_SEED) if null else weights
        try:
            (s,) = spectra(weights, names=[name], conv=self.conv)
        except SpectrumError as error:
            at = f"At {label_text(label)}: " if label is not None else ""
            raise SpectrumError(f"{at}{error}") from error
        return _Reading(s, None if null else fit_laws(s.eigenvalues, N=s.N, M=s.M))

    def compute_table(self) -> None:
        """Compute `table`, one row per layer of the shown checkpoint, in a thread."""
        weights = self._checkpoints[self.step]

        def work(task: Task) -> pd.DataFrame:
            with self._computing:
                return spectral_table(WatchedWeights(weights, task.report), conv=self.conv)

        def show(table: pd.DataFrame) -> None:
            self.table = table
            caption = f"Layers {label_text(self.step)}".strip()
            self._table_view.value = html_table(table.set_index("name")[_COLUMNS], caption)
            if self._fresh:  # this has replaced work on the spectrum
                self._compute()
            else:
                self._draw()  # so that the status is that of the picture again

        self._run(work, show, thread="Computing the table of layers.")

    def _show_state(self, change: Any = None) -> None:
        super()._show_state(change)
        if self.ax is None and self.status != "done":
            self._picture.blank()
            self._numbers.value = ""

    # -- drawing -----------------------------------------------------------------------------

    @property
    def _look(self) -> dict[str, Any]:
        label = {} if self.step is None else {"label": legend_text(self.step)}
        return {"scale": self.scale, "bins": self.bins, **label}

    @property
    def _drawn(self) -> dict[str, Any]:
        """What is drawn with the spectrum, by the names of `plots.plot_esd`."""
        found: dict[str, Any] = {
            "fit": self.fit if self.show_fit else None,
            "null": self.null if self.show_null else None,
            "mp": self.mp if self.show_mp else None,
        }
        if (other := self.other) is not None:
            found["others"] = {legend_text(self.compare): other}
        return {name: value for name, value in found.items() if value is not None}

    def _draw(self, _: Any = None) -> None:
        shown, problem = self._shown, ""
        if shown is None or self._fresh:
            return
        try:
            self.fit = shown.tail(self.xmin)
        except FitError as error:
            self.fit, problem = None, str(error)
        columns = {label_text(self.step): _numbers(shown, self.fit)}
        if (other := self._other) is not None:
            fit = None
            with contextlib.suppress(FitError):
                fit = other.tail(self.xmin)
            columns[label_text(self.compare)] = _numbers(other, fit)
        self.ax = self._picture.plot(
            plots.plot_esd, shown.spectrum, **self._drawn, **self._look, then=self._finish
        )
        caption = f"{shown.spectrum.name}, {size_text(shown.spectrum)}"
        self._numbers.value = html_table(pd.DataFrame(columns), caption, header=len(columns) > 1)
        if (fit := self.fit) is not None:
            with self._moved_by_panel():
                self._slider.max = self._candidates.size - 1
                index = int(np.searchsorted(self._candidates, fit.xmin))
                self._slider.value = min(index, self._slider.max)
                self._field.value = float(f"{fit.xmin:.4g}")
        if self._task is None:
            self.message, self.status = problem, "failed" if problem else "done"

    def _finish(self, ax: Axes) -> None:
        """Mark the best xmin, and give the Axes fixed margins, which halves the time of a step.

        Above them is room for a legend of four rows: among the data it would hide some of them.
        """
        if (best := self._best_to_mark()) is not None:
            ax.axvline(best.xmin, **_BEST)
        figure: Any = ax.figure
        figure.subplots_adjust(left=0.15, right=0.97, bottom=0.122, top=0.71)
        title = ax.get_title(loc="left")
        if len(title) > _MOST_LETTERS:
            half = _MOST_LETTERS // 2
            title = f"{title[: half - 1]}…{title[-half:]}"
        size = 12 * min(1.0, _TITLE_LETTERS / max(len(title), 1))
        rows = -(-len(ax.get_legend_handles_labels()[0]) // 2)
        # A tensor's name is no formula, whatever dollar signs are in it.
        ax.set_title(title, loc="left", pad=21 * rows, fontsize=size, parse_math=False)
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.1)

    def _best_to_mark(self) -> PowerLawFit | None:
        """Return the best fit where another one is shown in its place."""
        chosen = self.show_fit and self.xmin is not None
        return self.best if chosen and self.best != self.fit else None


def _numbers(reading: _Reading, fit: PowerLawFit | None) -> dict[str, Any]:
    """Return a column of the table; always the same rows, so that nothing jumps."""
    s, laws = reading.spectrum, reading.laws
    best, mp = (laws.tail, laws.mp) if laws else (None, None)
    return {
        "eigenvalues": f"{s.eigenvalues.size}",
        "largest": s.eigenvalues[-1],
        "α": f"{fit.alpha:.3f} ± {fit.sigma:.3f}" if fit else DASH,
        "xmin": fit.xmin if fit else None,
        "KS distance": f"{fit.ks:.4f}" if fit else DASH,
        "in the tail": f"{fit.n_tail} of {fit.n}" if fit else DASH,
        "best xmin": best.xmin if best else None,
        "best α": f"{best.alpha:.3f}" if best else DASH,
        "MP σ": mp.sigma if mp else None,
        "MP spikes": f"{mp.n_spikes}" if mp else DASH,
        "phase": laws.phase if laws and laws.phase else DASH,
    }
