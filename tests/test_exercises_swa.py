"""Self-checks of tutorial 04: right answers, typical wrong ones, and nonsense."""

import re

import numpy as np
import pytest
import torch

from wskit.averaging import Trajectory
from wskit.exercises import check_design, check_merge_means
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


@pytest.mark.parametrize(
    ("answer", "passed", "message"),
    [
        (right, True, "each model counts once"),
        (lambda a, n_a, b, n_b: right(a, 1, b, 1), False, "half of the way"),
        (lambda a, n_a, b, n_b: right(a, n_b, b, n_a), False, "exchanged"),
        (
            lambda a, n_a, b, n_b: right(a, n_a, b, n_b) | {"n": torch.tensor(5.75)},
            False,
            "counter",
        ),
        (lambda a, n_a, b, n_b: right(a, n_a, b, n_b) | {"n": b["n"]}, False, "counter"),
        (lambda a, n_a, b, n_b: right(a, n_a, b, n_b or 1), False, "no models must change nothing"),
        (lambda a, n_a, b, n_b: {"w": a["w"]}, False, r"the names \['n', 'v', 'w'\]"),
        (lambda a, n_a, b, n_b: right(a, n_a, b, n_b) | {"v": 4.0}, False, "'v' must stay"),
        (lambda a, n_a, b, n_b: {k: 0 * W for k, W in a.items()}, False, r"gave \[0.0, 0.0\]"),
        (first_tensor_only, False, "one tensor is right and another is not"),
        (in_place, False, "have changed"),
        (lambda *_: None, False, "return a dict"),
        (17, False, "a function is asked for, not int"),
    ],
)
def test_merge_means(answer, passed, message):
    verdict = check_merge_means(answer)
    assert verdict.passed is passed
    assert re.search(message, verdict.message), verdict.message


def test_stubs_are_not_done_yet():
    def stub(*_):
        raise NotImplementedError

    design = check_design(stub, runs(1), [TEST], rival=[{"w": torch.zeros(1)}])
    for verdict in (check_merge_means(stub), design):
        assert not verdict.passed
        assert "write the function" in verdict.message


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
        (lambda n: np.full(n, np.nan), False, "must sum to 1"),
        (lambda n: [1.0], False, r"6 coefficients are needed, got an array of shape \(1,\)"),
        (lambda n: "abc", False, "your function raised ValueError"),
    ],
)
def test_design(answer, passed, message):
    found = runs()
    rival = [run.window_mean() for run in found]
    verdict = check_design(answer, found, [TEST] * len(found), rival=rival)
    assert verdict.passed is passed
    assert re.search(message, verdict.message), verdict.message
