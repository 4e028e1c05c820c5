"""What SoupKitchen writes: a row for each ingredient, and what a recipe did."""

import html

import ipywidgets as widgets
import pandas as pd

from wskit._texts import cell_text
from wskit.widgets._panel import labelled

MOST = 2.0  # the sliders' right end, unless a share is larger
SLIDER = "13em"


class IngredientRow(widgets.HBox):
    """A tick and a slider, and beside them the coefficient and the model's own score."""

    def __init__(self, name: str, width: str) -> None:
        self.tick = widgets.Checkbox(
            description=name, indent=False, tooltip=name, layout={"width": width, "flex": "none"}
        )
        self.slider = labelled(
            widgets.FloatSlider(1.0, min=0.0, max=MOST, step=0.05, readout=False), SLIDER
        )
        self.slider.layout.flex, self.slider.layout.margin = "none", "2px"
        self.slider.description, self.slider.tooltip = "share", f"share of {name}"
        self._note = widgets.HTML()
        layout = {"flex": "none", "align_items": "center", "height": "28px"}
        super().__init__([self.tick, self.slider, self._note], layout=layout)

    def show(self, is_in: bool, share: float, part: str, score: str) -> None:
        """Put the controls to the state."""
        self.tick.value = is_in
        self.slider.max = max(MOST, share)
        self.slider.value = share
        self._note.value = notes(part, score)


def notes(part: str, score: str) -> str:
    """Return what stands beside a slider, in columns."""
    style = "display:inline-block;text-align:right;width"
    return "".join(
        f'<span style="{style}:{width}">{html.escape(text)}</span>'
        for text, width in ((part, "5.5em"), (score, "6em"))
    )


def greedy_text(history: pd.DataFrame, n: int, measure: str) -> str:
    """Say what the last step of a greedy soup did, and why."""
    last, first = history.iloc[-1], history.iloc[0]
    kept, score = history.held_out_score[history.accepted], cell_text(last.held_out_score)
    if len(history) == 1:
        did = f"{last.ingredient} begins: alone it has the best {measure}, {score}."
    else:
        did = (
            f"{last.ingredient} is {'accepted' if last.accepted else 'rejected'}: the {measure} is "
            f"{score} with it and {cell_text(kept.iloc[-2 if last.accepted else -1])} without."
        )
    if len(history) == n:
        did += (
            f" All {n} are tried: the soup of {last.n_ingredients} has {cell_text(kept.iloc[-1])}, "
            f"the best single {cell_text(first.own_score)}."
        )
    return f"Greedy, step {len(history)} of {n}: {did}"
