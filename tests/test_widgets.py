import asyncio
import base64
import contextlib
import html
import random
import re
import threading
import time

import ipywidgets
import matplotlib.pyplot as plt
import pytest
import torch
from data_site import describe as write_manifest
from data_site import prepare, resource
from http_server import Reply, running
from torch import nn

from wskit import checkpoints, plots
from wskit.errors import DataError, SpectrumError
from wskit.fits import fit_power_law
from wskit.spectra import spectrum
from wskit.widgets import CheckpointPicker, EsdExplorer, _esd, _picker

HOSTILE = "<img src=x onerror=alert(1)>"
PNG = b"\x89PNG\r\n\x1a\n"


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


def control(panel, description, kind=ipywidgets.Widget):
    """The control that has this label."""
    found, todo = [], [panel]
    while todo:
        widget = todo.pop()
        todo += getattr(widget, "children", ())
        if getattr(widget, "description", None) == description and isinstance(widget, kind):
            found.append(widget)
    (only,) = found
    return only


def text(view):
    """What an HTML view says, without its tags."""
    return html.unescape(re.sub("<[^>]*>", " ", view.value))


@contextlib.contextmanager
def sent(widget):
    """The messages to the page about a control's state."""
    messages, send = [], widget.comm.send

    def note(data=None, **options):
        messages.append(data)
        send(data, **options)

    widget.comm.send = note
    try:
        yield messages
    finally:
        del widget.comm.send


def number(panel, key):
    """A number of the table beside the picture."""
    _, _, rest = text(panel._numbers).partition(f" {key} ")
    return float(rest.split()[0])


def picture_of(panel):
    """The picture that the page shows, and its alternative text."""
    match = re.search(
        r'<img alt="([^"]*)" src="data:image/png;base64,([^"]*)"', panel._picture.value
    )
    return base64.b64decode(match[2]), html.unescape(match[1])


def assert_code_draws_the_screen(panel, **names):
    scope = dict(names)
    exec(panel.code(), scope)
    try:
        assert plots.describe(scope["ax"]) == panel.describe()
    finally:
        plt.close(scope["ax"].figure)


# -- EsdExplorer ------------------------------------------------------------------------------


def test_it_opens_on_the_first_layer_that_has_a_matrix(weights):
    panel = EsdExplorer({"b": torch.zeros(3), **weights})
    assert (panel.layer, panel.status, panel.message) == ("conv.weight", "done", "")
    assert panel.spectrum.eigenvalues.size == 9 * 12
    assert panel.fit == panel.best == fit_power_law(panel.spectrum.eigenvalues)
    panel.close()


@pytest.mark.parametrize(
    ("label", "trait", "value"),
    [
        ("Layer", "layer", "conv.weight"),
        ("Axes", "scale", "linear"),
        ("Bins", "bins", 20),
        ("Power law", "show_fit", False),
        ("Shuffled weights", "show_null", True),
    ],
)
def test_a_control_and_its_trait_move_each_other(explorer, weights, label, trait, value):
    box = control(explorer, label)
    before, png = getattr(explorer, trait), explorer.static_image()
    box.value = value
    assert getattr(explorer, trait) == value
    changed = explorer.static_image()
    assert changed.startswith(PNG)
    assert changed != png
    assert picture_of(explorer) == (changed, explorer.describe())
    setattr(explorer, trait, before)
    assert box.value == before
    assert explorer.static_image() == png


def test_the_slider_moves_xmin_over_the_eigenvalues(explorer):
    slider, field = control(explorer, "Tail from"), control(explorer, "xmin")
    eigenvalues = explorer.spectrum.eigenvalues
    assert explorer.xmin is None
    assert eigenvalues[slider.value] == explorer.best.xmin
    assert slider.max == eigenvalues.size - 2  # a tail of one value has no exponent
    for index in (0, 7, slider.max):
        slider.value = index
        assert explorer.xmin == eigenvalues[index]
        assert explorer.fit == fit_power_law(eigenvalues, xmin=eigenvalues[index])
        assert field.value == pytest.approx(eigenvalues[index], rel=1e-3)
        assert number(explorer, "α") == pytest.approx(explorer.fit.alpha, abs=1e-3)
        assert number(explorer, "xmin") == pytest.approx(eigenvalues[index], rel=1e-3)
        assert number(explorer, "KS distance") == pytest.approx(explorer.fit.ks, abs=1e-4)
    control(explorer, "Best xmin").click()
    assert explorer.xmin is None
    assert eigenvalues[slider.value] == explorer.best.xmin


def test_the_field_takes_any_xmin_and_the_slider_follows(explorer):
    slider, field = control(explorer, "Tail from"), control(explorer, "xmin")
    eigenvalues = explorer.spectrum.eigenvalues
    between = (eigenvalues[9] + eigenvalues[10]) / 2
    field.value = between
    assert explorer.xmin == between == explorer.fit.xmin
    assert slider.value == 10
    assert explorer.fit.n_tail == eigenvalues.size - 10


def test_the_best_xmin_is_marked_where_another_is_shown(explorer):
    assert "best xmin" not in explorer.describe()
    explorer.xmin = float(explorer.spectrum.eigenvalues[3])
    mark = next(line for line in explorer.ax.get_lines() if line.get_label() == "best xmin")
    assert mark.get_xdata() == [explorer.best.xmin] * 2
    explorer.show_fit = False
    assert "best xmin" not in explorer.describe()


def test_what_is_shown_can_be_switched_off_and_on(explorer):
    assert "power law" in explorer.describe()
    explorer.show_fit = False
    assert "power law" not in explorer.describe()
    explorer.show_null = True
    assert "shuffled weights" in explorer.describe()
    trace = (explorer.null.eigenvalues.sum(), explorer.spectrum.eigenvalues.sum())
    assert trace[0] == pytest.approx(trace[1])  # the same entries
    assert explorer.null.eigenvalues[-1] != explorer.spectrum.eigenvalues[-1]
    explorer.show_null = False
    assert "shuffled weights" not in explorer.describe()


def test_another_layer_begins_with_its_best_xmin(explorer):
    explorer.xmin = float(explorer.spectrum.eigenvalues[3])
    explorer.layer = "conv.weight"
    assert explorer.xmin is None
    assert explorer.fit == fit_power_law(explorer.spectrum.eigenvalues)
    assert "conv.weight" in text(explorer._numbers)
    assert "9 × 16 × 12" in text(explorer._numbers)


def test_nothing_jumps_when_a_number_is_missing(explorer):
    rows = explorer._numbers.value.count("<tr>")
    explorer.xmin = 1e9
    assert explorer._numbers.value.count("<tr>") == rows


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"layer": "conv.weight", "scale": "log-linear", "bins": 17},
        {"xmin": 30.0},
        {"xmin": 30.0, "show_null": True, "scale": "linear"},
        {"xmin": 30.0, "show_fit": False},
        {"show_fit": False, "show_null": True},
        {"xmin": 1e9},  # no fit is shown
    ],
)
def test_the_code_reproduces_the_screen(explorer, weights, state):
    for name, value in state.items():
        setattr(explorer, name, value)
    assert_code_draws_the_screen(explorer, weights=weights)


def test_the_code_follows_the_rule_for_convolutions(weights):
    panel = EsdExplorer(weights, layer="conv.weight", conv="unfold")
    assert panel.spectrum.N == 12 * 9
    assert_code_draws_the_screen(panel, weights=weights)
    panel.close()


def test_the_code_opens_the_file_that_the_weights_came_from(weights, tmp_path):
    path = tmp_path / "it's.safetensors"
    checkpoints.save_weights(weights, path)
    with checkpoints.open_checkpoint(path) as ckpt:
        panel = EsdExplorer(ckpt, layer="fc.weight")
        assert_code_draws_the_screen(panel)
        panel.close()


@pytest.mark.parametrize("xmin", [1e9, -1.0, 0.0, float("nan"), float("inf")])
def test_an_xmin_out_of_range_is_one_sentence(explorer, xmin):
    explorer.xmin = xmin
    assert explorer.status == "failed"
    assert re.search("xmin", explorer.message)
    assert explorer.fit is None
    assert "power law" not in explorer.describe()
    assert explorer.message in text(explorer._message_view)
    explorer.xmin = None
    assert (explorer.status, explorer.message) == ("done", "")


def test_a_layer_with_nan_is_one_sentence_and_the_next_layer_works(weights):
    weights["bad.weight"] = torch.full((4, 3), float("nan"))
    panel = EsdExplorer(weights)
    panel.layer = "bad.weight"
    assert panel.status == "failed"
    assert re.match(
        "tensor 'bad.weight' holds NaN or inf in 12 of its 12 entries; the model", panel.message
    )
    assert panel.spectrum is panel.fit is panel.ax is None
    assert panel.static_image() == b""
    assert panel.describe() == panel.message
    assert "img" not in panel._picture.value
    control(panel, "Tail from").value = 0  # harmless while there is nothing to show
    panel.layer = "fc.weight"
    assert (panel.status, panel.message) == ("done", "")
    assert panel.spectrum.name == "fc.weight"
    panel.close()


def test_weights_of_zeros_have_no_fit_and_say_so(weights):
    panel = EsdExplorer({"zero": torch.zeros(5, 4)})
    assert panel.status == "failed"
    assert panel.fit is None
    assert "histogram" in panel.describe()
    assert re.search("power law|positive|tail", panel.message, re.IGNORECASE)
    panel.close()


def test_weights_without_a_matrix_are_refused():
    with pytest.raises(SpectrumError, match=r"None of the 1 tensors has a matrix; .*inventory"):
        EsdExplorer({"bias": torch.zeros(3)})


def test_an_unknown_layer_is_refused_with_the_choices(weights):
    with pytest.raises(SpectrumError, match=r"no layer 'fc' with a matrix; choose .*fc\.weight"):
        EsdExplorer(weights, layer="fc")


def test_a_hostile_name_is_shown_and_does_nothing():
    panel = EsdExplorer({HOSTILE: torch.eye(4) + 1})
    for view in (panel._numbers, panel._picture, panel._message_view):
        assert "<img src=x" not in view.value
    assert html.escape(HOSTILE) in panel._numbers.value
    assert picture_of(panel)[1] == panel.describe()
    panel.close()


def test_a_name_with_dollar_signs_is_no_formula():
    panel = EsdExplorer({r"$\frac{$": torch.eye(4) + 1})
    assert (panel.status, panel.message) == ("done", "")
    assert panel.static_image().startswith(PNG)
    panel.close()


def test_a_page_without_a_kernel_shows_picture_and_description(explorer):
    bundle = explorer._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]) == explorer.static_image()
    assert bundle["text/plain"] == explorer.describe()
    assert bundle["text/plain"].startswith("Axes 'fc.weight  (60 × 40)'")
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_the_same_state_gives_the_same_bytes(explorer, weights):
    other = EsdExplorer(weights, layer="fc.weight")
    assert other.static_image() == explorer.static_image()
    other.close()


# -- long work --------------------------------------------------------------------------------


@pytest.fixture
def slow(monkeypatch):
    """Every layer's work is done in a thread, and waits until it is let go."""
    gate = threading.Event()
    started = []

    def held(W, **options):
        started.append(options.get("name", ""))
        assert gate.wait(30)
        return spectrum(W, **options)

    monkeypatch.setattr(_esd, "_INLINE_OPERATIONS", 0)
    monkeypatch.setattr(_esd, "spectrum", held)
    gate.started = started
    yield gate
    gate.set()


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


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
    held = _esd.spectrum
    monkeypatch.setattr(
        _esd, "spectrum", lambda W, **o: (spectrum if W.ndim == 4 else held)(W, **o)
    )
    monkeypatch.setattr(_esd, "_INLINE_OPERATIONS", 5e5)  # the one layer is quick, the other not
    panel = EsdExplorer(weights, layer="fc.weight")
    until(lambda: slow.started)
    panel.layer = "conv.weight"
    assert (panel.status, panel.spectrum.name) == ("done", "conv.weight")
    panel.close()


def test_a_failure_in_the_thread_is_one_sentence(weights, slow):
    weights["conv.weight"][0] = torch.inf
    slow.set()
    panel = EsdExplorer(weights)
    panel.wait()
    assert panel.status == "failed"
    assert "holds NaN or inf" in panel.message
    panel.close()


def test_a_surprise_is_one_sentence_too_and_is_logged(weights, monkeypatch, caplog):
    def broken(W, **options):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(_esd, "spectrum", broken)
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
    with pytest.raises(DataError, match=r"no weights called 'nett'; choose one of .*'net'"):
        picker.entry = "nett"


def test_what_cannot_be_had_is_one_sentence(picker, monkeypatch):
    monkeypatch.setenv("WSKIT_OFFLINE", "1")
    picker.entry = "other"
    picker.load()
    picker.wait()
    assert picker.status == "failed"
    assert re.match("'other' cannot be had", picker.message)
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


def test_a_module_that_is_gone_is_one_sentence(site):
    panel = CheckpointPicker(modules={"first": nn.Linear(3, 2)})
    panel.origin = "session"
    panel._modules = {"other": nn.Linear(3, 2)}
    panel.load()
    assert panel.message == "'first' is no module here; choose one of ['other']."
    panel.close()


def test_without_a_notebook_the_session_is_empty(site):
    panel = CheckpointPicker()
    assert panel.modules() == {}
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
        ("evil.txt", b"", r"evil\.txt: expected one of \.safetensors, .*; choose another file\."),
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


def test_an_upload_that_was_not_made_is_one_sentence(picker):
    picker.origin = "upload"
    picker.load()
    assert picker.message == "Choose a file to upload first."
    assert "your-file" in picker.code()


def test_a_hostile_manifest_is_shown_and_does_nothing(site):
    write_manifest(site, resource(title=HOSTILE))
    panel = CheckpointPicker(modules={})
    assert html.escape(HOSTILE) in panel._about.value
    assert "<img" not in panel._about.value
    panel.close()


def test_hostile_tensor_names_are_escaped_in_the_table(picker, site):
    path = site / "hostile.safetensors"
    checkpoints.save_weights({HOSTILE: torch.eye(3)}, path)
    picker.origin, picker.path = "path", str(path)
    picker.load()
    picker.wait()
    assert html.escape(HOSTILE) in picker._table.value
    assert "<img" not in picker._table.value


def test_the_picker_describes_itself_without_a_kernel(picker):
    bundle = picker._repr_mimebundle_()
    assert bundle["text/plain"] == "Nothing is open yet."
    assert "image/png" not in bundle


def test_every_control_has_a_label(picker, explorer):
    seen, todo = [], [picker, explorer, *picker._choosers.values()]
    while todo:
        widget = todo.pop()
        todo += getattr(widget, "children", ())
        if hasattr(widget, "description") and not isinstance(
            widget, ipywidgets.HTML | ipywidgets.FloatProgress
        ):
            seen.append(widget)
            assert widget.description, type(widget)
    assert len({widget.description for widget in seen}) == 19
