"""ZooExplorer in a small notebook: every control, a model chosen, predictions, more models."""

import pytest
from lab_kit import control, cut_off, poll, says, shows

PANEL = ".wskit-zoo-explorer"
CELLS = [
    """\
import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import Ridge
from wskit import data, zoo
rng, draw = np.random.default_rng(0), torch.Generator().manual_seed(0)
n = 24
scale = torch.linspace(0.2, 2, n)
shapes = zoo.MLP((64, 8, 10)).shapes
weights = {k: torch.randn(n, *s, generator=draw) for k, s in shapes.items()}
weights = {k: W * scale.view(-1, *[1] * (W.ndim - 1)) for k, W in weights.items()}
records = pd.DataFrame({"run": np.arange(n) // 2, "epoch": np.arange(n) % 2, "status": "trained"})
records["test_accuracy"] = 1 / (1 + np.exp(3 - 3 * scale.numpy()))
records["train_accuracy"] = records.test_accuracy + 0.01
records["optimizer"] = rng.choice(["adam", "sgd"], n)
records["learning_rate"] = np.geomspace(1e-4, 1e-1, n)
models = zoo.Zoo(weights, records.assign(epochs=1.0, seed=np.arange(n)))""",
    """\
from wskit import widgets
widgets.ZooExplorer(
    models, network=zoo.MLP((64, 8, 10)), data=data.load_dataset("digits"), estimator=Ridge()
)""",
]


def picture(page, place):
    """The picture of all models is the first, that of the chosen one the second."""
    return page.panel.locator("img").nth(place)


def enter(page, name, value):
    box = control(page.panel, "spinbutton", name)
    box.fill(value)
    box.press("Enter")


def options(page):
    return page.panel.get_by_role("listbox").get_by_role("option")


def test_all_models_are_shown_and_one_of_them_closely(page):
    assert picture(page, 0).is_visible()
    assert picture(page, 1).is_visible()
    says(page, page.panel, "24 of 24 models are selected.")


def test_axes_and_colour_are_chosen(page):
    control(page.panel, "combobox", "x").select_option("epochs")  # the same for all models
    shows(page, page.panel, 0, "x 'epochs' linear")
    control(page.panel, "combobox", "x").select_option("learning_rate")
    shows(page, page.panel, 0, "x 'learning rate' log")
    control(page.panel, "combobox", "y").select_option("fc1.weight.variance")
    shows(page, page.panel, 0, "y 'fc1.weight.variance'")
    control(page.panel, "combobox", "Colour").select_option("optimizer")
    shows(page, page.panel, 0, "points 'adam (", "points 'sgd (")
    control(page.panel, "combobox", "Colour").select_option("test_accuracy")
    shows(page, page.panel, 0, "colour 0.0")


def test_a_range_is_selected_by_keyboard_and_taken_back(page):
    handles = page.panel.get_by_role("slider")
    for place in (0, 3):  # the lower end of x, and the upper end of y
        handles.nth(place).focus()
        page.keyboard.press("ArrowRight" if place == 0 else "ArrowLeft")
        says(page, page.panel, f"{23 if place == 0 else 22} of 24 models are selected.")
    shows(page, page.panel, 0, "points 'not selected (2)': 2")
    assert options(page).count() == 22
    control(page.panel, "button", "Select all").click()
    says(page, page.panel, "24 of 24 models are selected.")


def test_a_model_is_chosen_by_number_and_in_the_list(page):
    enter(page, "Model", "7")
    shows(page, page.panel, 0, "line 'model 7'")
    shows(page, page.panel, 1, "line 'test': 2 points", "8 × (8 × 8)", "fc1.weight  (64 × 8)")
    page.panel.get_by_text("Model 7", exact=True).wait_for()
    assert page.panel.get_by_role("row", name="learning rate").is_visible()
    options(page).nth(1).click()
    shows(page, page.panel, 0, "line 'model 22'")
    box = control(page.panel, "spinbutton", "Model")
    poll(page, lambda: box.input_value() == "22", "the number")


def test_the_predictor_is_retrained_on_the_selection(page):
    handle = page.panel.get_by_role("slider").first
    handle.focus()
    page.keyboard.press("ArrowRight")
    says(page, page.panel, "23 of 24")
    control(page.panel, "button", "Retrain on selection").focus()
    page.keyboard.press("Enter")
    shows(page, page.panel, 1, "points 'held-out (23)'", "line 'model 22'")
    for name in ("R²", "Kendall's τ", "mean absolute error"):
        row = page.panel.get_by_role("row", name=name)
        poll(page, lambda row=row: " to " in row.inner_text(), name)


def test_more_models_are_trained_and_more_of_them_cancelled(page):
    enter(page, "How many", "4")
    train = control(page.panel, "button", "Train more models")
    train.click()
    says(page, page.panel, " of 32 models are selected.")  # each with two epochs, as the others
    enter(page, "How many", "4000")
    poll(page, train.is_enabled, "the button")
    train.click()
    says(page, page.panel, "Training 4000 models.")
    poll(page, train.is_disabled, "the button to rest")
    control(page.panel, "button", "Cancel").click()
    says(page, page.panel, "Cancelled.")
    control(page.panel, "button", "Select all").click()
    says(page, page.panel, "32 of 32 models are selected.")


@pytest.mark.parametrize("width", [700, 1300])
def test_nothing_is_cut_off(page, width):
    assert cut_off(page, page.panel, width) == []
