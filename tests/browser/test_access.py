"""Every panel by ear and by keyboard: what a screen reader is told, Tab, the keys of controls."""

import re

import pytest
from app_kit import running_app
from lab_kit import WAIT, control, cut_off, poll, says, shows
from panel_cells import REGION, SOUP, SWA, ZOO

PANEL = ".wskit-panel"
CELLS = [
    """\
import torch
from wskit import widgets
model = torch.nn.Linear(5, 4)
widgets.CheckpointPicker()""",
    """\
draw = torch.Generator().manual_seed(0)
layers = {"first": (40, 30), "second": (50, 20)}
run = {i: {n: torch.randn(s, generator=draw) for n, s in layers.items()} for i in (0, 100, 200)}
widgets.EsdExplorer(run)""",
    *REGION,
    *SOUP,
    *ZOO,
    *SWA,
]
SHARES = [
    f"rate {rate}, noise {noise}" for rate in (0.01, 0.03, 0.1) for noise in (0.0, 0.1, 0.2, 0.4)
]

# What can be focused, in the order of Tab: role and name, as the browser tells them.
STOPS = {
    "CheckpointPicker": [
        *("button catalogue", "button path", "button session", "button upload"),
        *("combobox Entry", "DisclosureTriangle How to cite it", "button Open"),
    ],
    "EsdExplorer": [
        *("slider Step", "combobox Compare with"),
        *("combobox Layer", "combobox Axes", "spinbutton Bins"),
        *("slider Tail from", "spinbutton xmin", "button Best xmin"),
        *("checkbox Power law", "checkbox Marchenko-Pastur", "checkbox Shuffled weights"),
        "button Table of layers",
    ],
    "RegionExplorer": [
        *("combobox First model", "combobox Second model", "combobox Third model"),
        *("slider Share of the first", "textbox Share of the first, as a number"),
        *("slider Share of the second", "textbox Share of the second, as a number"),
        *("button Centre", "combobox Landscape of", "checkbox Random control"),
    ],
    "SoupKitchen": [
        *("button All", "button None", "button Equal shares"),
        *("button Greedy step", "button Greedy"),
        *(f"{what}{name}" for name in SHARES for what in ("checkbox ", "slider share of ")),
        *("combobox Across", "combobox Up", "textbox File", "button Save…"),
    ],
    "ZooExplorer": [
        *("combobox x", "combobox y", "combobox Colour"),
        *("slider Select x from", "slider Select x to"),
        *("slider Select y from", "slider Select y to", "button Select all"),
        *("spinbutton Model", "button Retrain on selection"),
        *("button Train more models", "spinbutton How many"),
    ],
    "SwaExplorer": [
        *("combobox Run", "slider Average epochs from", "slider Average epochs to"),
        *("spinbutton Every", "spinbutton EMA decay"),
        *("combobox Measure", "checkbox Update BatchNorm"),
        *("spinbutton Rate", "spinbutton Cycle", "spinbutton Epochs", "spinbutton Seed"),
        "button Train a new run",
    ],
}
_OPTIONS = {"option", "MenuListOption", "listboxoption"}


@pytest.fixture
def browser(page):
    """The browser's own view of the page: its accessibility tree."""
    session = page.context.new_cdp_session(page)
    session.send("Accessibility.enable")
    yield session
    session.detach()


def handle(browser, expression):
    found = browser.send("Runtime.evaluate", {"expression": expression})
    return {"objectId": found["result"]["objectId"]}


def told(node):
    """Role and name of a node of the accessibility tree, on one line."""
    name = node.get("name", {}).get("value", "")
    return " ".join(f"{node['role']['value']} {name}".split())


def can_be_focused(node):
    properties = {each["name"]: each["value"].get("value") for each in node.get("properties", [])}
    return bool(properties.get("focusable")) and node["role"]["value"] not in _OPTIONS


def nodes(browser, name):
    at = handle(browser, f"document.querySelector('[aria-label={name}]')")
    tree = browser.send("Accessibility.queryAXTree", at)["nodes"]
    return [node for node in tree if not node["ignored"]]


def focused(browser):
    at = handle(browser, "document.activeElement")
    answer = browser.send("Accessibility.getPartialAXTree", at | {"fetchRelatives": False})
    return told(answer["nodes"][0])


def find(page, name):
    panel = page.get_by_role("group", name=name, exact=True)
    panel.scroll_into_view_if_needed()
    return panel


@pytest.mark.parametrize("name", STOPS)
def test_everything_has_a_name_of_its_own_and_a_picture_a_description(page, browser, name):
    panel = find(page, name)
    tree = nodes(browser, name)
    controls = [told(node) for node in tree if can_be_focused(node)]
    assert controls == STOPS[name]
    assert len(set(controls)) == len(controls)
    pictures = [node for node in tree if node["role"]["value"] in ("image", "img")]
    assert len(pictures) == panel.locator("img:visible").count()
    assert all(len(told(picture)) >= len("image ") + 20 for picture in pictures)
    assert panel.get_by_role("status").count() == 1


_FOCUS = """panel => {
    const style = getComputedStyle(document.activeElement);
    const inside = panel.contains(document.activeElement);
    return [inside, style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2];
}"""


@pytest.mark.parametrize("name", STOPS)
def test_tab_goes_through_it_and_out_of_it_and_the_focus_is_seen(page, browser, name):
    panel = find(page, name)
    role, _, text = STOPS[name][0].partition(" ")
    control(panel, role, text).focus()
    page.keyboard.press("Shift+Tab")
    assert not panel.evaluate(_FOCUS)[0]
    control(panel, role, text).focus()
    reached = []
    while len(reached) <= len(STOPS[name]):
        inside, is_seen = panel.evaluate(_FOCUS)
        if not inside:
            break
        reached.append(focused(browser))
        assert is_seen, reached[-1]
        page.keyboard.press("Tab")
    assert reached == STOPS[name]


_STATE = """e => e.type === 'checkbox' ? e.checked
    : e.value ?? e.getAttribute('aria-valuenow') + e.getAttribute('aria-valuetext')"""
_KEYS = {
    "slider": "ArrowRight",
    "combobox": "ArrowDown",
    "checkbox": "Space",
    "spinbutton": "ArrowUp",
    "textbox": "x",
}


def operate(page, panel, role, name, key=""):
    """Press a control's key, and see that it has moved."""
    box = control(panel, role, name)
    box.focus()
    before = box.evaluate(_STATE)
    page.keyboard.press(key or _KEYS[role])
    poll(page, lambda: box.evaluate(_STATE) != before, f"{role} {name} to move")


def press(page, panel, name, key):
    button = control(panel, "button", name)
    poll(page, button.is_enabled, f"the button {name}")
    button.focus()
    page.keyboard.press(key)


def test_picker_is_used_by_keyboard(page):
    panel = find(page, "CheckpointPicker")
    operate(page, panel, "combobox", "Entry")
    press(page, panel, "session", "Space")
    poll(page, lambda: control(panel, "combobox", "Module").count() == 1, "the modules")
    chosen = control(panel, "button", "session")
    poll(page, lambda: chosen.get_attribute("aria-pressed") == "true", "the choice to be told")
    press(page, panel, "Open", "Enter")
    says(page, panel, "model is open: 2 tensors")
    press(page, panel, "path", "Enter")
    path = control(panel, "textbox", "Path")
    path.focus()
    page.keyboard.type("nothing.pt")
    page.keyboard.press("Tab")
    status = panel.get_by_role("status")
    assert status.get_attribute("aria-live") == "polite"
    status.evaluate("place => { window.place = place }")
    press(page, panel, "Open", "Enter")
    says(page, panel, "nothing.pt")
    # The region was there before what is put into it: else it would not be read out.
    assert status.evaluate("place => place === window.place")
    poll(page, lambda: status.get_attribute("aria-live") == "assertive", "the error to be urgent")
    press(page, panel, "upload", "Enter")
    with page.expect_file_chooser():
        press(page, panel, "Upload (at most 8 MiB) (0)", "Enter")


def test_esd_explorer_is_used_by_keyboard(page):
    panel = find(page, "EsdExplorer")
    operate(page, panel, "slider", "Step")
    step = control(panel, "slider", "Step")
    poll(page, lambda: step.get_attribute("aria-valuetext") == "100", "the step, not its index")
    operate(page, panel, "combobox", "Axes")
    operate(page, panel, "checkbox", "Power law")
    operate(page, panel, "checkbox", "Power law")
    operate(page, panel, "spinbutton", "Bins")
    tail = control(panel, "slider", "Tail from")
    best = tail.get_attribute("aria-valuenow")
    operate(page, panel, "slider", "Tail from", "ArrowLeft")
    press(page, panel, "Best xmin", "Space")
    poll(page, lambda: tail.get_attribute("aria-valuenow") == best, "the best xmin")
    press(page, panel, "Table of layers", "Enter")
    poll(page, lambda: panel.get_by_role("table").count() == 2, "the table of layers")


def test_region_explorer_is_used_by_keyboard(page):
    panel = find(page, "RegionExplorer")
    share = control(panel, "slider", "Share of the first")
    operate(page, panel, "combobox", "Landscape of")
    operate(page, panel, "checkbox", "Random control")
    operate(page, panel, "slider", "Share of the first")
    number = control(panel, "textbox", "Share of the first, as a number")
    number.focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("0.9")
    page.keyboard.press("Enter")
    poll(page, lambda: share.get_attribute("aria-valuetext") == "0.90", "the number to be taken")
    press(page, panel, "Centre", "Space")
    poll(page, lambda: share.get_attribute("aria-valuetext") == "0.33", "the centre")


def test_soup_kitchen_is_used_by_keyboard(page):
    panel = find(page, "SoupKitchen")
    operate(page, panel, "checkbox", SHARES[0])
    operate(page, panel, "slider", f"share of {SHARES[1]}")
    operate(page, panel, "combobox", "Across")
    operate(page, panel, "textbox", "File")
    press(page, panel, "None", "Space")
    says(page, panel, "Nothing is in the soup")
    press(page, panel, "All", "Enter")
    says(page, panel, "Held-out accuracy: ")
    press(page, panel, "Greedy step", "Enter")
    says(page, panel, "Greedy, step 1 of 12: ")
    press(page, panel, "All", "Enter")
    says(page, panel, "Held-out accuracy: ")


def test_zoo_explorer_is_used_by_keyboard(page):
    panel = find(page, "ZooExplorer")
    operate(page, panel, "combobox", "Colour")
    operate(page, panel, "spinbutton", "Model")
    operate(page, panel, "slider", "Select x from")
    says(page, panel, "23 of 24 models are selected.")
    press(page, panel, "Select all", "Enter")
    says(page, panel, "24 of 24 models are selected.")


def test_swa_explorer_is_used_by_keyboard_and_tells_how_far_it_is(page):
    panel = find(page, "SwaExplorer")
    operate(page, panel, "slider", "Average epochs from")
    first = control(panel, "slider", "Average epochs from")
    poll(page, lambda: first.get_attribute("aria-valuetext") == "14", "the epoch, not its index")
    operate(page, panel, "combobox", "Measure", "ArrowUp")
    operate(page, panel, "checkbox", "Update BatchNorm")
    operate(page, panel, "spinbutton", "Rate")
    poll(page, lambda: panel.get_by_role("progressbar").count() == 0, "the bar to be hidden")
    epochs = control(panel, "spinbutton", "Epochs")
    epochs.focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("10000")
    page.keyboard.press("Tab")
    press(page, panel, "Train a new run", "Enter")
    bar = panel.get_by_role("progressbar", name="Progress", exact=True)
    poll(page, lambda: bar.count() == 1, "the progress bar")
    poll(page, lambda: int(bar.get_attribute("aria-valuenow")) > 0, "the work to go on")
    press(page, panel, "Cancel", "Space")
    says(page, panel, "Cancelled.")


# Of each panel: its slider, a key of it, and the row of the table that follows.
MOVES = {
    "EsdExplorer": ("Tail from", "ArrowLeft", "xmin"),
    "RegionExplorer": ("Share of the first", "ArrowRight", "loss"),
    "SoupKitchen": (f"share of {SHARES[2]}", "Home", "held out loss"),
    "SwaExplorer": ("Average epochs from", "ArrowRight", "average"),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_key_moves_number_and_picture(page, name):
    panel, (slider, key, row) = find(page, name), MOVES[name]
    cell = panel.get_by_role("row").filter(has_text=re.compile(f"^{row}")).locator("td").first
    picture = panel.locator("img:visible").nth(0)
    if name == "SoupKitchen":  # the first is the greedy soup's
        picture = panel.locator("img:visible").nth(-1)
        control(panel, "combobox", "Across").select_option("held_out_loss")
        shows(page, panel, -1, "x 'held out loss'")
    # Where a run was cancelled before its first picture, there is none yet.
    before, drawn = cell.inner_text(), picture.count() and picture.get_attribute("src")
    control(panel, "slider", slider).focus()
    for _ in range(3):
        page.keyboard.press(key)
    poll(page, lambda: cell.inner_text() != before, "the number to move")
    poll(
        page,
        lambda: picture.count() and picture.get_attribute("src") != drawn,
        "the picture to move",
    )


def test_the_predictor_is_retrained_on_the_selection(page):
    panel = find(page, "ZooExplorer")
    press(page, panel, "Retrain on selection", "Enter")
    shows(page, panel, -1, "points 'held-out (24)'")
    assert panel.get_by_role("row", name="Kendall's τ").locator("td").count() == 3


@pytest.mark.parametrize("name", STOPS)
def test_nothing_is_cut_off(page, name):
    for width in (700, 1300):
        assert cut_off(page, find(page, name), width) == []


def test_names_are_there_in_an_app_too(chromium, tmp_path):
    pytest.importorskip("voila", reason="pip install -e '.[app]'")
    page = chromium.new_page()
    page.set_default_timeout(WAIT)
    try:
        with running_app(tmp_path, "swa") as app:
            page.goto(app.address, wait_until="commit")
            panel = page.get_by_role("group", name="SwaExplorer", exact=True)
            control(panel, "slider", "Average epochs to").wait_for()
            says(page, panel, " of the average, ")
            page.goto("about:blank")
            app.interrupt()
    finally:
        page.close()
