"""SwaExplorer in a small notebook: the window moved by keys, BatchNorm, a run trained live."""

import re

import pytest
from lab_kit import control, cut_off, poll, says, shows

PANEL = ".wskit-swa-explorer"
CELLS = [
    """\
import torch
from torch import nn
from wskit import averaging, landscape
draw = torch.Generator().manual_seed(0)
x, y = torch.randn(256, 8, generator=draw), torch.arange(256) % 4
x += 0.7 * torch.randn(4, 8, generator=draw)[y]
def network():
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
def train(rate, cycle, epochs, seed):
    torch.manual_seed(seed)
    module = network()
    optimizer = torch.optim.SGD(module.parameters(), momentum=0.9)
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - epoch % cycle / cycle)
        for batch in torch.randperm(128).split(16):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[batch]), y[batch]).backward()
            optimizer.step()
        yield module.state_dict()
runs = {}
for name, cycle in {"constant": 1, "cycles of 4": 4}.items():
    runs[name] = averaging.Trajectory()
    for epoch, weights in enumerate(train(0.3, cycle, 24, 0), start=1):
        runs[name].append(epoch, weights)""",
    """\
def metrics(logits, y):
    found = landscape.classification_metrics(logits, y)
    return {"loss": found["loss"], "test_error": 100 * (1 - found["accuracy"])}
evaluate, recalibrated = (
    landscape.module_metrics(network(), x[128:], y[128:], metrics=metrics, bn_loader=loader)
    for loader in (None, [x[:128]])
)""",
    """\
from wskit import widgets
widgets.SwaExplorer(runs, evaluate, recalibrated=recalibrated, train=train, unit="nats")""",
]


def numbers(page, name):
    """Return what a row of the table says: the loss and the test error."""
    row = page.panel.get_by_role("row").filter(has_text=re.compile(f"^{name}"))
    return [float(cell) for cell in row.locator("td").all_inner_texts()]


def pictures(page):
    return [image.get_attribute("src") for image in page.panel.locator("img").all()]


def averages(page, text):
    """Wait until the numbers are those of this window, and the pictures are done."""
    page.panel.get_by_text(text, exact=True).wait_for()
    says(page, page.panel, " of the average, ")


def enter(page, name, value):
    box = control(page.panel, "spinbutton", name)
    box.fill(value)
    box.press("Enter")


def test_the_second_half_of_a_run_is_averaged(page):
    averages(page, "Average of 12 epochs, 13 to 24")
    shows(page, page.panel, 0, "span 'averaged': x 12.5 to 24.5", "line 'EMA': 12 points")
    for place, measure in ((1, "loss"), (2, "test error")):
        shows(page, page.panel, place, f"Axes '{measure} ", "epoch 13, epoch 24, average")


def test_the_window_is_moved_by_keyboard(page):
    averages(page, "Average of 12 epochs, 13 to 24")
    before, images = numbers(page, "average"), pictures(page)
    last = numbers(page, "last iterate")
    page.panel.get_by_role("slider").first.focus()
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
    page.panel.get_by_text("Average of 20 epochs, 5 to 24", exact=True).wait_for()
    assert numbers(page, "average")[1] != before[1]
    assert numbers(page, "last iterate") == last
    averages(page, "Average of 20 epochs, 5 to 24")
    shows(page, page.panel, 1, "epoch 5, epoch 24, average")
    assert not set(pictures(page)) & set(images)
    assert len(pictures(page)) == len(images) == 3


def test_ends_of_cycles_and_another_measure_are_chosen(page):
    control(page.panel, "combobox", "Run").select_option("cycles of 4")
    averages(page, "Average of 20 epochs, 5 to 24")
    enter(page, "Every", "4")
    averages(page, "Average of 5 epochs, 5 to 21, one in 4")
    shows(page, page.panel, 0, "line 'average': 5 points")
    control(page.panel, "combobox", "Measure").select_option("loss")
    shows(page, page.panel, 0, "y 'loss in nats'")
    poll(page, lambda: page.panel.locator("img:visible").count() == 2, "one plane alone")
    control(page.panel, "combobox", "Measure").select_option("test_error")
    poll(page, lambda: page.panel.locator("img:visible").count() == 3, "both planes")
    before = numbers(page, "EMA")
    enter(page, "EMA decay", "0.5")
    poll(page, lambda: numbers(page, "EMA") != before, "the EMA to change")
    enter(page, "Every", "1")
    averages(page, "Average of 20 epochs, 5 to 24")


def test_batch_norm_is_updated(page):
    before = numbers(page, "average")
    control(page.panel, "checkbox", "Update BatchNorm").check()
    poll(page, lambda: numbers(page, "average") != before, "the numbers to change")
    control(page.panel, "checkbox", "Update BatchNorm").uncheck()
    poll(page, lambda: numbers(page, "average") == before, "the numbers of before")


def test_a_run_is_trained_and_another_cancelled(page):
    enter(page, "Epochs", "10")
    enter(page, "Seed", "3")
    train = control(page.panel, "button", "Train a new run")
    train.click()
    averages(page, "Average of 5 epochs, 6 to 10")
    run = control(page.panel, "combobox", "Run")
    assert run.input_value() == "rate 0.05, cycle 1, seed 3"
    enter(page, "Epochs", "10000")
    train.click()
    says(page, page.panel, "Training rate 0.05, cycle 1, seed 3 (2).")
    poll(page, train.is_disabled, "the button to rest")
    control(page.panel, "button", "Cancel").click()
    says(page, page.panel, "Cancelled.")
    assert run.locator("option").count() == 3


@pytest.mark.parametrize("width", [700, 1300])
def test_nothing_is_cut_off(page, width):
    control(page.panel, "combobox", "Run").select_option("constant")
    shows(page, page.panel, 2, "Axes 'test error ", ", average")
    assert cut_off(page, page.panel, width) == []
