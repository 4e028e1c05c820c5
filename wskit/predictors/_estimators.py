"""Regressors of accuracies: one of our own, and scikit-learn's with settings for zoos."""

import importlib
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float64
from scipy.special import expit, logit
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import QuantileTransformer
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from wskit._checks import number
from wskit.errors import PredictorError
from wskit.predictors._input import ClearErrors, clear_errors, warn_outside

Library = Literal["sklearn", "lightgbm"]


class LogitLinearRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    r"""Ridge regression on the logits of accuracies.

    With y clipped to [clip, 1 - clip], the weights minimise

    .. math:: \sum_i (\ln \frac{y_i}{1 - y_i} - w \cdot x_i - b)^2 + \alpha \|w\|^2,

    and predictions come back through the sigmoid, so that they are in (0, 1). The features count
    by their scale: put a scaler in front, as in
    ``make_pipeline(QuantileTransformer(), StandardScaler(), LogitLinearRegressor())``.

    Unterthiner et al. 2020 (arXiv:2002.11448) train their logit-linear model on the squared error
    of the accuracies instead; this one has a closed form.

    Parameters
    ----------
    alpha : float, default 1.0
        Strength of the penalty; the intercept is free of it.
    clip : float, default 0.01
        In (0, 0.5). How near an accuracy may come to 0 and 1, whose logits are infinite.

    Attributes
    ----------
    coef_ : array of shape (n_features,)
    intercept_ : float
    n_features_in_ : int
    feature_names_in_ : array of shape (n_features,)
        If `X` had names.

    Warns
    -----
    UserWarning
        If values of y are outside [0, 1]: percentages, or losses. They are clipped as well.

    Examples
    --------
    >>> X = np.array([[-1.0], [0.0], [1.0]])
    >>> model = LogitLinearRegressor(alpha=0.0).fit(X, expit(2 * X[:, 0]))
    >>> model.coef_.round(6), model.predict(np.array([[0.0]])).round(6)
    (array([2.]), array([0.5]))
    """

    def __init__(self, alpha: float = 1.0, clip: float = 0.01) -> None:
        self.alpha = alpha
        self.clip = clip

    def fit(self, X: Any, y: Any) -> "LogitLinearRegressor":
        """Fit the weights.

        Parameters
        ----------
        X : array or DataFrame of shape (models, features)
            Finite numbers.
        y : array of shape (models,)
            Accuracies as fractions.

        Returns
        -------
        LogitLinearRegressor
            Itself.

        Raises
        ------
        PredictorError
            If `clip` is outside (0, 0.5); if `X` or `y` hold NaN, inf or what is no number, do not
            fit together, or have fewer than two rows.
        """
        if not 0 < number(self.clip, PredictorError, "clip") < 0.5:
            raise PredictorError(f"clip must be in (0, 0.5), got {self.clip}.")
        with clear_errors(self, "be fitted", X, y):
            X, y = validate_data(self, X, y, y_numeric=True, ensure_min_samples=2)
            y = np.asarray(y, dtype=np.float64)
            warn_outside(y, stacklevel=2)
            ridge = Ridge(alpha=self.alpha).fit(X, _clipped_logit(y, self.clip))
        self.coef_, self.intercept_ = ridge.coef_, float(ridge.intercept_)
        return self

    def __sklearn_tags__(self) -> Any:
        """Say that targets are fractions: others, as in scikit-learn's checks, score poorly."""
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True
        return tags

    def predict(self, X: Any) -> Float64[np.ndarray, " models"]:
        """Predict accuracies.

        Parameters
        ----------
        X : array or DataFrame of shape (models, features)

        Returns
        -------
        array of shape (models,)
            In (0, 1).

        Raises
        ------
        PredictorError
            If `X` holds NaN, inf or what is no number, or has other columns than were fitted to.
        """
        check_is_fitted(self)
        with clear_errors(self, "predict", X):
            X = validate_data(self, X, reset=False)
        return np.asarray(expit(X @ self.coef_ + self.intercept_), dtype=np.float64)


class BoostedTrees(ClearErrors, HistGradientBoostingRegressor):  # type: ignore[misc]
    """scikit-learn's trees, as `boosted_trees` makes them."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None, **params: Any) -> "BoostedTrees":
        """Fit; scikit-learn looks for the name of the weights."""
        super().fit(X, y, sample_weight=sample_weight, **params)
        return self


class NeuralNetwork(ClearErrors, Pipeline):  # type: ignore[misc]
    """scikit-learn's pipeline, as `neural_network` makes it."""

    def fit(self, X: Any, y: Any, **params: Any) -> "NeuralNetwork":
        """Fit to the logits of accuracies."""
        with clear_errors(self, "be fitted", X, y):
            accuracies = column_or_1d(y)
        super().fit(X, y, **params)
        warn_outside(accuracies, stacklevel=2)
        return self


def boosted_trees(library: Library = "sklearn", *, random_state: int | None = None) -> Any:
    """Gradient-boosted trees with settings for a few hundred to a few thousand models.

    A fixed number of small trees, grown from random quarters of the features. There is no early
    stopping: the papers' programs stop on the test set, which makes its score an estimate of
    nothing. Both libraries accept NaN among the features.

    Parameters
    ----------
    library : {"sklearn", "lightgbm"}, default "sklearn"
        scikit-learn's histogram gradient boosting; or LightGBM, as in Unterthiner et al. 2020
        (arXiv:2002.11448), which has to be installed and samples the models for each tree, too.
    random_state : int, optional
        Which features the trees see.

    Returns
    -------
    HistGradientBoostingRegressor or lightgbm.LGBMRegressor
        Not fitted. ``set_params`` changes any of its settings. scikit-learn's raises
        `PredictorError` where features or accuracies cannot be used.

    Raises
    ------
    PredictorError
        If `library` is unknown, or is not installed.

    Examples
    --------
    >>> X = np.linspace(0, 1, 200)[:, None]
    >>> model = boosted_trees(random_state=0).fit(X, X[:, 0] > 0.5)
    >>> model.predict([[0.2], [0.8]]).round(2) + 0.0
    array([0., 1.])
    """
    if library not in get_args(Library):
        raise PredictorError(f"library must be one of {get_args(Library)}, got {library!r}.")
    if library == "sklearn":
        return BoostedTrees(
            learning_rate=0.05,
            max_iter=400,
            max_leaf_nodes=15,
            min_samples_leaf=10,
            max_features=0.25,
            early_stopping=False,
            random_state=random_state,
        )
    try:
        lightgbm = importlib.import_module("lightgbm")
    except (ImportError, OSError) as error:  # OSError: its OpenMP library is missing
        raise PredictorError(
            f'library="lightgbm" cannot be imported ({error}); install it with '
            '`pip install lightgbm`, or take library="sklearn".'
        ) from error
    return lightgbm.LGBMRegressor(
        learning_rate=0.05,
        n_estimators=400,
        num_leaves=15,
        min_child_samples=10,
        colsample_bytree=0.25,
        subsample=0.8,
        subsample_freq=1,
        random_state=random_state,
        n_jobs=1,  # with more threads its sums, and so its trees, may differ from run to run
        verbosity=-1,
    )


def neural_network(
    hidden: tuple[int, ...] = (128, 128), *, random_state: int | None = None
) -> Pipeline:
    """Small fully connected network on the quantiles of features.

    After the network of Unterthiner et al. 2020 (arXiv:2002.11448), which ends in a sigmoid: here
    the network is fitted to the logits of accuracies, clipped to [0.01, 0.99]. Training stops
    when the score on a tenth of the training models, held out for this, has not risen for 30
    epochs; the test models are never seen. It needs finite features, and 32 models at least.

    Parameters
    ----------
    hidden : tuple of int, default (128, 128)
        Units of each hidden layer.
    random_state : int, optional
        Of the initial weights, the order, and the models that are held out.

    Returns
    -------
    Pipeline
        Not fitted; of the steps ``quantiletransformer`` and ``transformedtargetregressor`` (an
        ``MLPRegressor`` inside), which can be replaced or added to. Predictions are in (0, 1). It
        raises `PredictorError` where features or accuracies cannot be used, and warns of
        accuracies outside [0, 1].

    Examples
    --------
    >>> [name for name, step in neural_network().steps]
    ['quantiletransformer', 'transformedtargetregressor']
    """
    network = MLPRegressor(
        hidden_layer_sizes=hidden,
        alpha=1e-3,
        batch_size=32,
        max_iter=1000,
        early_stopping=True,
        n_iter_no_change=30,
        random_state=random_state,
    )
    # To [0, 1]: the ends of a normal distribution would put the extreme models far from all.
    logits = TransformedTargetRegressor(
        network, func=_clipped_logit, inverse_func=expit, check_inverse=False
    )
    quantiles = QuantileTransformer(n_quantiles=32)
    return NeuralNetwork(
        [("quantiletransformer", quantiles), ("transformedtargetregressor", logits)]
    )


def _clipped_logit(y: Float64[np.ndarray, "..."], clip: float = 0.01) -> Float64[np.ndarray, "..."]:
    return np.asarray(logit(np.clip(y, clip, 1 - clip)))
