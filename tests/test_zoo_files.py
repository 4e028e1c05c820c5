"""Our own layout of a zoo, and the Small CNN Zoo's: both are mapped, not read."""

import json
import random
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from zoo_kit import EPOCHS, LAYOUT, a_zoo, small_cnn_metrics, small_cnn_zoo

from wskit.errors import ZooError
from wskit.zoo import Zoo, load_zoo, save_zoo


def same(one: Zoo, other: Zoo) -> bool:
    pd.testing.assert_frame_equal(one.records, other.records)
    return list(one.weights) == list(other.weights) and all(
        torch.equal(one.weights[name], other.weights[name])
        and one.weights[name].dtype == other.weights[name].dtype
        for name in one.weights
    )


def resident() -> int:
    """Bytes of this process in memory, files' mapped pages among them."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


# Our own layout.


def test_a_zoo_comes_back_as_it_was(tmp_path):
    zoo = a_zoo()
    path = save_zoo(zoo, tmp_path / "zoo")
    assert path == tmp_path / "zoo"
    assert same(load_zoo(path), zoo)
    assert [child.name for child in tmp_path.iterdir()] == ["zoo"]


def test_strided_and_overlapping_stacks_are_saved(tmp_path):
    block = torch.arange(24.0).reshape(2, 12)
    weights = {
        "turned": block.view(2, 3, 4).movedim(-1, 1),
        "part": block[:, 2:5],
        "whole": block,
        "scalar": block[:, 0],
    }
    zoo = Zoo(weights, pd.DataFrame({"run": [0, 1]}))
    assert same(load_zoo(save_zoo(zoo, tmp_path / "zoo")), zoo)
    assert same(load_zoo(save_zoo(zoo.select([]), tmp_path / "none")), zoo.select([]))


def test_blocks_are_put_together(tmp_path, monkeypatch):
    monkeypatch.setattr("wskit.zoo._save._BLOCK", 30)
    assert same(load_zoo(save_zoo(a_zoo(), tmp_path / "zoo")), a_zoo())


def test_a_loaded_zoo_is_written_over_itself(tmp_path):
    path = save_zoo(a_zoo(), tmp_path / "zoo")
    loaded = load_zoo(path)
    save_zoo(loaded.select(slice(1, 3)), path, overwrite=True)
    assert same(loaded, a_zoo())
    assert same(load_zoo(path), a_zoo().select([1, 2]))
    assert [child.name for child in tmp_path.iterdir()] == ["zoo"]


def test_nothing_is_overwritten_unasked(tmp_path):
    path = save_zoo(a_zoo(), tmp_path / "zoo")
    with pytest.raises(ZooError, match=r"zoo: there is something already; .*overwrite=True"):
        save_zoo(a_zoo(2), path)
    assert same(load_zoo(path), a_zoo())


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_only_a_zoo_is_overwritten(tmp_path, kind):
    target = tmp_path / "home"
    if kind == "folder":
        target.mkdir()
        (target / "letter.txt").write_text("dear")
    elif kind == "file":
        target.write_text("dear")
    else:
        target.symlink_to(save_zoo(a_zoo(), tmp_path / "zoo"))
    with pytest.raises(ZooError, match="only a saved zoo is overwritten"):
        save_zoo(a_zoo(), target, overwrite=True)
    assert target.exists()


def test_a_failure_leaves_the_target_as_it_was(tmp_path, monkeypatch):
    path = save_zoo(a_zoo(), tmp_path / "zoo")

    def full(*_):
        raise OSError(28, "No space left on device")

    for name in ("_write_weights", "_write_records"):
        with monkeypatch.context() as patch:
            patch.setattr(f"wskit.zoo._save.{name}", full)
            with pytest.raises(ZooError, match="could not be written, No space left"):
                save_zoo(a_zoo(2), path, overwrite=True)
    rename = Path.rename
    with monkeypatch.context() as patch:
        patch.setattr("wskit.zoo._save.CAN_EXCHANGE", False)
        patch.setattr(Path, "rename", lambda a, b: full() if a.suffix == ".part" else rename(a, b))
        with pytest.raises(ZooError, match="could not be written, No space left"):
            save_zoo(a_zoo(2), path, overwrite=True)
    assert same(load_zoo(path), a_zoo())
    assert [child.name for child in tmp_path.iterdir()] == ["zoo"]


def test_what_cannot_be_saved(tmp_path):
    table = pd.DataFrame({"run": [0, 1]})
    complex_zoo = Zoo({"w": torch.zeros(2, 1, dtype=torch.complex64)}, table)
    with pytest.raises(ZooError, match=r"tensor 'w' is torch\.complex64, which cannot be stored"):
        save_zoo(complex_zoo, tmp_path / "zoo")
    mixed = Zoo({"w": torch.zeros(2, 1)}, pd.DataFrame({"run": [0, "one"]}))
    with pytest.raises(ZooError, match="table cannot be stored as Parquet"):
        save_zoo(mixed, tmp_path / "zoo")
    with pytest.raises(ZooError, match=r"expected the folder .* to exist; make it first"):
        save_zoo(a_zoo(), tmp_path / "nowhere" / "zoo")
    assert not list(tmp_path.iterdir())


def test_saving_needs_no_copy_of_the_zoo(tmp_path):
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    import resource

    folder = sparse_zoo(tmp_path / "sparse", models=2500)
    zoo = load_zoo(folder)
    save_zoo(zoo.select(slice(0, 1)), tmp_path / "first")  # Arrow and its threads are loaded
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    path = save_zoo(zoo, tmp_path / "zoo")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    size = (path / "weights.safetensors").stat().st_size
    # The 50 MB of mapped pages that were read count as resident; a copy of all would come on top.
    assert size > 49e6
    assert grown < 1.6 * size
    before = resident()
    again = load_zoo(path)
    assert resident() - before < 0.2 * size
    assert len(again) == 2500


@pytest.mark.parametrize("name", ["weights.safetensors", "records.parquet"])
def test_damaged_and_half_written_folders_are_refused(tmp_path, name):
    path = save_zoo(a_zoo(), tmp_path / "zoo")
    whole = (path / name).read_bytes()
    for part in (b"", whole[: len(whole) // 2], b"\xff" * 100):
        (path / name).write_bytes(part)
        with pytest.raises(
            ZooError, match=rf"{name}: expected the .* of a saved zoo, which cannot be read \("
        ):
            load_zoo(path)
    (path / name).unlink()
    with pytest.raises(ZooError, match=f"and {name} is missing; the folder is not whole"):
        load_zoo(path)


def test_files_of_two_zoos_are_refused(tmp_path):
    one, other = (save_zoo(a_zoo(n), tmp_path / str(n)) for n in (3, 5))
    shutil.copy(one / "records.parquet", other)
    with pytest.raises(ZooError, match=r"are not of one zoo; .* has 3 rows"):
        load_zoo(other)


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    from safetensors.torch import save_file

    path = save_zoo(a_zoo(2), tmp_path / "zoo")
    save_file({"w": torch.zeros(2, 1)}, path / "weights.safetensors")
    with pytest.raises(
        ZooError, match=r"weights of a saved zoo, which cannot be read \('wskit_zoo'\)"
    ):
        load_zoo(path)


def test_safetensors_reads_what_is_written(tmp_path):
    from safetensors.torch import load_file

    zoo = a_zoo()
    found = load_file(save_zoo(zoo, tmp_path / "zoo") / "weights.safetensors")
    assert set(found) == set(zoo.weights)
    assert all(torch.equal(found[name], zoo.weights[name]) for name in found)


# The Small CNN Zoo.


def sparse_zoo(folder: Path, models: int) -> Path:
    """The triple with a weights.npy that is made of holes."""
    folder.mkdir()
    np.lib.format.open_memmap(
        folder / "weights.npy", mode="w+", dtype=np.float32, shape=(models, 4970)
    )
    table = pd.DataFrame({"modeldir": "m", "step": np.arange(models), "test_loss": 1.0})
    table.to_csv(folder / "metrics.csv.gz", index=False)
    (folder / "layout.csv").write_text(LAYOUT)
    return folder


def test_a_matrix_of_200_mb_is_not_read(tmp_path):
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
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


def test_a_network_of_torch_computes_what_the_formula_says(tmp_path):
    folder, matrix = small_cnn_zoo(tmp_path / "zoo", runs=1)
    model = load_zoo(folder).model(3)
    image = torch.randn(1, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    found = torch.nn.functional.conv2d(image, model["conv1.weight"], model["conv1.bias"], stride=2)
    kernel = matrix[3, 16:160].reshape(3, 3, 1, 16)  # Keras: sum over y, x, in of x * K[y, x, in]
    patch = image[0, 0, 2:5, 4:7].numpy()
    expected = (patch[:, :, None, None] * kernel).sum((0, 1, 2)) + matrix[3, :16]
    assert np.allclose(found[0, :, 1, 2], expected, atol=1e-4)


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
    assert set(records["status"]) == {"trained", "diverged"}
    first = records.iloc[0]
    assert (first.weight_decay, first.seed, first.init) == (2e-4, 42, "he_normal")
    for name in ("test_accuracy", "train_accuracy"):
        assert np.allclose(records[name], metrics[name])
    assert np.allclose(records["learning_rate"], metrics["config.learning_rate"])


def test_old_names_are_recognised(tmp_path):
    folder, _ = small_cnn_zoo(tmp_path / "zoo", runs=1)
    new = load_zoo(folder)
    (folder / "weights.npy").rename(folder / "all_weights.npy")
    (folder / "metrics.csv.gz").unlink()
    small_cnn_metrics(1).to_csv(folder / "all_metrics.csv", index=False)
    assert same(load_zoo(folder), new)


def test_writing_into_a_tensor_leaves_the_file_alone(tmp_path):
    folder, matrix = small_cnn_zoo(tmp_path / "zoo", runs=1)
    load_zoo(folder).weights["fc.bias"].zero_()
    assert np.array_equal(np.load(folder / "weights.npy"), matrix)
    path = save_zoo(load_zoo(folder), tmp_path / "saved")
    load_zoo(path).weights["fc.bias"].zero_()
    assert same(load_zoo(path), load_zoo(folder))


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


def nfn(metrics: pd.DataFrame, listed: list[int]) -> dict[int, str]:
    """Section 1.4 of the facts, naively: each row's part."""
    last = [row for row in listed if metrics["step"][row] == 86]
    half = int(0.5 * len(last))
    positions = list(range(half))
    random.Random(0).shuffle(positions)
    n_train = int(0.8 * half)
    parts = {last[i]: "test" for i in range(half, len(last))}
    parts |= {last[i]: "train" for i in positions[:n_train]}
    return parts | {last[i]: "val" for i in positions[n_train:]}


@pytest.mark.parametrize("header", ["", "0\n"])
def test_nfn_splits(tmp_path, header):
    """The published files have a first line "0", the name of their only column."""
    folder, matrix = small_cnn_zoo(tmp_path / "zoo", runs=23)
    order = np.random.default_rng(5).permutation(len(matrix)).tolist()
    order.remove(0)
    order.insert(100, 0)
    splits = tmp_path / "split.csv"
    splits.write_text(header + "\n".join(map(str, order)) + "\n")
    records = load_zoo(folder, splits=splits).records
    expected = nfn(small_cnn_metrics(23), order)
    assert {i: part for i, part in records["split"].items() if isinstance(part, str)} == expected
    assert records["split"].value_counts().to_dict() == {"train": 8, "val": 3, "test": 12}
    path = save_zoo(load_zoo(folder, splits=splits), tmp_path / "saved")
    assert load_zoo(path).records["split"].isna().sum() == 23 * 8


def test_splits_in_json(tmp_path):
    folder, _ = small_cnn_zoo(tmp_path / "zoo", runs=1)
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps({"train": [8, 1], "test": [0]}))
    found = load_zoo(folder, splits=splits).records["split"]
    assert found.dropna().to_dict() == {0: "test", 1: "train", 8: "train"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("s.csv", "0\n1\n1\n", r"s\.csv: lists row 1 twice"),
        ("s.csv", "0\n9\n", r"s\.csv: lists row 9 where the table has 9 rows"),
        ("s.csv", "-1\n", "lists row -1 where"),
        ("s.csv", "a\nb\n", "expected a row's number on each line"),
        ("s.csv", "", "cannot be read"),
        ("s.json", "[1, 2]", "expected"),
        ("s.json", "{", "expected JSON, which cannot be read"),
        ("s.json", '{"a": [3], "b": [3]}', r"s\.json: lists row 3 twice"),
        ("gone.json", None, "cannot be read"),
    ],
)
def test_splits_that_do_not_fit(tmp_path, name, text, message):
    folder, _ = small_cnn_zoo(tmp_path / "zoo", runs=1)
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ZooError, match=message):
        load_zoo(folder, splits=tmp_path / name)


@pytest.mark.parametrize("name", ["weights.npy", "metrics.csv.gz", "layout.csv"])
def test_a_triple_of_two_is_refused(tmp_path, name):
    folder, _ = small_cnn_zoo(tmp_path / "zoo", runs=1)
    (folder / name).unlink()
    with pytest.raises(ZooError, match=f"and {re.escape(name)} is missing; get all three files"):
        load_zoo(folder)


def test_damaged_weights_are_refused(tmp_path):
    folder, matrix = small_cnn_zoo(tmp_path / "zoo", runs=1)
    whole = (folder / "weights.npy").read_bytes()
    for part in (b"", whole[:50], whole[: len(whole) // 2]):
        (folder / "weights.npy").write_bytes(part)
        with pytest.raises(
            ZooError, match=r"weights\.npy: expected a matrix of weights, which cannot"
        ):
            load_zoo(folder)
    np.save(folder / "weights.npy", np.array([[{}]]), allow_pickle=True)
    with pytest.raises(ZooError, match=r"weights\.npy: expected a matrix of weights, which cannot"):
        load_zoo(folder)
    for other in (matrix[0], matrix.astype(int), matrix.astype(">f4")):
        np.save(folder / "weights.npy", other)
        with pytest.raises(ZooError, match="expected a matrix of floating-point numbers"):
            load_zoo(folder)


def test_a_table_of_another_length_names_the_row(tmp_path):
    folder, matrix = small_cnn_zoo(tmp_path / "zoo", runs=2)
    small_cnn_metrics(1).to_csv(folder / "metrics.csv.gz", index=False)
    message = r"has 9 rows where .*weights\.npy has 18: row 9 .* is in weights\.npy only"
    with pytest.raises(ZooError, match=message):
        load_zoo(folder)
    small_cnn_metrics(2).to_csv(folder / "metrics.csv.gz", index=False)
    np.save(folder / "weights.npy", matrix[:17])
    with pytest.raises(ZooError, match=r"row 17 .* is in metrics\.csv\.gz only"):
        load_zoo(folder)


def test_tables_that_are_not_whole(tmp_path):
    folder, _ = small_cnn_zoo(tmp_path / "zoo", runs=1)
    metrics = small_cnn_metrics(1)
    changes = {
        "the column 'modeldir' is missing": metrics.drop(columns="modeldir"),
        r"row 4 \(counted from 0\): 'step' is empty": metrics.assign(
            step=[0, 1, 2, 3, None, 5, 6, 7, 8]
        ),
        "expected numbers in the column 'test_loss', which": metrics.assign(test_loss="low"),
        "two columns would be called 'dropout'": metrics.assign(dropout=1),
    }
    for message, table in changes.items():
        table.to_csv(folder / "metrics.csv.gz", index=False)
        with pytest.raises(ZooError, match=rf"metrics\.csv\.gz.*{message}"):
            load_zoo(folder)
    (folder / "metrics.csv.gz").write_bytes((folder / "metrics.csv.gz").read_bytes()[:-50])
    with pytest.raises(ZooError, match=r"metrics\.csv\.gz: expected a table, which cannot be read"):
        load_zoo(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"(10,)"', "\"__import__('os').getcwd()\"", r"layout\.csv, row 6 \(counted from 0\)"),
        ('"(10,)"', '"(11,)"', r"row 6 .* does not describe columns of a matrix of 4970"),
        ('"(10,)"', '"(-2, -5)"', "row 6"),
        ("4800,4810", "4790,4800", "must cover all 4970 columns of the weights, each once"),
        ("4810,4970", "4810,9999", "row 7"),
        ("dense/kernel:0", "dense/depthwise_kernel:0", "/depthwise_kernel:0' is none of a dense"),
        ("dense/kernel:0", "other/kernel:0", "'sequential/dense' has a bias and no kernel"),
        ("start_idx", "begin", "expected the columns varname, start_idx, end_idx and shape"),
    ],
)
def test_layouts_that_do_not_fit(tmp_path, old, new, message):
    folder, _ = small_cnn_zoo(tmp_path / "zoo", runs=1)
    (folder / "layout.csv").write_text(LAYOUT.replace(old, new))
    with pytest.raises(ZooError, match=message):
        load_zoo(folder)
