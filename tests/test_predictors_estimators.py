import pickle
import types

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

from wskit.errors import PredictorError
from wskit.predictors import LogitLinearRegressor, boosted_trees, evaluate, neural_network


def table(n=300, noise=0.3):
    """Accuracies that depend on three of four columns."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(n, 4)), columns=["a.w.mean", "a.b.mean", "b.w.mean", "c"])
    z = X.to_numpy() @ [1, 1, 0.3, 0] + noise * rng.normal(size=n)
    return X, expit(z), np.arange(n)


# scikit-learn's tables have targets that are no accuracies, which the estimator warns of.
@pytest.mark.filterwarnings("ignore:.*of y are outside:UserWarning")
@parametrize_with_checks([LogitLinearRegressor()])
@pytest.mark.usefixtures("without_type_checks")
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def test_logit_regression_is_ridge_on_the_logits():
    X, y, _ = table()
    y[:3] = [0.0, 1.0, 0.001]
    model = LogitLinearRegressor(alpha=3.0, clip=0.02).fit(X, y)
    ridge = Ridge(alpha=3.0).fit(X, logit(np.clip(y, 0.02, 0.98)))
    np.testing.assert_allclose(model.coef_, ridge.coef_)
    np.testing.assert_allclose(model.predict(X), expit(ridge.predict(X)))
    far = pd.DataFrame([[99.0] * 4], columns=X.columns)
    assert 0 < model.predict(-far)[0] < 1e-6 < 1 - 1e-6 < model.predict(far)[0] <= 1


def test_logit_regression_recovers_planted_weights():
    X, _, _ = table(2000)
    truth = np.array([1.0, -0.5, 0.2, 0.0])
    y = expit(X.to_numpy() @ truth + 0.3)
    model = LogitLinearRegressor(alpha=1e-6, clip=1e-6).fit(X, y)
    assert model.coef_ == pytest.approx(truth, abs=1e-4)
    assert model.intercept_ == pytest.approx(0.3, abs=1e-4)


def test_percentages_are_warned_of():
    X, y, _ = table(50)
    with pytest.warns(UserWarning, match=r"50 of 50 values of y are outside \[0, 1\], where"):
        LogitLinearRegressor().fit(X, 100 + y)
    for clip in (0.0, 0.5):
        with pytest.raises(PredictorError, match=rf"clip must be in \(0, 0.5\), got {clip}"):
            LogitLinearRegressor(clip=clip).fit(X, y)


ESTIMATORS = {
    "linear": lambda: make_pipeline(StandardScaler(), LogitLinearRegressor()),
    "trees": lambda: boosted_trees(random_state=0),
    "lightgbm": lambda: boosted_trees("lightgbm", random_state=0),
    "network": lambda: neural_network(random_state=0),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_learns_and_repeats_itself(name):
    if name == "lightgbm":
        pytest.importorskip("lightgbm")
    X, y, groups = table(noise=0.1)
    estimator = ESTIMATORS[name]()
    first, again = (evaluate(estimator, X, y, groups, n_splits=1, rng=0) for _ in range(2))
    assert first.scores["r2"][0] > 0.75
    assert first.scores["tau"][0] > 0.7
    pd.testing.assert_frame_equal(first.predictions, again.predictions)


def test_the_network_can_be_extended_and_stays_within_bounds():
    X, y, groups = table()
    estimator = neural_network((8,), random_state=0)
    estimator.steps.insert(0, ("scaler", StandardScaler()))
    predicted = evaluate(estimator, 10 * X, y.round(), groups, n_splits=1, rng=0).predictions
    assert predicted["predicted"].between(0, 1, inclusive="neither").all()
    copied = pickle.loads(pickle.dumps(estimator.fit(X, y)))
    np.testing.assert_array_equal(copied.predict(X), estimator.predict(X))


OURS = {name: make for name, make in ESTIMATORS.items() if name != "lightgbm"} | {
    "linear": LogitLinearRegressor
}
BAD_TABLES = {
    "text": (
        lambda X: X.assign(c="text"),
        "could not convert .* in row 0, column 'c'; leave out",
    ),
    "no rows": (lambda X: X[:0], "0 sample"),
    "no columns": (lambda X: X[[]], "the table has no columns; give"),
    "one axis": (lambda X: X["c"], "Expected a 2-dimensional container .*; pass a DataFrame"),
    "dates": (lambda X: X.assign(c=pd.Timestamp(0)), "columns of different kinds"),
    "complex": (lambda X: X.to_numpy() * 1j, "Complex data not supported; give"),
    "nothing": (lambda X: None, "Expected 2D array, got scalar array instead; Reshape"),
}
NOT_FINITE = {
    "NaN": (np.nan, "Input X contains NaN in row 7, column 'b.w.mean'; leave such models out."),
    "inf": (np.inf, "Input X contains infinity .* in row 7, column 'b.w.mean'; leave such"),
}
BAD_ACCURACIES = {
    "text": (lambda y: ["a"] * len(y), "in row 0 of y; leave out|there are texts"),
    "NaN": (lambda y: np.where(np.arange(len(y)) == 4, np.nan, y), "contains NaN in row 4 of y"),
    "inf": (lambda y: np.where(np.arange(len(y)) == 4, np.inf, y), "infinity .* in row 4 of y"),
    "two axes": (lambda y: np.stack([y, y], axis=1), "y should be a 1d array, got an array"),
    "too few": (lambda y: y[:9], r"inconsistent numbers of samples: \[60, 9\]"),
    "nothing": (lambda y: None, "target y is None|array of shape \\(\\)"),
}


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize("name", OURS)
@pytest.mark.usefixtures("without_type_checks")
def test_what_cannot_be_used_is_refused_in_one_sentence(name):
    X, y, _ = table(60)
    fitted = OURS[name]().fit(X, y)
    what = type(fitted).__name__
    for make, message in BAD_TABLES.values():
        for task, call in (
            ("be fitted", lambda Z: OURS[name]().fit(Z, y)),
            ("predict", fitted.predict),
        ):
            with pytest.raises(
                PredictorError, match=rf"^{what} cannot {task}: .*{message}"
            ) as found:
                call(make(X))
            assert "\n" not in str(found.value)
    for make, message in BAD_ACCURACIES.values():
        with pytest.raises(PredictorError, match=rf"^{what} cannot be fitted: .*({message})"):
            OURS[name]().fit(X, make(y))
    for value, message in NOT_FINITE.values():
        Z = X.copy()
        Z.iloc[7, 2] = value
        if name == "trees":
            assert np.isfinite(OURS[name]().fit(Z, y).predict(Z)).all()
            continue
        for call in (lambda Z: OURS[name]().fit(Z, y), fitted.predict):
            with pytest.raises(PredictorError, match=message):
                call(Z)
            with pytest.raises(PredictorError, match=r"row 7 of 60, column 2"):
                call(Z.to_numpy())
    for columns, message in (
        (X.rename(columns={"c": "z"}), "unseen at fit time:\n- z\n.*now missing:\n- c; give the"),
        (X[X.columns[::-1]], "same order as they were in fit; give the columns"),
    ):
        with pytest.raises(PredictorError, match=f"(?s)^{what} cannot predict: .*{message}"):
            fitted.predict(columns)
    np.testing.assert_allclose(OURS[name]().fit(X, 0 * y + 0.5).predict(X), 0.5, atol=0.3)


def test_the_row_that_is_named_is_that_of_the_whole_table():
    X, y, groups = table(60)
    X.iloc[7, 2] = np.nan
    with pytest.raises(PredictorError, match=r"NaN in row 7, column 'b\.w\.mean'"):
        evaluate(LogitLinearRegressor(), X, y, groups, n_splits=4, rng=0)


def test_too_few_models_are_refused():
    X, y, _ = table(60)
    with pytest.raises(PredictorError, match=r"Found array with 1 sample.* a minimum of 2 is"):
        LogitLinearRegressor().fit(X[:1], y[:1])
    with np.errstate(over="ignore"), pytest.raises(PredictorError, match="overflow; give"):
        LogitLinearRegressor().fit(X.to_numpy() * 1e200, y)
    with pytest.raises(
        PredictorError, match=r"'alpha' parameter of Ridge .*Got -1.0 instead; change"
    ):
        LogitLinearRegressor(alpha=-1.0).fit(X, y)
    for n in (1, 10):
        with (
            pytest.warns(UserWarning, match="n_quantiles"),
            pytest.raises(PredictorError, match=rf"of n_samples={n} models .*; give 32 at least"),
        ):
            neural_network().fit(X[:n], y[:n])


@pytest.mark.filterwarnings("ignore:.*hasn't converged")
def test_the_network_warns_of_percentages():
    X, y, _ = table(60)
    with pytest.warns(UserWarning, match=r"60 of 60 values of y are outside \[0, 1\]"):
        neural_network((4,), random_state=0).fit(X, 100 + y)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.filterwarnings("ignore")
def test_the_trees_keep_scikit_learns_conventions():
    def failed(estimator):
        results = check_estimator(estimator, on_fail=None)
        return {result["check_name"] for result in results if result["status"] == "failed"}

    ours = boosted_trees(random_state=0).set_params(max_iter=2)
    theirs = HistGradientBoostingRegressor(**ours.get_params())
    assert failed(ours) == failed(theirs)


@pytest.mark.parametrize("library", ["sklearn", "lightgbm"])
def test_trees_accept_models_that_diverged_and_never_stop_early(library):
    if library == "lightgbm":
        pytest.importorskip("lightgbm")
    X, y, groups = table()
    X.iloc[:20] = np.nan
    found = evaluate(boosted_trees(library, random_state=0), X, y, groups, n_splits=1, rng=0)
    assert found.predictions["predicted"].notna().all()
    settings = boosted_trees(library).get_params()
    assert settings.get("early_stopping", False) is False
    assert settings.get("early_stopping_rounds") is None


@pytest.mark.parametrize("error", [ImportError("no such module"), OSError("libgomp.so.1: no file")])
def test_lightgbm_is_asked_for_when_it_is_missing(error, monkeypatch):
    def refuse(name, *_):
        raise error

    module = types.SimpleNamespace(import_module=refuse)
    monkeypatch.setattr("wskit.predictors._estimators.importlib", module)
    with pytest.raises(
        PredictorError, match=r"\(.*no .*\); install it with `pip install lightgbm`"
    ):
        boosted_trees("lightgbm")


def test_unknown_libraries_are_refused(without_type_checks):
    with pytest.raises(PredictorError, match=r"one of \('sklearn', 'lightgbm'\), got 'xgboost'"):
        boosted_trees("xgboost")
