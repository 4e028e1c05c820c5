"""ZooExplorer, driven by its traits and controls, without a browser."""

import re
import threading
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from widgets_kit import PNG, cells, control, run_code, sent, text

from wskit import data
from wskit.errors import ZooError
from wskit.features import weight_statistics
from wskit.predictors import scores
from wskit.widgets import ZooExplorer, _panel
from wskit.zoo import MLP, Zoo, train_zoo

NETWORK = MLP((64, 4, 10))
LINEAR = make_pipeline(StandardScaler(), Ridge())


pytestmark = pytest.mark.usefixtures("no_figure_stays_open", "no_layout")


def make_zoo(n_runs=15, n_epochs=2, seed=0):
    """Untrained weights whose scale decides the accuracy; model 3 has diverged."""
    draw, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    n = n_runs * n_epochs
    scale = torch.linspace(0.2, 2, n)
    weights = {
        name: torch.randn(n, *shape, generator=draw) * scale.view(-1, *[1] * len(shape))
        for name, shape in NETWORK.shapes.items()
    }
    weights["fc1.weight"][3, 0, 0] = np.nan
    accuracy = 1 / (1 + np.exp(3 - 3 * scale.double().numpy()))
    accuracy[3] = np.nan
    records = pd.DataFrame(
        {
            "run": np.arange(n) // n_epochs,
            "epoch": np.arange(n) % n_epochs * 1.0,
            "status": np.where(np.isnan(accuracy), "diverged", "trained"),
            "train_accuracy": accuracy + 0.01,
            "test_accuracy": accuracy,
            "optimizer": rng.choice(["adam", "sgd"], n),
            "learning_rate": np.geomspace(1e-4, 1e-1, n),
            "epochs": 1.0,
            "seed": np.arange(n),
        }
    )
    return Zoo(weights, records)


@pytest.fixture
def zoo():
    return make_zoo()


@pytest.fixture
def panel(zoo):
    panel = ZooExplorer(zoo, estimator=LINEAR)
    yield panel
    panel.close()


# -- what is shown ----------------------------------------------------------------------------


def test_it_begins_with_the_projection_coloured_by_accuracy(panel, zoo):
    assert (panel.x, panel.y, panel.colour) == ("component 1", "component 2", "test_accuracy")
    assert (panel.status, panel.message) == ("done", "30 of 30 models are selected.")
    pd.testing.assert_frame_equal(panel.features, weight_statistics(zoo.weights))
    assert panel.selection.tolist() == [True] * 30
    assert panel.static_image().startswith(PNG)
    assert panel._views["spectrum"].png.startswith(PNG)
    # Two principal components of standardised features: uncorrelated, the first the larger.
    drawn = next(c for c in panel.ax.collections if c.get_label().startswith("models"))
    first, second = np.asarray(drawn.get_offsets()).T
    assert first.var() > second.var()
    assert np.corrcoef(first, second)[0, 1] == pytest.approx(0, abs=1e-8)
    assert "points 'no test_accuracy (1, 1 of them not placed)': 0" in panel.describe()


def test_controls_and_traits_move_together(panel):
    png = panel.static_image()
    control(panel, "x").value = "learning_rate"
    assert panel.x == "learning_rate"
    assert "x 'learning rate' log" in panel.describe()
    panel.colour = "optimizer"
    assert control(panel, "Colour").value == "optimizer"
    assert "points 'adam (" in panel.describe()
    assert panel.static_image() != png
    panel.model = 7
    assert control(panel, "Model").value == 7
    control(panel, "Model").value = 8
    assert panel.model == 8
    assert "line 'model 8'" in panel.describe()


def test_ranges_select_models_and_the_list_has_them_best_first(panel, zoo):
    panel.x, panel.y = "learning_rate", "test_accuracy"
    panel.x_range, panel.y_range = (1e-3, 1e-2), (0.1, 0.5)
    records = zoo.records
    expected = records.learning_rate.between(1e-3, 1e-2) & records.test_accuracy.between(0.1, 0.5)
    assert panel.selection.tolist() == expected.tolist()
    assert 0 < expected.sum() < 10
    assert f"points 'models ({expected.sum()})'" in panel.describe()
    assert panel.message == f"{expected.sum()} of 30 models are selected."
    ordered = records[expected].sort_values("test_accuracy", ascending=False).index
    assert re.findall(r"<th>(\d+)</th>", panel._list.value) == [str(row) for row in ordered]
    slider = control(panel, "Select x")
    stops = [value for _, value in slider.options]
    assert stops == pytest.approx(records.learning_rate.tolist())
    assert slider.value == pytest.approx(
        (records.learning_rate[10], records.learning_rate[20]), rel=0.3
    )
    slider.index = (0, len(stops) - 1)
    assert panel.x_range is None
    slider.index = (2, 5)
    assert panel.x_range == pytest.approx((stops[2], stops[5]))
    control(panel, "Select all").click()
    assert (panel.x_range, panel.y_range) == (None, None)
    assert panel.selection.all()
    assert slider.index == (0, len(stops) - 1)


def test_another_column_takes_its_range_away(panel):
    panel.x_range = (0.0, 99.0)
    panel.y_range = (-1.0, 1.0)
    panel.x = "epoch"
    assert (panel.x_range, panel.y_range) == (None, (-1.0, 1.0))
    assert [value for _, value in control(panel, "Select x").options] == [0.0, 1.0]


def test_options_and_value_of_a_control_are_one_message(panel, zoo):
    slider = control(panel, "Select x")
    with sent(slider) as messages:
        panel.x = "learning_rate"
    assert [set(m["state"]) for m in messages] == [{"_options_labels", "index"}]
    with sent(slider) as messages:
        panel.x_range = (1e-3, 1e-2)
    assert [set(m["state"]) for m in messages] == [{"index"}]


def test_long_ranges_are_cut_where_the_axis_has_equal_steps():
    zoo = make_zoo(100)
    panel = ZooExplorer(zoo, x="learning_rate", y="fc1.weight.mean")
    for name, log in [("x", True), ("y", False)]:
        stops = np.array([value for _, value in control(panel, f"Select {name}").options])
        steps = np.diff(np.log(stops) if log else stops)
        assert steps.size == 100
        assert steps == pytest.approx(np.full(100, steps.mean()))
    panel.close()


def test_the_chosen_model_is_shown_closely(panel, zoo):
    panel.model = 20
    described = panel.describe()
    assert "line 'test': 2 points, x 0 to 1" in described
    assert "Axes 'fc1.weight  4 × (8 × 8)'" in described
    assert "Axes 'fc1.weight  (64 × 4)'" in described
    assert cells(panel._numbers, "learning rate")[0] == f"{zoo.records.learning_rate[20]:.4g}"
    assert cells(panel._numbers, "optimizer")[0] == zoo.records.optimizer[20]
    assert "Model 20" in text(panel._numbers)


def test_what_cannot_be_shown_says_why(panel, zoo):
    panel.model = 3
    assert panel.status == "done"
    assert "eigenvalues" not in panel.describe()
    assert "No spectrum: " in text(panel._views["spectrum"])
    assert cells(panel._numbers, "test accuracy") == ["–"]
    alone = zoo.select([0, 5])
    alone = Zoo({"b": torch.randn(2, 3)}, alone.records[["run", "epoch"]])
    bare = ZooExplorer(alone)
    shown = " ".join(map(text, bare._views.values()))
    for reason in ["has one epoch of this run", "no tensor is of a dense layer", "has a matrix"]:
        assert reason in shown
    assert bare.colour == bare.x
    bare.retrain()
    bare.wait()
    assert (bare.status, bare.evaluation) == ("failed", None)
    assert bare.message == "The zoo's table has no test_accuracy, which is what is predicted."
    bare.close()


# -- predictions ------------------------------------------------------------------------------


class SeenRuns(RegressorMixin, BaseEstimator):
    """Predicts the nearest accuracy that it was fitted to, whose run it so betrays."""

    def fit(self, X, y):
        self.nearest_ = KNeighborsRegressor(1).fit(X, y)
        self.fitted_ = True
        return self

    def predict(self, X):
        return self.nearest_.predict(X)


def test_every_selected_model_is_predicted_by_an_estimator_that_has_not_seen_its_run(zoo):
    panel = ZooExplorer(zoo, estimator=SeenRuns())
    control(panel, "Retrain on selection").click()
    assert (panel.status, panel.message) == ("running", "Predicting 30 models.")
    panel.wait()
    assert panel.status == "done", panel.message
    found = panel.predictions
    assert found["row"].tolist() == [row for row in range(30) if row != 3]
    accuracy = zoo.records["test_accuracy"]
    run_of = dict(zip(accuracy, zoo.records["run"], strict=True))
    for row, predicted in zip(found["row"], found["predicted"], strict=True):
        assert run_of[predicted] != zoo.records["run"][row]
    assert found[["group", "split"]].drop_duplicates()["group"].is_unique
    expected = scores(found["y"], found["predicted"], groups=found["group"], rng=0)
    pd.testing.assert_frame_equal(panel.evaluation, expected)
    shown = text(panel._scores)
    assert f"{expected.value['r2']:.4g}" in shown
    assert "Predicted on 29 models" in shown
    panel.model = 9
    same = found.loc[found["row"] == 9, "predicted"].item()
    assert cells(panel._numbers, "predicted accuracy")[0] == f"{same:.4g}"
    assert "points 'held-out (29)'" in panel.describe()
    panel.close()


def test_the_predictor_is_retrained_on_the_selection_only(panel):
    panel.y = "learning_rate"
    panel.y_range = (1e-3, 1.0)
    rows = np.flatnonzero(panel.selection)
    panel.retrain()
    panel.wait()
    assert panel.predictions["row"].tolist() == rows.tolist()
    panel.y_range = None  # what was evaluated stays until the next time
    assert len(panel.predictions) == len(rows)
    scope = run_code(panel, models=panel.zoo, estimator=LINEAR)
    pd.testing.assert_frame_equal(scope["scores"], panel.evaluation)
    np.testing.assert_allclose(scope["predicted"], panel.predictions["predicted"])


def test_too_few_models_are_one_sentence(panel):
    panel.x = "run"
    panel.x_range = (4, 4)
    panel.retrain()
    panel.wait()
    assert panel.status == "failed"
    assert re.match(r"2 models of 1 runs are selected .*; select more models\.$", panel.message)
    panel.x_range = (4, 5)
    panel.estimator = KNeighborsRegressor(9)
    panel.retrain()
    panel.wait()
    assert panel.status == "failed"
    assert panel.message.startswith("The estimator cannot be fitted to 2 models (")
    assert panel.static_image().startswith(PNG)


class Gated(Ridge):
    gate = threading.Event()

    def fit(self, X, y):
        assert self.gate.wait(30)
        return super().fit(X, y)


def test_the_work_can_be_cancelled_and_blocks_nothing(zoo):
    Gated.gate.clear()
    panel = ZooExplorer(zoo, estimator=Gated())
    panel.retrain()
    thread = panel._thread
    assert control(panel, "Retrain on selection").disabled
    panel.model = 5  # meanwhile
    assert "line 'model 5'" in panel.describe()
    assert (panel.status, panel.message) == ("running", "Predicting 30 models.")
    control(panel, "Cancel").click()
    Gated.gate.set()
    thread.join(30)
    panel.wait()
    assert (panel.status, panel.evaluation) == ("cancelled", None)
    assert not control(panel, "Retrain on selection").disabled
    panel.close()


# -- more models ------------------------------------------------------------------------------

_ALL = data.load_dataset("digits")
DIGITS = SimpleNamespace(
    train_x=_ALL.train_x[:100],
    train_y=_ALL.train_y[:100],
    test_x=_ALL.test_x[:50],
    test_y=_ALL.test_y[:50],
)


@pytest.fixture
def trained():
    table = pd.DataFrame({"learning_rate": [0.01, 0.1, 0.03], "epochs": 1.0})
    return train_zoo(NETWORK, DIGITS, table.assign(seed=[5, 6, 7]), keep_epochs=[0])


def test_more_models_are_trained_and_joined_to_the_zoo(trained, monkeypatch):
    monkeypatch.setattr(_panel, "_REPORT_EVERY", 0)
    panel = ZooExplorer(trained, network=NETWORK, data=DIGITS, estimator=LINEAR)
    seen = []
    panel.observe(lambda change: seen.append(change["new"]), "progress")
    panel.n_more = 7
    panel.retrain()
    panel.wait()
    control(panel, "Train more models").click()
    assert (panel.status, panel.message) == ("running", "Training 7 models.")
    panel.wait()
    assert (panel.status, panel.message) == ("done", "20 of 20 models are selected.")
    assert seen
    records = panel.zoo.records
    assert len(trained) == 6
    pd.testing.assert_frame_equal(records[:6], trained.records)
    assert records["run"].tolist() == np.repeat(range(10), 2).tolist()
    assert records["epoch"].tolist() == [0.0, 1.0] * 10
    assert set(records["seed"][6:]) == set(range(8, 15))
    assert (records["batch_size"] == 64).all()
    assert len(panel.features) == panel.zoo.weights["fc1.weight"].shape[0] == 20
    assert panel.evaluation is None  # it was another zoo's
    assert control(panel, "Model").max == 19
    panel.model = 19
    panel.retrain()
    panel.wait()
    scope = run_code(panel, models=trained, network=NETWORK, data=DIGITS, estimator=LINEAR)
    torch.testing.assert_close(dict(scope["models"].weights), dict(panel.zoo.weights))
    panel.close()


def test_training_can_be_cancelled(trained):
    panel = ZooExplorer(trained, network=NETWORK, data=DIGITS)
    panel.n_more = 4000
    panel.train_more()
    thread = panel._thread
    panel.cancel()
    thread.join(60)
    panel.wait()
    assert (panel.status, panel.zoo) == ("cancelled", trained)
    panel.close()


def test_a_network_of_other_weights_is_one_sentence(trained):
    panel = ZooExplorer(trained, network=MLP((64, 5, 10)), data=DIGITS)
    panel.n_more = 2
    panel.train_more()
    panel.wait()
    assert (panel.status, len(panel.zoo)) == ("failed", 6)
    assert "zoos of one architecture are needed" in panel.message
    panel.close()


def test_without_whole_run_numbers_or_a_network_nothing_is_trained(trained, panel):
    panel.train_more()
    panel.wait()
    assert panel.message == "More models need network and data; give them to the panel."
    named = Zoo(trained.weights, trained.records.assign(run=list("aabbcc")))
    other = ZooExplorer(named, network=NETWORK, data=DIGITS)
    other.train_more()
    other.wait()
    assert "its column 'run' does not hold whole numbers" in other.message
    other.close()


# -- code -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"x": "learning_rate", "y": "fc1.weight.q50", "colour": "optimizer", "model": 3},
        {"x": "run", "x_range": (2, 9), "y_range": (-1.0, 2.5), "colour": "component 1"},
        {"x": "test_accuracy", "y": "test_accuracy", "y_range": (0.1, 0.9), "model": 29},
    ],
)
def test_the_code_reproduces_the_screen(panel, zoo, state):
    for name, value in state.items():
        setattr(panel, name, value)
    if "y_range" in state:
        panel.retrain()
        panel.wait()
    assert panel.status == "done", panel.message
    run_code(panel, models=zoo, estimator=LINEAR)
    assert max(map(len, panel.code().splitlines())) <= 100


def test_the_code_takes_given_features_and_makes_the_estimator_if_none_is_given(zoo):
    X = weight_statistics(zoo.weights)[["fc1.weight.mean", "fc2.weight.variance"]]
    panel = ZooExplorer(zoo, features=X.set_index(X.index + 7), x="fc1.weight.mean", y="epoch")
    assert panel.features.index[0] == 0
    panel.x_range = (-0.01, 0.5)
    panel.retrain()
    panel.wait()
    assert "boosted_trees" in panel.code()
    run_code(panel, models=zoo, X=X.set_index(X.index + 7))
    panel.close()


# -- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": pd.DataFrame({"a": [1.0]})}, "got 30 models and 1 rows"),
        ({"features": pd.DataFrame({"a": ["x"] * 30})}, "column 'a' is not"),
        ({"features": pd.DataFrame({"run": range(30)})}, "column 'run' is there twice"),
        ({"network": NETWORK}, "both network and data"),
        ({"x": "optimizer"}, "x must be one of .*, got 'optimizer'"),
        ({"colour": "nrom"}, "colour must be one of .*, got 'nrom'"),
        (
            {"features": pd.DataFrame({"a": range(30)}), "network": NETWORK, "data": DIGITS},
            "no features of one's own",
        ),
    ],
)
def test_bad_arguments_are_refused(zoo, options, message):
    with pytest.raises(ZooError, match=message):
        ZooExplorer(zoo, **options)


def test_bad_values_of_traits_are_refused(panel, zoo):
    for name, value, message in [
        ("model", 30, "model must be one of .*, got 30"),
        ("x_range", (2.0, 1.0), r"two numbers, the smaller one first, got 2.0, 1.0"),
        ("y", "status", "got 'status'"),
    ]:
        with pytest.raises(ZooError, match=message):
            setattr(panel, name, value)
    with pytest.raises(ZooError, match="at least one model"):
        ZooExplorer(zoo.select([]), features=pd.DataFrame())
