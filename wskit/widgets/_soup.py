"""A panel to cook a soup of fine-tuned models, and to see what it is worth."""

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import traitlets
from matplotlib.axes import Axes
from torch import Tensor

from wskit import __version__, plots
from wskit._texts import DASH, cell_text
from wskit.averaging import average
from wskit.checkpoints import save_weights
from wskit.errors import SoupError
from wskit.landscape import Evaluator, evaluate_models
from wskit.soups import Soup, greedy_soup
from wskit.widgets._panel import (
    ROW,
    Panel,
    Task,
    button,
    call,
    html_table,
    open_weights,
    row,
    spaced,
)
from wskit.widgets._picture import Picture
from wskit.widgets._soup_row import SLIDER, IngredientRow, greedy_text, notes

Weights = Mapping[str, Tensor]

_HISTORY = ["step", "ingredient", "own_score", "held_out_score", "accepted", "n_ingredients"]
_HELD_OUT = "held_out"  # how the names of measures begin that may choose a soup
_NO_SCORE = (
    f"Greedy is off: it needs a measure whose name begins with {_HELD_OUT!r} and of "
    "which more is better; make one with landscape.split_metrics(held_out=...)."
)
_SIZE = (5.4, 4.2)  # of a picture
_ROWS_SHOWN = 16


class SoupKitchen(Panel):
    """Cook a soup of fine-tuned models: tick, weigh, or have it cooked; its measures at once.

    For model soups (Wortsman et al. 2022, arXiv:2203.05482). Only a held-out score chooses
    ingredients; measures of test data are there to be reported.

    Parameters
    ----------
    ingredients : mapping of str to weights, or sequence of weights
        Models of one architecture, fine-tuned from one start: mappings of str to Tensor, networks,
        paths or names. Those of a sequence are called "0", "1", ... Each is measured once, at
        first.
    evaluate : Evaluator
        See `wskit.landscape.Evaluator`; such as ``split_metrics(held_out=..., clean=...,
        shifted=...)``. Two threads call it at once.
    score : str, optional
        The measure that Greedy goes by. It begins with "held_out", and more is better.
        None means the first such one; where there is none, it is off.
    base : weights, optional
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
    ax, path_ax : Axes or None
        Of the latest pictures.

    Raises
    ------
    SoupError
        If there is no ingredient, or `score` is no such measure.
    AveragingError, LandscapeError
        If two ingredients differ in names or shapes, or `evaluate` cannot measure them.
    """

    chosen = traitlets.Tuple()
    shares = traitlets.Dict()
    x = traitlets.Unicode()
    y = traitlets.Unicode()
    path = traitlets.Unicode("soup.safetensors")

    def __init__(
        self,
        ingredients: Mapping[str, Any] | Sequence[Any],
        evaluate: Evaluator,
        *,
        score: str | None = None,
        base: Any = None,
    ) -> None:
        named = ingredients if isinstance(ingredients, Mapping) else dict(enumerate(ingredients))
        self.ingredients = {str(name): open_weights(model) for name, model in named.items()}
        self.base = None if base is None else open_weights(base)
        self.evaluate = evaluate
        if not self.ingredients:
            raise SoupError("there are no ingredients; give at least one model.")
        rest = {"uniform soup": average(list(self.ingredients.values()))}  # says what does not fit
        self.singles = evaluate_models(evaluate, self.ingredients)
        rest |= {} if self.base is None else {"base": self.base}
        self._rest = evaluate_models(evaluate, rest)
        self._rest.loc["mean of singles"] = self.singles.mean()
        self._measures = [str(name) for name in self.singles]
        scores = [
            name
            for name in self._measures
            if name.startswith(_HELD_OUT) and not name.endswith(("loss", "error"))
        ]
        if score is not None and score not in scores:
            raise SoupError(
                f"score must be a measure whose name begins with {_HELD_OUT!r} and of which more "
                f"is better, one of {scores}, got {score!r}."
            )
        self.score = next(iter(scores), "") if score is None else score
        self._written: dict[Path, tuple[int, int]] = {}  # files that may be written anew
        self._cooked: tuple[Any, ...] = ()
        self.soup: Weights | None = None
        self.numbers: pd.DataFrame = pd.DataFrame()
        self.history = pd.DataFrame(columns=_HISTORY)
        self.ax: Axes | None = None
        self.path_ax: Axes | None = None
        self.shares = {}
        self.chosen = tuple(self.ingredients)
        tests = [name for name in self._measures if not name.startswith(("loss", _HELD_OUT))]
        shown = [name for name in tests if not name.endswith("loss")] or self._measures
        self.x = self.score if len(shown) == 1 and self.score else shown[0]
        self.y = shown[-1]
        super().__init__()
        self._build()
        self._heed(self, ["chosen", "shares"], lambda _: self._try(self._cook))
        self._heed(self, ["x", "y"], lambda _: self._try(self._draw))
        self._try(self._cook)

    # -- what may be set ---------------------------------------------------------------------

    @traitlets.validate("chosen")
    def _in_order(self, proposal: Any) -> tuple[str, ...]:
        self._check_names(proposal.value)
        return tuple(name for name in self.ingredients if name in proposal.value)

    @traitlets.validate("shares")
    def _weighed(self, proposal: Any) -> dict[str, float]:
        self._check_names(proposal.value)
        shares = {name: float(proposal.value.get(name, 1.0)) for name in self.ingredients}
        for name, share in shares.items():
            if not 0 <= share < np.inf:
                raise SoupError(f"the share of {name!r} must be at least 0, got {share}.")
        return shares

    @traitlets.validate("x", "y")
    def _known(self, proposal: Any) -> Any:
        return self._check_offered(proposal, self._measures, SoupError)

    def _check_names(self, names: Iterable[str]) -> None:
        if unknown := [name for name in names if name not in self.ingredients]:
            known = list(self.ingredients)[:10]
            raise SoupError(f"there is no ingredient {unknown[0]!r}; choose among {known}.")

    # -- what is shown -----------------------------------------------------------------------

    @property
    def coefficients(self) -> dict[str, float]:
        return _coefficients(self.chosen, self.shares)

    def code(self) -> str:
        """Return a cell of plain calls that gives what the panel shows.

        The cell takes ``ingredients`` and ``evaluate``, which the panel was given; and ``base``
        where it was given.
        """
        tried, score, coefficients = len(self.history), self.score, self.coefficients
        lines = [
            "import pandas as pd",
            "from wskit import averaging, landscape, plots, soups",
            "",
            "singles = landscape.evaluate_models(evaluate, ingredients)",
            "models = {}",
        ]
        if coefficients:
            weights = _weights_of(coefficients)
            lines += [
                f"chosen = {list(coefficients)!r}",
                "parts = [ingredients[name] for name in chosen]",
                f"soup = {call('averaging.average', 'parts', *([repr(weights)] * bool(weights)))}",
                'models["soup"] = soup',
            ]
        if score:
            lines.append(f'models["best single"] = ingredients[singles[{score!r}].idxmax()]')
        lines.append('models["uniform soup"] = averaging.average(list(ingredients.values()))')
        lines += [] if self.base is None else ['models["base"] = base']
        lines += [
            "numbers = landscape.evaluate_models(evaluate, models)",
            'numbers.loc["mean of singles"] = singles.mean()',
            *([] if coefficients else ['numbers = numbers.reindex(["soup", *numbers.index])']),
            'kinds = singles.assign(kind="ingredient"), numbers.assign(kind=numbers.index)',
            f"ax = plots.plot_soup_scores(pd.concat(kinds), x={self.x!r}, y={self.y!r})",
        ]
        if tried:
            lines += [
                "def score(weights):",
                '    found = landscape.evaluate_models(evaluate, {"soup": weights})',
                f"    return found[{score!r}].iloc[0]",
                "greedy = soups.greedy_soup(",
                f"    ingredients, score, scores=singles[{score!r}],",
                f"    callback=lambda soup: len(soup.history) == {tried},",
                ")",
                "path_ax = plots.plot_greedy_path(greedy.history)",
            ]
        return "\n".join([*lines, "numbers"])

    # -- the controls ------------------------------------------------------------------------

    def _build(self) -> None:
        longest = max(map(len, self.ingredients))
        width = f"{min(max(0.62 * longest + 2.5, 6), 16):.1f}em"
        self._rows: dict[str, IngredientRow] = {}
        for name in self.ingredients:
            line = self._rows[name] = IngredientRow(name, width)
            self._heed(line.tick, "value", functools.partial(self._tick, name))
            self._heed(line.slider, "value", functools.partial(self._weigh, name))
        many = len(self._rows) > _ROWS_SHOWN
        list_layout = {
            "overflow": f"hidden {'auto' if many else 'visible'}",
            "max_height": f"{28 * _ROWS_SHOWN}px" if many else None,
            "flex": "none",
        }
        heading = widgets.HTML(
            f'<span style="display:inline-block;width:calc({width} + {SLIDER} + 8px)">in the soup'
            f"</span>{notes('part', 'own score' if self.score else '')}"
        )
        rows = widgets.VBox(list(self._rows.values()), layout=list_layout)
        by_score = [
            button("Greedy step", "step-forward", self.greedy_step),
            button("Greedy", "fast-forward", self.greedy),
        ]
        for each in by_score:
            each.disabled = not self.score
        mixes = [
            button("All", "check-square-o", lambda: self._mix(self.ingredients, self.shares)),
            button("None", "square-o", lambda: self._mix((), self.shares)),
            button("Equal shares", "balance-scale", lambda: self._mix(self.chosen, {})),
        ]
        across = self._control("x", "Across", self._measures)
        up = self._control("y", "Up", self._measures)
        file = self._control("path", "File", width="24em")
        self._numbers_view = widgets.HTML()
        self._picture, self._path_view = Picture(*_SIZE), Picture(*_SIZE)
        self._pictures = [self._picture, self._path_view]
        self._path_view.layout.display = "none"
        right = [self._numbers_view, row(across, up), self._picture]
        columns = [
            widgets.VBox([heading, rows, self._path_view], layout={"flex": "none"}),
            widgets.VBox(right, layout={"flex": "1 1 30em"}),
        ]
        self.children = [
            row(*mixes, *by_score),
            self._state_view,
            widgets.HBox(columns, layout=ROW | {"align_items": "flex-start"}),
            row(file, button("Save…", "save", self.save)),
        ]
        self.add_class("wskit-soup-kitchen")

    def _tick(self, name: str, is_in: bool) -> None:
        if is_in != (name in self.chosen):
            others = [each for each in self.chosen if each != name]
            self.chosen = (*others, *([name] if is_in else []))

    def _weigh(self, name: str, share: float) -> None:
        if share != self.shares[name]:
            self.shares = self.shares | {name: share}

    def _mix(self, chosen: Iterable[str], shares: Mapping[str, float]) -> None:
        with self.hold_trait_notifications():
            self.chosen, self.shares = tuple(chosen), dict(shares)

    # -- the soup ----------------------------------------------------------------------------

    def _cook(self) -> None:
        """Mix what is chosen, measure it, and show it; nothing is done twice."""
        coefficients = self.coefficients
        state = (coefficients, self.chosen, self.shares)
        if state == self._cooked:
            return
        self._show_rows()
        self.soup, self._cooked = None, ()
        parts = []
        try:
            if coefficients:
                soup = self._mixed(coefficients)
                parts = [evaluate_models(self.evaluate, {"soup": soup})]
                self.soup, self._cooked = soup, state
        finally:  # where it fails, no number of another soup is left
            self._tabulate(parts)
            self._draw_point()

    def _mixed(self, coefficients: Mapping[str, float]) -> Weights:
        models = [self.ingredients[name] for name in coefficients]
        return average(models, _weights_of(coefficients))

    def _show_rows(self) -> None:
        parts = self.coefficients
        for name, line in self._rows.items():
            score = f"{self.singles[self.score][name]:#.4g}" if self.score else ""
            part = f"{100 * parts.get(name, 0.0):.1f} %" if name in self.chosen else DASH
            line.show(name in self.chosen, self.shares[name], part, score)

    def _tabulate(self, soup: list[pd.DataFrame]) -> None:
        best = []
        if self.score:
            single = self.singles.loc[[self.singles[self.score].idxmax()]]
            best = [single.set_axis(["best single"])]
        numbers = pd.concat([*soup, *best, self._rest])
        self.numbers = numbers if soup else numbers.reindex(["soup", *numbers.index])
        shown = self.numbers.drop(columns="loss")  # which split_metrics has under two names
        twice = any(self.numbers["loss"].equals(shown[name]) for name in shown)
        caption = f"A soup of {len(self.coefficients)} of {len(self.ingredients)} ingredients"
        self._numbers_view.value = html_table(
            (shown if twice else self.numbers).T.rename(spaced), caption
        )

    def _say(self) -> None:
        """Say what the soup is worth beside the best single."""
        if self.soup is None:
            self.message = "Nothing is in the soup; tick an ingredient, and give it a share."
        elif self.score:
            best = self.singles[self.score].idxmax()
            soup, single = self.numbers[self.score][["soup", "best single"]]
            self.message = (
                f"{self._score_text.capitalize()}: {cell_text(soup)} of the soup, "
                f"{cell_text(single)} of the best single, {best}."
            )
        else:
            self.message = _NO_SCORE
        self.status = "done"

    @property
    def _score_text(self) -> str:
        return self.score.replace(_HELD_OUT, "held-out").replace("_", " ")

    # -- the recipes -------------------------------------------------------------------------

    def greedy_step(self) -> None:
        """Have the greedy soup try the next ingredient; after the last one it begins anew."""
        self._go_to(len(self.history) % len(self.ingredients) + 1)

    def greedy(self) -> None:
        """Have the greedy soup try all ingredients, from where it is, in a thread."""
        self._go_to(len(self.ingredients))

    def _go_to(self, tried: int) -> None:
        known = self.history if tried > len(self.history) else self.history[:0]

        def work(task: Task) -> pd.DataFrame:
            """Go on; the steps that are known are made again from their scores."""
            score, made = self._scorer(), iter(known["held_out_score"].iloc[1:].tolist())

            def ask(weights: Weights) -> float:
                return score(weights) if (found := next(made, None)) is None else found

            def show(soup: Soup) -> bool:
                task.report(len(soup.history), tried)
                return len(soup.history) >= tried

            scores = self.singles[self.score]
            return greedy_soup(self.ingredients, ask, scores=scores, callback=show).history

        self._run(work, self._show_greedy, thread=f"Greedy tries ingredient {tried}.")

    def _show_greedy(self, history: pd.DataFrame) -> None:
        self.history = history
        self._mix(history.ingredient[history.accepted], {})
        self.path_ax = self._path_view.plot(plots.plot_greedy_path, history)
        self._path_view.layout.display = ""
        self.message = greedy_text(history, len(self.ingredients), self._score_text)
        self.status = "done"

    def _scorer(self) -> Callable[[Weights], float]:
        measure = self.score
        if not measure:
            raise SoupError(_NO_SCORE)
        return lambda weights: float(
            evaluate_models(self.evaluate, {"soup": weights})[measure].iloc[0]
        )

    def save(self) -> None:
        """Write the soup to `path`; its header says what it is made of.

        Only a file that this panel wrote, and nobody changed since, is written anew.
        """
        soup, path, coefficients = self.soup, self.path, self.coefficients

        def work(task: Task) -> str:
            if soup is None:
                raise SoupError("There is no soup to save; tick an ingredient.")
            target = Path(path).expanduser().absolute()
            if target.suffix != ".safetensors":
                raise SoupError(f"The file's name must end in .safetensors, got {path!r}.")
            if target.exists() and self._written.get(target) != _stamp(target):
                raise SoupError(
                    f"{target} is there already, and was not written here; choose another name."
                )
            names, values = list(coefficients), list(coefficients.values())
            made_of = {
                "wskit": __version__,
                "method": "linear",
                "ingredients": names,
                "coefficients": values,
            }
            metadata = {"soup": json.dumps(made_of)}
            save_weights(soup, target, metadata=metadata, should_stop=task.cancelled.is_set)
            self._written[target] = _stamp(target)
            return f"The soup of {len(names)} is written to {target}."

        self._run(work, lambda text: self.set_trait("message", text), thread=f"Writing {path}.")

    # -- drawing -----------------------------------------------------------------------------

    def _draw(self) -> None:
        kinds = self.singles.assign(kind="ingredient"), self.numbers.assign(kind=self.numbers.index)

        def hold(ax: Axes) -> None:
            """Have the soup move, and not the picture."""
            ax.set(xlim=ax.get_xlim(), ylim=ax.get_ylim())
            next(line for line in ax.get_lines() if line.get_label() == "soup").set_gid("point")

        table = pd.concat(kinds)
        self.ax = self._picture.plot(plots.plot_soup_scores, table, x=self.x, y=self.y, then=hold)

    def _draw_point(self) -> None:
        """Move the soup where it is on the picture as it is; else draw it anew."""
        if self.ax is None:
            self._draw()
            return
        x, y = place = self.numbers.loc["soup", [self.x, self.y]].to_numpy(float)
        (left, right), (low, high) = self.ax.get_xlim(), self.ax.get_ylim()
        if x < left or x > right or y < low or y > high:
            self._draw()
        else:
            self._picture.move(place)


def _coefficients(chosen: Iterable[str], shares: Mapping[str, float]) -> dict[str, float]:
    """Return the coefficients of what is in the soup; nothing where all shares are 0."""
    total = sum(shares[name] for name in chosen)
    return {name: shares[name] / total for name in chosen} if total > 0 else {}


def _weights_of(coefficients: Mapping[str, float]) -> list[float] | None:
    """Return the coefficients for `average`; equal ones are left out, which rounds less."""
    values = list(coefficients.values())
    return None if len(set(values)) == 1 else values


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size
