"""The greedy soup: ingredients are tried one after the other, and kept unless they hurt."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal

import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from tqdm.auto import tqdm

from wskit._checks import calling, check_choice, numbers
from wskit._weights import Layout
from wskit.errors import SoupError
from wskit.soups._soup import (
    Ingredients,
    Soup,
    equal,
    label_of,
    layout_of_all,
    model_of,
    pool_of,
)

Accept = Literal["not worse", "better"]
Score = Callable[[Mapping[str, Tensor]], float]
"""Weights -> a score on held-out data; higher is better."""


def greedy_soup(
    ingredients: Ingredients,
    score: Score,
    *,
    accept: Accept = "not worse",
    scores: ArrayLike | None = None,
    progress: bool = False,
    should_stop: Callable[[], bool] | None = None,
) -> Soup:
    """Average those ingredients that, from the best one on, do not lower a held-out score.

    Recipe 1 of Wortsman et al. (2022, arXiv:2203.05482). The ingredients are sorted by their own
    scores, the best first; equal ones keep the order in which they were given. The best one is
    the first soup. Each of the others is averaged with the soup, all ingredients alike, and stays
    in it if the score of this average is accepted. On the data of the score, the soup is
    therefore never worse than the best ingredient.

    Every ingredient is read once to be scored, unless `scores` are given, and once to be tried.
    Two averages in float32 (in float64 where an ingredient is) are in memory, however many
    ingredients there are, and what `score` needs.

    Parameters
    ----------
    ingredients : mapping of str to weights, sequence of weights, or Zoo
    score : callable
        Maps weights to a finite number on held-out data, higher being better, and does not change
        them: see `held_out_score`. It must not see the test set.
    accept : {"not worse", "better"}, default "not worse"
        "not worse" accepts a score that is at least that of the soup so far, as the recipe has
        it; "better" a higher one only, as its released code has it, which keeps fewer.
    scores : array of shape (ingredients,), optional
        The ingredients' own scores, in the order of the ingredients, where they are known.
    progress : bool, default False
        Show a progress bar, an evaluation a tick.
    should_stop : callable that returns a bool, optional
        Asked before each evaluation. Once it says True, the result is the soup so far: at least
        the best ingredient, as soon as all of them are scored.

    Returns
    -------
    Soup
        `history` has a row for each ingredient that was tried: `step` from 1, `ingredient`,
        `own_score`, `held_out_score` of the average with it, `accepted`, and `n_ingredients` of
        the soup after it.

    Raises
    ------
    SoupError
        If there is no ingredient, a score is not finite, `scores` or `accept` is not as described,
        or it was stopped before all ingredients were scored.
    AveragingError
        If two ingredients differ in names, shapes, dtypes, ties or masks, or one holds NaN or inf.

    Examples
    --------
    >>> models = {name: {"w": torch.tensor([w])} for name, w in zip("abc", (0.0, 1.5, 3.0))}
    >>> soup = greedy_soup(models, lambda weights: -abs(weights["w"].item() - 1))
    >>> soup.ingredients, soup.weights["w"]
    (('b', 'a'), tensor([0.7500]))
    >>> print(soup.history.to_string(index=False))
     step ingredient  own_score  held_out_score  accepted  n_ingredients
        1          b       -0.5           -0.50      True              1
        2          a       -1.0           -0.25      True              2
        3          c       -2.0           -0.50     False              2
    """
    pool = pool_of(ingredients)
    total = len(pool) - 1 + (len(pool) if scores is None else 0)
    with tqdm(total=total, disable=not progress, unit="evaluation") as bar:
        if scores is None:
            layout_of_all(pool)  # a model that does not fit is named before any is scored
            own: list[float] = []
            for name, model in pool.items():
                if should_stop is not None and should_stop():
                    raise SoupError(
                        f"the greedy soup was stopped when {len(own)} of {len(pool)} ingredients "
                        "had been scored, and begins when all have."
                    )
                own.append(_scored(score, model, label_of(name)))
                bar.update()
            scores = own
        steps = _steps(pool, score, scores, accept)
        make = next(steps)  # evaluates nothing
        while should_stop is None or not should_stop():
            following = next(steps, None)
            if following is None:
                break
            make = following
            bar.update()
    return make()


def greedy_steps(
    ingredients: Ingredients, score: Score, scores: ArrayLike, *, accept: Accept = "not worse"
) -> Iterator[Soup]:
    """Make a greedy soup as `greedy_soup` does, and give the soup after each step.

    Nothing is computed beyond the step that was asked for, so that each can be shown, and the
    rest left out.

    Parameters
    ----------
    ingredients, score, scores, accept
        As for `greedy_soup`.

    Yields
    ------
    Soup
        First the best ingredient alone, and then one for each of the others. It is whole, and
        later steps do not change it; two that are kept take the memory of two models.

    Raises
    ------
    SoupError, AveragingError
        As `greedy_soup`.

    Examples
    --------
    >>> models = [{"w": torch.tensor([w])} for w in (1.0, 3.0, 2.0)]
    >>> near_two = lambda weights: -abs(weights["w"].item() - 2)
    >>> [soup.ingredients for soup in greedy_steps(models, near_two, [-1, -1, 0])]
    [('2',), ('2',), ('2',)]
    """
    for make in _steps(pool_of(ingredients), score, scores, accept):
        yield make()


def _steps(
    pool: dict[str, Mapping[str, Tensor]], score: Score, scores: ArrayLike, accept: Accept
) -> Iterator[Callable[[], Soup]]:
    """Yield what makes the soup after each step: its tables cost more than a small average."""
    check_choice(accept, Accept, SoupError, "accept")
    own = _checked(scores, list(pool))
    order = sorted(pool, key=lambda name: -own[name])  # stable
    # Of the best one, so that it decides on integer tensors and ties.
    layout = layout_of_all({name: pool[name] for name in order})
    device = layout.device(pool[order[0]])
    mean = torch.zeros(layout.size, dtype=layout.dtype, device=device)
    kept: list[str] = []
    reached = -math.inf
    rows = []
    for step, name in enumerate(order, start=1):
        trial = torch.empty_like(mean)  # a new one, as the soup so far may be the caller's by now
        for part, values in layout.parts(pool[name], label_of(name), device):
            torch.lerp(mean[part], values, 1 / (len(kept) + 1), out=trial[part])
            del values  # before the next tensor is read
        weights = model_of(layout, trial)
        label = f"the soup with {label_of(name)}"
        found = _scored(score, weights, label) if kept else own[name]
        accepted = not kept or found > reached or (found == reached and accept == "not worse")
        if accepted:
            mean, reached = trial, found
            kept.append(name)
        del weights, trial
        rows.append((step, name, own[name], found, accepted, len(kept)))
        yield partial(_soup, layout, mean, tuple(kept), rows[:])


def _soup(layout: Layout, mean: Tensor, kept: tuple[str, ...], rows: list[Any]) -> Soup:
    columns = ["step", "ingredient", "own_score", "held_out_score", "accepted", "n_ingredients"]
    history = pd.DataFrame(rows, columns=columns)
    return Soup(model_of(layout, mean), kept, equal(kept), history)


def _checked(scores: ArrayLike, names: list[str]) -> dict[str, float]:
    found = numbers(scores, SoupError, "scores")
    if found.shape != (len(names),):
        raise SoupError(
            f"{len(names)} ingredients have {len(names)} scores in one row, got an array of shape "
            f"{found.shape}; give one for each."
        )
    return {
        name: _finite(float(value), label_of(name))
        for name, value in zip(names, found, strict=True)
    }


def _scored(score: Score, weights: Mapping[str, Tensor], label: str) -> float:
    if not callable(score):
        raise SoupError(
            f"score must be a function of weights, got a {type(score).__name__}; make one with "
            "`held_out_score`."
        )
    with torch.no_grad():
        found = score(weights)
    with calling(SoupError, f"the score of {label}", "return a number"):
        return _finite(float(found), label)


def _finite(value: float, label: str) -> float:
    if not math.isfinite(value):
        raise SoupError(f"the score of {label} is {value}; give a finite number.")
    return value
