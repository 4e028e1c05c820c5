"""Every tutorial in JupyterLab: all cells run, nothing goes wrong, each panel is moved once."""

import json
import re

import pytest
from lab_kit import ROOT, control, poll, run_all, shut_down
from sheet_kit import photograph

_PANEL = re.compile(r"\b(?:CheckpointPicker|SoupKitchen|[A-Z]\w*Explorer)\(")
_OUTPUT = '.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.{}"]'


def longest_first():
    """The tutorials, so that of two workers neither is left with a long one at the end."""
    seconds = json.loads((ROOT / "notebooks" / "timings.json").read_text("utf-8"))
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))
    return sorted(paths, key=lambda path: -seconds.get(path.stem, {"seconds": 60})["seconds"])


def panels_of(path):
    """How many panels its cells make."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return sum(len(_PANEL.findall(source)) for source in code)


def told(panel):
    """What the kernel has the panel say: its pictures' descriptions, or its text if it has none."""
    pictures = panel.locator("img").all()
    return [picture.get_attribute("alt") for picture in pictures] or panel.inner_text()


def move(page, panel):
    """Move a control of the panel by keyboard, and wait until it says something else."""
    panel.scroll_into_view_if_needed()
    if panel.get_by_role("slider").count():
        handle = panel.get_by_role("slider").first
        handle.focus()
        now, least = (float(handle.get_attribute(f"aria-value{end}")) for end in ("now", "min"))
        key = "Home" if now > least else "End"
    else:  # the picker
        control(panel, "button", "catalogue").focus()
        page.keyboard.press("Enter")
        control(panel, "combobox", "Entry").focus()
        key = "ArrowDown"
    before = told(panel)
    page.keyboard.press(key)
    poll(page, lambda: told(panel) != before, "the panel to say something else")


def texts(page, kind):
    return page.locator(_OUTPUT.format(kind)).all_inner_texts()


@pytest.mark.parametrize(
    "path",
    longest_first(),
    ids=lambda path: path.stem,
)
def test_all_cells_run_and_every_panel_moves(tab, lab, path):
    tab.problems.clear()
    try:
        run_all(tab, lab, path.name)
        assert texts(tab, "stderr") == texts(tab, "error") == []
        photograph(tab, path.stem)
        panels = tab.locator(".wskit-panel")
        assert panels.count() == panels_of(path) > 0
        for panel in panels.all():
            move(tab, panel)
        assert texts(tab, "stderr") == texts(tab, "error") == []
        assert tab.problems == []
    finally:
        shut_down(lab)
