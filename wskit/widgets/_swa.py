"""A panel to average the epochs of a training run, and to see what the average is worth."""

from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets
import matplotlib as mpl
import numpy as np
import pandas as pd
import traitlets
from matplotlib.axes import Axes

from wskit import plots
from wskit.averaging import Trajectory
from wskit.errors import AveragingError, LandscapeError
from wskit.landscape import Evaluator, plane_through
from wskit.widgets._panel import ROW, Task, alone, button, labelled
from wskit.widgets._picture import FigurePicture
from wskit.widgets._plane import PlanePanel
from wskit.widgets._swa_code import CURVE_SIZE, PLANE_SIZE, cell
from wskit.widgets._swa_view import draw_curve, number_table, scale, window_text
from wskit.widgets._swa_work import AT_ONCE, Measured, Train, Window, name_of, record

_COARSE = 7  # the grid that is shown before the last one
_WINDOW = ["run", "start", "stop", "every", "decay", "recalibrate"]
_TRAINING = ("cycle", "epochs", "seed")
_LIMITS = dict.fromkeys(("every", *_TRAINING), (1, 10_000)) | {"seed": (0, 2**31 - 1)}


class SwaExplorer(PlanePanel):
    """Choose which epochs of a training run are averaged: the measures at once, then pictures.

    For stochastic weight averaging (Izmailov et al. 2018, arXiv:1803.05407), beside the
    exponential moving average of the same epochs.

    Parameters
    ----------
    runs : mapping of names to Trajectory
        Of a row an epoch.
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
        Leave out all but every so many rows of the window: 4, say, for the ends of cycles.
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
        A row a recorded epoch and model, "iterate", and a row an averaged epoch for "average" and
        "EMA": those of the window up to that epoch. None until it is computed for this window.
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
        If `evaluate` cannot measure the first run, or `resolution` is less than 2.
    """

    run = traitlets.Unicode()
    start = traitlets.Int(0)
    stop = traitlets.Int(1)
    every = traitlets.Int(1)
    decay = traitlets.Float(0.9)
    recalibrate = traitlets.Bool(False)
    measure = traitlets.Unicode("loss")
    rate = traitlets.Float(0.05)
    cycle = traitlets.Int(1)
    epochs = traitlets.Int(40)
    seed = traitlets.Int(0)

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
        for name, recorded in self.runs.items():
            if not len(recorded):
                raise AveragingError(f"run {name!r} is empty; append its epochs first.")
        if resolution < 2:
            raise LandscapeError(f"resolution must be at least 2, got {resolution}.")
        self._sizes = [*([_COARSE] if resolution > _COARSE else []), resolution]
        self._measured: dict[tuple[str, bool], Measured] = {}
        self._trained: dict[str, tuple[float, int, int, int]] = {}
        self._training: Task | None = None
        self._shown: tuple[Any, ...] = ()
        self.numbers = pd.DataFrame()
        self.curve: pd.DataFrame | None = None
        self.ax: Axes | None = None
        self.plane_axs: list[Axes] = []
        self.run = next(iter(self.runs))
        self.stop = n = len(self.runs[self.run])
        self.start, self.epochs = n // 2, n
        # What is wrong with the first run is raised; with others, it is said in the panel.
        measured = self._measures()
        self.curve = measured.curve(self._window)
        self.numbers = measured.numbers(self._window)
        others = [name for name in self.numbers if name != "loss"]
        self.measure = str(others[-1]) if others else "loss"
        super().__init__()
        self._build()
        self.observe(self._on_window, _WINDOW)
        self.observe(self._on_measure, "measure")
        self._refresh()

    # -- what may be set ---------------------------------------------------------------------

    @traitlets.validate("run")
    def _known_run(self, proposal: Any) -> str:
        if proposal.value not in self.runs:
            raise AveragingError(
                f"There is no run {proposal.value!r}; choose one of {list(self.runs)[:10]}."
            )
        return str(proposal.value)

    @traitlets.validate("start", "stop")
    def _in_the_run(self, proposal: Any) -> int:
        n = len(self.runs[self.run])
        at = {"start": self.start, "stop": self.stop} | {proposal.trait.name: proposal.value}
        if not 0 <= at["start"] < at["stop"] <= n:
            raise AveragingError(
                f"The window {at['start']}:{at['stop']} does not lie in the {n} recorded rows; "
                f"start must be at least 0 and less than stop, and stop at most {n}."
            )
        return int(proposal.value)

    @traitlets.validate("decay")
    def _a_decay(self, proposal: Any) -> float:
        if not 0 < proposal.value < 1:
            raise AveragingError(f"decay must lie between 0 and 1, got {proposal.value}; 0.9, say.")
        return float(proposal.value)

    @traitlets.validate("recalibrate")
    def _has_recalibrated(self, proposal: Any) -> bool:
        if proposal.value and self.recalibrated is None:
            raise AveragingError(
                "Updating BatchNorm needs `recalibrated`, an evaluation that does it; give it to "
                "the panel."
            )
        return bool(proposal.value)

    @traitlets.validate("measure")
    def _known_measure(self, proposal: Any) -> str:
        if proposal.value not in self.numbers:
            raise AveragingError(
                f"There is no measure {proposal.value!r}; choose one of {list(self.numbers)}."
            )
        return str(proposal.value)

    @traitlets.validate("rate")
    def _a_rate(self, proposal: Any) -> float:
        if not 0 < proposal.value <= 10:
            raise AveragingError(f"rate must be positive and at most 10, got {proposal.value}.")
        return float(proposal.value)

    @traitlets.validate(*_LIMITS)
    def _within_limits(self, proposal: Any) -> int:
        low, high = _LIMITS[proposal.trait.name]
        if not low <= proposal.value <= high:
            raise AveragingError(
                f"{proposal.trait.name} must lie between {low} and {high}, got {proposal.value}."
            )
        return int(proposal.value)

    # -- what is shown -----------------------------------------------------------------------

    @property
    def _window(self) -> Window:
        return Window(self.start, self.stop, self.every, self.decay)

    @property
    def _averaged(self) -> np.ndarray:
        """The recorded steps of the window."""
        return self.runs[self.run].steps[self._window.rows]

    @property
    def _plane_measures(self) -> list[str]:
        return list(dict.fromkeys(["loss", self.measure]))

    @property
    def _scaled(self) -> bool:
        curve = self.curve
        return curve is not None and scale(curve, self.measure, self._averaged) is not None

    def _measures(self) -> Measured:
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

    def describe(self) -> str:
        """Say in words what the pictures and the table show."""
        axs = [*([] if self.ax is None else [self.ax]), *self.plane_axs]
        return "\n".join([*(plots.describe(ax.figure) for ax in axs), self.numbers.to_string()])

    def static_image(self) -> bytes:
        """Return the picture of the curve as PNG."""
        return self._curve_view.png

    def code(self) -> str:
        """Return a cell of plain calls that gives what the panel shows.

        The cell takes ``runs`` and ``evaluate``, which the panel was given; and ``recalibrated``
        and ``train``, where they are used.
        """
        return cell(self)

    # -- the controls ------------------------------------------------------------------------

    def _build(self) -> None:
        self._run_box = labelled(widgets.Dropdown(description="Run"))
        self._run_box.observe(self._on_run_box, "value")
        self._slider = labelled(
            widgets.SelectionRangeSlider(options=[0], description="Average epochs"), "34em"
        )
        self._slider.observe(self._on_slider, "index")
        every = labelled(widgets.BoundedIntText(description="Every", min=1, max=10_000), "8em")
        self._decay_box = labelled(
            widgets.BoundedFloatText(description="EMA decay", min=0.01, max=0.99, step=0.01), "11em"
        )
        self._decay_box.observe(self._on_decay_box, "value")
        measure = labelled(widgets.Dropdown(options=list(self.numbers), description="Measure"))
        recalibrate = labelled(widgets.Checkbox(description="Update BatchNorm", indent=False))
        recalibrate.disabled = self.recalibrated is None
        links = {"every": every, "measure": measure, "recalibrate": recalibrate}
        training = []
        if self.train is not None:
            self._train_button = button("Train a new run", "plus", self.train_run)
            self._train_button.layout.width = "max-content"
            rate = widgets.BoundedFloatText(description="Rate", min=0.001, max=10, step=0.001)
            links["rate"] = labelled(rate, "9em")
            for name in _TRAINING:
                low, high = _LIMITS[name]
                box = widgets.BoundedIntText(description=name.title(), min=low, max=high)
                links[name] = labelled(box, "9em")
            boxes = [links[name] for name in ("rate", *_TRAINING)]
            training = [widgets.HBox([*boxes, self._train_button], layout=ROW)]
        for name, box in links.items():
            traitlets.link((self, name), (box, "value"))
        self._numbers_view = widgets.HTML()
        self._curve_view = FigurePicture(*CURVE_SIZE)
        self._plane_views = [FigurePicture(*PLANE_SIZE) for _ in range(2)]
        self.children = [
            widgets.HBox([self._run_box, self._slider, every], layout=ROW),
            widgets.HBox([self._decay_box, measure, recalibrate], layout=ROW),
            *training,
            self._state_view,
            widgets.HBox([self._numbers_view, self._curve_view], layout=ROW),
            widgets.HBox(self._plane_views, layout=ROW),
        ]
        self._state_view.layout.flex = "none"  # in a column, that is its height
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
            self._decay_box.value = self.decay

    @alone
    def _on_run_box(self, change: Any) -> None:
        if not self._moving:
            self.run = change["new"]

    @alone
    def _on_slider(self, change: Any) -> None:
        if not self._moving:
            first, last = change["new"]
            with self.hold_trait_notifications():
                self.start, self.stop = first, last + 1

    @alone
    def _on_decay_box(self, change: Any) -> None:
        if not self._moving:
            self.decay = change["new"]

    def _show_state(self, change: Any = None) -> None:
        super()._show_state(change)
        if self.train is not None:
            self._train_button.disabled = self._is_training

    # -- the work ----------------------------------------------------------------------------

    @property
    def _is_training(self) -> bool:
        return self._task is not None and self._task is self._training

    @alone
    def _on_window(self, change: Any) -> None:
        n = len(self.runs[self.run])
        if change["name"] == "run" and self.stop > n:  # the new run is shorter
            with self.hold_trait_notifications():
                self.start, self.stop = n // 2, n
        self._refresh()

    @alone
    def _on_measure(self, _: Any) -> None:
        self._try(self._draw)

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
        measured, window = self._measures(), self._window
        self.numbers = measured.numbers(window)
        caption = window_text(self._averaged, self.every)
        self._numbers_view.value = number_table(self.numbers, caption)
        if self._is_training:  # the pictures wait for its end
            self._blank_the_former()
            return
        if self.curve is not None:
            self._draw()
            self._begin_plane()
            return

        def show(curve: pd.DataFrame) -> None:
            self.curve = curve
            self._draw()
            self._begin_plane()

        self._run(
            lambda task: measured.curve(window, task.report),
            show,
            thread="Measuring the averages up to each epoch.",
        )

    def _begin_plane(self) -> None:
        corners = self._corners()
        try:
            self._plane = plane_through(*corners)
        except LandscapeError:
            self._blank_the_former()
            self._say()
        else:
            evaluate = self._measures().evaluate
            self._fill(evaluate, corners, self._names(), self._sizes)

    def _corners(self) -> list[Mapping[str, Any]]:
        run, rows = self.runs[self.run], self._window.rows
        average = run.window_mean(self.start, self.stop, self.every)
        return [run.model(rows[0]), run.model(rows[-1]), average]

    def _names(self) -> tuple[str, str, str]:
        return f"epoch {self._averaged[0]}", f"epoch {self._averaged[-1]}", "average"

    @alone
    def train_run(self) -> None:
        """Train a new run in a thread, with `rate`, `cycle`, `epochs` and `seed`; select it.

        When it is cancelled, nothing is added to `runs`.
        """
        train, settings = self.train, (self.rate, self.cycle, self.epochs, self.seed)
        name = name_of(self.rate, self.cycle, self.seed, self.runs)

        def work(task: Task) -> Trajectory:
            if train is None:
                raise AveragingError("A new run needs `train`; give it to the panel.")
            return record(train, settings, task.report)

        def show(run: Trajectory) -> None:
            self.runs[name], self._trained[name] = run, settings
            self.run = name

        self._run(work, show, thread=f"Training {name}.")
        self._training = self._task
        self._show_state()

    def _say(self) -> None:
        epochs = self._averaged
        if self._plane is None and self.curve is not None:
            self.message = (
                "There is no plane: the average is on the line through the first and the last "
                "epoch; widen the window."
            )
        else:
            last, average = self.numbers[self.measure][["last iterate", "average"]]
            name = self.measure.replace("_", " ")
            self.message = (
                f"{name[:1].upper()}{name[1:]}: {average:.4g} of the average, {last:.4g} of epoch "
                f"{epochs[-1]} alone."
            )
        self.status = "done"

    def _fail(self, error: Exception) -> None:
        super()._fail(error)
        self._blank_the_former()

    # -- drawing -----------------------------------------------------------------------------

    def _draw(self) -> None:
        if self.curve is not None:
            figure = self._curve_view.new_figure()
            self.ax = draw_curve(figure, self.curve, self.measure, self._unit, self._averaged)
            self._curve_view.draw(plots.describe(figure))
        self._draw_plane()

    def _draw_plane(self) -> None:
        if self.landscape is None:
            return
        self.plane_axs = []
        self._plane_views[1].layout.display = "" if self.measure != "loss" else "none"
        for measure, view in zip(self._plane_measures, self._plane_views, strict=False):
            figure = view.new_figure()
            with mpl.rc_context(plots.STYLE):
                ax = figure.add_subplot()
                plots.plot_loss_plane(self.landscape, measure=measure, unit=self._unit, ax=ax)
            view.draw(plots.describe(figure))
            self.plane_axs.append(ax)

    def _blank_the_former(self) -> None:
        """Leave no picture of another window."""
        if self.curve is None:
            self._curve_view.blank()
        if self.landscape is None:
            for view in self._plane_views:
                view.blank()
