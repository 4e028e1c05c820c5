"""A panel to look at a zoo: its models as points, one of them closely, and their prediction."""

import math
import textwrap
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import matplotlib as mpl
import numpy as np
import pandas as pd
import traitlets
from jaxtyping import Bool
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from wskit import plots
from wskit.errors import WskitError, ZooError
from wskit.features import weight_statistics
from wskit.predictors import boosted_trees
from wskit.widgets import _zoo_table as tables
from wskit.widgets import _zoo_view as view
from wskit.widgets._panel import ROW, Panel, Task, alone, button, labelled
from wskit.widgets._picture import FigurePicture
from wskit.widgets._zoo_code import cell
from wskit.widgets._zoo_parts import PLACES, SIZE, parts
from wskit.widgets._zoo_table import TARGET, Range, Ranges
from wskit.widgets._zoo_work import Evaluated, Recipe, evaluate_rows, grow, recipe_for
from wskit.zoo import MLP, SmallCNN, Zoo


class ZooExplorer(Panel):
    """Look at the models of a zoo, at one of them closely, and at how well they are predicted.

    Parameters
    ----------
    zoo : Zoo
    features : DataFrame of a row a model, optional
        Numbers that the accuracies are predicted from. None means
        ``features.weight_statistics(zoo.weights)``.
    x, y : str, optional
        Columns of the features or of the zoo's records to begin with, or ``"component 1"`` and
        ``"component 2"``: the first principal components of the standardised features. None
        means the latter two.
    colour : str, optional
        Column to begin with. None means ``test_accuracy``, where it is known.
    network, data : optional
        What ``wskit.zoo.train_zoo`` takes to train more such models. Both or none.
    estimator : scikit-learn estimator, optional
        Predicts ``test_accuracy``. None means ``predictors.boosted_trees(random_state=0)``.

    Attributes
    ----------
    x, y, colour : str
        Columns that are shown; set them, or move the controls.
    x_range, y_range : tuple of (float, float), or None
        The models between them, both included, are selected. None is no limit; so it is when
        another column is chosen.
    model : int
        The chosen model's row in the zoo's table.
    n_more : int
        How many models `train_more` trains.
    zoo : Zoo
        With the models that were trained here.
    features : DataFrame
        A row a model of `zoo`.
    selection : array of bool of shape (models,)
        What is selected.
    evaluation : DataFrame or None
        After `retrain`: R2, Kendall's tau and mean absolute error with 90 % intervals, see
        `wskit.predictors.scores`.
    predictions : DataFrame or None
        After `retrain`: split, row, group, y, predicted; each model by an estimator that was
        fitted to other runs.
    ax : Axes
        Of the latest picture of all models.

    Raises
    ------
    ZooError
        If the zoo is empty, if the features are not numbers of a row a model, if a column is not
        there, or if one of `network` and `data` is missing.
    """

    x = traitlets.Unicode()
    y = traitlets.Unicode()
    colour = traitlets.Unicode()
    x_range = traitlets.TraitType[Any, Any](None, allow_none=True)
    y_range = traitlets.TraitType[Any, Any](None, allow_none=True)
    model = traitlets.Int(0)
    n_more = traitlets.Int(32, min=1, max=4096)

    def __init__(
        self,
        zoo: Zoo,
        *,
        features: pd.DataFrame | None = None,
        x: str | None = None,
        y: str | None = None,
        colour: str | None = None,
        network: SmallCNN | MLP | Callable[[], nn.Module] | None = None,
        data: Any | None = None,
        estimator: Any = None,
    ) -> None:
        if (network is None) != (data is None):
            raise ZooError("network and data train more models together; give both, or none.")
        if network is not None and features is not None:
            raise ZooError(
                "the features of new models are their weight statistics; leave out `features`, or "
                "`network` and `data`."
            )
        self.network, self.data = network, data
        self._own_features, self._own_estimator = features is not None, estimator is not None
        self.estimator = boosted_trees(random_state=0) if estimator is None else estimator
        self.ax: Axes | None = None
        self._recipes: list[Recipe] = []
        self._shown: dict[str, str] = {}  # of the chosen model: which parts, and of what
        self._adopt(zoo, weight_statistics(zoo.weights) if features is None else features)
        names = tables.places(self._table)
        if not names:
            raise ZooError("neither records nor features have a column of numbers to draw.")
        self.x = names[0] if x is None else x
        self.y = names[min(1, len(names) - 1)] if y is None else y
        default = TARGET if TARGET in tables.colours(self._table) else names[0]
        self.colour = default if colour is None else colour
        super().__init__()
        self._build()
        self.observe(self._on_axis, ["x", "y"])
        self.observe(self._on_range, ["x_range", "y_range"])
        self.observe(self._on_look, ["colour", "model"])
        self._draw()

    def _adopt(self, zoo: Zoo, features: pd.DataFrame) -> None:
        self.features = tables.check_features(features, zoo)
        self.zoo = zoo
        self._table = tables.join(zoo, self.features)
        self._evaluated: Evaluated | None = None  # it was another zoo's

    # -- what may be set ---------------------------------------------------------------------

    @traitlets.validate("x", "y")
    def _known_place(self, proposal: Any) -> str:
        if proposal.value not in tables.places(self._table):
            raise ZooError(
                f"There is no column {proposal.value!r} of numbers; choose one of the records or "
                f"the features, or one of {tables.COMPONENTS}."
            )
        return str(proposal.value)

    @traitlets.validate("colour")
    def _known_colour(self, proposal: Any) -> str:
        if proposal.value not in tables.colours(self._table):
            raise ZooError(
                f"There is no column {proposal.value!r} for colours; choose one of numbers, or "
                "of ten different texts at most."
            )
        return str(proposal.value)

    @traitlets.validate("x_range", "y_range")
    def _two_numbers(self, proposal: Any) -> Range:
        if proposal.value is None:
            return None
        try:
            low, high = map(float, proposal.value)
        except (TypeError, ValueError):
            low, high = math.nan, math.nan
        if not low <= high:
            raise ZooError(
                f"A range is two numbers, the smaller one first, or None; got {proposal.value!r}."
            )
        return low, high

    @traitlets.validate("model")
    def _known_model(self, proposal: Any) -> int:
        if not 0 <= proposal.value < len(self.zoo):
            raise ZooError(
                f"There is no model {proposal.value}; choose one from 0 to {len(self.zoo) - 1}."
            )
        return int(proposal.value)

    # -- what is shown -----------------------------------------------------------------------

    @property
    def selection(self) -> Bool[np.ndarray, " models"]:
        return tables.selected(self._table, self._ranges())

    @property
    def evaluation(self) -> pd.DataFrame | None:
        return self._evaluated.scores if self._evaluated else None

    @property
    def predictions(self) -> pd.DataFrame | None:
        return self._evaluated.predictions if self._evaluated else None

    def _ranges(self) -> Ranges:
        return (self.x, self.x_range), (self.y, self.y_range)

    @property
    def _figure(self) -> Figure:
        """Of the chosen model."""
        return self._panels._figure

    def describe(self) -> str:
        """Say in words what the two pictures show."""
        if self.ax is None:
            return self.message
        return "\n".join(map(plots.describe, (self.ax.figure, self._figure)))

    def static_image(self) -> bytes:
        """Return the picture of all models as PNG."""
        return self._picture.png

    def code(self) -> str:
        """Return a cell of plain calls that draws what the panel shows.

        The cell takes ``models``, the zoo that the panel was given; and what else it was given of
        ``X`` (its features), ``network``, ``data`` and ``estimator``.
        """
        return cell(self)

    # -- the controls ------------------------------------------------------------------------

    def _build(self) -> None:
        self._columns = {
            "x": labelled(widgets.Dropdown(description="x"), "18em"),
            "y": labelled(widgets.Dropdown(description="y"), "18em"),
            "colour": labelled(widgets.Dropdown(description="Colour"), "18em"),
        }
        self._sliders = {}
        for axis in ("x", "y"):
            slider = labelled(
                widgets.SelectionRangeSlider(options=[0.0], description=f"Select {axis}"),
                "32em",
            )
            slider.continuous_update = False  # each picture takes a moment
            slider.observe(lambda change, axis=axis: self._on_slider(axis, change), "index")
            self._sliders[axis] = slider
        self._number = labelled(widgets.BoundedIntText(description="Model", min=0), "10em")
        self._list = widgets.Select(description="Models", rows=10, layout={"width": "auto"})
        self._list.add_class("wskit-models")
        self._list.observe(self._on_row, "value")
        everything = button("Select all", "expand", self._select_all)
        retrain = button("Retrain on selection", "refresh", self.retrain)
        self._buttons = [retrain]
        actions = [retrain]
        if self.network is not None:
            more = labelled(widgets.BoundedIntText(description="How many", min=1, max=4096), "10em")
            traitlets.link((self, "n_more"), (more, "value"))
            train = button("Train more models", "plus", self.train_more)
            self._buttons.append(train)
            actions += [train, more]
        for each in (everything, *self._buttons):
            each.layout.width = "max-content"
        self._picture = FigurePicture(6.4, 5.0)
        self._panels = FigurePicture(*SIZE)
        self._numbers, self._scores = widgets.HTML(), widgets.HTML()
        self._offer()
        for name, control in self._columns.items():
            traitlets.link((self, name), (control, "value"))
        traitlets.link((self, "model"), (self._number, "value"))
        top = ROW | {"align_items": "flex-start"}
        sliders = [*self._sliders.values(), everything]
        self.children = [
            widgets.HBox(list(self._columns.values()), layout=ROW),
            widgets.HBox(sliders, layout=ROW),
            widgets.HBox([self._number, *actions], layout=ROW),
            self._state_view,
            widgets.HBox([self._picture, self._numbers], layout=top),
            widgets.HBox([self._panels, widgets.VBox([self._scores, self._list])], layout=top),
            widgets.HTML(view.STYLE, layout={"display": "none"}),
        ]
        self._state_view.layout.flex = "none"  # in a column, that is its height
        self.add_class("wskit-zoo-explorer")

    def _offer(self) -> None:
        """Put what this zoo's table has into the controls.

        Options and value in one message: the page would answer new options with a value of its
        own choice, which would be taken for the reader's.
        """
        names = tables.places(self._table)
        offered = {"x": names, "y": names, "colour": tables.colours(self._table)}
        with self._moved_by_panel():
            for name, control in self._columns.items():
                if list(control.options) != offered[name]:
                    chosen = getattr(self, name)
                    with control.hold_sync():
                        control.options = offered[name]
                        control.value = chosen
        self._number.max = len(self.zoo) - 1
        self._stops = {axis: tables.stops(self._table[getattr(self, axis)]) for axis in ("x", "y")}
        self._move_sliders()

    def _move_sliders(self) -> None:
        """Put the sliders to the ranges."""
        with self._moved_by_panel():
            for axis, slider in self._sliders.items():
                values, limits = self._stops[axis], getattr(self, f"{axis}_range")
                options = tuple((f"{value:.4g}", value) for value in values)
                ends = (values[0], values[-1]) if limits is None else limits
                with slider.hold_sync():
                    if tuple(slider.options) != options:
                        slider.options = options
                    slider.index = tuple(int(np.abs(np.subtract(values, v)).argmin()) for v in ends)

    @alone
    def _on_slider(self, axis: str, change: Any) -> None:
        if not self._moving:
            first, last = change["new"]
            values = self._stops[axis]
            whole = (first, last) == (0, len(values) - 1)
            setattr(self, f"{axis}_range", None if whole else (values[first], values[last]))

    @alone
    def _on_axis(self, change: Any) -> None:
        if self._moving:
            return
        axis = change["name"]
        self._stops[axis] = tables.stops(self._table[change["new"]])
        with self._moved_by_panel():
            setattr(self, f"{axis}_range", None)
        self._move_sliders()
        self._draw(chosen=False)

    @alone
    def _on_range(self, _: Any) -> None:
        if not self._moving:
            self._move_sliders()
            self._draw(chosen=False)

    @alone
    def _on_look(self, change: Any) -> None:
        if not self._moving:
            self._draw(chosen=change["name"] == "model")

    @alone
    def _on_row(self, change: Any) -> None:
        if not self._moving and change["new"] is not None:
            self.model = change["new"]

    def _select_all(self) -> None:
        with self._moved_by_panel():
            self.x_range = self.y_range = None
        self._move_sliders()
        self._draw(chosen=False)

    def _show_state(self, change: Any = None) -> None:
        super()._show_state(change)
        for each in self._buttons:
            each.disabled = self.status == "running"

    # -- the work ----------------------------------------------------------------------------

    def retrain(self) -> None:
        """Predict each selected model by estimators that have not seen its run, in a thread.

        The selected models are divided by run into five parts (fewer, where there are fewer
        runs); each part is predicted by an estimator that was fitted to the others. Models
        without finite features or accuracy are left out. Then `evaluation` has the scores.
        """
        zoo, features, estimator = self.zoo, self.features, self.estimator
        ranges, selection = self._ranges(), self.selection

        def work(task: Task) -> Evaluated:
            if TARGET not in zoo.records:
                raise ZooError(f"The zoo's table has no {TARGET}, which is what is predicted.")
            known = tables.finite(features) & zoo.records[TARGET].notna().to_numpy(bool)
            rows = np.flatnonzero(selection & known)
            return evaluate_rows(zoo, features, estimator, rows, ranges, task.report)

        def show(evaluated: Evaluated) -> None:
            self._evaluated = evaluated
            self._draw(models=False)

        self._run(work, show, thread=f"Predicting {selection.sum()} models.")

    def train_more(self) -> None:
        """Train `n_more` models and join them to the zoo, in a thread.

        Their hyper-parameters are drawn by `wskit.zoo.sample_hyperparameters`; epochs and batch
        size are those of most models of the zoo. When it is cancelled, the zoo stays as it was.
        """
        zoo, network, data, n = self.zoo, self.network, self.data, self.n_more

        def work(task: Task) -> tuple[Recipe, Zoo, pd.DataFrame]:
            if network is None:
                raise ZooError("More models need network and data; give them to the panel.")
            recipe = recipe_for(zoo, network, n)
            grown = grow(zoo, network, data, recipe, task.report)
            return recipe, grown, weight_statistics(grown.weights)

        def show(found: tuple[Recipe, Zoo, pd.DataFrame]) -> None:
            recipe, grown, features = found
            self._recipes.append(recipe)
            self._adopt(grown, features)
            self._offer()
            self._draw()

        self._run(work, show, thread=f"Training {n} models.")

    # -- drawing -----------------------------------------------------------------------------

    def _draw(self, *, models: bool = True, chosen: bool = True) -> None:
        problem = ""
        try:
            if models:
                self._draw_models()
            if chosen:
                self._draw_chosen()
        except WskitError as error:
            problem = str(error)
        self._show_numbers()
        if self._task is None:
            n = int(self.selection.sum())
            self.message = problem or f"{n} of {len(self.zoo)} models are selected."
            self.status = "failed" if problem else "done"

    def _draw_models(self) -> None:
        figure = self._picture.new_figure()
        with mpl.rc_context(plots.STYLE):
            self.ax = plots.plot_models(
                self._table,
                x=self.x,
                y=self.y,
                colour=self.colour,
                selected=self.selection,
                chosen=self.model,
                ax=figure.add_subplot(),
            )
        self._picture.draw(plots.describe(figure))

    def _draw_chosen(self) -> None:
        found, missing = parts(self.zoo, self._table, self.model, self._evaluated)
        self._shown = {name: part.of for name, part in found.items()}
        figure = self._panels.new_figure()
        with mpl.rc_context(plots.STYLE):
            axs = {name: figure.add_subplot(2, 2, PLACES[name]) for name in found}
            for name, ax in axs.items():
                found[name].draw(ax=ax)
            for name, reason in missing.items():
                row, column = divmod(PLACES[name] - 1, 2)
                style = {"ha": "center", "va": "center", "fontsize": 10, "color": "0.35"}
                at = 0.25 + 0.5 * column, 0.75 - 0.5 * row
                figure.text(*at, textwrap.fill(reason, 36), **style)
        alt = [plots.describe(figure), *missing.values()]
        self._panels.draw("\n".join(filter(None, alt)))

    def _show_numbers(self) -> None:
        predicted, n = None, 0
        if self.predictions is not None:
            n = len(self.predictions)
            same = self.predictions.loc[self.predictions["row"] == self.model, "predicted"]
            predicted = float(same.iloc[0]) if len(same) else math.nan
        row = self.zoo.records.iloc[self.model]
        self._numbers.value = view.model_table(row, self.model, predicted)
        self._scores.value = view.score_table(self.evaluation, n)
        heading, options = view.model_rows(self._table, np.flatnonzero(self.selection))
        with self._moved_by_panel(), self._list.hold_sync():
            self._list.description = heading
            if self._list.options != tuple(options):
                self._list.options = options
            rows = [row for _, row in options]
            self._list.value = self.model if self.model in rows else None
