"""SoupKitchen, driven by its traits and controls, without a browser."""

import json
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from widgets_kit import PNG, control
from widgets_kit import run_code as run_cell

from wskit.checkpoints import open_checkpoint, save_weights
from wskit.errors import AveragingError, LandscapeError, SoupError
from wskit.landscape import one_by_one
from wskit.soups import greedy_soup
from wskit.widgets import SoupKitchen

pytestmark = pytest.mark.usefixtures("no_figure_stays_open", "no_layout")

HELD_OUT, SHIFT = np.array([1.0, 0.0]), np.array([1.0, 0.5])
W = {"run_$0": (0.0, 0.0), "b": (1.5, 0.5), "c": (1.6, -0.6), "d": (2.0, 2.0)}
INGREDIENTS = {name: {"w": torch.tensor(w)} for name, w in W.items()}
BASE = {"w": torch.zeros(2)}


def values(w):
    """The measures of a model, by numpy."""
    near, far = (float(np.square(np.asarray(w) - at).sum()) for at in (HELD_OUT, SHIFT))
    return {
        "loss": near,
        "held_out_loss": near,
        "held_out_accuracy": np.exp(-near),
        "clean_accuracy": np.exp(-2 * near),
        "shifted_accuracy": np.exp(-far),
    }


EVALUATE = one_by_one(lambda weights: values(weights["w"].double().numpy()))


@pytest.fixture
def panel():
    panel = SoupKitchen(INGREDIENTS, EVALUATE, base=BASE)
    yield panel
    panel.wait()
    panel.close()


def mean(*names, weights=None):
    return np.average([W[name] for name in names], axis=0, weights=weights)


def is_the_soup_of(panel, names, weights=None):
    expected = mean(*names, weights=weights)
    np.testing.assert_allclose(panel.soup["w"], expected, rtol=1e-6)
    found = panel.numbers.loc["soup"].to_dict()
    assert found == pytest.approx(values(expected), rel=1e-5)
    (point,) = (line for line in panel.ax.get_lines() if line.get_label() == "soup")
    place = [[found["clean_accuracy"], found["shifted_accuracy"]]]
    np.testing.assert_allclose(point.get_xydata(), place)


def run_code(panel):
    """Run the panel's cell, and compare what it made with the panel."""
    scope = run_cell(panel, ingredients=INGREDIENTS, evaluate=EVALUATE, base=BASE)
    pd.testing.assert_frame_equal(scope["numbers"], panel.numbers)
    pd.testing.assert_frame_equal(scope["singles"], panel.singles)
    if panel.soup is None:
        assert "soup" not in scope
    else:
        assert torch.equal(scope["soup"]["w"], panel.soup["w"])
    if len(panel.history):
        pd.testing.assert_frame_equal(scope["greedy"].history, panel.history)
    else:
        assert "greedy" not in scope


# -- what is shown ----------------------------------------------------------------------------


def test_it_begins_with_all_in_equal_parts(panel):
    assert panel.chosen == tuple(W)
    assert panel.shares == dict.fromkeys(W, 1.0)
    is_the_soup_of(panel, W)
    assert (panel.score, panel.x, panel.y) == (
        "held_out_accuracy",
        "clean_accuracy",
        "shifted_accuracy",
    )
    rows = ["soup", "best single", "uniform soup", "base", "mean of singles"]
    assert list(panel.numbers.index) == rows
    assert panel.numbers.loc["best single"].to_dict() == pytest.approx(values(W["b"]))
    assert panel.numbers.loc["base"].to_dict() == pytest.approx(values((0, 0)))
    singles = pd.DataFrame([values(w) for w in W.values()]).mean().to_dict()
    assert panel.numbers.loc["mean of singles"].to_dict() == pytest.approx(singles)
    pd.testing.assert_series_equal(
        panel.numbers.loc["soup"], panel.numbers.loc["uniform soup"], check_names=False
    )
    soup, best = values(mean(*W))["held_out_accuracy"], values(W["b"])["held_out_accuracy"]
    assert panel.status == "done"
    assert panel.message == (
        f"Held-out accuracy: {soup:.4g} of the soup, {best:.4g} of the best single, b."
    )


def test_ticks_and_sliders_make_the_soup(panel):
    control(panel, "c").value = False
    assert panel.chosen == ("run_$0", "b", "d")
    is_the_soup_of(panel, ["run_$0", "b", "d"])
    panel._rows["b"].slider.value = 2.0
    assert panel.shares["b"] == 2
    assert panel.coefficients == {"run_$0": 0.25, "b": 0.5, "d": 0.25}
    is_the_soup_of(panel, ["run_$0", "b", "d"], [1, 2, 1])
    assert "50.0 %" in panel._rows["b"]._note.value
    assert "–" in panel._rows["c"]._note.value
    control(panel, "Equal shares").click()
    is_the_soup_of(panel, ["run_$0", "b", "d"])
    control(panel, "All").click()
    is_the_soup_of(panel, W)


def test_the_controls_follow_the_traits(panel):
    panel.chosen = ["d", "b"]  # any order, and kept in that of the ingredients
    panel.shares = {"b": 3}
    assert panel.chosen == ("b", "d")
    assert [row.tick.value for row in panel._rows.values()] == [False, True, False, True]
    assert [row.slider.value for row in panel._rows.values()] == [1, 3, 1, 1]
    is_the_soup_of(panel, ["b", "d"], [3, 1])


def test_a_soup_beyond_the_picture_draws_it_anew(panel):
    before = panel.ax
    panel.shares = {"b": 1.1}
    assert panel.ax is before
    panel.chosen = ["run_$0", "b", "c"]  # better than all that there was
    assert panel.ax is not before
    is_the_soup_of(panel, panel.chosen, [1, 1.1, 1])
    low, high = panel.ax.get_ylim()
    assert low < panel.numbers["shifted_accuracy"]["soup"] < high


@pytest.mark.parametrize("shares", [{}, dict.fromkeys(W, 0)])
def test_nothing_in_the_soup_is_said(panel, shares):
    panel.shares = shares
    if not shares:
        control(panel, "None").click()
        assert panel.chosen == ()
    assert panel.soup is None
    assert panel.coefficients == {}
    assert panel.numbers.loc["soup"].isna().all()
    assert panel.message == "Nothing is in the soup; tick an ingredient, and give it a share."
    assert panel.static_image().startswith(PNG)
    assert "line 'soup': 1 points, x empty, y empty" in panel.describe()
    run_code(panel)
    panel.save()
    panel.wait()
    assert panel.message == "There is no soup to save; tick an ingredient."
    panel.chosen, panel.shares = ["c"], {}
    is_the_soup_of(panel, ["c"])


# -- recipes ----------------------------------------------------------------------------------


def greedy():
    return greedy_soup(
        INGREDIENTS, lambda weights: values(weights["w"].double().numpy())["held_out_accuracy"]
    )


def test_the_greedy_soup_is_that_of_soups(panel):
    control(panel, "Greedy").click()
    panel.wait()
    expected = greedy()
    pd.testing.assert_frame_equal(panel.history, expected.history)
    assert set(panel.chosen) == set(expected.ingredients) == {"b", "run_$0", "c"}
    is_the_soup_of(panel, expected.ingredients)
    scores = expected.history.held_out_score
    assert panel.message == (
        f"Greedy, step 4 of 4: d is rejected: the held-out accuracy is {scores[3]:.4g} with it and "
        f"{scores[2]:.4g} without. All 4 are tried: the soup of 3 has {scores[2]:.4g}, the best "
        f"single {scores[0]:.4g}."
    )
    assert "line 'accepted': 3 points" in panel.describe()
    assert panel._path_view.layout.display == ""
    run_code(panel)


def test_the_greedy_soup_goes_step_by_step():
    measured = []

    def counting(stacked):
        measured.append(len(stacked["w"]))
        return EVALUATE(stacked)

    panel = SoupKitchen(INGREDIENTS, counting)
    panel.shares = {"b": 0.2}
    history = greedy().history
    for step in range(1, 5):
        measured.clear()
        control(panel, "Greedy step").click()
        panel.wait()
        pd.testing.assert_frame_equal(panel.history, history[:step])
        assert set(panel.chosen) == set(history.ingredient[:step][history.accepted])
        assert set(panel.shares.values()) == {1.0}
        # What is tried, and the soup where it has changed: no step is evaluated twice.
        assert len(measured) == (step > 1) + int(history.accepted[step - 1])
        assert panel.message.startswith(f"Greedy, step {step} of 4: ")
    assert "b begins: alone it has the best held-out accuracy, " in greedy_first(panel)
    panel.close()


def greedy_first(panel):
    """After the last step, the next one is the first."""
    panel.greedy_step()
    panel.wait()
    assert len(panel.history) == 1
    return panel.message


def test_a_cancelled_recipe_leaves_what_there_was():
    go, reached = threading.Event(), threading.Event()

    def slow(stacked):
        if threading.current_thread().name == "wskit-panel":
            reached.set()
            assert go.wait(30)
        return EVALUATE(stacked)

    panel = SoupKitchen(INGREDIENTS, slow)
    panel.greedy()
    assert (panel.status, panel.message) == ("running", "Greedy tries ingredient 4.")
    assert reached.wait(30)
    panel.chosen = ["b"]  # the numbers follow meanwhile
    is_the_soup_of(panel, ["b"])
    control(panel, "Cancel").click()
    assert panel.status == "cancelled"
    go.set()
    panel._thread.join(30)
    assert panel.history.empty
    assert panel.chosen == ("b",)
    panel.close()


# -- without a held-out score -----------------------------------------------------------------


def test_the_test_set_chooses_no_soup():
    def tested(weights):
        found = values(weights["w"].double().numpy())
        return {name: found[name] for name in ("loss", "held_out_loss", "clean_accuracy")}

    panel = SoupKitchen(INGREDIENTS, one_by_one(tested))
    assert (panel.score, panel.x, panel.y) == ("", "clean_accuracy", "clean_accuracy")
    assert "best single" not in panel.numbers.index
    assert panel.message.startswith("Greedy is off: it needs a measure whose name begins with ")
    for name in ("Greedy step", "Greedy"):
        assert control(panel, name).disabled
    panel.greedy()
    panel.wait()
    assert panel.status == "failed"
    run_cell(panel, ingredients=INGREDIENTS, evaluate=one_by_one(tested))
    panel.close()
    with pytest.raises(SoupError, match="begins with 'held_out' and of which more is better"):
        SoupKitchen(INGREDIENTS, EVALUATE, score="clean_accuracy")


def test_one_measure_beside_the_score_is_drawn_against_it():
    def one(weights):
        found = values(weights["w"].double().numpy())
        return {name: found[name] for name in ("loss", "held_out_accuracy", "clean_accuracy")}

    panel = SoupKitchen(INGREDIENTS, one_by_one(one))
    assert (panel.x, panel.y) == ("held_out_accuracy", "clean_accuracy")
    panel.close()


# -- files ------------------------------------------------------------------------------------


def test_a_soup_is_saved_with_what_it_is_made_of(panel, tmp_path):
    panel.chosen, panel.shares = ["b", "c"], {"b": 3}
    control(panel, "File").value = str(tmp_path / "soup.safetensors")
    control(panel, "Save…").click()
    panel.wait()
    path = tmp_path / "soup.safetensors"
    assert panel.message == f"The soup of 2 is written to {path}."
    with open_checkpoint(path) as saved:
        assert torch.equal(saved["w"], panel.soup["w"])
        made_of = json.loads(saved.metadata["soup"])
    assert made_of["ingredients"] == ["b", "c"]
    assert made_of["coefficients"] == [0.75, 0.25]
    panel.chosen = ["d"]
    panel.save()
    panel.wait()
    assert panel.message == f"The soup of 1 is written to {path}."  # its own file
    assert torch.equal(open_checkpoint(path)["w"], INGREDIENTS["d"]["w"])


def test_files_of_others_are_not_overwritten(panel, tmp_path):
    path = tmp_path / "soup.safetensors"
    path.write_bytes(b"of someone else")
    panel.path = str(path)
    panel.save()
    panel.wait()
    assert panel.status == "failed"
    assert panel.message.endswith(
        " is there already, and was not written here; choose another name."
    )
    assert path.read_bytes() == b"of someone else"
    path.unlink()
    panel.save()
    panel.wait()
    path.write_bytes(b"of someone else")
    panel.save()
    panel.wait()
    assert path.read_bytes() == b"of someone else"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("soup.pt", "The file's name must end in .safetensors, got '.*soup.pt'"),
        ("missing/soup.safetensors", "missing"),
    ],
)
def test_what_cannot_be_written_is_said(panel, tmp_path, name, message):
    panel.path = str(tmp_path / name)
    panel.save()
    panel.wait()
    assert panel.status == "failed"
    with pytest.raises(SoupError, match=message):
        raise SoupError(panel.message)
    assert "\n" not in panel.message


# -- the shell --------------------------------------------------------------------------------


def test_the_cell_gives_what_the_panel_shows(panel):
    run_code(panel)
    panel.chosen, panel.shares = ["b", "c"], {"b": 0.35}
    run_code(panel)
    panel.greedy_step()
    panel.wait()
    panel.shares = {"b": 0.35}
    run_code(panel)


# -- what goes wrong --------------------------------------------------------------------------


def test_an_evaluation_that_fails_is_said_in_one_sentence():
    broken = []

    def fragile(stacked):
        if broken:
            raise LandscapeError("the images are gone.")
        return EVALUATE(stacked)

    panel = SoupKitchen(INGREDIENTS, fragile)
    broken.append(True)
    panel.chosen = ["b", "c"]
    assert (panel.status, panel.message) == ("failed", "the images are gone.")
    assert panel.soup is None  # no number of another soup is left
    assert panel.numbers.loc["soup"].isna().all()
    broken.clear()
    panel.chosen = ["b"]
    is_the_soup_of(panel, ["b"])
    panel.close()


@pytest.mark.parametrize(
    ("trait", "value", "message"),
    [
        ("chosen", ["e"], r"there is no ingredient 'e'; choose among \['run_\$0', 'b', 'c', 'd'\]"),
        ("shares", {"e": 1}, "there is no ingredient 'e'"),
        ("shares", {"b": -1}, r"the share of 'b' must be at least 0, got -1\.0"),
        ("shares", {"b": float("nan")}, "the share of 'b' must be at least 0, got nan"),
        ("x", "f1", r"x must be one of \['loss', "),
    ],
)
def test_what_is_not_there_cannot_be_chosen(panel, trait, value, message):
    with pytest.raises(SoupError, match=message):
        setattr(panel, trait, value)


def test_ingredients_are_a_list_of_networks_or_files(tmp_path):
    nets = [nn.Linear(3, 2) for _ in range(3)]
    save_weights(nets[2].state_dict(), tmp_path / "c.safetensors")
    evaluate = one_by_one(lambda weights: weights["weight"].square().sum())
    panel = SoupKitchen([*nets[:2], tmp_path / "c.safetensors"], evaluate, base=nets[0])
    assert panel.chosen == ("0", "1", "2")
    expected = torch.stack([net.weight.detach() for net in nets]).mean(dim=0)
    torch.testing.assert_close(panel.soup["weight"], expected)
    panel.close()


def test_what_cannot_be_cooked_is_refused():
    with pytest.raises(SoupError, match="there are no ingredients"):
        SoupKitchen({}, EVALUATE)
    with pytest.raises(SoupError, match=r"one of \['held_out_accuracy'\], got 'held_out_loss'"):
        SoupKitchen(INGREDIENTS, EVALUATE, score="held_out_loss")
    with pytest.raises(AveragingError, match="shape"):
        SoupKitchen({"a": BASE, "b": {"w": torch.zeros(3)}}, EVALUATE)
    with pytest.raises(LandscapeError, match="a mapping with 'loss' in it"):
        SoupKitchen(INGREDIENTS, lambda stacked: {"error": np.zeros(len(stacked["w"]))})
