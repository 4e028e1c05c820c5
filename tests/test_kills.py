"""Writers that are killed at any moment: the old one or the new one is there, if there was one.

One process imports everything and forks; each child writes once, and is killed after a delay
drawn between nothing and somewhat more than it needs.
"""

import os
import random
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from tqdm.auto import tqdm

from wskit import course, features, report, zoo
from wskit.checkpoints import open_checkpoint, save_weights

SIDE = 300  # a few hundred kilobytes a tensor, so that a kill falls within a write


def filled(value: float) -> dict[str, torch.Tensor]:
    return {f"w{i}": torch.full((SIDE, SIDE), value) for i in range(3)}


def a_zoo(value: float) -> zoo.Zoo:
    weights = {name: torch.stack([W, W]) for name, W in filled(value).items()}
    return zoo.Zoo(weights, pd.DataFrame({"run": [0, 1], "value": value}))


def value_of(path: Path) -> float:
    """Read every tensor; all of them must hold the one number."""
    with open_checkpoint(path) as weights:
        assert set(weights) == set(filled(0))
        found = {float(v) for W in weights.values() for v in (W.min(), W.max())}
    assert len(found) == 1, "half of one, half of the other"
    return found.pop()


def zoo_value(path: Path) -> float:
    found = zoo.load_zoo(path, progress=False)
    values = {float(v) for W in found.weights.values() for v in (W.min(), W.max())}
    assert values == set(found.records.value), "the table is another zoo's"
    return values.pop()


def report_of(value: float) -> report.Report:
    return report.examine({"fc.weight": torch.eye(4) * value})


def report_value(path: Path) -> float:
    text = path.read_text(encoding="utf-8")
    assert text.rstrip().endswith("</html>")
    return next(float(v) for v in (1, 2) if text == PAGES[v])


PAGES: dict[float, str] = {}
REPORTS: dict[float, report.Report] = {}


class FileOfWeights:
    target = "w.safetensors"
    write = staticmethod(lambda path, value: save_weights(filled(value), path))
    read = staticmethod(value_of)


class FolderOfWeights:
    target = "w"
    write = staticmethod(
        lambda path, value: save_weights(
            filled(value), path, shard_size=400_000, metadata={"value": str(value)}
        )
    )
    read = staticmethod(value_of)


class SavedZoo:
    target = "zoo.safetensors"
    write = staticmethod(lambda path, value: zoo.save_zoo(a_zoo(value), path, overwrite=True))
    read = staticmethod(zoo_value)


class Page:
    target = "report.html"
    read = staticmethod(report_value)

    @classmethod
    def write(cls, path: Path, value: float) -> None:
        report.write_report(REPORTS[value], path)

    @classmethod
    def prepare(cls, folder: Path) -> None:
        for value in (1.0, 2.0):
            REPORTS[value] = report_of(value)
            cls.write(folder / "once.html", value)
            PAGES[value] = (folder / "once.html").read_text(encoding="utf-8")


def killed_after(delay: float, work: Callable[[], object]) -> bool:
    """Run `work` in a child and kill it after `delay` seconds; tell whether it was still at it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        child = os.fork()
    if child == 0:
        try:
            tqdm.set_lock(threading.RLock())  # its own: killed with the shared one, it keeps it
            work()
        finally:
            os._exit(0)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)  # a child that has ended waits for its parent
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def in_place(target: Path) -> Path:
    """Return the target, or where a folder lies between the two renames that replace it."""
    old = target.with_name(f".{target.name}.part") / "old"
    return old if old.exists() and not target.exists() else target


def usual_time(work: Callable[[], object]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


def moment(rng: random.Random, round_: int, took: float) -> float:
    """Return a delay before a kill. The first is none, so that one at least comes in time."""
    return rng.uniform(0, 1.2 * took) if round_ else 0.0


TIMES = [10, pytest.param(200, marks=pytest.mark.slow)]


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("kind", [FileOfWeights, FolderOfWeights, SavedZoo, Page])
def test_a_killed_writer_leaves_the_old_or_the_new(tmp_path, kind, times):
    rng = random.Random(0)
    if hasattr(kind, "prepare"):
        kind.prepare(tmp_path)
    target = tmp_path / "here" / kind.target
    target.parent.mkdir()
    took = usual_time(lambda: kind.write(target, 1.0))
    assert kind.read(target) == 1.0
    n_killed = 0
    for round_ in range(times):
        if round_ % 4 == 3:
            shutil.rmtree(target.parent)
            target.parent.mkdir()
        before = kind.read(in_place(target)) if in_place(target).exists() else None
        wanted = 2.0 if before == 1.0 else 1.0
        n_killed += killed_after(
            moment(rng, round_, took), lambda path=target, value=wanted: kind.write(path, value)
        )
        after = kind.read(in_place(target)) if in_place(target).exists() else None
        assert after in (before, wanted), "neither the old one nor the new one"
        others = [path for path in target.parent.iterdir() if path != target]
        assert all(path.name.startswith(".") for path in others), "a leftover looks like data"
    assert n_killed > 0
    kind.write(target, 3.0) if kind is not Page else kind.write(target, 1.0)
    assert kind.read(target) == (3.0 if kind is not Page else 1.0), "leftovers are in the way"


@pytest.mark.parametrize("times", TIMES)
def test_a_killed_training_goes_on_with_whole_blocks(tmp_path, times):
    rng = random.Random(0)
    rows = pd.DataFrame({"epochs": 1.0}, index=range(6))
    x, y = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.arange(5) % 3
    data = SimpleNamespace(train_x=x, train_y=y, test_x=x, test_y=y)
    mlp = zoo.MLP((4, 6, 3))

    def train(folder: Path) -> zoo.Zoo:
        return zoo.train_zoo(mlp, data, rows, block_size=2, folder=folder)

    expected = train(tmp_path / "whole")
    took = usual_time(lambda: train(tmp_path / "once"))
    n_killed = 0
    for round_ in range(times):
        folder = tmp_path / f"zoo{round_ // 3}"
        n_killed += killed_after(moment(rng, round_, took), lambda path=folder: train(path))
        if round_ % 3 == 2:
            found = train(folder)
            for name, stack in expected.weights.items():
                assert torch.equal(found.weights[name], stack)
            pd.testing.assert_frame_equal(found.records, expected.records)
    assert n_killed > 0


def entries(path: str) -> dict[str, int]:
    time.sleep(0.002)
    return {"bytes": Path(path).stat().st_size}


@pytest.mark.parametrize("times", TIMES)
def test_a_killed_table_goes_on_with_whole_rows(tmp_path, monkeypatch, times):
    from wskit.features import _model_table

    monkeypatch.setattr(_model_table, "_EVERY", 0.0)  # a file a row: more moments to be killed in
    paths = []
    for i in range(8):
        paths.append(tmp_path / f"{i}.bin")
        paths[-1].write_bytes(bytes(i + 1))
    rng = random.Random(0)

    def compute(store: Path) -> pd.DataFrame:
        return features.model_table(entries, paths, store=store)

    took = usual_time(lambda: compute(tmp_path / "once"))
    n_killed = 0
    for round_ in range(times):
        store = tmp_path / f"store{round_ // 3}"
        n_killed += killed_after(moment(rng, round_, took), lambda path=store: compute(path))
        if round_ % 3 == 2:
            assert compute(store)["bytes"].tolist() == list(range(1, 9))
    assert n_killed > 0


@pytest.mark.parametrize("times", TIMES)
def test_killed_copies_are_whole_or_absent(tmp_path, times):
    rng = random.Random(0)
    whole = {path.name: path.read_bytes() for path in course.tutorials()}
    took = usual_time(lambda: course.copy_notebooks(tmp_path / "once"))
    n_killed = 0
    for round_ in range(times):
        folder = tmp_path / f"course{round_ // 3}"
        n_killed += killed_after(
            moment(rng, round_, took), lambda path=folder: course.copy_notebooks(path)
        )
        for path in folder.glob("*.ipynb"):  # hidden leftovers do not match
            if not path.name.startswith("."):
                assert path.read_bytes() == whole[path.name]
        if round_ % 3 == 2:
            course.copy_notebooks(folder)
            assert {p.name for p in folder.glob("[0-9]*.ipynb")} == set(whole)
            shutil.rmtree(folder)
    assert n_killed > 0
