"""The self-checks of tutorial 05: model soups."""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wskit.exercises._verdict import (
    Answer,
    AnswerError,
    Weights,
    as_number,
    check_counter,
    check_model,
    diagnose,
    pass_if,
    require,
    self_check,
    unchanged,
)

_VALUES = {"a": 1.6, "b": 0.3, "c": 1.5, "d": 2.0, "e": 0.05, "f": -0.4, "g": 2.5}
_KEPT = "abceg"  # by Recipe 1, under _score
_MOST = 3  # ingredients of a small soup
_WON = 0.75  # share of the pools in which a choice must be better

Score = Callable[[Weights], float]


@self_check("every task counts, and the base counts once.")
def check_add_tasks(add_tasks: Answer) -> None:
    """Check exercise 5.1: ``add_tasks(base, models, scale)`` adds what each model has learned.

    It takes a model, a list of models that were fine-tuned from it, and a number. It returns the
    base with the scaled sum of all task vectors; integer tensors are the base's.
    """
    base = {"w": torch.tensor([1.0, 2.0]), "v": torch.tensor([[4.0]]), "n": torch.tensor(3)}
    one = {"w": torch.tensor([3.0, 2.0]), "v": torch.tensor([[5.0]]), "n": torch.tensor(8)}
    two = {"w": torch.tensor([1.0, -2.0]), "v": torch.tensor([[7.0]]), "n": torch.tensor(9)}
    with unchanged(base, one, two):
        found = add_tasks(base, [one, two], 0.25)
    check_model(found, base)
    hints = {
        (3.0, -2.0): "the scale changes nothing; it says how far to go along the task vectors.",
        (2.0, 0.0): "this is the mean of the models, a soup; tasks are added to the base.",
        (1.25, 1.5): "this is half as far as asked: sum the vectors, do not average them.",
        (0.75, -0.5): "the base is scaled too; scale only what was learned.",
        (2.0, 2.0): "these are the fine-tuned models themselves; what did each of them learn?",
        (1.5, 2.0): "only the first task is in it.",
        (1.0, 1.0): "only the last task is in it; add each to what is already there.",
        (0.5, 3.0): "this goes away from the tasks: it forgets them.",
    }
    otherwise = (
        f"[1, 2] that became [3, 2] in one task and [1, -2] in another gave "
        f"{found['w'].tolist()} at a scale of 0.25."
    )
    diagnose(found["w"], (1.5, 1.0), hints, otherwise)
    alike = torch.allclose(found["v"], torch.tensor([[5.0]]))
    require(alike, "one tensor is right and another is not; treat all of them alike.")
    check_counter(found, base, "the base")
    three = add_tasks(base, [one, two, two], 0.5)["w"]
    require(torch.allclose(three, torch.tensor([2.0, -2.0])), "two tasks are right, three are not.")


@self_check("that is how much lower the loss of the mean is.")
def check_expected_gain(gain: Answer) -> None:
    """Check exercise 5.2: ``gain(k, s, h)`` is what a soup of k gains in a bowl.

    It takes the number of ingredients, the root mean square of their distance from the point they
    scatter around, and the curvature, and returns one number.
    """
    k, s, h = 5, 3.0, 0.7
    found, at_most = as_number(gain(k, s, h)), h * s**2 / 2
    right = at_most * (1 - 1 / k)
    hints = {
        -right: "the sign is wrong: a gain is how much lower the loss is.",
        2 * right: "the loss of a bowl has a factor that is missing here.",
        right / s: "a loss goes with the square of the distance.",
        right / h: "the steeper the bowl, the more is gained.",
        at_most: "this is all that can be gained, with very many ingredients.",
        at_most / k: "this is what a soup still has to lose; how much has it gained?",
        at_most * (1 - k**-0.5): "distances fall with the root of the number; and the loss?",
    }
    otherwise = (
        f"k = {k}, s = {s:.0f} and h = {h} gave {found:.4g}; how far from the centre is the mean "
        "of k?"
    )
    diagnose(found, right, hints, otherwise)
    require(np.isclose(as_number(gain(1, s, h)), 0), "a soup of one must gain nothing.")
    twelve = np.isclose(as_number(gain(12, 0.5, 6.0)), 0.75 * (1 - 1 / 12))
    require(twelve, "right for five ingredients, wrong for twelve in another bowl.")


@self_check("each model was read once, and none was kept.")
def check_thrifty_greedy(greedy: Answer) -> None:
    """Check exercise 5.3: ``greedy(names, read, score)`` is Recipe 1 in the memory of two models.

    It takes names of models, the best first, a function that reads the model of a name, and the
    held-out score of weights, and returns the weights of the greedy soup.
    """
    shelf = _Shelf(_VALUES)
    found = greedy(list(_VALUES), shelf.read, _score)
    check_model(found, _model(0))
    n = sum(shelf.counts.values())
    once = set(shelf.counts.values()) == {1}
    require(once, f"there were seven models, and you read {n}; read each once.")
    values, right = list(_VALUES.values()), np.mean([_VALUES[name] for name in _KEPT])
    hints = {
        values[0]: "this is the first model alone; another one with it has a higher score.",
        np.mean(values): "all models are in it; some of them lower the score.",
        np.mean(values[:2]): "two are in it: what does Recipe 1 do with an equal score?",
        1.225: "each new model has as much weight as all before it together; which share is right?",
    }
    otherwise = (
        f"the soup's score is {_score(found)}, and its weights are not those of Recipe 1; which "
        "models are in it, and with which share?"
    )
    diagnose(found["w"][0], right, hints, otherwise, rtol=1e-4)
    second = np.isclose(float(found["w"][1]), 2 * right, rtol=1e-4)
    require(second, "one entry of 'w' is right and the other is not; treat all alike.")
    check_counter(found, _model(0), "the first model")
    require(
        shelf.most <= 2,
        f"the soup is right, but {shelf.most} models were still in memory when the next one was "
        "read; what do you need of those that are in the soup already?",
    )
    alone = greedy(["d"], _Shelf(_VALUES).read, _score)
    same = torch.allclose(alone["w"], _model(3)["w"])
    require(same, "the soup of one model must be that model.")


class _Shelf:
    """Models that are made when they are read; it knows how many are still in memory."""

    def __init__(self, values: Mapping[str, float]) -> None:
        self.counts = dict.fromkeys(values, 0)
        self.most = 0
        self._given: list[weakref.ref[Tensor]] = []

    def read(self, name: str) -> dict[str, Tensor]:
        known = name in self.counts
        require(known, f"you asked for a model {name!r}; read those of the list `names`.")
        self.most = max(self.most, sum(given() is not None for given in self._given))
        self.counts[name] += 1
        model = _model(list(self.counts).index(name))
        self._given.append(weakref.ref(model["w"]))
        return model


def _model(place: int) -> dict[str, Tensor]:
    value = list(_VALUES.values())[place]
    return {"w": torch.tensor([value, 2 * value]), "n": torch.tensor(place)}


def _score(weights: Weights) -> float:
    """Return a score as coarse as an accuracy, so that some are equal."""
    return -round(2 * abs(float(weights["w"][0]) - 1)) / 2


@self_check()
def check_choose(
    choose: Answer,
    pools: Sequence[Mapping[str, Weights]],
    held_out: Sequence[Score],
    tests: Sequence[Score],
) -> str:
    """Check exercise 5.4: ``choose(pool, score)`` names a soup of at most three ingredients.

    It takes a pool, a dict of models by name, and a held-out score of weights, and returns one to
    three names. For each of `pools`, `held_out` and `tests` map weights to shares of right answers.
    In the test, the average of what was chosen must beat the ingredient with the best held-out
    score, on average and in three of four pools.
    """
    found = []
    for pool, score, test in zip(pools, held_out, tests, strict=True):
        names = _as_names(choose(dict(pool), score), pool)
        best = max(pool, key=lambda name: score(pool[name]))
        found.append((test(_average([pool[name] for name in names])), test(pool[best])))
    own, others = 100 * np.array(found).T
    won = (own > others).mean()
    words = (
        f"{own.mean():.1f} % right, where the best single models have {others.mean():.1f} %; it is "
        f"better in a share of {won:.2f} of {len(own)} pools."
    )
    return pass_if(own.mean() > others.mean() and won >= _WON, words)


def _as_names(names: Any, pool: Mapping[str, Any]) -> list[str]:
    if isinstance(names, str | Mapping) or not isinstance(names, Iterable):
        raise AnswerError(f"return a list of names, not {type(names).__name__}.")
    found = list(names)
    require(1 <= len(found) <= _MOST, f"name one to three ingredients, not {len(found)}.")
    for name in found:
        known = isinstance(name, str) and name in pool
        require(known, f"return names of ingredients; {name!r:.40} is none.")
    require(len(set(found)) == len(found), "an ingredient is named twice; each counts once.")
    return found


def _average(models: Sequence[Weights]) -> dict[str, Tensor]:
    return {
        name: torch.stack([model[name] for model in models]).mean(0) if W.is_floating_point() else W
        for name, W in models[0].items()
    }
