"""model_table and train_zoo on a real Dask cluster of processes on 127.0.0.1."""

import functools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import joblib
import pandas as pd
import pytest
import table_kit
import torch
from pandas.testing import assert_frame_equal

from wskit.data import load_dataset
from wskit.errors import FeatureError
from wskit.features import model_table
from wskit.zoo import MLP, sample_hyperparameters, train_zoo

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")

# The cluster's own, in threads of its own, while its processes come and go.
pytestmark = pytest.mark.filterwarnings("ignore")

CLUSTER = {
    "n_workers": 2,
    "threads_per_worker": 1,
    "processes": True,
    "host": "127.0.0.1",
    "scheduler_port": 0,
    "dashboard_address": None,
    "memory_limit": "4GB",
}


@pytest.fixture(scope="module")
def client():
    """A client of a cluster whose processes find this folder's functions and have torch loaded."""
    folder = str(Path(__file__).parent)
    with distributed.LocalCluster(**CLUSTER) as cluster, distributed.Client(cluster) as client:
        client.wait_for_workers(2, timeout=120)
        client.run(lambda: sys.path.insert(0, folder))
        client.register_worker_callbacks(functools.partial(sys.path.insert, 0, folder))
        client.run(lambda: __import__("table_kit") and None)
        yield client


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return table_kit.write_checkpoints(tmp_path_factory.mktemp("models"), 24)


def test_equal_to_serial_bit_for_bit(client, paths, tmp_path, capsys):
    serial = model_table(table_kit.spectral_row, paths)
    with joblib.parallel_config("dask"):
        table = model_table(table_kit.spectral_row, paths, store=tmp_path, progress=True)
        again = model_table(table_kit.spectral_row, paths, store=tmp_path)
    assert "24/24" in capsys.readouterr().err
    assert_frame_equal(table, serial, check_exact=True)
    assert_frame_equal(again, serial, check_exact=True)


def test_both_workers_work(client, paths, tmp_path):
    log = tmp_path / "log"
    with joblib.parallel_config("dask"):
        model_table(functools.partial(table_kit.slow_norm, log=str(log)), paths)
    pids = {line.split()[1] for line in log.read_text().splitlines()}
    assert len(pids) == 2
    assert str(os.getpid()) not in pids


def test_a_worker_is_killed_and_nothing_is_lost(client, paths, tmp_path):
    deadly = functools.partial(table_kit.deadly_norm, flag=str(tmp_path / "flag"))
    with joblib.parallel_config("dask"):
        table = model_table(deadly, paths, store=tmp_path / "rows")
    assert (tmp_path / "flag").exists(), "a worker was killed"
    assert_frame_equal(table, model_table(table_kit.norm, paths), check_exact=True)


@pytest.mark.parametrize("backend", ["dask", "loky"])
def test_a_zoo_is_trained_a_block_a_task(client, tmp_path, backend):
    digits = load_dataset("digits")
    parts = ("train_x", "train_y", "test_x", "test_y")
    data = SimpleNamespace(**{part: getattr(digits, part)[:60] for part in parts})
    table = sample_hyperparameters(6, rng=0).assign(epochs=2)
    alone = train_zoo(MLP(), data, table, block_size=2)
    with joblib.parallel_config(backend, n_jobs=2):
        apart = train_zoo(MLP(), data, table, block_size=2, folder=tmp_path)
    pd.testing.assert_frame_equal(apart.records, alone.records)
    for name, stack in alone.weights.items():
        torch.testing.assert_close(apart.weights[name], stack)
    written = sorted(tmp_path.iterdir())
    assert len(written) > 1
    written[0].unlink()
    again = train_zoo(MLP(), data, table, block_size=2, folder=tmp_path)
    pd.testing.assert_frame_equal(again.records, alone.records)


def test_a_scheduler_that_goes_away_is_said(paths, tmp_path):
    def start(module, *arguments):
        command = [sys.executable, "-m", f"distributed.cli.{module}", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    address = tmp_path / "scheduler.json"
    scheduler = start(
        "dask_scheduler",
        *("--host", "127.0.0.1", "--port", "0", "--no-dashboard"),
        *("--scheduler-file", str(address)),
    )
    workers = [  # of a single one joblib makes no use: it would call the function here
        start(
            "dask_worker",
            *("--scheduler-file", str(address), "--host", "127.0.0.1"),
            *("--nthreads", "1", "--no-dashboard", "--no-nanny"),
        )
        for _ in range(2)
    ]
    store, log = tmp_path / "rows", tmp_path / "log"
    slow = functools.partial(table_kit.slow_norm, log=str(log))

    def kill_once_rows_are_kept():
        while not list(store.glob("[!.]*.parquet")):
            time.sleep(0.05)
        scheduler.kill()

    killer = threading.Thread(target=kill_once_rows_are_kept, daemon=True)
    try:
        while not address.exists():
            assert scheduler.poll() is None
            time.sleep(0.05)
        with (
            distributed.Client(
                scheduler_file=str(address), timeout=120, set_as_default=False
            ) as client,
            joblib.parallel_config("dask", client=client),
            pytest.raises(
                FeatureError,
                match=r"the cluster's scheduler is gone; .*make a new Client. What was finished is "
                r"in .*rows; call again to go on",
            ),
        ):
            client.wait_for_workers(2, timeout=120)
            killer.start()
            model_table(slow, [*paths] * 20, store=store)
    finally:
        for process in (scheduler, *workers):
            process.kill()
            process.wait()
    done = len({line.split()[0] for line in log.read_text().splitlines()})
    assert done >= 1
    table = model_table(slow, paths, store=store)
    assert_frame_equal(table, model_table(table_kit.norm, paths), check_exact=True)
