"""A panel to look at a zoo: its models as points, one of them closely, and their prediction."""

import functools
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import traitlets
from jaxtyping import Bool
from matplotlib.axes import Axes
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from wskit import plots
from wskit.errors import WskitError, ZooError
from wskit.features import weight_statistics
from wskit.predictors import boosted_trees, calibration
from wskit.spectra import spectra
from wskit.widgets._panel import Name, Panel, Task, button, call, html_table, labelled, row, spaced
from wskit.widgets._picture import Picture
from wskit.widgets._zoo_work import (
    COMPONENTS,
    SEED,
    TARGET,
    Evaluated,
    Ranges,
    Recipe,
    colours,
    finite,
    grow,
    places,
    predict_held_out,
    selected,
    selection_code,
    stops,
)
from wskit.zoo import MLP, SmallCNN, Zoo

_PARTS = ("curve", "kernels", "spectrum", "predictions")  # of the chosen model
_ESD = {"scale": "log-linear", "bins": 15}  # a small layer has few eigenvalues
_ROWS = 20  # of the list of models


class ZooExplorer(Panel):
    """Look at the models of a zoo, at one of them closely, and at how well they are predicted.

    Parameters
    ----------
    zoo : Zoo
    features : DataFrame, optional
        One row of numbers per model, from which the accuracies are predicted. None means
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
        One row per model of `zoo`.
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
        If the zoo is empty, if there is not one row of numbers per model, if a column is not
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
        if (network is None) != (data is None) or (network and features is not None):
            raise ZooError("more models need both network and data, and no features of one's own.")
        self.network, self.data = network, data
        self._own_features, self._own_estimator = features is not None, estimator is not None
        self.estimator = boosted_trees(random_state=0) if estimator is None else estimator
        self.ax: Axes | None = None
        self._recipes: list[Recipe] = []
        self._adopt(zoo, weight_statistics(zoo.weights) if features is None else features)
        names = places(self._table)
        self.x = names[0] if x is None else x
        self.y = names[min(1, len(names) - 1)] if y is None else y
        default = TARGET if TARGET in colours(self._table) else names[0]
        self.colour = default if colour is None else colour
        super().__init__()
        self._build()
        for axis in ("x", "y"):
            self._heed(self, axis, functools.partial(self._on_axis, axis))
        self._heed(self, ["x_range", "y_range"], lambda _: self._on_range())
        self._heed(self, "colour", lambda _: self._draw(chosen=False))
        self._heed(self, "model", lambda _: self._draw())
        self._draw()

    def _adopt(self, zoo: Zoo, features: pd.DataFrame) -> None:
        if len(zoo) == 0 or len(features) != len(zoo):
            raise ZooError(
                "a panel needs at least one model and one row of features for each, got "
                f"{len(zoo)} models and {len(features)} rows."
            )
        records, features = zoo.records.reset_index(drop=True), features.reset_index(drop=True)
        table = pd.concat([records, features], axis=1)
        names = [*table.columns, *COMPONENTS]
        if twice := sorted({str(name) for name in names if names.count(name) > 1}):
            raise ZooError(
                f"column {twice[0]!r} is there twice, among records and features; rename it."
            )
        other = [name for name in features if features[name].dtype.kind not in "biuf"]
        if other:
            raise ZooError(f"features must be numbers, and column {other[0]!r} is not.")
        known = finite(features)
        if features.shape[1] >= 2 and known.sum() >= 2:
            pca = make_pipeline(StandardScaler(), PCA(2, svd_solver="full"))
            table.loc[known, COMPONENTS] = pca.fit_transform(features[known])
        if not places(table):
            raise ZooError("neither records nor features have a column of numbers to draw.")
        self.zoo, self.features, self._table = zoo, features, table
        self._evaluated: Evaluated | None = None  # it was another zoo's

    # -- what may be set ---------------------------------------------------------------------

    @traitlets.validate("x", "y", "colour", "model")
    def _known(self, proposal: Any) -> Any:
        offered: dict[str, Any] = {"colour": colours(self._table), "model": range(len(self.zoo))}
        columns = places(self._table)
        return self._check_offered(proposal, offered.get(proposal.trait.name, columns), ZooError)

    @traitlets.validate("x_range", "y_range")
    def _two_numbers(self, proposal: Any) -> tuple[float, float] | None:
        if proposal.value is None:
            return None
        low, high = map(float, proposal.value)
        if not low <= high:
            raise ZooError(f"a range is two numbers, the smaller one first, got {low}, {high}.")
        return low, high

    # -- what is shown -----------------------------------------------------------------------

    @property
    def selection(self) -> Bool[np.ndarray, " models"]:
        return selected(self._table, self._ranges)

    @property
    def evaluation(self) -> pd.DataFrame | None:
        return self._evaluated.scores if self._evaluated else None

    @property
    def predictions(self) -> pd.DataFrame | None:
        return self._evaluated.predictions if self._evaluated else None

    @property
    def _ranges(self) -> "Ranges":
        both = (self.x, self.x_range), (self.y, self.y_range)
        return [(name, limits) for name, limits in both if limits is not None]

    def code(self) -> str:
        """Return a cell of plain calls that draws what the panel shows.

        The cell takes ``models``, the zoo that the panel was given; and what else it was given of
        ``X`` (its features), ``network``, ``data`` and ``estimator``.
        """
        lines = [
            "import numpy as np",
            "import pandas as pd",
            "from sklearn.decomposition import PCA",
            "from sklearn.model_selection import GroupKFold, cross_val_predict",
            "from sklearn.pipeline import make_pipeline",
            "from sklearn.preprocessing import StandardScaler",
            "from wskit import features, plots, predictors, spectra, zoo",
            "",
            *(line for recipe in self._recipes for line in recipe.code()),
            "X = X.reset_index(drop=True)"
            if self._own_features
            else "X = features.weight_statistics(models.weights)",
            "table = pd.concat([models.records.reset_index(drop=True), X], axis=1)",
            "known = np.isfinite(X).all(axis=1)",
        ]
        if COMPONENTS[0] in self._table:
            lines += [
                'pca = make_pipeline(StandardScaler(), PCA(2, svd_solver="full"))',
                f"table.loc[known, {COMPONENTS!r}] = pca.fit_transform(X[known])",
            ]
        lines += selection_code("selected", "pd.Series(True, table.index)", self._ranges)
        look = {"x": self.x, "y": self.y, "colour": self.colour, "selected": Name("selected")}
        lines.append(f"ax = {call('plots.plot_models', 'table', **look, chosen=self.model)}")
        for name in _PARTS:
            if self._views[name].png:
                lines += self._part_code(name)
        return "\n".join(lines)

    def _part_code(self, part: str) -> list[str]:
        """Return the lines that draw a part of the chosen model's picture."""
        of, model, evaluated = self._shown[part], self.model, self._evaluated
        if part == "curve":
            run = f'table[table["run"] == table["run"][{model}]]'
            return [f"curve_ax = {call('plots.plot_training_curve', run, metric=of)}"]
        if part == "kernels":
            lines = [f"W = models.weights[{of!r}][{model}].float().cpu().numpy()"]
            return [*lines, f"kernels_ax = {call('plots.plot_kernels', 'W', name=of)}"]
        if part == "spectrum":
            return [
                f'found = spectra.spectra(models.model({model}), conv="unfold")',
                "s = max(found, key=lambda s: s.N * s.M)",
                f"spectrum_ax = {call('plots.plot_esd', 's', **_ESD)}",
            ]
        assert evaluated is not None
        lines = selection_code("usable", f"known & table[{TARGET!r}].notna()", evaluated.ranges)
        lines.append("rows = np.flatnonzero(usable)")
        if not self._own_estimator:
            lines.append("estimator = predictors.boosted_trees(random_state=0)")
        lines += [
            f"y, groups = table[{TARGET!r}][rows], models.records.run.to_numpy()[rows]",
            f"folds = GroupKFold({evaluated.n_folds})",
            "predicted = cross_val_predict(estimator, X.iloc[rows], y, groups=groups, cv=folds)",
            f"scores = predictors.scores(y, predicted, groups=groups, rng={SEED})",
            'found = pd.DataFrame({"row": rows, "y": y.to_numpy(), "predicted": predicted})',
        ]
        look: dict[str, Any] = {"chosen": model}
        if evaluated.n_bins:
            lines.append(f"bins = predictors.calibration(y, predicted, n_bins={evaluated.n_bins})")
            look["calibration"] = Name("bins")
        return [*lines, f"predictions_ax = {call('plots.plot_predictions', 'found', **look)}"]

    # -- the controls ------------------------------------------------------------------------

    def _build(self) -> None:
        self._columns = {
            name: self._control(name, label, self._offered(name), width="18em")
            for name, label in (("x", "x"), ("y", "y"), ("colour", "Colour"))
        }
        self._sliders = {}
        for axis in ("x", "y"):
            slider = widgets.SelectionRangeSlider(options=[0.0], description=f"Select {axis}")
            slider.continuous_update = False  # each picture takes a moment
            self._heed(slider, "index", functools.partial(self._move_range, axis))
            self._sliders[axis] = labelled(slider, "32em")
        number = widgets.BoundedIntText(description="Model", min=0, max=len(self.zoo) - 1)
        self._number = self._link("model", labelled(number, "10em"))
        everything = button("Select all", "expand", self._select_all)
        self._buttons = [button("Retrain on selection", "refresh", self.retrain)]
        more = []
        if self.network is not None:
            self._buttons.append(button("Train more models", "plus", self.train_more))
            more = [self._control("n_more", "How many", width="10em")]
        self._picture = Picture()
        self._views = {name: Picture(4.0, 3.2) for name in _PARTS}
        self._pictures = [self._picture, *self._views.values()]
        self._shown: dict[str, str] = {}  # what each part is of: a metric, a tensor
        self._numbers, self._scores, self._list = (widgets.HTML() for _ in range(3))
        self.children = [
            row(*self._columns.values()),
            row(*self._sliders.values(), everything),
            row(self._number, *self._buttons, *more),
            self._state_view,
            row(self._picture, self._numbers),
            row(*self._views.values()),
            row(self._scores, self._list),
        ]
        self.add_class("wskit-zoo-explorer")
        self._move_sliders()

    def _offered(self, trait: str) -> list[str]:
        return colours(self._table) if trait == "colour" else places(self._table)

    def _move_sliders(self) -> None:
        """Put the sliders to the ranges.

        Options and value go in one message: the page would answer new options with a value of
        its own choice, which would be taken for the reader's.
        """
        self._stops = {axis: stops(self._table[getattr(self, axis)]) for axis in ("x", "y")}
        with self._moved_by_panel():
            for axis, slider in self._sliders.items():
                values, limits = self._stops[axis], getattr(self, f"{axis}_range")
                options = tuple((f"{value:.4g}", value) for value in values)
                ends = (values[0], values[-1]) if limits is None else limits
                with slider.hold_sync():
                    if tuple(slider.options) != options:
                        slider.options = options
                    slider.index = tuple(int(np.abs(np.subtract(values, v)).argmin()) for v in ends)

    def _move_range(self, axis: str, ends: tuple[int, int]) -> None:
        values = self._stops[axis]
        whole = ends == (0, len(values) - 1)
        self.set_trait(f"{axis}_range", None if whole else (values[ends[0]], values[ends[1]]))

    def _on_axis(self, axis: str, _: Any) -> None:
        with self._moved_by_panel():
            self.set_trait(f"{axis}_range", None)
        self._on_range()

    def _on_range(self) -> None:
        self._move_sliders()
        self._draw(chosen=False)

    def _select_all(self) -> None:
        with self._moved_by_panel():
            self.x_range = self.y_range = None
        self._on_range()

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
        ranges, selection = self._ranges, self.selection

        def work(task: Task) -> Evaluated:
            if TARGET not in zoo.records:
                raise ZooError(f"The zoo's table has no {TARGET}, which is what is predicted.")
            rows = np.flatnonzero(
                selection & finite(features) & zoo.records[TARGET].notna().to_numpy(bool)
            )
            return predict_held_out(zoo, features.iloc[rows], estimator, ranges, task.report)

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
            if network is None or data is None:
                raise ZooError("More models need network and data; give them to the panel.")
            recipe, grown = grow(zoo, network, data, n, task.report)
            return recipe, grown, weight_statistics(grown.weights)

        def show(found: tuple[Recipe, Zoo, pd.DataFrame]) -> None:
            recipe, grown, features = found
            self._recipes.append(recipe)
            self._adopt(grown, features)
            with self._moved_by_panel():
                for name, control in self._columns.items():
                    if list(control.options) != (offered := self._offered(name)):
                        chosen = getattr(self, name)
                        with control.hold_sync():
                            control.options, control.value = offered, chosen
            self._number.max = len(grown) - 1
            self._move_sliders()
            self._draw()

        self._run(work, show, thread=f"Training {n} models.")

    # -- drawing -----------------------------------------------------------------------------

    def _draw(self, *, models: bool = True, chosen: bool = True) -> None:
        problem = ""
        look: dict[str, Any] = {"x": self.x, "y": self.y, "colour": self.colour}
        look |= {"selected": self.selection, "chosen": self.model}
        try:
            if models:
                self.ax = self._picture.plot(plots.plot_models, self._table, **look)
            if chosen:
                for name in _PARTS:
                    self._draw_part(name)
        except WskitError as error:
            problem = str(error)
        self._show_numbers()
        if self._task is None:
            n = int(self.selection.sum())
            self.message = problem or f"{n} of {len(self.zoo)} models are selected."
            self.status = "failed" if problem else "done"

    def _draw_part(self, part: str) -> None:
        """Draw a part of the chosen model's picture, or write why it cannot be drawn."""
        drawn = getattr(self, f"_{part}")()
        if isinstance(drawn, str):
            self._views[part].blank(drawn)
        else:
            self._shown[part], function, result, options = drawn
            self._views[part].plot(function, result, **options)

    def _curve(self) -> Any:
        table = self._table
        if not {"run", "epoch"} <= set(table):
            return "No training curve: the records have no runs and epochs."
        run = table[table["run"] == table["run"][self.model]]
        if len(run) < 2:
            return "No training curve: the zoo has one epoch of this run."
        for metric in ("accuracy", "loss"):
            if {f"train_{metric}", f"test_{metric}"} & set(table):
                return metric, plots.plot_training_curve, run, {"metric": metric}
        return "No training curve: the records have neither accuracy nor loss."

    def _kernels(self) -> Any:
        weights = self.zoo.weights
        name = next((name for name, W in weights.items() if W.ndim in (3, 5)), "")
        if not name:
            return "No weights as images: no tensor is of a dense layer or of kernels in 2-D."
        W = weights[name][self.model].float().cpu().numpy()
        return name, plots.plot_kernels, W, {"name": name}

    def _spectrum(self) -> Any:
        try:
            found = spectra(self.zoo.model(self.model), conv="unfold")
        except WskitError as error:
            return f"No spectrum: {error}"
        if not found:
            return "No spectrum: no tensor has a matrix."
        s = max(found, key=lambda s: s.N * s.M)
        return s.name, plots.plot_esd, s, _ESD

    def _predictions(self) -> Any:
        evaluated = self._evaluated
        if evaluated is None:
            return "Retrain on selection, to see how well accuracies are predicted."
        found = evaluated.predictions
        look: dict[str, Any] = {"chosen": self.model}
        if n_bins := evaluated.n_bins:
            look["calibration"] = calibration(found["y"], found["predicted"], n_bins=n_bins)
        return TARGET, plots.plot_predictions, found, look

    def _show_numbers(self) -> None:
        known = self.zoo.records.iloc[self.model].astype(object)
        if self.predictions is not None:
            same = self.predictions.loc[self.predictions["row"] == self.model, "predicted"]
            known["predicted accuracy"] = same.iloc[0] if len(same) else np.nan
        self._numbers.value = html_table(
            known.to_frame().rename(spaced), f"Model {self.model}", header=False
        )
        if self.evaluation is None or self.predictions is None:
            self._scores.value = ""
        else:
            names = {"r2": "R²", "tau": "Kendall's τ", "mae": "mean absolute error"}
            caption = f"Predicted on {len(self.predictions)} models, held out by run"
            self._scores.value = html_table(self.evaluation.rename(index=names), caption)
        shown = self._table[self.selection]
        if TARGET in shown:
            shown = shown.sort_values(TARGET, ascending=False, kind="stable")
        columns = [name for name in ("run", "epoch", TARGET) if name in shown]
        caption = f"Selected models, best first ({min(_ROWS, len(shown))} of {len(shown)})"
        self._list.value = html_table(shown[columns].head(_ROWS).rename(columns=spaced), caption)
