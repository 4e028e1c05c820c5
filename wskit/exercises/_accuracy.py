"""The self-checks of tutorial 02: accuracy from weights."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from wskit.exercises._verdict import AnswerError, Verdict, as_number, verdict_on

if TYPE_CHECKING:
    from wskit.zoo import Zoo


def check_weight_correlation(correlation_of: object) -> Verdict:
    """Check exercise 2.1: ``correlation_of(W)`` is the weight correlation of a dense layer.

    Parameters
    ----------
    correlation_of : callable
        Takes an array of shape (neurons, inputs); returns the mean absolute cosine over all pairs
        of two different neurons, without those whose weights are all zero.

    Returns
    -------
    Verdict
    """
    return verdict_on(
        _weight_correlation, correlation_of, "the neurons are compared, pair by pair."
    )


def _weight_correlation(correlation_of: Callable[..., Any]) -> None:
    W = np.array([[3.0, 4.0], [-4.0, -3.0], [0.0, 2.0]])  # cosines -0.96, 0.8, -0.6
    found = as_number(correlation_of(W.copy()))
    if np.isclose(found, (3 + 2 * 2.36) / 9):
        raise AnswerError("every neuron is like itself: the diagonal does not count.")
    if np.isclose(found, (-0.96 + 0.8 - 0.6) / 3):
        raise AnswerError("opposite neurons are as redundant as equal ones: take absolute values.")
    if np.isclose(found, (24 + 8 + 6) / 3):
        raise AnswerError("these are products, not cosines: how long are the rows?")
    columns = W / np.linalg.norm(W, axis=0)
    if np.isclose(found, abs(columns[:, 0] @ columns[:, 1])):
        raise AnswerError("these are the inputs; a neuron is a row.")
    if not np.isclose(found, 2.36 / 3):
        raise AnswerError(f"three neurons with cosines of -0.96, 0.8 and -0.6 gave {found:.3g}.")
    with np.errstate(all="ignore"):
        dead = np.concatenate([W, np.zeros((2, 2))])
        try:
            found = as_number(correlation_of(dead))
        except AnswerError:
            raise AnswerError("a neuron whose weights are all zero has no direction.") from None
    if not np.isclose(found, 2.36 / 3):
        raise AnswerError("neurons whose weights are all zero must change nothing.")


def check_feature(design: object, zoo: "Zoo") -> Verdict:
    """Check exercise 2.2: ``design(models)`` tells more than the statistics of the weights alone.

    Parameters
    ----------
    design : callable
        Takes a `Zoo` whose records hold `activation` only; returns an array of shape (models,) or
        (models, features).
    zoo : Zoo
        With ``test_accuracy`` and ``run`` in its records.

    Returns
    -------
    Verdict
        Passed if tau on held-out runs, over five splits, is higher than that of
        `wskit.features.weight_statistics` alone by more than the standard error of the gain.
    """
    return verdict_on(lambda answer: _feature(answer, zoo), design, "")


def _feature(design: Callable[..., Any], zoo: "Zoo") -> str:
    # Here, as they load scikit-learn: the other tutorials' checks need none of it.
    import pandas as pd

    from wskit import predictors
    from wskit.features import weight_statistics
    from wskit.zoo import Zoo

    found = np.asarray(design(Zoo(zoo.weights, zoo.records[["activation"]].copy())), dtype=float)
    if found.ndim not in (1, 2) or len(found) != len(zoo):
        raise AnswerError(
            f"a row for each of the {len(zoo)} networks is needed, got the shape {found.shape}."
        )
    if np.isinf(found).any():
        raise AnswerError("there are infinite values; NaN stands for what is missing.")
    own = found.reshape(len(zoo), -1)
    columns = [f"designed.{i}" for i in range(own.shape[1])]
    base = weight_statistics(zoo.weights)
    y, runs = zoo.records["test_accuracy"], zoo.records["run"]
    taus = [
        predictors.evaluate(predictors.boosted_trees(random_state=0), X, y, runs, rng=97).scores.tau
        for X in (base, base.join(pd.DataFrame(own, columns=columns)))
    ]
    gain = taus[1] - taus[0]
    words = (
        f"tau {taus[1].mean():.2f} with your feature and {taus[0].mean():.2f} without, a gain of "
        f"{gain.mean():.3f} ± {gain.std():.3f} over {len(gain)} hidden splits."
    )
    if gain.mean() <= gain.std() / np.sqrt(len(gain)):
        raise AnswerError(words)
    return words
