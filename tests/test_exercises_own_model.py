"""Self-checks of tutorial 06: right answers, typical wrong ones, and nonsense."""

import re

import numpy as np
import pytest
import torch
from exercise_kit import try_answers

from wskit.exercises import (
    check_directions,
    check_find_damage,
    check_later,
    check_relative_change,
    make_mystery,
)


def double(W):
    return W.double()


test_relative_change = try_answers(
    check_relative_change,
    right=[
        lambda a, b: ((double(b) - double(a)).norm() / double(a).norm()).item(),
        lambda a, b: (
            np.linalg.norm((double(b) - double(a)).numpy().ravel())
            / np.linalg.norm(double(a).numpy().ravel())
        ),
        lambda a, b: (b - a).float().norm() / a.float().norm(),
    ],
    wrong=[
        (lambda a, b: (b - a).norm() / b.norm(), "there before"),
        (lambda a, b: (b - a).square().sum() / a.square().sum(), "the square of a ratio"),
        (lambda a, b: (b - a).norm(), "compared with"),
        (
            lambda a, b: torch.linalg.matrix_norm(b - a, 2) / torch.linalg.matrix_norm(a, 2),
            "largest singular value",
        ),
        (lambda a, b: (b - a).abs().sum() / a.abs().sum(), "not absolute values"),
        (lambda a, b: b.norm() / a.norm() - 1, "two lengths"),
        (lambda a, b: b.norm() / a.norm(), "two lengths"),
        (lambda a, b: 0.3, "length 5 that was moved by 3 gave 0.3"),
        (lambda a, b: 0.6 if a.ndim == 2 else 1.0, "four axes"),
        (
            lambda a, b: ((b - a).square().sum() / a.square().sum()).sqrt(),
            "moved by 0.25 each, gave 0",
        ),
    ],
)


def count(squares, share=0.9):
    return int((squares.cumsum(0) < share * squares.sum() * (1 - 1e-9)).sum()) + 1


def by_eigenvalues(before, after):
    """From the Gram matrix, whose eigenvalues ascend."""
    D = (after - before).numpy()
    values = np.linalg.eigvalsh(D.T @ D if D.shape[0] > D.shape[1] else D @ D.T)[::-1]
    held = np.cumsum(values) / values.sum()
    return int(np.argmax(held >= 0.9 - 1e-12)) + 1


test_directions = try_answers(
    check_directions,
    right=[lambda a, b: count(torch.linalg.svdvals(b - a).square()), by_eigenvalues],
    wrong=[
        (lambda a, b: count(torch.linalg.svdvals(b - a).square()) - 1, "less than nine"),
        (lambda a, b: count(torch.linalg.svdvals(b - a)), "singular values; a squared"),
        (lambda a, b: int(torch.linalg.matrix_rank(b - a)), "this is the rank"),
        (lambda a, b: count(torch.linalg.svdvals(a).square()), "not of the weights"),
        (lambda a, b: count(torch.linalg.svdvals(a)), "not of the weights"),
        (lambda a, b: count(torch.linalg.svdvals(b - a).square().flip(0)), "smallest"),
        (lambda a, b: 2, "where you found 2"),
        (lambda a, b: 4, "singular values 5 gave 4"),
        (lambda a, b: 3.96, "whole number"),
        (
            lambda a, b: (
                count(torch.linalg.svdvals(b - a).square()) if a.shape[0] > a.shape[1] else 0
            ),
            "transpose",
        ),
    ],
)


def spiked(seed, strength, shape=(60, 40)):
    """A matrix of noise with directions that grow as in training."""
    draw = torch.Generator().manual_seed(seed)
    W = torch.randn(*shape, generator=draw) / shape[1] ** 0.5
    u, v = torch.randn(shape[0], generator=draw), torch.randn(shape[1], generator=draw)
    return W + strength * torch.outer(u / u.norm(), v / v.norm())


def model(seed, strength):
    return {
        "a.weight": spiked(seed, strength),
        "a.bias": torch.ones(60),
        "b.weight": spiked(seed + 50, strength, (30, 60)),
        "b.bias": torch.ones(30),
    }


@pytest.fixture
def runs():
    return [{step: model(seed, step) for step in (0, 3, 6, 12)} for seed in range(3)]


def spread(weights):
    values = [torch.linalg.svdvals(W).square() for W in weights.values() if W.ndim == 2]
    return float(sum(s.sum() / s[0] for s in values))


def length(weights):
    return sum(float(W.square().sum()) for W in weights.values())


@pytest.mark.parametrize(
    ("answer", "passed", "message"),
    [
        (lambda a, b: spread(b) < spread(a), True, "^18 of 18 pairs"),
        (lambda a, b: np.bool_(spread(b) < spread(a)), True, "^18 of 18"),
        (lambda a, b: torch.tensor(spread(b) < spread(a)), True, "^18 of 18"),
        (lambda a, b: spread(b) > spread(a), False, "^0 of 18"),
        (lambda a, b: True, False, r"^0 of 18 pairs told right, in both orders\.$"),
        (lambda a, b: length(b) > length(a), False, r"of 18 .* You went by lengths"),
    ],
)
def test_later(runs, answer, passed, message):
    verdict = check_later(answer, runs)
    assert verdict.passed is passed, verdict.message
    assert re.search(message, verdict.message), verdict.message


def test_rescaling_leaves_the_answers_of_a_relu_network():
    from wskit.exercises import _own_model

    def answers(weights):
        hidden = torch.relu(x @ weights["a.weight"].T + weights["a.bias"])
        return hidden @ weights["b.weight"].T + weights["b.bias"]

    x, weights = torch.randn(50, 40, generator=torch.Generator().manual_seed(1)), model(0, 2.0)
    scaled = _own_model._rescale(weights, np.random.default_rng(0))
    ratio = answers(scaled) / answers(weights)
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-3, atol=0)
    assert abs(float(ratio[0, 0]) - 1) > 0.01


def top_by_chance(W):
    return torch.linalg.matrix_norm(W, 2) / W.std() / sum(side**0.5 for side in W.shape)


def find(weights):
    matrices = [name for name, W in weights.items() if W.ndim == 2]
    return min(matrices, key=lambda name: top_by_chance(weights[name]))


def matrix_with(key, weights):
    return key(
        (name for name, W in weights.items() if W.ndim == 2), key=lambda n: length({n: weights[n]})
    )


@pytest.mark.parametrize(
    ("answer", "passed", "message"),
    [
        (find, True, r"^found in 24 of 24 checkpoints\.$"),
        (lambda w: "a.weight", False, "found in 12 of 24 .* missed: 'b.weight'"),
        (lambda w: matrix_with(min, w), False, "Most often missed"),
        (lambda w: "a.bias", False, "'a.bias' is not a matrix"),
        (lambda w: "c.weight", False, "'c.weight' is none"),
        (lambda w: w.clear() or "a.weight", False, "found in 12 of 24"),
    ],
)
def test_find_damage(answer, passed, message):
    models = [model(seed, strength) for seed in range(3) for strength in (4.0, 8.0)]
    verdict = check_find_damage(answer, models)
    assert verdict.passed is passed, verdict.message
    assert re.search(message, verdict.message), verdict.message
    assert all(set(m) == set(model(0, 0)) for m in models)


def test_a_mystery_is_one_layer_of_noise_and_says_no_more():
    kinds = set()
    for seed in range(40):
        before = model(seed, 8.0)
        after = make_mystery(before, seed=seed)
        assert list(after) == list(before)
        broken = find(after)
        for name in ("a.weight", "b.weight"):
            ratio = after[name] / before[name]
            same = torch.allclose(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-3)
            assert same is (name != broken)
        # The entries of one are those of before, up to a factor.
        sizes = [W.flatten().sort().values for W in (before[broken], after[broken])]
        ratio = sizes[1] / sizes[0]
        kinds.add((broken, torch.allclose(ratio, ratio[0].expand_as(ratio), rtol=1e-3)))
    assert kinds == {(name, how) for name in ("a.weight", "b.weight") for how in (True, False)}
