"""The self-checks of tutorial 05: model soups."""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wskit.exercises._verdict import AnswerError, Verdict, as_number, verdict_on

_VALUES = {"a": 1.6, "b": 0.3, "c": 1.5, "d": 2.0, "e": 0.05, "f": -0.4, "g": 2.5}
_KEPT = "abceg"  # by Recipe 1, under _score
_MOST = 3  # ingredients of a small soup
_WON = 0.75  # of the pools, for a choice to pass

Score = Callable[[Mapping[str, Tensor]], float]


def check_add_tasks(add_tasks: object) -> Verdict:
    """Check exercise 5.1: ``add_tasks(base, models, scale)`` adds what each model has learned.

    Parameters
    ----------
    add_tasks : callable
        Takes a model, a list of models that were fine-tuned from it, and a number; returns the
        base with the scaled sum of all task vectors, whose integer tensors are the base's.

    Returns
    -------
    Verdict
    """
    return verdict_on(_add_tasks, add_tasks, "every task counts, and the base once.")


def _add_tasks(add_tasks: Callable[..., Any]) -> None:
    base = {"w": torch.tensor([1.0, 2.0]), "v": torch.tensor([[4.0]]), "n": torch.tensor(3)}
    one = {"w": torch.tensor([3.0, 2.0]), "v": torch.tensor([[5.0]]), "n": torch.tensor(8)}
    two = {"w": torch.tensor([1.0, -2.0]), "v": torch.tensor([[7.0]]), "n": torch.tensor(9)}
    before = [{k: W.clone() for k, W in model.items()} for model in (base, one, two)]
    found = add_tasks(base, [one, two], 0.25)
    _check_model(found, base)
    for model, copy in zip((base, one, two), before, strict=True):
        if any(not torch.equal(W, copy[k]) for k, W in model.items()):
            raise AnswerError("the models that were given have changed; make new tensors instead.")
    wrong = {
        (3.0, -2.0): "the scale changes nothing; it says how far to go along the task vectors.",
        (2.0, 0.0): "this is the mean of the models, a soup; tasks are added to the base.",
        (1.25, 1.5): "this is half as far as asked: the vectors are summed, not averaged.",
        (0.75, -0.5): "the base is scaled too; only what was learned is.",
        (2.0, 2.0): "these are the fine-tuned models themselves; what did each of them learn?",
        (1.5, 2.0): "only the first task is in it.",
        (1.0, 1.0): "only the last task is in it; each is added to what is there already.",
        (0.5, 3.0): "this goes away from the tasks: it forgets them.",
    }
    for (first, second), words in wrong.items():
        if torch.allclose(found["w"], torch.tensor([first, second])):
            raise AnswerError(words)
    if not torch.allclose(found["w"], torch.tensor([1.5, 1.0])):
        raise AnswerError(
            f"[1, 2] that became [3, 2] in one task and [1, -2] in another gave "
            f"{found['w'].tolist()} at a scale of 0.25."
        )
    if not torch.allclose(found["v"], torch.tensor([[5.0]])):
        raise AnswerError("one tensor is right and another is not; treat all of them alike.")
    if found["n"].is_floating_point() or int(found["n"]) != 3:
        raise AnswerError("'n' is a counter: it is the base's, and stays a whole number.")
    if not torch.allclose(add_tasks(base, [one, two, two], 0.5)["w"], torch.tensor([2.0, -2.0])):
        raise AnswerError("two tasks come out right, three do not.")


def check_expected_gain(gain: object) -> Verdict:
    """Check exercise 5.2: ``gain(k, s, h)`` is what a soup of k gains in a bowl.

    Parameters
    ----------
    gain : callable
        Takes the number of ingredients, the root mean square of their distance from where they
        scatter around, and the curvature; returns one number.

    Returns
    -------
    Verdict
    """
    return verdict_on(_expected_gain, gain, "so much lower is the loss of the mean.")


def _expected_gain(gain: Callable[..., Any]) -> None:
    k, s, h = 5, 3.0, 0.7
    found, at_most = as_number(gain(k, s, h)), h * s**2 / 2
    right = at_most * (1 - 1 / k)
    wrong = {
        -right: "the sign: a gain is how much lower the loss is.",
        2 * right: "the loss of a bowl has a factor that is missing here.",
        right / s: "a loss goes with the square of the distance.",
        right / h: "the steeper the bowl, the more is gained.",
        at_most: "this is all that can be gained, by very many ingredients.",
        at_most / k: "this is what remains for a soup to lose; how much has it gained?",
        at_most * (1 - k**-0.5): "distances fall with the root of the number; and the loss?",
    }
    for value, words in wrong.items():
        if np.isclose(found, value):
            raise AnswerError(words)
    if not np.isclose(found, right):
        raise AnswerError(
            f"k = {k}, s = {s:.0f} and h = {h} gave {found:.4g}; how far from the centre is the "
            "mean of k?"
        )
    if not np.isclose(as_number(gain(1, s, h)), 0):
        raise AnswerError("a soup of one must gain nothing.")
    if not np.isclose(as_number(gain(12, 0.5, 6.0)), 0.75 * (1 - 1 / 12)):
        raise AnswerError("right for five ingredients, wrong for twelve of another bowl.")


def check_thrifty_greedy(greedy: object) -> Verdict:
    """Check exercise 5.3: ``greedy(names, read, score)`` is Recipe 1 in the memory of two models.

    Parameters
    ----------
    greedy : callable
        Takes names of models, the best first, a function that reads the model of a name, and the
        held-out score of weights; returns the weights of the greedy soup.

    Returns
    -------
    Verdict
    """
    return verdict_on(_thrifty, greedy, "each model was read once, and none was kept.")


def _thrifty(greedy: Callable[..., Any]) -> None:
    shelf = _Shelf(_VALUES)
    found = greedy(list(_VALUES), shelf.read, _score)
    _check_model(found, _model(0))
    if shelf.counts != dict.fromkeys(_VALUES, 1):
        raise AnswerError(
            f"seven models were there, and {sum(shelf.counts.values())} were read; read each once."
        )
    _check_soup(found["w"])
    if found["n"].is_floating_point() or int(found["n"]) != 0:
        raise AnswerError("'n' is a counter: it is the first model's, and stays a whole number.")
    if shelf.most > 2:
        raise AnswerError(
            f"the soup is right, but {shelf.most} models that had been read were still in memory "
            "when the next one was; what is needed of those that are in the soup already?"
        )
    alone = greedy(["d"], _Shelf(_VALUES).read, _score)
    if not torch.allclose(alone["w"], _model(3)["w"]):
        raise AnswerError("the soup of one model must be that model.")


def _check_model(found: object, like: Mapping[str, Tensor]) -> None:
    if not isinstance(found, Mapping) or set(found) != set(like):
        raise AnswerError(f"return one model, a dict with the names {sorted(like)}.")
    for name, W in found.items():
        if not isinstance(W, Tensor) or W.shape != like[name].shape:
            raise AnswerError(f"{name!r} must stay a tensor of shape {tuple(like[name].shape)}.")


def _check_soup(w: Tensor) -> None:
    values, place = list(_VALUES.values()), float(w[0])
    wrong = {
        values[0]: "this is the first model alone; another one with it has a higher score.",
        float(np.mean(values)): "all models are in it; some of them lower the score.",
        float(np.mean(values[:2])): "two are in it: what does Recipe 1 do with an equal score?",
        1.225: "each new model has as much weight as all before it together; whose share is right?",
    }
    for value, words in wrong.items():
        if abs(place - value) < 1e-4:
            raise AnswerError(words)
    right = np.mean([_VALUES[name] for name in _KEPT])
    if abs(place - right) > 1e-4:
        raise AnswerError(
            f"the soup's score is {_score({'w': w})}, and its weights are not those of Recipe 1; "
            "which models are in it, and with which share?"
        )
    if abs(float(w[1]) - 2 * right) > 1e-4:
        raise AnswerError("one entry of 'w' is right and the other is not; treat all alike.")


class _Shelf:
    """Models that are made when they are read; it knows how many are still about."""

    def __init__(self, values: Mapping[str, float]) -> None:
        self.counts = dict.fromkeys(values, 0)
        self.most = 0
        self._given: list[weakref.ref[Tensor]] = []

    def read(self, name: str) -> dict[str, Tensor]:
        if name not in self.counts:
            raise AnswerError(f"a model {name!r} was asked for; read those of the list `names`.")
        self.most = max(self.most, sum(given() is not None for given in self._given))
        self.counts[name] += 1
        model = _model(list(self.counts).index(name))
        self._given.append(weakref.ref(model["w"]))
        return model


def _model(place: int) -> dict[str, Tensor]:
    value = list(_VALUES.values())[place]
    return {"w": torch.tensor([value, 2 * value]), "n": torch.tensor(place)}


def _score(weights: Mapping[str, Tensor]) -> float:
    """Coarse, as an accuracy is, so that some are equal."""
    return -round(2 * abs(float(weights["w"][0]) - 1)) / 2


def check_choose(
    choose: object,
    pools: Sequence[Mapping[str, Mapping[str, Tensor]]],
    held_out: Sequence[Score],
    tests: Sequence[Score],
) -> Verdict:
    """Check exercise 5.4: ``choose(pool, score)`` names a soup of at most three ingredients.

    Parameters
    ----------
    choose : callable
        Takes a pool, a dict of models by name, and a held-out score of weights; returns one to
        three names.
    pools : sequence of mapping of names to models
        One a seed.
    held_out, tests : sequences of callables
        Of each pool: weights -> share of right answers. `choose` is given the first only.

    Returns
    -------
    Verdict
        Passed if the average of what was chosen is better in the test than the ingredient with the
        best held-out score: on average, and in three of four pools.
    """
    return verdict_on(lambda answer: _chosen(answer, pools, held_out, tests), choose, "")


def _chosen(
    choose: Callable[..., Any],
    pools: Sequence[Mapping[str, Mapping[str, Tensor]]],
    held_out: Sequence[Score],
    tests: Sequence[Score],
) -> str:
    found = []
    for pool, score, test in zip(pools, held_out, tests, strict=True):
        names = _named(choose(dict(pool), score), pool)
        best = max(pool, key=lambda name: score(pool[name]))
        found.append((test(_mean([pool[name] for name in names])), test(pool[best])))
    own, others = 100 * np.array(found).T
    won = (own > others).mean()
    words = (
        f"{own.mean():.1f} % right beside {others.mean():.1f} % of the best single models, and "
        f"better in a share of {won:.2f} of {len(own)} pools."
    )
    if own.mean() <= others.mean() or won < _WON:
        raise AnswerError(words)
    return words


def _named(names: Any, pool: Mapping[str, Any]) -> list[str]:
    if isinstance(names, str | Mapping) or not isinstance(names, Iterable):
        raise AnswerError(f"return a list of names, not {type(names).__name__}.")
    found = list(names)
    if not 1 <= len(found) <= _MOST:
        raise AnswerError(f"one to three ingredients are asked for, not {len(found)}.")
    strange = [name for name in found if not isinstance(name, str) or name not in pool]
    if strange:
        raise AnswerError(f"return names of ingredients; {strange[0]!r:.40} is none.")
    if len(set(found)) < len(found):
        raise AnswerError("an ingredient is named twice; each counts once.")
    return found


def _mean(models: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {
        name: torch.stack([model[name] for model in models]).mean(0) if W.is_floating_point() else W
        for name, W in models[0].items()
    }
