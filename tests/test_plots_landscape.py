"""Pictures of landscapes: what is drawn is what the results say."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import LogNorm, Normalize
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure

from wskit import plots
from wskit.landscape import LossPath, LossPlane

CORNERS = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 2.0]])
NAMES = ("parity_0", "digit_$9", "c")


@pytest.fixture
def ax():
    return Figure(layout="constrained").subplots()


pytestmark = pytest.mark.usefixtures("no_figure_stays_open")


def texts(ax):
    return [text.get_text() for text in ax.texts]


def make_path(ends=("a", "b"), alphas=(-0.5, 0.0, 0.5, 1.0), losses=(4.0, 1.0, 2.0, 3.0)):
    accuracy = np.array([0.1, 0.4, 0.3, 0.2])[: len(losses)]
    measures = {"loss": np.array(losses), "accuracy": accuracy}
    return LossPath(np.array(alphas), measures, ends, 2.0)


def make_plane(losses, **more):
    losses = np.asarray(losses, dtype=float)
    x, y = np.linspace(-1, 3, losses.shape[1]), np.linspace(-1, 3, losses.shape[0])
    measures = {"loss": losses} | more
    return LossPlane(x, y, measures, CORNERS, NAMES)


def filled(ax):
    return next(c for c in ax.collections if isinstance(c, QuadContourSet) and c.filled)


# --- a path


def test_a_path_is_drawn_and_its_ends_are_marked(ax):
    plots.plot_loss_path(make_path(), ax=ax)
    lines = {line.get_marker(): line for line in ax.get_lines() if line.get_ls() != ":"}
    np.testing.assert_array_equal(lines["None"].get_ydata(), [4, 1, 2, 3])
    assert lines["None"].get_label() == "a to b"
    assert (lines["o"].get_xdata(), lines["o"].get_ydata()) == ([0], [1])
    assert (lines["s"].get_xdata(), lines["s"].get_ydata()) == ([1], [3])
    assert ax.get_ylabel() == "loss"


@pytest.mark.parametrize("kind", ["path", "plane"])
def test_losses_have_the_unit_that_the_caller_gives_and_other_measures_none(kind):
    values = np.arange(9.0).reshape(3, 3)
    draw, found = {
        "path": (plots.plot_loss_path, make_path()),
        "plane": (plots.plot_loss_plane, make_plane(values, accuracy=values)),
    }[kind]
    for options, expected in (
        ({"unit": "nats"}, "loss in nats"),
        ({}, "loss"),
        ({"unit": "nats", "measure": "accuracy"}, "accuracy"),
    ):
        figure = Figure(layout="constrained")
        draw(found, ax=figure.subplots(), **options)
        assert figure.axes[-1].get_ylabel() == expected


def test_several_paths_have_colours_of_their_own_and_one_pair_of_guides(ax):
    plots.plot_loss_path(make_path(), ax=ax)
    plots.plot_loss_path(make_path(), label="outside", ax=ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a to b", "outside"]
    drawn = [line for line in ax.get_lines() if line.get_gid() == "loss-path"]
    assert len({line.get_color() for line in drawn}) == 2
    assert sum(line.get_ls() == ":" for line in ax.get_lines()) == 2


def test_another_measure_and_keywords_of_the_line(ax):
    plots.plot_loss_path(make_path(), measure="accuracy", ax=ax, color="black")
    line = next(line for line in ax.get_lines() if line.get_gid() == "loss-path")
    np.testing.assert_array_equal(line.get_ydata(), [0.1, 0.4, 0.3, 0.2])
    assert (ax.get_ylabel(), line.get_color()) == ("accuracy", "black")


# --- a plane


def test_losses_over_decades_have_logarithmic_levels(ax):
    plots.plot_loss_plane(make_plane(np.geomspace(0.1, 100, 16).reshape(4, 4)), ax=ax)
    contours = filled(ax)
    assert isinstance(contours.norm, LogNorm)
    np.testing.assert_allclose(np.diff(np.log(contours.levels)), np.log(1000) / 20)
    assert ax.get_title(loc="left") == "loss 0.1 to 100"


@pytest.mark.parametrize("losses", [np.arange(1, 10), np.arange(-4, 5), np.full(9, 2.0)])
def test_other_values_have_even_levels(ax, losses):
    plots.plot_loss_plane(make_plane(losses.reshape(3, 3)), ax=ax)
    contours = filled(ax)
    assert type(contours.norm) is Normalize
    np.testing.assert_allclose(np.diff(contours.levels), np.ptp(contours.levels) / 20)
    assert contours.levels[0] <= losses.min() <= losses.max() <= contours.levels[-1]


def test_models_are_named_and_the_point_is_marked(ax):
    plots.plot_loss_plane(make_plane(np.ones((3, 3))), point=np.array([1, 0.5]), ax=ax)
    assert texts(ax) == list(NAMES)
    assert not any(text.get_parse_math() for text in ax.texts)
    marked = [line for line in ax.get_lines() if line.get_marker() == "o"]
    np.testing.assert_array_equal([line.get_xydata()[0] for line in marked], CORNERS)
    point = next(line for line in ax.get_lines() if line.get_gid() == "point")
    np.testing.assert_array_equal(point.get_xydata(), [[1, 0.5]])


@pytest.mark.parametrize(
    ("height", "ends"), [(2.0, ["baseline"] * 3), (0.1, ["top", "top", "baseline"])]
)
def test_names_of_models_on_a_line_do_not_collide(ax, height, ends):
    corners = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, height]])
    x = np.linspace(-1, 3, 3)
    plane = LossPlane(x, x, {"loss": np.ones((3, 3))}, corners, NAMES)
    plots.plot_loss_plane(plane, ax=ax)
    assert [text.get_va() for text in ax.texts] == ends  # the model in the middle has its above


def test_what_was_not_evaluated_is_counted(ax):
    losses = np.arange(16.0).reshape(4, 4)
    losses[2:] = np.nan
    losses[0, 0] = np.inf
    plots.plot_loss_plane(make_plane(losses), ax=ax)
    assert ax.get_title(loc="left") == "loss 1 to 7 at 7 of 16 points"


def test_a_plane_with_nothing_evaluated_has_the_models(ax):
    plots.plot_loss_plane(make_plane(np.full((2, 2), np.nan)), ax=ax)
    assert texts(ax) == list(NAMES)
    assert ax.get_title(loc="left") == "loss: not evaluated yet"


# --- a matrix


def test_a_matrix_is_ordered_by_group(ax):
    matrix = np.arange(16.0).reshape(4, 4)
    plots.plot_distance_matrix(matrix, groups=["b", "a", "b", "a"], measure="cosine", ax=ax)
    order = [1, 3, 0, 2]
    np.testing.assert_array_equal(ax.images[0].get_array(), matrix[np.ix_(order, order)])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]
    np.testing.assert_array_equal(ax.get_yticks(), [0.5, 2.5])
    borders = [line for line in ax.get_lines() if line.get_label() == "_border"]
    assert [line.get_ydata()[0] for line in borders[::2]] == [1.5]
    assert ax.figure.axes[1].get_ylabel() == "cosine"


def test_colours_leave_the_diagonal_out(ax):
    plots.plot_distance_matrix(np.array([[1, 0.2, 0.3], [0.2, 1, 0.1], [0.3, 0.1, 1]]), ax=ax)
    assert ax.images[0].get_clim() == (0.1, 0.3)


def test_few_models_are_named_one_by_one(ax):
    plots.plot_distance_matrix(np.eye(2), labels=["x_$1", "y"], ax=ax)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["x_$1", "y"]


def test_a_matrix_that_does_not_fit_is_refused(ax):
    with pytest.raises(ValueError, match="matrix must be square, got shape"):
        plots.plot_distance_matrix(np.ones((2, 3)), ax=ax)
    with pytest.raises(ValueError, match="each of 2 models needs a group, got 1"):
        plots.plot_distance_matrix(np.eye(2), groups=["a"], ax=ax)


# --- a map


def test_colours_and_markers_are_named_once_each(ax):
    points = np.array([[1.0, 0.0], [2.0, 1.0], [-3.0, 1.0], [0.0, 2.0]])
    plots.plot_model_map(points, groups=list("aabb"), markers=list("xyxy"), ax=ax)
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["a", "b", "x", "y", "base"]
    found = {c.get_label(): c.get_offsets().tolist() for c in ax.collections}
    assert found == {
        label: [p]
        for label, p in zip(["a, x", "a, y", "b, x", "b, y"], points.tolist(), strict=True)
    }
    colors = [tuple(c.get_facecolor()[0]) for c in ax.collections]
    assert colors[0] == colors[1] != colors[2] == colors[3]


def test_the_base_is_at_the_centre_and_the_chosen_are_marked(ax):
    points = np.array([[1.0, 0.0], [2.0, 5.0]])
    plots.plot_model_map(points, base=np.ones(2), chosen={"m_1": 1}, ax=ax)
    np.testing.assert_allclose([np.mean(ax.get_xlim()), np.mean(ax.get_ylim())], [1, 1])
    lines = {line.get_label(): line.get_xydata().tolist() for line in ax.get_lines()}
    assert lines == {"m_1": [[2.0, 5.0]], "base": [[1.0, 1.0]]}
    assert texts(ax) == ["m_1"]


def test_without_groups_and_base_there_are_only_the_models(ax):
    plots.plot_model_map(pd.DataFrame({"x": [1.0, 2.0], "y": [0.0, 1.0]}), base=None, ax=ax)
    assert [c.get_label() for c in ax.collections] == ["models"]
    assert ax.get_legend() is None
    assert not ax.get_lines()


def test_a_map_that_cannot_be_drawn_is_refused(ax):
    with pytest.raises(ValueError, match="at most 10 groups can be told apart, got 11"):
        plots.plot_model_map(np.zeros((11, 2)), groups=range(11), ax=ax)
    with pytest.raises(ValueError, match=r"shape \(models, 2\), got \(3, 1\)"):
        plots.plot_model_map(np.zeros((3, 1)), ax=ax)
