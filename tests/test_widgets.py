"""What all panels share, and CheckpointPicker, without a browser."""

import asyncio
import html
import random
import re
import subprocess
import sys
import threading

import pytest
import torch
from data_site import describe as write_manifest
from data_site import prepare, resource
from http_server import Reply, running
from torch import nn
from widgets_kit import HOSTILE, PNG, control, labels, parts, sent, text, until

from wskit import checkpoints
from wskit.errors import DataError
from wskit.spectra import spectra
from wskit.widgets import CheckpointPicker, EsdExplorer, _esd, _picker

pytestmark = pytest.mark.usefixtures("no_figure_stays_open")


@pytest.fixture
def weights():
    generator = torch.Generator().manual_seed(0)
    return {
        "conv.weight": torch.randn(16, 12, 3, 3, generator=generator),
        "conv.bias": torch.zeros(16),
        "fc.weight": torch.randn(60, 40, generator=generator),
    }


@pytest.fixture
def explorer(weights):
    panel = EsdExplorer(weights, layer="fc.weight")
    yield panel
    panel.close()


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A cache and manifests of its own, with one small net whose mirror is a folder."""
    prepare(tmp_path, monkeypatch)
    path = tmp_path / "mirror" / "nets" / "net.safetensors"
    path.parent.mkdir(parents=True)
    checkpoints.save_weights({"fc.weight": torch.eye(3)}, path)
    write_manifest(tmp_path, resource(content=path.read_bytes(), path=path.name), resource("other"))
    monkeypatch.setenv("WSKIT_MIRROR", str(tmp_path / "mirror"))
    return tmp_path


@pytest.fixture
def picker(site):
    panel = CheckpointPicker(modules={})
    yield panel
    panel.close()


# -- long work --------------------------------------------------------------------------------


@pytest.fixture
def slow(monkeypatch):
    """Every layer's work is done in a thread, and waits until it is let go."""
    gate = threading.Event()
    started = []

    def held(weights, **options):
        started.extend(options["names"])
        assert gate.wait(60)
        return spectra(weights, **options)

    monkeypatch.setattr(_esd, "_INLINE_OPERATIONS", 0)
    monkeypatch.setattr(_esd, "spectra", held)
    gate.started = started
    yield gate
    gate.set()


def test_long_work_is_shown_when_it_is_waited_for(weights, slow):
    panel = EsdExplorer(weights)
    assert panel.status == "running"
    assert panel.message == "Computing the spectrum of conv.weight."
    assert panel._busy_view.layout.visibility == "visible"
    with pytest.raises(TimeoutError, match=r"still running after 0\.01 s; wait on, or cancel"):
        panel.wait(0.01)
    slow.set()
    panel.wait()
    assert (panel.status, panel.message) == ("done", "")
    assert panel._busy_view.layout.visibility == "hidden"
    assert panel.fit is not None
    panel.wait()  # there is nothing to wait for
    panel.close()


def test_cancelled_work_is_dropped(weights, slow):
    panel = EsdExplorer(weights)
    thread = panel._thread
    control(panel, "Cancel").click()
    assert (panel.status, panel.message) == ("cancelled", "Cancelled.")
    slow.set()
    thread.join()
    panel.wait()
    assert panel.status == "cancelled"
    assert panel.spectrum is None
    panel.layer = "fc.weight"
    panel.wait()
    assert (panel.status, panel.spectrum.name) == ("done", "fc.weight")
    panel.close()


def test_newer_work_replaces_older_and_does_not_compete_with_it(weights, slow):
    panel = EsdExplorer(weights)
    until(lambda: slow.started == ["conv.weight"])
    panel.layer = "fc.weight"
    panel.layer = "conv.weight"
    panel.layer = "fc.weight"
    slow.set()
    panel.wait()
    assert panel.spectrum.name == "fc.weight"
    assert slow.started == ["conv.weight", "fc.weight"]  # the two between were never begun
    panel.close()


def test_quick_work_does_not_wait_for_cancelled_work(weights, slow, monkeypatch):
    held = _esd.spectra

    def either(weights, **options):
        return (spectra if options["names"] == ["conv.weight"] else held)(weights, **options)

    monkeypatch.setattr(_esd, "spectra", either)
    monkeypatch.setattr(_esd, "_INLINE_OPERATIONS", 5e5)  # the one layer is quick, the other not
    panel = EsdExplorer(weights, layer="fc.weight")
    until(lambda: slow.started)
    panel.layer = "conv.weight"
    assert (panel.status, panel.spectrum.name) == ("done", "conv.weight")
    panel.close()


def test_a_surprise_is_one_sentence_too_and_is_logged(weights, monkeypatch, caplog):
    def broken(*_, **__):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(_esd, "spectra", broken)
    panel = EsdExplorer(weights)
    assert panel.status == "failed"
    assert panel.message == (
        "This should not have happened: ZeroDivisionError('oh'). Please report it."
    )
    assert caplog.records[0].exc_info[0] is ZeroDivisionError
    panel.close()


def test_closing_stops_the_work(weights, slow):
    panel = EsdExplorer(weights)
    task = panel._task
    panel.close()
    assert task.cancelled.is_set()
    assert panel.status == "cancelled"


def test_a_running_loop_shows_results_in_its_own_thread(weights, slow):
    drawn_in = []

    async def notebook():
        panel = EsdExplorer(weights)
        panel.observe(lambda _: drawn_in.append(threading.current_thread()), "status")
        assert panel.status == "running"
        slow.set()
        for _ in range(3000):
            if panel.status != "running":
                break
            await asyncio.sleep(0.01)
        return panel

    panel = asyncio.run(notebook())
    assert panel.status == "done"
    assert panel.static_image().startswith(PNG)
    assert drawn_in == [threading.main_thread()]
    panel.close()


def test_a_loop_that_ended_leaves_the_result_to_wait(weights, slow):
    async def notebook():
        return EsdExplorer(weights)

    panel = asyncio.run(notebook())
    slow.set()
    panel.wait()
    assert panel.status == "done"
    panel.close()


SCRIPT = """
import torch
from wskit import landscape, widgets
draw = torch.Generator().manual_seed(0)
models = [{"w": torch.randn(64, 64, generator=draw)} for _ in range(3)]
evaluate = landscape.one_by_one(lambda w: torch.linalg.svdvals(w["w"] @ w["w"]).sum())
panel = widgets.RegionExplorer(models, evaluate, resolution=99)
print(panel.status)
"""


def test_a_script_ends_while_a_panel_works():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("running\n", "", 0)


# -- CheckpointPicker -------------------------------------------------------------------------


def test_an_entry_is_described_before_it_is_downloaded(picker, site):
    about = text(picker._about)
    for part in ("a net", "MB, to download", "licence: MIT", "https://example.org", "none"):
        assert part in about
    assert picker.checkpoint is None
    assert not (site / "cache").exists()
    control(picker, "Entry").value = "other"
    assert picker.entry == "other"
    assert "0.30 MB, to download" in text(picker._about)


def test_an_entry_is_fetched_from_the_mirror_and_opened(picker):
    control(picker, "Open").click()
    picker.wait()
    assert picker.status == "done"
    assert re.fullmatch(r"net is open: 1 tensors?, 0\.00 MB\.", picker.message)
    assert torch.equal(picker.checkpoint["fc.weight"], torch.eye(3))
    assert "in the cache" in text(picker._about)
    assert "fc.weight" in picker._table.value
    scope = {}
    exec(picker.code(), scope)
    assert scope["weights"].source == picker.checkpoint.source


def test_an_unknown_entry_is_refused(picker):
    with pytest.raises(DataError, match=r"entry must be one of \['net', 'other'\], got 'nett'"):
        picker.entry = "nett"


def test_what_cannot_be_had_is_one_sentence(picker, monkeypatch):
    monkeypatch.setenv("WSKIT_OFFLINE", "1")
    picker.entry = "other"
    picker.load()
    picker.wait()
    assert picker.status == "failed"
    assert re.match("'other' cannot be fetched", picker.message)
    assert picker.checkpoint is None


def test_a_slow_download_shows_progress_and_can_be_cancelled(site, monkeypatch):
    monkeypatch.delenv("WSKIT_MIRROR")
    content = random.Random(2).randbytes(3_000_000)
    with running() as server:
        url = server.serve("/big.pt", Reply(content=content, pause=0.1))
        entry = resource("big", content, path="big.pt", **{"wskit:urls": [url]})
        write_manifest(site, entry)
        panel = CheckpointPicker(modules={})
        panel.load()
        until(lambda: 0 < panel.progress < 1)
        thread = panel._thread
        control(panel, "Cancel").click()
        assert panel.status == "cancelled"
        thread.join(10)
        assert not thread.is_alive()
        assert panel.checkpoint is None
        assert not (site / "cache" / "nets" / "big.pt").exists()
        panel.close()


def test_a_path_is_opened(picker, site):
    path = site / "mirror" / "nets" / "net.safetensors"
    control(picker, "From").value = "path"
    control(picker, "Path").value = f" {path} "
    assert picker.path == f" {path} "
    control(picker, "Open").click()
    picker.wait()
    assert picker.checkpoint.source == str(path)
    picker.path = f"{path}"
    scope = {}
    exec(picker.code(), scope)
    assert list(scope["weights"]) == ["fc.weight"]


def press(panel, button, **texts):
    """Send what the browser sends where texts were typed before a button is pressed."""
    message = {"texts": list(texts.items()), "button": button}
    panel._state_view.children[-1]._handle_custom_msg(message, [])


def test_what_was_typed_is_entered_before_a_button_is_pressed(picker, explorer, site):
    picker.origin = "path"
    press(picker, "Open", Path=str(site / "mirror" / "nets" / "net.safetensors"))
    picker.wait()
    assert picker.message.startswith(f"{picker.path} is open")
    control(explorer, "Table of layers").on_click(lambda _: explorer.cancel())
    press(explorer, "Table of layers", Bins="31", xmin="12.5")
    assert (explorer.bins, explorer.xmin) == (31, 12.5)
    press(explorer, "Best xmin", Bins="")  # of what is no number the field shows nothing
    assert (explorer.bins, explorer.xmin) == (31, None)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/no/such/file.safetensors", "/no/such/file.safetensors"),
        ("  ", "Give the path of a file or a folder of weights."),
        (HOSTILE + ".pt", re.escape(HOSTILE)),
    ],
)
def test_a_bad_path_is_one_sentence(picker, path, message):
    picker.origin, picker.path = "path", path
    picker.load()
    picker.wait()
    assert picker.status == "failed"
    assert re.search(message, picker.message)
    assert "\n" not in picker.message
    assert picker.checkpoint is None
    shown = picker._message_view.value
    assert html.escape(picker.message) in shown
    assert "<img" not in shown


def test_a_failure_closes_what_was_shown_before(picker):
    picker.load()
    picker.wait()
    assert picker._table.value
    picker.origin, picker.path = "path", "/no/such/file.pt"
    picker.load()
    picker.wait()
    assert picker.checkpoint is None
    assert picker._table.value == ""


def test_a_module_of_the_session_is_opened(site):
    models = {}
    panel = CheckpointPicker(modules=models)
    control(panel, "From").value = "session"
    panel.load()
    assert (
        panel.message
        == "No torch module is among the notebook's variables; make one, then Refresh."
    )
    assert panel.status == "failed"
    models = {"first": nn.Linear(3, 2), "second": nn.Linear(5, 4)}
    panel._modules = models
    control(panel, "Refresh").click()
    assert control(panel, "Module").options == ("first", "second")
    assert panel.variable == "first"
    control(panel, "Module").value = "second"
    assert panel.variable == "second"
    control(panel, "Open").click()
    assert panel.checkpoint.shape("weight") == (4, 5)
    scope = dict(models)
    exec(panel.code(), scope)
    assert scope["weights"].shape("weight") == (4, 5)
    panel.close()


def test_options_and_value_of_a_control_are_one_message(site):
    panel = CheckpointPicker(modules={"first": nn.Linear(3, 2)})
    with sent(panel._variable) as messages:
        panel.origin = "session"
    assert [set(m["state"]) for m in messages] == [{"_options_labels", "index"}]
    panel.close()


def upload(panel, name, content):
    """Send what the browser sends."""
    file = {"name": name, "type": "", "size": len(content), "last_modified": 0}
    panel._choosers["upload"].set_state({"value": [{**file, "content": memoryview(content)}]})


def test_a_small_file_is_uploaded_and_opened(picker, site):
    content = (site / "mirror" / "nets" / "net.safetensors").read_bytes()
    picker.origin = "upload"
    upload(picker, "mine.safetensors", content)
    assert picker.status == "done"
    assert torch.equal(picker.checkpoint["fc.weight"], torch.eye(3))
    first = picker.checkpoint
    upload(picker, "../../again.safetensors", content)
    assert picker.checkpoint.source != first.source
    assert torch.equal(first["fc.weight"], torch.eye(3))
    folder = picker._folder.name
    assert picker.checkpoint.source.startswith(folder)
    scope = {}
    exec(picker.code(), scope)
    assert list(scope["weights"]) == ["fc.weight"]
    picker.close()
    assert not _picker.Path(folder).exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("evil.txt", b"", r"evil\.txt: expected one of \.safetensors, "),
        (HOSTILE, b"", "expected one of"),
        (
            "big.pt",
            bytes(_picker._UPLOAD_LIMIT + 2**20),
            r"big\.pt has 9\.0 MiB, and an upload may have 8; put it beside the notebook",
        ),
        ("damaged.safetensors", b"abc", "upload.safetensors"),
        ("damaged.pt", b"PK\x03\x04 abc", "upload.pt"),
    ],
)
def test_a_bad_upload_is_one_sentence(picker, name, content, message):
    upload(picker, name, content)
    assert picker.origin == "upload"
    assert picker.status == "failed"
    assert re.search(message, picker.message)
    assert "\n" not in picker.message
    assert picker.checkpoint is None
    assert "<img" not in picker._message_view.value


def test_every_control_has_a_label(picker, explorer):
    boxes = [each for panel in (picker, explorer) for each in parts(panel)]
    named = {type(box).__name__ for box in boxes if getattr(box, "description", "")}
    unnamed = {type(box).__name__ for box in boxes if getattr(box, "description", None) == ""}
    assert unnamed <= {"HTML", "Picture", "FloatProgress"}
    assert not named & unnamed
    assert {"Entry", "From", "Open", "Cancel"} <= labels(picker)
