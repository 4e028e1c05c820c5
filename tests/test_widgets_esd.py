"""EsdExplorer, driven by its traits and controls, without a browser."""

import html
import re
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from widgets_kit import HOSTILE, PNG, cells, control, labels, run_code, text

from wskit import checkpoints, features
from wskit.errors import SpectrumError
from wskit.fits import classify_phase, fit_marchenko_pastur, fit_power_law
from wskit.spectra import inventory, shuffled_weights, spectra, spectrum
from wskit.widgets import EsdExplorer, _esd

pytestmark = pytest.mark.usefixtures("no_figure_stays_open")


def make_weights(seed=0, spike=0.0):
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(60, 40, generator=generator)
    W[:, 0] += spike
    return {
        "bias": torch.zeros(16),
        "conv.weight": torch.randn(9, 8, 3, generator=generator),
        "fc.weight": W,
    }


@pytest.fixture
def run():
    """Three steps of a training run."""
    return {"epoch 0": make_weights(0), "epoch 5": make_weights(1), "end": make_weights(2, 3.0)}


@pytest.fixture
def panel(run):
    panel = EsdExplorer(run, layer="fc.weight")
    yield panel
    panel.close()


# -- one layer --------------------------------------------------------------------------------


def test_it_opens_on_the_first_layer_that_has_a_matrix():
    panel = EsdExplorer(make_weights())
    assert (panel.layer, panel.status, panel.message) == ("conv.weight", "done", "")
    assert panel.spectrum.eigenvalues.size == 3 * 8
    assert panel.fit == panel.best == fit_power_law(panel.spectrum.eigenvalues)
    assert "conv.weight, 3 × 9 × 8" in text(panel._numbers)
    assert not {"Step", "Compare with"} & labels(panel)
    bundle = panel._repr_mimebundle_()
    assert bundle["text/plain"] == panel.describe()
    assert bundle["text/plain"].startswith("Axes 'conv.weight")
    assert panel.static_image().startswith(PNG)
    panel.close()


@pytest.mark.parametrize(
    ("label", "trait", "value"),
    [
        ("Layer", "layer", "conv.weight"),
        ("Axes", "scale", "linear"),
        ("Bins", "bins", 20),
        ("Power law", "show_fit", False),
        ("Marchenko-Pastur", "show_mp", True),
        ("Shuffled weights", "show_null", True),
    ],
)
def test_a_control_and_its_trait_move_each_other(panel, label, trait, value):
    box = control(panel, label)
    before, png, words = getattr(panel, trait), panel.static_image(), panel.describe()
    box.value = value
    assert getattr(panel, trait) == value
    assert panel.static_image() != png
    assert panel.describe() != words
    assert html.escape(panel.describe()) in panel._picture.value
    setattr(panel, trait, before)
    assert box.value == before
    assert panel.static_image() == png


def test_slider_and_field_move_xmin(panel):
    slider, field = control(panel, "Tail from"), control(panel, "xmin")
    eigenvalues = panel.spectrum.eigenvalues
    assert panel.xmin is None
    assert eigenvalues[slider.value] == panel.best.xmin
    assert slider.max == eigenvalues.size - 2  # a tail of one value has no exponent
    for index in (0, 7):
        slider.value = index
        assert panel.xmin == eigenvalues[index]
        assert panel.fit == fit_power_law(eigenvalues, xmin=eigenvalues[index])
        assert field.value == pytest.approx(eigenvalues[index], rel=1e-3)
        assert cells(panel._numbers, "α")[0].startswith(f"{panel.fit.alpha:.3f}")
        assert cells(panel._numbers, "KS distance") == [f"{panel.fit.ks:.4f}"]
    mark = next(line for line in panel.ax.get_lines() if line.get_label() == "best xmin")
    assert mark.get_xdata() == [panel.best.xmin] * 2
    field.value = between = (eigenvalues[9] + eigenvalues[10]) / 2
    assert panel.xmin == between == panel.fit.xmin
    assert slider.value == 10
    assert panel.fit.n_tail == eigenvalues.size - 10
    control(panel, "Best xmin").click()
    assert panel.xmin is None
    assert eigenvalues[slider.value] == panel.best.xmin


@pytest.mark.parametrize("change", [{"layer": "conv.weight"}, {"step": "end"}])
def test_another_layer_or_step_begins_with_its_best_xmin(panel, change):
    panel.xmin = float(panel.spectrum.eigenvalues[3])
    panel.set_trait(*next(iter(change.items())))
    assert panel.xmin is None
    assert panel.fit == fit_power_law(panel.spectrum.eigenvalues)


@pytest.mark.parametrize("xmin", [1e9, -1.0, float("nan"), float("inf")])
def test_an_xmin_out_of_range_is_one_sentence(panel, xmin):
    rows = panel._numbers.value.count("<tr>")
    control(panel, "xmin").value = xmin
    assert panel.status == "failed"
    assert "xmin" in panel.message
    assert panel.fit is None
    assert "power law" not in panel.describe()
    assert panel.message in text(panel._message_view)
    assert panel._numbers.value.count("<tr>") == rows  # nothing jumps
    panel.xmin = None
    assert (panel.status, panel.message) == ("done", "")


def test_what_has_no_spectrum_or_no_law_says_so():
    weights = make_weights()
    weights |= {"bad.weight": torch.full((4, 3), float("nan")), "zero": torch.zeros(5, 4)}
    panel = EsdExplorer(weights)
    panel.layer = "bad.weight"
    assert panel.status == "failed"
    assert "tensor 'bad.weight' holds NaN or inf in 12 of its 12 entries" in panel.message
    assert panel.spectrum is panel.fit is panel.ax is None
    assert panel.static_image() == b""
    assert panel.describe() == panel.message
    control(panel, "Tail from").value = 0  # harmless while there is nothing to show
    panel.layer, panel.show_mp = "zero", True
    assert panel.status == "failed"
    assert panel.fit is panel.mp is None
    assert "histogram" in panel.describe()
    assert cells(panel._numbers, "MP spikes") == ["–"]
    panel.layer = "fc.weight"
    assert (panel.status, panel.message) == ("done", "")
    panel.close()


def test_weights_without_a_matrix_or_layer_are_refused():
    with pytest.raises(SpectrumError, match=r"None of the 1 tensors has a matrix; .*inventory"):
        EsdExplorer({"bias": torch.zeros(3)})
    with pytest.raises(SpectrumError, match=r"layer must be one of .*fc\.weight.*, got 'fc'"):
        EsdExplorer(make_weights(), layer="fc")


# -- several checkpoints ----------------------------------------------------------------------


def test_the_slider_steps_through_the_checkpoints(panel, run):
    slider = control(panel, "Step")
    assert slider.options == (("epoch 0", "epoch 0"), ("epoch 5", "epoch 5"), ("end", "end"))
    for label in ["end", "epoch 0"]:
        slider.value = label
        assert panel.step == label
        expected = spectrum(run[label]["fc.weight"]).eigenvalues
        np.testing.assert_allclose(panel.spectrum.eigenvalues, expected, rtol=1e-9, atol=1e-12)
        assert f"histogram '{label}'" in panel.describe()
        assert cells(panel._numbers, "largest") == [f"{expected[-1]:.4g}"]


def test_another_checkpoint_is_laid_over_it_with_its_numbers_beside(panel, run):
    chooser = control(panel, "Compare with")
    assert (chooser.options, chooser.value) == (("none", "epoch 0", "epoch 5", "end"), "none")
    chooser.value = "end"
    assert panel.compare == "end"
    other = spectrum(run["end"]["fc.weight"]).eigenvalues
    np.testing.assert_allclose(panel.other.eigenvalues, other, rtol=1e-9, atol=1e-12)
    assert "'end'" in panel.describe()
    best = fit_power_law(other)
    assert cells(panel._numbers, "α")[1] == f"{best.alpha:.3f} ± {best.sigma:.3f}"
    panel.xmin = xmin = float(panel.spectrum.eigenvalues[20])  # is that of both
    assert cells(panel._numbers, "xmin") == [f"{xmin:.4g}"] * 2
    panel.compare = "epoch 0"  # with itself: it is shown once
    assert panel.other is None
    chooser.value = "none"
    assert panel.compare is panel.other is None
    assert len(cells(panel._numbers, "xmin")) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("fc.weight"), "is 60 × 40 at 'epoch 0' and missing at 'end'"),
        (
            lambda w: w.update({"conv.weight": torch.ones(9, 8, 5)}),
            "is 3 × 9 × 8 at 'epoch 0' and 5 × 9 × 8 at 'end'",
        ),
        (lambda w: w.update({"new": torch.eye(4)}), "'new' is missing at 'epoch 0' and 4 × 4"),
    ],
)
def test_checkpoints_of_different_layers_are_refused(run, change, message):
    change(run["end"])
    with pytest.raises(SpectrumError, match=f"need the same layers, .*{message}"):
        EsdExplorer(run)


def test_a_failure_says_at_which_step(panel, run):
    run["end"]["fc.weight"][0, 0] = torch.nan
    shown = panel.describe()
    panel.compare = "end"
    assert panel.status == "failed"
    assert panel.message.startswith("At end: tensor 'fc.weight' holds NaN or inf")
    assert panel.describe() == shown
    panel.compare, panel.step = None, "end"
    assert (panel.status, panel.spectrum, panel.static_image()) == ("failed", None, b"")
    panel.step = "epoch 5"
    assert (panel.status, panel.message) == ("done", "")


def test_labels_and_names_can_do_no_harm():
    names = [HOSTILE, r"$\frac{$"]
    panel = EsdExplorer({label: {HOSTILE: torch.eye(4) + 1} for label in names})
    panel.compare = names[1]
    panel.compute_table()
    panel.wait()
    assert panel.status == "done"
    assert html.escape(HOSTILE, quote=False) in panel._numbers.value
    for view in (panel._numbers, panel._picture, panel._message_view, panel._table_view):
        assert "<img src=x" not in view.value
    panel.close()


# -- what it takes ----------------------------------------------------------------------------


def test_weights_are_a_network_a_file_or_several(tmp_path):
    net = nn.Sequential(nn.Linear(12, 20), nn.Linear(20, 9))
    path = tmp_path / "it's.safetensors"
    checkpoints.save_weights(net.state_dict(), path)
    expected = spectrum(net[0].weight.detach()).eigenvalues
    for weights in (net, str(path), path, {1: net, 2: path}):
        panel = EsdExplorer(weights, layer="0.weight")
        np.testing.assert_allclose(panel.spectrum.eigenvalues, expected, rtol=1e-6)
        panel.close()


def test_the_code_opens_all_files(run, tmp_path):
    opened = {}
    for label, weights in run.items():
        checkpoints.save_weights(weights, tmp_path / f"{label}.safetensors")
        opened[label] = checkpoints.open_checkpoint(tmp_path / f"{label}.safetensors")
    panel = EsdExplorer(opened, step="end")
    panel.compare = "epoch 5"
    run_code(panel)
    mixed = EsdExplorer(opened | {"end": run["end"]})
    run_code(mixed, weights=opened)
    for each in (panel, mixed, *opened.values()):
        each.close()


# -- every kind of layer ----------------------------------------------------------------------

KINDS = {
    "block.experts": (4, 12, 10),
    "tall": (1, 12, 7),
    "conv1d.weight": (12, 10, 5),
    "conv3d.weight": (8, 6, 2, 2, 2),
    "q.lora_A.weight": (3, 20),
    "q.lora_B.weight": (16, 3),
}


@pytest.fixture
def zoo():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in KINDS.items()}


@pytest.mark.parametrize("conv", ["slices", "unfold", "per-slice", "fft"])
def test_every_layer_of_the_inventory_is_shown_and_its_code_too(zoo, conv):
    listed = inventory(zoo, conv=conv)
    names = listed.loc[listed["reason"] == "", "name"]
    panel = EsdExplorer(zoo, conv=conv)
    for name in [name for name in names if not name.endswith(("1]", "2]", "3]", "4]"))]:
        panel.layer = name
        (expected,) = spectra(zoo, names=[name], conv=conv)
        assert panel.status == "done", panel.message
        assert panel.spectrum.eigenvalues == pytest.approx(expected.eigenvalues, rel=1e-9, abs=1e-9)
        run_code(panel, weights=zoo)
    panel.close()


@pytest.mark.parametrize("name", ["block.experts", "conv1d.weight"])
def test_every_kind_can_be_shuffled_and_compared(zoo, name):
    weights = {"a": zoo, "b": shuffled_weights(zoo, seed=1)}
    panel = EsdExplorer(weights, layer=name)
    panel.show_null, panel.compare = True, "b"
    trace = panel.spectrum.eigenvalues.sum()
    for s in (panel.null, panel.other):
        assert s.eigenvalues.sum() == pytest.approx(trace)
        assert s.eigenvalues[-1] != panel.spectrum.eigenvalues[-1]
    run_code(panel, weights=weights)
    panel.close()


def test_a_low_rank_pair_cannot_be_shuffled(zoo):
    panel = EsdExplorer(zoo)
    box = control(panel, "Shuffled weights")
    panel.show_null = True
    panel.layer = "q.lora_BA"
    assert (panel.status, panel.null, box.disabled) == ("done", None, True)
    panel.layer = "tall"
    assert not box.disabled
    assert "shuffled" in panel.describe()
    panel.close()


def test_the_laws_are_those_of_fits(panel):
    panel.step = "end"
    s = panel.spectrum
    law = fit_marchenko_pastur(s.eigenvalues, N=s.N, M=s.M)
    assert panel.mp == law
    assert cells(panel._numbers, "MP spikes") == [f"{law.n_spikes}"]
    assert panel.phase == classify_phase(s.eigenvalues, N=s.N, M=s.M).name
    assert cells(panel._numbers, "phase") == [panel.phase]


# -- the table of layers ----------------------------------------------------------------------


def test_the_table_of_layers_is_that_of_features(panel, run):
    control(panel, "Table of layers").click()
    assert (panel.status, panel.message) == ("running", "Computing the table of layers.")
    panel.wait()
    assert (panel.status, panel.message) == ("done", "")
    expected = features.spectral_table(run["epoch 0"])
    pd.testing.assert_frame_equal(panel.table, expected)
    row = expected.set_index("name").loc["fc.weight"]
    shown = ["60", "40", f"{row['alpha']:.4g}", str(row["n_spikes"]), row["phase"]]
    assert cells(panel._table_view, "fc.weight") == shown
    table = run_code(panel, weights=run)["table"]
    pd.testing.assert_frame_equal(table, panel.table)
    panel.step = "end"  # the table was another checkpoint's
    assert (panel.table, panel._table_view.value) == (None, "")


@pytest.fixture
def gate(monkeypatch):
    """The table waits, at its first tensor, until it is let go."""
    gate, original = threading.Event(), _esd.spectral_table

    def held(weights, **options):
        assert gate.wait(60)
        return original(weights, **options)

    monkeypatch.setattr(_esd, "spectral_table", held)
    yield gate
    gate.set()


def test_the_table_can_be_cancelled(panel, gate):
    panel.compute_table()
    thread = panel._thread
    control(panel, "Cancel").click()
    gate.set()
    thread.join(60)
    panel.wait()
    assert (panel.status, panel.table) == ("cancelled", None)
    assert panel.spectrum is not None
    panel.bins = 30
    assert (panel.status, "30 bins" in panel.describe()) == ("done", True)


def test_a_picture_that_the_table_overtook_is_drawn_after_it(run, gate, monkeypatch):
    monkeypatch.setattr(_esd, "_INLINE_OPERATIONS", 0)
    panel = EsdExplorer(run)
    seen = []
    panel.observe(lambda change: seen.append(change["new"]), "progress")
    panel.compute_table()
    gate.set()
    panel.wait()
    assert panel.table is not None
    assert (panel.status, panel.message) == ("done", "")
    assert all(0 <= value <= 1 for value in seen)
    assert panel.static_image().startswith(PNG)
    panel.close()


# -- code -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state",
    [
        {"step": "end", "show_mp": True},
        {"step": "end", "compare": "epoch 0", "show_mp": True, "show_null": True, "xmin": 30.0},
        {"compare": "end", "layer": "conv.weight", "show_fit": False, "scale": "log-linear"},
        {"xmin": 30.0, "show_fit": False, "bins": 17},
        {"xmin": 1e9},  # no fit is shown
    ],
)
def test_the_code_reproduces_the_screen(panel, run, state):
    for name, value in state.items():
        setattr(panel, name, value)
    scope = run_code(panel, weights=run)
    assert scope["s"].eigenvalues.tolist() == panel.spectrum.eigenvalues.tolist()


def test_labels_may_be_numbers(run):
    steps = dict(zip([0, 5, 2.5], run.values(), strict=True))
    panel = EsdExplorer(steps, step=5)
    panel.compare = 2.5
    assert re.search(r"histogram 'step 5'(.|\n)*histogram 'step 2\.5'", panel.describe())
    run_code(panel, weights=steps)
    panel.close()
