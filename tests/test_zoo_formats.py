"""Zoos of a file a model: Ray Tune's trees, splits files, tables, Keras's files."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from zoo_kit import checkpoint_files, keras_file, ray_trial, state_dict

from wskit.checkpoints import open_checkpoint
from wskit.errors import ZooError
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


# Ray Tune's trees.


@pytest.mark.parametrize("padded", [False, True])
def test_a_tree_of_trials(tmp_path, padded):
    for i in (1, 2):
        ray_trial(tmp_path / f"trial_{i}", seed=i, padded=padded)
    zoo = load_zoo(tmp_path, progress=False)
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
    assert len(load_zoo(save_zoo(zoo, tmp_path / "saved"))) == 2


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


def test_the_first_checkpoint_may_have_no_results(tmp_path):
    trial = ray_trial(tmp_path / "trial", seed=1)
    lines = (trial / "result.json").read_text().splitlines()
    (trial / "result.json").write_text("\n".join(lines[1:]))
    records = load(tmp_path, epochs="all").records
    assert records["test_accuracy"].isna().tolist() == [True, False, False]
    assert records["status"].tolist() == ["trained"] * 3


def test_a_diverged_trial_is_kept(tmp_path):
    trial = ray_trial(tmp_path / "trial", seed=1)
    text = (trial / "result.json").read_text()
    (trial / "result.json").write_text(text.replace("2.0", "NaN"))
    assert load(tmp_path).records["status"].tolist() == ["diverged"]


def test_a_config_of_another_name(tmp_path):
    trial = ray_trial(tmp_path / "trial", seed=1)
    (trial / "params.json").rename(trial / "config.json")
    assert load(tmp_path).records["seed"].tolist() == [1]
    (trial / "config.json").unlink()
    with pytest.raises(ZooError, match=r"trial: expected params\.json or config\.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ('{"a": 1}\n{"a"', r"result\.json: expected JSON, which cannot be read"),
        ("[1]\n", "expected an object a line"),
        ('{"training_iteration": 1}\n', "no line is of epoch 2, which has a checkpoint"),
        (
            '{"training_iteration": 2, "test_acc": "x"}\n',
            "expected numbers as the metrics of epoch 2",
        ),
        ("", "no line is of epoch 2"),
    ],
)
def test_results_that_do_not_fit(tmp_path, result, message):
    trial = ray_trial(tmp_path / "trial", seed=1)
    (trial / "result.json").write_text(result)
    with pytest.raises(ZooError, match=message):
        load(tmp_path)


def test_a_trial_without_checkpoints(tmp_path):
    ray_trial(tmp_path / "trial", seed=1, epochs=())
    with pytest.raises(ZooError, match="trial: the trial has no checkpoint_N/checkpoints; move it"):
        load(tmp_path)


class Trap:
    def __reduce__(self):
        return exec, ("raise SystemExit('code of a pickle has run')",)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", pickle.dumps(Trap())])
def test_a_tree_is_not_unpickled(tmp_path, content):
    trial = ray_trial(tmp_path / "trial", seed=1)
    (trial / "checkpoint_2" / "checkpoints").write_bytes(content)
    with pytest.raises(ZooError, match=r"checkpoint_2/checkpoints: expected a state dict"):
        load(tmp_path)
    torch.save({"w": Trap()}, trial / "checkpoint_2" / "checkpoints")
    with pytest.raises(ZooError, match=r"checkpoint_2/checkpoints: expected a state dict"):
        load(tmp_path)


def test_preprocessed_datasets_are_refused(tmp_path):
    torch.save({"trainset": Trap()}, tmp_path / "dataset.pt")
    (tmp_path / "index_dict.json").write_text('{"layer": [0], "idx_start": [0]}')
    message = r"dataset\.pt holds pickled objects .* load the raw Ray Tune tree"
    for path in (tmp_path, tmp_path / "dataset.pt"):
        with pytest.raises(ZooError, match=message):
            load(path)


# splits.json.


def wild_park(folder, name="splits.json"):
    """Two runs of two steps, and one run of one; a checkpoint holds more than the weights."""
    paths = []
    for seed, (run, step) in enumerate([("a", 1), ("a", 2), ("b", 1), ("b", 2), ("c", 1)]):
        path = folder / "zoo" / run / f"checkpoint_{step:06d}" / "checkpoint.pt"
        path.parent.mkdir(parents=True)
        torch.save({"model": state_dict(seed), "optimizer": {"state": {}}, "iteration": step}, path)
        paths.append(path.relative_to(folder).as_posix())
    splits = {
        "train": {"path": [paths[3], paths[2]], "score": [0.3, 0.2], "step": [2, 1]},
        "test": {"path": [paths[0], paths[4], paths[1]], "score": [0.0, 0.4, 0.1]},
    }
    splits["test"]["step"] = [1, 1, 2]
    (folder / name).write_text(json.dumps(splits))
    return splits


@pytest.mark.parametrize("name", ["splits.json", "cnn_park_splits.json"])
def test_a_splits_file(tmp_path, name):
    wild_park(tmp_path, name)
    zoo = load(tmp_path)
    assert holds(zoo, [3, 2, 0, 4, 1])
    records = zoo.records
    assert records["split"].tolist() == ["train"] * 2 + ["test"] * 3
    assert records["test_accuracy"].tolist() == [0.3, 0.2, 0.0, 0.4, 0.1]
    assert records["epoch"].tolist() == [2, 1, 1, 1, 2]
    assert records["run"].tolist() == [0, 0, 1, 2, 1]
    assert records["path"][0] == "zoo/b/checkpoint_000002/checkpoint.pt"


def test_epochs_are_read_off_the_folders(tmp_path):
    splits = wild_park(tmp_path)
    for part in splits.values():
        del part["step"]
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    assert load(tmp_path).records["epoch"].tolist() == [2, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": ["a", "b"], "score": [1.0]}, r"the split 'val' must be lists of one length"),
        ({"score": [1.0]}, "'val' must be lists of one length, one of them 'path'"),
        ([1], "'val' must be lists of one length, one of them 'path', got list"),
        ({"path": ["zoo/gone.pt"]}, r"entry 0 of 'val': there is no 'zoo/gone\.pt' in"),
        ({"path": ["../x.pt"]}, r"entry 0 of 'val': '\.\./x\.pt' leads out of"),
        ({"path": [5]}, "entry 0 of 'val': expected the name of a model's file, got 5"),
        (
            {"path": ["zoo/c/checkpoint_000001/checkpoint.pt"]},
            r"entry 0 of 'val': .* has a row already, .*entry 1 of 'test'",
        ),
    ],
)
def test_splits_files_that_do_not_fit(tmp_path, change, message):
    splits = wild_park(tmp_path)
    (tmp_path / "splits.json").write_text(json.dumps(splits | {"val": change}))
    with pytest.raises(ZooError, match=message):
        load(tmp_path)


def test_an_empty_splits_file(tmp_path):
    for text in ("{}", "[]", '{"train": {"path": []}}'):
        (tmp_path / "splits.json").write_text(text)
        with pytest.raises(ZooError, match=r"splits\.json: expected .*with some models"):
            load(tmp_path)


# Tables.


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", ".npz", ""])
def test_the_same_zoo_from_every_format(tmp_path, suffix):
    """ "" is a Hugging Face folder a model."""
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
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".json", ".jsonl"])
def test_tables_of_every_kind(tmp_path, column, suffix):
    names = checkpoint_files(tmp_path)
    table = pd.DataFrame({"run": [7, 7, 8], "epoch": [1, 2, 1], column: names, "status": "trained"})
    path = tmp_path / f"table{suffix}"
    if suffix.startswith(".csv"):
        table.to_csv(path, index=False)
    else:
        table.to_json(path, orient="records", lines=suffix == ".jsonl")
    (tmp_path / "config.json").write_text('{"a": 1}')
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    for place in (tmp_path, path):
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
    names = checkpoint_files(tmp_path)
    pd.DataFrame({"file": names}).to_csv(tmp_path / "t.csv", index=False)
    read = []

    def reader(path):
        read.append(path.name)
        return torch.load(path, weights_only=True)

    assert holds(load_zoo(tmp_path, open_checkpoint=reader, progress=False), [0, 1, 2])
    assert read == ["m0.pt", "m1.pt", "m2.pt"]
    message = r"needs a reader .* open_checkpoint=wskit\.checkpoints\.open_checkpoint"
    with pytest.raises(ZooError, match=message):
        load_zoo(tmp_path)


def test_tables_that_do_not_fit(tmp_path):
    names = checkpoint_files(tmp_path)
    cases = {
        r"row 3 \(counted from 0\): there is no 'models/m3\.pt' in": [*names, "models/m3.pt"],
        r"row 3 .*: 'models/m0\.pt' has a row already, .*row 0": [*names, names[0]],
        r"row 3 .*: 'models/\.\./models/m1\.pt' has a row already": [
            *names,
            "models/../models/m1.pt",
        ],
        r"no row tells of .*models/m2\.pt; add one": names[:2],
        r"row 1 .*: expected the name of a model's file, got nan": [names[0], None, names[1]],
    }
    for message, listed in cases.items():
        pd.DataFrame({"file": listed, "n": 1}).to_csv(tmp_path / "t.csv", index=False)
        with pytest.raises(ZooError, match=rf"t\.csv.*{message}"):
            load(tmp_path)
    (tmp_path / "t.csv").write_text("file\n")
    with pytest.raises(ZooError, match="the table has no rows"):
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


@pytest.mark.parametrize("entry", ["x" * 5000, "a\0b", ""])
def test_names_that_no_file_can_have(tmp_path, entry):
    (tmp_path / "t.json").write_text(json.dumps([{"file": entry}]))
    with pytest.raises(ZooError, match=r"t\.json, row 0"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"module_list.0.bias": torch.zeros(9)}, r"'module_list\.0\.bias' is \(\(9,\), torch"),
        ({"module_list.0.bias": torch.zeros(8).half()}, "torch.float16"),
        (
            {"extra": torch.zeros(1)},
            r"'extra' is \(\(1,\), torch.float32\) where .*m0\.pt has none",
        ),
    ],
)
def test_models_of_another_shape_are_refused(tmp_path, change, message):
    names = checkpoint_files(tmp_path)
    torch.save(state_dict(1) | change, tmp_path / names[1])
    pd.DataFrame({"file": names}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ZooError, match=rf"m1\.pt: models of one architecture.*{message}"):
        load(tmp_path)
    pd.DataFrame({"file": names[::-1]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ZooError, match=r"m1\.pt: models of one architecture .*m2\.pt has"):
        load(tmp_path)


def test_what_is_no_zoo(tmp_path):
    with pytest.raises(ZooError, match="expected a zoo's folder, or the table in it; check the"):
        load(tmp_path / "nowhere")
    with pytest.raises(ZooError, match=r"no layout of a zoo was recognised in \[\]"):
        load(tmp_path)
    (tmp_path / "zoo.tar.xz").write_bytes(b"x")
    with pytest.raises(ZooError, match="unpack an archive first"):
        load(tmp_path / "zoo.tar.xz")
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ZooError, match=r"t\.csv: no column tells each model's file; name it one"):
        load(tmp_path)
    (tmp_path / "t.csv").write_text("file,b\nm.pt,2,3\n")
    with pytest.raises(ZooError, match="a row has more fields than the first line"):
        load(tmp_path)
    for name in ("u.csv", "t.csv"):
        (tmp_path / name).write_text("file\nm.pt\n")
    with pytest.raises(ZooError, match=r"t\.csv and u\.csv both list models; pass the path of one"):
        load(tmp_path)


def test_keywords_of_other_layouts_are_refused(tmp_path):
    names = checkpoint_files(tmp_path)
    pd.DataFrame({"file": names}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ZooError, match="splits= is for the Small CNN Zoo, and this is a table"):
        load(tmp_path, splits=tmp_path / "s.csv")
    for epochs in ("all", [1]):
        with pytest.raises(ZooError, match="epochs= is for a Ray Tune tree, and this is a table"):
            load(tmp_path, epochs=epochs)


# Keras.


@pytest.mark.parametrize("whole", [False, True])
def test_keras_files(tmp_path, whole):
    pytest.importorskip("h5py")
    arrays = [keras_file(tmp_path / f"m{i}.h5", seed=i, whole=whole) for i in range(2)]
    pd.DataFrame({"file": ["m0.h5", "m1.h5"]}).to_csv(tmp_path / "t.csv", index=False)
    zoo = load_zoo(tmp_path, progress=False)  # Keras numbers a session's layers on: names differ
    assert list(zoo.weights) == [
        *("conv1.weight", "conv1.bias", "norm1.weight", "norm1.bias"),
        *("norm1.running_mean", "norm1.running_var", "fc.weight", "fc.bias"),
    ]
    for i, model in enumerate(arrays):
        kernel = zoo.weights["conv1.weight"][i]
        assert kernel.shape == (4, 1, 3, 2)
        for out, into, y, x in np.ndindex(4, 1, 3, 2):
            assert kernel[out, into, y, x] == model["conv2d/kernel:0"][y, x, into, out]
        assert np.array_equal(zoo.weights["fc.weight"][i], model["dense/kernel:0"].T)
        assert np.array_equal(zoo.weights["norm1.running_var"][i], model["batch/moving_variance:0"])


def test_keras_files_that_cannot_be_read(tmp_path):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "t.csv").write_text("file\nm.h5\n")
    path = tmp_path / "m.h5"
    path.write_bytes(b"no")
    with pytest.raises(ZooError, match=r"m\.h5: expected a Keras \.h5 file, which cannot be read"):
        load(tmp_path)
    with h5py.File(path, "w") as file:
        file["vars/0"] = np.zeros(2)
    with pytest.raises(ZooError, match=r"m\.h5: expected Keras's attribute layer_names"):
        load(tmp_path)
    keras_file(path, seed=0)
    with h5py.File(path, "a") as file:
        del file["dense/dense/bias:0"]
    with pytest.raises(ZooError, match=r"m\.h5: expected a Keras \.h5 file, which cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize("kind", ["link", "external", "text"])
def test_keras_data_lies_in_the_file(tmp_path, kind):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "t.csv").write_text("file\nm.h5\n")
    keras_file(tmp_path / "other.h5", seed=0)
    (tmp_path / "raw").write_bytes(bytes(64))
    keras_file(tmp_path / "zoo" / "m.h5", seed=0)
    with h5py.File(tmp_path / "zoo" / "m.h5", "a") as file:
        del file["dense/dense/bias:0"]
        if kind == "link":
            link = h5py.ExternalLink(str(tmp_path / "other.h5"), "dense/dense/bias:0")
            file["dense/dense/bias:0"] = link
        elif kind == "external":
            where = [(str(tmp_path / "raw"), 0, 12)]
            file.create_dataset("dense/dense/bias:0", (3,), np.float32, external=where)
        else:
            file["dense/dense/bias:0"] = "text"
    with pytest.raises(ZooError, match=r"'dense/bias:0' of the layer 'dense' must lie in this"):
        load(tmp_path / "zoo")


def test_without_h5py(tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text("file\nm.h5\n")
    (tmp_path / "m.h5").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ZooError, match=r"m\.h5: reading Keras's \.h5 files needs h5py; install it"):
        load(tmp_path)
