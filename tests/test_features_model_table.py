"""wskit.features.model_table: one function, many checkpoints."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import table_kit
import torch
from pandas.testing import assert_frame_equal

from wskit.checkpoints import save_weights
from wskit.errors import FeatureError
from wskit.features import model_table


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[Path]:
    return table_kit.write_checkpoints(tmp_path_factory.mktemp("models"), 12)


def calls(log: Path) -> list[str]:
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def test_a_row_a_model_is_what_a_loop_gives(paths):
    table = model_table(table_kit.spectral_row, paths)
    assert list(table.columns[:2]) == ["source", "reason"]
    assert table.source.tolist() == [str(path) for path in paths]
    assert table.reason.isna().all()
    for path, (_, row) in zip(paths, table.iterrows(), strict=True):
        for name, value in table_kit.spectral_row(str(path)).items():
            np.testing.assert_equal(row[name], value)


def test_processes_give_the_same_bit_for_bit(paths):
    serial = model_table(table_kit.spectral_row, paths)
    assert_frame_equal(
        model_table(table_kit.spectral_row, paths, n_jobs=2), serial, check_exact=True
    )


def test_the_calls_run_on_one_thread(paths):
    found = model_table(lambda path: {"threads": torch.get_num_threads()}, paths[:2])
    assert found.threads.tolist() == [1, 1]


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_a_bad_checkpoint_gives_its_reason(paths, tmp_path, n_jobs):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"nothing")
    missing = tmp_path / "missing.safetensors"
    table = model_table(table_kit.norm, [paths[0], bad, missing, paths[1]], n_jobs=n_jobs)
    assert table.norm.isna().tolist() == [False, True, True, False]
    assert "bad.safetensors" in table.reason[1]
    assert table.reason[1].startswith("CheckpointError: ")
    assert "missing.safetensors" in table.reason[2]
    assert table.reason.isna().tolist() == [True, False, False, True]


def test_what_is_stored_is_not_computed_again(paths, tmp_path):
    log, store = tmp_path / "log", tmp_path / "rows"
    counted = functools.partial(table_kit.counted_norm, log=str(log))
    first = model_table(counted, paths[:8], store=store)
    assert sorted(calls(log)) == [path.name for path in paths[:8]]
    again = model_table(counted, paths, store=store)
    assert sorted(calls(log)) == [path.name for path in paths], "only the four new ones"
    assert_frame_equal(again[:8], first, check_exact=True)
    assert_frame_equal(
        again, model_table(counted, paths), check_exact=True
    )  # stored or not makes no difference


@pytest.mark.parametrize("func", [table_kit.spectral_row, table_kit.layer_rows])
def test_stored_rows_come_back_as_they_were(paths, tmp_path, func):
    fresh = model_table(func, paths, store=tmp_path)
    assert len(list(tmp_path.iterdir())) >= 1
    assert_frame_equal(model_table(func, paths, store=tmp_path), fresh, check_exact=True)


def test_a_file_is_known_by_its_content_not_by_its_name(paths, tmp_path):
    log = tmp_path / "log"
    counted = functools.partial(table_kit.counted_norm, log=str(log))
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(paths[0].read_bytes())
    first = model_table(counted, [paths[0]], store=tmp_path / "rows")
    table = model_table(counted, [moved], store=tmp_path / "rows")
    assert calls(log) == [paths[0].name]
    assert table.norm[0] == first.norm[0]
    save_weights({"w": torch.ones(4)}, moved)
    assert model_table(counted, [moved], store=tmp_path / "rows").norm.tolist() == [2.0]


def test_a_folder_is_known_by_all_its_files(tmp_path):
    weights = {"a": torch.ones(300), "b": torch.ones(100)}
    folder = save_weights(weights, tmp_path / "model", shard_size=800)
    assert len(list(folder.glob("*.safetensors"))) == 2
    assert model_table(table_kit.norm, [folder], store=tmp_path / "rows").norm[0] == 20
    save_weights(weights | {"b": torch.zeros(100)}, tmp_path / "other", shard_size=800)
    other = model_table(table_kit.norm, [tmp_path / "other"], store=tmp_path / "rows")
    assert other.norm[0] == pytest.approx(300**0.5)


def test_other_parameters_are_another_function(paths, tmp_path):
    once, twice = (functools.partial(table_kit.scaled_norm, scale=scale) for scale in (1.0, 2.0))
    a = model_table(once, paths[:3], store=tmp_path)
    b = model_table(twice, paths[:3], store=tmp_path)
    np.testing.assert_array_equal(b.norm, 2 * a.norm)
    anchors = [np.zeros(3), np.ones(3)]
    for anchor in anchors:
        table = model_table(
            functools.partial(lambda path, at: {"sum": at.sum()}, at=anchor), paths, store=tmp_path
        )
        assert (table["sum"] == anchor.sum()).all()


def test_the_reasons_have_one_dtype(paths, tmp_path):
    missing = tmp_path / "none.safetensors"
    tables = [model_table(table_kit.norm, x) for x in (paths[:2], [paths[0], missing], [missing])]
    tables.append(model_table(lambda path: pd.DataFrame(), paths[:1]))
    assert [len(table) for table in tables] == [2, 2, 1, 0]
    assert len({table["reason"].dtype for table in tables}) == 1


def test_a_failure_is_tried_again(tmp_path):
    path = tmp_path / "late.safetensors"
    assert model_table(table_kit.norm, [path], store=tmp_path / "rows").reason[0] is not None
    save_weights({"w": torch.ones(4)}, path)
    table = model_table(table_kit.norm, [path], store=tmp_path / "rows")
    assert table.norm[0] == 2.0
    assert table.reason.isna().all()


def test_a_killed_run_goes_on(paths, tmp_path):
    log, store = tmp_path / "log", tmp_path / "rows"
    script = (
        "import functools, sys, table_kit\n"
        "from wskit.features import model_table\n"
        f"slow = functools.partial(table_kit.slow_norm, log={str(log)!r})\n"
        f"model_table(slow, sys.argv[1:], store={str(store)!r})\n"
    )
    many = [*paths] * 10
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.Popen([sys.executable, "-c", script, *map(str, many)], env=environment)
    deadline = time.monotonic() + 120
    while not list(store.glob("[!.]*.parquet")):
        assert run.poll() is None, "ended too soon"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    done = len(pd.concat(map(pd.read_parquet, store.glob("[!.]*.parquet"))))
    before = len(calls(log))
    assert 0 < done < len(many)
    slow = functools.partial(table_kit.slow_norm, log=str(log))
    table = model_table(slow, paths, store=store)
    known = min(done, len(paths))
    assert len(calls(log)) - before == len(paths) - known
    assert_frame_equal(table, model_table(table_kit.norm, paths), check_exact=True)


def test_a_worker_that_is_killed_is_said(paths, tmp_path):
    deadly = functools.partial(table_kit.deadly_norm, flag=str(tmp_path / "flag"))
    with pytest.raises(FeatureError, match=r"a worker process ended .*is in .*rows; call again"):
        model_table(deadly, paths, n_jobs=2, store=tmp_path / "rows")
    assert model_table(deadly, paths, n_jobs=2, store=tmp_path / "rows").norm.notna().all()


@pytest.mark.parametrize(
    ("func", "words"),
    [
        (lambda path: 3.0, "must return a row .* or a DataFrame, and returned float"),
        (lambda path: {"source": 1}, "returned a column 'source'; .*other than source and reason"),
        (lambda path: {1: 1}, "returned a column 1; columns are named by strings"),
    ],
)
def test_what_is_no_row_ends_the_run(paths, func, words):
    with pytest.raises(FeatureError, match=words):
        model_table(func, paths)


def test_rows_that_cannot_be_stored_are_refused(paths, tmp_path):
    with pytest.raises(FeatureError, match="must hold numbers and strings"):
        model_table(lambda path: {"x": torch.ones(2)}, paths[:2], store=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_holds_something_else_is_left_alone(paths, tmp_path):
    other = tmp_path / "mine.parquet"
    pd.DataFrame({"a": [1]}).to_parquet(other)
    before = other.read_bytes()
    with pytest.raises(FeatureError, match=r"mine.parquet holds no rows of model_table"):
        model_table(table_kit.norm, paths, store=tmp_path)
    (tmp_path / "mine.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(FeatureError, match=r"mine.parquet holds no rows of model_table"):
        model_table(table_kit.norm, paths, store=tmp_path)
    other.write_bytes(before)
    (tmp_path / "file").write_text("")
    with pytest.raises(FeatureError, match=r"file: cannot be written"):
        model_table(table_kit.norm, paths, store=tmp_path / "file")
