"""Every panel by ear and by keyboard: what a screen reader is told, Tab, the keys of controls."""

import pytest
import test_region_explorer
import test_soup_kitchen
import test_swa_explorer
import test_zoo_explorer
from app_kit import running_app
from lab_kit import WAIT, control, poll, says

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
    *test_region_explorer.CELLS,
    *test_soup_kitchen.CELLS,
    *test_zoo_explorer.CELLS,
    *test_swa_explorer.CELLS,
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
        *("button Table of layers", "link Save picture"),
    ],
    "RegionExplorer": [
        *("combobox First model", "combobox Second model", "combobox Third model"),
        *("slider Share of the first", "textbox Share of the first, as a number"),
        *("slider Share of the second", "textbox Share of the second, as a number"),
        *("button Centre", "combobox Landscape of", "checkbox Random control"),
    ],
    "SoupKitchen": [
        *("button All", "button None", "button Equal shares"),
        *("button Greedy step", "button Greedy", "button Suggest", "combobox Score"),
        *(f"{what}{name}" for name in SHARES for what in ("checkbox ", "slider share of ")),
        *("combobox Across", "combobox Up", "textbox File", "button Save…"),
    ],
    "ZooExplorer": [
        *("combobox x", "combobox y", "combobox Colour"),
        *("slider Select x from", "slider Select x to"),
        *("slider Select y from", "slider Select y to", "button Select all"),
        *("spinbutton Model", "button Retrain on selection"),
        *("button Train more models", "spinbutton How many"),
        "listbox Model run epoch test accuracy",
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
    "listbox": "ArrowDown",
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
    operate(page, panel, "spinbutton", "Bins")
    tail = control(panel, "slider", "Tail from")
    best = tail.get_attribute("aria-valuenow")
    operate(page, panel, "slider", "Tail from", "ArrowLeft")
    press(page, panel, "Best xmin", "Space")
    poll(page, lambda: tail.get_attribute("aria-valuenow") == best, "the best xmin")
    press(page, panel, "Table of layers", "Enter")
    # Shown after all other views, and its keys are its own all the same.
    operate(page, panel, "listbox", "Layer N × M α spikes phase")


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


def test_zoo_explorer_is_used_by_keyboard(page):
    panel = find(page, "ZooExplorer")
    operate(page, panel, "combobox", "Colour")
    operate(page, panel, "spinbutton", "Model")
    operate(page, panel, "slider", "Select x from")
    says(page, panel, "23 of 24 models are selected.")
    operate(page, panel, "listbox", "Model run epoch test accuracy", "ArrowUp")  # it was the last
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
