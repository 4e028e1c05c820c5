"""The self-checks of tutorial 03: regions."""

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wskit.exercises._verdict import (
    Answer,
    AnswerError,
    Weights,
    as_number,
    diagnose,
    pass_if,
    require,
    self_check,
)

if TYPE_CHECKING:
    from wskit.landscape import Evaluator

_READ = 0.9  # share of the updates whose task must be read right
_WON = 0.8  # share of the regions in which a place must be better


@self_check("the updates are compared, as two vectors.")
def check_update_cosine(update_cosine: Answer) -> None:
    """Check exercise 3.1: ``update_cosine(a, b, base)`` is the cosine of two models' updates.

    It takes three dicts of tensors and returns one number, of all their entries together.
    """
    base = {"w": torch.tensor([[1.0, 1.0]]), "v": torch.tensor([2.0])}
    update = {"w": torch.tensor([[3.0, 0.0]]), "v": torch.tensor([4.0])}  # length 5
    other = {"w": torch.tensor([[0.0, 5.0]]), "v": torch.tensor([12.0])}  # length 13
    a, b = ({n: base[n] + u[n] for n in base} for u in (update, other))
    found, right = as_number(update_cosine(a, b, base)), 48 / (5 * 13)
    flat = [torch.cat([w["w"].flatten(), w["v"]]) for w in (a, b)]
    hints = {
        48: "this is the product of the updates; how long are they?",
        float(torch.cosine_similarity(*flat, dim=0)): "this compares the weights; what has "
        "training added to the base?",
        (0 + 1) / 2: "this is the mean over the tensors; they are parts of one vector.",
        np.arccos(right): "this is the angle in radians; return its cosine.",
    }
    otherwise = f"updates (3, 0, 4) and (0, 5, 12) gave {found:.3g}."
    diagnose(found, right, hints, otherwise, rtol=1e-4)


@self_check()
def check_read_task(read_task: Answer, updates: Any, task: Any, version: Any) -> str:
    """Check exercise 3.2: ``read_task(update, updates, task)`` names the task of an update.

    It takes one update, others as the rows of an array, and the tasks of these, and returns the
    task of the first. `updates` has shape (models, weights); `task` and `version`, of shape
    (models,), say what each model was fine-tuned on. All models of one task and version are held
    out together. Nine of ten tasks must be read right.
    """
    updates, task, version = map(np.asarray, (updates, task, version))
    rng, names, found = np.random.default_rng(0), sorted(set(task)), []
    for name, turned in sorted(set(zip(task, version, strict=True))):
        own = (task == name) & (version == turned)
        others = rng.permutation(np.flatnonzero(~own))
        for row in np.flatnonzero(own)[:2]:
            answer = read_task(updates[row].copy(), updates[others].copy(), task[others].copy())
            known = isinstance(answer, str) and answer in names
            require(known, f"return the name of a task, one of {', '.join(names)}.")
            found.append((row, str(answer), answer == name))
    right = np.mean([correct for *_, correct in found])
    if right >= _READ:
        return f"a share of {right:.2f} is right, each on a data set that no other has seen."
    lengths = {name: np.linalg.norm(updates[task == name], axis=1).mean() for name in names}
    longest = max(names, key=lambda name: lengths[name])
    mistaken = [longest in (answer, task[row]) for row, answer, correct in found if not correct]
    hint = f" Most mistakes involve {str(longest)!r}, whose updates are the longest."
    raise AnswerError(
        f"a share of {right:.2f} is right, and {_READ:.2f} is the goal."
        + (hint if np.mean(mistaken) > 0.6 else "")
    )


@self_check("no other order is nearer.")
def check_match_neurons(match_neurons: Answer) -> None:
    """Check exercise 3.3: ``match_neurons(A, B)`` is the order that brings B nearest to A.

    It takes two arrays of shape (neurons, inputs) and returns an order with the least squared
    distance of ``B[order]`` from ``A``.
    """
    rng = np.random.default_rng(4)
    A = rng.standard_normal((6, 8))
    order = np.array([2, 0, 3, 4, 5, 1])  # not its own inverse
    found = _as_order(match_neurons(A.copy(), A[order].copy()), 6)
    hints = {tuple(order): "this is the order that leads from A to B; return the way back."}
    otherwise = "B was A in another order, and A was not found again."
    diagnose(found, np.argsort(order), hints, otherwise)
    for case in range(6):
        scale = np.exp(rng.standard_normal((6, 1)))  # neurons of different lengths
        A = scale * (rng.standard_normal((6, 4)) + 1)
        B = A[rng.permutation(6)] + 0.7 * scale.mean() * rng.standard_normal(A.shape)
        found = _as_order(match_neurons(A.copy(), B.copy()), 6)
        own = np.square(A - B[found]).sum()
        least = min(np.square(A - B[list(each)]).sum() for each in permutations(range(6)))
        require(
            own <= least * (1 + 1e-9),
            f"pair {case + 1} of layers: the squared distance is {own:.3g}, and another order has "
            f"{least:.3g}; consider all neurons together, with their lengths.",
        )


def _as_order(found: Any, n: int) -> np.ndarray:
    order = np.asarray(found)
    require(
        order.shape == (n,) and order.dtype.kind in "iu",
        f"return {n} whole numbers, the row of B for each row of A, not an array of shape "
        f"{order.shape} and dtype {order.dtype}.",
    )
    once = sorted(order.tolist()) == list(range(n))
    require(once, "take each row of B once; some are taken twice, or never.")
    return order


@self_check()
def check_find_edge(find_edge: Answer) -> str:
    """Check exercise 3.4: ``find_edge(loss, level)`` finds where a loss rises over a level.

    It takes a function of a distance, whose calls are counted, and a level, and returns the
    distance within 1 %. It may ask 12 times on average, over rays of several shapes and with edges
    from 0.3 to 200.
    """
    counts = []
    for i, edge in enumerate(np.geomspace(0.3, 200, 12)):
        power, calls, start = (1.0, 2.0, 6.0)[i % 3], 0, 0.1 * i

        def loss(
            alpha: float, edge: float = edge, power: float = power, start: float = start
        ) -> float:
            nonlocal calls
            calls += 1
            require(calls <= 200, "200 questions were not enough for one ray.")
            return float(start + (abs(float(alpha)) / edge) ** power)

        found = as_number(find_edge(loss, start + 1.0))
        off = abs(found / edge - 1)
        require(
            off <= 0.01 + 1e-9,
            f"on ray {i + 1} of 12 the answer was {found:.4g}, which is {off:.1%} off.",
        )
        counts.append(calls)
    mean = np.mean(counts)
    words = f"all edges are right, with {mean:.1f} questions on average, {max(counts)} at most."
    return pass_if(mean <= 12, words, "The goal is an average of 12 or less.")


@self_check()
def check_place(
    place: Answer, regions: Sequence[Mapping[str, Weights]], evaluate: "Evaluator"
) -> str:
    """Check exercise 3.5: ``place()`` is outside a triangle and better than its corners.

    It returns a dict of three names of models and their shares, which sum to 1. `regions` maps the
    same names to models for each base; `evaluate` measures a loss on images that the place was not
    chosen on. The loss must be below that of all three corners, on average and in four of five
    regions.
    """
    # Imported here because it loads pandas and tqdm, which other exercises do not need.
    from wskit.landscape import evaluate_mixtures

    names, shares = _as_shares(place(), regions[0])
    at = np.vstack([shares, np.eye(3)])
    losses = np.array(
        [
            evaluate_mixtures(evaluate, [region[name] for name in names], at)["loss"].to_numpy()
            for region in regions
        ]
    )
    own, corners = losses[:, 0], losses[:, 1:].min(axis=1)
    won = (own < corners).mean()
    words = (
        f"a loss of {own.mean():.3f}, where the best corners have {corners.mean():.3f}; it is "
        f"lower in a share of {won:.2f} of {len(own)} regions."
    )
    better = own.mean() < corners.mean() and won >= _WON
    return pass_if(better, words, "These are images that the panel has not shown.")


def _as_shares(found: Any, models: Mapping[str, Any]) -> tuple[list[str], np.ndarray]:
    three = isinstance(found, Mapping) and len(found) == 3
    require(three, "return a dict of three names of models and their shares.")
    for name in found:
        known = name in models
        require(known, f"there is no model {name!r:.40}; the panel lists their names.")
    shares = np.array([as_number(share) for share in found.values()])
    total = shares.sum()
    require(
        abs(total - 1) <= 1e-6,
        f"the shares sum to {total:.3g}; on the plane of the three they sum to 1.",
    )
    outside = shares.min() <= -0.01
    require(outside, "this place is inside the triangle; outside, a share is negative.")
    return list(found), shares
