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

from wskit.exercises._verdict import (
    Answer,
    AnswerError,
    as_array,
    as_number,
    diagnose,
    pass_if,
    require,
    self_check,
)
from wskit.spectra import shuffled
from wskit.zoo import Zoo

_GOOD = 0.9  # test accuracy from which on a network may be damaged
_DAMAGED, _ROUNDS, _SHARE = 6, 5, 0.8  # networks per round, rounds, share that must be found


@self_check("there is a row in any case, and the reason is in it.")
def check_safe_row(safe: Answer) -> None:
    """Check exercise 7.1: ``safe(func, path)`` is the row of a checkpoint, or why there is none.

    It takes a function of a path and a path, and returns the function's row. Where the function
    fails, it returns a row whose ``"reason"`` is the kind and the words of the error.
    """
    row = _ask(safe, lambda path: {"length": len(path)})
    works = row.get("length") == 3
    require(works, f"a function that works returned {{'length': 3}}, and yours {row!r:.60}.")
    reason = row.get("reason")
    require(reason is None, f"nothing had failed, and the reason was {reason!r:.60}.")
    for error in (ValueError("9 bytes are missing"), KeyError("fc2.weight"), OSError("disk gone")):
        row = _ask(safe, _raising(error))
        require("reason" in row, f"for a function that raised, {row!r:.60} has no 'reason'.")
        reason = str(row["reason"])
        says_what = str(error) in reason
        require(says_what, f"the error said {str(error)!r}, and the reason is {reason!r:.60}.")
        says_kind = type(error).__name__ in reason
        require(says_kind, f"{reason!r:.60} does not say what kind of error it was.")
    try:
        safe(_raising(KeyboardInterrupt()), "a.b")
    except KeyboardInterrupt:
        return
    raise AnswerError("somebody pressed stop, and your function went on: which errors to catch?")


def _ask(safe: Answer, func: Callable[[str], object]) -> Mapping[str, Any]:
    try:
        row = safe(func, "a.b")
    except (ValueError, KeyError, OSError) as error:
        kind = type(error).__name__
        raise AnswerError(f"{kind} got out, and would end a run over a million files.") from None
    kind = type(row).__name__
    require(isinstance(row, Mapping), f"return a row, a mapping of names to values, not {kind}.")
    return dict(row)


def _raising(error: BaseException) -> Callable[[str], object]:
    def func(path: str) -> object:
        raise error

    return func


@self_check("the power law of the cost, disturbed or not.")
def check_cost_exponent(exponent: Answer) -> None:
    """Check exercise 7.2: ``exponent(sides, seconds)`` is the power with which a cost grows.

    It takes the sides of n matrices, an array of shape (n,), and times of shape (n, repeats), of
    which a few were taken while another program ran, and returns one number.
    """
    sides = np.array([64.0, 128.0, 256.0, 512.0, 1024.0])
    for power in (3.0, 2.2):
        seconds = np.repeat(1e-9 * sides[:, None] ** power, 5, axis=1)
        found = as_number(exponent(sides.copy(), seconds.copy()))
        hints = {
            1 / power: "the two axes are exchanged: which of them is the cause?",
            -power: "the sign is wrong: a larger matrix takes longer.",
        }
        otherwise = (
            f"times that grow as the {power:g}th power gave {found:.3g}; on which axes is a "
            "power law a straight line?"
        )
        diagnose(found, power, hints, otherwise, rtol=0.02)
        seconds[0, 1], seconds[1, 4] = 40 * seconds[0, 1], 25 * seconds[1, 4]
        found = as_number(exponent(sides.copy(), seconds.copy()))
        require(
            np.isclose(found, power, rtol=0.02),
            f"two of 25 times were disturbed, and {power:g} became {found:.3g}: how do you combine "
            "repeats?",
        )


_CASES = {  # n, workers, seconds, megabytes, bandwidth, rate: each has another bottleneck
    "the workers compute": (360_000, 4, 0.5, 1.0, 1000.0, 4000.0),
    "the storage is read": (360_000, 400, 0.1, 200.0, 1000.0, 5000.0),
    "the scheduler hands out tasks": (7_200_000, 400, 0.001, 0.002, 1000.0, 500.0),
}


@self_check("the narrowest place decides.")
def check_hours(hours: Answer) -> None:
    """Check exercise 7.3: ``hours(n, workers, seconds, megabytes, bandwidth, rate)`` of a run.

    It takes the number of checkpoints, the number of workers, the seconds of computing and the
    megabytes of one checkpoint, the megabytes per second that the storage gives to all workers
    together, and the tasks per second that the scheduler hands out. It returns the hours of a run
    in which the three go on at the same time.
    """
    for place, case in _CASES.items():
        n, workers, seconds, megabytes, bandwidth, rate = case
        parts = np.array([n * seconds / workers, n * megabytes / bandwidth, n / rate]) / 3600
        computing, reading, scheduling = parts
        found, right = as_number(hours(*case)), parts.max()
        storage = "more workers read the same storage: it does not get faster."
        hints = {
            3600 * right: "these are seconds; return hours.",
            parts.sum(): "the three were added, as if each waited for the other two to end.",
            parts.min(): "the fastest of the three has to wait for the slowest.",
            n * seconds / 3600: "one worker would take this long; how many are there?",
            max(computing, reading / workers, scheduling): storage,
            max(computing, reading / workers, scheduling / workers): storage,
            max(computing, reading, scheduling / workers): "there is one scheduler, however many "
            "workers it has.",
        }
        hints = {wrong: hint for wrong, hint in hints.items() if not np.isclose(wrong, right)}
        otherwise = f"where {place} for longest, {right:.3g} h are right, not {found:.3g}."
        diagnose(found, right, hints, otherwise)


def make_damaged(zoo: Zoo, *, seed: int) -> tuple[Zoo, list[int]]:
    """Return a zoo with six networks damaged in ways that raise no error, and their rows.

    Parameters
    ----------
    zoo : Zoo
        `wskit.zoo.MLP` networks, with their `test_accuracy`.
    seed : int
        Chooses networks, layers, and what happens to each.

    Returns
    -------
    zoo : Zoo
        Its records are unchanged: they say how good each network was before.
    rows : list of int
        The damaged networks, ascending.
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


@self_check()
def check_suspicion(
    suspicion: Answer, func: Callable[[str], Mapping[str, Any]], table: pd.DataFrame, zoo: Zoo
) -> str:
    """Check exercise 7.4: ``suspicion(table)`` is highest for damaged checkpoints.

    It takes a table with one row per checkpoint and returns one number per row. `func` made the
    columns of `table` from paths; the table is of the checkpoints of `zoo`, in its order, with
    their `test_accuracy`. In each of five rounds, six networks are damaged as by `make_damaged`.
    Four fifths of them must be among the six most suspicious.
    """
    found = 0
    for seed in range(700, 700 + _ROUNDS):
        damaged, rows = make_damaged(zoo, seed=seed)
        seen = as_array(suspicion(_with_rows(table, func, damaged, rows)), len(table))
        found += len(set(np.argsort(-seen, kind="stable")[:_DAMAGED]) & set(rows))
    n = _ROUNDS * _DAMAGED
    words = f"{found} of {n} damaged checkpoints are among the {_DAMAGED} most suspicious."
    return pass_if(found >= _SHARE * n, words)


def _with_rows(
    table: pd.DataFrame, func: Callable[[str], Mapping[str, Any]], zoo: Zoo, rows: list[int]
) -> pd.DataFrame:
    """Return the table with new rows for damaged checkpoints, read from files by `func`."""
    table = table.copy()
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            path = f"{folder}/{row}.safetensors"
            save_file({name: W.contiguous() for name, W in zoo.model(row).items()}, path)
            for name, value in func(path).items():
                table.loc[table.index[row], name] = value
    return table
