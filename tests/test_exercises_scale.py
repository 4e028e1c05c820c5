"""Self-checks of tutorial 07: right answers, typical wrong ones, and nonsense."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from exercise_kit import try_answers
from safetensors.torch import load_file

from wskit.exercises import (
    check_cost_exponent,
    check_hours,
    check_safe_row,
    check_suspicion,
    make_damaged,
)
from wskit.zoo import Zoo


def by_words(func, path):
    try:
        return {"reason": None, **func(path)}
    except Exception as error:
        return {"reason": f"{type(error).__name__}: {error}"}


def by_repr(func, path):
    try:
        return dict(func(path))
    except Exception as error:
        return pd.Series({"reason": repr(error)}).to_dict()


def message_only(func, path):
    try:
        return func(path)
    except Exception as error:
        return {"reason": str(error)}


def kind_only(func, path):
    try:
        return func(path)
    except Exception as error:
        return {"reason": type(error).__name__}


def some_kinds(func, path):
    try:
        return func(path)
    except ValueError as error:
        return {"reason": repr(error)}


def everything(func, path):
    try:
        return func(path)
    except BaseException as error:
        return {"reason": repr(error)}


def sentinel(func, path):
    try:
        return func(path)
    except Exception:
        return {"length": -1}


def always_a_reason(func, path):
    return {"reason": "ok", **by_repr(func, path)}


test_safe_row = try_answers(
    check_safe_row,
    right=[by_words, by_repr],
    wrong=[
        (message_only, "what kind of error"),
        (kind_only, "the error said '9 bytes are missing'"),
        (some_kinds, "KeyError got out"),
        (lambda func, path: func(path), "ValueError got out"),
        (everything, "somebody pressed stop"),
        (sentinel, "has no 'reason'"),
        (always_a_reason, "nothing had failed"),
        (lambda func, path: {"reason": None}, "a function that works"),
        (lambda func, path: pd.DataFrame([func(path)]), "not DataFrame"),
    ],
)


def slope(x, y):
    return np.polyfit(np.log(x), np.log(y), 1)[0]


test_cost_exponent = try_answers(
    check_cost_exponent,
    right=[
        lambda n, t: slope(n, np.median(t, axis=1)),
        lambda n, t: slope(n, t.min(axis=1)),
        lambda n, t: np.log2(np.median(t[-1]) / np.median(t[-2])),
    ],
    wrong=[
        (lambda n, t: slope(n, t.mean(axis=1)), "how do you combine repeats"),
        (lambda n, t: slope(n, t.max(axis=1)), "how do you combine repeats"),
        (lambda n, t: slope(np.median(t, axis=1), n), "axes are exchanged"),
        (lambda n, t: -slope(n, np.median(t, axis=1)), "the sign is wrong"),
        (lambda n, t: np.polyfit(n, np.median(t, axis=1), 1)[0], "on which axes"),
        (lambda n, t: np.polyfit(n, np.log(np.median(t, axis=1)), 1)[0], "on which axes"),
        (lambda n, t: 3, "the 2.2th power gave 3"),
    ],
)


def parts(n, workers, seconds, megabytes, bandwidth, rate):
    return np.array([n * seconds / workers, n * megabytes / bandwidth, n / rate]) / 3600


def slowest(n, workers, seconds, megabytes, bandwidth, rate):
    if megabytes / bandwidth > seconds / workers and megabytes / bandwidth > 1 / rate:
        return n * megabytes / bandwidth / 3600
    return max(n * seconds / workers, n / rate) / 3600


def own_storage(n, workers, seconds, megabytes, bandwidth, rate):
    return parts(n, workers, seconds, megabytes, bandwidth * workers, rate).max()


def own_scheduler(n, workers, seconds, megabytes, bandwidth, rate):
    return parts(n, workers, seconds, megabytes, bandwidth, rate * workers).max()


test_hours = try_answers(
    check_hours,
    right=[lambda *x: parts(*x).max(), slowest, lambda *x: torch.tensor(parts(*x)).max()],
    wrong=[
        (lambda *x: parts(*x).sum(), "were added"),
        (lambda *x: parts(*x).min(), "wait for the slowest"),
        (lambda *x: 3600 * parts(*x).max(), "these are seconds"),
        (lambda *x: x[0] * x[2] / 3600, "how many are there"),
        (own_storage, "the same storage"),
        (own_scheduler, "one scheduler"),
        (lambda *x: parts(*x)[0], "the storage is read for longest, 20 h"),
        (lambda *x: parts(*x)[:2].max(), "the scheduler hands out tasks for longest, 4 h"),
        (lambda *x: parts(*x)[1:].max(), "the workers compute for longest, 12.5 h"),
    ],
)


def top_by_chance(W):
    return float(torch.linalg.matrix_norm(W, 2) / W.std() / sum(side**0.5 for side in W.shape))


def row(path):
    weights = load_file(path)
    found = {f"{name} top": top_by_chance(weights[name]) for name in ("a.weight", "b.weight")}
    lost = {f"{name} lost": float((weights[name] == 0).float().mean()) for name in weights}
    return found | lost


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Forty networks, the better ones with a direction that is far beyond chance."""
    draw = torch.Generator().manual_seed(0)
    accuracy = np.linspace(0.5, 0.98, 40)
    weights = {}
    for name, shape in {"a.weight": (40, 30), "b.weight": (40, 40), "c.weight": (10, 40)}.items():
        noise = torch.randn(40, *shape, generator=draw)
        u, v = (torch.randn(40, side, generator=draw) for side in shape)
        spike = torch.einsum("ki,kj->kij", u, v) / (u.norm(dim=1) * v.norm(dim=1))[:, None, None]
        weights[name] = noise + torch.tensor(40 * accuracy).float()[:, None, None] * spike
    zoo = Zoo(weights, pd.DataFrame({"run": range(40), "test_accuracy": accuracy}))
    folder = tmp_path_factory.mktemp("zoo")
    from safetensors.torch import save_file

    rows = []
    for i in range(40):
        save_file({k: W.contiguous() for k, W in zoo.model(i).items()}, folder / f"{i}.safetensors")
        rows.append(row(folder / f"{i}.safetensors"))
    return SimpleNamespace(zoo=zoo, table=pd.DataFrame(rows).assign(test_accuracy=accuracy))


def suspicion(table):
    lowest = table[["a.weight top", "b.weight top"]].min(axis=1)
    return (1 / lowest + 10 * (table.filter(like="lost").max(axis=1) > 0.4)).where(
        table.test_accuracy >= 0.9, 0
    )


@pytest.mark.parametrize(
    ("answer", "passed", "message"),
    [
        (suspicion, True, "^30 of 30 damaged checkpoints"),
        (lambda table: suspicion(table).tolist(), True, "^30 of 30"),
        (lambda table: -suspicion(table), False, "^[0-9] of 30"),
        (lambda table: table.filter(like="lost").max(axis=1), False, "^1?[0-9] of 30"),
        (lambda table: np.zeros(len(table)), False, "^0 of 30"),
        (lambda table: ["a"] * 40, False, "not list"),
    ],
)
def test_suspicion(made, answer, passed, message):
    before = made.table.copy()
    verdict = check_suspicion(answer, row, made.table, made.zoo)
    assert verdict.passed is passed, verdict.message
    assert re.search(message, verdict.message), verdict.message
    pd.testing.assert_frame_equal(made.table, before)


def test_six_good_networks_are_damaged_in_one_layer_each(made):
    before = {name: stack.clone() for name, stack in made.zoo.weights.items()}
    seen = set()
    for seed in range(5):
        damaged, rows = make_damaged(made.zoo, seed=seed)
        assert len(rows) == len(set(rows)) == 6
        assert (made.zoo.records.test_accuracy[rows] >= 0.9).all()
        pd.testing.assert_frame_equal(damaged.records, made.zoo.records)
        moved = {
            name: {i for i in range(40) if not torch.equal(damaged.weights[name][i], stack[i])}
            for name, stack in before.items()
        }
        assert sorted([*moved["a.weight"], *moved["b.weight"]]) == rows
        assert not moved["c.weight"], "the last layer is left alone"
        seen.add(tuple(rows))
        again, _ = make_damaged(made.zoo, seed=seed)
        assert all(torch.equal(again.weights[name], damaged.weights[name]) for name in before)
    assert len(seen) > 1
    assert all(torch.equal(made.zoo.weights[name], before[name]) for name in before)


def test_it_leaves_no_files(made, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    check_suspicion(suspicion, row, made.table, made.zoo)
    assert list(Path(tmp_path).iterdir()) == []
