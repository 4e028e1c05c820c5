"""The self-checks of tutorial 06: your own model."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from wskit.exercises._verdict import (
    Answer,
    AnswerError,
    Weights,
    as_number,
    as_truth,
    diagnose,
    pass_if,
    require,
    self_check,
)
from wskit.spectra import shuffled

_PAIRS, _FOUND = 0.9, 0.95  # shares that an answer needs: of pairs, of mysteries
_SCALES = (0.25, 4.0)  # range of the factor of a layer

Damage = Literal["shuffled", "re-initialised"]


@self_check("a change in units of what was there before.")
def check_relative_change(change: Answer) -> None:
    """Check exercise 6.1: ``change(before, after)`` is the relative change of a layer.

    It takes two tensors of one shape and any floating dtype, and returns one number.
    """
    before, after = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[3.0, 2.0], [2.0, 5.0]])
    found = as_number(change(before, after))
    lengths = "this compares two lengths; a change may leave the length as it is."
    hints = {
        3 / 42**0.5: "divide by the length of the weights that were there before.",
        9 / 25: "this is the square of a ratio of lengths.",
        3.0: "this is the length of the change; what should it be compared with?",
        (1 + 17**0.5) / 8: "this is about the largest singular value; all entries count.",
        5 / 7: "sum squares, not absolute values.",
        42**0.5 / 5 - 1: lengths,
        42**0.5 / 5: lengths,
    }
    diagnose(found, 3 / 5, hints, f"a layer of length 5 that was moved by 3 gave {found:.3g}.")
    kernel = torch.arange(1.0, 37).reshape(2, 2, 3, 3)
    found = as_number(change(kernel, 1.5 * kernel))
    require(np.isclose(found, 0.5), "a convolution has four axes, and all of its entries count.")
    half = torch.full((256, 256), 300.0, dtype=torch.float16)
    try:
        found = float(change(half, half + 0.25))
    except RuntimeError as error:
        raise AnswerError(f"float16 weights raised: {error}") from None
    require(
        np.isclose(found, 0.25 / 300, rtol=1e-3),
        f"weights of 300 in float16, moved by 0.25 each, gave {found:.4g}: what is the largest "
        "number that float16 can hold?",
    )


@self_check("as few directions as hold nine tenths.")
def check_directions(directions: Answer) -> None:
    """Check exercise 6.2: ``directions(before, after)`` counts the directions of a change.

    It takes two matrices of one shape and returns how many singular directions of their
    difference hold nine tenths of its squared length.
    """
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(16, 12, generator=generator, dtype=torch.float64)
    U, V = (torch.linalg.qr(torch.randn(n, 12, generator=generator).double()).Q for n in (16, 12))

    def move(*values: float) -> Tensor:
        singular = torch.zeros(12, dtype=torch.float64)
        singular[: len(values)] = torch.tensor(values, dtype=torch.float64)
        return before + U @ torch.diag(singular) @ V.T

    after = move(10.0, 8.0, 6.0, 4.0, 2.0, 2.0)  # squares hold 0.45, 0.73, 0.89, 0.96 ...
    found = as_number(directions(before, after))
    require(found == int(found), "return a whole number.")
    of_weights = "count the directions of the change, not of the weights."
    hints = {
        3: "three directions hold 200 of 224 parts, which is less than nine tenths.",
        5: "this counts singular values; a squared length is a sum of their squares.",
        6: "this is the rank, which also counts the directions that hold nearly nothing.",
        _count(before, power=2): of_weights,
        _count(before, power=1): of_weights,
        12: "the smallest were counted first; `svdvals` descends, eigenvalues ascend.",
    }
    diagnose(found, 4, hints, f"four is right in a case where you found {found:g}.")
    for values, right in (((5.0,), 1), ((1.0,) * 8, 8), ((3.0, 1.0), 1)):
        found = as_number(directions(before, move(*values)))
        require(
            found == right,
            f"a change with the singular values {', '.join(f'{v:g}' for v in values)} gave "
            f"{found:g}; nine tenths may be reached exactly, or by the first alone.",
        )
    wide = as_number(directions(before.T, after.T))
    require(wide == 4, "a wide matrix has the same directions as its transpose.")


def _count(W: Tensor, *, power: int) -> int:
    values = torch.linalg.svdvals(W) ** power
    return int((values.cumsum(0) < 0.9 * values.sum()).sum()) + 1


@self_check()
def check_later(later: Answer, runs: Sequence[Mapping[int, Weights]]) -> str:
    """Check exercise 6.3: ``later(a, b)`` tells from weights which checkpoint is the later one.

    It takes two checkpoints of one training run, mappings of names to tensors, and returns True if
    the second was trained for longer. Every layer of either was multiplied by a positive number.
    Each of `runs` maps steps to the weights of a relu network without shortcuts, whose answers do
    not depend on such numbers. Nine of ten pairs must be told right, in both orders.
    """
    rng, told, by_length = np.random.default_rng(6), [], []
    for run in runs:
        for early, late in combinations(sorted(run), 2):
            a, b = (_rescale(run[step], rng) for step in (early, late))
            answers = as_truth(later(dict(a), dict(b))), as_truth(later(dict(b), dict(a)))
            told.append(answers == (True, False))
            by_length.append(answers[0] is (_square(b) > _square(a)))
    words = f"{sum(told)} of {len(told)} pairs told right, in both orders."
    hint = "You went by lengths, and a factor changes a length."
    return pass_if(np.mean(told) >= _PAIRS, words, hint if all(by_length) else "")


def _square(weights: Weights) -> float:
    return float(sum(W.double().square().sum() for W in weights.values()))


def _rescale(weights: Weights, rng: np.random.Generator) -> dict[str, Tensor]:
    """Multiply each matrix, and its bias accordingly, so that a relu network answers the same."""
    found, factor = {}, 1.0
    for name, W in weights.items():
        if W.ndim > 1:
            own = float(np.exp(rng.uniform(*np.log(_SCALES))))
            factor *= own
            found[name] = own * W
        else:
            found[name] = factor * W  # the factors of all layers up to its own
    return found


def make_mystery(weights: Weights, *, seed: int) -> dict[str, Tensor]:
    """Return a checkpoint of which one layer no longer knows anything.

    The seed chooses the layer, and whether its own entries are shuffled or new ones are drawn. Then
    every layer of the chain is multiplied by a positive number of its own.
    """
    rng = np.random.default_rng(seed)
    layer = str(rng.choice([name for name, W in weights.items() if W.ndim > 1]))
    return _damage(weights, layer, get_args(Damage)[rng.integers(2)], seed)


def _damage(weights: Weights, layer: str, how: Damage, seed: int) -> dict[str, Tensor]:
    found = dict(weights)
    if how == "shuffled":
        found[layer] = shuffled(weights[layer], seed=seed)
    else:  # as torch.nn.Linear begins
        generator = torch.Generator().manual_seed(seed)
        draw = torch.rand(weights[layer].shape, generator=generator, dtype=weights[layer].dtype)
        found[layer] = (2 * draw - 1) / weights[layer].shape[1] ** 0.5
    return _rescale(found, np.random.default_rng(seed))


@self_check()
def check_find_damage(find: Answer, models: Sequence[Weights]) -> str:
    """Check exercise 6.4: ``find(weights)`` names the layer that no longer knows anything.

    It takes a checkpoint, a mapping of names to tensors, and returns the name of a matrix. Each
    matrix of each of the trained `models` is damaged in both ways, one at a time, as by
    `make_mystery`. The damage must be found in 19 of 20 checkpoints.
    """
    missed: list[tuple[str, str]] = []
    n = 0
    for layer, how, weights in _mysteries(models):
        n += 1
        name = find(dict(weights))
        known = isinstance(name, str) and name in weights
        require(known, f"return the name of a layer; {name!r:.40} is none.")
        require(weights[name].ndim > 1, f"{name!r} is not a matrix; only matrices were damaged.")
        if name != layer:
            missed.append((layer, how))
    words = f"found in {n - len(missed)} of {n} checkpoints."
    worst = max(missed, key=lambda kind: (missed.count(kind), kind), default=("", ""))
    hint = f"Most often missed: {worst[0]!r}, when it was {worst[1]}."
    return pass_if(len(missed) <= (1 - _FOUND) * n, words, hint)


def _mysteries(models: Sequence[Weights]) -> Iterator[tuple[str, Damage, dict[str, Tensor]]]:
    seed = 1000
    for model in models:
        for layer in [name for name, W in model.items() if W.ndim > 1]:
            for how in get_args(Damage):
                seed += 1
                yield layer, how, _damage(model, layer, how, seed)
