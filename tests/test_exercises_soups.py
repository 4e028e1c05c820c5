"""Self-checks of tutorial 05: right answers, typical wrong ones, and nonsense."""

import re
from itertools import combinations

import pytest
import torch

from wskit.averaging import average, interpolate
from wskit.exercises import check_choose, check_thrifty_greedy
from wskit.soups import greedy_soup


def greedy(names, read, score, better=lambda found, reached: found >= reached, share=None):
    soup, n, reached = {}, 0, -float("inf")
    for name in names:
        trial = read(name)
        if n:
            trial = interpolate(soup, trial, share or 1 / (n + 1))
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


@pytest.mark.parametrize(
    ("answer", "passed", "message"),
    [
        (greedy, True, "each model was read once"),
        (keeps_a_list, False, "still in memory"),
        (by_the_kit, False, "still in memory"),
        (reads_twice, False, "seven models were there, and 14 were read"),
        (lambda n, r, s: greedy(n, r, s, lambda a, b: a > b), False, "an equal score"),
        (lambda n, r, s: greedy(n, r, s, share=0.5), False, "whose share"),
        (lambda n, r, s: greedy(n, r, s, lambda *_: True), False, "all models are in it"),
        (lambda n, r, s: greedy(n, r, s, lambda a, b: b < -9), False, "the first model alone"),
        (lambda n, r, s: greedy(n[::-1], r, s), False, "not those of Recipe 1"),
        (first_entry_only, False, "one entry of 'w' is right"),
        (lambda n, r, s: greedy(n, r, s) | {"n": torch.tensor(2.4)}, False, "counter"),
        (lambda n, r, s: {"w": greedy(n, r, s)["w"]}, False, r"the names \['n', 'w'\]"),
        (lambda n, r, s: greedy(n, r, s) | {"w": 1.19}, False, "'w' must stay a tensor"),
        (lambda n, r, s: r("nobody"), False, "a model 'nobody' was asked for"),
        (lambda n, r, s: None, False, "return one model"),
        (lambda n, r, s: n[7], False, "raised IndexError"),
        (17, False, "a function is asked for, not int"),
    ],
)
def test_thrifty_greedy(answer, passed, message):
    verdict = check_thrifty_greedy(answer)
    assert verdict.passed is passed
    assert re.search(message, verdict.message), verdict.message


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
        (top, True, r"^99\.[78] % right beside 97\.[67] % .* share of 1\.00 of 8 pools"),
        (lambda pool, score: iter(["a", "b"]), True, "share of 1.00"),
        (lambda pool, score: top(pool, score, 1), False, r"share of 0\.00"),
        (by_all_comparisons, False, r"share of 0\.00"),
        (lambda pool, score: ["d", "e"], False, r"share of 0\.00"),
        (lambda pool, score: list(pool)[:4], False, "one to three ingredients .* not 4"),
        (lambda pool, score: [], False, "not 0"),
        (lambda pool, score: ["a", "a"], False, "named twice"),
        (lambda pool, score: ["a", "z"], False, "'z' is none"),
        (lambda pool, score: [0, 1], False, "return names"),
        (lambda pool, score: "abc", False, "a list of names, not str"),
        (lambda pool, score: None, False, "a list of names, not NoneType"),
        (lambda pool, score: pool["nobody"], False, "raised KeyError"),
        ([1, 2], False, "a function is asked for, not list"),
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


def test_stubs_are_not_done_yet(contest):
    def stub(*_):
        raise NotImplementedError

    for verdict in (check_thrifty_greedy(stub), check_choose(stub, *contest)):
        assert not verdict.passed
        assert str(verdict).startswith("Not yet: write the function")
