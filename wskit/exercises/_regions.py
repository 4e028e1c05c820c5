"""The self-checks of tutorial 03: regions."""

from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wskit.exercises._verdict import AnswerError, Verdict, as_number, verdict_on

if TYPE_CHECKING:
    from wskit.landscape import Evaluator

_READ = 0.9  # of the updates whose task must be read right
_WON = 0.8  # of the regions, for a place to pass


def check_update_cosine(update_cosine: object) -> Verdict:
    """Check exercise 3.1: ``update_cosine(a, b, base)`` is the cosine of two models' updates.

    Parameters
    ----------
    update_cosine : callable
        Takes three dicts of tensors; returns one number, of all their entries together.

    Returns
    -------
    Verdict
    """
    return verdict_on(_update_cosine, update_cosine, "the updates are compared, as two vectors.")


def _update_cosine(update_cosine: Callable[..., Any]) -> None:
    base = {"w": torch.tensor([[1.0, 1.0]]), "v": torch.tensor([2.0])}
    updates = {"w": torch.tensor([[3.0, 0.0]]), "v": torch.tensor([4.0])}  # of length 5
    others = {"w": torch.tensor([[0.0, 5.0]]), "v": torch.tensor([12.0])}  # of length 13
    a, b = ({n: base[n] + u[n] for n in base} for u in (updates, others))
    found = as_number(update_cosine(a, b, base))
    wanted = 48 / (5 * 13)
    if np.isclose(found, 48):
        raise AnswerError("this is the product of the updates; how long are they?")
    flat = [torch.cat([w["w"].flatten(), w["v"]]) for w in (a, b)]
    if np.isclose(found, (flat[0] @ flat[1] / flat[0].norm() / flat[1].norm()).item(), rtol=1e-4):
        raise AnswerError("this compares the weights; what has training added to the base?")
    if np.isclose(found, (0 + 1) / 2):
        raise AnswerError("this is the mean over the tensors; they are parts of one vector.")
    if np.isclose(found, np.arccos(wanted), rtol=1e-4):
        raise AnswerError("this is the angle, in radians; its cosine is asked for.")
    if not np.isclose(found, wanted, rtol=1e-4):
        raise AnswerError(f"updates (3, 0, 4) and (0, 5, 12) gave {found:.3g}.")


def check_read_task(read_task: object, updates: Any, task: Any, version: Any) -> Verdict:
    """Check exercise 3.2: ``read_task(update, updates, task)`` names the task of an update.

    Parameters
    ----------
    read_task : callable
        Takes one update, others as the rows of an array, and the tasks of these; returns the task
        of the first.
    updates : array of shape (models, weights)
    task, version : array of shape (models,)
        What each model was fine-tuned on. All models of one task and one version are held out
        together.

    Returns
    -------
    Verdict
        Passed if nine of ten are right, of data sets that no other update has seen.
    """
    known = np.asarray(updates), np.asarray(task), np.asarray(version)
    return verdict_on(lambda answer: _read_task(answer, *known), read_task, "")


def _read_task(
    read_task: Callable[..., Any], updates: np.ndarray, task: np.ndarray, version: np.ndarray
) -> str:
    rng, names, found = np.random.default_rng(0), set(task), []
    for name, turned in sorted(set(zip(task, version, strict=True))):
        own = (task == name) & (version == turned)
        others = rng.permutation(np.flatnonzero(~own))
        for row in np.flatnonzero(own)[:2]:
            answer = read_task(updates[row].copy(), updates[others].copy(), task[others].copy())
            if not isinstance(answer, str) or answer not in names:
                raise AnswerError(f"return the name of a task, one of {', '.join(sorted(names))}.")
            found.append((row, str(answer), answer == name))
    right = np.mean([correct for *_, correct in found])
    if right >= _READ:
        return f"a share of {right:.2f} is right, each on a data set that no other has seen."
    words = f"a share of {right:.2f} is right, and {_READ:.2f} is the goal."
    lengths = {name: np.linalg.norm(updates[task == name], axis=1).mean() for name in names}
    longest = max(lengths, key=lambda name: lengths[name])
    mistaken = [longest in (answer, task[row]) for row, answer, correct in found if not correct]
    if np.mean(mistaken) > 0.6:
        words += f" Most mistakes have to do with {str(longest)!r}, whose updates are the longest."
    raise AnswerError(words)


def check_match_neurons(match_neurons: object) -> Verdict:
    """Check exercise 3.3: ``match_neurons(A, B)`` is the order that brings B nearest to A.

    Parameters
    ----------
    match_neurons : callable
        Takes two arrays of shape (neurons, inputs); returns an order with the least squared
        distance of ``B[order]`` to ``A``.

    Returns
    -------
    Verdict
    """
    return verdict_on(_match_neurons, match_neurons, "no other order is nearer.")


def _match_neurons(match_neurons: Callable[..., Any]) -> None:
    rng = np.random.default_rng(4)
    A = rng.standard_normal((6, 8))
    order = np.array([2, 0, 3, 4, 5, 1])  # another than its inverse
    found = _order_of(match_neurons(A.copy(), A[order].copy()), A)
    if np.array_equal(found, order):
        raise AnswerError("this is the order that leads from A to B; the way back is asked for.")
    if not np.array_equal(found, np.argsort(order)):
        raise AnswerError("B was A in another order, and A was not found again.")
    for case in range(6):
        scale = np.exp(rng.standard_normal((6, 1)))  # neurons of other lengths
        A = scale * (rng.standard_normal((6, 4)) + 1)
        B = A[rng.permutation(6)] + 0.7 * scale.mean() * rng.standard_normal(A.shape)
        found = _order_of(match_neurons(A.copy(), B.copy()), A)
        own = np.square(A - B[found]).sum()
        least = min(np.square(A - B[list(each)]).sum() for each in permutations(range(6)))
        if own > least * (1 + 1e-9):
            raise AnswerError(
                f"pair {case + 1} of layers: the squared distance is {own:.3g}, and another order "
                f"has {least:.3g}; all neurons must be considered together, with their lengths."
            )


def _order_of(found: Any, A: np.ndarray) -> np.ndarray:
    order = np.asarray(found)
    if order.shape != (len(A),) or order.dtype.kind not in "iu":
        raise AnswerError(
            f"return {len(A)} whole numbers, the row of B for each row of A, not the shape "
            f"{order.shape} of {order.dtype}."
        )
    if set(order.tolist()) != set(range(len(A))):
        raise AnswerError("each row of B must be taken once; some are taken twice, or never.")
    return order


def check_find_edge(find_edge: object) -> Verdict:
    """Check exercise 3.4: ``find_edge(loss, level)`` finds where a loss rises over a level.

    Parameters
    ----------
    find_edge : callable
        Takes a function of a distance, whose calls are counted, and a level; returns the distance
        within 1 %.

    Returns
    -------
    Verdict
        Passed with at most 12 calls on average, over rays of several shapes and edges from 0.3
        to 200.
    """
    return verdict_on(_find_edge, find_edge, "")


def _find_edge(find_edge: Callable[..., Any]) -> str:
    counts = []
    for i, edge in enumerate(np.geomspace(0.3, 200, 12)):
        power, calls, start = (1.0, 2.0, 6.0)[i % 3], 0, 0.1 * i
        level = start + 1.0

        def loss(alpha: float, edge: float = edge, power: float = power) -> float:
            nonlocal calls
            calls += 1
            if calls > 200:
                raise AnswerError("200 questions were not enough for one ray.")
            return float(start + (abs(float(alpha)) / edge) ** power)  # noqa: B023 - called here

        found = as_number(find_edge(loss, level))
        if abs(found / edge - 1) > 0.01 + 1e-9:
            raise AnswerError(
                f"on ray {i + 1} of 12 the answer was {found:.4g}, which is "
                f"{abs(found / edge - 1):.1%} off."
            )
        counts.append(calls)
    words = f"{np.mean(counts):.1f} questions on average, {max(counts)} at most."
    if np.mean(counts) > 12:
        raise AnswerError(f"all edges are right, with {words} At most 12 are the goal.")
    return f"all edges are right, with {words}"


def check_place(
    place: object,
    regions: Sequence[Mapping[str, Mapping[str, Tensor]]],
    evaluate: "Evaluator",
) -> Verdict:
    """Check exercise 3.5: ``place()`` is outside a triangle and better than its corners.

    Parameters
    ----------
    place : callable
        Returns three names of models and their shares, which sum to 1, as a dict.
    regions : sequence of mapping of names to models
        One a base, with the same names.
    evaluate : Evaluator
        With a loss, on images that the place was not chosen on.

    Returns
    -------
    Verdict
        Passed if the loss there is below that of all three corners: on average, and in four of
        five regions.
    """
    return verdict_on(lambda answer: _place(answer, regions, evaluate), place, "")


def _place(
    place: Callable[..., Any],
    regions: Sequence[Mapping[str, Mapping[str, Tensor]]],
    evaluate: "Evaluator",
) -> str:
    # Here, as it loads pandas and tqdm: a check of another exercise needs neither.
    from wskit.landscape import evaluate_mixtures

    names, shares = _shares_of(place(), regions[0])
    at = np.vstack([shares, np.eye(3)])
    losses = [
        evaluate_mixtures(evaluate, [region[name] for name in names], at)["loss"].to_numpy()
        for region in regions
    ]
    own, corners = np.array(losses)[:, 0], np.array(losses)[:, 1:].min(axis=1)
    won = (own < corners).mean()
    words = (
        f"a loss of {own.mean():.3f} beside {corners.mean():.3f} of the best corners, and lower in "
        f"a share of {won:.2f} of {len(own)} regions."
    )
    if own.mean() >= corners.mean() or won < _WON:
        raise AnswerError(f"{words} These are images that the panel has not shown.")
    return words


def _shares_of(found: Any, models: Mapping[str, Any]) -> tuple[list[str], np.ndarray]:
    if not isinstance(found, Mapping) or len(found) != 3:
        raise AnswerError("return a dict of three names of models and their shares.")
    strange = [name for name in found if name not in models]
    if strange:
        raise AnswerError(f"there is no model {strange[0]!r:.40}; the panel lists their names.")
    shares = np.array([as_number(share) for share in found.values()])
    if abs(shares.sum() - 1) > 1e-6:
        raise AnswerError(
            f"the shares sum to {shares.sum():.3g}; on the plane of the three they sum to 1."
        )
    if shares.min() > -0.01:
        raise AnswerError("this place is inside of the triangle; outside, a share is negative.")
    return list(found), shares
