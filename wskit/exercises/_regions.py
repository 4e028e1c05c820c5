"""The self-checks of tutorial 03: regions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from wskit.exercises._verdict import AnswerError, Verdict, as_number, verdict_on


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


def check_find_edge(find_edge: object) -> Verdict:
    """Check exercise 3.2: ``find_edge(loss, level)`` finds where a loss rises over a level.

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
