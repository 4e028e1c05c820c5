"""SwaExplorer, driven by its traits and controls, without a browser."""

import threading

import numpy as np
import pandas as pd
import pytest
import torch
from widgets_kit import PNG, control, labels, text
from widgets_kit import run_code as run_cell

from wskit.averaging import Trajectory
from wskit.errors import AveragingError, LandscapeError
from wskit.landscape import one_by_one
from wskit.widgets import SwaExplorer

pytestmark = pytest.mark.usefixtures("no_figure_stays_open", "no_layout")


def measures(shift):
    def measured(weights):
        squared = float((weights["w"] - shift).square().sum())
        return {"loss": squared, "accuracy": np.exp(-squared), "test_error": 100 * squared}

    return one_by_one(measured)


EVALUATE, RECALIBRATED = measures(0.0), measures(1.0)


def weights(n, seed=0):
    """A walk of n epochs towards 0 in three dimensions."""
    draw = torch.Generator().manual_seed(seed)
    far = torch.linspace(2, 0.5, n)[:, None] * torch.tensor([1.0, 1.0, 0.0])
    return [{"w": w} for w in far + 0.3 * torch.randn(n, 3, generator=draw)]


def recorded(models):
    run = Trajectory()
    for epoch, model in enumerate(models, start=1):
        run.append(epoch, model)
    return run


def train(rate, cycle, epochs, seed):
    assert (rate, cycle) == (0.05, 2)
    yield from weights(epochs, seed)


RUNS = {"first_0": recorded(weights(12)), "short": recorded(weights(5, 1))}
W = np.stack([model["w"].numpy() for model in weights(12)]).astype(float)


def squared(w):
    return float(np.square(w).sum())


def ema(rows, decay=0.9):
    mean = W[rows[0]]
    for row in rows[1:]:
        mean = decay * mean + (1 - decay) * W[row]
    return mean


@pytest.fixture
def panel():
    panel = SwaExplorer(RUNS, EVALUATE, recalibrated=RECALIBRATED, train=train, resolution=5)
    panel.wait()
    yield panel
    panel.close()


def run_code(panel, **names):
    """Run the panel's cell, and compare what it made with the panel."""
    scope = run_cell(panel, runs=RUNS, evaluate=EVALUATE, **names)
    pd.testing.assert_frame_equal(scope["numbers"], panel.numbers)
    pd.testing.assert_frame_equal(scope["curve"], panel.curve)
    if panel.landscape is None:
        assert "found" not in scope
    else:
        for name, values in panel.landscape.measures.items():
            np.testing.assert_allclose(scope["found"].measures[name], values, rtol=1e-6)


@pytest.mark.parametrize(("unit", "label"), [(None, "loss"), ("bits", "loss in bits")])
def test_the_loss_has_the_unit_that_it_is_given(unit, label):
    panel = SwaExplorer(RUNS, EVALUATE, resolution=3, unit=unit)
    panel.wait()
    labels = [ax.figure.axes[-1].get_ylabel() for ax in panel.plane_axs]
    assert (panel.ax.get_ylabel(), *labels) == ("test error", label, "test error")
    run_code(panel)
    panel.measure = "loss"
    panel.wait()
    assert panel.ax.get_ylabel() == label
    run_code(panel)
    panel.close()


# -- what is shown ----------------------------------------------------------------------------


def test_it_begins_with_the_second_half_of_the_first_run(panel):
    assert (panel.run, panel.start, panel.stop, panel.every) == ("first_0", 6, 12, 1)
    assert panel.measure == "test_error"
    assert list(panel.numbers.index) == ["last iterate", "average", "EMA"]
    expected = [squared(W[11]), squared(W[6:].mean(axis=0)), squared(ema(range(6, 12)))]
    np.testing.assert_allclose(panel.numbers["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(panel.numbers["test_error"], [100 * x for x in expected], rtol=1e-5)
    assert panel.status == "done"
    values = [f"{100 * x:.4g}" for x in expected]
    assert (
        panel.message == f"Test error: {values[1]} of the average, {values[0]} of epoch 12 alone."
    )
    assert "Average of 6 epochs, 7 to 12" in text(panel._numbers_view)
    for value in panel.numbers["loss"]:
        assert f"{value:.4g}" in panel._numbers_view.value


def test_the_numbers_follow_the_window_at_once(panel):
    with panel.hold_trait_notifications():
        panel.start, panel.stop = 1, 5
    expected = [squared(W[4]), squared(W[1:5].mean(axis=0)), squared(ema(range(1, 5)))]
    np.testing.assert_allclose(panel.numbers["loss"], expected, rtol=1e-5)
    assert panel.curve is None  # nothing of the former window is taken for this one's
    assert panel.landscape is None
    panel.wait()
    assert panel.landscape.names == ("epoch 2", "epoch 5", "average")
    assert control(panel, "Average epochs").index == (1, 4)


def test_only_the_ends_of_cycles_are_averaged(panel):
    control(panel, "Every").value = 3
    panel.start = 1
    rows = [1, 4, 7, 10]
    expected = [squared(W[10]), squared(W[rows].mean(axis=0)), squared(ema(rows))]
    np.testing.assert_allclose(panel.numbers["loss"], expected, rtol=1e-5)
    panel.wait()
    assert "Average of 4 epochs, 2 to 11, one in 3" in text(panel._numbers_view)
    assert panel.curve.query("model == 'average'")["epoch"].tolist() == [2, 5, 8, 11]


def test_the_decay_is_that_of_the_exponential_mean(panel):
    average = panel.numbers["loss"]["average"]
    control(panel, "EMA decay").value = 0.5
    expected = squared(ema(range(6, 12), 0.5))
    assert panel.numbers["loss"]["EMA"] == pytest.approx(expected, rel=1e-5)
    assert panel.numbers["loss"]["average"] == average


def test_the_curve_has_every_epoch_and_the_means_up_to_it(panel):
    curve = panel.curve
    assert list(curve) == ["model", "epoch", "loss", "accuracy", "test_error"]
    iterates = curve[curve.model == "iterate"]
    assert iterates.epoch.tolist() == list(range(1, 13))
    np.testing.assert_allclose(iterates.loss, [squared(w) for w in W], rtol=1e-5)
    averages = curve[curve.model == "average"]
    assert averages.epoch.tolist() == list(range(7, 13))
    expected = [squared(W[6 : row + 1].mean(axis=0)) for row in range(6, 12)]
    np.testing.assert_allclose(averages.loss, expected, rtol=1e-5)
    expected = [squared(ema(range(6, row + 1))) for row in range(6, 12)]
    np.testing.assert_allclose(curve[curve.model == "EMA"].loss, expected, rtol=1e-5)
    assert "span 'averaged': x 6.5 to 12.5" in panel.describe()


def test_the_planes_go_through_the_ends_of_the_window_and_the_average(panel):
    plane = panel.landscape
    assert plane.losses.shape == (5, 5)
    assert plane.names == ("epoch 7", "epoch 12", "average")
    assert np.ptp(plane.x) == pytest.approx(np.ptp(plane.y))
    u, v = W[11] - W[6], W[6:].mean(axis=0) - W[6]
    e = u / np.linalg.norm(u)
    f = (v - (v @ e) * e) / np.linalg.norm(v - (v @ e) * e)
    x, y = np.meshgrid(plane.x, plane.y)
    points = W[6] + x[..., None] * e + y[..., None] * f
    np.testing.assert_allclose(plane.losses, np.square(points).sum(-1), rtol=1e-4)
    assert [ax.get_title(loc="left").split()[0] for ax in panel.plane_axs] == ["loss", "test"]


def test_batch_norm_is_recomputed_at_every_model(panel):
    plain, planes = panel.numbers, panel.landscape
    control(panel, "Update BatchNorm").value = True
    expected = [squared(w - 1) for w in (W[11], W[6:].mean(axis=0), ema(range(6, 12)))]
    np.testing.assert_allclose(panel.numbers["loss"], expected, rtol=1e-5)
    panel.wait()
    iterates = panel.curve[panel.curve.model == "iterate"]
    np.testing.assert_allclose(iterates.loss, [squared(w - 1) for w in W], rtol=1e-5)
    assert not np.allclose(panel.landscape.losses, planes.losses)
    panel.recalibrate = False
    pd.testing.assert_frame_equal(panel.numbers, plain)


def test_no_model_is_measured_twice():
    measured = []

    def counting(stacked):
        measured.extend(stacked["w"][:, 0].tolist())
        return EVALUATE(stacked)

    panel = SwaExplorer(RUNS, counting, resolution=2)
    panel.wait()
    assert len(measured) == 12 + 6 + 6 + 4  # iterates, averages, means, the plane
    panel.stop = 11
    panel.wait()
    assert len(measured) == 28 + 4  # all but the plane were known
    panel.close()


def test_a_shorter_run_has_a_window_of_its_own(panel):
    control(panel, "Run").value = "short"
    assert (panel.start, panel.stop) == (2, 5)
    assert control(panel, "Average epochs").index == (2, 4)
    panel.wait()
    assert panel.message.endswith(" of epoch 5 alone.")
    panel.run = "first_0"
    assert (panel.start, panel.stop) == (2, 5)


def test_a_page_without_a_kernel_shows_picture_and_words(monkeypatch):
    monkeypatch.setattr(SwaExplorer, "_fill", lambda *_: None)  # the planes take a while
    panel = SwaExplorer(RUNS, EVALUATE, resolution=2)
    bundle = panel._repr_mimebundle_()
    assert bundle["text/plain"] == panel.describe()
    assert "line 'average': 6 points" in bundle["text/plain"]
    assert "image/png" in bundle
    assert panel.static_image().startswith(PNG)
    panel.close()


# -- the cell ---------------------------------------------------------------------------------


def test_the_cell_gives_what_the_panel_shows(panel):
    run_code(panel)
    panel.start, panel.every, panel.decay, panel.measure = 1, 3, 0.7, "loss"
    panel.recalibrate = True
    panel.wait()
    run_code(panel, recalibrated=RECALIBRATED)


def test_the_cell_of_a_window_without_a_plane(panel):
    panel.start = 11
    panel.wait()
    run_code(panel)


# -- a new run --------------------------------------------------------------------------------


def test_a_new_run_is_trained_and_selected(panel):
    panel.cycle, panel.epochs, panel.seed = 2, 8, 4
    control(panel, "Train a new run").click()
    assert panel.message == "Training rate 0.05, cycle 2, seed 4."
    assert control(panel, "Train a new run").disabled
    panel.wait()
    assert panel.run == "rate 0.05, cycle 2, seed 4"
    assert panel.run not in RUNS  # what was given is not changed
    run = panel.runs[panel.run]
    assert run.steps.tolist() == list(range(1, 9))
    assert torch.equal(run.model(7)["w"], weights(8, 4)[7]["w"])
    assert (panel.start, panel.stop) == (4, 8)
    assert not control(panel, "Train a new run").disabled
    run_code(panel, train=train)
    panel.train_run()
    panel.wait()
    assert list(panel.runs)[2:] == [
        "rate 0.05, cycle 2, seed 4",
        "rate 0.05, cycle 2, seed 4 (2)",
    ]


def test_a_cancelled_run_is_not_added():
    go, reached = threading.Event(), threading.Event()

    def slow(rate, cycle, epochs, seed):
        for epoch, model in enumerate(weights(epochs, seed)):
            if epoch == 2:
                reached.set()
                assert go.wait(30)
            yield model

    panel = SwaExplorer(RUNS, EVALUATE, train=slow, resolution=2)
    panel.wait()
    panel.train_run()
    assert reached.wait(30)
    panel.start = 3  # the numbers follow while a run is trained
    average = squared(W[3:].mean(axis=0))
    assert panel.numbers["loss"]["average"] == pytest.approx(average, rel=1e-5)
    assert (panel.status, panel.curve) == ("running", None)
    control(panel, "Cancel").click()
    assert (panel.status, panel.message) == ("cancelled", "Cancelled.")
    assert not control(panel, "Train a new run").disabled
    go.set()
    panel._thread.join(30)
    assert list(panel.runs) == list(RUNS)
    panel.close()


def test_a_click_in_another_thread_waits_for_what_is_being_drawn(panel, monkeypatch):
    """JupyterLab has messages handled by a second thread while the kernel is busy."""
    drawing, go = threading.Event(), threading.Event()

    def slow():
        drawing.set()
        assert go.wait(30)

    panel.start, panel.cycle = 3, 2
    monkeypatch.setattr(panel, "_draw", slow)
    show = threading.Thread(target=panel.wait)
    click = threading.Thread(target=control(panel, "Train a new run").click)
    show.start()
    assert drawing.wait(30)
    click.start()
    click.join(0.1)
    assert click.is_alive()
    go.set()
    click.join(30)
    show.join(30)
    panel.wait()
    assert panel.run == "rate 0.05, cycle 2, seed 0"  # nothing took the training's place


def test_a_training_that_returns_nothing_is_said():
    panel = SwaExplorer(RUNS, EVALUATE, train=lambda *_: iter(()), resolution=2)
    panel.train_run()
    panel.wait()
    assert panel.message == "The training returned no weights; yield those of each epoch."
    assert panel.status == "failed"
    panel.close()


# -- what goes wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "text"), [(10, "2 epochs, 11 to 12"), (11, "one epoch, 12")])
def test_a_window_without_a_plane_is_said_to_be(panel, start, text):
    panel.start = start
    panel.wait()
    assert panel.status == "done"
    assert panel.message.startswith("There is no plane: the average is on the line through ")
    assert f"Average of {text}<" in panel._numbers_view.value
    assert panel.landscape is None
    assert not panel._plane_views[0].png
    assert len(panel.curve) == 12 + 2 * (12 - start)
    average = squared(W[start:].mean(axis=0))
    assert panel.numbers["loss"]["average"] == pytest.approx(average, rel=1e-5)
    panel.start = 3
    panel.wait()
    assert panel.landscape is not None


def test_what_is_cancelled_leaves_no_picture_of_another_window():
    go = threading.Event()

    def slow(stacked):
        if threading.current_thread().name == "wskit-panel":
            assert go.wait(30)
        return EVALUATE(stacked)

    panel = SwaExplorer(RUNS, slow, resolution=9)
    assert panel.message == "Computing the landscape, 7 × 7 points."
    panel.start = 2
    assert panel.message == "Measuring the averages up to each epoch."
    control(panel, "Cancel").click()
    go.set()
    panel._thread.join(30)
    assert panel.curve is None
    assert (panel.static_image(), panel.describe()) == (b"", panel.numbers.to_string())
    panel.close()


def test_an_evaluation_that_fails_is_said_in_one_sentence():
    broken = []

    def fragile(stacked):
        if broken:
            raise LandscapeError("the images are gone.")
        return EVALUATE(stacked)

    panel = SwaExplorer(RUNS, fragile, resolution=2)
    panel.wait()
    broken.append(True)
    panel.start = 2
    assert (panel.status, panel.message) == ("failed", "the images are gone.")
    panel.close()


@pytest.mark.parametrize(
    ("trait", "value", "message"),
    [
        ("run", "second", r"run must be one of \['first_0', 'short'\], got 'second'"),
        ("measure", "f1", r"measure must be one of \['loss', 'accuracy', "),
        ("start", 12, r"the window 12:12 must lie in the 12 recorded rows"),
        ("stop", 13, r"the window 6:13 must lie in the 12"),
    ],
)
def test_what_is_not_there_cannot_be_chosen(panel, trait, value, message):
    with pytest.raises(AveragingError, match=message):
        setattr(panel, trait, value)


def test_batch_norm_and_training_need_what_does_them():
    panel = SwaExplorer(RUNS, EVALUATE, resolution=2)
    assert control(panel, "Update BatchNorm").disabled
    with pytest.raises(AveragingError, match="needs `recalibrated`"):
        panel.recalibrate = True
    assert "Train a new run" not in labels(panel)
    panel.train_run()
    panel.wait()
    assert panel.message == "A new run needs `train`; give it to the panel."
    panel.close()


def test_what_cannot_be_explored_is_refused():
    with pytest.raises(AveragingError, match="there is no run to average"):
        SwaExplorer({}, EVALUATE)
    with pytest.raises(AveragingError, match="run 'empty' is empty"):
        SwaExplorer({"empty": Trajectory()}, EVALUATE)
    with pytest.raises(LandscapeError, match="a mapping with 'loss' in it"):
        SwaExplorer(RUNS, lambda stacked: {"error": np.zeros(len(stacked["w"]))})
