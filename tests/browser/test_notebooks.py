"""Every tutorial in JupyterLab: all cells run, nothing goes wrong, each panel is moved once.

Fewer networks are trained than on the page: what the cells print is compared elsewhere.
"""

import json
import re

import pytest
from lab_kit import ROOT, control, poll, run_all, shut_down
from sheet_kit import photograph

_PANEL = re.compile(r"\b(?:CheckpointPicker|SoupKitchen|[A-Z]\w*Explorer)\(")
# The size knobs of the longer pages, and what they are turned to.
_KNOBS = {
    "02_predicting_accuracy": ("N_MODELS, N_UPDATES = 256, 120", "N_MODELS, N_UPDATES = 160, 30"),
    "03_knowledge_regions": ("N_BASES, N_SEEDS = 5, 5", "N_BASES, N_SEEDS = 2, 5"),
    "04_swa": ("N_SEEDS = 10", "N_SEEDS = 2"),
    "05_model_soups": ("N_SEEDS, N_FEW, FIRST = 20, 10, 200", "N_SEEDS, N_FEW, FIRST = 4, 3, 200"),
}
_OUTPUT = '.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.{}"]'


def turn_knobs(path):
    """Have a copy of a tutorial train fewer networks."""
    if path.stem in _KNOBS:
        text = path.read_text("utf-8")
        usual, small = _KNOBS[path.stem]
        assert text.count(f'"{usual} ') == 1, "the page has other knobs now"
        path.write_text(text.replace(f'"{usual} ', f'"{small} '), "utf-8")


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


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "notebooks").glob("*.ipynb")))
def test_all_cells_run_and_every_panel_moves(tab, lab, name):
    tab.problems.clear()
    turn_knobs(lab.folder / name)
    try:
        run_all(tab, lab, name)
        assert texts(tab, "stderr") == texts(tab, "error") == []
        photograph(tab, name.removesuffix(".ipynb"))
        panels = tab.locator(".wskit-panel")
        assert panels.count() == panels_of(lab.folder / name) > 0
        for panel in panels.all():
            move(tab, panel)
        assert texts(tab, "stderr") == texts(tab, "error") == []
        assert tab.problems == []
    finally:
        shut_down(lab)
