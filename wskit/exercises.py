"""The tutorials' self-checks: they say what is wrong and hint, and never tell the answer.

Each check takes the reader's function, tries it on cases of its own, and returns a `Verdict`.
Whatever the function does, a check raises nothing: an exercise that is not done yet must not stop
a notebook.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from wskit.zoo import Zoo

__all__ = [
    "Verdict",
    "check_feature",
    "check_find_edge",
    "check_marchenko_pastur_edge",
    "check_permute_hidden",
    "check_power_law_exponent",
    "check_update_cosine",
    "check_weight_correlation",
]


@dataclass(frozen=True)
class Verdict:
    """What a self-check found; printed, it is one line.

    Attributes
    ----------
    passed : bool
    message : str
        What was right, or what is wrong and where to look.
    """

    passed: bool
    message: str

    def __str__(self) -> str:
        return f"{'Passed' if self.passed else 'Not yet'}: {self.message}"


class _AnswerError(Exception):
    """What is wrong with an answer, in words for the reader."""


def check_permute_hidden(permute_hidden: object) -> Verdict:
    """Check exercise 0.1: ``permute_hidden(weights, order)`` moves the hidden neurons of an MLP.

    Parameters
    ----------
    permute_hidden : callable
        Takes the ``state_dict`` of ``Sequential(Linear, ReLU, Linear)`` and `order`, a tensor of
        shape (n_hidden,), and returns new weights in which hidden neuron i is the old one
        ``order[i]``.

    Returns
    -------
    Verdict
    """
    return _verdict(_permute_hidden, permute_hidden, "same function, other weights.")


def _permute_hidden(permute_hidden: Callable[..., Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"0.weight": (5, 3), "0.bias": (5,), "2.weight": (2, 5), "2.bias": (2,)}
    weights = {k: torch.randn(*shape, generator=generator) for k, shape in shapes.items()}
    before = {k: W.clone() for k, W in weights.items()}
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = permute_hidden(weights, order)
    if not isinstance(moved, Mapping) or set(moved) != set(weights):
        raise _AnswerError(f"return a dict with the names {sorted(weights)}.")
    for k, W in moved.items():
        if not isinstance(W, Tensor) or W.shape != weights[k].shape:
            raise _AnswerError(f"{k!r} must stay a tensor of shape {tuple(before[k].shape)}.")
    if any(not torch.equal(weights[k], before[k]) for k in weights):
        raise _AnswerError("the weights that were given have changed; make new ones instead.")
    if all(torch.equal(moved[k], before[k]) for k in moved):
        raise _AnswerError("these are the weights that were given; no neuron has moved.")
    if not torch.equal(moved["2.bias"], before["2.bias"]):
        raise _AnswerError("'2.bias' belongs to the outputs, which stay where they are.")

    def output(w: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return torch.relu(x @ w["0.weight"].T + w["0.bias"]) @ w["2.weight"].T + w["2.bias"]

    x = torch.randn(20, 3, generator=generator)
    if not torch.allclose(output(moved, x), output(before, x), atol=1e-5):
        raise _AnswerError(
            "the function has changed. A hidden neuron owns a part of three tensors: all of "
            "them must move, along the axis that counts hidden neurons, and in the same order."
        )
    if not torch.equal(moved["0.bias"], before["0.bias"][order]):
        raise _AnswerError(
            "the function is the same, but neuron i must be the old neuron order[i]."
        )


def check_power_law_exponent(exponent: object) -> Verdict:
    """Check exercise 1.1: ``exponent(eigenvalues, xmin)`` is the maximum-likelihood alpha.

    Parameters
    ----------
    exponent : callable
        Takes an array of shape (n,) and a number; returns alpha of the tail from `xmin` on.

    Returns
    -------
    Verdict
    """
    return _verdict(_power_law_exponent, exponent, "alpha is the maximum-likelihood estimate.")


def _power_law_exponent(exponent: Callable[..., Any]) -> None:
    # A tail whose logarithms ln(x/xmin) are known, above a body that must not count.
    logs = np.array([0.0, 0.2, 0.5, 0.7, 1.6])
    body, xmin = np.array([0.01, 0.1, 0.5]), 2.0
    eigenvalues = np.concatenate([body, xmin * np.exp(logs)])
    wanted = _as_number(exponent(xmin * np.exp(logs), xmin))
    right = 1 + logs.size / logs.sum()
    if np.isclose(wanted, right - 1):
        raise _AnswerError(
            "this is the exponent of the survival function; the density's is larger."
        )
    if np.isclose(wanted, 1 + logs.size * np.log(10) / logs.sum()):
        raise _AnswerError("the likelihood has natural logarithms.")
    if np.isclose(wanted, 1 + logs.size / np.log(xmin * np.exp(logs)).sum()):
        raise _AnswerError(
            "the logarithms are of x/xmin: the tail is measured from where it begins."
        )
    if not np.isclose(wanted, right):
        raise _AnswerError(
            f"five values with a mean ln(x/xmin) of {logs.mean():.2f} gave {wanted:.3g}."
        )
    if not np.isclose(_as_number(exponent(eigenvalues, xmin)), right):
        raise _AnswerError("values below xmin belong to the bulk; they must change nothing.")
    if not np.isclose(_as_number(exponent(3 * eigenvalues, 3 * xmin)), right):
        raise _AnswerError(
            "alpha must not depend on the units: scale the values and xmin by 3 and look."
        )


def check_marchenko_pastur_edge(edge: object) -> Verdict:
    """Check exercise 1.2: ``edge(N, M, sigma)`` is the upper edge of the eigenvalues of W^T W.

    Parameters
    ----------
    edge : callable
        Takes the sides N >= M of a matrix and the standard deviation of its entries; returns one
        number.

    Returns
    -------
    Verdict
    """
    return _verdict(_marchenko_pastur_edge, edge, "that is where chance ends.")


def _marchenko_pastur_edge(edge: Callable[..., Any]) -> None:
    N, M, sigma = 1600, 400, 0.5
    found = _as_number(edge(N, M, sigma))
    right = (sigma * (np.sqrt(N) + np.sqrt(M))) ** 2
    if np.isclose(found, right / N):
        raise _AnswerError("this is the edge of W^T W / N; the eigenvalues here have no 1/N.")
    if np.isclose(found, (sigma * (np.sqrt(N) - np.sqrt(M))) ** 2):
        raise _AnswerError("this is the lower edge.")
    if np.isclose(found, right / sigma):
        raise _AnswerError("eigenvalues scale with the variance of the entries, not with sigma.")
    if np.isclose(found, np.sqrt(right)):
        raise _AnswerError("this is a singular value; an eigenvalue of W^T W is its square.")
    if np.isclose(found, sigma**2 * N * (1 + np.sqrt(N / M)) ** 2):
        raise _AnswerError("Q = N/M is in the denominator under the root.")
    if not np.isclose(found, right):
        raise _AnswerError(f"N = {N}, M = {M} and sigma = {sigma} gave {found:.4g}.")
    if not np.isclose(_as_number(edge(N, N, 1.0)), 4 * N):
        raise _AnswerError("a square matrix, Q = 1, comes out wrong.")


def check_weight_correlation(correlation_of: object) -> Verdict:
    """Check exercise 2.1: ``correlation_of(W)`` is the weight correlation of a dense layer.

    Parameters
    ----------
    correlation_of : callable
        Takes an array of shape (neurons, inputs); returns the mean absolute cosine over all pairs
        of two different neurons, without those whose weights are all zero.

    Returns
    -------
    Verdict
    """
    return _verdict(_weight_correlation, correlation_of, "the neurons are compared, pair by pair.")


def _weight_correlation(correlation_of: Callable[..., Any]) -> None:
    W = np.array([[3.0, 4.0], [-4.0, -3.0], [0.0, 2.0]])  # cosines -0.96, 0.8, -0.6
    found = _as_number(correlation_of(W.copy()))
    if np.isclose(found, (3 + 2 * 2.36) / 9):
        raise _AnswerError("every neuron is like itself: the diagonal does not count.")
    if np.isclose(found, (-0.96 + 0.8 - 0.6) / 3):
        raise _AnswerError("opposite neurons are as redundant as equal ones: take absolute values.")
    if np.isclose(found, (24 + 8 + 6) / 3):
        raise _AnswerError("these are products, not cosines: how long are the rows?")
    columns = W / np.linalg.norm(W, axis=0)
    if np.isclose(found, abs(columns[:, 0] @ columns[:, 1])):
        raise _AnswerError("these are the inputs; a neuron is a row.")
    if not np.isclose(found, 2.36 / 3):
        raise _AnswerError(f"three neurons with cosines of -0.96, 0.8 and -0.6 gave {found:.3g}.")
    with np.errstate(all="ignore"):
        dead = np.concatenate([W, np.zeros((2, 2))])
        try:
            found = _as_number(correlation_of(dead))
        except _AnswerError:
            raise _AnswerError("a neuron whose weights are all zero has no direction.") from None
    if not np.isclose(found, 2.36 / 3):
        raise _AnswerError("neurons whose weights are all zero must change nothing.")


def check_feature(design: object, zoo: "Zoo") -> Verdict:
    """Check exercise 2.2: ``design(models)`` tells more than the statistics of the weights alone.

    Parameters
    ----------
    design : callable
        Takes a `Zoo` whose records hold `activation` only; returns an array of shape (models,) or
        (models, features).
    zoo : Zoo
        With ``test_accuracy`` and ``run`` in its records.

    Returns
    -------
    Verdict
        Passed if tau on held-out runs, over five splits, is higher than that of
        `wskit.features.weight_statistics` alone by more than the standard error of the gain.
    """
    return _verdict(lambda answer: _feature(answer, zoo), design, "")


def _feature(design: Callable[..., Any], zoo: "Zoo") -> str:
    # Here, as they load scikit-learn: the other tutorials' checks need none of it.
    import pandas as pd

    from wskit import predictors
    from wskit.features import weight_statistics
    from wskit.zoo import Zoo

    found = np.asarray(design(Zoo(zoo.weights, zoo.records[["activation"]].copy())), dtype=float)
    if found.ndim not in (1, 2) or len(found) != len(zoo):
        raise _AnswerError(
            f"a row for each of the {len(zoo)} networks is needed, got the shape {found.shape}."
        )
    if np.isinf(found).any():
        raise _AnswerError("there are infinite values; NaN stands for what is missing.")
    own = found.reshape(len(zoo), -1)
    columns = [f"designed.{i}" for i in range(own.shape[1])]
    base = weight_statistics(zoo.weights)
    y, runs = zoo.records["test_accuracy"], zoo.records["run"]
    taus = [
        predictors.evaluate(predictors.boosted_trees(random_state=0), X, y, runs, rng=97).scores.tau
        for X in (base, base.join(pd.DataFrame(own, columns=columns)))
    ]
    gain = taus[1] - taus[0]
    words = (
        f"tau {taus[1].mean():.2f} with your feature and {taus[0].mean():.2f} without, a gain of "
        f"{gain.mean():.3f} ± {gain.std():.3f} over {len(gain)} hidden splits."
    )
    if gain.mean() <= gain.std() / np.sqrt(len(gain)):
        raise _AnswerError(words)
    return words


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
    return _verdict(_update_cosine, update_cosine, "the updates are compared, as two vectors.")


def _update_cosine(update_cosine: Callable[..., Any]) -> None:
    base = {"w": torch.tensor([[1.0, 1.0]]), "v": torch.tensor([2.0])}
    updates = {"w": torch.tensor([[3.0, 0.0]]), "v": torch.tensor([4.0])}  # of length 5
    others = {"w": torch.tensor([[0.0, 5.0]]), "v": torch.tensor([12.0])}  # of length 13
    a, b = ({n: base[n] + u[n] for n in base} for u in (updates, others))
    found = _as_number(update_cosine(a, b, base))
    wanted = 48 / (5 * 13)
    if np.isclose(found, 48):
        raise _AnswerError("this is the product of the updates; how long are they?")
    flat = [torch.cat([w["w"].flatten(), w["v"]]) for w in (a, b)]
    if np.isclose(found, (flat[0] @ flat[1] / flat[0].norm() / flat[1].norm()).item(), rtol=1e-4):
        raise _AnswerError("this compares the weights; what has training added to the base?")
    if np.isclose(found, (0 + 1) / 2):
        raise _AnswerError("this is the mean over the tensors; they are parts of one vector.")
    if np.isclose(found, np.arccos(wanted), rtol=1e-4):
        raise _AnswerError("this is the angle, in radians; its cosine is asked for.")
    if not np.isclose(found, wanted, rtol=1e-4):
        raise _AnswerError(f"updates (3, 0, 4) and (0, 5, 12) gave {found:.3g}.")


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
    return _verdict(_find_edge, find_edge, "")


def _find_edge(find_edge: Callable[..., Any]) -> str:
    counts = []
    for i, edge in enumerate(np.geomspace(0.3, 200, 12)):
        power, calls, start = (1.0, 2.0, 6.0)[i % 3], 0, 0.1 * i
        level = start + 1.0

        def loss(alpha: float, edge: float = edge, power: float = power) -> float:
            nonlocal calls
            calls += 1
            if calls > 200:
                raise _AnswerError("200 questions were not enough for one ray.")
            return float(start + (abs(float(alpha)) / edge) ** power)  # noqa: B023 - called here

        found = _as_number(find_edge(loss, level))
        if abs(found / edge - 1) > 0.01 + 1e-9:
            raise _AnswerError(
                f"on ray {i + 1} of 12 the answer was {found:.4g}, which is "
                f"{abs(found / edge - 1):.1%} off."
            )
        counts.append(calls)
    words = f"{np.mean(counts):.1f} questions on average, {max(counts)} at most."
    if np.mean(counts) > 12:
        raise _AnswerError(f"all edges are right, with {words} At most 12 are the goal.")
    return f"all edges are right, with {words}"


def _as_number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise _AnswerError(f"return one number, not {type(value).__name__}.") from None
    if not np.isfinite(number):
        raise _AnswerError(f"return a finite number, not {number}.")
    return number


def _verdict(check: Callable[[Any], str | None], answer: object, praise: str) -> Verdict:
    if not callable(answer):
        return Verdict(False, f"a function is asked for, not {type(answer).__name__}.")
    try:
        praise = check(answer) or praise
    except NotImplementedError:
        return Verdict(False, "write the function in the cell above, then run this one again.")
    except _AnswerError as wrong:
        return Verdict(False, str(wrong))
    except Exception as error:
        return Verdict(False, f"your function raised {type(error).__name__}: {error}")
    return Verdict(True, praise)
