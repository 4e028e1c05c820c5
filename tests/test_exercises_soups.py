"""Self-checks of tutorial 05: right answers, typical wrong ones, and nonsense."""

import re
from itertools import combinations

import numpy as np
import pytest
import torch
from exercise_kit import try_answers

from wskit.averaging import add_task_vectors, average, task_vector
from wskit.exercises import (
    check_add_tasks,
    check_choose,
    check_expected_gain,
    check_thrifty_greedy,
)
from wskit.soups import greedy_soup


def added(base, models, scale):
    return {
        name: W + scale * sum(model[name] - W for model in models) if W.is_floating_point() else W
        for name, W in base.items()
    }


def added_by_the_kit(base, models, scale):
    return add_task_vectors(base, [task_vector(model, base) for model in models], scale)


def into_the_base(base, models, scale):
    for name, W in added(base, models, scale).items():
        base[name].copy_(W)
    return base


def added_to_w_only(base, models, scale):
    return base | {"w": added(base, models, scale)["w"]}


def plus(base, models, scale):
    return {k: W + scale * sum(m[k] for m in models) for k, W in base.items()}


test_add_tasks = try_answers(
    check_add_tasks,
    right=[added, added_by_the_kit],
    wrong=[
        (lambda b, m, s: added(b, m, 1), "the scale changes nothing"),
        (lambda b, m, s: added(b, m, s / len(m)), "do not average them"),
        (lambda b, m, s: {k: s * W for k, W in added(b, m, 1).items()}, "scaled too"),
        (plus, "what did each of them learn"),
        (lambda b, m, s: added(b, m[:1], s), "only the first task"),
        (lambda b, m, s: added(b, m[-1:], s), "only the last task"),
        (lambda b, m, s: added(b, m, -s), "forgets them"),
        (lambda b, m, s: average(m), "the mean of the models, a soup"),
        (lambda b, m, s: dict(b), "gave [1.0, 2.0] at a scale of 0.25"),
        (added_to_w_only, "one tensor is right and another is not"),
        (lambda b, m, s: added(b, m, s) | {"n": torch.tensor(8.5)}, "counter"),
        (lambda b, m, s: added(b, m, s) | {"n": m[0]["n"]}, "counter"),
        (lambda b, m, s: added(b, m[:2], s), "three are not"),
        (into_the_base, "have changed"),
        (lambda b, m, s: added(b, m, s) | {"w": np.nan * b["w"]}, "gave [nan, nan]"),
    ],
)


def gain(k, s, h):
    return h * s**2 * (1 - 1 / k) / 2


test_expected_gain = try_answers(
    check_expected_gain,
    right=[gain, lambda k, s, h: torch.tensor(h / 2 * (s**2 - s**2 / k))],
    wrong=[
        (lambda k, s, h: -gain(k, s, h), "the sign"),
        (lambda k, s, h: 2 * gain(k, s, h), "a factor that is missing"),
        (lambda k, s, h: gain(k, s**0.5, h), "the square of the distance"),
        (lambda k, s, h: gain(k, s, 1), "the steeper the bowl"),
        (lambda k, s, h: h * s**2 / 2, "all that can be gained"),
        (lambda k, s, h: h * s**2 / 2 / k, "what a soup still has to lose"),
        (lambda k, s, h: h * s**2 * (1 - k**-0.5) / 2, "and the loss"),
        (lambda k, s, h: 7, "k = 5, s = 3 and h = 0.7 gave 7;"),
        (lambda k, s, h: gain(k, s, h) if k > 1 else 1.0, "a soup of one"),
        (lambda k, s, h: (k > 1) * gain(5, s, h), "wrong for twelve"),
        (lambda k, s, h: [gain(k, s, h)] * 2, "one number, not list"),
    ],
)


def test_the_expected_gain_is_that_of_points_in_a_bowl():
    """Wherever the bottom is: here the points lie around 7."""
    points = 7 + 3 / 50**0.5 * np.random.default_rng(0).standard_normal((4000, 5, 50))
    loss = 0.7 / 2 * (points**2).sum(-1)
    of_mean = 0.7 / 2 * (points.mean(1) ** 2).sum(-1)
    assert (loss.mean(1) - of_mean).mean() == pytest.approx(gain(5, 3.0, 0.7), rel=0.01)


def greedy(names, read, score, better=lambda found, reached: found >= reached, share=None):
    soup, n, reached = {}, 0, -float("inf")
    for name in names:
        trial = read(name)
        if n:
            new = share or 1 / (n + 1)
            trial = average([soup, trial], [1 - new, new])
        if better(score(trial), reached):
            soup, n, reached = trial, n + 1, score(trial)
    return soup


def by_the_kit(names, read, score):
    return dict(greedy_soup({name: read(name) for name in names}, score).weights)


def keeps_a_list(names, read, score):
    kept, reached = [], -float("inf")
    for name in names:
        trial = [*kept, read(name)]
        if (found := score(average(trial))) >= reached:
            kept, reached = trial, found
    return average(kept)


def reads_twice(names, read, score):
    return greedy(sorted(names, key=lambda name: -score(read(name))), read, score)


def first_entry_only(names, read, score):
    found = greedy(names, read, score)
    return found | {"w": found["w"] * torch.tensor([1.0, 2.0])}


test_thrifty_greedy = try_answers(
    check_thrifty_greedy,
    right=[greedy],
    wrong=[
        (keeps_a_list, "still in memory"),
        (by_the_kit, "still in memory"),
        (reads_twice, "seven models, and you read 14"),
        (lambda n, r, s: greedy(n, r, s, lambda a, b: a > b), "an equal score"),
        (lambda n, r, s: greedy(n, r, s, share=0.5), "which share"),
        (lambda n, r, s: greedy(n, r, s, lambda *_: True), "all models are in it"),
        (lambda n, r, s: greedy(n, r, s, lambda a, b: b < -9), "the first model alone"),
        (lambda n, r, s: greedy(n[::-1], r, s), "not those of Recipe 1"),
        (first_entry_only, "one entry of 'w' is right"),
        (lambda n, r, s: greedy(n, r, s) | {"n": torch.tensor(2.4)}, "counter"),
        (lambda n, r, s: {"w": greedy(n, r, s)["w"]}, "the names ['n', 'w']"),
        (lambda n, r, s: r("nobody"), "you asked for a model 'nobody'"),
    ],
)


def test_the_planted_soup_is_that_of_the_kit():
    """What the check takes for right is Recipe 1 as the kit has it."""
    from wskit.exercises import _soups

    models = {name: _soups._model(place) for place, name in enumerate(_soups._VALUES)}
    scores = [_soups._score(model) for model in models.values()]
    assert scores == sorted(scores, reverse=True)
    assert "".join(greedy_soup(models, _soups._score).ingredients) == _soups._KEPT


@pytest.fixture
def contest():
    """Pools of numbers; the held-out score is off by a little, and 1 is best in the test.

    The last two ingredients are far off; "a" has the best held-out score, not the best test.
    """
    values = {"a": 1.2, "b": 0.9, "c": 0.8, "d": 3.0, "e": -2.0}
    pools = [{k: {"w": torch.tensor([v + 0.01 * i])} for k, v in values.items()} for i in range(8)]
    held_out = [lambda w: 1 - 0.1 * abs(float(w["w"]) - 1.3)] * 8
    tests = [lambda w: 1 - 0.1 * abs(float(w["w"]) - 1.0)] * 8
    return pools, held_out, tests


def top(pool, score, k=3):
    return sorted(pool, key=lambda name: -score(pool[name]))[:k]


def by_all_comparisons(pool, score):
    soups = [names for k in (1, 2, 3) for names in combinations(pool, k)]
    return max(soups, key=lambda names: score(average([pool[name] for name in names])))


@pytest.mark.parametrize(
    ("answer", "passed", "message"),
    [
        (top, True, r"^99\.[78] % right, .* 97\.[67] %; .* share of 1\.00 of 8 pools"),
        (lambda pool, score: iter(["a", "b"]), True, "share of 1.00"),
        (lambda pool, score: top(pool, score, 1), False, r"share of 0\.00"),
        (by_all_comparisons, False, r"share of 0\.00"),
        (lambda pool, score: ["d", "e"], False, r"share of 0\.00"),
        (lambda pool, score: list(pool)[:4], False, "one to three ingredients, not 4"),
        (lambda pool, score: ["a", "a"], False, "named twice"),
        (lambda pool, score: ["a", "z"], False, "'z' is none"),
        (lambda pool, score: [0, 1], False, "return names"),
    ],
)
def test_choose(contest, answer, passed, message):
    verdict = check_choose(answer, *contest)
    assert verdict.passed is passed, verdict.message
    assert re.search(message, verdict.message), verdict.message


def test_a_better_mean_in_too_few_pools_does_not_pass(contest):
    pools, held_out, tests = contest
    given = iter([["a", "b"]] * 5 + [["a"]] * 3)
    verdict = check_choose(lambda pool, score: next(given), pools, held_out, tests)
    assert not verdict.passed
    assert "share of 0.62" in verdict.message


def test_an_answer_cannot_change_the_pools(contest):
    pools, held_out, tests = contest

    def clears(pool, score):
        pool.clear()
        return ["a"]

    check_choose(clears, pools, held_out, tests)
    assert all(len(pool) == 5 for pool in pools)


def test_integers_are_those_of_the_first(contest):
    pools, held_out, tests = contest
    counted = [{k: w | {"n": torch.tensor(i)} for i, (k, w) in enumerate(p.items())} for p in pools]
    seen = []
    tests = [lambda w: seen.append(w["n"]) or 0.5] * 8
    check_choose(lambda pool, score: ["b", "c"], counted, held_out, tests)
    assert {int(n) for n in seen[::2]} == {1}
    assert all(n.dtype == torch.int64 for n in seen)
