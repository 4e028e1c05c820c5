"""The self-checks of tutorial 04: averages of weights."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from wskit.exercises._verdict import (
    Answer,
    Weights,
    as_array,
    as_number,
    check_counter,
    check_model,
    diagnose,
    pass_if,
    require,
    self_check,
    unchanged,
)

if TYPE_CHECKING:
    from wskit.averaging import Trajectory
    from wskit.landscape import Evaluator

_WON = 0.8  # share of the runs in which a design must be better


@self_check("each model counts once.")
def check_merge_means(merge_means: Answer) -> None:
    """Check exercise 4.1: ``merge_means(a, n_a, b, n_b)`` is the mean of the models of two means.

    It takes two dicts of tensors, each followed by the number of models that it is the mean of, and
    returns the mean of all; integer tensors are those of the first.
    """
    a = {"w": torch.tensor([1.0, 2.0]), "v": torch.tensor([[3.0]]), "n": torch.tensor(5)}
    b = {"w": torch.tensor([5.0, -2.0]), "v": torch.tensor([[7.0]]), "n": torch.tensor(8)}
    with unchanged(a, b):
        found = merge_means(a, 3, b, 1)
    check_model(found, a)
    hints = {
        (3.0, 0.0): "this is half of the way; but one mean is of more models than the other.",
        (4.0, -1.0): "the numbers are exchanged: which mean stands for more models?",
    }
    otherwise = f"1 and 2 of three models, 5 and -2 of one more, gave {found['w'].tolist()}."
    diagnose(found["w"], (2.0, 1.0), hints, otherwise)
    alike = torch.allclose(found["v"], torch.tensor([[4.0]]))
    require(alike, "one tensor is right and another is not; treat all of them alike.")
    check_counter(found, a, "the first dict")
    same = torch.allclose(merge_means(a, 3, b, 0)["w"], a["w"])
    require(same, "a mean of no models must change nothing.")


@self_check("that is how much of each network is in the mean.")
def check_ema_coefficients(coefficients: Answer) -> None:
    """Check exercise 4.2: ``coefficients(n, decay)`` holds the shares in an exponential mean.

    It takes the number of networks and the decay, and returns as many numbers, the first network's
    first.
    """
    n, d = 5, 0.8
    found, right = as_array(coefficients(n, d), n), _exponential_mean(n, d)
    powers = d ** np.arange(n)[::-1]
    total = (1 - d) * powers.sum()
    hints = {
        tuple(right[::-1]): "the order is reversed; the first network's share comes first.",
        tuple(_exponential_mean(n, 1 - d)): "old and new are exchanged: how much does a step keep?",
        (1 / n,) * n: "this is the plain mean of all, SWA; an exponential one forgets.",
        tuple((1 - d) * powers): f"these sum to {total:.2f}, and the shares of a mean sum to 1: "
        "what is the mean before its first step?",
        tuple(powers / powers.sum()): "they sum to 1, but this mean treats all networks by one "
        "rule; here the mean begins at the first one.",
    }
    otherwise = (
        f"five networks and a decay of {d} gave {found.round(3).tolist()}; follow the recursion "
        "for two networks, then for three."
    )
    diagnose(found, right, hints, otherwise)
    for n, d in ((1, 0.8), (9, 0.3)):
        same = np.allclose(as_array(coefficients(n, d), n), _exponential_mean(n, d))
        require(same, f"right for five networks, wrong for n = {n} and a decay of {d}.")


def _exponential_mean(n: int, d: float) -> np.ndarray:
    """Follow the recursion, with networks that have one entry each, their own."""
    mean, *others = np.eye(n)
    for network in others:
        mean = d * mean + (1 - d) * network
    return np.asarray(mean)


@self_check("that is how far from the bottom SGD goes on walking.")
def check_settled_variance(variance: Answer) -> None:
    """Check exercise 4.3: ``variance(rate, h, noise)`` of SGD around the bottom of a bowl.

    It takes the learning rate, the curvature, and the standard deviation of the gradient's noise,
    and returns one number.
    """
    rate, h, noise = 0.3, 2.4, 1.5
    found, right = as_number(variance(rate, h, noise)), _summed_noise(rate, h, noise)
    kept, step = 1 - rate * h, (rate * noise) ** 2
    hints = {
        np.sqrt(right): "this is a standard deviation; return the variance.",
        right / noise: "the variance goes with the square of the noise: what if that is doubled?",
        right / rate: "the noise is multiplied by the rate: what does that do to its variance?",
        h * right / 2: "this is the mean loss above the bottom; return the variance of w.",
        step: "this is the noise of one step alone; that of earlier steps is still there.",
        step / (1 - kept): "by what does a step shrink the variance, if it shrinks w by a factor?",
        rate * noise**2 / (2 * h): "this holds for very small rates; here the step is not small.",
        (noise / h) ** 2: "this does not depend on the rate; a single network's variance does.",
    }
    otherwise = (
        f"a rate of {rate}, h = {h} and a noise of {noise} gave {found:.4g}; once it has settled, "
        "the variance is the same before and after a step."
    )
    diagnose(found, right, hints, otherwise)
    for case in ((0.02, 5.0, 0.5), (1.2, 1.5, 1.0)):
        same = np.isclose(as_number(variance(*case)), _summed_noise(*case))
        words = "right for one bowl, wrong for a rate of {}, h = {}, a noise of {}."
        require(same, words.format(*case))


def _summed_noise(rate: float, h: float, noise: float) -> float:
    """Sum what is left of the noise of all steps, the last one first."""
    return float(((rate * noise * (1 - rate * h) ** np.arange(2000)) ** 2).sum())


@self_check()
def check_design(
    design: Answer,
    runs: "Sequence[Trajectory]",
    tests: "Sequence[Evaluator]",
    *,
    rival: Sequence[Weights],
) -> str:
    """Check exercise 4.4: ``design(epochs)`` is a better average of a run than the rival.

    It takes a number of epochs and returns as many coefficients, which sum to 1. There is one run,
    one test (with an "error" among its measures) and one rival model per seed. The designed average
    must have the lower mean error, and the lower error in eight of ten seeds.
    """
    # Imported here because it loads pandas and tqdm, which other exercises do not need.
    from wskit.landscape import evaluate_mixtures

    epochs = len(runs[0])
    c = as_array(design(epochs), epochs)
    require(
        abs(c.sum() - 1) <= 1e-6,
        f"the coefficients must sum to 1, and these sum to {c.sum():.3g}, which scales the "
        "weights. Divide by the sum.",
    )
    errors = []
    for run, test, other in zip(runs, tests, rival, strict=True):
        models = [run.model(row) for row in range(epochs)]
        mine = evaluate_mixtures(test, models, c[None])["error"][0]
        errors.append((mine, evaluate_mixtures(test, [other], np.ones((1, 1)))["error"][0]))
    own, others = np.array(errors).T
    won = (own < others).mean()
    words = (
        f"an error of {own.mean():.2f} %, where the rival has {others.mean():.2f} %; it is lower "
        f"in {won:.0%} of {len(own)} runs."
    )
    return pass_if(own.mean() < others.mean() and won >= _WON, words)
