"""The self-checks of tutorial 06: a model of one's own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from wskit.exercises._verdict import AnswerError, Verdict, as_number, verdict_on
from wskit.spectra import shuffled

_PAIRS, _FOUND = 0.9, 0.95  # shares that an answer needs: of pairs, of mysteries
_SCALES = (0.25, 4.0)  # between which a layer is multiplied

Damage = Literal["shuffled", "re-initialised"]
_KINDS: tuple[Damage, ...] = ("shuffled", "re-initialised")


def check_relative_change(change: object) -> Verdict:
    """Check exercise 6.1: ``change(before, after)`` is the relative change of a layer.

    Parameters
    ----------
    change : callable
        Takes two tensors of one shape, of any floating dtype; returns one number.

    Returns
    -------
    Verdict
    """
    return verdict_on(_relative_change, change, "a change in units of what was there before.")


def _relative_change(change: Callable[..., Any]) -> None:
    before, after = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[3.0, 2.0], [2.0, 5.0]])
    found = as_number(change(before, after))
    lengths = "two lengths were compared; a change may leave the length as it is."
    largest = "this is about the largest singular value; all entries count."
    wrong = {
        3 / 42**0.5: "divide by the length of the weights that were there before.",
        9 / 25: "this is the square of a ratio of lengths.",
        3.0: "this is the length of the change; what is it to be compared with?",
        (1 + 17**0.5) / 8: largest,
        5 / 7: "sum squares, not absolute values.",
        42**0.5 / 5 - 1: lengths,
        42**0.5 / 5: lengths,
    }
    for value, words in wrong.items():
        if np.isclose(found, value):
            raise AnswerError(words)
    if not np.isclose(found, 3 / 5):
        raise AnswerError(f"a layer of length 5 that was moved by 3 gave {found:.3g}.")
    kernel = torch.arange(1.0, 37).reshape(2, 2, 3, 3)
    if not np.isclose(as_number(change(kernel, 1.5 * kernel)), 0.5):
        raise AnswerError("a convolution has four axes, and all of its entries count.")
    half = torch.full((256, 256), 300.0, dtype=torch.float16)
    try:
        found = float(change(half, half + 0.25))
    except RuntimeError as error:
        raise AnswerError(f"float16 weights raised: {error}") from None
    if not np.isclose(found, 0.25 / 300, rtol=1e-3):
        raise AnswerError(
            f"weights of 300 in float16, moved by 0.25 each, gave {found:.4g}: what is the largest "
            "number that float16 can hold?"
        )


def check_directions(directions: object) -> Verdict:
    """Check exercise 6.2: ``directions(before, after)`` counts the directions of a change.

    Parameters
    ----------
    directions : callable
        Takes two matrices of one shape; returns how many singular directions of their difference
        hold nine tenths of its squared length.

    Returns
    -------
    Verdict
    """
    return verdict_on(_directions, directions, "as few directions as hold nine tenths.")


def _directions(directions: Callable[..., Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(16, 12, generator=generator, dtype=torch.float64)
    U, V = (torch.linalg.qr(torch.randn(n, 12, generator=generator).double()).Q for n in (16, 12))

    def moved(*values: float) -> Tensor:
        singular = torch.zeros(12, dtype=torch.float64)
        singular[: len(values)] = torch.tensor(values, dtype=torch.float64)
        return before + U @ torch.diag(singular) @ V.T

    # Squares 100, 64, 36, 16, 4, 4: shares of 0.45, 0.73, 0.89, 0.96.
    found = as_number(directions(before, moved(10.0, 8.0, 6.0, 4.0, 2.0, 2.0)))
    wrong = {
        3: "three directions hold 200 of 224 parts, which is less than nine tenths.",
        5: "this counts singular values; a squared length is a sum of their squares.",
        6: "this is the rank: it counts the directions that hold nearly nothing as well.",
        _count(before, squared=True): "count the directions of the change, not of the weights.",
        _count(before, squared=False): "count the directions of the change, not of the weights.",
        12: "the smallest were counted first; `svdvals` descends, eigenvalues ascend.",
    }
    if found != 4:
        hint = wrong.get(int(found), f"four are right in a case where you found {found:g}.")
        raise AnswerError(hint if found == int(found) else "return a whole number.")
    for values, right in ((((5.0,)), 1), ((1.0,) * 8, 8), ((3.0, 1.0), 1)):
        found = as_number(directions(before, moved(*values)))
        if found != right:
            raise AnswerError(
                f"a change with the singular values {', '.join(f'{v:g}' for v in values)} gave "
                f"{found:g}; nine tenths may be reached exactly, or by the first alone."
            )
    if as_number(directions(before.T, moved(10.0, 8.0, 6.0, 4.0, 2.0, 2.0).T)) != 4:
        raise AnswerError("a wide matrix has the same directions as its transpose.")


def _count(W: Tensor, *, squared: bool) -> int:
    values = torch.linalg.svdvals(W) ** (2 if squared else 1)
    return int((values.cumsum(0) < 0.9 * values.sum()).sum()) + 1


def check_later(later: object, runs: Sequence[Mapping[int, Mapping[str, Tensor]]]) -> Verdict:
    """Check exercise 6.3: ``later(a, b)`` tells from weights which checkpoint is the later one.

    Parameters
    ----------
    later : callable
        Takes two checkpoints of one training run, mappings of names to tensors; returns True if
        the second one was trained for longer. Every layer of either was multiplied by a positive
        number.
    runs : sequence of mappings of a step to weights
        Trainings of relu networks without shortcuts, whose answers do not depend on such numbers.

    Returns
    -------
    Verdict
        Passed if nine of ten pairs are told right, each of them in both orders.
    """
    return verdict_on(lambda answer: _later(answer, runs), later, "")


def _later(later: Callable[..., Any], runs: Sequence[Mapping[int, Mapping[str, Tensor]]]) -> str:
    rng, told, by_length = np.random.default_rng(6), [], []
    for run in runs:
        for early, late in combinations(sorted(run), 2):
            a, b = (_rescaled(run[step], rng) for step in (early, late))
            answers = _as_bool(later(dict(a), dict(b))), _as_bool(later(dict(b), dict(a)))
            told.append(answers == (True, False))
            by_length.append(answers[0] is (_length(b) > _length(a)))
    words = f"{sum(told)} of {len(told)} pairs told right, in both orders."
    if np.mean(told) >= _PAIRS:
        return words
    if np.mean(by_length) == 1:
        words += " You went by lengths, and a length is nothing that a factor leaves alone."
    raise AnswerError(words)


def _as_bool(value: Any) -> bool:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if not isinstance(value, bool | np.bool_):
        raise AnswerError(f"return True or False, not {type(value).__name__}.")
    return bool(value)


def _length(weights: Mapping[str, Tensor]) -> float:
    return float(sum(W.double().square().sum() for W in weights.values()))


def _rescaled(weights: Mapping[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
    """Multiply each matrix, and in step with it each bias, so that a relu network answers alike."""
    found, factor = {}, 1.0
    for name, W in weights.items():
        if W.ndim > 1:
            low, high = np.log(_SCALES)
            own = float(np.exp(rng.uniform(low, high)))
            factor *= own
            found[name] = own * W
        else:
            found[name] = factor * W  # of all layers up to its own
    return found


def make_mystery(weights: Mapping[str, Tensor], *, seed: int) -> dict[str, Tensor]:
    """Return a checkpoint one of whose layers knows nothing any more.

    Parameters
    ----------
    weights : mapping of str to Tensor
        Of a chain of layers.
    seed : int
        It chooses the layer, and whether its own entries were put in a random order or new ones
        were drawn.

    Returns
    -------
    dict of str to Tensor
        Every layer was multiplied by a positive number of its own.
    """
    rng = np.random.default_rng(seed)
    layer = str(rng.choice([name for name, W in weights.items() if W.ndim > 1]))
    return _damaged(weights, layer, _KINDS[rng.integers(2)], seed)


def _damaged(
    weights: Mapping[str, Tensor], layer: str, how: Damage, seed: int
) -> dict[str, Tensor]:
    found = dict(weights)
    if how == "shuffled":
        found[layer] = shuffled(weights[layer], seed=seed)
    else:  # as torch.nn.Linear begins
        generator = torch.Generator().manual_seed(seed)
        draw = torch.rand(weights[layer].shape, generator=generator, dtype=weights[layer].dtype)
        found[layer] = (2 * draw - 1) / weights[layer].shape[1] ** 0.5
    return _rescaled(found, np.random.default_rng(seed))


def check_find_damage(find: object, models: Sequence[Mapping[str, Tensor]]) -> Verdict:
    """Check exercise 6.4: ``find(weights)`` names the layer that knows nothing any more.

    Parameters
    ----------
    find : callable
        Takes a checkpoint, a mapping of names to tensors; returns the name of a matrix.
    models : sequence of mappings of str to Tensor
        Trained networks. Each matrix of each is damaged in both ways, one at a time, as by
        `make_mystery`.

    Returns
    -------
    Verdict
        Passed if it is found in 19 of 20 checkpoints.
    """
    return verdict_on(lambda answer: _find_damage(answer, models), find, "")


def _find_damage(find: Callable[..., Any], models: Sequence[Mapping[str, Tensor]]) -> str:
    missed: list[tuple[str, str]] = []
    n = 0
    for layer, how, weights in _mysteries(models):
        n += 1
        name = find(dict(weights))
        if not isinstance(name, str) or name not in weights:
            raise AnswerError(f"return the name of a layer; {name!r:.40} is none.")
        if weights[name].ndim < 2:
            raise AnswerError(f"{name!r} is no matrix; only matrices were damaged.")
        if name != layer:
            missed.append((layer, how))
    words = f"found in {n - len(missed)} of {n} checkpoints."
    if len(missed) <= (1 - _FOUND) * n:
        return words
    worst = max(set(missed), key=lambda kind: (missed.count(kind), kind))
    raise AnswerError(f"{words} Most often missed: {worst[0]!r}, when it was {worst[1]}.")


def _mysteries(
    models: Sequence[Mapping[str, Tensor]],
) -> Iterator[tuple[str, Damage, dict[str, Tensor]]]:
    seed = 1000
    for model in models:
        for layer in [name for name, W in model.items() if W.ndim > 1]:
            for how in _KINDS:
                seed += 1
                yield layer, how, _damaged(model, layer, how, seed)
