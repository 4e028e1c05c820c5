"""Pictures of soups: what is drawn is what the results say."""

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from wskit import plots
from wskit.soups import greedy_soup

pytestmark = pytest.mark.usefixtures("no_figure_stays_open")

HISTORY = pd.DataFrame(
    {
        "step": [1, 2, 3, 4],
        "ingredient": ["rate_$1", "b", "c", "$d$"],
        "own_score": [0.8, 0.7, 0.6, 0.5],
        "held_out_score": [0.8, 0.75, 0.9, 0.85],
        "accepted": [True, False, True, False],
        "n_ingredients": [1, 1, 2, 2],
    }
)
SCORES = pd.DataFrame(
    {
        "clean_accuracy": [0.9, 0.8, 0.95, 0.96, 0.94],
        "shifted_loss": [1.0, 2.0, 3.0, 4.0, 5.0],
        "kind": ["ingredient", "ingredient", "greedy soup", "ensemble", "greedy soup"],
    }
)


@pytest.fixture
def ax():
    return Figure(layout="constrained").subplots()


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# --- the greedy path


def test_steps_of_a_greedy_soup_are_told_apart(ax):
    assert plots.plot_greedy_path(HISTORY, ax=ax) is ax
    found = lines(ax)
    assert found["accepted"].get_xydata().tolist() == [[1, 0.8], [3, 0.9]]
    assert found["rejected"].get_xydata().tolist() == [[2, 0.75], [4, 0.85]]
    assert found["the ingredient alone"].get_ydata().tolist() == [0.8, 0.7, 0.6, 0.5]
    assert found["the soup so far"].get_ydata().tolist() == [0.8, 0.8, 0.9, 0.9]
    accepted, rejected = found["accepted"], found["rejected"]
    assert accepted.get_marker() != rejected.get_marker()
    assert accepted.get_color() != rejected.get_color()
    assert found["the ingredient alone"].get_color() == plots.PALETTE["null"]
    assert legend(ax) == ["the ingredient alone", "the soup so far", "accepted", "rejected"]


def test_names_of_ingredients_are_written_as_they_are(ax):
    plots.plot_greedy_path(HISTORY, ax=ax)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["rate_$1", "b", "c", "$d$"]
    ax.figure.draw_without_rendering()
    assert not any(text.get_parse_math() for text in ax.get_xticklabels())


def test_many_ingredients_are_numbered(ax):
    models = [{"w": torch.tensor([float(i)])} for i in range(31)]
    soup = greedy_soup(models, lambda weights: -abs(weights["w"].item() - 7))
    plots.plot_greedy_path(soup.history, ax=ax)
    assert ax.get_xlabel() == "step"
    assert len(ax.get_xticks()) < 31
    assert lines(ax)["the ingredient alone"].get_ydata()[0] == 0
    few = Figure().subplots()
    plots.plot_greedy_path(soup.history[:24], ax=few)
    assert len(few.get_xticklabels()) == 24
    assert 9 <= few.get_xticklabels()[0].get_fontsize() < 10


def test_a_soup_that_is_better_with_all_has_nothing_rejected(ax):
    plots.plot_greedy_path(HISTORY[HISTORY.accepted], ax=ax, marker="s", ms=5)
    assert len(lines(ax)["rejected"].get_xdata()) == 0
    assert lines(ax)["accepted"].get_marker() == "s"
    assert lines(ax)["accepted"].get_xdata().tolist() == [1, 2]


# --- scores


def test_ingredients_are_grey_and_the_others_have_looks_of_their_own(ax):
    plots.plot_soup_scores(SCORES, x="clean_accuracy", y="shifted_loss", ax=ax)
    found = lines(ax)
    assert list(found) == ["ingredient", "greedy soup", "ensemble"]
    assert found["ingredient"].get_xydata().tolist() == [[0.9, 1], [0.8, 2]]
    assert found["greedy soup"].get_xydata().tolist() == [[0.95, 3], [0.94, 5]]
    assert found["ensemble"].get_xydata().tolist() == [[0.96, 4]]
    assert found["ingredient"].get_color() == plots.PALETTE["null"]
    assert found["ingredient"].get_markersize() < found["ensemble"].get_markersize()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("clean accuracy", "shifted loss")


def test_nine_kinds_can_be_told_apart(ax):
    table = pd.DataFrame({"x": 1.0, "y": 2.0, "kind": [f"soup {i}" for i in range(10)]})
    plots.plot_soup_scores(table[:9], x="x", y="y", ax=ax, ms=20)
    looks = {(line.get_color(), line.get_marker()) for line in ax.get_lines()}
    assert len({color for color, _ in looks}) == len({marker for _, marker in looks}) == 9
    assert plots.PALETTE["null"] not in {color for color, _ in looks}
    assert {line.get_markersize() for line in ax.get_lines()} == {20}
    with pytest.raises(ValueError, match="at most 9 kinds of models can be told apart, got 10"):
        plots.plot_soup_scores(table, x="x", y="y", ax=ax)
