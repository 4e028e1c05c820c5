"""EsdExplorer on the page of the tutorial 01, by keyboard."""

import re
import statistics
import time

import pytest
from lab_kit import control, poll, run_all, shut_down

NOTEBOOK = "01_esd.ipynb"
SIZES, QUICK = "N_SEEDS, EPOCHS = 5, 20", "N_SEEDS, EPOCHS = 2, 5"

CONTROLS = [
    ("combobox", "Layer"),
    ("combobox", "Axes"),
    ("spinbutton", "Bins"),
    ("spinbutton", "xmin"),
    ("button", "Best xmin"),
    ("checkbox", "Power law"),
    ("checkbox", "Marchenko-Pastur"),
    ("checkbox", "Shuffled weights"),
    ("button", "Table of layers"),
]


@pytest.fixture(scope="module")
def tutorial(tab, lab):
    # Its numbers are checked elsewhere; here it is the page, so the size knobs are turned down.
    copy = lab.folder / NOTEBOOK
    assert SIZES in copy.read_text("utf-8")
    copy.write_text(copy.read_text("utf-8").replace(SIZES, QUICK), "utf-8")
    run_all(tab, lab, NOTEBOOK)
    yield tab
    shut_down(lab)


@pytest.fixture
def page(tutorial):
    """The page of the tutorial, which must have come through the test without an error."""
    panel(tutorial).scroll_into_view_if_needed()
    yield tutorial
    assert tutorial.problems == []


def panel(page):
    return page.locator(".wskit-esd-explorer").first  # the other is an exercise's


def description(page):
    return panel(page).locator("img").get_attribute("alt")


def picture(page):
    return panel(page).locator("img").get_attribute("src")


def number(page, key):
    row = panel(page).locator(f'tr:has(th:text-is("{key}"))')
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
    panel(page).locator(".noUi-handle").focus()
    before = number(page, "xmin"), number(page, "α")
    changed(page, press(page, "ArrowLeft"))
    poll(page, lambda: number(page, "xmin") < before[0], "a smaller xmin")
    assert number(page, "α") != before[1]
    assert f"xmin = {number(page, 'xmin'):.3g}" in description(page)
    assert "best xmin" in description(page)
    assert control(panel(page), "spinbutton", "xmin").input_value() == f"{number(page, 'xmin'):g}"


def test_every_control_has_a_name_and_tab_reaches_it(page):
    for role, name in CONTROLS:
        assert control(panel(page), role, name).count() == 1, name
    control(panel(page), "combobox", "Layer").focus()
    reached = []
    for _ in range(len(CONTROLS) + 1):  # one more: the slider's handle, which has no name
        page.evaluate("window.reached = document.activeElement")
        reached.append(
            page.evaluate(
                "() => reached.labels?.[0]?.innerText || reached.innerText"
                " || reached.parentElement.innerText || reached.getAttribute('role')"
            ).strip()
        )
        page.keyboard.press("Tab")
    reached = [re.sub(r"[^\x20-\x7e]", "", name).strip() for name in reached]
    names = [name for _, name in CONTROLS]
    assert reached == [*names[:3], "slider", *names[3:]]


def test_every_control_changes_the_picture(page):
    def choose(name):
        box = control(panel(page), "combobox", name)
        options = box.locator("option").all_inner_texts()
        chosen = box.evaluate("box => box.selectedOptions[0].innerText")
        other = next(option for option in options if option != chosen)
        changed(page, lambda: box.select_option(other))
        changed(page, lambda: box.select_option(chosen))

    choose("Layer")
    choose("Axes")

    def enter(name, value):
        box = control(panel(page), "spinbutton", name)
        box.fill(value)
        box.press("Enter")

    changed(page, lambda: enter("Bins", "21"))
    assert "21 bins" in description(page)
    low = number(page, "best xmin") / 2
    changed(page, lambda: enter("xmin", f"{low:.4g}"))
    assert number(page, "xmin") == pytest.approx(low, rel=1e-3)
    changed(page, control(panel(page), "button", "Best xmin").click)
    poll(page, lambda: number(page, "xmin") == number(page, "best xmin"), "the best xmin")
    for name, text in [
        ("Power law", "power law"),
        ("Marchenko-Pastur", "Marchenko-Pastur"),
        ("Shuffled weights", "shuffled weights"),
    ]:
        shown = text in description(page)
        control(panel(page), "checkbox", name).focus()
        changed(page, press(page, "Space"))
        assert (text in description(page)) != shown
        changed(page, press(page, "Space"))


def test_an_xmin_out_of_range_is_one_sentence(page):
    box = control(panel(page), "spinbutton", "xmin")
    box.fill("1e9")
    box.press("Enter")
    status = panel(page).get_by_role("status")
    poll(page, lambda: "choose an xmin below" in status.inner_text(), "the sentence")
    assert "\n" not in status.inner_text().strip()
    control(panel(page), "button", "Best xmin").click()
    poll(page, lambda: status.inner_text() == "", "the sentence to go")


def test_the_latency_of_the_slider(page, capsys):
    """Measured, not asserted: from the key to the new picture in the page, 20 steps."""
    handle = panel(page).locator(".noUi-handle")
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
