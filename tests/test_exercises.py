"""Right answers, typical wrong ones, and nonsense."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

from wskit.exercises import (
    check_feature,
    check_find_edge,
    check_update_cosine,
    check_weight_correlation,
)
from wskit.zoo import Zoo


def stub(*_):
    raise NotImplementedError


def cosines(W):
    unit = W / np.linalg.norm(W, axis=1, keepdims=True)
    return unit @ unit.T


def pairs(matrix):
    return matrix[~np.eye(len(matrix), dtype=bool)].mean()


def alive(W):
    return W[np.linalg.norm(W, axis=1) > 0]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda W: pairs(np.abs(cosines(alive(W)))), "pair by pair"),
        (lambda W: np.abs(cosines(W)).mean(), "the diagonal does not count"),
        (lambda W: pairs(cosines(W)), "take absolute values"),
        (lambda W: pairs(np.abs(W @ W.T)), "these are products, not cosines"),
        (lambda W: pairs(np.abs(cosines(W.T))), "a neuron is a row"),
        (lambda W: 0.5, "cosines of -0.96, 0.8 and -0.6 gave 0.5"),
        (lambda W: pairs(np.abs(cosines(W))), "all zero has no direction"),
        (lambda W: pairs(np.abs(np.nan_to_num(cosines(W)))), "all zero must change nothing"),
        (lambda W: W, "return one number, not ndarray"),
        (stub, "write the function"),
    ],
)
def test_weight_correlation(answer, message):
    verdict = check_weight_correlation(answer)
    assert message in verdict.message
    assert verdict.passed == (message == "pair by pair")


@pytest.fixture(scope="module")
def zoo():
    """Networks whose accuracy is told by how two layers go together, and by neither alone."""
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 120, 30, generator=draw)
    accuracy = torch.sigmoid((a * b).mean(dim=1) * 6).numpy()
    records = pd.DataFrame({"run": range(120), "test_accuracy": accuracy, "activation": "relu"})
    return Zoo({"a.weight": a, "b.weight": b}, records)


def product(models):
    return (models.weights["a.weight"] * models.weights["b.weight"]).mean(dim=1).numpy()


def test_a_feature_that_tells_more_passes(zoo):
    verdict = check_feature(product, zoo)
    assert verdict.passed
    assert re.search(r"a gain of 0\.\d+ ± 0\.\d+ over 5 hidden splits", verdict.message)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda models: np.zeros(len(models)), "a gain of "),
        (lambda models: models.records.test_accuracy, "has no attribute 'test_accuracy'"),
        (lambda models: np.zeros(3), "a row for each of the 120 networks is needed"),
        (lambda models: product(models) / 0, "infinite values"),
        (stub, "write the function"),
    ],
)
def test_a_feature_that_tells_nothing_or_cheats_does_not(zoo, answer, message):
    with np.errstate(all="ignore"):
        verdict = check_feature(answer, zoo)
    assert not verdict.passed
    assert message in verdict.message


def flat(w, base=None):
    parts = [(w[n] - base[n] if base else w[n]).flatten() for n in w]
    return torch.cat(parts)


def cosine(u, v):
    return (u @ v / u.norm() / v.norm()).item()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda a, b, base: cosine(flat(a, base), flat(b, base)), "as two vectors"),
        (lambda a, b, base: cosine(flat(a), flat(b)), "this compares the weights"),
        (lambda a, b, base: (flat(a, base) @ flat(b, base)).item(), "how long are they"),
        (lambda a, b, base: np.arccos(cosine(flat(a, base), flat(b, base))), "this is the angle"),
        (
            lambda a, b, base: np.mean(
                [cosine((a[n] - base[n]).flatten(), (b[n] - base[n]).flatten()) for n in a]
            ),
            "mean over the tensors",
        ),
        (lambda a, b, base: 0.1, "updates (3, 0, 4) and (0, 5, 12) gave 0.1"),
        (lambda a, b, base: a, "return one number, not dict"),
        (stub, "write the function"),
    ],
)
def test_update_cosine(answer, message):
    verdict = check_update_cosine(answer)
    assert message in verdict.message
    assert verdict.passed == (message == "as two vectors")


def bisection(loss, level):
    low, high = 0.0, 1.0
    while loss(high) < level:
        low, high = high, 4 * high
    while high - low > 0.01 * low:
        middle = (low + high) / 2
        low, high = (middle, high) if loss(middle) < level else (low, middle)
    return low


def walk(loss, level):
    alpha = 0.01
    while loss(alpha) < level:
        alpha *= 1.01
    return alpha / 1.005


def slow_bisection(loss, level):
    low, high = 0.0, 1e6
    while high - low > 0.01 * low:
        middle = (low + high) / 2
        low, high = (middle, high) if loss(middle) < level else (low, middle)
    return low


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (bisection, "all edges are right, with "),
        (walk, "200 questions were not enough"),
        (slow_bisection, "At most 12 are the goal"),
        (lambda loss, level: 1.0, "on ray 1 of 12 the answer was 1, which is 233.3% off"),
        (lambda loss, level: None, "return one number"),
        (stub, "write the function"),
    ],
)
def test_find_edge(answer, message):
    verdict = check_find_edge(answer)
    assert message in verdict.message
    assert verdict.passed == (answer is bisection)
