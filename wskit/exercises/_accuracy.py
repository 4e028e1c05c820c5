"""The self-checks of tutorial 02: accuracy from weights."""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import kendalltau

from wskit.exercises._verdict import AnswerError, Verdict, as_number, verdict_on

if TYPE_CHECKING:
    from wskit.zoo import Zoo

_KNOWN, _DRAWS = 10, 20  # networks whose accuracy is known, and how often they are drawn
_LEFT = 0.75  # of the error, for predictions that were set right


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


def check_split(split: object) -> Verdict:
    """Check exercise 2.2: ``split(runs, rng)`` holds out a quarter of the runs, each as a whole.

    Parameters
    ----------
    split : callable
        Takes an array of the run of each row and a numpy Generator; returns an array of bool,
        True where a row is held out.

    Returns
    -------
    Verdict
    """
    return verdict_on(_split, split, "every run is on one side, and chance decides on which.")


def _split(split: Callable[..., Any]) -> None:
    runs = np.repeat(np.arange(40), np.arange(40) % 5 + 1)  # one state of some, five of others
    runs = 7 * np.random.default_rng(8).permutation(runs) + 3
    masks = [_mask_of(split(runs.copy(), np.random.default_rng(seed)), runs) for seed in (0, 0, 1)]
    for held_out in masks:
        torn = set(runs[held_out]) & set(runs[~held_out])
        if torn:
            raise AnswerError(
                f"{len(torn)} of 40 runs have rows on both sides: those that are held out were "
                "seen, in another state."
            )
        n = len(set(runs[held_out]))
        if not 9 <= n <= 11:
            raise AnswerError(f"of 40 runs, {n} are held out; a quarter is asked for.")
    if not np.array_equal(masks[0], masks[1]):
        raise AnswerError("the same rng must give the same split: draw from it only.")
    if np.array_equal(masks[0], masks[2]):
        raise AnswerError("another rng gives the same split; which runs are held out is chance.")


def _mask_of(found: Any, runs: np.ndarray) -> np.ndarray:
    held_out = np.asarray(found)
    if held_out.shape != runs.shape or held_out.dtype != bool:
        raise AnswerError(
            f"return {len(runs)} times True or False, not the shape {held_out.shape} of "
            f"{held_out.dtype}."
        )
    return held_out


def check_tau_within(tau_within: object) -> Verdict:
    """Check exercise 2.3: ``tau_within(x, y, groups)`` is Kendall's tau of pairs of one group.

    Parameters
    ----------
    tau_within : callable
        Takes three arrays of a value a network; returns the share of the pairs of two networks
        of one group that x and y put in the same order, less the share that they do not.

    Returns
    -------
    Verdict
    """
    return verdict_on(_tau_within, tau_within, "only networks of one group are compared.")


def _tau_within(tau_within: Callable[..., Any]) -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 7.0, 9.0])
    y = np.array([1.0, 2.0, 6.0, 5.0, 4.0, 3.0, 8.0, 9.0, 7.0])
    groups = np.array(["a", "a", "b", "b", "b", "b", "c", "c", "d"])
    signs = np.sign(x[:, None] - x) * np.sign(y[:, None] - y)
    same = groups[:, None] == groups
    pairs = ~np.eye(len(x), dtype=bool)
    with warnings.catch_warnings(action="ignore"):  # of a group of one
        try:
            found = as_number(tau_within(x.copy(), y.copy(), groups.copy()))
        except AnswerError:
            raise AnswerError(
                "a group of one network has no pair, and must change nothing."
            ) from None
    wrong = {
        signs[pairs].mean(): "all pairs are counted: which of them are of one group?",
        signs[pairs & ~same].mean(): "these are the pairs of two groups; those of one are asked.",
        signs[same].mean(): "a network is no pair with itself.",
        (1 - 1 + 0)
        / 3: "each group counts alike; each pair must, so that large groups count more.",
        (1 - 6) / 7: "a pair that is equal in x counts as neither, but it is a pair.",
        1 - 6: "this is the difference of two numbers of pairs; of how many pairs in all?",
        1 / 8: "this is the share in the same order; what of those that are not?",
    }
    for value, words in wrong.items():
        if np.isclose(found, value):
            raise AnswerError(words)
    if not np.isclose(found, (1 - 6) / 8):
        raise AnswerError(
            f"of eight pairs one agrees, six do not and one is equal; got {found:.3g}."
        )
    order = np.random.default_rng(0).permutation(len(x))
    if not np.isclose(as_number(tau_within(x[order], y[order], groups[order])), found):
        raise AnswerError("the networks in another order must give the same.")


def check_recalibrate(recalibrate: object, predicted: Any, true: Any) -> Verdict:
    """Check exercise 2.4: ``recalibrate(predicted, few_predicted, few_true)`` brings errors down.

    Parameters
    ----------
    recalibrate : callable
        Takes predictions of many networks, then those of ten others and their accuracies; returns
        better predictions of the many.
    predicted, true : array of shape (models,)
        Of another zoo than the predictor was fitted to.

    Returns
    -------
    Verdict
        Passed if the mean error, over twenty draws of ten networks, is three quarters of what it
        was or less, and Kendall's tau what it was, within 0.05.
    """
    known = np.asarray(predicted, dtype=float), np.asarray(true, dtype=float)
    return verdict_on(lambda answer: _recalibrate(answer, *known), recalibrate, "")


def _recalibrate(recalibrate: Callable[..., Any], predicted: np.ndarray, true: np.ndarray) -> str:

    rng, rows = np.random.default_rng(23), []
    for _ in range(_DRAWS):
        few, rest = np.split(rng.permutation(len(true)), [_KNOWN])
        found = recalibrate(predicted[rest].copy(), predicted[few].copy(), true[few].copy())
        own = np.asarray(found, dtype=float)
        if own.shape != rest.shape:
            raise AnswerError(
                f"one number for each of {len(rest)} networks is needed, got the shape {own.shape}."
            )
        if not np.isfinite(own).all():
            raise AnswerError("there are predictions that are not finite.")
        rows.append([_error_and_tau(true[rest], each) for each in (predicted[rest], own)])
    (error, tau), (own_error, own_tau) = np.mean(rows, axis=0)
    words = (
        f"a mean error of {own_error:.3f} beside {error:.3f}, tau {own_tau:.2f} beside {tau:.2f}."
    )
    if own_tau < tau - 0.05:
        raise AnswerError(f"{words} The order was good; do not lose it.")
    if own_error > _LEFT * error:
        raise AnswerError(f"{words} At most three quarters of the error are the goal.")
    return words


def _error_and_tau(true: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    tau = kendalltau(true, predicted).statistic  # NaN where all predictions are equal: no order
    return float(np.abs(true - predicted).mean()), float(np.nan_to_num(tau))


def check_feature(design: object, zoo: "Zoo") -> Verdict:
    """Check exercise 2.5: ``design(models)`` tells more than the statistics of the weights alone.

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
    base = weight_statistics(zoo.weights).round(6)  # the rest is noise, and trees would split it
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
