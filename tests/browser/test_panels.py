"""CheckpointPicker, and long work in EsdExplorer, in a small notebook."""

import pytest
import torch
from data_site import describe as write_manifest
from data_site import resource
from lab_kit import control, poll, says, shows

from wskit.checkpoints import save_weights

PANEL = ".wskit-checkpoint-picker"
CELLS = [
    """\
import os
from pathlib import Path
import torch
from wskit import widgets
from wskit.data import _manifests
os.environ["WSKIT_MIRROR"] = str(Path("mirror").resolve())
_manifests.manifest_folder = lambda: Path("manifests")
model = torch.nn.Linear(5, 4)
picker = widgets.CheckpointPicker()
picker""",
    """\
import ipywidgets, time
slow = ipywidgets.Text(description="Slow", continuous_update=False)
slow.observe(lambda _: time.sleep(2), "value")
slow""",
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


@pytest.fixture(scope="module", autouse=True)
def mirror(lab):
    """Beside the notebook, a catalogue and a mirror of it."""
    path = lab.folder / "mirror" / "nets" / "net.safetensors"
    path.parent.mkdir(parents=True)
    (lab.folder / "manifests").mkdir()
    save_weights({"fc.weight": torch.eye(3)}, path)
    entries = resource(content=path.read_bytes(), path=path.name), resource("other")
    write_manifest(lab.folder, *entries)


def test_an_entry_is_described_fetched_from_the_mirror_and_opened(page):
    entry = page.panel.get_by_role("combobox", name="Entry")
    entry.select_option("other")
    poll(page, lambda: "0.30 MB, to download; licence: MIT" in page.panel.inner_text(), "the size")
    entry.select_option("net")
    poll(page, lambda: "0.30 MB" not in page.panel.inner_text(), "another size")
    page.panel.get_by_text("How to cite it").click()
    assert page.panel.locator("pre").inner_text() == "none"
    page.panel.get_by_role("button", name="Open").focus()
    page.keyboard.press("Enter")
    says(page, page.panel, "net is open: 1 tensor")
    assert page.panel.get_by_role("row", name="fc.weight").is_visible()
    assert "in the cache" in page.panel.inner_text()


def test_a_bad_path_shows_one_sentence(page):
    page.panel.get_by_role("button", name="path").click()
    path = page.panel.get_by_role("textbox", name="Path")
    path.fill("<img src=x onerror=console.error(1)>.pt")
    page.panel.get_by_role("button", name="Open").click()
    says(page, page.panel, "<img src=x onerror=console.error(1)>.pt")
    assert page.panel.locator("img").count() == 0
    assert page.panel.get_by_role("table").count() == 0
    path.fill("mirror/nets/net.safetensors")
    page.panel.get_by_role("button", name="Open").click()
    says(page, page.panel, "net.safetensors is open")


def test_a_path_is_entered_before_it_is_opened_and_not_overwritten(page):
    """A field that was used before has its messages handled in another thread than a button."""
    path = control(page.panel, "textbox", "Path")
    slow = page.get_by_role("textbox", name="Slow")
    for text in ("a", "b"):  # the second time it is in that thread, and keeps it busy
        slow.fill(text)
        slow.press("Enter")
        page.wait_for_timeout(2500 if text == "a" else 100)
    path.fill("nothing.pt")
    control(page.panel, "button", "Open").click()
    path.fill("mirror/nets/")
    for letter in (typed := "net.safetensors.and.more.and.more"):
        path.press("End")
        page.keyboard.type(letter)
        page.wait_for_timeout(100)
    says(page, page.panel, "nothing.pt")
    assert path.input_value() == f"mirror/nets/{typed}"


def test_a_module_of_the_session_is_opened(page):
    page.panel.get_by_role("button", name="session").click()
    page.panel.get_by_role("combobox", name="Module").select_option("model")
    page.panel.get_by_role("button", name="Refresh").click()
    page.panel.get_by_role("button", name="Open").click()
    says(page, page.panel, "model is open: 2 tensors")


def test_a_file_is_uploaded(page, lab):
    page.panel.get_by_role("button", name="upload", exact=True).click()
    send(page, lab.folder / "mirror" / "nets" / "net.safetensors")
    says(page, page.panel, "the upload is open: 1 tensor")
    send(page, {"name": "evil.txt", "mimeType": "text/plain", "buffer": b"x"})
    says(page, page.panel, "evil.txt: expected one of .safetensors")


def send(page, file):
    with page.expect_file_chooser() as chooser:
        page.panel.get_by_role("button", name="Upload (at most 8 MiB)").click()
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


def test_a_training_run_is_gone_through(page):
    panel = page.locator(".wskit-esd-explorer").last
    panel.scroll_into_view_if_needed()

    shows(page, panel, 0, "'step 0'", "first")
    control(panel, "slider", "Step").focus()
    page.keyboard.press("ArrowRight")
    shows(page, panel, 0, "'step 100'", "first")
    panel.get_by_role("combobox", name="Compare with").focus()
    page.keyboard.press("End")
    shows(page, panel, 0, "'step 100'", "'step 200'")
    panel.get_by_role("button", name="Table of layers").focus()
    page.keyboard.press("Enter")
    panel.get_by_role("row", name="second").wait_for()
    panel.get_by_role("combobox", name="Layer").select_option("second")
    shows(page, panel, 0, "'step 100'", "'step 200'", "second  (50 × 20)")
