"""The self-checks of tutorial 07: many checkpoints."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor

from wskit.exercises._verdict import AnswerError, Verdict, as_number, verdict_on
from wskit.spectra import shuffled
from wskit.zoo import Zoo

_GOOD = 0.9  # of the test accuracy: from there on a network may be damaged
_DAMAGED, _ROUNDS, _SHARE = 6, 5, 0.8  # networks a round, rounds, share that must be found


def check_safe_row(safe: object) -> Verdict:
    """Check exercise 7.1: ``safe(func, path)`` is the row of a checkpoint, or why there is none.

    Parameters
    ----------
    safe : callable
        Takes a function of a path and a path; returns the function's row, or where it fails a row
        whose ``"reason"`` is the kind and the words of the error.

    Returns
    -------
    Verdict
    """
    return verdict_on(_safe_row, safe, "a row in any case, and the reason is in it.")


def _safe_row(safe: Callable[..., Any]) -> None:
    row = _ask(safe, lambda path: {"length": len(path)})
    if "length" not in row or row["length"] != 3:
        raise AnswerError(f"a function that works returned {{'length': 3}}, and yours {row!r:.60}.")
    if row.get("reason") is not None:
        raise AnswerError(f"nothing had failed, and the reason was {row['reason']!r:.60}.")
    for error in (ValueError("9 bytes are missing"), KeyError("fc2.weight"), OSError("disk gone")):
        found = _ask(safe, _raising(error))
        reason = str(found.get("reason"))
        if "reason" not in found:
            raise AnswerError(f"a function that raised gave {found!r:.60}, without a 'reason'.")
        if str(error) not in reason:
            raise AnswerError(f"the error said {str(error)!r}, the reason is {reason!r:.60}.")
        if type(error).__name__ not in reason:
            raise AnswerError(f"{reason!r:.60} does not tell what kind of error it was.")
    try:
        safe(_raising(KeyboardInterrupt()), "a.b")
    except KeyboardInterrupt:
        return
    raise AnswerError("somebody pressed stop, and your function went on: which errors to catch?")


def _ask(safe: Callable[..., Any], func: Callable[[str], object]) -> Mapping[str, Any]:
    try:
        row = safe(func, "a.b")
    except (ValueError, KeyError, OSError) as error:
        raise AnswerError(
            f"{type(error).__name__} got out, and would end the run of a million."
        ) from None
    if not isinstance(row, Mapping):
        raise AnswerError(f"return a row, a mapping of names to values, not {type(row).__name__}.")
    return row


def _raising(error: BaseException) -> Callable[[str], object]:
    def func(path: str) -> object:
        raise error

    return func


def check_cost_exponent(exponent: object) -> Verdict:
    """Check exercise 7.2: ``exponent(sides, seconds)`` is the power with which a cost grows.

    Parameters
    ----------
    exponent : callable
        Takes the sides of n matrices, an array of shape (n,), and times of shape (n, repeats), of
        which a few were taken while another program ran; returns one number.

    Returns
    -------
    Verdict
    """
    return verdict_on(_cost_exponent, exponent, "the power law of the cost, disturbed or not.")


def _cost_exponent(exponent: Callable[..., Any]) -> None:
    sides = np.array([64.0, 128.0, 256.0, 512.0, 1024.0])
    for power in (3.0, 2.2):
        seconds = np.repeat(1e-9 * sides[:, None] ** power, 5, axis=1)
        found = as_number(exponent(sides.copy(), seconds.copy()))
        if np.isclose(found, 1 / power, rtol=0.02):
            raise AnswerError("the two axes are exchanged: which of them is the cause?")
        if np.isclose(found, -power, rtol=0.02):
            raise AnswerError("the sign is wrong: a larger matrix takes longer.")
        if not np.isclose(found, power, rtol=0.02):
            raise AnswerError(
                f"times that grow as the {power:g}th power gave {found:.3g}; on which axes is a "
                "power law a straight line?"
            )
        seconds[0, 1], seconds[1, 4] = 40 * seconds[0, 1], 25 * seconds[1, 4]
        found = as_number(exponent(sides.copy(), seconds.copy()))
        if not np.isclose(found, power, rtol=0.02):
            raise AnswerError(
                f"two of 25 times were disturbed, and {power:g} became {found:.3g}: how are "
                "repeats put together?"
            )


def check_hours(hours: object) -> Verdict:
    """Check exercise 7.3: ``hours(n, workers, seconds, megabytes, bandwidth, rate)`` of a run.

    Parameters
    ----------
    hours : callable
        Takes the number of checkpoints, that of workers, the seconds of computing and the
        megabytes of one checkpoint, the megabytes a second that the storage gives to all workers
        together, and the tasks a second that the scheduler hands out; returns the hours of a run
        in which the three go on at the same time.

    Returns
    -------
    Verdict
    """
    return verdict_on(_hours, hours, "the narrowest place decides.")


_CASES = (  # n, workers, seconds, megabytes, bandwidth, rate: another bottleneck each
    (360_000, 4, 0.5, 1.0, 1000.0, 4000.0),
    (360_000, 400, 0.1, 200.0, 1000.0, 5000.0),
    (7_200_000, 400, 0.001, 0.002, 1000.0, 500.0),
)


def _hours(hours: Callable[..., Any]) -> None:
    places = ("the workers compute", "the storage is read", "the scheduler hands out tasks")
    for case, place in zip(_CASES, places, strict=True):
        n, workers, seconds, megabytes, bandwidth, rate = case
        parts = np.array([n * seconds / workers, n * megabytes / bandwidth, n / rate]) / 3600
        found, right = as_number(hours(*case)), parts.max()
        if np.isclose(found, right, rtol=1e-6):
            continue
        if np.isclose(found, 3600 * right):
            raise AnswerError("these are seconds; hours are asked for.")
        if np.isclose(found, parts.sum()):
            raise AnswerError("the three were added, as if each waited for the other two to end.")
        if np.isclose(found, parts.min()):
            raise AnswerError("the fastest of the three has to wait for the slowest.")
        if np.isclose(found, n * seconds / 3600):
            raise AnswerError("one worker would take so long; how many are there?")
        shared = max(parts[0], parts[1] / workers, parts[2])
        if np.isclose(found, shared) or np.isclose(found, max(shared, parts[2] / workers)):
            raise AnswerError("more workers read the same storage: it gives no more for that.")
        if np.isclose(found, max(parts[:2].max(), parts[2] / workers)):
            raise AnswerError("there is one scheduler, however many workers it has.")
        raise AnswerError(f"where {place} for longest, {right:.3g} h are right, not {found:.3g}.")


def make_damaged(zoo: Zoo, *, seed: int) -> tuple[Zoo, list[int]]:
    """Return a zoo six of whose networks were damaged without an error in their files.

    Parameters
    ----------
    zoo : Zoo
        Of `wskit.zoo.MLP` networks, with their `test_accuracy`.
    seed : int
        It chooses networks, layers, and what happens to each.

    Returns
    -------
    tuple of Zoo and list of int
        The records are as they were: they say how good each was before. And the rows of the
        damaged ones.
    """
    rng = np.random.default_rng(seed)
    good = np.flatnonzero(zoo.records.test_accuracy >= _GOOD)
    rows = sorted(int(row) for row in rng.choice(good, _DAMAGED, replace=False))
    layers = [name for name, stack in zoo.weights.items() if stack.ndim > 2][:-1]
    weights = {name: stack.clone() for name, stack in zoo.weights.items()}
    for place, row in enumerate(rows):
        name = str(rng.choice(layers))
        weights[name][row] = _damage(weights[name][row], place % 3, seed + row)
    return replace(zoo, weights=weights), rows


def _damage(W: Tensor, kind: int, seed: int) -> Tensor:
    """Shuffle the entries, draw others of the same size, or lose the second half."""
    if kind == 0:
        return shuffled(W, seed=seed)
    if kind == 1:
        draw = torch.Generator().manual_seed(seed)
        return torch.randn(W.shape, generator=draw) * W.std()
    return torch.cat([W[: len(W) // 2], torch.zeros_like(W[len(W) // 2 :])])


def check_suspicion(
    suspicion: object, func: Callable[[str], Mapping[str, Any]], table: pd.DataFrame, zoo: Zoo
) -> Verdict:
    """Check exercise 7.4: ``suspicion(table)`` is highest for damaged checkpoints.

    Parameters
    ----------
    suspicion : callable
        Takes a table of a row a checkpoint; returns a number a row.
    func : callable
        Made the columns of the table from a path.
    table : DataFrame
        Of the checkpoints of `zoo`, in its order, with their `test_accuracy`.
    zoo : Zoo
        Five times other six of its networks are damaged, as by `make_damaged`.

    Returns
    -------
    Verdict
        Passed if four fifths of the damaged ones are among the six most suspicious.
    """
    return verdict_on(lambda answer: _suspicion(answer, func, table, zoo), suspicion, "")


def _suspicion(
    suspicion: Callable[..., Any],
    func: Callable[[str], Mapping[str, Any]],
    table: pd.DataFrame,
    zoo: Zoo,
) -> str:
    found = 0
    for seed in range(700, 700 + _ROUNDS):
        damaged, rows = make_damaged(zoo, seed=seed)
        seen = _numbers(suspicion(_with_rows(table, func, damaged, rows)), len(table))
        found += len(set(np.argsort(-seen, kind="stable")[:_DAMAGED]) & set(rows))
    n = _ROUNDS * _DAMAGED
    words = f"{found} of {n} damaged checkpoints are among the {_DAMAGED} most suspicious."
    if found < _SHARE * n:
        raise AnswerError(words)
    return words


def _with_rows(
    table: pd.DataFrame, func: Callable[[str], Mapping[str, Any]], zoo: Zoo, rows: list[int]
) -> pd.DataFrame:
    """Return the table with new rows for damaged checkpoints, from files as `func` reads them."""
    table = table.copy()
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            path = f"{folder}/{row}.safetensors"
            save_file({name: W.contiguous() for name, W in zoo.model(row).items()}, path)
            for name, value in func(path).items():
                table.loc[table.index[row], name] = value
    return table


def _numbers(values: Any, n: int) -> np.ndarray:
    try:
        found = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise AnswerError(f"return a number a row, not {type(values).__name__}.") from None
    if found.shape != (n,):
        raise AnswerError(f"return {n} numbers, one a row, not an array of shape {found.shape}.")
    if not np.isfinite(found).all():
        raise AnswerError(f"{(~np.isfinite(found)).sum()} of the numbers are not finite.")
    return found
