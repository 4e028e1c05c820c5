"""Regressors of accuracies: scikit-learn's, with settings for zoos."""

import functools
import warnings
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import expit, logit
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import QuantileTransformer

from wskit.errors import PredictorError


def logit_linear(alpha: float = 1.0, *, clip: float = 0.01) -> TransformedTargetRegressor:
    r"""Return a ridge regression on the logits of accuracies.

    With y clipped to [clip, 1 - clip], the weights minimise

    .. math:: \sum_i (\ln \frac{y_i}{1 - y_i} - w \cdot x_i - b)^2 + \alpha \|w\|^2,

    and predictions come back through the sigmoid, so that they are in (0, 1). Features count by
    their scale: put a scaler in front, as in
    ``make_pipeline(QuantileTransformer(), StandardScaler(), logit_linear())``.

    Unterthiner et al. 2020 (arXiv:2002.11448) train their logit-linear model on the squared error
    of the accuracies instead; this one has a closed form.

    Parameters
    ----------
    alpha : float, default 1.0
        Strength of the penalty; the intercept is free of it.
    clip : float, default 0.01
        In (0, 0.5). How near an accuracy may come to 0 and 1, whose logits are infinite.

    Returns
    -------
    TransformedTargetRegressor
        Not fitted; ``regressor_`` is the fitted ``Ridge``. It warns of accuracies outside [0, 1].

    Raises
    ------
    PredictorError
        If `clip` is outside (0, 0.5).

    Examples
    --------
    >>> X = np.array([[-1.0], [0.0], [1.0]])
    >>> model = logit_linear(alpha=0.0).fit(X, expit(2 * X[:, 0]))
    >>> model.regressor_.coef_.round(6), model.predict(np.array([[0.0]])).round(6)
    (array([2.]), array([0.5]))
    """
    if not 0 < clip < 0.5:
        raise PredictorError(f"clip must be in (0, 0.5), got {clip}.")
    return _regress_logits(Ridge(alpha=alpha), clip)


def boosted_trees(*, random_state: int | None = None) -> HistGradientBoostingRegressor:
    """Return gradient-boosted trees with settings for a few hundred to a few thousand models.

    A fixed number of small trees, grown from random quarters of the features. There is no early
    stopping: the papers' programs stop on the test set, which makes its score an estimate of
    nothing. NaN among the features is accepted.

    Parameters
    ----------
    random_state : int, optional
        Decides which features the trees see.

    Returns
    -------
    HistGradientBoostingRegressor
        Not fitted. ``set_params`` changes any of its settings.

    Examples
    --------
    >>> X = np.linspace(0, 1, 200)[:, None]
    >>> model = boosted_trees(random_state=0).fit(X, X[:, 0] > 0.5)
    >>> model.predict([[0.2], [0.8]]).round(2) + 0.0
    array([0., 1.])
    """
    return HistGradientBoostingRegressor(
        learning_rate=0.05,
        max_iter=400,
        max_leaf_nodes=15,
        min_samples_leaf=10,
        max_features=0.25,
        early_stopping=False,
        random_state=random_state,
    )


def neural_network(*, random_state: int | None = None) -> Pipeline:
    """Return a small fully connected network on the quantiles of features.

    After the network of Unterthiner et al. 2020 (arXiv:2002.11448), which ends in a sigmoid: here
    the network is fitted to the logits of accuracies, clipped to [0.01, 0.99]. Training stops
    when the score on a tenth of the training models, held out for this, has not risen for 30
    epochs; the test models are never seen. It needs finite features and at least 32 models.

    Parameters
    ----------
    random_state : int, optional
        Decides the initial weights, the order, and the models that are held out.

    Returns
    -------
    Pipeline
        Not fitted; of the steps ``quantiletransformer`` and ``transformedtargetregressor`` (an
        ``MLPRegressor`` inside), which can be replaced or added to. Predictions are in (0, 1). It
        warns of accuracies outside [0, 1].

    Examples
    --------
    >>> [name for name, step in neural_network().steps]
    ['quantiletransformer', 'transformedtargetregressor']
    """
    network = MLPRegressor(
        hidden_layer_sizes=(128, 128),
        alpha=1e-3,
        batch_size=32,
        max_iter=1000,
        early_stopping=True,
        n_iter_no_change=30,
        random_state=random_state,
    )
    # To [0, 1]: the ends of a normal distribution would put the extreme models far from all.
    return make_pipeline(QuantileTransformer(n_quantiles=32), _regress_logits(network, 0.01))


def _regress_logits(regressor: Any, clip: float) -> TransformedTargetRegressor:
    transform = functools.partial(_clip_logit, clip=clip)
    return TransformedTargetRegressor(
        regressor, func=transform, inverse_func=expit, check_inverse=False
    )


def _clip_logit(y: Float[np.ndarray, "..."], clip: float) -> Float[np.ndarray, "..."]:
    outside = (y < 0) | (y > 1)
    if n_outside := np.count_nonzero(outside):
        warnings.warn(
            f"{n_outside} of {y.size} values of y are outside [0, 1], where accuracies are, and "
            f"are clipped; the first is {y[outside][0]:g}.",
            stacklevel=2,
        )
    return np.asarray(logit(np.clip(y, clip, 1 - clip)))
