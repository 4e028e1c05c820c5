"""CheckpointPicker, and long work in EsdExplorer, in a small notebook."""

import pytest
import torch
from data_site import describe as write_manifest
from data_site import resource
from lab_kit import poll, run_all, says, shows, shut_down

from wskit.checkpoints import save_weights

NOTEBOOK = "panels.ipynb"
CELLS = [
    """\
from pathlib import Path
import torch
from wskit import widgets
from wskit.data import _manifests
_manifests.manifest_folder = lambda: Path("manifests")
model = torch.nn.Linear(5, 4)
picker = widgets.CheckpointPicker()
picker""",
    """\
weights = {"small": torch.randn(30, 20), "large": torch.randn(3000, 3000)}
widgets.EsdExplorer(weights)""",
    """\
draw = torch.Generator().manual_seed(0)
steps = (0, 100, 200)
layers = {"first": (40, 30), "second": (50, 20)}
run = {i: {n: torch.randn(s, generator=draw) for n, s in layers.items()} for i in steps}
widgets.EsdExplorer(run)""",
]


@pytest.fixture(scope="module")
def notebook(tab, lab):
    path = lab.folder / "mirror" / "nets" / "net.safetensors"
    path.parent.mkdir(parents=True)
    (lab.folder / "manifests").mkdir()
    save_weights({"fc.weight": torch.eye(3)}, path)
    entries = resource(content=path.read_bytes(), path=path.name), resource("other")
    write_manifest(lab.folder, *entries)
    mirror = f"import os\nos.environ['WSKIT_MIRROR'] = {str(lab.folder / 'mirror')!r}"
    lab.write(NOTEBOOK, mirror, *CELLS)
    run_all(tab, lab, NOTEBOOK)
    yield tab
    shut_down(lab)


@pytest.fixture
def page(notebook):
    yield notebook
    assert notebook.problems == []


@pytest.fixture
def picker(page):
    panel = page.locator(".wskit-checkpoint-picker")
    panel.scroll_into_view_if_needed()
    return panel


def test_an_entry_is_described_fetched_from_the_mirror_and_opened(page, picker):
    entry = picker.get_by_role("combobox", name="Entry")
    entry.select_option("other")
    poll(page, lambda: "0.30 MB, to download; licence: MIT" in picker.inner_text(), "the size")
    entry.select_option("net")
    picker.get_by_text("How to cite it").click()
    assert picker.locator("pre").inner_text() == "none"
    picker.get_by_role("button", name="Open").focus()
    page.keyboard.press("Enter")
    says(page, picker, "net is open: 1 tensor")
    assert picker.get_by_role("row", name="fc.weight").is_visible()
    assert "in the cache" in picker.inner_text()


def test_a_bad_path_shows_one_sentence(page, picker):
    picker.get_by_role("button", name="path").click()
    path = picker.get_by_role("textbox", name="Path")
    path.fill("<img src=x onerror=console.error(1)>.pt")
    picker.get_by_role("button", name="Open").click()
    says(page, picker, "<img src=x onerror=console.error(1)>.pt")
    assert picker.locator("img").count() == 0
    assert picker.get_by_role("table").count() == 0
    path.fill("mirror/nets/net.safetensors")
    picker.get_by_role("button", name="Open").click()
    says(page, picker, "net.safetensors is open")


def test_a_module_of_the_session_is_opened(page, picker):
    picker.get_by_role("button", name="session").click()
    picker.get_by_role("combobox", name="Module").select_option("model")
    picker.get_by_role("button", name="Refresh").click()
    picker.get_by_role("button", name="Open").click()
    says(page, picker, "model is open: 2 tensors")


def test_a_file_is_uploaded(page, picker, lab):
    picker.get_by_role("button", name="upload", exact=True).click()
    send(page, picker, lab.folder / "mirror" / "nets" / "net.safetensors")
    says(page, picker, "the upload is open: 1 tensor")
    send(page, picker, {"name": "evil.txt", "mimeType": "text/plain", "buffer": b"x"})
    says(page, picker, "evil.txt: expected one of .safetensors")


def send(page, picker, file):
    with page.expect_file_chooser() as chooser:
        picker.get_by_role("button", name="Upload (at most 8 MiB)").click()
    chooser.value.set_files(file)


def test_long_work_is_cancelled_by_its_button(page):
    panel = page.locator(".wskit-esd-explorer").first
    panel.scroll_into_view_if_needed()
    cancel = panel.get_by_role("button", name="Cancel")
    assert cancel.count() == 0  # hidden while there is nothing to cancel
    layer = panel.get_by_role("combobox", name="Layer")
    layer.select_option("large")
    says(page, panel, "Computing the spectrum of large.")
    height = panel.bounding_box()["height"]
    cancel.click()
    says(page, panel, "Cancelled.")
    layer.select_option("small")
    panel.locator("img").wait_for()
    assert "small" in panel.locator("img").get_attribute("alt")
    assert panel.bounding_box()["height"] == pytest.approx(height, abs=2)


def test_a_training_run_is_gone_through_and_a_row_of_the_table_chosen(page):
    panel = page.locator(".wskit-esd-explorer").last
    panel.scroll_into_view_if_needed()

    shows(page, panel, 0, "'step 0'", "first")
    panel.get_by_role("slider").first.focus()  # of Step; ipywidgets gives handles no name
    page.keyboard.press("ArrowRight")
    shows(page, panel, 0, "'step 100'", "first")
    panel.get_by_role("combobox", name="Compare with").focus()
    page.keyboard.press("End")
    shows(page, panel, 0, "'step 100'", "'step 200'")
    panel.get_by_role("button", name="Table of layers").focus()
    page.keyboard.press("Enter")
    rows = panel.get_by_role("listbox")
    rows.wait_for()
    assert rows.get_by_role("option").count() == 2
    rows.get_by_role("option").last.click()  # JupyterLab takes the arrow keys for its cells
    shows(page, panel, 0, "'step 100'", "'step 200'", "second  (50 × 20)")
    saved = panel.get_by_role("link")
    assert saved.count() == 2, "picture and table"
    with page.expect_download() as download:
        saved.last.click()
    assert download.value.suggested_filename.endswith(".csv")
