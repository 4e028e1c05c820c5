"""Self-checks of tutorial 02: right answers, typical wrong ones, and nonsense."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from exercise_kit import try_answers
from scipy.stats import kendalltau
from sklearn.isotonic import IsotonicRegression
from sklearn.model_selection import GroupShuffleSplit

from wskit.exercises import (
    check_feature,
    check_recalibrate,
    check_split,
    check_tau_within,
    check_weight_correlation,
)
from wskit.zoo import Zoo


def cosines(W):
    unit = W / np.linalg.norm(W, axis=1, keepdims=True)
    return unit @ unit.T


def pairs(matrix):
    return matrix[~np.eye(len(matrix), dtype=bool)].mean()


def alive(W):
    return W[np.linalg.norm(W, axis=1) > 0]


test_weight_correlation = try_answers(
    check_weight_correlation,
    right=[lambda W: pairs(np.abs(cosines(alive(W))))],
    wrong=[
        (lambda W: np.abs(cosines(W)).mean(), "the diagonal does not count"),
        (lambda W: pairs(cosines(W)), "take absolute values"),
        (lambda W: pairs(np.abs(W @ W.T)), "these are products, not cosines"),
        (lambda W: pairs(np.abs(cosines(W.T))), "a neuron is a row"),
        (lambda W: 0.5, "cosines of -0.96, 0.8 and -0.6 gave 0.5"),
        (lambda W: pairs(np.abs(cosines(W))), "all zero has no direction"),
        (lambda W: pairs(np.abs(np.nan_to_num(cosines(W)))), "all zero must not change"),
    ],
)


def quarter(labels, rng):
    return rng.permutation(labels)[: len(labels) // 4]


def by_labels(runs, rng):
    return np.isin(runs, quarter(np.unique(runs), rng))


def by_scikit_learn(runs, rng):
    splitter = GroupShuffleSplit(1, test_size=0.25, random_state=int(rng.integers(1000)))
    mask = np.zeros(len(runs), dtype=bool)
    mask[next(splitter.split(runs, groups=runs))[1]] = True
    return mask


test_split = try_answers(
    check_split,
    right=[by_labels, by_scikit_learn],
    wrong=[
        (lambda runs, rng: rng.random(len(runs)) < 0.25, "runs have rows on both sides"),
        (lambda runs, rng: ~by_labels(runs, rng), "of 40 runs, 30 are held out"),
        (lambda runs, rng: np.zeros(len(runs), dtype=bool), "of 40 runs, 0 are held out"),
        (lambda runs, rng: np.isin(runs, np.unique(runs)[:10]), "another rng gives the same"),
        (lambda runs, rng: by_labels(runs, np.random.default_rng()), "the same rng must give"),
        (lambda runs, rng: np.flatnonzero(by_labels(runs, rng)), "values, True or False"),
    ],
)


def agreement(x, y):
    i, j = np.triu_indices(len(x), k=1)
    return np.sign(x[i] - x[j]) * np.sign(y[i] - y[j])


def by_group(x, y, groups):
    return [agreement(x[groups == g], y[groups == g]) for g in np.unique(groups)]


def pooled(x, y, groups):
    return np.concatenate(by_group(x, y, groups)).mean()


def by_matrix(x, y, groups):
    signs = np.sign(np.subtract.outer(x, x)) * np.sign(np.subtract.outer(y, y))
    same = (groups[:, None] == groups) & ~np.eye(len(x), dtype=bool)
    return torch.tensor(signs[same].mean())


def without_ties(x, y, groups):
    signs = np.concatenate(by_group(x, y, groups))
    return signs.sum() / (signs != 0).sum()


def with_themselves(x, y, groups):
    signs = np.sign(np.subtract.outer(x, x)) * np.sign(np.subtract.outer(y, y))
    return signs[groups[:, None] == groups].mean()


def across(x, y, groups):
    signs = np.sign(np.subtract.outer(x, x)) * np.sign(np.subtract.outer(y, y))
    return signs[groups[:, None] != groups].mean()


def in_blocks(x, y, groups):
    """Right only where the networks of a group stand together."""
    cuts = np.flatnonzero(groups[1:] != groups[:-1]) + 1
    parts = zip(np.split(x, cuts), np.split(y, cuts), strict=True)
    return np.concatenate([agreement(*part) for part in parts]).mean()


test_tau_within = try_answers(
    check_tau_within,
    right=[pooled, by_matrix],
    wrong=[
        (lambda x, y, groups: agreement(x, y).mean(), "all pairs are counted"),
        (across, "these are the pairs of two groups"),
        (with_themselves, "form a pair with itself"),
        (
            lambda x, y, groups: np.mean([s.mean() for s in by_group(x, y, groups) if s.size]),
            "each group counts the same",
        ),
        (without_ties, "equal in x agrees with neither"),
        (lambda x, y, g: np.concatenate(by_group(x, y, g)).sum(), "of how many pairs in all?"),
        (lambda x, y, g: (np.concatenate(by_group(x, y, g)) > 0).mean(), "share in the same ord"),
        (
            lambda x, y, g: np.mean([kendalltau(x[g == k], y[g == k])[0] for k in np.unique(g)]),
            "a group of one network has no pair",
        ),
        (lambda x, y, groups: 0.5, "one agrees, six do not and one is equal; got 0.5"),
        (in_blocks, "the order of the networks must not"),
        (lambda x, y, groups: groups, "has no pair"),
    ],
)


@pytest.fixture(scope="module")
def zoo_of_another_kind():
    """Predictions in the right order, near enough, all far too high."""
    rng = np.random.default_rng(2)
    true = rng.uniform(0.1, 0.7, 100)
    return 0.35 + 0.8 * true + 0.03 * rng.standard_normal(100), true


def line(predicted, few_predicted, few_true):
    return np.polyval(np.polyfit(few_predicted, few_true, 1), predicted)


def steps(predicted, few_predicted, few_true):
    return IsotonicRegression(out_of_bounds="clip").fit(few_predicted, few_true).predict(predicted)


def shifted(predicted, few_predicted, few_true):
    return predicted + (few_true - few_predicted).mean()


test_recalibrate = try_answers(
    check_recalibrate,
    right=[line, shifted, steps, lambda *a: torch.tensor(line(*a))],
    wrong=[
        (lambda p, few_p, few_t: p, "three quarters or less"),
        (lambda p, few_p, few_t: np.full(len(p), few_t.mean()), "tau is 0.00 and was 0.8"),
        (lambda p, few_p, few_t: line(-p, -few_p, few_t)[::-1], "keep it"),
    ],
    beside="zoo_of_another_kind",
)


def test_what_an_answer_does_to_its_arrays_does_no_harm(zoo_of_another_kind):
    predicted, true = (each.copy() for each in zoo_of_another_kind)

    def destroys(predicted, few_predicted, few_true):
        predicted[:] = few_predicted[:] = few_true[:] = 0
        return predicted

    assert not check_recalibrate(destroys, predicted, true).passed
    assert np.array_equal(predicted, zoo_of_another_kind[0])
    assert np.array_equal(true, zoo_of_another_kind[1])


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
        (lambda models: np.zeros(3), "one row for each of the 120 networks"),
        (lambda models: product(models) / 0, "values are infinite"),
    ],
)
def test_a_feature_that_tells_nothing_or_cheats_does_not(zoo, answer, message):
    with np.errstate(all="ignore"):
        verdict = check_feature(answer, zoo)
    assert not verdict.passed
    assert message in verdict.message
