"""A panel to look at the spectrum of each layer, over the checkpoints of a training run."""

import contextlib
import threading
from collections.abc import Mapping
from typing import Any, cast, get_args

import ipywidgets as widgets
import matplotlib as mpl
import numpy as np
import pandas as pd
import traitlets
from matplotlib.axes import Axes
from torch import Tensor

from wskit import plots
from wskit.errors import FitError, SpectrumError
from wskit.features import spectral_table
from wskit.fits import MPFit, PowerLawFit
from wskit.spectra import ConvRule, Spectrum, shuffled, shuffled_weights, spectra, spectrum
from wskit.widgets import _esd_view as view
from wskit.widgets._esd_code import NULL_SEED, cell
from wskit.widgets._esd_weights import (
    Label,
    Reading,
    WatchedWeights,
    by_label,
    common_layers,
    is_whole,
    label_text,
    legend_text,
    read,
)
from wskit.widgets._panel import ROW, Panel, Task, alone, button, labelled
from wskit.widgets._picture import Picture

# Floating-point operations that take about 0.3 s on one slow core: above, a thread does the work.
_INLINE_OPERATIONS = 5e9
_SCALES = get_args(plots.EsdScale)

_Key = tuple[Label | None, bool]  # a checkpoint, and whether its weights are shuffled


class EsdExplorer(Panel):
    """Look at the empirical spectral density of each layer, and at the laws fitted to it.

    Parameters
    ----------
    weights : mapping of str to Tensor, or mapping of a label to such mappings
        A ``state_dict``, an opened checkpoint, a dict. Or several of these, with the same layers,
        under the names or numbers of their training steps: then one is shown, and another can be
        compared with it.
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
        ``compare=None`` compares with nothing. With another layer or step comes its best xmin.
    spectrum, null, other : Spectrum or None
        Of the layer, of its weights shuffled, and of the checkpoint that it is compared with.
        Of a low-rank pair the weights cannot be shuffled.
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
        weights: Mapping[str, Tensor] | Mapping[Any, Mapping[str, Tensor]],
        *,
        layer: str | None = None,
        step: Label | None = None,
        conv: ConvRule = "slices",
    ) -> None:
        self.weights, self.conv = weights, conv
        self._checkpoints = by_label(weights)
        self._layers = common_layers(self._checkpoints, conv)
        self.fit: PowerLawFit | None = None
        self.ax: Axes | None = None
        self.table: pd.DataFrame | None = None
        self._found: dict[_Key, Reading] = {}  # of the layer
        self._fresh = True  # another layer or step, which begins with its best xmin
        self._candidates = np.empty(0)
        self._computing = threading.Lock()
        self.layer = self._layers.index[0] if layer is None else layer
        self.step = next(iter(self._checkpoints)) if step is None else step
        super().__init__()
        self._build()
        self.observe(self._on_layer, "layer")
        self.observe(self._on_step, "step")
        self.observe(self._on_beside, ["show_null", "compare"])
        self.observe(self._draw, ["scale", "bins", "xmin", "show_fit", "show_mp"])
        self._compute()

    @traitlets.validate("layer")
    def _known_layer(self, proposal: Any) -> str:
        if proposal.value not in self._layers.index:
            raise SpectrumError(
                f"There is no layer {proposal.value!r} with a matrix; "
                f"choose one of {list(self._layers.index)}."
            )
        return str(proposal.value)

    @traitlets.validate("step", "compare")
    def _known_label(self, proposal: Any) -> Label | None:
        if proposal.value not in self._checkpoints:
            labels = [label for label in self._checkpoints if label is not None]
            raise SpectrumError(
                f"There is no checkpoint {proposal.value!r}; choose one of {labels}."
            )
        label: Label | None = proposal.value
        return label

    # -- what is shown -----------------------------------------------------------------------

    @property
    def spectrum(self) -> Spectrum | None:
        shown = self._shown
        return shown.spectrum if shown else None

    @property
    def null(self) -> Spectrum | None:
        null = self._found.get((self.step, True))
        return null.spectrum if null else None

    @property
    def other(self) -> Spectrum | None:
        other = self._other
        return other.spectrum if other else None

    @property
    def best(self) -> PowerLawFit | None:
        shown = self._shown
        return shown.best if shown else None

    @property
    def mp(self) -> MPFit | None:
        shown = self._shown
        return shown.mp if shown else None

    @property
    def phase(self) -> str:
        shown = self._shown
        return shown.phase if shown else ""

    @property
    def _shown(self) -> Reading | None:
        return self._found.get((self.step, False))

    @property
    def _other(self) -> Reading | None:
        wanted = self.compare not in (None, self.step)
        return self._found.get((self.compare, False)) if wanted else None

    def describe(self) -> str:
        """Say in words what the picture shows."""
        return plots.describe(self.ax) if self.ax is not None else self.message

    def static_image(self) -> bytes:
        """Return the picture as PNG."""
        return self._picture.png

    def code(self) -> str:
        """Return a cell of plain calls that draws what the panel shows.

        The cell takes ``weights``, the mapping that the panel was given; where that was opened
        from a file, the cell opens it.
        """
        return cell(self)

    # -- the controls ------------------------------------------------------------------------

    def _build(self) -> None:
        names = list(self._layers.index)
        self._null_box = labelled(widgets.Checkbox(description="Shuffled weights", indent=False))
        controls = {
            "layer": labelled(widgets.Dropdown(options=names, description="Layer")),
            "scale": labelled(widgets.Dropdown(options=_SCALES, description="Axes")),
            "bins": labelled(widgets.BoundedIntText(min=5, max=200, description="Bins"), "8em"),
            "show_fit": labelled(widgets.Checkbox(description="Power law", indent=False)),
            "show_mp": labelled(widgets.Checkbox(description="Marchenko-Pastur", indent=False)),
            "show_null": self._null_box,
        }
        for name, control in controls.items():
            traitlets.link((self, name), (control, "value"))

        # The slider moves over the eigenvalues; the field beside it says and takes the number.
        self._slider = labelled(widgets.IntSlider(readout=False, description="Tail from"), "22em")
        self._field = labelled(widgets.FloatText(description="xmin"), "12em")
        best = button("Best xmin", "magnet", self._choose_best)
        best.layout.width = "max-content"
        self._slider.observe(self._on_slider, "value")
        self._field.observe(self._on_field, "value")

        # The rows of the table have no use but to choose a layer: another control of that trait.
        self._list = widgets.Select(description="Layers", layout={"width": "auto"})
        self._list.layout.display = "none"
        self._list.add_class("wskit-layers")
        self._list.observe(self._on_row, "value")
        table = button("Table of layers", "table", self.compute_table)
        table.layout.width = "max-content"

        self._picture = Picture()
        self._numbers, self._links = widgets.HTML(), widgets.HTML()
        shown = [controls[name] for name in ("layer", "scale", "bins")]
        switches = [controls[name] for name in ("show_fit", "show_mp", "show_null")]
        self.children = [
            *([self._step_controls()] if len(self._checkpoints) > 1 else []),
            widgets.HBox(shown, layout=ROW),
            widgets.HBox([self._slider, self._field, best], layout=ROW),
            widgets.HBox(switches, layout=ROW),
            self._state_view,
            widgets.HBox([self._picture, self._numbers], layout=ROW),
            widgets.HBox([table, self._links], layout=ROW),
            self._list,
            widgets.HTML(view.STYLE, layout={"display": "none"}),
        ]
        self._state_view.layout.flex = "none"  # in a column, that is its height
        self.add_class("wskit-esd-explorer")

    def _step_controls(self) -> widgets.HBox:
        labels: list[Label | None] = list(self._checkpoints)
        choices = [(str(label), label) for label in labels]
        step = labelled(widgets.SelectionSlider(options=choices, description="Step"), "24em")
        traitlets.link((self, "step"), (step, "value"))
        # By index: a value of None would be no choice at all.
        names = ["none", *map(str, labels)]
        compare = labelled(widgets.Dropdown(options=names, description="Compare with"))
        chosen = [None, *labels]
        traitlets.link(
            (self, "compare"), (compare, "index"), transform=(chosen.index, chosen.__getitem__)
        )
        return widgets.HBox([step, compare], layout=ROW)

    @alone
    def _on_slider(self, change: Any) -> None:
        if not self._moving and self._candidates.size:
            self.xmin = float(self._candidates[change["new"]])

    @alone
    def _on_field(self, change: Any) -> None:
        if not self._moving:
            self.xmin = change["new"]

    @alone
    def _on_row(self, change: Any) -> None:
        if not self._moving and change["new"] is not None:
            self.layer = change["new"]

    def _choose_best(self) -> None:
        self.xmin = None

    def _move_controls(self, fit: PowerLawFit) -> None:
        """Put slider and field to the xmin that is shown."""
        with self._moved_by_panel():
            self._slider.max = self._candidates.size - 1
            index = int(np.searchsorted(self._candidates, fit.xmin))
            self._slider.value = min(index, self._slider.max)
            self._field.value = float(f"{fit.xmin:.4g}")

    def _show_list(self) -> None:
        """Show the table as a list whose rows can be chosen; hide it where there is none."""
        with self._moved_by_panel():
            if self.table is not None:
                rows = self.table[self.table["name"].isin(self._layers.index)]
                heading, lines = view.layer_rows(rows)
                self._list.options = list(zip(lines, rows["name"], strict=True))
                self._list.description, self._list.rows = heading, min(len(lines), 10)
                self._list.value = self.layer
            self._list.layout.display = "none" if self.table is None else ""
        self._show_links()

    def _show_links(self) -> None:
        at = label_text(self.step)
        self._links.value = view.save_links(self._picture.png, self.table, self.layer, at)

    # -- the work ----------------------------------------------------------------------------

    @alone
    def _on_layer(self, _: Any) -> None:
        self._found.clear()
        if self.table is not None:
            self._list.value = self.layer
        self._begin()

    @alone
    def _on_step(self, _: Any) -> None:
        if self.table is not None:
            self.table = None  # it was another checkpoint's
            self._show_list()
        self._begin()

    def _begin(self) -> None:
        # What was shown is not of this layer and step: should this work fail, nothing is.
        self.fit = self.ax = None
        self._fresh = True
        self._compute()

    @alone
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
        row = self._layers.loc[name]
        one = row["n_matrices"] * row["M"] ** 2 * (row["N"] + 10 * row["M"])
        slow = len(missing) * one > _INLINE_OPERATIONS
        # Of several threads one computes; when its turn comes, what was cancelled ends at once.
        turn = self._computing if slow else contextlib.nullcontext()

        def work(task: Task) -> dict[_Key, Reading]:
            found = {}
            with turn:
                for i, key in enumerate(missing):
                    task.report(i, len(missing))
                    found[key] = self._read(name, *key)
            return found

        def show(found: dict[_Key, Reading]) -> None:
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

    def _read(self, name: str, label: Label | None, null: bool) -> Reading:
        weights = self._checkpoints[label]
        try:
            if is_whole(self._layers.loc[name], self.conv):
                W = weights[name]
                if null:
                    return Reading(spectrum(shuffled(W, seed=NULL_SEED), conv=self.conv))
                return read(spectrum(W, conv=self.conv, name=name))
            if null:
                weights = shuffled_weights(weights, seed=NULL_SEED)
            (s,) = spectra(weights, names=[name], conv=self.conv)
            return Reading(s) if null else read(s)
        except SpectrumError as error:
            at = f"At {label_text(label)}: " if label is not None else ""
            raise SpectrumError(f"{at}{error}") from error

    def compute_table(self) -> None:
        """Compute `table`, a row a layer of the shown checkpoint, in a thread."""
        weights = self._checkpoints[self.step]

        def work(task: Task) -> pd.DataFrame:
            with self._computing:
                return spectral_table(WatchedWeights(weights, task.report), conv=self.conv)

        def show(table: pd.DataFrame) -> None:
            self.table = table
            self._show_list()
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
            self._show_links()

    @alone
    def _draw(self, _: Any = None) -> None:
        shown, problem = self._shown, ""
        if shown is None or self._fresh:
            return
        try:
            self.fit = shown.tail(self.xmin)
        except FitError as error:
            self.fit, problem = None, str(error)
        columns = {label_text(self.step): (shown, self.fit)}
        options: dict[str, Any] = {} if self.step is None else {"label": legend_text(self.step)}
        if (other := self._other) is not None:
            with contextlib.suppress(FitError):
                columns[label_text(self.compare)] = other, other.tail(self.xmin)
            columns.setdefault(label_text(self.compare), (other, None))
            options["others"] = {legend_text(self.compare): other.spectrum}
        with mpl.rc_context(plots.STYLE):
            self.ax = plots.plot_esd(
                shown.spectrum,
                fit=self.fit if self.show_fit else None,
                null=self.null if self.show_null else None,
                mp=shown.mp if self.show_mp else None,
                scale=cast(plots.EsdScale, self.scale),
                bins=self.bins,
                ax=self._picture.new_axes(),
                **options,
            )
            if (best := self._best_to_mark()) is not None:
                accent = plots.PALETTE["accent"]
                self.ax.axvline(best.xmin, color=accent, ls="--", label="best xmin")
            self._picture.draw(self.describe())
        self._numbers.value = view.number_table(columns)
        self._show_links()
        if self.fit is not None:
            self._move_controls(self.fit)
        if self._task is None:
            self.message, self.status = problem, "failed" if problem else "done"

    def _best_to_mark(self) -> PowerLawFit | None:
        """Return the best fit where another one is shown in its place."""
        chosen = self.show_fit and self.xmin is not None
        return self.best if chosen and self.best != self.fit else None
