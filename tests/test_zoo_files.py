"""Saved zoos and the Small CNN Zoo: both are mapped, not read."""

import gzip
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from zoo_kit import (
    EPOCHS,
    LAYOUT,
    a_zoo,
    same,
    small_cnn_metrics,
    small_cnn_zoo,
    sparse_zoo,
)

from wskit._base.safetensors import NAMES
from wskit.errors import ZooError
from wskit.zoo import Zoo, load_zoo, save_zoo

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def resident() -> int:
    """Bytes of this process in memory, files' mapped pages among them."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.fixture
def saved(tmp_path):
    return save_zoo(a_zoo(), tmp_path / "zoo.safetensors")


# --- our own file


def test_a_zoo_comes_back_as_it_was(saved, tmp_path):
    assert saved == tmp_path / "zoo.safetensors"
    assert same(load_zoo(saved), a_zoo())
    assert list(tmp_path.iterdir()) == [saved]
    found = load_file(saved)  # safetensors' own reader
    assert all(torch.equal(found[name], stack) for name, stack in a_zoo().weights.items())


@pytest.mark.parametrize("block", [30, 2**20])
def test_strided_and_overlapping_stacks_are_saved(tmp_path, monkeypatch, block):
    monkeypatch.setattr("wskit.zoo._save._BLOCK", block)
    flat = torch.arange(24.0).reshape(2, 12)
    weights = {
        "turned": flat.view(2, 3, 4).movedim(-1, 1),
        "part": flat[:, 2:5],
        "whole": flat,
        "scalar": flat[:, 0],
    }
    zoo = Zoo(weights, pd.DataFrame({"run": [0, 1]}))
    assert same(load_zoo(save_zoo(zoo, tmp_path / "zoo.safetensors")), zoo)
    assert same(load_zoo(save_zoo(zoo.select([]), tmp_path / "none.safetensors")), zoo.select([]))


def test_a_loaded_zoo_is_written_over_itself(saved, tmp_path):
    loaded = load_zoo(saved)
    with pytest.raises(ZooError, match=r"something is there already; .*overwrite=True"):
        save_zoo(loaded, saved)
    save_zoo(loaded.select(slice(1, 3)), saved, overwrite=True)
    assert same(loaded, a_zoo())
    assert same(load_zoo(saved), a_zoo().select([1, 2]))
    loaded.weights["half"].zero_()
    assert same(load_zoo(saved), a_zoo().select([1, 2]))
    assert list(tmp_path.iterdir()) == [saved]


@pytest.mark.parametrize("kind", ["folder", "text", "weights", "link"])
def test_only_a_zoo_is_overwritten(saved, tmp_path, kind):
    target = tmp_path / "home.safetensors"
    if kind == "folder":
        target.mkdir()
        (target / "letter.txt").write_text("dear")
    elif kind == "text":
        target.write_text("dear")
    elif kind == "weights":
        save_file({"w": torch.zeros(2)}, target)
    else:
        target.symlink_to(saved)
    before = target.read_bytes() if target.is_file() else None
    with pytest.raises(ZooError, match="only a saved zoo is overwritten"):
        save_zoo(a_zoo(), target, overwrite=True)
    assert (target.read_bytes() if target.is_file() else None) == before
    assert target.is_symlink() == (kind == "link")


def test_a_failure_leaves_the_target_as_it_was(saved, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ZooError, match=r"zoo\.safetensors.*No space left"):
        save_zoo(a_zoo(2), saved, overwrite=True)
    assert same(load_zoo(saved), a_zoo())
    assert list(tmp_path.iterdir()) == [saved]


@pytest.mark.parametrize("dtype", [d for d in NAMES if not d.is_complex])
def test_every_real_dtype_comes_back(dtype, tmp_path):
    weights = {"b": torch.ones(2, 1), "w": torch.arange(6).reshape(2, 3).to(dtype)}
    zoo = Zoo(weights, pd.DataFrame({"run": [0, 1]}))
    found = load_zoo(save_zoo(zoo, tmp_path / "zoo.safetensors")).weights
    assert list(found) == ["b", "w"]
    assert found["w"].dtype == dtype
    assert torch.equal(found["w"].view(torch.uint8), weights["w"].view(torch.uint8))


def test_what_cannot_be_saved(tmp_path):
    target, table = tmp_path / "zoo.safetensors", pd.DataFrame({"run": [0, 1]})
    complex_zoo = Zoo({"w": torch.zeros(2, 1, dtype=torch.complex64)}, table)
    with pytest.raises(ZooError, match=r"tensor 'w' of torch\.complex64 cannot be stored"):
        save_zoo(complex_zoo, target)
    mixed = Zoo({"w": torch.zeros(2, 1)}, pd.DataFrame({"run": [0, "one"]}))
    with pytest.raises(ZooError, match="table cannot be stored as Parquet"):
        save_zoo(mixed, target)
    with pytest.raises(ZooError, match="No such file"):
        save_zoo(a_zoo(), tmp_path / "nowhere" / "zoo.safetensors")
    with pytest.raises(ZooError, match=r"whose name ends in \.safetensors"):
        save_zoo(a_zoo(), tmp_path / "zoo")
    assert not list(tmp_path.iterdir())


@linux_only
def test_saving_and_loading_need_no_copy_of_the_zoo(tmp_path):
    import resource

    zoo = load_zoo(sparse_zoo(tmp_path / "sparse", models=2500))
    save_zoo(zoo.select(slice(0, 1)), tmp_path / "first.safetensors")  # Arrow is loaded
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    path = save_zoo(zoo, tmp_path / "zoo.safetensors")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    size = path.stat().st_size
    # The 50 MB of mapped pages that were read count as resident; a copy of all would come on top.
    assert size > 49e6
    assert grown < 1.6 * size
    before = resident()
    again = load_zoo(path)
    assert resident() - before < 0.2 * size
    assert len(again) == 2500


def test_damaged_files_are_refused(saved):
    whole = saved.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"\xff" * 100, whole[:-200] + bytes(200)):
        saved.write_bytes(content)
        with pytest.raises(ZooError, match=r"zoo\.safetensors: expected a saved zoo, which cannot"):
            load_zoo(saved)
    save_file({"w": torch.zeros(2, 1)}, saved)
    with pytest.raises(ZooError, match=r"expected a saved zoo, which cannot be read \('wskit_zoo'"):
        load_zoo(saved)


# --- the Small CNN Zoo


@linux_only
def test_a_matrix_of_200_mb_is_not_read(tmp_path):
    folder = sparse_zoo(tmp_path / "zoo", models=10_500)
    load_zoo(sparse_zoo(tmp_path / "small", models=9))  # so that libraries are loaded
    before = resident()
    zoo = load_zoo(folder)
    grown = resident() - before
    assert (folder / "weights.npy").stat().st_size > 200e6
    assert grown < 20e6
    # All tensors are views of one mapping.
    assert len({stack.untyped_storage().data_ptr() for stack in zoo.weights.values()}) == 1
    assert sum(stack[0].numel() for stack in zoo.weights.values()) == 4970


def test_tensors_are_turned_to_torchs_axes(tmp_path):
    folder, matrix = small_cnn_zoo(tmp_path / "zoo", runs=1)
    zoo = load_zoo(folder)
    shapes = {name: tuple(stack.shape[1:]) for name, stack in zoo.weights.items()}
    assert list(shapes.items()) == [
        ("conv1.weight", (16, 1, 3, 3)),
        ("conv1.bias", (16,)),
        ("conv2.weight", (16, 16, 3, 3)),
        ("conv2.bias", (16,)),
        ("conv3.weight", (16, 16, 3, 3)),
        ("conv3.bias", (16,)),
        ("fc.weight", (10, 16)),
        ("fc.bias", (10,)),
    ]
    row = matrix[7]
    for name, start, width in (("conv2", 160, 16), ("fc", 4800, 10)):
        assert np.array_equal(zoo.weights[f"{name}.bias"][7], row[start : start + width])
    for out, into, y, x in np.ndindex(16, 16, 3, 3):  # HWIO, written out
        at = 176 + ((y * 3 + x) * 16 + into) * 16 + out
        assert zoo.weights["conv2.weight"][7, out, into, y, x] == row[at]
    for out, into in np.ndindex(10, 16):
        assert zoo.weights["fc.weight"][7, out, into] == row[4810 + into * 10 + out]
    zoo.weights["fc.bias"].zero_()  # never reaches the file
    assert np.array_equal(np.load(folder / "weights.npy"), matrix)


def test_the_table_of_the_small_cnn_zoo(tmp_path):
    folder, _ = small_cnn_zoo(tmp_path / "zoo", runs=3)
    metrics = small_cnn_metrics(3)
    metrics.loc[4, "train_loss"] = np.nan
    metrics.loc[5, "test_loss"] = np.inf
    metrics.to_csv(folder / "metrics.csv.gz", index=False)
    records = load_zoo(folder).records
    assert not [name for name in records if name.startswith("config.")]
    assert records["epoch"].tolist() == list(EPOCHS) * 3
    assert records["run"].tolist() == [run for run in range(3) for _ in EPOCHS]
    assert records["modeldir"].tolist()[::9] == ["/zoo/000", "/zoo/001", "/zoo/002"]
    assert records.index[records["status"] == "diverged"].tolist() == [4, 5]
    first = records.iloc[0]
    assert (first.weight_decay, first.seed, first.init) == (2e-4, 42, "he_normal")
    assert np.allclose(records["test_accuracy"], metrics["test_accuracy"])
    assert np.allclose(records["learning_rate"], metrics["config.learning_rate"])


def test_several_dense_layers_are_numbered(tmp_path):
    folder, matrix = small_cnn_zoo(tmp_path / "zoo", runs=1)
    (folder / "layout.csv").write_text(
        "varname,start_idx,end_idx,shape\n"
        'dense/bias:0,0,10,"(10,)"\ndense/kernel:0,10,4910,"(490, 10)"\n'
        'dense_1/bias:0,4910,4920,"(10,)"\ndense_1/kernel:0,4920,4970,"(5, 10)"\n'
    )
    zoo = load_zoo(folder)
    assert list(zoo.weights) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    assert np.array_equal(zoo.weights["fc2.weight"][0], matrix[0, 4920:].reshape(5, 10).T)


@pytest.mark.parametrize("name", ["weights.npy", "metrics.csv.gz", "layout.csv"])
def test_a_triple_of_two_is_refused(tmp_path, name):
    folder, _ = small_cnn_zoo(tmp_path / "zoo", runs=1)
    (folder / name).unlink()
    with pytest.raises(ZooError, match=f"and {re.escape(name)} is missing; get all three files"):
        load_zoo(folder)


def test_damaged_weights_are_refused(tmp_path):
    folder, matrix = small_cnn_zoo(tmp_path / "zoo", runs=1)
    whole = (folder / "weights.npy").read_bytes()
    np.save(folder / "weights.npy", np.array([[{}]]), allow_pickle=True)
    pickled = (folder / "weights.npy").read_bytes()
    for part in (b"", whole[:50], whole[: len(whole) // 2], pickled):
        (folder / "weights.npy").write_bytes(part)
        with pytest.raises(ZooError, match=r"weights\.npy: expected a matrix of weights, which"):
            load_zoo(folder)
    for other in (matrix[0], matrix.astype(int), matrix.astype(">f4")):
        np.save(folder / "weights.npy", other)
        with pytest.raises(ZooError, match="expected a matrix of floating-point numbers"):
            load_zoo(folder)
    np.save(folder / "weights.npy", matrix[:8])
    with pytest.raises(ZooError, match=r"has 9 rows where .*weights\.npy has 8"):
        load_zoo(folder)


def test_tables_that_are_not_whole(tmp_path, monkeypatch):
    folder, _ = small_cnn_zoo(tmp_path / "zoo", runs=1)
    table, metrics = folder / "metrics.csv.gz", small_cnn_metrics(1)
    changes = {
        "the column 'modeldir' is missing": metrics.drop(columns="modeldir"),
        "the column 'step' is missing or has gaps": metrics.assign(step=[None, *range(8)]),
        "expected numbers in the column 'test_loss', which": metrics.assign(test_loss="low"),
        "two columns would be called 'dropout'": metrics.assign(dropout=1),
    }
    for message, changed in changes.items():
        changed.to_csv(table, index=False)
        with pytest.raises(ZooError, match=rf"metrics\.csv\.gz.*{message}"):
            load_zoo(folder)
    table.write_bytes(table.read_bytes()[:-50])
    with pytest.raises(ZooError, match=r"metrics\.csv\.gz: expected a table, which cannot be read"):
        load_zoo(folder)
    monkeypatch.setattr("wskit.zoo._reading._MAX_TABLE", 10**6)
    table.write_bytes(gzip.compress(b"a,b\n" + b"0,0\n" * 10**6))
    with pytest.raises(ZooError, match="at most 1000000 bytes when unpacked"):
        load_zoo(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"(10,)"', "\"__import__('os').getcwd()\"", r"layout\.csv, row 6 \(counted from 0\)"),
        ('"(10,)"', '"(11,)"', r"row 6 .* does not describe columns of a matrix of 4970"),
        ('"(10,)"', '"(-2, -5)"', "row 6"),
        ("4800,4810", "4790,4800", "must cover all 4970 columns of the weights, each once"),
        ("4810,4970", "4810,9999", "row 7"),
        ("dense/kernel:0", "dense/depthwise_kernel:0", "/depthwise_kernel:0' is neither"),
        ("dense/kernel:0", "other/kernel:0", "'sequential/dense' has a bias and no kernel"),
        ("start_idx", "begin", "expected the columns varname, start_idx, end_idx and shape"),
    ],
)
def test_layouts_that_do_not_fit(tmp_path, old, new, message):
    folder, _ = small_cnn_zoo(tmp_path / "zoo", runs=1)
    (folder / "layout.csv").write_text(LAYOUT.replace(old, new))
    with pytest.raises(ZooError, match=message):
        load_zoo(folder)
