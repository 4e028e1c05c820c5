"""Zoos with one file per model: Ray Tune's trees and tables."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from zoo_kit import checkpoint_files, ray_trial, same, state_dict

from wskit.checkpoints import open_checkpoint
from wskit.errors import CheckpointError, ZooError
from wskit.zoo import load_zoo, save_zoo


def load(path, **kwargs):
    return load_zoo(path, open_checkpoint=open_checkpoint, progress=False, **kwargs)


def holds(zoo, seeds) -> bool:
    """Whether the zoo's models are those of the seeds, in this order."""
    models = [state_dict(seed) for seed in seeds]
    return list(zoo.weights) == list(models[0]) and all(
        torch.equal(stack, torch.stack([model[name] for model in models]))
        for name, stack in zoo.weights.items()
    )


# --- Ray Tune's trees


@pytest.mark.parametrize("padded", [False, True])
def test_a_tree_of_trials(tmp_path, padded):
    for i in (1, 2):
        ray_trial(tmp_path / f"trial_{i}", seed=i, padded=padded)
    zoo = load(tmp_path)
    assert holds(zoo, [12, 22])
    assert zoo.records.to_dict("records")[0] == {
        "run": 0,
        "epoch": 2.0,
        "status": "trained",
        "activation": "tanh",
        "learning_rate": 1e-3,
        "weight_decay": 1e-4,
        "seed": 1,
        "optimizer": "adam",
        "training::idx_out": 500,
        "training::losses": "[1, 2]",
        "trial": "trial_1",
        "train_loss": 1.0,
        "train_accuracy": 1.0,
        "test_loss": 2.0,
        "test_accuracy": 0.2,
    }
    assert same(load_zoo(save_zoo(zoo, tmp_path / "zoo.safetensors")), zoo)


def test_epochs_of_a_tree(tmp_path):
    for i in (1, 2):
        ray_trial(tmp_path / f"trial_{i}", seed=i, epochs=(0, 1, 2, 10))
    zoo = load(tmp_path, epochs="all")
    assert holds(zoo, [10, 11, 12, 20, 20, 21, 22, 30])
    assert zoo.records["run"].tolist() == [0] * 4 + [1] * 4
    # What the authors' code reports of training before any is no measurement.
    assert zoo.records["train_loss"].isna().tolist() == [True, False, False, False] * 2
    assert set(zoo.records["status"]) == {"trained"}
    chosen = load(tmp_path, epochs=[2, 1])
    assert holds(chosen, [12, 11, 22, 21])
    assert chosen.records["test_accuracy"].tolist() == [0.2, 0.1, 0.2, 0.1]
    with pytest.raises(ZooError, match=r"trial_1: there is no checkpoint of epoch 5, only of \[0,"):
        load(tmp_path, epochs=[5])


@pytest.mark.parametrize("first", [0, 1])
def test_lines_without_their_number(tmp_path, first):
    """The offset is 0 if a checkpoint was written before training, else 1."""
    ray_trial(tmp_path / "trial", seed=1, epochs=range(first, 4), numbered=False)
    assert load(tmp_path, epochs=[2]).records["test_accuracy"].tolist() == [0.2]


def test_results_that_are_missing_or_not_finite(tmp_path):
    trial = ray_trial(tmp_path / "trial", seed=1)
    lines = (trial / "result.json").read_text().replace("2.0", "NaN").splitlines()
    (trial / "result.json").write_text("\n".join(lines[1:]))
    (trial / "params.json").rename(trial / "config.json")
    records = load(tmp_path, epochs="all").records
    assert records["seed"].tolist() == [1, 1, 1]
    assert records["test_accuracy"].isna().tolist() == [True, False, False]
    assert records["status"].tolist() == ["trained", "diverged", "diverged"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("result.json", '{"a": 1}\n{"a"', r"result\.json: expected JSON, which cannot be read"),
        ("result.json", "[" * 10**5, r"result\.json: expected JSON, which cannot be read"),
        ("result.json", "[1]\n", "expected one object per line"),
        ("result.json", '{"training_iteration": 1}\n', "no line is of epoch 2, which has a check"),
        ("result.json", '{"training_iteration": 2, "test_acc": "x"}', "expected numbers as the m"),
        ("params.json", None, r"trial: expected params\.json or config\.json"),
        ("params.json", "[]", r"params\.json: expected an object with a trial's settings"),
        ("checkpoint_2/checkpoints", None, "no checkpoint of epoch 2, only of"),
    ],
)
def test_trials_that_do_not_fit(tmp_path, name, text, message):
    trial = ray_trial(tmp_path / "trial", seed=1)
    (trial / name).unlink()
    if text is not None:
        (trial / name).write_text(text)
    with pytest.raises(ZooError, match=message):
        load(tmp_path, epochs=[2])


class Trap:
    def __reduce__(self):
        return exec, ("raise SystemExit('code of a pickle has run')",)


def test_a_tree_is_not_unpickled(tmp_path):
    path = ray_trial(tmp_path / "trial", seed=1) / "checkpoint_2" / "checkpoints"
    torch.save({"w": Trap()}, tmp_path / "trap")
    for content in (b"", b"PK\x03\x04", pickle.dumps(Trap()), (tmp_path / "trap").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="checkpoint_2/checkpoints: expected"):
            load(tmp_path)


# --- tables


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", ".npz", ""])
def test_the_same_zoo_from_every_format(tmp_path, suffix):
    """ "" is one Hugging Face folder per model."""
    names = checkpoint_files(tmp_path, suffix=suffix)
    table = pd.DataFrame({"file": names, "test_accuracy": [0.1, 0.2, np.nan], "width": [1, 2, 3]})
    table.to_csv(tmp_path / "metrics.csv", index=False)
    zoo = load(tmp_path)
    assert all(
        torch.equal(zoo.weights[name], torch.stack([state_dict(i)[name] for i in range(3)]))
        for name in state_dict(0)
    )
    assert set(zoo.weights) == set(state_dict(0))
    assert zoo.records["run"].tolist() == [0, 1, 2]
    assert zoo.records["epoch"].isna().all()
    assert zoo.records["status"].tolist() == ["trained", "trained", "diverged"]
    assert zoo.records["width"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("column", ["file", "path", "checkpoint", "name"])
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_tables_of_every_kind(tmp_path, column, suffix):
    names = checkpoint_files(tmp_path)
    table = pd.DataFrame({"run": [7, 7, 8], "epoch": [1, 2, 1], column: names, "status": "trained"})
    table.to_csv(tmp_path / f"table{suffix}", index=False)
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    for place in (tmp_path, tmp_path / f"table{suffix}"):
        zoo = load(place)
        assert holds(zoo, [0, 1, 2])
        assert zoo.records["run"].tolist() == [7, 7, 8]
        assert zoo.records[column].tolist() == names


def test_names_of_digits_are_names(tmp_path):
    for i in range(2):
        (tmp_path / f"00{i}").mkdir()
        torch.save(state_dict(i), tmp_path / f"00{i}" / "w.pt")
    (tmp_path / "table.csv").write_text("name\n001\n000\n")
    assert holds(load(tmp_path), [1, 0])


def test_a_plain_function_may_read_the_files(tmp_path):
    pd.DataFrame({"file": checkpoint_files(tmp_path)}).to_csv(tmp_path / "t.csv", index=False)

    def reader(path):
        return torch.load(path, weights_only=True)

    assert holds(load_zoo(tmp_path, open_checkpoint=reader, progress=False), [0, 1, 2])
    with pytest.raises(ZooError, match=r"open_checkpoint=wskit\.checkpoints\.open_checkpoint"):
        load_zoo(tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 1, 2, "models/m3.pt"], r"row 3 .*: there is no 'models/m3\.pt' in"),
        ([0, 1, 2, 0], r"row 3 .*: 'models/m0\.pt' has a row already, 0"),
        ([0, 1, 2, "models/../models/m1.pt"], r"row 3 .*m1\.pt' has a row already, 1"),
        ([0, 1], r"no row is about .*models/m2\.pt; add one"),
        ([0, None, 1], r"row 1 .*: expected the name of a model's file, got nan"),
        ([0, "x" * 5000], "row 1"),
        ([0, "a\0b"], "row 1"),
        ([], "has at least one model"),
    ],
)
def test_tables_that_do_not_fit(tmp_path, rows, message):
    names = checkpoint_files(tmp_path)
    if not rows:
        [path.unlink() for path in tmp_path.glob("models/*")]
    listed = [names[row] if isinstance(row, int) else row for row in rows]
    pd.DataFrame({"file": listed, "n": 1}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ZooError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("kind", ["dots", "absolute", "link", "linked folder", "inner link"])
def test_no_path_leads_out_of_the_folder(tmp_path, kind):
    folder, outside = tmp_path / "zoo", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    torch.save(state_dict(0), outside / "w.pt")
    entry = {"dots": "../outside/w.pt", "absolute": str(outside / "w.pt"), "link": "w.pt"}.get(
        kind, "model/w.pt" if kind == "linked folder" else "model"
    )
    if kind == "link":
        (folder / "w.pt").symlink_to(outside / "w.pt")
    elif kind == "linked folder":
        (folder / "model").symlink_to(outside)
    elif kind == "inner link":
        (folder / "model").mkdir()
        (folder / "model" / "w.pt").symlink_to(outside / "w.pt")
    pd.DataFrame({"file": [entry]}).to_csv(folder / "t.csv", index=False)
    with pytest.raises(ZooError, match=rf"t\.csv, row 0 .*: '{entry}' leads out of .*zoo"):
        load(folder)


def test_a_linked_trial_leads_out(tmp_path):
    trial = ray_trial(tmp_path / "outside", seed=1)
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "trial").symlink_to(trial)
    with pytest.raises(ZooError, match="'trial' leads out of"):
        load(tmp_path / "zoo")


@pytest.mark.parametrize(
    "change",
    [
        {"module_list.0.bias": torch.zeros(9)},
        {"module_list.0.bias": torch.zeros(8).half()},
        {"extra": torch.zeros(1)},
    ],
    ids=["shape", "dtype", "name"],
)
def test_models_of_another_architecture_are_refused(tmp_path, change):
    names = checkpoint_files(tmp_path)
    torch.save(state_dict(1) | change, tmp_path / names[1])
    for order in (names, names[::-1]):
        pd.DataFrame({"file": order}).to_csv(tmp_path / "t.csv", index=False)
        with pytest.raises(ZooError, match=rf"tensor '{next(iter(change))}' .*m1\.pt"):
            load(tmp_path)


def test_what_is_no_zoo(tmp_path):
    with pytest.raises(ZooError, match="expected a zoo's file or folder, or the table in it"):
        load(tmp_path / "nowhere")
    with pytest.raises(ZooError, match=r"no layout of a zoo was recognised in \[\]"):
        load(tmp_path)
    torch.save({"trainset": Trap()}, tmp_path / "dataset.pt")
    with pytest.raises(ZooError, match="expected a zoo's file or folder"):
        load(tmp_path / "dataset.pt")
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ZooError, match=r"t\.csv: no column names each model's file; call it one"):
        load(tmp_path)
    (tmp_path / "t.csv").write_text("file,b\nm.pt,2,3\n")
    with pytest.raises(ZooError, match="a row has more fields than the first line"):
        load(tmp_path)
    for name in ("u.csv", "t.csv"):
        (tmp_path / name).write_text("file\nm.pt\n")
    with pytest.raises(ZooError, match=r"t\.csv and u\.csv both list models; pass the path of one"):
        load(tmp_path)
    with pytest.raises(ZooError, match="epochs= is for a Ray Tune tree, and this is none"):
        load(tmp_path, epochs="all")
