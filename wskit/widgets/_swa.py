"""A panel to average the epochs of a training run, and to see what the average is worth."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import traitlets
from matplotlib.axes import Axes
from torch import Tensor

from wskit import plots
from wskit.averaging import Trajectory
from wskit.errors import AveragingError, LandscapeError
from wskit.landscape import Evaluator, plane_through
from wskit.widgets._panel import Name, Task, alone, button, call, html_table, labelled, row, spaced
from wskit.widgets._picture import Picture
from wskit.widgets._plane import MARGIN, PlanePanel
from wskit.widgets._swa_window import AT_ONCE, MODELS, Measured, Window

Train = Callable[[float, int, int, int], Iterable[Mapping[str, Tensor]]]

_COARSE = 7  # the grid that is shown before the last one
_WINDOW = ["run", "start", "stop", "every", "decay", "recalibrate"]
_CURVE_SIZE, _PLANE_SIZE = (6.4, 4.0), (5.2, 4.2)
_ROOM = 0.25  # of the curve's picture, around the values in the window
_SPAN: dict[str, Any] = {"color": "0.92", "zorder": 0, "label": "averaged"}


class SwaExplorer(PlanePanel):
    """Choose which epochs of a training run are averaged: the measures at once, then pictures.

    For stochastic weight averaging (Izmailov et al. 2018, arXiv:1803.05407), beside the
    exponential moving average of the same epochs.

    Parameters
    ----------
    runs : mapping of names to Trajectory
        With one row per epoch.
    evaluate : Evaluator
        See `wskit.landscape.Evaluator`. All measures that it returns are shown.
    recalibrated : Evaluator, optional
        The same measures, with the statistics of every BatchNorm recomputed at each model: what
        ``landscape.module_metrics(..., bn_loader=...)`` returns.
    train : callable, optional
        ``train(rate, cycle, epochs, seed)`` trains a new run, and yields its weights after each
        epoch. Without it there are no controls for that.
    resolution : int, default 15
        Columns and rows of the planes. A coarser one is shown before it.
    unit : str, optional
        Of losses: "nats" where they are cross-entropies. None writes none.

    Attributes
    ----------
    run : str
        Name of the run that is shown.
    start, stop : int
        The window: the first recorded row that is averaged, and the one past the last. To set
        both, do it within ``with panel.hold_trait_notifications():``.
    every : int
        Average only every so many rows of the window: 4, say, for the ends of cycles.
    decay : float
        Of the exponential moving average, in (0, 1).
    recalibrate : bool
        Recompute the BatchNorm statistics of every model that is measured.
    measure : str
        What the curve and the second plane show. At first, the last one that is not "loss".
    rate, cycle, epochs, seed : numbers
        What `train_run` hands to `train`. A cycle of 1 is a constant rate.
    runs : dict
        With the runs that were trained here.
    numbers : DataFrame
        The measures, in the rows "last iterate", which is the window's last epoch, "average" and
        "EMA".
    curve : DataFrame or None
        One row per recorded epoch for the model "iterate", and one per averaged epoch for
        "average" and "EMA": those of the window up to that epoch. None until it is computed for
        this window.
    landscape : LossPlane or None
        The plane through the window's first and last iterate and the average, once it is computed
        for this window.
    ax, plane_axs : Axes or None, list of Axes
        Of the latest pictures.

    Raises
    ------
    AveragingError
        If there is no run, or one of them is empty.
    LandscapeError
        If `evaluate` cannot measure the first run.
    """

    run = traitlets.Unicode()
    start = traitlets.Int(0)
    stop = traitlets.Int(1)
    every = traitlets.Int(1, min=1, max=10_000)
    decay = traitlets.Float(0.9, min=0.0, max=0.9999)
    recalibrate = traitlets.Bool(False)
    measure = traitlets.Unicode("loss")
    rate = traitlets.Float(0.05, min=0.0, max=10.0)
    cycle = traitlets.Int(1, min=1, max=10_000)
    epochs = traitlets.Int(40, min=1, max=10_000)
    seed = traitlets.Int(0, min=0, max=2**31 - 1)

    _square = True  # an average may lie close to the line through the first and the last epoch
    _points_at_once = AT_ONCE

    def __init__(
        self,
        runs: Mapping[str, Trajectory],
        evaluate: Evaluator,
        *,
        recalibrated: Evaluator | None = None,
        train: Train | None = None,
        resolution: int = 15,
        unit: str | None = None,
    ) -> None:
        self.runs = dict(runs)
        self.evaluate, self.recalibrated, self.train = evaluate, recalibrated, train
        self._unit = unit
        if not self.runs:
            raise AveragingError("there is no run to average; record one in a Trajectory.")
        if empty := [name for name, recorded in self.runs.items() if not len(recorded)]:
            raise AveragingError(f"run {empty[0]!r} is empty; append its epochs first.")
        self._sizes = [*([_COARSE] if resolution > _COARSE else []), resolution]
        self._measured: dict[tuple[str, bool], Measured] = {}
        self._trained: dict[str, tuple[float, int, int, int]] = {}
        self._training: Task | None = None
        self._shown: tuple[Any, ...] = ()
        self.curve: pd.DataFrame | None = None
        self.ax: Axes | None = None
        self.plane_axs: list[Axes] = []
        self.run = next(iter(self.runs))
        self.stop = n = len(self.runs[self.run])
        self.start, self.epochs = n // 2, n
        # What is wrong with the first run is raised; with others, the panel says it.
        measured = self._measures()
        self.curve = measured.curve(self._window)
        self.numbers: pd.DataFrame = measured.numbers(self._window)
        others = [name for name in self.numbers if name != "loss"]
        self.measure = str(others[-1]) if others else "loss"
        super().__init__()
        self._build()
        self._heed(self, "run", self._on_run)
        self._heed(self, _WINDOW[1:], lambda _: self._refresh())
        self._heed(self, "measure", lambda _: self._try(self._draw))
        self._refresh()

    # -- what may be set ---------------------------------------------------------------------

    @traitlets.validate("run", "measure")
    def _known(self, proposal: Any) -> Any:
        offered = self.runs if proposal.trait.name == "run" else list(self.numbers)
        return self._check_offered(proposal, offered, AveragingError)

    @traitlets.validate("start", "stop")
    def _in_the_run(self, proposal: Any) -> int:
        n = len(self.runs[self.run])
        at = {"start": self.start, "stop": self.stop} | {proposal.trait.name: proposal.value}
        if not 0 <= at["start"] < at["stop"] <= n:
            raise AveragingError(
                f"the window {at['start']}:{at['stop']} must lie in the {n} recorded rows, and "
                "start before stop."
            )
        return int(proposal.value)

    @traitlets.validate("recalibrate")
    def _has_recalibrated(self, proposal: Any) -> bool:
        if proposal.value and self.recalibrated is None:
            raise AveragingError(
                "Updating BatchNorm needs `recalibrated`, an evaluation that does it; give it to "
                "the panel."
            )
        return bool(proposal.value)

    # -- what is shown -----------------------------------------------------------------------

    @property
    def _window(self) -> "Window":
        return Window(self.start, self.stop, self.every, self.decay)

    @property
    def _averaged(self) -> np.ndarray:
        """The recorded steps of the window."""
        return self.runs[self.run].steps[self._window.rows]

    @property
    def _plane_measures(self) -> list[str]:
        return list(dict.fromkeys(["loss", self.measure]))

    def _measures(self) -> "Measured":
        key = (self.run, self.recalibrate)
        if key not in self._measured:
            evaluate = self.recalibrated if self.recalibrate else self.evaluate
            assert evaluate is not None
            self._measured[key] = Measured(self.runs[self.run], evaluate)
        return self._measured[key]

    def cancel(self) -> None:
        """Stop the running work; a run that is being trained is dropped."""
        if self._task is not None:
            super().cancel()
            self._show_state()
            self._blank_the_former()

    def code(self) -> str:
        """Return a cell of plain calls that gives what the panel shows.

        The cell takes ``runs`` and ``evaluate``, which the panel was given; and ``recalibrated``
        and ``train``, where they are used.
        """
        window, evaluate = self._window, "recalibrated" if self.recalibrate else "evaluate"
        step = f", {window.every}" if window.every > 1 else ""
        look = {"unit": self._unit}
        columns = {"x": "epoch", "y": self.measure, "by": "model"}
        lines = [
            "import pandas as pd",
            "from wskit import averaging, landscape, plots",
            "",
            f"run = runs[{self.run!r}]",
        ]
        if self.run in self._trained:
            lines[-1:] = [
                "run = averaging.Trajectory()",
                f"for epoch, weights in enumerate(train{self._trained[self.run]}, start=1):",
                "    run.append(epoch, weights)",
            ]
        lines += [
            f"rows = range({window.start}, {window.stop}{step})",
            "epochs = run.steps.tolist()",
            "first, last = epochs[rows[0]], epochs[rows[-1]]",
            "iterates = {epoch: run.model(row) for row, epoch in enumerate(epochs)}",
            "averages, means = {}, {}",
            f"ema = averaging.ExponentialMean({window.decay!r})",
            "for row in rows:",
            "    ema.add(run.model(row))",
            f"    averages[epochs[row]] = run.window_mean({window.start}, row + 1{step})",
            "    means[epochs[row]] = ema.weights",
            'models = {"iterate": iterates, "average": averages, "EMA": means}',
            "parts = {",
            f"    name: landscape.evaluate_models({evaluate}, each)",
            "    for name, each in models.items()",
            "}",
            'curve = pd.concat(parts, names=["model", "epoch"]).reset_index()',
            'numbers = curve[curve["epoch"] == last].drop(columns=["model", "epoch"])',
            f"numbers.index = {list(MODELS.values())}",
            f"ax = {call('plots.plot_mean_curves', 'curve', **columns, **look)}",
            call("ax.axvspan", "first - 0.5", "last + 0.5", **_SPAN),
        ]
        if self.curve is not None:
            lines.append(f"ax.set_ylim({self._scale(self.curve)})")
        if self.landscape is not None:
            n = len(self.landscape.x)
            lines += [
                "corners = [iterates[first], iterates[last], averages[last]]",
                "plane = landscape.plane_through(*corners)",
                f"x, y = plane.grid({n}, margin={MARGIN}, square=True)",
                f"names = {self._names!r}",
                f"found = landscape.loss_plane({evaluate}, *corners, x=x, y=y, names=names)",
                "plane_axs = [",
                f"    {call('plots.plot_loss_plane', 'found', measure=Name('measure'), **look)}",
                f"    for measure in {self._plane_measures!r}",
                "]",
            ]
        return "\n".join([*lines, "numbers"])

    # -- the controls ------------------------------------------------------------------------

    def _build(self) -> None:
        self._run_box = labelled(widgets.Dropdown(description="Run"))
        self._slider = labelled(
            widgets.SelectionRangeSlider(options=[0], description="Average epochs"), "34em"
        )
        self._heed(self._run_box, "value", lambda run: self.set_trait("run", run))
        self._heed(self._slider, "index", self._move_window)
        every = self._control("every", "Every", width="8em")
        decay = self._control("decay", "EMA decay", width="11em")
        measure = self._control("measure", "Measure", list(self.numbers))
        recalibrate = self._control("recalibrate", "Update BatchNorm")
        recalibrate.disabled = self.recalibrated is None
        self._train_button = button("Train a new run", "plus", self.train_run)
        training = []
        if self.train is not None:
            names = ("rate", "cycle", "epochs", "seed")
            boxes = [self._control(name, name.title(), width="9em") for name in names]
            training = [row(*boxes, self._train_button)]
        self._numbers_view = widgets.HTML()
        self._curve_view = Picture(*_CURVE_SIZE)
        self._plane_views = [Picture(*_PLANE_SIZE) for _ in range(2)]
        self._pictures = [self._curve_view, *self._plane_views]
        self.children = [
            row(self._run_box, self._slider, every),
            row(decay, measure, recalibrate),
            *training,
            self._state_view,
            row(self._numbers_view, self._curve_view),
            row(*self._plane_views),
        ]
        self.add_class("wskit-swa-explorer")

    def _move_controls(self) -> None:
        """Put the controls to the state."""
        options = [(str(step), row) for row, step in enumerate(self.runs[self.run].steps)]
        # Options and value in one message: the page would answer new options with a value of its
        # own choice, which would be taken for the reader's.
        with self._moved_by_panel(), self._run_box.hold_sync(), self._slider.hold_sync():
            if list(self._run_box.options) != list(self.runs):
                self._run_box.options = list(self.runs)
            self._run_box.value = self.run
            if list(self._slider.options) != options:
                self._slider.options = options
            self._slider.index = (self.start, self.stop - 1)

    def _move_window(self, ends: tuple[int, int]) -> None:
        with self.hold_trait_notifications():
            self.start, self.stop = ends[0], ends[1] + 1

    def _show_state(self, change: Any = None) -> None:
        super()._show_state(change)
        self._train_button.disabled = self._is_training

    # -- the work ----------------------------------------------------------------------------

    @property
    def _is_training(self) -> bool:
        return self._task is not None and self._task is self._training

    def _on_run(self, run: str) -> None:
        n = len(self.runs[run])
        if self.stop > n:  # the new run is shorter
            with self.hold_trait_notifications():
                self.start, self.stop = n // 2, n
        self._refresh()

    def _refresh(self) -> None:
        """Show the numbers of the window at once; then the curve and the planes."""
        state = tuple(getattr(self, name) for name in _WINDOW)
        if state == self._shown:  # the notification for the other end of the window
            return
        first = not self._shown
        self._shown = state
        self._move_controls()
        if self._task is not None and not self._is_training:
            self._task.cancelled.set()  # it was the work for another window
            self._task = None
        if not first:
            self.curve = self.ax = None
        self.landscape = self._plane = None
        self.plane_axs = []
        self._try(self._begin)

    def _begin(self) -> None:
        measured, window, epochs = self._measures(), self._window, self._averaged
        self.numbers = measured.numbers(window)
        caption = f"Average of one epoch, {epochs[0]}"
        if len(epochs) > 1:
            steps = f", one in {self.every}" if self.every > 1 else ""
            caption = f"Average of {len(epochs)} epochs, {epochs[0]} to {epochs[-1]}{steps}"
        table = self.numbers.rename(columns=spaced)
        self._numbers_view.value = html_table(table, caption)
        if self._is_training:  # the pictures wait for its end
            self._blank_the_former()
        elif self.curve is not None:
            self._show_curve(self.curve)
        else:
            self._run(
                lambda task: measured.curve(window, task.report),
                self._show_curve,
                thread="Measuring the averages up to each epoch.",
            )

    def _show_curve(self, curve: pd.DataFrame) -> None:
        """Draw the curve, and begin with the plane."""
        self.curve = curve
        self._draw()
        run, rows = self.runs[self.run], self._window.rows
        corners = [
            run.model(rows[0]),
            run.model(rows[-1]),
            run.window_mean(self.start, self.stop, self.every),
        ]
        try:
            self._plane = plane_through(*corners)
        except LandscapeError:
            self._blank_the_former()
            self._say()
        else:
            self._fill(self._measures().evaluate, corners, self._names, self._sizes)

    @property
    def _names(self) -> tuple[str, str, str]:
        return f"epoch {self._averaged[0]}", f"epoch {self._averaged[-1]}", "average"

    @alone
    def train_run(self) -> None:
        """Train a new run in a thread, with `rate`, `cycle`, `epochs` and `seed`; select it.

        When it is cancelled, nothing is added to `runs`.
        """
        train, settings = self.train, (self.rate, self.cycle, self.epochs, self.seed)
        name = f"rate {self.rate:g}, cycle {self.cycle}, seed {self.seed}"
        same = sum(each == name or each.startswith(f"{name} (") for each in self.runs)
        name = f"{name} ({same + 1})" if same else name

        def work(task: Task) -> Trajectory:
            if train is None:
                raise AveragingError("A new run needs `train`; give it to the panel.")
            epochs = settings[2]
            run = Trajectory()
            for epoch, weights in enumerate(train(*settings), start=1):
                run.append(epoch, weights)
                task.report(epoch, epochs)
            if not len(run):
                raise AveragingError("The training returned no weights; yield those of each epoch.")
            return run

        def show(run: Trajectory) -> None:
            self.runs[name], self._trained[name] = run, settings
            self.run = name

        self._run(work, show, thread=f"Training {name}.")
        self._training = self._task
        self._show_state()

    def _say(self) -> None:
        if self._plane is None and self.curve is not None:
            self.message = (
                "There is no plane: the average is on the line through the first and the last "
                "epoch; widen the window."
            )
        else:
            last, average = self.numbers[self.measure][["last iterate", "average"]]
            name = spaced(self.measure)
            self.message = (
                f"{name[:1].upper()}{name[1:]}: {average:.4g} of the average, {last:.4g} of epoch "
                f"{self._averaged[-1]} alone."
            )
        self.status = "done"

    def _fail(self, error: Exception) -> None:
        super()._fail(error)
        self._blank_the_former()

    # -- drawing -----------------------------------------------------------------------------

    def _scale(self, curve: pd.DataFrame) -> tuple[float | None, float | None]:
        """Return the limits of the window's values, which look equal beside the first epochs'."""
        epochs = self._averaged
        inside = curve.loc[curve["epoch"].between(epochs[0], epochs[-1]), self.measure]
        low, high = float(inside.min()), float(inside.max())
        room = _ROOM * (high - low)
        return (low - room, high + room) if room > 0 else (None, None)

    def _draw(self) -> None:
        if self.curve is not None:
            epochs = self._averaged
            columns = {"x": "epoch", "y": self.measure, "by": "model"}
            limits = self._scale(self.curve)

            def finish(ax: Axes) -> None:
                ax.axvspan(epochs[0] - 0.5, epochs[-1] + 0.5, **_SPAN)
                ax.set_ylim(limits)

            self.ax = self._curve_view.plot(
                plots.plot_mean_curves, self.curve, **columns, unit=self._unit, then=finish
            )
        self._draw_plane()

    def _draw_plane(self) -> None:
        if self.landscape is None:
            return
        self.plane_axs = []
        self._plane_views[1].blank()
        self._plane_views[1].layout.display = "" if self.measure != "loss" else "none"
        for measure, view in zip(self._plane_measures, self._plane_views, strict=False):
            ax = view.plot(plots.plot_loss_plane, self.landscape, measure=measure, unit=self._unit)
            self.plane_axs.append(ax)

    def _blank_the_former(self) -> None:
        """Leave no picture of another window."""
        if self.curve is None:
            self._curve_view.blank()
        if self.landscape is None:
            for view in self._plane_views:
                view.blank()
