"""Pictures of zoos and of predictors: what is drawn is what the tables say."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from sklearn.linear_model import LinearRegression

from wskit import plots
from wskit.predictors import calibration, evaluate, importance_by_layer, learning_curve, transfer


@pytest.fixture
def ax():
    return Figure(layout="constrained").subplots()


pytestmark = pytest.mark.usefixtures("no_figure_stays_open")


def features(n=80, seed=0):
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(rng.normal(size=(n, 2)), columns=["conv.weight.mean", "fc.weight.mean"])
    return X, X["conv.weight.mean"] + 0.3 * X["fc.weight.mean"] + 0.1 * rng.normal(size=n)


def points(ax):
    """Label -> places, of what `scatter` drew."""
    return {c.get_label(): np.asarray(c.get_offsets()) for c in ax.collections}


def line(ax, label):
    return next(found for found in ax.get_lines() if found.get_label() == label)


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# --- models


MODELS = pd.DataFrame(
    {
        "learning_rate": [1e-4, 1e-3, 1e-2, 1e-1, 1e-3, 1e-2, 1e-2, 1e-3],
        "test_accuracy": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, np.nan],
        "norm": [1.0, 2.0, 3.0, np.nan, 5.0, 6.0, 7.0, 8.0],
        "optimizer": ["adam", "sgd", "adam", "sgd", "adam", "sgd", "adam", None],
        "fraction": [0.1, 1, 0.1, 1, 0.1, 1, 0.1, 1],
    }
)


def test_categories_have_a_colour_and_a_marker_each_and_are_counted(ax):
    assert plots.plot_models(MODELS, x="learning_rate", y="norm", colour="optimizer", ax=ax) is ax
    found = points(ax)
    assert list(found) == ["adam (4)", "sgd (3, 1 of them not placed)", "no optimizer (1)"]
    assert found["adam (4)"][:, 1].tolist() == [1, 3, 5, 7]
    assert len({tuple(c.get_facecolor()[0]) for c in ax.collections}) == 3
    assert len({c.get_paths()[0].vertices.shape for c in ax.collections}) > 1
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")
    assert ax.get_legend().get_title().get_text() == "optimizer"
    assert "points 'adam (4)': 4, x 0.0001 to 0.01, y 1 to 7" in plots.describe(ax)


def test_few_numbers_are_categories_and_many_a_colour_bar(ax):
    plots.plot_models(MODELS, x="norm", y="test_accuracy", colour="fraction", ax=ax)
    assert list(points(ax)) == ["0.1 (4)", "1 (4, 2 of them not placed)"]
    other = Figure().subplots()
    plots.plot_models(MODELS, x="norm", y="learning_rate", colour="test_accuracy", ax=other)
    assert list(points(other)) == ["no test_accuracy (1)", "models (7, 1 of them not placed)"]
    drawn = other.collections[1]
    assert drawn.get_array().tolist() == [0.1, 0.2, 0.3, 0.5, 0.6, 0.7]
    assert other.figure.axes[1].get_ylabel() == "test accuracy"
    assert "colour 0.1 to 0.7" in plots.describe(other)


def test_a_colour_over_decades_is_logarithmic(ax):
    table = pd.DataFrame({"x": np.arange(10.0), "rate": np.geomspace(1e-4, 1, 10)})
    plots.plot_models(table, x="x", y="x", colour="rate", ax=ax)
    assert isinstance(ax.collections[0].norm, LogNorm)
    assert ax.figure.axes[1].get_yscale() == "log"
    ax.figure.canvas.draw()


def test_what_is_not_selected_is_grey_and_the_chosen_model_is_marked(ax):
    selected = MODELS.learning_rate > 1e-3
    options = {"x": "learning_rate", "y": "norm", "selected": selected, "s": 99.0}
    plots.plot_models(MODELS, **options, chosen=2, ax=ax)
    assert list(points(ax)) == ["not selected (4)", "models (4, 1 of them not placed)"]
    assert [c.get_sizes().tolist() for c in ax.collections] == [[18.0], [99.0]]
    x, y = line(ax, "model 2").get_data()
    assert (x.tolist(), y.tolist()) == ([1e-2], [3.0])
    assert legend(ax)[-1] == "model 2"
    other = Figure().subplots()
    plots.plot_models(MODELS, x="learning_rate", y="norm", chosen=3, ax=other)
    assert not other.get_lines()  # it has no place


def test_a_colour_for_too_many_strings_is_refused(ax):
    table = pd.DataFrame({"x": range(11), "name": list("abcdefghijk")})
    with pytest.raises(ValueError, match="10 strings have a colour, and column 'name' has 11"):
        plots.plot_models(table, x="x", y="x", colour="name", ax=ax)


def test_the_legend_of_ten_long_names_leaves_room_for_the_points(ax):
    names = [f"a_rather_long_name_{i}" for i in range(10)]
    table = pd.DataFrame({"x": range(20), "name": names * 2})
    plots.plot_models(table, x="x", y="x", colour="name", chosen=1, ax=ax)
    ax.figure.canvas.draw()  # warns, which is an error here, if nothing is left
    assert ax.get_position().height > 0.3
    assert ax.get_position().width > 0.7


# --- one model


def test_a_training_curve_is_in_the_order_of_the_epochs(ax):
    table = pd.DataFrame({"epoch": [5.0, 0.0, 1.0], "test_accuracy": [0.9, 0.1, 0.5]})
    plots.plot_training_curve(table.assign(train_accuracy=1.0), ax=ax)
    x, y = line(ax, "test").get_data()
    assert (list(x), list(y)) == ([0, 1, 5], [0.1, 0.5, 0.9])
    assert line(ax, "train").get_ydata().tolist() == [1, 1, 1]
    other = Figure().subplots()
    plots.plot_training_curve(table, ax=other)
    assert legend(other) == ["test"]


def test_kernels_are_tiles_of_one_picture(ax):
    W = np.arange(5 * 2 * 3 * 2, dtype=float).reshape(5, 2, 3, 2)
    plots.plot_kernels(W, ax=ax)
    picture = np.asarray(ax.images[0].get_array().filled(np.nan))
    assert picture.shape == (3 * 4 - 1, 4 * 3 - 1)
    np.testing.assert_array_equal(picture[:3, :2], W[0, 0])
    np.testing.assert_array_equal(picture[:3, 3:5], W[0, 1])
    np.testing.assert_array_equal(picture[4:7, :2], W[2, 0])
    assert np.isnan(picture[3]).all()
    assert ax.images[0].get_clim() == (-59, 59)
    assert ax.get_title(loc="left") == "10 × (3 × 2)"


def test_dense_layers_are_tiles_where_their_inputs_are_a_square(ax):
    W = np.arange(100 * 16.0).reshape(100, 16)
    plots.plot_kernels(W, ax=ax)
    assert ax.get_title(loc="left") == "64 of 100 × (4 × 4)"
    np.testing.assert_array_equal(ax.images[0].get_array()[:4, :4], W[0].reshape(4, 4))
    other = Figure().subplots()
    plots.plot_kernels(W[:, :15], ax=other, cmap="PuOr")
    assert other.get_title(loc="left") == "100 × 15"
    assert other.images[0].get_cmap().name == "PuOr"


def test_a_layer_of_zeros_or_of_nan_can_be_drawn():
    for value in (0.0, np.nan):
        ax = plots.plot_kernels(np.full((2, 9), value), ax=Figure().subplots())
        assert ax.images[0].get_clim() == (-1, 1)
        ax.figure.canvas.draw()


# --- predictors


def test_predictions_are_drawn_with_diagonal_and_calibration(ax):
    X, y = features()
    found = evaluate(LinearRegression(), X, y, np.arange(80), rng=0).predictions
    bins = calibration(found["y"], found["predicted"], n_bins=5)
    chosen = int(found["row"].iloc[3])
    plots.plot_predictions(found, calibration=bins, chosen=chosen, color="k", ax=ax)
    places = points(ax)["held-out (100)"]
    np.testing.assert_array_equal(places, found[["predicted", "y"]])
    assert ax.collections[0].get_facecolor()[0, :3].tolist() == [0, 0, 0]
    x, diagonal = line(ax, "predicted = true").get_data()
    assert x.tolist() == diagonal.tolist()
    assert line(ax, "bin means").get_ydata().tolist() == bins["true"].tolist()
    for row, bar in zip(bins.itertuples(), ax.collections[1].get_segments(), strict=True):
        half = 1.645 * row.standard_error
        expected = [[row.predicted, row.true - half], [row.predicted, row.true + half]]
        np.testing.assert_allclose(bar, expected)
    marked = found[found["row"] == chosen]
    assert line(ax, f"model {chosen}").get_ydata().tolist() == marked["y"].tolist()
    assert "bars '90 % interval': 5, x " in plots.describe(ax)
    plain = plots.plot_predictions(found, ax=Figure().subplots())
    assert len(plain.collections) == len(plain.get_lines()) == 1


@pytest.mark.parametrize("metric", ["r2", "tau"])
def test_importance_has_a_row_a_layer_from_the_top(ax, metric):
    X, y = features()
    table = importance_by_layer(LinearRegression(), X, y, np.arange(80), rng=0)
    plots.plot_importance(table, metric=metric, ax=ax)
    x, place = line(ax, "mean").get_data()
    assert x.tolist() == table[f"{metric}_drop"].tolist()
    assert ax.transData.transform((0, place[0]))[1] > ax.transData.transform((0, place[1]))[1]
    spread = [np.ptp(bar[:, 0]) / 2 for bar in ax.collections[0].get_segments()]
    assert spread == pytest.approx(table[f"{metric}_drop_std"].tolist())
    assert "y ticks: conv, fc" in plots.describe(ax)
    assert ("tau" in ax.get_xlabel()) == (metric == "tau")


def test_a_learning_curve_has_mean_and_spread_of_both_scores(ax):
    X, y = features()
    table = learning_curve(LinearRegression(), X, y, np.arange(80), [40, 5, 10], rng=0)
    plots.plot_learning_curve(table, ax=ax)
    ordered = table.sort_values("n_models")
    assert ax.get_xscale() == "log"
    names = {"r2": "$R^2$", "tau": r"Kendall's $\tau$"}
    for (metric, label), band in zip(names.items(), ax.collections, strict=True):
        x, mean = line(ax, label).get_data()
        assert x.tolist() == [5, 10, 40]
        assert mean.tolist() == ordered[metric].tolist()
        outline = band.get_paths()[0].vertices
        for size, at, spread in zip(x, mean, ordered[f"{metric}_std"], strict=True):
            heights = outline[outline[:, 0] == size, 1]
            assert (heights.min(), heights.max()) == pytest.approx((at - spread, at + spread))
    described = plots.describe(ax)
    assert 'line "Kendall\'s tau": 3 points, x 5 to 40' in described
    assert "band 'R^2 ± 1 standard deviation': x 5 to 40" in described
    assert "x ticks: 5, 10, 40" in described


def test_transfer_is_a_matrix_of_tau_with_r2_written(ax):
    X, y = features()
    other = (X, 5 + y**3, np.arange(80))
    table = transfer(LinearRegression(), {"a": (X, y, np.arange(80)), "b": other}, rng=0)
    plots.plot_transfer(table, ax=ax)
    np.testing.assert_array_equal(ax.images[0].get_array(), table["tau"])
    written = [text.get_text() for text in ax.texts]
    assert written == [f"{v:.2f}".replace("-", "−") for v in table["r2"].to_numpy().ravel()]
    assert [text.get_position() for text in ax.texts[:2]] == [(0, 0), (1, 0)]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("scored on", "fitted to")
    described = plots.describe(ax)
    assert f"texts: {', '.join(written)}" in described
    assert "x ticks: a, b" in described


def test_a_transfer_that_is_not_defined_has_a_dash(ax):
    columns = pd.MultiIndex.from_product([["r2", "tau"], ["a", "b"]])
    table = pd.DataFrame([[0.9, np.nan, 0.8, np.nan]] * 2, index=["a", "b"], columns=columns)
    plots.plot_transfer(table, ax=ax)
    assert [text.get_text() for text in ax.texts] == ["0.90", "–"] * 2
    ax.figure.canvas.draw()
