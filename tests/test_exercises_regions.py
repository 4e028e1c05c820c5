"""Self-checks of tutorial 03: right answers, typical wrong ones, and nonsense."""

import re

import numpy as np
import pytest
import torch
from exercise_kit import try_answers
from scipy.optimize import linear_sum_assignment

from wskit.exercises import (
    check_find_edge,
    check_match_neurons,
    check_place,
    check_read_task,
    check_update_cosine,
)


def flat(w, base=None):
    parts = [(w[n] - base[n] if base else w[n]).flatten() for n in w]
    return torch.cat(parts)


def cosine(u, v):
    return (u @ v / u.norm() / v.norm()).item()


test_update_cosine = try_answers(
    check_update_cosine,
    right=[lambda a, b, base: cosine(flat(a, base), flat(b, base))],
    wrong=[
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
    ],
)


TASKS, N_VERSIONS, N_COPIES = ("digit", "odd", "prime"), 4, 3


@pytest.fixture(scope="module")
def tuned():
    """Updates that have much in common and lean to their task; those of "digit" are longer."""
    rng = np.random.default_rng(0)
    task, version = np.repeat(TASKS, N_VERSIONS * N_COPIES), np.tile(np.arange(N_VERSIONS), 9)
    directions = dict(zip(TASKS, rng.standard_normal((3, 300)), strict=True))
    noise = rng.standard_normal((len(task), 300))
    updates = noise + 0.4 * np.array([directions[name] for name in task])
    updates += 0.6 * rng.standard_normal(300)
    return updates * np.where(task == "digit", 3, 1)[:, None], task, version


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def centroids(updates, task):
    return {name: updates[task == name].mean(axis=0) for name in np.unique(task)}


def nearest_direction(update, updates, task):
    found = centroids(updates, task)
    return max(found, key=lambda name: unit(found[name]) @ update)


def nearest_mean(update, updates, task):
    found = centroids(unit(updates), task)
    return min(found, key=lambda name: np.linalg.norm(unit(found[name]) - unit(update)))


def most_alike(update, updates, task):
    return task[(unit(updates) @ update).argmax()]


def longest_product(update, updates, task):
    found = centroids(updates, task)
    return max(found, key=lambda name: found[name] @ update)


def nearest_neighbour(update, updates, task):
    return task[np.linalg.norm(updates - update, axis=1).argmin()]


test_read_task = try_answers(
    check_read_task,
    right=[nearest_direction, nearest_mean, most_alike],
    wrong=[
        (longest_product, "involve 'digit', whose updates are the longest"),
        (nearest_neighbour, "involve 'digit', whose updates are the longest"),
        (lambda update, updates, task: task[0], "is right, and 0.90 is the goal"),
        (lambda update, updates, task: "odd", "a share of 0.33 is right"),
        (
            lambda update, updates, task: "even",
            "return the name of a task, one of digit, odd, prime",
        ),
        (lambda update, updates, task: 0, "return the name of a task"),
        (lambda update, updates, task: task, "return the name of a task"),
    ],
    beside="tuned",
)


def test_no_update_of_the_same_data_set_is_given(tuned):
    updates, task, version = tuned
    told = []

    def spy(update, others, names):
        told.append((np.flatnonzero((updates == update).all(axis=1))[0], others))
        return nearest_direction(update, others, names)

    assert check_read_task(spy, *tuned).passed
    assert len(told) == 2 * len(TASKS) * N_VERSIONS
    for row, others in told:
        own = updates[(task == task[row]) & (version == version[row])]
        assert len(others) == len(updates) - N_COPIES
        assert not any((others == each).all(axis=1).any() for each in own)


def assigned(A, B):
    return linear_sum_assignment(A @ B.T, maximize=True)[1]


def by_distance(A, B):
    return linear_sum_assignment(np.linalg.norm(A[:, None] - B, axis=2) ** 2)[1]


def by_angle(A, B):
    return linear_sum_assignment(unit(A) @ unit(B).T, maximize=True)[1]


def one_by_one(A, B):
    left, order = list(range(len(B))), []
    for row in A:
        order.append(left.pop(int((B[left] @ row).argmax())))
    return np.array(order)


test_match_neurons = try_answers(
    check_match_neurons,
    right=[
        assigned,
        by_distance,
        lambda A, B: list(assigned(A, B)),
        lambda *a: torch.tensor(assigned(*a)),
    ],
    wrong=[
        (lambda A, B: np.argsort(assigned(A, B)), "return the way back"),
        (lambda A, B: (unit(A) @ unit(B).T).argmax(axis=1), "take each row of B once"),
        (lambda A, B: np.arange(len(A)), "A was not found again"),
        (one_by_one, "another order has"),
        (by_angle, "with their lengths"),
        (lambda A, B: B[assigned(A, B)], "return 6 whole numbers"),
        (lambda A, B: np.eye(len(A))[assigned(A, B)], "shape (6, 6) and dtype float64"),
        (lambda A, B: assigned(A, B) + 1, "take each row of B once"),
    ],
)


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


test_find_edge = try_answers(
    check_find_edge,
    right=[bisection],
    wrong=[
        (walk, "200 questions were not enough"),
        (slow_bisection, "The goal is an average of 12"),
        (lambda loss, level: 1.0, "on ray 1 of 12 the answer was 1, which is 233.3% off"),
    ],
)


def loss(weights):
    """Lowest at (2, -1), that is beyond the first of three corners."""
    return {"loss": (weights["w"] - torch.tensor([2.0, -1.0])).square().sum(dim=1)}


@pytest.fixture(scope="module")
def regions():
    """Five of four models; in one of them, two have changed their places."""
    corners = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [0.0, 0.0], "d": [-3.0, 1.0]}
    same = {name: {"w": torch.tensor(w)} for name, w in corners.items()}
    return [*[same] * 4, same | {"a": same["c"], "c": same["a"]}]


@pytest.mark.parametrize(
    "shares",
    [
        {"a": 1.5, "b": -0.25, "c": -0.25},
        {"c": -0.2, "a": np.float64(1.7), "b": -0.5},
        {"a": 1.2, "d": -0.3, "c": torch.tensor(0.1)},
    ],
)
def test_a_place_beyond_a_corner_passes(shares, regions):
    verdict = check_place(lambda: shares, regions, loss)
    assert verdict.passed, verdict
    assert re.search(r"lower in a share of (0\.80|1\.00) of 5 regions", verdict.message)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda: {"a": -0.5, "b": 0.75, "c": 0.75}, "images that the panel has not shown"),
        (lambda: {"a": 0.6, "b": 0.2, "c": 0.2}, "inside the triangle"),
        (lambda: {"a": 1.005, "b": -0.005, "c": 0.0}, "inside the triangle"),
        (lambda: {"a": 1.5, "b": -0.25, "c": 0.25}, "the shares sum to 1.5"),
        (lambda: {"a": 1.5, "b": -0.5}, "a dict of three names"),
        (lambda: {"a": 1.5, "b": -0.25, "z": -0.25}, "there is no model 'z'"),
        (lambda: ("a", "b", "c"), "a dict of three names"),
    ],
)
def test_a_place_that_is_not_better_or_none(answer, message, regions):
    verdict = check_place(answer, regions, loss)
    assert not verdict.passed
    assert message in verdict.message


def test_a_place_must_be_better_in_most_regions(regions):
    """Not only on average, which one region could carry."""
    far = {"a": {"w": torch.tensor([9.0, 9.0])}}
    others = [region | far for region in regions[:2]]
    shares = {"a": 1.5, "b": -0.25, "c": -0.25}
    verdict = check_place(lambda: shares, regions[:3] + others, loss)
    assert not verdict.passed
    assert "in a share of 0.60 of 5 regions" in verdict.message
