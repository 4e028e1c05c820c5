"""What SoupKitchen shows: rows of ingredients, a table of numbers, two pictures, sentences."""

import html

import ipywidgets as widgets
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from wskit import plots
from wskit._texts import DASH, cell_text
from wskit.widgets._picture import FigurePicture, PointPicture
from wskit.widgets._tables import html_table

SOUP = "soup"
ROWS_SHOWN = 16
MOST = 2.0  # the sliders' right end, unless a share is larger

_ROW = "28px"
_SLIDER = "13em"
_NOTE = ("5.5em", "6em")  # of the coefficient and the score


class IngredientRow(widgets.HBox):
    """A tick and a slider, and beside them the coefficient and the model's own score."""

    def __init__(self, name: str, width: str) -> None:
        self.tick = widgets.Checkbox(
            description=name, indent=False, tooltip=name, layout={"width": width, "flex": "none"}
        )
        self.slider = widgets.FloatSlider(
            1.0,
            min=0.0,
            max=MOST,
            step=0.05,
            readout=False,
            style={"description_width": "initial"},
            layout={"width": _SLIDER, "flex": "none"},
        )
        self.slider.description, self.slider.tooltip = "share", f"share of {name}"
        self._note = widgets.HTML()
        layout = {"flex": "none", "align_items": "center", "height": _ROW}
        super().__init__([self.tick, self.slider, self._note], layout=layout)

    def show(self, is_in: bool, share: float, part: float, score: str) -> None:
        """Put the controls to the state."""
        self.tick.value = is_in
        self.slider.max = max(MOST, share)
        self.slider.value = share
        self._note.value = cells([f"{100 * part:.1f} %" if is_in else DASH, score])


def name_width(names: list[str]) -> str:
    """Return the room for the longest name, within reason."""
    return f"{min(max(0.62 * max(map(len, names)) + 2.5, 6), 16):.1f}em"


def cells(texts: list[str]) -> str:
    """Return texts in columns as wide as those under them."""
    return "".join(
        f'<span style="display:inline-block;width:{width};text-align:right">'
        f"{html.escape(text)}</span>"
        for width, text in zip(_NOTE, texts, strict=True)
    )


def heading(width: str, has_score: bool) -> str:
    """Return what is over the ingredients."""
    blank = f'<span style="display:inline-block;width:calc({width} + {_SLIDER} + 8px)">in the soup'
    return f"{blank}</span>{cells(['part', 'own score' if has_score else ''])}"


def number_table(numbers: pd.DataFrame, caption: str) -> str:
    """Return the measures as HTML, a row a measure; the loss is not there under two names."""
    others = numbers.drop(columns="loss")
    twice = any(numbers["loss"].equals(others[name]) for name in others)
    shown = others if twice else numbers
    rows = {str(name): [cell_text(value) for value in shown[name]] for name in shown}
    return html_table(caption, [str(name) for name in numbers.index], rows)


def draw_scores(
    picture: PointPicture, singles: pd.DataFrame, numbers: pd.DataFrame, x: str, y: str
) -> Axes:
    """Draw all models, of which the soup can be moved."""
    table = pd.concat([singles.assign(kind="ingredient"), numbers.assign(kind=numbers.index)])
    figure = picture.new_figure()
    with mpl.rc_context(plots.STYLE):
        ax = plots.plot_soup_scores(table, x=x, y=y, ax=figure.add_subplot())
    ax.set(xlim=ax.get_xlim(), ylim=ax.get_ylim())  # where the soup moves, the picture does not
    next(line for line in ax.get_lines() if line.get_label() == SOUP).set_gid("point")
    picture.draw_with_point(ax)
    return ax


def is_within(ax: Axes, place: np.ndarray) -> bool:
    """Tell whether a point is on the Axes as they are."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    return not (place[0] < left or place[0] > right or place[1] < low or place[1] > high)


def draw_path(picture: FigurePicture, history: pd.DataFrame) -> Axes:
    """Draw the greedy soup's history."""
    figure = picture.new_figure()
    with mpl.rc_context(plots.STYLE):
        ax = plots.plot_greedy_path(history, ax=figure.add_subplot())
    picture.draw(plots.describe(figure))
    return ax


def greedy_text(history: pd.DataFrame, n: int, measure: str) -> str:
    """Say what the last step of a greedy soup did, and why."""
    last, first = history.iloc[-1], history.iloc[0]
    score = cell_text(last.held_out_score)
    end = ""
    if len(history) == n:
        reached = cell_text(history.held_out_score[history.accepted].iloc[-1])
        end = (
            f" All {n} are tried: the soup of {last.n_ingredients} has {reached}, the best single "
            f"{cell_text(first.own_score)}."
        )
    if len(history) == 1:
        did = f"{last.ingredient} begins: alone it has the best {measure}, {score}."
    else:
        without = history.held_out_score[history.accepted].iloc[-2 if last.accepted else -1]
        did = (
            f"{last.ingredient} is {'accepted' if last.accepted else 'rejected'}: the {measure} is "
            f"{score} with it and {cell_text(without)} without."
        )
    return f"Greedy, step {len(history)} of {n}: {did}{end}"


def change_text(changes: pd.DataFrame, present: float | None, measure: str) -> str:
    """Say which change of one ingredient is the best."""
    ranked = changes.sort_values("held_out_score", ascending=False, kind="stable")
    name, change, score = next(ranked.itertuples())
    if present is None or score > present:
        now = "" if present is None else f" instead of {cell_text(present)}"
        return f"Best change: {change} {name}, for a {measure} of {cell_text(score)}{now}."
    return (
        f"No change of one ingredient raises the {measure} of {cell_text(present)}; the best one, "
        f"to {change} {name}, gives {cell_text(score)}."
    )
