"""RegionExplorer in a small notebook: the point moved by keys, models, measures, the control."""

import re

import pytest
from lab_kit import control, cut_off, poll, says, shows

PANEL = ".wskit-region-explorer"
CELLS = [
    """\
import pandas as pd
import torch
from wskit import landscape, zoo
draw = torch.Generator().manual_seed(0)
shapes = zoo.MLP((64, 64, 64, 10)).shapes
base = {k: torch.randn(s, generator=draw) / s[-1] ** 0.5 for k, s in shapes.items()}
models = {
    f"model_{i}": {k: W + 0.1 * torch.randn(W.shape, generator=draw) for k, W in base.items()}
    for i in range(5)
}
x, y = torch.rand(200, 64, generator=draw), torch.arange(200) % 10
evaluate = landscape.zoo_metrics(zoo.MLP((64, 64, 64, 10)), x, y)
places = pd.DataFrame({"x": [1.0, 2.0, -1.0, 0.0, 1.0], "y": [0.0, 1.0, 2.0, -1.0, -2.0]})
places["task"], places["set"] = list("aabbb"), list("uvuvu")""",
    """\
from wskit import widgets
widgets.RegionExplorer(models, evaluate, base=base, map=places)""",
]


def numbers(page, name):
    """Return what a row of the table says."""
    row = page.panel.get_by_role("row").filter(has_text=re.compile(f"^{name}"))
    return [float(cell) for cell in row.locator("td").all_inner_texts() if cell.strip()]


def test_the_first_three_models_are_shown(page):
    says(page, page.panel, "The point is inside the triangle of model_0, model_1, model_2.")
    shows(page, page.panel, 0, "texts: model_0, model_1, model_2", "line 'point'")
    shows(page, page.panel, 1, "points 'a, u': 1", "line 'model_2'", "line 'base'")


@pytest.mark.parametrize("place", [0, 1])
def test_the_point_is_moved_by_keyboard(page, place):
    name = f"share of the {('first', 'second')[place]}"
    control(page.panel, "button", "Centre").click()
    poll(page, lambda: 0.32 < numbers(page, name)[0] < 0.34, "the centre")  # in steps of 0.01
    before, picture = numbers(page, "loss"), page.panel.locator("img").first.get_attribute("src")
    page.panel.get_by_role("slider").nth(place).focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    poll(page, lambda: numbers(page, name)[0] > 0.37, "the share to grow")
    poll(page, lambda: numbers(page, "loss")[0] != before[0], "the loss to move")
    assert numbers(page, "loss")[1:] == before[1:]
    assert page.panel.locator("img").first.get_attribute("src") != picture


def test_the_point_leaves_the_triangle(page):
    page.panel.get_by_role("slider").first.focus()
    page.keyboard.press("End")
    says(page, page.panel, "The point is outside the triangle of ")
    poll(page, lambda: numbers(page, "share of the first") == [1.5], "the end of the slider")
    control(page.panel, "button", "Centre").click()
    says(page, page.panel, "The point is inside the triangle of ")


def test_measure_and_control_are_chosen(page):
    control(page.panel, "combobox", "Landscape of").select_option("accuracy")
    shows(page, page.panel, 0, "Axes 'accuracy ")
    control(page.panel, "combobox", "Landscape of").select_option("loss")
    shows(page, page.panel, 0, "Axes 'loss ")
    control(page.panel, "checkbox", "Random control").check()
    poll(page, lambda: len(numbers(page, "loss")) == 5, "the control's loss")
    control(page.panel, "checkbox", "Random control").uncheck()
    poll(page, lambda: len(numbers(page, "loss")) == 4, "the control to go")


def test_other_models_are_chosen(page):
    control(page.panel, "combobox", "Second model").select_option("model_4")
    shows(page, page.panel, 0, "texts: model_0, model_4, model_2")
    shows(page, page.panel, 1, "line 'model_4'")
    says(page, page.panel, "The point is inside the triangle of model_0, model_4, model_2.")
    control(page.panel, "combobox", "Second model").select_option("model_0")
    says(page, page.panel, "the three models lie on one line")
    control(page.panel, "combobox", "Second model").select_option("model_1")
    says(page, page.panel, "The point is inside the triangle of model_0, model_1, model_2.")


@pytest.mark.parametrize("width", [700, 1300])
def test_nothing_is_cut_off(page, width):
    assert cut_off(page, page.panel, width) == []
