"""A panel to cook a soup of fine-tuned models, and to see what it is worth."""

from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import traitlets
from matplotlib.axes import Axes
from torch import Tensor

from wskit import plots
from wskit._texts import cell_text
from wskit.averaging import average
from wskit.errors import SoupError
from wskit.landscape import Evaluator, evaluate_models
from wskit.widgets._panel import ROW, Panel, Task, alone, button, labelled
from wskit.widgets._picture import FigurePicture, PointPicture
from wskit.widgets._soup_code import FIGSIZE, cell
from wskit.widgets._soup_view import (
    ROWS_SHOWN,
    SOUP,
    IngredientRow,
    change_text,
    draw_path,
    draw_scores,
    greedy_text,
    heading,
    is_within,
    name_width,
    number_table,
)
from wskit.widgets._soup_work import (
    HELD_OUT,
    Pantry,
    changes_of_one,
    greedy_history,
    mixed,
    scores_among,
    shares_of,
)

_HISTORY = ["step", "ingredient", "own_score", "held_out_score", "accepted", "n_ingredients"]
_NO_SCORE = (
    f"Greedy and Suggest are off: they go by a measure that begins with {HELD_OUT!r} and of which "
    "more is better, and there is none; make one with landscape.split_metrics(held_out=...)."
)


class SoupKitchen(Panel):
    """Cook a soup of fine-tuned models: tick, weigh, or have it cooked; its measures at once.

    For model soups (Wortsman et al. 2022, arXiv:2203.05482). What chooses ingredients is a
    held-out score alone; measures of test data are there to be reported.

    Parameters
    ----------
    ingredients : mapping of str to mappings of str to Tensor
        Models of one architecture, fine-tuned from one start. Each is measured once, at first.
    evaluate : Evaluator
        See `wskit.landscape.Evaluator`; such as ``split_metrics(held_out=..., clean=...,
        shifted=...)``. Called in two threads at once.
    score : str, optional
        The measure that Greedy and Suggest go by. It begins with "held_out", and more is better.
        None means the first such one; where there is none, these two are off.
    base : mapping of str to Tensor, optional
        The model that all were fine-tuned from, to be shown beside them.

    Attributes
    ----------
    chosen : tuple of str
        Names of the ingredients in the soup, in the order of `ingredients`.
    shares : dict of str to float
        How much of each ingredient: at least 0. The coefficients are the shares of those in the
        soup over their sum. An ingredient that is not named has 1.
    score : str
        As above; empty if there is none.
    x, y : str
        The measures of the picture.
    tried : int
        How many ingredients the greedy soup has tried; set it, or press a button, and it goes on
        in a thread, and then the soup is the greedy one.
    path : str
        Where `save` writes, a ``.safetensors`` file.
    coefficients : dict of str to float
        Of what is in the soup; they sum to 1.
    soup : mapping of str to Tensor, or None
        The average, or None where nothing is in it.
    numbers : DataFrame
        The measures, in the rows "soup" (NaN where nothing is in it), "best single" on the
        held-out score, "uniform soup" of all, "base" and "mean of singles".
    singles : DataFrame
        The measures of each ingredient.
    history : DataFrame
        Of the greedy soup so far, as `wskit.soups.greedy_soup` has it.
    changes : DataFrame or None
        What `suggest` found for this soup: a row an ingredient.
    ax, path_ax : Axes or None
        Of the latest pictures.

    Raises
    ------
    SoupError
        If there is no ingredient, one has no text for a name, or `score` is no such measure.
    AveragingError, LandscapeError
        If two ingredients differ in names or shapes, or `evaluate` cannot measure them.
    """

    chosen = traitlets.Tuple()
    shares = traitlets.Dict()
    score = traitlets.Unicode()
    x = traitlets.Unicode()
    y = traitlets.Unicode()
    tried = traitlets.Int(0)
    path = traitlets.Unicode("soup.safetensors")

    def __init__(
        self,
        ingredients: Mapping[str, Mapping[str, Tensor]],
        evaluate: Evaluator,
        *,
        score: str | None = None,
        base: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.ingredients, self.evaluate, self.base = dict(ingredients), evaluate, base
        if not self.ingredients:
            raise SoupError("there are no ingredients; give at least one model.")
        for name in self.ingredients:
            if not isinstance(name, str):
                raise SoupError(f"the names of ingredients are texts, got {name!r}.")
        self._uniform = average(list(self.ingredients.values()))  # which says what does not fit
        self.singles = evaluate_models(evaluate, self.ingredients)
        rest = {"uniform soup": self._uniform} | ({"base": base} if base is not None else {})
        self._rest = evaluate_models(evaluate, rest)
        self._rest.loc["mean of singles"] = self.singles.mean()
        self._measures = [str(name) for name in self.singles]
        self._scores = scores_among(self._measures)
        self._pantry = Pantry()
        self._cooked: tuple[Any, ...] = ()
        self.soup: Mapping[str, Tensor] | None = None
        self.numbers = pd.DataFrame()
        self.history = pd.DataFrame(columns=_HISTORY)
        self.changes: pd.DataFrame | None = None
        self.ax: Axes | None = None
        self.path_ax: Axes | None = None
        self.score = next(iter(self._scores), "") if score is None else score
        self.shares = {}
        self.chosen = tuple(self.ingredients)
        tests = [name for name in self._measures if not name.startswith(("loss", HELD_OUT))]
        shown = [name for name in tests if not name.endswith("loss")] or self._measures
        self.x = self.score if len(shown) == 1 and self.score else shown[0]
        self.y = shown[-1]
        super().__init__()
        self._build()
        self.observe(self._on_mix, ["chosen", "shares"])
        self.observe(self._on_score, "score")
        self.observe(self._on_axes, ["x", "y"])
        self.observe(self._on_tried, "tried")
        self._try(self._cook)

    # -- what may be set ---------------------------------------------------------------------

    @traitlets.validate("chosen")
    def _known(self, proposal: Any) -> tuple[str, ...]:
        self._check_names(proposal.value)
        return tuple(name for name in self.ingredients if name in proposal.value)

    @traitlets.validate("shares")
    def _weighed(self, proposal: Any) -> dict[str, float]:
        self._check_names(proposal.value)
        shares = {name: float(proposal.value.get(name, 1.0)) for name in self.ingredients}
        for name, share in shares.items():
            if not 0 <= share < np.inf:
                raise SoupError(f"The share of {name!r} must be a number from 0, got {share}.")
        return shares

    @traitlets.validate("score")
    def _may_choose(self, proposal: Any) -> str:
        if proposal.value not in (self._scores or [""]):
            raise SoupError(
                f"The score must be a measure that begins with {HELD_OUT!r} and of which more is "
                f"better, one of {self._scores}, got {proposal.value!r}."
            )
        return str(proposal.value)

    @traitlets.validate("x", "y")
    def _known_measure(self, proposal: Any) -> str:
        if proposal.value not in self._measures:
            raise SoupError(
                f"There is no measure {proposal.value!r}; choose one of {self._measures}."
            )
        return str(proposal.value)

    @traitlets.validate("tried")
    def _as_many(self, proposal: Any) -> int:
        n = len(self.ingredients)
        if not 0 <= proposal.value <= n:
            raise SoupError(f"tried must lie between 0 and {n}, got {proposal.value}.")
        return int(proposal.value)

    def _check_names(self, names: Any) -> None:
        for name in names:
            if name not in self.ingredients:
                raise SoupError(
                    f"There is no ingredient {name!r}; choose among {list(self.ingredients)[:10]}."
                )

    # -- what is shown -----------------------------------------------------------------------

    @property
    def coefficients(self) -> dict[str, float]:
        return shares_of(self.chosen, self.shares)

    def describe(self) -> str:
        """Say in words what the pictures and the table show."""
        axs = [ax for ax in (self.ax, self.path_ax) if ax is not None]
        return "\n".join([*(plots.describe(ax.figure) for ax in axs), self.numbers.to_string()])

    def static_image(self) -> bytes:
        """Return the picture of the scores as PNG."""
        return self._picture.png

    def code(self) -> str:
        """Return a cell of plain calls that gives what the panel shows.

        The cell takes ``ingredients`` and ``evaluate``, which the panel was given; and ``base``
        where it was given.
        """
        return cell(self)

    # -- the controls ------------------------------------------------------------------------

    def _build(self) -> None:
        width = name_width(list(self.ingredients))
        self._rows: dict[str, IngredientRow] = {}
        for name in self.ingredients:
            row = self._rows[name] = IngredientRow(name, width)
            row.tick.observe(lambda change, name=name: self._tick(name, change["new"]), "value")
            row.slider.observe(lambda change, name=name: self._weigh(name, change["new"]), "value")
        scroll = "auto" if len(self._rows) > ROWS_SHOWN else "visible"
        height = f"{28 * ROWS_SHOWN}px" if len(self._rows) > ROWS_SHOWN else None
        list_layout = {"overflow": f"hidden {scroll}", "max_height": height, "flex": "none"}
        heading_view = widgets.HTML(heading(width, bool(self.score)))
        rows = widgets.VBox(list(self._rows.values()), layout=list_layout)
        self._by_score = [
            button("Greedy step", "step-forward", self.greedy_step),
            button("Greedy", "fast-forward", self.greedy),
            button("Suggest", "lightbulb-o", self.suggest),
        ]
        for each in self._by_score:
            each.disabled = not self.score
        mixes = [
            button("All", "check-square-o", lambda: self._mix(self.ingredients, self.shares)),
            button("None", "square-o", lambda: self._mix((), self.shares)),
            button("Equal shares", "balance-scale", lambda: self._mix(self.chosen, {})),
        ]
        save = button("Save…", "save", self.save)
        for each in [*mixes, *self._by_score, save]:
            each.layout.width = "max-content"
        file = labelled(widgets.Text(description="File", continuous_update=False), "24em")
        score = labelled(widgets.Dropdown(options=self._scores or [""], description="Score"))
        score.disabled = not self.score
        across = labelled(widgets.Dropdown(options=self._measures, description="Across"))
        up = labelled(widgets.Dropdown(options=self._measures, description="Up"))
        for trait, box in {"path": file, "score": score, "x": across, "y": up}.items():
            traitlets.link((self, trait), (box, "value"))
        self._numbers_view = widgets.HTML()
        self._picture, self._path_view = PointPicture(*FIGSIZE), FigurePicture(*FIGSIZE)
        self._path_view.layout.display = "none"
        axes = widgets.HBox([across, up], layout=ROW)
        columns = [
            widgets.VBox([heading_view, rows, self._path_view], layout={"flex": "none"}),
            widgets.VBox([self._numbers_view, axes, self._picture], layout={"flex": "1 1 30em"}),
        ]
        self.children = [
            widgets.HBox([*mixes, *self._by_score, score], layout=ROW),
            self._state_view,
            widgets.HBox(columns, layout=ROW | {"align_items": "flex-start"}),
            widgets.HBox([file, save], layout=ROW),
        ]
        self._state_view.layout.flex = "none"  # in a column, that is its height
        self.add_class("wskit-soup-kitchen")

    @alone
    def _tick(self, name: str, is_in: bool) -> None:
        if is_in != (name in self.chosen):
            others = [each for each in self.chosen if each != name]
            self.chosen = (*others, *([name] if is_in else []))

    @alone
    def _weigh(self, name: str, share: float) -> None:
        if share != self.shares[name]:
            self.shares = self.shares | {name: share}

    def _mix(self, chosen: Any, shares: Mapping[str, float]) -> None:
        with self.hold_trait_notifications():
            self.chosen, self.shares = tuple(chosen), dict(shares)

    # -- the soup ----------------------------------------------------------------------------

    @alone
    def _on_mix(self, _: Any) -> None:
        self._try(self._cook)

    @alone
    def _on_axes(self, _: Any) -> None:
        self._try(self._draw)

    def _cook(self) -> None:
        """Mix what is chosen, measure it, and show it; nothing is done twice."""
        coefficients = self.coefficients
        state = (coefficients, self.chosen, self.shares)
        if state == self._cooked:
            return
        self._show_rows()
        self.changes = None
        self.soup, self._cooked = None, ()
        parts = []
        try:
            if coefficients:
                soup = mixed(self.ingredients, coefficients)
                parts = [evaluate_models(self.evaluate, {SOUP: soup})]
                self.soup, self._cooked = soup, state
        finally:  # where it fails, no number of another soup is left
            self._tabulate(parts)
            self._draw_point()

    def _show_rows(self) -> None:
        parts = self.coefficients
        for name, row in self._rows.items():
            score = f"{self.singles[self.score][name]:#.4g}" if self.score else ""
            row.show(name in self.chosen, self.shares[name], parts.get(name, 0.0), score)

    def _tabulate(self, soup: list[pd.DataFrame]) -> None:
        best = []
        if self.score:
            row = self.singles.loc[[self.singles[self.score].idxmax()]]
            best = [row.set_axis(["best single"])]
        numbers = pd.concat([*soup, *best, self._rest])
        self.numbers = numbers if soup else numbers.reindex([SOUP, *numbers.index])
        self._numbers_view.value = number_table(
            self.numbers,
            f"A soup of {len(self.coefficients)} of {len(self.ingredients)} ingredients",
        )

    def _say(self) -> None:
        """Say what the soup is worth beside the best single."""
        if self.soup is None:
            self.message = "Nothing is in the soup; tick an ingredient, and give it a share."
        elif self.score:
            best = self.singles[self.score].idxmax()
            soup, single = self.numbers[self.score][[SOUP, "best single"]]
            self.message = (
                f"{self._score_text.capitalize()}: {cell_text(soup)} of the soup, "
                f"{cell_text(single)} of the best single, {best}."
            )
        else:
            self.message = _NO_SCORE
        self.status = "done"

    @property
    def _score_text(self) -> str:
        return self.score.replace(HELD_OUT, "held-out").replace("_", " ")

    # -- the recipes -------------------------------------------------------------------------

    def greedy_step(self) -> None:
        """Have the greedy soup try the next ingredient; after the last one it begins anew."""
        self._go_to(len(self.history) % len(self.ingredients) + 1)

    def greedy(self) -> None:
        """Have the greedy soup try all ingredients, from where it is, in a thread."""
        self._go_to(len(self.ingredients))

    @alone
    def _on_tried(self, _: Any) -> None:
        if self.tried != len(self.history):
            self._go_to(self.tried)

    def _go_to(self, tried: int) -> None:
        known = self.history
        if tried <= len(known) and self.score:
            self._run(lambda task: known[:tried], self._show_greedy)
            return

        def work(task: Task) -> pd.DataFrame:
            return greedy_history(
                self.ingredients,
                self._score(),
                self.singles[self.score],
                known=known,
                until=tried,
                report=task.report,
            )

        self._work(work, self._show_greedy, f"Greedy tries ingredient {tried}.")

    def _show_greedy(self, history: pd.DataFrame) -> None:
        self.history, self.tried = history, len(history)
        if history.empty:
            self.path_ax = None
            self._path_view.layout.display = "none"
            self._path_view.blank()
            return
        self._mix(history.ingredient[history.accepted], {})
        self.path_ax = draw_path(self._path_view, history)
        self._path_view.layout.display = ""
        self.message = greedy_text(history, len(self.ingredients), self._score_text)
        self.status = "done"

    @alone
    def _on_score(self, _: Any) -> None:
        """Begin anew with another score."""

        def begin() -> None:
            self.cancel()
            self._show_greedy(self.history[:0])
            self._show_rows()
            self._tabulate([self.numbers.loc[[SOUP]]])
            self._draw()

        self._try(begin)

    def suggest(self) -> None:
        """Try each change of one ingredient on the held-out score, and say which is the best."""
        chosen, shares, state = self.chosen, self.shares, self._cooked

        def work(task: Task) -> pd.DataFrame:
            return changes_of_one(self.ingredients, chosen, shares, self._score(), task.report)

        def show(changes: pd.DataFrame) -> None:
            if state != self._cooked:
                self._say()  # it was about another soup
                return
            self.changes = changes
            present = None if self.soup is None else float(self.numbers[self.score][SOUP])
            self.message = change_text(changes, present, self._score_text)

        self._work(work, show, "Trying each change of one ingredient.")

    def _score(self) -> Callable[[Mapping[str, Tensor]], float]:
        measure = self.score
        if not measure:
            raise SoupError(_NO_SCORE)

        def score(weights: Mapping[str, Tensor]) -> float:
            return float(evaluate_models(self.evaluate, {SOUP: weights})[measure].iloc[0])

        return score

    def save(self) -> None:
        """Write the soup to `path`; its header says what it is made of."""
        soup, path, coefficients = self.soup, self.path, self.coefficients

        def work(task: Task) -> str:
            if soup is None:
                raise SoupError("There is no soup to save; tick an ingredient.")
            target = self._pantry.write(soup, path, coefficients, task.cancelled.is_set)
            return f"The soup of {len(coefficients)} is written to {target}."

        def show(text: str) -> None:
            self.message = text

        self._work(work, show, f"Writing {path}.")

    def _work(self, work: Callable[[Task], Any], show: Callable[[Any], None], text: str) -> None:
        self.tried = len(self.history)  # what still runs is replaced
        self._run(work, show, thread=text)

    def cancel(self) -> None:
        """Stop the running work; what it has computed so far is dropped."""
        if self._task is not None:
            super().cancel()
            self.tried = len(self.history)

    def _fail(self, error: Exception) -> None:
        super()._fail(error)
        self.tried = len(self.history)

    # -- drawing -----------------------------------------------------------------------------

    def _draw(self) -> None:
        self.ax = draw_scores(self._picture, self.singles, self.numbers, self.x, self.y)

    def _draw_point(self) -> None:
        """Move the soup where it is on the picture as it is; else draw it anew."""
        place = self.numbers.loc[SOUP, [self.x, self.y]].to_numpy(float)
        if self.ax is not None and is_within(self.ax, place):
            self._picture.move(place)
        else:
            self._draw()
