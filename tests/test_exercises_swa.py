"""Self-checks of tutorial 04: right answers, typical wrong ones, and nonsense."""

import re

import numpy as np
import pytest
import torch
from exercise_kit import try_answers

from wskit.averaging import ExponentialMean, Trajectory
from wskit.exercises import (
    check_design,
    check_ema_coefficients,
    check_merge_means,
    check_settled_variance,
)
from wskit.landscape import one_by_one


def right(a, n_a, b, n_b):
    return {
        k: (n_a * W + n_b * b[k]) / (n_a + n_b) if W.is_floating_point() else W
        for k, W in a.items()
    }


def in_place(a, n_a, b, n_b):
    for k, W in right(a, n_a, b, n_b).items():
        a[k].copy_(W)
    return a


def first_tensor_only(a, n_a, b, n_b):
    return a | {"w": right(a, n_a, b, n_b)["w"]}


test_merge_means = try_answers(
    check_merge_means,
    right=[right],
    wrong=[
        (lambda a, n_a, b, n_b: right(a, 1, b, 1), "half of the way"),
        (lambda a, n_a, b, n_b: right(a, n_b, b, n_a), "exchanged"),
        (lambda a, n_a, b, n_b: right(a, n_a, b, n_b) | {"n": torch.tensor(5.75)}, "counter"),
        (lambda a, n_a, b, n_b: right(a, n_a, b, n_b) | {"n": b["n"]}, "counter"),
        (lambda a, n_a, b, n_b: right(a, n_a, b, n_b or 1), "no models must change nothing"),
        (lambda a, n_a, b, n_b: {"w": a["w"]}, "the names ['n', 'v', 'w']"),
        (lambda a, n_a, b, n_b: right(a, n_a, b, n_b) | {"v": 4.0}, "'v' must stay"),
        (lambda a, n_a, b, n_b: {k: 0 * W for k, W in a.items()}, "gave [0.0, 0.0]"),
        (first_tensor_only, "one tensor is right and another is not"),
        (in_place, "have changed"),
    ],
)


def shares(n, d):
    c = (1 - d) * d ** np.arange(n - 1, -1, -1.0)
    c[0] = d ** (n - 1)
    return c


def by_the_recursion(n, d):
    c = [1.0]
    for _ in range(n - 1):
        c = [*(d * share for share in c), 1 - d]
    return c


def by_the_kit(n, d):
    mean = ExponentialMean(decay=d)
    for row in torch.eye(n, dtype=torch.float64):
        mean.add({"w": row})
    return mean.weights["w"]


test_ema_coefficients = try_answers(
    check_ema_coefficients,
    right=[shares, by_the_recursion, by_the_kit],
    wrong=[
        (lambda n, d: shares(n, d)[::-1], "reversed"),
        (lambda n, d: shares(n, 1 - d), "old and new are exchanged"),
        (lambda n, d: np.full(n, 1 / n), "plain mean of all, SWA"),
        (lambda n, d: (1 - d) * d ** np.arange(n)[::-1], "these sum to 0.67"),
        (lambda n, d: shares(n, d) ** 0, "gave [1.0, 1.0"),
        (lambda n, d: torch.softmax(torch.arange(n) * -np.log(d), 0), "by one rule"),
        (lambda n, d: shares(5, 0.8) if n == 5 else shares(n, 0.8), "n = 9 and a decay of 0.3"),
        (lambda n, d: [0.0] * (n - 1) + [1 - d] if n < 5 else shares(n, d), "n = 1 and"),
        (lambda n, d: shares(n + 1, d), "5 numbers, not an array of shape (6,)"),
    ],
)


def settled(rate, h, noise):
    return rate * noise**2 / (h * (2 - rate * h))


def by_iteration(rate, h, noise):
    v = 0.0
    for _ in range(1000):
        v = (1 - rate * h) ** 2 * v + rate**2 * noise**2
    return v


test_settled_variance = try_answers(
    check_settled_variance,
    right=[settled, by_iteration, lambda *c: torch.tensor(settled(*c))],
    wrong=[
        (lambda *c: settled(*c) ** 0.5, "standard deviation"),
        (lambda rate, h, noise: settled(rate, h, noise**0.5), "if that is doubled"),
        (lambda rate, h, noise: settled(rate, h, noise) / rate, "multiplied by the rate"),
        (lambda rate, h, noise: h / 2 * settled(rate, h, noise), "mean loss above"),
        (lambda rate, h, noise: (rate * noise) ** 2, "one step alone"),
        (lambda rate, h, noise: rate * noise**2 / h, "by what does a step shrink"),
        (lambda rate, h, noise: rate * noise**2 / (2 * h), "very small rates"),
        (lambda rate, h, noise: (noise / h) ** 2, "does not depend on the rate"),
        (lambda rate, h, noise: 7.0, "a noise of 1.5 gave 7;"),
        (lambda rate, h, noise: settled(rate, 2.4, noise), "wrong for a rate of 0.02"),
        (lambda *c: settled(*c) if c[0] < 1 else 0.0, "wrong for a rate of 1.2, h = 1.5"),
        (lambda *c: np.ones(3), "one number, not ndarray"),
    ],
)


def test_the_settled_variance_is_that_of_a_walk():
    rng, w, seen = np.random.default_rng(0), np.zeros(2000), []
    for _ in range(400):
        w = w - 0.3 * (2.4 * w + 1.5 * rng.standard_normal(2000))
        seen.append(w)
    assert np.var(seen[20:]) == pytest.approx(settled(0.3, 2.4, 1.5), rel=0.01)


def runs(n=5, epochs=6):
    """Runs that pass the best place, 0, in their middle and go on."""
    made = []
    for seed in range(n):
        run = Trajectory()
        noise = 0.1 * torch.randn(epochs, generator=torch.Generator().manual_seed(seed))
        for epoch in range(epochs):
            run.append(epoch, {"w": torch.tensor([epoch - 2.0]) + noise[epoch]})
        made.append(run)
    return made


TEST = one_by_one(lambda w: {"loss": w["w"].square().sum(), "error": w["w"].abs().sum()})


@pytest.mark.parametrize(
    ("answer", "passed", "message"),
    [
        (lambda n: np.linspace(0.3, 0.0333333333333, n), True, "in 100% of 5 runs"),
        (lambda n: np.eye(n)[-1], False, "lower in 0% of 5 runs"),
        (np.ones, False, "these sum to 6"),
    ],
)
def test_design(answer, passed, message):
    found = runs()
    rival = [run.window_mean() for run in found]
    verdict = check_design(answer, found, [TEST] * len(found), rival=rival)
    assert verdict.passed is passed
    assert re.search(message, verdict.message), verdict.message
