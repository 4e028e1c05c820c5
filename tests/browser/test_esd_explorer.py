"""EsdExplorer in a small notebook: the slider by keyboard, every control, how soon it is drawn."""

import statistics
import time

import pytest
from lab_kit import control, poll

PANEL = ".wskit-esd-explorer"
CELLS = [
    """\
import torch
draw = torch.Generator().manual_seed(0)
heavy = torch.randn(300, 100, generator=draw) / torch.rand(300, 100, generator=draw) ** 0.6
weights = {"fc1.weight": heavy, "fc2.weight": torch.randn(120, 60, generator=draw)}""",
    """\
from wskit import widgets
widgets.EsdExplorer(weights)""",
]


def description(page):
    return page.panel.locator("img").get_attribute("alt")


def picture(page):
    return page.panel.locator("img").get_attribute("src")


def number(page, key):
    row = page.panel.locator(f'tr:has(th:text-is("{key}"))')
    return float(row.locator("td").inner_text().split()[0])


def changed(page, act):
    """Do something, and wait until the picture is another one."""
    before, text = picture(page), description(page)
    act()
    poll(page, lambda: picture(page) != before, "another picture")
    assert description(page) != text


def press(page, key):
    return lambda: page.keyboard.press(key)


def test_the_slider_moves_number_and_picture_by_keyboard(page):
    page.panel.locator(".noUi-handle").focus()
    before = number(page, "xmin"), number(page, "α")
    changed(page, press(page, "ArrowLeft"))
    poll(page, lambda: number(page, "xmin") < before[0], "a smaller xmin")
    assert number(page, "α") != before[1]
    assert f"xmin = {number(page, 'xmin'):.3g}" in description(page)
    assert "best xmin" in description(page)
    assert control(page.panel, "spinbutton", "xmin").input_value() == f"{number(page, 'xmin'):g}"


def test_every_control_changes_the_picture(page):
    def choose(name):
        box = control(page.panel, "combobox", name)
        options = box.locator("option").all_inner_texts()
        chosen = box.evaluate("box => box.selectedOptions[0].innerText")
        other = next(option for option in options if option != chosen)
        changed(page, lambda: box.select_option(other))
        changed(page, lambda: box.select_option(chosen))

    choose("Layer")
    choose("Axes")

    def enter(name, value):
        box = control(page.panel, "spinbutton", name)
        box.fill(value)
        box.press("Enter")

    changed(page, lambda: enter("Bins", "21"))
    assert "21 bins" in description(page)
    low = number(page, "best xmin") / 2
    changed(page, lambda: enter("xmin", f"{low:.4g}"))
    assert number(page, "xmin") == pytest.approx(low, rel=1e-3)
    changed(page, control(page.panel, "button", "Best xmin").click)
    poll(page, lambda: number(page, "xmin") == number(page, "best xmin"), "the best xmin")
    for name, text in [
        ("Power law", "power law"),
        ("Marchenko-Pastur", "Marchenko-Pastur"),
        ("Shuffled weights", "shuffled weights"),
    ]:
        shown = text in description(page)
        control(page.panel, "checkbox", name).focus()
        changed(page, press(page, "Space"))
        assert (text in description(page)) != shown
        changed(page, press(page, "Space"))


def test_an_xmin_out_of_range_is_one_sentence(page):
    box = control(page.panel, "spinbutton", "xmin")
    box.fill("1e9")
    box.press("Enter")
    status = page.panel.get_by_role("status")
    poll(page, lambda: "choose an xmin below" in status.inner_text(), "the sentence")
    assert "\n" not in status.inner_text().strip()
    control(page.panel, "button", "Best xmin").click()
    poll(page, lambda: status.inner_text() == "", "the sentence to go")


def test_the_latency_of_the_slider(page, capsys):
    """Measured, not asserted: from the key to the new picture in the page, 20 steps."""
    handle = page.panel.locator(".noUi-handle")
    handle.focus()
    if int(handle.get_attribute("aria-valuenow").split(".")[0]) > 0:
        changed(page, press(page, "Home"))
    seconds = []
    for _ in range(20):
        page.evaluate(
            "() => { window.image = document.querySelector('.wskit-esd-explorer img');"
            " window.source = image.src }"
        )
        start = time.perf_counter()
        page.keyboard.press("ArrowRight")
        page.wait_for_function(
            "() => document.querySelector('.wskit-esd-explorer img').src !== window.source"
        )
        seconds.append(time.perf_counter() - start)
    with capsys.disabled():
        median, worst = statistics.median(seconds), max(seconds)
        print(f"\nxmin slider, 20 steps: median {median:.2f} s, worst {worst:.2f} s")
    assert len(seconds) == 20
