"""Right answers, typical wrong ones, and nonsense."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

from wskit.exercises import (
    check_feature,
    check_find_edge,
    check_marchenko_pastur_edge,
    check_permute_hidden,
    check_power_law_exponent,
    check_update_cosine,
    check_weight_correlation,
)
from wskit.zoo import Zoo


def stub(*_):
    raise NotImplementedError


def raising(*_):
    raise KeyError("layer")


def right_permutation(weights, order):
    return {
        "0.weight": weights["0.weight"][order],
        "0.bias": weights["0.bias"][order],
        "2.weight": weights["2.weight"][:, order],
        "2.bias": weights["2.bias"],
    }


def inverse_permutation(weights, order):
    return right_permutation(weights, order.argsort())


def bias_forgotten(weights, order):
    return right_permutation(weights, order) | {"0.bias": weights["0.bias"]}


def in_place(weights, order):
    moved = right_permutation(weights, order)
    for name in weights:
        weights[name].copy_(moved[name])
    return moved


def right_exponent(x, xmin):
    tail = x[x >= xmin]
    return 1 + tail.size / np.log(tail / xmin).sum()


@pytest.mark.parametrize(
    ("answer", "passed", "message"),
    [
        (right_permutation, True, "same function, other weights"),
        (stub, False, "write the function in the cell above"),
        (raising, False, "your function raised KeyError: 'layer'"),
        (3, False, "a function is asked for, not int"),
        (lambda w, o: None, False, "return a dict with the names"),
        (lambda w, o: {"0.weight": 1}, False, "return a dict with the names"),
        (lambda w, o: w | {"0.bias": torch.zeros(2)}, False, "'0.bias' must stay a tensor of"),
        (lambda w, o: dict(w), False, "no neuron has moved"),
        (in_place, False, "the weights that were given have changed"),
        (bias_forgotten, False, "A hidden neuron owns a part of three tensors"),
        (lambda w, o: w | {"2.bias": w["2.bias"].flip(0)}, False, "'2.bias' belongs to the out"),
        (inverse_permutation, False, "the old neuron order"),
    ],
)
def test_permute_hidden(answer, passed, message):
    verdict = check_permute_hidden(answer)
    assert verdict.passed is passed
    assert message in verdict.message
    assert str(verdict).startswith("Passed: " if passed else "Not yet: ")


@pytest.mark.parametrize(
    ("answer", "passed", "message"),
    [
        (right_exponent, True, "maximum-likelihood"),
        (stub, False, "write the function in the cell above"),
        (lambda x, xmin: 1 / 0, False, "your function raised ZeroDivisionError"),
        (None, False, "a function is asked for, not NoneType"),
        (lambda x, xmin: right_exponent(x, xmin) - 1, False, "of the survival function"),
        (lambda x, xmin: 1 + x.size / np.log(x / xmin).sum(), False, "below xmin belong to the"),
        (lambda x, xmin: 1 + x.size / np.log10(x / xmin).sum(), False, "natural logarithms"),
        (lambda x, xmin: 1 + x.size / np.log(x).sum(), False, "the logarithms are of x/xmin"),
        (lambda x, xmin: 2.0, False, "gave 2"),
        (lambda x, xmin: x, False, "return one number, not ndarray"),
        (lambda x, xmin: np.nan, False, "return a finite number, not nan"),
        (lambda x, xmin: right_exponent(x, 2.0), False, "must not depend on the units"),
    ],
)
def test_power_law_exponent(answer, passed, message):
    verdict = check_power_law_exponent(answer)
    assert verdict.passed is passed
    assert message in verdict.message


@pytest.mark.parametrize("check", [check_permute_hidden, check_power_law_exponent])
def test_a_check_never_tells_the_answer(check):
    """The stub's verdict names nothing that a solution would hold."""
    for answer in (stub, raising, lambda *_: None):
        text = str(check(answer))
        assert not any(part in text for part in ("[order]", "[:, order]", "np.log(", "size /"))


def right_edge(N, M, sigma):
    return sigma**2 * N * (1 + np.sqrt(M / N)) ** 2


def test_the_right_edge():
    verdict = check_marchenko_pastur_edge(right_edge)
    assert verdict.passed, verdict
    assert check_marchenko_pastur_edge(lambda *a: torch.tensor(right_edge(*a))).passed


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (stub, "write the function in the cell above"),
        (raising, "raised KeyError"),
        (lambda N, M, sigma: right_edge(N, M, sigma) / N, "have no 1/N"),
        (lambda N, M, sigma: sigma**2 * (N**0.5 - M**0.5) ** 2, "the lower edge"),
        (lambda N, M, sigma: right_edge(N, M, sigma) / sigma, "not with sigma"),
        (lambda N, M, sigma: right_edge(N, M, sigma) ** 0.5, "its square"),
        (lambda N, M, sigma: right_edge(N, M, sigma) + 1, "gave 901"),
        (lambda N, M, sigma: right_edge(1600, 400, 0.5), "a square matrix"),
        (lambda N, M, sigma: sigma**2 * N * (1 + (N / M) ** 0.5) ** 2, "in the denominator"),
        (lambda N, M, sigma: np.array([1.0, 2.0]), "return one number"),
        (lambda N, M, sigma: np.inf, "finite"),
        (3, "a function is asked for"),
    ],
)
def test_wrong_edges_are_told_apart(answer, message):
    verdict = check_marchenko_pastur_edge(answer)
    assert not verdict.passed
    assert message in verdict.message
    assert "sqrt(N)" not in verdict.message


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
