import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from scipy.stats import kendalltau
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import mean_absolute_error, r2_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wskit.errors import PredictorError
from wskit.predictors import (
    boosted_trees,
    calibration,
    evaluate,
    importance_by_layer,
    learning_curve,
    logit_linear,
    neural_network,
    scores,
    transfer,
)


def runs(n_runs=60, n_epochs=4, n_features=6, seed=0):
    """A zoo of several checkpoints a run, all nearly the same, and noise for accuracies.

    Within a run everything is equal; between runs features tell nothing.
    """
    rng = np.random.default_rng(seed)
    run = np.repeat(np.arange(n_runs), n_epochs)
    X = rng.normal(size=(n_runs, n_features))[run] + 1e-3 * rng.normal(size=(run.size, n_features))
    y = rng.uniform(size=n_runs)[run] + 1e-3 * rng.normal(size=run.size)
    records = pd.DataFrame({"run": run, "epoch": np.tile(np.arange(n_epochs), n_runs)})
    return X, y, records


def table(n=300, seed=0, noise=0.3, names=("a.w.mean", "a.b.mean", "b.w.mean", "c.w.mean")):
    """Accuracies that depend on the columns of layer a, and a little on those of b."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(rng.normal(size=(n, len(names))), columns=list(names))
    z = X.iloc[:, 0] + X.iloc[:, 1] + 0.3 * X.iloc[:, 2] + noise * rng.normal(size=n)
    return X, expit(z.to_numpy()), np.arange(n)


# --- evaluation without leaks


def test_no_run_is_on_both_sides():
    X, y, records = runs()
    shuffled = records["run"].sample(frac=1, random_state=0).to_numpy()
    found, other = (
        evaluate(Ridge(), X, y, shuffled, n_splits=7, test_size=0.2, rng=i) for i in (0, 1)
    )
    assert (found.scores[["n_train", "n_test"]] == [48 * 4, 12 * 4]).all(axis=None)
    for _, part in found.predictions.groupby("split"):
        assert set(part["row"]) == set(np.flatnonzero(np.isin(shuffled, part["group"])))
    again = evaluate(Ridge(), X, y, shuffled, n_splits=7, test_size=0.2, rng=0)
    pd.testing.assert_frame_equal(again.predictions, found.predictions)
    assert not other.predictions["row"].equals(found.predictions["row"])


def test_random_splits_leak_and_grouped_ones_do_not():
    """Neighbours in a table where the epochs of a run are alike, and runs are noise."""
    X, y, records = runs()
    neighbours = KNeighborsRegressor(1)
    leaking = evaluate(neighbours, X, y, np.arange(len(y)), rng=0).scores
    honest = evaluate(neighbours, X, y, records["run"], rng=0).scores
    assert (leaking["r2"] > 0.8).all()
    assert (honest["r2"] < 0.2).all()
    assert leaking["tau"].min() > honest["tau"].max() + 0.4
    assert honest["tau"].mean() == pytest.approx(0, abs=0.2)


# --- scores


def test_scores_are_those_of_scikit_learn_and_scipy():
    rng = np.random.default_rng(0)
    y = rng.uniform(size=80).round(2)  # with ties
    predicted = (y + 0.2 * rng.normal(size=80)).round(1)
    found = scores(y, predicted, rng=0, n_resamples=20)["value"]
    assert found["r2"] == pytest.approx(r2_score(y, predicted))
    assert found["tau"] == pytest.approx(kendalltau(y, predicted).statistic)
    assert found["mae"] == pytest.approx(mean_absolute_error(y, predicted))


def test_tau_counts_pairs():
    y, predicted = np.arange(6.0), np.array([0.0, 2, 1, 3, 5, 4])
    pairs = [(i, j) for i in range(6) for j in range(i)]
    signs = [np.sign((y[i] - y[j]) * (predicted[i] - predicted[j])) for i, j in pairs]
    assert scores(y, predicted, rng=0, n_resamples=5).value["tau"] == pytest.approx(np.mean(signs))


def test_tau_knows_only_the_order():
    X, y, _ = table()
    predicted = X.iloc[:, 0].to_numpy()
    one, other = (scores(y, p, rng=0, n_resamples=30) for p in (predicted, np.exp(predicted)))
    assert one.loc["tau"].tolist() == pytest.approx(other.loc["tau"].tolist())
    assert one.value["r2"] != pytest.approx(other.value["r2"])


def test_intervals_cover_the_truth():
    """Of the mean absolute error of normal noise, sqrt(2/pi), in about nine of ten draws."""
    covered = []
    for seed in range(60):
        noise = np.random.default_rng(seed).normal(size=100)
        row = scores(np.arange(100.0), np.arange(100) + noise, rng=seed, n_resamples=60).loc["mae"]
        assert row["low"] < row["value"] < row["high"]
        covered.append(row["low"] < np.sqrt(2 / np.pi) < row["high"])
    assert 0.75 < np.mean(covered) < 0.99


def test_runs_are_drawn_whole():
    """Four copies of each model are no more information: the interval must not shrink."""
    rng = np.random.default_rng(0)
    y = rng.uniform(size=60)
    predicted = y + 0.2 * rng.normal(size=60)
    run = np.repeat(np.arange(60), 4)
    arguments = {"rng": 0, "n_resamples": 300}
    single = scores(y, predicted, **arguments)
    grouped = scores(y[run], predicted[run], groups=run, **arguments)
    ignored = scores(y[run], predicted[run], **arguments)
    width = [(found.high - found.low)["tau"] for found in (single, grouped, ignored)]
    assert width[1] == pytest.approx(width[0], rel=0.25)
    assert width[2] < 0.7 * width[1]


def test_ranking_among_the_good_is_another_matter():
    """Failed and trained nets are told apart, good ones are not: tau is high, and then is not."""
    rng = np.random.default_rng(0)
    y = np.concatenate([rng.uniform(0.05, 0.15, 100), rng.uniform(0.85, 0.95, 100)])
    predicted = (y > 0.5) + 0.01 * rng.normal(size=200)
    everyone = scores(y, predicted, rng=0, n_resamples=20).value["tau"]
    good = scores(y, predicted, above=0.8, rng=0, n_resamples=20).value["tau"]
    assert everyone > 0.45
    assert abs(good) < 0.2
    with pytest.raises(PredictorError, match=r"got 0 of 200 with y > 0.99; lower `above`"):
        scores(y, predicted, above=0.99, rng=0)


def test_constant_values_have_no_r2_and_no_tau():
    varied = [0.1, 0.3, 0.2]
    found = scores([0.3] * 3, varied, rng=0, n_resamples=1, groups=[0, 0, 0])
    assert found.loc[["r2", "tau"]].isna().all(axis=None)
    assert found.loc["mae"].tolist() == pytest.approx([0.1] * 3)
    found = scores(varied, [0.2] * 3, rng=0, n_resamples=10)
    assert found.value["r2"] == pytest.approx(0)
    assert np.isnan(found.value["tau"])


@pytest.mark.parametrize(
    ("y", "predicted", "groups", "message"),
    [
        ([0.1, 0.2], [0.1], None, r"one value per model is needed"),
        ([0.1, np.nan], [0.1, 0.2], None, r"y is nan in row 1 \(1 such rows\); leave out"),
        ([0.1, 0.2], [np.inf, np.inf], None, r"predicted is inf in row 0 \(2 such rows\)"),
        ([0.1, 0.2], [0.1, 0.2], [0, 1, 2], "one value per model is needed"),
        ([0.1, 0.2], [0.1, 0.2], [0, None], "row 1 has no group"),
        ([0.1], [0.2], None, "at least two models are needed, got 1 of 1"),
    ],
)
def test_what_cannot_be_scored_is_refused(y, predicted, groups, message):
    with pytest.raises(PredictorError, match=message):
        scores(y, predicted, groups=groups, rng=0)


def test_calibration_shows_a_planted_bias():
    rng = np.random.default_rng(0)
    predicted = rng.uniform(size=1003)
    y = predicted**2  # too much is promised, most of all in the middle
    found = calibration(y, predicted, n_bins=10)
    assert found["n"].sum() == 1003
    assert found["n"].between(100, 101).all()
    assert (found["low"].to_numpy()[1:] >= found["high"].to_numpy()[:-1]).all()
    for _, row in found.iterrows():
        inside = (predicted >= row["low"]) & (predicted <= row["high"])
        expected = [predicted[inside].mean(), y[inside].mean()]
        assert row[["predicted", "true"]].tolist() == pytest.approx(expected)
        assert row["bias"] == pytest.approx(expected[0] - expected[1])
        error = y[inside].std(ddof=1) / np.sqrt(row["n"])
        assert row["standard_error"] == pytest.approx(error)
    assert found["bias"].idxmax() in (4, 5)
    with pytest.raises(PredictorError, match="3 models are too few for 4 bins"):
        calibration(y[:3], predicted[:3], n_bins=4)


# --- evaluation


def test_evaluation_holds_what_was_predicted():
    X, y, records = runs(n_runs=20)
    y = y + X[:, 0]
    estimator = LinearRegression()
    found = evaluate(estimator, X, y, records["run"], n_splits=3, rng=0)
    assert not hasattr(estimator, "coef_")
    assert list(found.scores) == ["split", "n_train", "n_test", "r2", "tau", "mae"]
    for i, part in found.predictions.groupby("split"):
        test = part["row"].to_numpy()
        train = np.setdiff1d(np.arange(len(y)), test)
        model = LinearRegression().fit(X[train], y[train])
        assert part["group"].tolist() == records["run"][test].tolist()
        np.testing.assert_array_equal(part["y"], y[test])
        np.testing.assert_allclose(part["predicted"], model.predict(X[test]))
        assert found.scores.loc[i, "r2"] == pytest.approx(model.score(X[test], y[test]))


def test_scores_above_a_threshold():
    X, y, groups = table()
    every = evaluate(LinearRegression(), X, y, groups, rng=0)
    good = evaluate(LinearRegression(), X, y, groups, above=0.8, rng=0)
    none = evaluate(LinearRegression(), X, y, groups, above=0.9999, rng=0)
    pd.testing.assert_frame_equal(good.predictions, every.predictions)
    assert (good.scores["n_test"] < every.scores["n_test"]).all()
    assert (good.scores["tau"] < every.scores["tau"]).all()
    assert none.scores["r2"].isna().all()


def test_permuted_accuracies_are_not_predicted():
    X, y, groups = table(400)
    permuted = np.random.default_rng(1).permutation(y)
    assert evaluate(LinearRegression(), X, y, groups, rng=0).scores["tau"].mean() > 0.7
    null = evaluate(LinearRegression(), X, permuted, groups, rng=0).scores
    assert abs(null["tau"].mean()) < 0.1


@pytest.mark.parametrize("as_frame", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.zeros(5)}, r"one value per model is needed .*'y': \(5,\)"),
        ({"groups": np.zeros(5)}, "one value per model is needed"),
        ({"y": np.full(60, np.nan)}, r"y is nan in row 0 \(60 such rows\)"),
        ({"groups": [None] * 30 + [1] * 30}, "row 0 has no group; label all rows"),
    ],
)
def test_tables_that_do_not_fit_are_refused(change, message, as_frame):
    X, y, groups = table(60)
    arguments = {"X": X if as_frame else X.to_numpy(), "y": y, "groups": groups} | change
    with pytest.raises(PredictorError, match=message):
        evaluate(LinearRegression(), **arguments, rng=0)


def test_importance_finds_the_layer_that_counts():
    X, y, groups = table(noise=0.0)
    found = importance_by_layer(LinearRegression(), X, logit(y), groups, rng=0).set_index("layer")
    assert found["n_columns"].to_dict() == {"a": 2, "b": 1, "c": 1}
    # Shuffling a term of variance v of a sum of variance V costs 2 v / V of R2.
    total = 1 + 1 + 0.09
    assert found.r2_drop["a"] == pytest.approx(2 * 2 / total, abs=0.15)
    assert found.r2_drop["b"] == pytest.approx(2 * 0.09 / total, abs=0.03)
    assert found.loc["c"].tolist()[1:] == pytest.approx([0, 0, 0, 0], abs=1e-10)
    assert found.tau_drop["a"] > 0.5 > found.tau_drop["b"] > 0.02
    assert (found.loc["a", ["r2_drop_std", "tau_drop_std"]] > 0).all()


def test_columns_that_say_the_same_are_shuffled_together():
    """Alone, neither copy is missed by trees; together they are all that there was."""
    X, y, groups = table(noise=0.1)
    X["a.w.mean"] = X["a.b.mean"] = logit(y)
    trees = boosted_trees(random_state=0)
    together = importance_by_layer(trees, X, y, groups, n_splits=1, rng=0).set_index("layer")
    apart = X.rename(columns={"a.b.mean": "d.b.mean"})
    alone = importance_by_layer(trees, apart, y, groups, n_splits=1, rng=0)
    assert together.tau_drop["a"] > 0.85
    assert alone["tau_drop"].max() < 0.7 * together.tau_drop["a"]


def test_layers_of_the_names():
    names = ["conv1.weight.q25", "conv1.bias.mean", "layers.0.weight.q0", "confidence.mean", "x"]
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 5)), columns=names)
    found = importance_by_layer(LinearRegression(), X, X["x"], np.arange(40), n_splits=1, rng=0)
    assert found["layer"].tolist() == ["conv1", "layers.0", "confidence", "x"]
    assert found["n_columns"].tolist() == [2, 1, 1, 1]


def test_more_models_are_better_and_are_nested():
    X, y, groups = table()
    seen = []

    class Recorder(Ridge):
        def fit(self, X, y):
            seen.append(set(X.index))
            return super().fit(X, y)

    found = learning_curve(Recorder(), X, y, groups, [5, 30, 200], n_splits=4, rng=0)
    assert found["n_models"].tolist() == [5, 30, 200]
    assert (found["n_splits"] == 4).all()
    assert found["r2"].is_monotonic_increasing
    assert found["mae"].is_monotonic_decreasing
    assert found["tau_std"][0] > found["tau_std"][2]
    for small, middle, large in zip(seen[::3], seen[1::3], seen[2::3], strict=True):
        assert small < middle < large
        assert len(small) == 5
    whole = evaluate(Ridge(), X, y, groups, n_splits=4, rng=0).scores
    full = learning_curve(Ridge(), X, y, groups, [225], n_splits=4, rng=0)
    assert full[["r2", "tau", "mae"]].iloc[0].tolist() == pytest.approx(
        whole[["r2", "tau", "mae"]].mean().tolist()
    )
    assert full["r2_std"][0] == pytest.approx(whole["r2"].std())


def test_learning_curves_take_whole_runs_first():
    X, y, records = runs(n_runs=12)
    seen = []

    class Recorder(Ridge):
        def fit(self, X, y):
            seen.append(X[:, 0].round(1))
            return super().fit(X, y)

    X[:, 0] = records["run"]
    learning_curve(Recorder(), X, y, records["run"], [8], n_splits=3, rng=0)
    for rows in seen:
        assert len(np.unique(rows)) == 2


@pytest.mark.parametrize("size", [0, 226])
def test_sizes_that_are_not_there_are_refused(size):
    X, y, groups = table()
    with pytest.raises(PredictorError, match="sizes must be from 1 to 225"):
        learning_curve(Ridge(), X, y, groups, [10, size], rng=0)


def test_ranking_carries_over_and_calibration_does_not():
    X, y, groups = table(noise=0.1)
    X_hard, y_hard, _ = table(noise=0.1, seed=1)
    tables = {"easy": (X, y, groups), "hard": (X_hard, y_hard**4, 1000 + groups)}
    found = transfer(logit_linear(), tables, n_splits=3, rng=0)
    assert list(found.index) == ["easy", "hard"]
    assert found["tau"].to_numpy().min() > 0.8
    r2 = found["r2"]
    assert r2.loc["easy", "easy"] > 0.9
    assert r2.loc["easy", "hard"] < 0.5
    within = evaluate(logit_linear(), X, y, groups, n_splits=3, rng=0).scores
    assert found.loc["easy", ("tau", "easy")] == pytest.approx(within["tau"].mean())


def test_transfer_scores_no_group_that_was_fitted_to():
    """Two zoos of the same draws, which a neighbour recognises where it may."""
    X, y, records = runs(n_epochs=1)
    run = records["run"].to_numpy()
    neighbours = KNeighborsRegressor(1)
    copies = transfer(neighbours, {"a": (X, y, run), "b": (X, y, run)}, rng=0)
    assert copies["r2"].to_numpy().max() < 0.2
    renamed = transfer(neighbours, {"a": (X, y, run), "b": (X, y, run + 1000)}, rng=0)
    assert renamed["r2"].loc["a", "b"] > 0.5  # three quarters of b were fitted to as a
    few = slice(0, 3)
    with pytest.raises(PredictorError, match=r"'b' has \d models of groups that were not fitted"):
        transfer(neighbours, {"a": (X, y, run), "b": (X[few], y[few], run[few])}, rng=0)


@pytest.mark.parametrize("change", ["renamed", "reordered"])
def test_transfer_needs_the_same_columns(change):
    X, y, groups = table(60)
    other = (
        X.rename(columns={"c.w.mean": "d.w.mean"}) if change == "renamed" else X[X.columns[::-1]]
    )
    with pytest.raises(ValueError, match="feature names"):
        transfer(Ridge(), {"a": (X, y, groups), "b": (other, y, groups)}, rng=0)
    with pytest.raises(PredictorError, match=r"^b y is nan in row 0"):
        transfer(Ridge(), {"a": (X, y, groups), "b": (X, y * np.nan, groups)}, rng=0)


# --- estimators


def test_logit_linear_is_ridge_on_the_logits():
    X, y, _ = table()
    y[:3] = [0.0, 1.0, 0.001]
    model = logit_linear(alpha=3.0, clip=0.02).fit(X, y)
    ridge = Ridge(alpha=3.0).fit(X, logit(np.clip(y, 0.02, 0.98)))
    np.testing.assert_allclose(model.regressor_.coef_, ridge.coef_)
    np.testing.assert_allclose(model.predict(X), expit(ridge.predict(X)))
    far = pd.DataFrame([[99.0] * 4], columns=X.columns)
    assert 0 < model.predict(-far)[0] < 1e-6 < 1 - 1e-6 < model.predict(far)[0] <= 1


@pytest.mark.parametrize("make", [logit_linear, neural_network])
@pytest.mark.filterwarnings("ignore:.*hasn't converged")
def test_percentages_are_warned_of(make):
    X, y, _ = table(60)
    with pytest.warns(UserWarning, match=r"60 of 60 values of y are outside \[0, 1\], where"):
        make().fit(X, 100 + y)


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_clips_that_leave_nothing_are_refused(clip):
    with pytest.raises(PredictorError, match=rf"clip must be in \(0, 0.5\), got {clip}"):
        logit_linear(clip=clip)


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(StandardScaler(), logit_linear()),
        boosted_trees(random_state=0),
        neural_network(random_state=0),
    ],
    ids=["linear", "trees", "network"],
)
def test_every_estimator_learns_and_repeats_itself(estimator):
    X, y, groups = table(noise=0.1)
    first, again = (evaluate(estimator, X, y, groups, n_splits=1, rng=0) for _ in range(2))
    assert first.scores["r2"][0] > 0.75
    assert first.scores["tau"][0] > 0.7
    pd.testing.assert_frame_equal(first.predictions, again.predictions)
    copied = pickle.loads(pickle.dumps(clone(estimator).fit(X, y)))
    np.testing.assert_array_equal(copied.predict(X), estimator.fit(X, y).predict(X))


def test_the_network_can_be_extended_and_stays_within_bounds():
    X, y, groups = table()
    estimator = neural_network(random_state=0)
    estimator.set_params(transformedtargetregressor__regressor__hidden_layer_sizes=(8,))
    estimator.steps.insert(0, ("scaler", StandardScaler()))
    predicted = evaluate(estimator, 10 * X, y.round(), groups, n_splits=1, rng=0).predictions
    assert predicted["predicted"].between(0, 1, inclusive="neither").all()


def test_trees_accept_models_that_diverged_and_never_stop_early():
    X, y, groups = table()
    X.iloc[:20] = np.nan
    found = evaluate(boosted_trees(random_state=0), X, y, groups, n_splits=1, rng=0)
    assert found.predictions["predicted"].notna().all()
    assert boosted_trees().early_stopping is False
