import pickle
import types

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

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
