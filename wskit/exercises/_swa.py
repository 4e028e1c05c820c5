"""The self-checks of tutorial 04: averages of weights."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wskit.exercises._verdict import AnswerError, Verdict, as_number, verdict_on

if TYPE_CHECKING:
    from wskit.averaging import Trajectory
    from wskit.landscape import Evaluator

_WON = 0.8  # of the runs, for a design to pass


def check_merge_means(merge_means: object) -> Verdict:
    """Check exercise 4.1: ``merge_means(a, n_a, b, n_b)`` is the mean of two means' models.

    Parameters
    ----------
    merge_means : callable
        Takes two dicts of tensors, each after it the number of models that it is the mean of;
        returns the mean of all, whose integer tensors are those of the first.

    Returns
    -------
    Verdict
    """
    return verdict_on(_merge_means, merge_means, "each model counts once.")


def _merge_means(merge_means: Callable[..., Any]) -> None:
    a = {"w": torch.tensor([1.0, 2.0]), "v": torch.tensor([[3.0]]), "n": torch.tensor(5)}
    b = {"w": torch.tensor([5.0, -2.0]), "v": torch.tensor([[7.0]]), "n": torch.tensor(8)}
    before = {k: (a[k].clone(), b[k].clone()) for k in a}
    found = merge_means(a, 3, b, 1)
    if not isinstance(found, Mapping) or set(found) != set(a):
        raise AnswerError(f"return a dict with the names {sorted(a)}.")
    for k, W in found.items():
        if not isinstance(W, Tensor) or W.shape != a[k].shape:
            raise AnswerError(f"{k!r} must stay a tensor of shape {tuple(a[k].shape)}.")
    if any(not torch.equal(a[k], x) or not torch.equal(b[k], y) for k, (x, y) in before.items()):
        raise AnswerError("the means that were given have changed; make new tensors instead.")
    if torch.allclose(found["w"], torch.tensor([3.0, 0.0])):
        raise AnswerError("this is half of the way; but one mean is of more models than the other.")
    if torch.allclose(found["w"], torch.tensor([4.0, -1.0])):
        raise AnswerError("the numbers are exchanged: which mean stands for more models?")
    if not torch.allclose(found["w"], torch.tensor([2.0, 1.0])):
        raise AnswerError(
            f"1 and 2 of three models, 5 and -2 of one more, gave {found['w'].tolist()}."
        )
    if not torch.allclose(found["v"], torch.tensor([[4.0]])):
        raise AnswerError("one tensor is right and another is not; treat all of them alike.")
    if found["n"].is_floating_point() or int(found["n"]) != 5:
        raise AnswerError("'n' is a counter: it is the first dict's, and stays a whole number.")
    if not torch.allclose(merge_means(a, 3, b, 0)["w"], a["w"]):
        raise AnswerError("a mean of no models must change nothing.")


def check_ema_coefficients(coefficients: object) -> Verdict:
    """Check exercise 4.2: ``coefficients(n, decay)`` holds the shares in an exponential mean.

    Parameters
    ----------
    coefficients : callable
        Takes the number of networks and the decay; returns as many numbers, the first network's
        first.

    Returns
    -------
    Verdict
    """
    return verdict_on(_ema_coefficients, coefficients, "so much of each network is in the mean.")


def _ema_coefficients(coefficients: Callable[..., Any]) -> None:
    n, d = 5, 0.8
    c, right = _as_coefficients(coefficients(n, d), n), _exponential_mean(n, d)
    powers = d ** np.arange(n)[::-1]
    wrong = (
        (right[::-1], "the order is turned round; the first network's share comes first."),
        (_exponential_mean(n, 1 - d), "old and new are exchanged: how much does a step keep?"),
        (np.full(n, 1 / n), "this is the plain mean of all, SWA; an exponential one forgets."),
        (
            (1 - d) * powers,
            f"these sum to {((1 - d) * powers).sum():.2f}, and a mean's must sum to 1: what is "
            "the mean before its first step?",
        ),
        (
            powers / powers.sum(),
            "they sum to 1, but this mean treats all networks by one rule; here the first one is "
            "where the mean begins.",
        ),
    )
    for value, words in wrong:
        if np.allclose(c, value):
            raise AnswerError(words)
    if not np.allclose(c, right):
        raise AnswerError(
            f"five networks and a decay of {d} gave {c.round(3).tolist()}; follow the recursion "
            "for two networks, then for three."
        )
    for n, d in ((1, 0.8), (9, 0.3)):
        if not np.allclose(_as_coefficients(coefficients(n, d), n), _exponential_mean(n, d)):
            raise AnswerError(f"right for five networks, wrong for n = {n} and a decay of {d}.")


def _exponential_mean(n: int, d: float) -> np.ndarray:
    """Follow the recursion, with networks that have one entry each, their own."""
    mean, *others = np.eye(n)
    for network in others:
        mean = d * mean + (1 - d) * network
    return np.asarray(mean)


def _as_coefficients(value: Any, n: int) -> np.ndarray:
    c = np.asarray(value, dtype=float)
    if c.shape != (n,):
        raise AnswerError(f"{n} coefficients are needed, got an array of shape {c.shape}.")
    if not np.isfinite(c).all():
        raise AnswerError(f"coefficients are finite numbers; these are {c.tolist()}.")
    return c


def check_settled_variance(variance: object) -> Verdict:
    """Check exercise 4.3: ``variance(rate, h, noise)`` is that of SGD around the bottom of a bowl.

    Parameters
    ----------
    variance : callable
        Takes the learning rate, the curvature, and the standard deviation of the gradient's
        noise; returns one number.

    Returns
    -------
    Verdict
    """
    return verdict_on(_settled_variance, variance, "so far from the bottom SGD goes on walking.")


def _settled_variance(variance: Callable[..., Any]) -> None:
    rate, h, noise = 0.3, 2.4, 1.5
    found, right = as_number(variance(rate, h, noise)), _summed_noise(rate, h, noise)
    kept, step = 1 - rate * h, (rate * noise) ** 2
    wrong = {
        np.sqrt(right): "this is a standard deviation; the variance is asked for.",
        right / noise: "the variance goes with the square of the noise: what if that is doubled?",
        right / rate: "the noise is multiplied by the rate: what does that do to its variance?",
        h * right / 2: "this is the mean loss above the bottom; the variance of w is asked for.",
        step: "this is the noise of one step alone; that of the steps before is still about.",
        step / (1 - kept): "by what does a step shrink the variance, if it shrinks w by a factor?",
        rate * noise**2 / (2 * h): "this holds for very small rates; here the step is not small.",
        (noise / h) ** 2: "this does not depend on the rate; a single network's variance does.",
    }
    for value, words in wrong.items():
        if np.isclose(found, value):
            raise AnswerError(words)
    if not np.isclose(found, right):
        raise AnswerError(
            f"a rate of {rate}, h = {h} and a noise of {noise} gave {found:.4g}; once it has "
            "settled, the variance is the same before and after a step."
        )
    for case in ((0.02, 5.0, 0.5), (1.2, 1.5, 1.0)):
        if not np.isclose(as_number(variance(*case)), _summed_noise(*case)):
            raise AnswerError(
                "right for one bowl, wrong for a rate of {}, h = {}, a noise of {}.".format(*case)
            )


def _summed_noise(rate: float, h: float, noise: float) -> float:
    """Sum what is left of the noise of all steps, the last one first."""
    return float(((rate * noise * (1 - rate * h) ** np.arange(2000)) ** 2).sum())


def check_design(
    design: object,
    runs: "Sequence[Trajectory]",
    tests: "Sequence[Evaluator]",
    *,
    rival: Sequence[Mapping[str, Tensor]],
) -> Verdict:
    """Check exercise 4.4: ``design(epochs)`` is a better average of a run than the rival.

    Parameters
    ----------
    design : callable
        Takes a number of epochs; returns as many coefficients, which sum to 1.
    runs : sequence of Trajectory
        One a seed.
    tests : sequence of Evaluator
        Of each seed; "error" is among their measures.
    rival : sequence of mapping of str to Tensor
        A model for each seed.

    Returns
    -------
    Verdict
        Passed if the designed average has the lower mean error, and the lower error in eight of
        ten seeds.
    """
    return verdict_on(lambda answer: _design(answer, runs, tests, rival), design, "")


def _design(
    design: Callable[..., Any],
    runs: "Sequence[Trajectory]",
    tests: "Sequence[Evaluator]",
    rival: Sequence[Mapping[str, Tensor]],
) -> str:
    # Here, as it loads pandas and tqdm: a check of another exercise needs neither.
    from wskit.landscape import evaluate_mixtures

    epochs = len(runs[0])
    c = _as_coefficients(design(epochs), epochs)
    if abs(c.sum() - 1) > 1e-6:
        raise AnswerError(
            f"the coefficients must sum to 1, and these sum to {c.sum():.3g}: the weights would "
            "be scaled. Divide by the sum."
        )
    errors = []
    for run, test, other in zip(runs, tests, rival, strict=True):
        models = [run.model(row) for row in range(epochs)]
        mine, theirs = (
            evaluate_mixtures(test, these, of[None])["error"][0]
            for these, of in ((models, c), ([other], np.ones(1)))
        )
        errors.append((mine, theirs))
    own, others = np.array(errors).T
    won = (own < others).mean()
    words = (
        f"{own.mean():.2f} % of error beside {others.mean():.2f} %, and lower in {won:.0%} of "
        f"{len(own)} runs."
    )
    if own.mean() >= others.mean() or won < _WON:
        raise AnswerError(words)
    return words
