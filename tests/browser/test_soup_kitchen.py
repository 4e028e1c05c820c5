"""SoupKitchen in a small notebook: a slider moved by keys, greedy by steps and at once, a file."""

import re

import pytest
from lab_kit import control, cut_off, poll, says, shows

from wskit.checkpoints import open_checkpoint

PANEL = ".wskit-soup-kitchen"
CELLS = [
    """\
import torch
from sklearn.datasets import load_digits
from torch import nn
from wskit import landscape, widgets
digits = load_digits()
x, y = torch.tensor(digits.images / 16).float().flatten(1), torch.tensor(digits.target)
draw = torch.Generator().manual_seed(0)
order = torch.randperm(len(x), generator=draw)
base, tune, held_out, test = order.split([300, 600, 300, 597])
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
def train(module, rows, rate, noise, steps):
    optimizer = torch.optim.SGD(module.parameters(), rate, momentum=0.9)
    for _ in range(steps):
        batch = rows[torch.randint(len(rows), (32,), generator=draw)]
        images = x[batch] + noise * torch.randn(32, 64, generator=draw)
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(images), y[batch]).backward()
        optimizer.step()
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}
start = train(network(), base, 0.05, 0.3, 200)
ingredients = {}
for rate in (0.01, 0.03, 0.1):
    for noise in (0.0, 0.1, 0.2, 0.4):
        module = network()
        module.load_state_dict(start)
        ingredients[f"rate {rate}, noise {noise}"] = train(module, tune, rate, noise, 150)""",
    """\
images = {"held_out": (x[held_out], y[held_out]), "clean": (x[test], y[test])}
images["shifted"] = x[test] + 0.4 * torch.randn(597, 64, generator=draw), y[test]
evaluate = landscape.split_metrics(
    **{name: landscape.module_metrics(network(), *part) for name, part in images.items()}
)
widgets.SoupKitchen(ingredients, evaluate, base=start)""",
]
NAME = "rate 0.03, noise 0.2"


def numbers(page, measure):
    """Return what a row of the table says: the soup, the best single, ..."""
    row = page.panel.get_by_role("row").filter(has_text=re.compile(f"^{measure}"))
    return row.locator("td").all_inner_texts()


def press(page, name):
    control(page.panel, "button", name).click()


def test_all_are_in_the_soup_at_first(page):
    assert control(page.panel, "checkbox", NAME).is_checked()
    says(page, page.panel, "Held-out accuracy: ")
    assert len(numbers(page, "clean accuracy")) == 5
    shows(page, page.panel, 0, "'ingredient': 12 points")


def test_a_share_is_moved_by_keyboard(page):
    before = numbers(page, "shifted loss")
    picture = page.panel.locator("img").first.get_attribute("src")
    control(page.panel, "slider", f"share of {NAME}").focus()
    for _ in range(15):
        page.keyboard.press("ArrowLeft")
    poll(page, lambda: numbers(page, "shifted loss")[0] != before[0], "the soup's number to move")
    assert numbers(page, "shifted loss")[1:] == before[1:]
    poll(
        page,
        lambda: page.panel.locator("img").first.get_attribute("src") != picture,
        "the picture to move",
    )
    control(page.panel, "checkbox", NAME).uncheck()
    page.panel.get_by_text("A soup of 11 of 12 ingredients").wait_for()
    press(page, "Equal shares")
    control(page.panel, "checkbox", NAME).check()
    poll(page, lambda: numbers(page, "shifted loss") == before, "the numbers of before")


def test_greedy_goes_by_steps_and_to_the_end(page):
    press(page, "Greedy step")
    says(page, page.panel, "Greedy, step 1 of 12: ")
    page.panel.get_by_text("A soup of 1 of 12 ingredients").wait_for()
    shows(page, page.panel, 0, "'accepted': 1 points")
    press(page, "Greedy step")
    says(page, page.panel, "Greedy, step 2 of 12: ")
    press(page, "Greedy")
    says(page, page.panel, "All 12 are tried: ")
    shows(page, page.panel, 0, "'the ingredient alone': 12 points")
    press(page, "Suggest")
    poll(
        page,
        lambda: " change" in page.panel.get_by_role("status").inner_text(),
        "a change to be said",
    )


def test_the_soup_is_saved_once(page, lab):
    box = control(page.panel, "textbox", "File")
    box.fill(str(lab.folder / "mine.safetensors"))
    press(page, "Save…")
    says(page, page.panel, " is written to ")
    with open_checkpoint(lab.folder / "mine.safetensors") as saved:
        assert saved.shape("0.weight") == (32, 64)
    (lab.folder / "other.safetensors").write_bytes(b"mine")
    box.fill(str(lab.folder / "other.safetensors"))
    press(page, "Save…")
    says(page, page.panel, "other.safetensors is there already")


def test_an_empty_soup_is_said(page):
    press(page, "None")
    says(page, page.panel, "Nothing is in the soup; tick an ingredient")
    assert numbers(page, "clean accuracy")[0] == "–"
    press(page, "All")
    says(page, page.panel, "Held-out accuracy: ")


@pytest.mark.parametrize("width", [700, 1300])
def test_nothing_is_cut_off(page, width):
    assert cut_off(page, page.panel, width) == []
