"""The self-checks of tutorial 02: accuracy from weights."""

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import kendalltau

from wskit.exercises._verdict import (
    Answer,
    AnswerError,
    as_array,
    as_number,
    diagnose,
    pass_if,
    require,
    self_check,
)

if TYPE_CHECKING:
    from wskit.zoo import Zoo

_KNOWN, _DRAWS = 10, 20  # networks whose accuracy is known, and how often they are drawn
_LEFT = 0.75  # share of the error that may be left after recalibration


@self_check("the neurons are compared, pair by pair.")
def check_weight_correlation(correlation_of: Answer) -> None:
    """Check exercise 2.1: ``correlation_of(W)`` is the weight correlation of a dense layer.

    It takes an array of shape (neurons, inputs) and returns the mean absolute cosine over all
    pairs of two different neurons, without the neurons whose weights are all zero.
    """
    W = np.array([[3.0, 4.0], [-4.0, -3.0], [0.0, 2.0]])  # cosines -0.96, 0.8, -0.6
    right, columns = 2.36 / 3, W / np.linalg.norm(W, axis=0)
    found = as_number(correlation_of(W.copy()))
    hints = {
        (3 + 2 * 2.36) / 9: "every neuron is like itself: the diagonal does not count.",
        (-0.96 + 0.8 - 0.6) / 3: "opposite neurons are as redundant as equal ones: take absolute "
        "values.",
        (24 + 8 + 6) / 3: "these are products, not cosines: how long are the rows?",
        abs(columns[:, 0] @ columns[:, 1]): "this compares the inputs; a neuron is a row.",
    }
    otherwise = f"three neurons with cosines of -0.96, 0.8 and -0.6 gave {found:.3g}."
    diagnose(found, right, hints, otherwise)
    with np.errstate(all="ignore"):
        try:
            found = as_number(correlation_of(np.concatenate([W, np.zeros((2, 2))])))
        except AnswerError:
            raise AnswerError("a neuron whose weights are all zero has no direction.") from None
    require(
        np.isclose(found, right), "neurons whose weights are all zero must not change the result."
    )


@self_check("every run is on one side, and chance decides on which.")
def check_split(split: Answer) -> None:
    """Check exercise 2.2: ``split(runs, rng)`` holds out a quarter of the runs, each as a whole.

    It takes an array with the run of each row and a numpy Generator, and returns an array of bool,
    True where a row is held out.
    """
    runs = np.repeat(np.arange(40), np.arange(40) % 5 + 1)  # from one to five states per run
    runs = 7 * np.random.default_rng(8).permutation(runs) + 3
    masks = [np.asarray(split(runs.copy(), np.random.default_rng(seed))) for seed in (0, 0, 1)]
    for held_out in masks:
        require(
            held_out.shape == runs.shape and held_out.dtype == bool,
            f"return an array of {len(runs)} values, True or False, not one of shape "
            f"{held_out.shape} and dtype {held_out.dtype}.",
        )
        torn = set(runs[held_out]) & set(runs[~held_out])
        require(
            not torn,
            f"{len(torn)} of 40 runs have rows on both sides: what is held out was seen in "
            "another state.",
        )
        n = len(set(runs[held_out]))
        require(9 <= n <= 11, f"of 40 runs, {n} are held out; hold out a quarter.")
    same = np.array_equal(masks[0], masks[1])
    require(same, "the same rng must give the same split: draw from nothing else.")
    other = not np.array_equal(masks[0], masks[2])
    require(other, "another rng gives the same split; let chance decide which runs are held out.")


@self_check("only networks of one group are compared.")
def check_tau_within(tau_within: Answer) -> None:
    """Check exercise 2.3: ``tau_within(x, y, groups)`` is Kendall's tau within groups.

    It takes three arrays with one value per network. Over the pairs of networks of one group, it
    returns the share that x and y put in the same order, minus the share in the opposite order.
    """
    x = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 7.0, 9.0])
    y = np.array([1.0, 2.0, 6.0, 5.0, 4.0, 3.0, 8.0, 9.0, 7.0])
    groups = np.array(["a", "a", "b", "b", "b", "b", "c", "c", "d"])
    signs = np.sign(x[:, None] - x) * np.sign(y[:, None] - y)
    same = groups[:, None] == groups
    pairs = ~np.eye(len(x), dtype=bool)
    with warnings.catch_warnings(action="ignore"):  # for a group of one
        try:
            found = as_number(tau_within(x.copy(), y.copy(), groups.copy()))
        except AnswerError:
            raise AnswerError(
                "a group of one network has no pair, and must not change the result."
            ) from None
    hints = {
        signs[pairs].mean(): "all pairs are counted: which of them are of one group?",
        signs[pairs & ~same].mean(): "these are the pairs of two groups; count those of one.",
        signs[same].mean(): "a network does not form a pair with itself.",
        (1 - 1 + 0) / 3: "each group counts the same; each pair should, so that large groups "
        "count more.",
        (1 - 6) / 7: "a pair that is equal in x agrees with neither order, but it is a pair.",
        1 - 6: "this is the difference of two numbers of pairs; of how many pairs in all?",
        1 / 8: "this is the share in the same order; what about the others?",
    }
    otherwise = f"of eight pairs one agrees, six do not and one is equal; got {found:.3g}."
    diagnose(found, (1 - 6) / 8, hints, otherwise)
    order = np.random.default_rng(0).permutation(len(x))
    again = as_number(tau_within(x[order], y[order], groups[order]))
    require(np.isclose(again, found), "the order of the networks must not change the result.")


@self_check()
def check_recalibrate(recalibrate: Answer, predicted: Any, true: Any) -> str:
    """Check exercise 2.4: ``recalibrate(predicted, few_predicted, few_true)`` reduces errors.

    It takes predictions for many networks, then those for ten others with their accuracies, and
    returns better predictions for the many. `predicted` and `true`, of shape (models,), are of
    another zoo than the predictor was fitted to. Over twenty draws of the ten, at most three
    quarters of the mean error may be left, and Kendall's tau may fall by at most 0.05.
    """
    predicted, true = np.asarray(predicted, dtype=float), np.asarray(true, dtype=float)
    rng, rows = np.random.default_rng(23), []
    for _ in range(_DRAWS):
        few, rest = np.split(rng.permutation(len(true)), [_KNOWN])
        found = recalibrate(predicted[rest].copy(), predicted[few].copy(), true[few].copy())
        own = as_array(found, len(rest))
        rows.append([_error_and_tau(true[rest], each) for each in (predicted[rest], own)])
    (error, tau), (own_error, own_tau) = np.mean(rows, axis=0)
    words = (
        f"the mean error is {own_error:.3f} and was {error:.3f}; tau is {own_tau:.2f} and was "
        f"{tau:.2f}."
    )
    pass_if(own_tau >= tau - 0.05, words, "The order was good; keep it.")
    return pass_if(own_error <= _LEFT * error, words, "Bring it to three quarters or less.")


def _error_and_tau(true: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    tau = kendalltau(true, predicted).statistic  # NaN where all predictions are equal: no order
    return float(np.abs(true - predicted).mean()), float(np.nan_to_num(tau))


@self_check()
def check_feature(design: Answer, zoo: "Zoo") -> str:
    """Check exercise 2.5: ``design(models)`` tells more than the statistics of the weights alone.

    It takes a `Zoo` whose records hold `activation` only, and returns an array of shape (models,)
    or (models, features). The records of `zoo` hold ``test_accuracy`` and ``run``. Over five
    splits by run, the feature must add more than one standard error to the tau of
    `wskit.features.weight_statistics`.
    """
    # Imported here because they load scikit-learn, which the other tutorials' checks do not need.
    import pandas as pd

    from wskit import predictors
    from wskit.features import weight_statistics
    from wskit.zoo import Zoo

    found = np.asarray(design(Zoo(zoo.weights, zoo.records[["activation"]].copy())), dtype=float)
    require(
        found.ndim in (1, 2) and len(found) == len(zoo),
        f"return one row for each of the {len(zoo)} networks, not the shape {found.shape}.",
    )
    require(not np.isinf(found).any(), "some values are infinite; use NaN for what is missing.")
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
    return pass_if(gain.mean() > gain.std() / np.sqrt(len(gain)), words)
