"""Pictures of training runs: what is drawn is what the tables and the spectrum say."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from wskit import plots


@pytest.fixture
def ax():
    return Figure(layout="constrained").subplots()


pytestmark = pytest.mark.usefixtures("no_figure_stays_open")

CURVES = pd.DataFrame(
    {
        "epoch": [2, 1, 1, 2, 1, 2, 3],
        "model": ["SWA", "SWA", "SWA", "SWA", "EMA", "EMA", "EMA"],
        "test_error": [4.0, 1.0, 3.0, 8.0, 5.0, 6.0, 7.0],
    }
)


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def band(collection):
    """The lower and the upper end of a band at each x."""
    vertices = pd.DataFrame(collection.get_paths()[0].vertices, columns=["x", "y"])
    return vertices.groupby("x").y.agg(["min", "max"])


# --- curves


def test_a_line_is_the_mean_and_its_band_one_standard_deviation(ax):
    assert plots.plot_mean_curves(CURVES, x="epoch", y="test_error", by="model", ax=ax) is ax
    swa, ema = ax.get_lines()
    np.testing.assert_array_equal(swa.get_xydata(), [[1, 2], [2, 6]])
    np.testing.assert_array_equal(ema.get_xydata(), [[1, 5], [2, 6], [3, 7]])
    (spread,) = ax.collections  # of SWA: each EMA is one row
    deviations = np.array([2**0.5, 8**0.5])  # of (1, 3) and (4, 8)
    np.testing.assert_allclose(band(spread)["min"], np.array([2, 6]) - deviations)
    np.testing.assert_allclose(band(spread)["max"], np.array([2, 6]) + deviations)
    assert to_rgb(spread.get_facecolor()[0][:3]) == to_rgb(swa.get_color())
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "test error")


def test_groups_keep_their_order_and_differ_in_colour_and_line(ax):
    plots.plot_mean_curves(CURVES, x="epoch", y="test_error", by="model", ax=ax)
    assert legend(ax) == ["SWA", "EMA", "± 1 standard deviation"]
    swa, ema = ax.get_lines()
    assert swa.get_color() != ema.get_color()
    assert (swa.get_ls(), ema.get_ls()) == ("-", "--")
    assert "band 'SWA ± 1 standard deviation': x 1 to 2" in plots.describe(ax)


def test_ten_groups_can_be_told_apart_and_numbers_have_their_columns_name(ax):
    table = pd.DataFrame({"x": 1.0, "y": 2.0, "n_seeds": range(11)})
    plots.plot_mean_curves(table[:10], x="x", y="y", by="n_seeds", ax=ax)
    assert legend(ax)[:2] == ["n seeds 0", "n seeds 1"]
    assert len({(line.get_color(), line.get_ls()) for line in ax.get_lines()}) == 10
    with pytest.raises(ValueError, match=r"at most 10 groups .* got 11 by 'n_seeds'"):
        plots.plot_mean_curves(table, x="x", y="y", by="n_seeds", ax=ax)


def test_one_row_has_a_line_and_no_band(ax):
    table = CURVES[CURVES.model == "EMA"].rename(columns={"test_error": "test_loss"})
    plots.plot_mean_curves(table, x="epoch", y="test_loss", unit="nats", ax=ax, marker="o")
    assert not ax.collections
    assert ax.get_legend() is None
    assert ax.get_ylabel() == "test loss in nats"
    assert ax.get_lines()[0].get_marker() == "o"


def test_rows_without_a_value_are_left_out(ax):
    table = CURVES.assign(test_error=CURVES.test_error.mask(CURVES.epoch == 2))
    plots.plot_mean_curves(table, x="epoch", y="test_error", by="model", ax=ax)
    swa, ema = ax.get_lines()
    np.testing.assert_array_equal(swa.get_xydata(), [[1, 2]])
    np.testing.assert_array_equal(ema.get_xydata(), [[1, 5], [3, 7]])


def test_what_was_on_the_axes_before_stays_in_the_legend(ax):
    ax.axvspan(1, 2, label="averaged")
    plots.plot_mean_curves(CURVES, x="epoch", y="test_error", by="model", ax=ax)
    assert legend(ax)[:2] == ["averaged", "SWA"]
    assert "span 'averaged': x 1 to 2" in plots.describe(ax)


def test_nothing_to_draw_is_said(ax):
    with pytest.raises(ValueError, match="no row with a value of 'test_error' to draw"):
        plots.plot_mean_curves(CURVES[:0], x="epoch", y="test_error", ax=ax)


# --- a trajectory


POINTS = np.array([[0.0, 0, 1], [4.0, 0, 1], [4.0, 2, 1], [8.0, 2, 1]])  # on a plane
STEPS = [0, 10, 20, 30]


@pytest.fixture
def path():
    return PCA().fit_transform(POINTS)


def test_the_steps_are_at_their_components_and_coloured_in_time(path, ax):
    shares = PCA().fit(POINTS).explained_variance_ratio_
    assert plots.plot_trajectory(path, STEPS, shares=shares, ax=ax) is ax
    (points,) = (c for c in ax.collections if c.get_label() == "steps")
    np.testing.assert_array_equal(points.get_offsets(), path[:, :2])
    np.testing.assert_array_equal(points.get_array(), STEPS)
    (line,) = ax.get_lines()
    np.testing.assert_array_equal(line.get_xydata(), path[:, :2])
    assert ax.figure.axes[1].get_ylabel() == "step"
    assert ax.get_xlabel() == f"component 1, {100 * shares[0]:.3g} % of the variance"
    assert ax.get_aspect() == 1


def test_marks_are_named(path, ax):
    mean = path[1:, :2].mean(axis=0)
    plots.plot_trajectory(path, STEPS, marks={"average_$1": mean, "last": [3.0, 0.0]}, ax=ax)
    assert ax.get_xlabel() == "component 1"
    _, average, last = ax.get_lines()
    np.testing.assert_allclose(average.get_xydata(), [mean])
    assert average.get_marker() != last.get_marker()
    assert legend(ax) == [r"average_\$1", "last"]
    assert "line 'last': 1 points, x 3, y 0" in plots.describe(ax)


def test_keywords_are_those_of_the_steps(path, ax):
    plots.plot_trajectory(path, STEPS, ax=ax, cmap="cividis", label="run 1")
    assert [(c.get_label(), c.get_cmap().name) for c in ax.collections] == [("run 1", "cividis")]


def test_a_trajectory_that_cannot_be_drawn_is_refused(path, ax):
    with pytest.raises(ValueError, match=r"the mark 'last' must have shape \(2,\), got \(3,\)"):
        plots.plot_trajectory(path, STEPS, marks={"last": np.zeros(3)}, ax=ax)
    with pytest.raises(ValueError, match="two principal components, got 1"):
        plots.plot_trajectory(path[:, :1], STEPS, ax=ax)
