"""RegionExplorer, driven by its traits and controls, without a browser."""

import threading

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from widgets_kit import PNG, control
from widgets_kit import run_code as run_cell

from wskit.checkpoints import save_weights
from wskit.errors import LandscapeError
from wskit.landscape import one_by_one
from wskit.widgets import RegionExplorer

NAMES = ["a_0", "b_$1", "c", "d"]
MAP = pd.DataFrame(
    {
        "x": [1.0, -1.0, 0.0, 2.0],
        "y": [0.0, 1.0, -1.0, 2.0],
        "task": list("ttuu"),
        "set": list("mnmn"),
    }
)


pytestmark = pytest.mark.usefixtures("no_figure_stays_open", "no_layout")


def measures(weights):
    w = weights["w"]
    return {"loss": w.square().sum() + 0.1, "accuracy on t": torch.exp(-w.square().sum())}


EVALUATE = one_by_one(measures)
MODELS = {
    name: {"w": torch.tensor(w)}
    for name, w in zip(
        NAMES,
        ([0.0, 0.0, 1.0], [2.0, 0.0, 1.0], [1.0, 2.0, 1.0], [2.0, 0.0, 3.0]),
        strict=True,
    )
}
BASE = {"w": torch.zeros(3)}


@pytest.fixture
def panel():
    panel = RegionExplorer(MODELS, EVALUATE, base=BASE, map=MAP, resolution=9)
    panel.wait()
    yield panel
    panel.close()


def run_code(panel, **names):
    """Run the panel's cell, and compare what it made with the panel."""
    scope = run_cell(panel, **({"models": panel.models, "evaluate": panel.evaluate} | names))
    if panel.landscape is not None:
        for name, values in panel.landscape.measures.items():
            np.testing.assert_allclose(scope["found"].measures[name], values, rtol=1e-6)


# -- what is shown ----------------------------------------------------------------------------


def test_it_begins_at_the_centre_of_the_first_three(panel):
    assert panel.chosen == NAMES[:3]
    np.testing.assert_allclose(panel.coefficients, [1 / 3] * 3)
    assert list(panel.numbers.index) == ["point", *NAMES[:3]]
    centre = np.array([1, 2 / 3, 1])
    np.testing.assert_allclose(panel.numbers.loss["point"], centre @ centre + 0.1, rtol=1e-6)
    np.testing.assert_allclose(panel.numbers.loss[NAMES[:3]], [1.1, 5.1, 6.1], rtol=1e-6)
    assert panel.message == "The point is inside the triangle of a_0, b_$1, c."
    assert panel.status == "done"


def test_the_point_moves_and_its_measures_with_it(panel):
    background = panel.landscape
    panel.c1, panel.c2 = 1.2, 0.3
    w = 1.2 * np.array([0, 0, 1]) + 0.3 * np.array([2, 0, 1]) - 0.5 * np.array([1, 2, 1])
    np.testing.assert_allclose(panel.numbers.loss["point"], w @ w + 0.1, rtol=1e-5)
    accuracy = panel.numbers["accuracy on t"]["point"]
    np.testing.assert_allclose(accuracy, np.exp(-w @ w), rtol=1e-5)
    assert f"{w @ w + 0.1:.4g}" in panel._table.value
    assert panel.message.startswith("The point is outside the triangle of ")
    assert panel.landscape is background
    point = next(line for line in panel.ax.get_lines() if line.get_gid() == "point")
    np.testing.assert_allclose(point.get_xydata()[0], panel.coefficients @ background.corners)


def test_the_moved_picture_is_the_one_drawn_anew(panel):
    panel.c1 = 0.9
    moved = panel._picture.png
    panel._draw_plane()
    assert panel.static_image() == moved
    assert moved.startswith(PNG)


def test_a_point_beyond_the_picture_is_said_to_be(panel):
    panel.c1 = panel.c2 = 1.5
    assert panel.message.endswith(", beyond the picture.")
    control(panel, "Centre").click()
    np.testing.assert_allclose(panel.coefficients, [1 / 3] * 3)


def test_the_landscape_is_that_of_the_plane(panel):
    found = panel.landscape
    assert found.losses.shape == (9, 9)
    x, y = np.meshgrid(found.x, found.y)  # the plane's axes are those of w here
    np.testing.assert_allclose(found.losses, x**2 + y**2 + 1.1, rtol=1e-5)


def test_other_models_are_chosen(panel):
    control(panel, "Third model").value = "d"
    panel.wait()
    assert panel.chosen == ["a_0", "b_$1", "d"]
    assert panel.landscape.names == ("a_0", "b_$1", "d")
    assert list(panel.numbers.index) == ["point", "a_0", "b_$1", "d"]
    marked = {line.get_label() for line in panel.map_ax.get_lines()}
    assert marked == {"a_0", "b_$1", "d", "base"}


@pytest.mark.parametrize(("unit", "label"), [(None, "loss"), ("bits", "loss in bits")])
def test_the_loss_has_the_unit_that_it_is_given(unit, label):
    panel = RegionExplorer(MODELS, EVALUATE, resolution=3, unit=unit)
    panel.wait()
    assert panel.ax.figure.axes[1].get_ylabel() == label
    run_code(panel)
    panel.measure = "accuracy on t"
    assert panel.ax.figure.axes[1].get_ylabel() == "accuracy on t"
    panel.close()


def test_the_random_control_is_as_far_from_the_base(panel):
    control(panel, "Random control").value = True
    # The loss here is |w|^2 + 0.1 and the base is 0: at one distance it is the same.
    for panel.c1 in (0.2, 1.4):
        at_random, at_point = panel.numbers.loss["random"], panel.numbers.loss["point"]
        np.testing.assert_allclose(at_random, at_point, rtol=1e-5)
    panel.show_random = False
    assert "random" not in panel.numbers.index


# -- the cell ---------------------------------------------------------------------------------


def test_the_cell_gives_what_the_panel_shows(panel):
    run_code(panel, map=MAP, base=BASE)
    panel.c1, panel.c2, panel.measure, panel.show_random = 0.7, -0.2, "accuracy on t", True
    panel.first = "d"
    panel.wait()
    run_code(panel, map=MAP, base=BASE)


def test_the_cell_without_map_and_base():
    panel = RegionExplorer(list(MODELS.values()), EVALUATE, resolution=4)
    panel.wait()
    assert panel.chosen == [0, 1, 2]
    assert panel.map_ax is None
    run_code(panel)
    panel.close()


def test_the_cell_with_a_map_and_no_base():
    panel = RegionExplorer(MODELS, EVALUATE, map=MAP[["x", "y"]], resolution=4)
    panel.wait()
    run_code(panel, map=MAP[["x", "y"]])
    panel.close()


# -- work in a thread -------------------------------------------------------------------------


def test_the_landscape_is_cancelled_and_the_point_still_moves():
    go, calls = threading.Event(), []

    def slow(stacked):
        if threading.current_thread().name == "wskit-panel":
            calls.append(len(stacked["w"]))
            assert go.wait(30)
        return EVALUATE(stacked)

    panel = RegionExplorer(MODELS, slow, resolution=9)
    assert (panel.status, panel.message) == ("running", "Computing the landscape, 7 × 7 points.")
    panel.c1 = 0.5
    w = np.array([5 / 6, 1 / 3, 1])
    np.testing.assert_allclose(panel.numbers.loss["point"], w @ w + 0.1, rtol=1e-6)
    assert panel.status == "running"
    control(panel, "Cancel").click()
    assert (panel.status, panel.message) == ("cancelled", "Cancelled.")
    go.set()
    panel._thread.join(30)
    assert panel.landscape is None
    assert "not evaluated yet" in panel.ax.get_title(loc="left")
    panel.close()


# -- what goes wrong --------------------------------------------------------------------------


def test_cancel_is_looked_at_every_few_points():
    points = []

    def evaluate(stacked):
        if threading.current_thread().name == "wskit-panel":
            points.append(len(stacked["w"]))
            panel.cancel()
        return EVALUATE(stacked)

    panel = RegionExplorer(MODELS, EVALUATE, resolution=3)
    panel.wait()
    panel.evaluate = evaluate
    panel.first = "d"
    panel._thread.join(60)
    assert sum(points) == 4
    panel.close()


def test_three_models_on_a_line_are_said_to_be_and_others_are_shown_again(panel):
    panel.third = "b_$1"
    assert panel.status == "failed"
    assert panel.message.startswith("the three models lie on one line (or two are equal)")
    assert panel.landscape is None
    panel.c1 = 0.25  # there is a point, but no plane
    assert panel.numbers.loss["point"] == pytest.approx(0.75**2 * 4 + 1.1)
    panel.third = "d"
    panel.wait()
    assert panel.status == "done"
    assert panel.landscape is not None


def test_an_evaluation_that_fails_is_said_in_one_sentence():
    broken = []

    def fragile(stacked):
        if broken:
            raise LandscapeError("the images are gone.")
        return EVALUATE(stacked)

    panel = RegionExplorer(MODELS, fragile, resolution=4)
    panel.wait()
    broken.append(True)
    panel.c1 = 0.4
    assert (panel.status, panel.message) == ("failed", "the images are gone.")
    panel.first = "d"
    assert (panel.status, panel.message) == ("failed", "the images are gone.")
    panel.close()


def test_what_is_not_there_cannot_be_chosen(panel):
    with pytest.raises(LandscapeError, match=r"first must be one of \['a_0', .*got 'e'"):
        panel.first = "e"
    with pytest.raises(LandscapeError, match=r"measure must be one of \['loss', .*got 'f1'"):
        panel.measure = "f1"


def test_models_are_networks_or_files(tmp_path):
    nets = [nn.Linear(3, 2) for _ in range(3)]
    save_weights(nets[2].state_dict(), tmp_path / "c.safetensors")
    evaluate = one_by_one(lambda weights: weights["weight"].square().sum())
    panel = RegionExplorer(
        [*nets[:2], str(tmp_path / "c.safetensors")], evaluate, base=nets[0], resolution=2
    )
    panel.wait()
    expected = [net.weight.square().sum().item() for net in nets]
    np.testing.assert_allclose(panel.numbers["loss"][["0", "1", "2"]], expected, rtol=1e-6)
    panel.close()


def test_the_random_control_needs_a_base():
    panel = RegionExplorer(MODELS, EVALUATE, resolution=4)
    assert control(panel, "Random control").disabled
    with pytest.raises(LandscapeError, match="The random control needs the base"):
        panel.show_random = True
    panel.wait()
    panel.close()


def test_what_cannot_be_explored_is_refused():
    with pytest.raises(LandscapeError, match="a triangle needs three models, got 2"):
        RegionExplorer(list(MODELS.values())[:2], EVALUATE)
    with pytest.raises(LandscapeError, match="one row for each of the 4 models"):
        RegionExplorer(MODELS, EVALUATE, map=MAP[:2])
    with pytest.raises(LandscapeError, match="'w' has the shape"):
        RegionExplorer([*list(MODELS.values())[:2], {"w": torch.zeros(2)}], EVALUATE)
