"""EsdExplorer over several checkpoints, over every kind of layer, its layer table and its exports.

What it does with one layer of one checkpoint is in test_widgets.py.
"""

import base64
import html
import io
import re
import threading

import ipywidgets
import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from test_widgets import HOSTILE, PNG, control, number, text

from wskit import checkpoints, features, plots
from wskit.errors import SpectrumError
from wskit.fits import classify_phase, fit_marchenko_pastur, fit_power_law
from wskit.spectra import inventory, shuffled_weights, spectra, spectrum
from wskit.widgets import EsdExplorer, _esd


def make_weights(seed=0, spike=0.0):
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(60, 40, generator=generator)
    W[:, 0] += spike
    return {"conv.weight": torch.randn(9, 8, 3, generator=generator), "fc.weight": W}


@pytest.fixture
def run():
    """Three steps of a training run."""
    return {"epoch 0": make_weights(0), "epoch 5": make_weights(1), "end": make_weights(2, 3.0)}


@pytest.fixture
def panel(run):
    panel = EsdExplorer(run, layer="fc.weight")
    yield panel
    panel.close()


def descriptions(panel):
    found, todo = set(), [panel]
    while todo:
        widget = todo.pop()
        todo += getattr(widget, "children", ())
        found.add(getattr(widget, "description", ""))
    return found


def columns(panel, key):
    """The cells of one row of the numbers."""
    row = re.search(rf'<tr><th scope="row"[^>]*>{key}</th>(.*?)</tr>', panel._numbers.value)[1]
    return [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]


def link(panel, label):
    """What the link saves: the file's name and its content; None where there is no link."""
    pattern = rf'<a download="([^"]*)" href="data:([^;]*);base64,([^"]*)"[^>]*>{label}</a>'
    match = re.search(pattern, panel._links.value)
    return match and (match[1], match[2], base64.b64decode(match[3]))


def run_code(panel, **names):
    """Run the panel's cell, compare its picture with the panel's, and return what it made."""
    scope = dict(names)
    exec(panel.code(), scope)
    try:
        assert plots.describe(scope["ax"]) == panel.describe()
    finally:
        plt.close(scope["ax"].figure)
    return scope


# -- several checkpoints ----------------------------------------------------------------------


def test_one_checkpoint_has_neither_slider_nor_comparison(run):
    panel = EsdExplorer(run["end"])
    assert (panel.step, panel.compare) == (None, None)
    assert not {"Step", "Compare with"} & descriptions(panel)
    panel.close()


def test_a_mapping_of_one_checkpoint_has_nothing_to_choose(run):
    panel = EsdExplorer({7: run["end"]})
    assert panel.step == 7
    assert "Step" not in descriptions(panel)
    run_code(panel, weights={7: run["end"]})
    panel.close()


def test_the_slider_steps_through_the_checkpoints(panel, run):
    slider = control(panel, "Step", ipywidgets.SelectionSlider)
    assert slider.options == (("epoch 0", "epoch 0"), ("epoch 5", "epoch 5"), ("end", "end"))
    for label in ["end", "epoch 5", "epoch 0"]:
        png = panel.static_image()
        slider.value = label
        assert panel.step == label
        assert panel.static_image() != png
        expected = spectrum(run[label]["fc.weight"]).eigenvalues
        assert panel.spectrum.eigenvalues.tolist() == expected.tolist()
        assert f"histogram '{label}'" in panel.describe()
        assert number(panel, "largest") == pytest.approx(expected[-1], rel=1e-3)
    panel.step = "end"
    assert slider.value == "end"


def test_labels_may_be_numbers(run):
    steps = dict(zip([0, 5, 2.5], run.values(), strict=True))
    panel = EsdExplorer(steps, step=5)
    panel.compare = 2.5
    assert "histogram 'step 5'" in panel.describe()
    assert "histogram 'step 2.5'" in panel.describe()
    run_code(panel, weights=steps)
    panel.close()


def test_another_step_begins_with_its_best_xmin(panel):
    panel.xmin = float(panel.spectrum.eigenvalues[3])
    panel.step = "end"
    assert panel.xmin is None
    assert panel.fit == fit_power_law(panel.spectrum.eigenvalues)


def test_another_checkpoint_is_laid_over_it_with_its_numbers_beside(panel, run):
    chooser = control(panel, "Compare with")
    assert (chooser.options, chooser.value) == (("none", "epoch 0", "epoch 5", "end"), "none")
    chooser.value = "end"
    assert panel.compare == "end"
    other = spectrum(run["end"]["fc.weight"]).eigenvalues
    assert panel.other.eigenvalues.tolist() == other.tolist()
    outline = next(p for p in panel.ax.patches if p.get_label() == "end")
    assert outline.get_data().edges[-1] == pytest.approx(other[-1])
    best = fit_power_law(other)
    assert columns(panel, "&alpha;")[1] == f"{best.alpha:.3f} ± {best.sigma:.3f}"
    assert columns(panel, "largest")[1] == f"{other[-1]:.4g}"
    assert re.search(r"epoch 0\s+end\s+eigenvalues", text(panel._numbers))
    xmin = float(panel.spectrum.eigenvalues[20])
    panel.xmin = xmin  # is that of both
    assert columns(panel, "xmin") == [f"{xmin:.4g}"] * 2
    alpha = fit_power_law(other, xmin=xmin).alpha
    assert columns(panel, "&alpha;")[1].startswith(f"{alpha:.3f}")
    chooser.value = "none"
    assert panel.compare is panel.other is None
    assert "'end'" not in panel.describe()
    assert len(columns(panel, "xmin")) == 1


def test_comparing_with_itself_shows_it_once(panel):
    alone = panel.describe()
    panel.compare = "epoch 0"
    assert panel.describe() == alone
    panel.step = "end"
    assert "histogram 'epoch 0'" in panel.describe()


def test_an_unknown_checkpoint_is_refused(panel, run):
    for name in ("step", "compare"):
        with pytest.raises(SpectrumError, match=r"no checkpoint 'epoch 9'; choose .*'epoch 5'"):
            setattr(panel, name, "epoch 9")
    with pytest.raises(SpectrumError, match="no checkpoint None"):
        panel.step = None
    with pytest.raises(SpectrumError, match=r"no checkpoint 'x'; choose one of \[\]"):
        EsdExplorer(run["end"], step="x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: w.pop("fc.weight"),
            r"'fc\.weight' is 60 × 40 at 'epoch 0' and missing at 'end'",
        ),
        (
            lambda w: w.update({"conv.weight": torch.ones(9, 8, 5)}),
            r"'conv\.weight' is 3 × 9 × 8 at 'epoch 0' and 5 × 9 × 8 at 'end'",
        ),
        (
            lambda w: w.update({"new.weight": torch.eye(4)}),
            r"'new\.weight' is missing at 'epoch 0' and 4 × 4 at 'end'",
        ),
    ],
)
def test_checkpoints_of_different_layers_are_refused(run, change, message):
    change(run["end"])
    with pytest.raises(SpectrumError, match=f"need the same layers, and {message}"):
        EsdExplorer(run)


def test_what_is_no_mapping_of_checkpoints_is_refused(run):
    with pytest.raises(SpectrumError, match=r"under 'x' there is a Tensor"):
        EsdExplorer(run | {"x": torch.eye(3)})
    with pytest.raises(SpectrumError, match=r"a text or a number, got \(1, 2\)"):
        EsdExplorer({(1, 2): run["end"]})


def test_a_failure_says_at_which_step(panel, run):
    run["end"]["fc.weight"][0, 0] = torch.nan
    shown = panel.describe()
    panel.compare = "end"
    assert panel.status == "failed"
    assert re.match("At end: tensor 'fc.weight' holds NaN or inf", panel.message)
    assert panel.other is None
    assert panel.describe() == shown
    panel.compare, panel.step = None, "end"
    assert (panel.status, panel.spectrum, panel.static_image()) == ("failed", None, b"")
    assert link(panel, "Save picture") is None
    panel.step = "epoch 5"
    assert (panel.status, panel.message) == ("done", "")


def test_labels_and_names_can_do_no_harm():
    labels = [HOSTILE, r"$\frac{$"]
    panel = EsdExplorer({label: {HOSTILE: torch.eye(4) + 1} for label in labels})
    panel.compare = labels[1]
    panel.compute_table()
    panel.wait()
    assert panel.status == "done"
    for view in (panel._numbers, panel._picture, panel._message_view, panel._links):
        assert "<img src=x" not in view.value
    assert (
        link(panel, "Save picture")[0] == "img-src-x-onerror-alert-1-img-src-x-onerror-alert-1.png"
    )
    assert link(panel, "Save table")[0] == "layers-img-src-x-onerror-alert-1.csv"
    panel.close()


# -- the Marchenko-Pastur law -----------------------------------------------------------------


def test_the_marchenko_pastur_law_is_drawn_on_request(panel):
    panel.step = "end"
    s = panel.spectrum
    law = fit_marchenko_pastur(s.eigenvalues, N=s.N, M=s.M)
    assert panel.mp == law
    assert law.n_spikes > 0
    assert "Marchenko-Pastur" not in panel.describe()
    before = text(panel._numbers)
    control(panel, "Marchenko-Pastur").value = True
    assert panel.show_mp
    assert "Marchenko-Pastur" in panel.describe()
    assert text(panel._numbers) == before  # the numbers are always there
    assert number(panel, "MP σ") == pytest.approx(law.sigma, rel=1e-3)
    assert number(panel, "MP spikes") == law.n_spikes
    assert panel.phase == classify_phase(s.eigenvalues, N=s.N, M=s.M).name
    assert columns(panel, "phase") == [panel.phase]


def test_where_no_law_fits_there_are_dashes(run):
    panel = EsdExplorer({"zero": torch.zeros(5, 4), **run["end"]}, layer="fc.weight")
    rows = panel._numbers.value.count("<tr>")
    panel.show_mp = True
    panel.layer = "zero"
    assert (panel.mp, columns(panel, "MP spikes")) == (None, ["–"])
    assert panel._numbers.value.count("<tr>") == rows
    assert "Marchenko-Pastur" not in panel.describe()
    assert "power law" in panel.message  # and says nothing of the other law
    panel.close()


# -- every kind of layer ----------------------------------------------------------------------


KINDS = {
    "block.experts": (4, 12, 10),
    "memory": (3, 9, 8),
    "tall": (1, 12, 7),
    "conv1d.weight": (12, 10, 5),
    "conv3d.weight": (8, 6, 2, 2, 2),
    "q.lora_A.weight": (3, 20),
    "q.lora_B.weight": (16, 3),
    "embedding.weight": (30, 12),
}


@pytest.fixture
def zoo():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in KINDS.items()}


@pytest.mark.parametrize("conv", ["slices", "unfold", "per-slice", "fft"])
def test_every_layer_of_the_inventory_is_shown_and_its_code_too(zoo, conv):
    listed = inventory(zoo, conv=conv)
    names = listed.loc[listed["reason"] == "", "name"]
    if conv == "per-slice":
        names = [name for name in names if not name.endswith(("1]", "2]"))]
    panel = EsdExplorer(zoo, conv=conv)
    for name in names:
        panel.layer = name
        (expected,) = spectra(zoo, names=[name], conv=conv)
        assert panel.status == "done", panel.message
        assert panel.spectrum.eigenvalues == pytest.approx(expected.eigenvalues, rel=1e-9, abs=1e-9)
        assert (panel.spectrum.N, panel.spectrum.M) == (expected.N, expected.M)
        run_code(panel, weights=zoo)
    assert panel.spectrum.name == name
    panel.close()


@pytest.mark.parametrize("name", ["block.experts", "memory", "tall", "conv1d.weight"])
def test_every_kind_can_be_shuffled_and_compared(zoo, name):
    weights = {"a": zoo, "b": shuffled_weights(zoo, seed=1)}
    panel = EsdExplorer(weights, layer=name)
    panel.show_null, panel.compare = True, "b"
    trace = panel.spectrum.eigenvalues.sum()
    for s in (panel.null, panel.other):
        assert s.eigenvalues.sum() == pytest.approx(trace)
        assert s.eigenvalues[-1] != panel.spectrum.eigenvalues[-1]
    scope = run_code(panel, weights=weights)
    assert scope["other"].eigenvalues.tolist() == panel.other.eigenvalues.tolist()
    panel.close()


def test_a_low_rank_pair_cannot_be_shuffled(zoo):
    panel = EsdExplorer(zoo)
    box = control(panel, "Shuffled weights")
    assert not box.disabled
    panel.show_null = True
    panel.layer = "q.lora_BA"
    assert (panel.status, panel.null, box.disabled) == ("done", None, True)
    assert "shuffled" not in panel.describe()
    run_code(panel, weights=zoo)
    panel.layer = "tall"
    assert not box.disabled
    assert "shuffled" in panel.describe()
    panel.close()


# -- the table of layers ----------------------------------------------------------------------


def test_the_table_of_layers_is_a_list_to_choose_from(panel, run):
    rows = panel._list
    assert rows.layout.display == "none"
    control(panel, "Table of layers").click()
    assert panel.status == "running"
    assert panel.message == "Computing the table of layers."
    panel.wait()
    assert (panel.status, panel.message) == ("done", "")
    expected = features.spectral_table(run["epoch 0"])
    pd.testing.assert_frame_equal(panel.table, expected)
    assert rows.layout.display == ""
    assert rows.value == panel.layer == "fc.weight"
    line = next(label for label, name in rows.options if name == "fc.weight")
    (row,) = expected[expected["name"] == "fc.weight"].to_dict("records")
    fields = [row["name"], "60", "×", "40", f"{row['alpha']:.2f}", str(row["n_spikes"])]
    assert line.split() == [*fields, row["phase"]]
    assert rows.description.split() == ["Layer", "N", "×", "M", "α", "spikes", "phase"]
    png = panel.static_image()
    rows.value = "conv.weight"
    assert panel.layer == "conv.weight"
    assert panel.static_image() != png
    control(panel, "Layer").value = "fc.weight"
    assert rows.value == "fc.weight"


def test_the_columns_of_the_list_stand_under_each_other(zoo):
    panel = EsdExplorer(zoo | {"a.very.long.name." * 5 + "weight": torch.eye(5)})
    panel.compute_table()
    panel.wait()
    lines = [label for label, _ in panel._list.options]
    assert len(lines) == 8
    start = panel._list.description.index("phase")
    assert {line[start - 2 : start] for line in lines} == {"\N{NO-BREAK SPACE}" * 2}
    assert all(line[start] != "\N{NO-BREAK SPACE}" for line in lines)
    assert max(map(len, lines)) < 90
    panel.close()


def test_a_layer_without_a_spectrum_is_in_the_table_and_not_in_the_list(run):
    weights = run["end"] | {"steps": torch.zeros(2, 2, dtype=torch.long)}
    panel = EsdExplorer(weights)
    panel.compute_table()
    panel.wait()
    assert "steps" in set(panel.table["name"])
    assert [name for _, name in panel._list.options] == ["conv.weight", "fc.weight"]
    panel.close()


def test_another_step_takes_the_table_away(panel):
    panel.compute_table()
    panel.wait()
    panel.step = "end"
    assert panel.table is None
    assert panel._list.layout.display == "none"
    assert link(panel, "Save table") is None
    assert panel.spectrum is not None


@pytest.fixture
def gate(monkeypatch):
    """The table waits, at its first tensor, until it is let go."""
    gate, original = threading.Event(), _esd.spectral_table

    def held(weights, **options):
        assert gate.wait(30)
        return original(weights, **options)

    monkeypatch.setattr(_esd, "spectral_table", held)
    yield gate
    gate.set()


def test_the_table_can_be_cancelled(panel, gate):
    panel.compute_table()
    thread = panel._thread
    control(panel, "Cancel").click()
    gate.set()
    thread.join(30)
    panel.wait()
    assert (panel.status, panel.table) == ("cancelled", None)
    assert panel.spectrum is not None
    panel.bins = 30
    assert (panel.status, "30 bins" in panel.describe()) == ("done", True)


def test_the_table_tells_its_progress(panel, gate):
    seen = []
    panel.observe(lambda change: seen.append(change["new"]), "progress")
    panel.compute_table()
    gate.set()
    panel.wait()
    assert seen
    assert all(0 < value <= 1 for value in seen)


def test_a_picture_that_the_table_overtook_is_drawn_after_it(run, gate, monkeypatch):
    monkeypatch.setattr(_esd, "_INLINE_OPERATIONS", 0)
    panel = EsdExplorer(run)
    panel.compute_table()
    gate.set()
    panel.wait()
    assert panel.table is not None
    panel.wait()
    assert (panel.status, panel.message) == ("done", "")
    assert panel.static_image().startswith(PNG)
    panel.close()


# -- code and export --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"step": "end", "show_mp": True},
        {"step": "end", "compare": "epoch 0", "show_mp": True, "show_null": True, "xmin": 30.0},
        {"compare": "end", "layer": "conv.weight", "show_fit": False, "scale": "log-linear"},
        {"compare": "epoch 0"},
    ],
)
def test_the_code_reproduces_the_screen_of_every_checkpoint(panel, run, state):
    for name, value in state.items():
        setattr(panel, name, value)
    scope = run_code(panel, weights=run)
    assert scope["s"].eigenvalues.tolist() == panel.spectrum.eigenvalues.tolist()
    assert max(map(len, panel.code().splitlines())) <= 100


def test_the_code_makes_the_table_too(panel, run):
    assert "features" not in panel.code()
    panel.step = "epoch 5"
    panel.compute_table()
    panel.wait()
    pd.testing.assert_frame_equal(run_code(panel, weights=run)["table"], panel.table)


def test_the_code_opens_all_files(run, tmp_path):
    opened = {}
    for label, weights in run.items():
        checkpoints.save_weights(weights, tmp_path / f"{label}.safetensors")
        opened[label] = checkpoints.open_checkpoint(tmp_path / f"{label}.safetensors")
    panel = EsdExplorer(opened, step="end")
    panel.compare = "epoch 5"
    panel.compute_table()
    panel.wait()
    assert len(panel.table) == 2
    run_code(panel)
    mixed = EsdExplorer(opened | {"end": run["end"]})
    run_code(mixed, weights=opened)
    for each in (panel, mixed, *opened.values()):
        each.close()


def test_picture_and_table_can_be_saved(panel):
    name, mime, content = link(panel, "Save picture")
    assert (name, mime, content) == ("fc.weight-epoch-0.png", "image/png", panel.static_image())
    assert link(panel, "Save table") is None
    panel.compute_table()
    panel.wait()
    name, mime, content = link(panel, "Save table")
    assert (name, mime) == ("layers-epoch-0.csv", "text/csv")
    saved = pd.read_csv(io.BytesIO(content))
    assert saved["name"].tolist() == panel.table["name"].tolist()
    assert saved["alpha"].tolist() == pytest.approx(panel.table["alpha"].tolist())
    panel.bins = 30
    assert link(panel, "Save picture")[2] == panel.static_image()
