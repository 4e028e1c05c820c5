"""SoupKitchen in a small notebook: a slider moved by keys, greedy by steps and at once, a file."""

import re

import pytest
from lab_kit import control, cut_off, poll, run_all, says, shows, shut_down

from wskit.checkpoints import open_checkpoint

NOTEBOOK = "soup_kitchen.ipynb"
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


@pytest.fixture(scope="module")
def notebook(tab, lab):
    lab.write(NOTEBOOK, *CELLS)
    run_all(tab, lab, NOTEBOOK)
    yield tab
    shut_down(lab)


@pytest.fixture
def page(notebook):
    """The page, which must have come through the test without an error."""
    panel(notebook).scroll_into_view_if_needed()
    yield notebook
    assert notebook.problems == []


def panel(page):
    return page.locator(".wskit-soup-kitchen")


def numbers(page, measure):
    """Return what a row of the table says: the soup, the best single, ..."""
    row = panel(page).get_by_role("row").filter(has_text=re.compile(f"^{measure}"))
    return row.locator("td").all_inner_texts()


def press(page, name):
    panel(page).get_by_role("button", name=re.compile(rf"\b{name}$")).click()


def test_every_control_has_a_name(page):
    for name in ("All", "None", "Equal shares", "Greedy step", "Greedy", "Suggest"):
        buttons = panel(page).get_by_role("button", name=re.compile(rf"^\W*{name}$"))
        assert buttons.count() == 1, name
    for name in ("Score", "Across", "Up"):
        assert control(panel(page), "combobox", name).count() == 1, name
    assert control(panel(page), "textbox", "File").count() == 1
    assert control(panel(page), "checkbox", NAME).is_checked()
    assert panel(page).get_by_role("checkbox").count() == 12
    assert panel(page).get_by_role("slider").count() == 12
    says(page, panel(page), "Held-out accuracy: ")
    assert len(numbers(page, "clean accuracy")) == 5
    shows(page, panel(page), 0, "'ingredient': 12 points")


def test_a_share_is_moved_by_keyboard(page):
    before = numbers(page, "shifted loss")
    picture = panel(page).locator("img").first.get_attribute("src")
    panel(page).get_by_role("slider").nth(6).focus()
    for _ in range(15):
        page.keyboard.press("ArrowLeft")
    poll(page, lambda: numbers(page, "shifted loss")[0] != before[0], "the soup's number to move")
    assert numbers(page, "shifted loss")[1:] == before[1:]
    poll(
        page,
        lambda: panel(page).locator("img").first.get_attribute("src") != picture,
        "the picture to move",
    )
    control(panel(page), "checkbox", NAME).uncheck()
    panel(page).get_by_text("A soup of 11 of 12 ingredients").wait_for()
    press(page, "Equal shares")
    control(panel(page), "checkbox", NAME).check()
    poll(page, lambda: numbers(page, "shifted loss") == before, "the numbers of before")


def test_greedy_goes_by_steps_and_to_the_end(page):
    press(page, "Greedy step")
    says(page, panel(page), "Greedy, step 1 of 12: ")
    panel(page).get_by_text("A soup of 1 of 12 ingredients").wait_for()
    shows(page, panel(page), 0, "'accepted': 1 points")
    press(page, "Greedy step")
    says(page, panel(page), "Greedy, step 2 of 12: ")
    panel(page).get_by_role("button", name=re.compile(r"^\W*Greedy$")).click()
    says(page, panel(page), "All 12 are tried: ")
    shows(page, panel(page), 0, "'the ingredient alone': 12 points")
    press(page, "Suggest")
    poll(
        page,
        lambda: " change" in panel(page).get_by_role("status").inner_text(),
        "a change to be said",
    )


def test_the_soup_is_saved_once(page, lab):
    box = control(panel(page), "textbox", "File")
    box.fill(str(lab.folder / "mine.safetensors"))
    panel(page).get_by_role("button", name="Save…").click()
    says(page, panel(page), " is written to ")
    with open_checkpoint(lab.folder / "mine.safetensors") as saved:
        assert saved.shape("0.weight") == (32, 64)
    (lab.folder / "other.safetensors").write_bytes(b"mine")
    box.fill(str(lab.folder / "other.safetensors"))
    panel(page).get_by_role("button", name="Save…").click()
    says(page, panel(page), "other.safetensors is there already")


def test_an_empty_soup_is_said(page):
    press(page, "None")
    says(page, panel(page), "Nothing is in the soup; tick an ingredient")
    assert numbers(page, "clean accuracy")[0] == "–"
    press(page, "All")
    says(page, panel(page), "Held-out accuracy: ")


@pytest.mark.parametrize("width", [700, 1300])
def test_nothing_is_cut_off(page, width):
    assert cut_off(page, panel(page), width) == []
