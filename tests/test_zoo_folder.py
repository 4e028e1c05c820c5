"""The folder of `train_zoo`: what is trained again and what is not; progress and interruptions."""

import logging
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from test_zoo_train import DATA, TABLE, assert_same_zoo

import wskit.zoo._train as train_module
from wskit.errors import ZooError
from wskit.zoo import MLP, load_zoo, save_zoo, train_zoo


def counting(monkeypatch):
    """Count the models that are trained."""
    trained, real = [], train_module.train_block

    def count(network, images, rows, keep_epochs):
        trained.extend(rows.run)
        return real(network, images, rows, keep_epochs)

    monkeypatch.setattr(train_module, "train_block", count)
    return trained


def test_finished_models_are_not_trained_again(tmp_path, monkeypatch):
    trained = counting(monkeypatch)
    folder = tmp_path / "zoo"

    def train(table=TABLE, model=None, **options):
        trained.clear()
        options = {"keep_epochs": [0]} | options
        data = options.pop("data", DATA)
        return train_zoo(model or MLP(), data, table, folder=folder, **options)

    first = train(block_size=3)
    assert [len(load_zoo(block)) for block in sorted(folder.iterdir())] in ([6, 2], [2, 6])
    loaded = load_zoo(folder)
    assert sorted(loaded.records.learning_rate.unique()) == [0.01, 0.02, 0.03, 0.04]
    assert loaded.records.groupby("run").learning_rate.std().eq(0).all()
    assert loaded.records.run.value_counts().to_dict() == dict.fromkeys(range(4), 2)
    assert_same_zoo(train(), first, 0)
    assert trained == []
    # What is added is trained, and so is what differs in anything.
    longer = train(pd.concat([TABLE, TABLE.assign(learning_rate=0.05)[:1]]))
    assert trained == [4]
    assert_same_zoo(longer.select(slice(8)), first, 0)
    assert len(longer) == 10
    train(TABLE.assign(learning_rate=[0.01, 0.02, 0.03, 0.06]))
    assert trained == [3]
    train(TABLE.assign(seed=[0, 1, 2, 9]))
    assert trained == [3]
    train(keep_epochs=[])
    assert trained == [0, 1, 2, 3]
    train(model=MLP((64, 10)))
    assert trained == [0, 1, 2, 3]
    other = SimpleNamespace(**vars(DATA) | {"test_x": DATA.test_x * 0.5})
    train(data=other)
    assert trained == [0, 1, 2, 3]
    # In another order, with a row twice; and trained twice in one block.
    twice = train(TABLE.iloc[[3, 0, 3]].assign(seed=[3, 0, 3]))
    assert trained == []
    assert torch.equal(twice.weights["fc1.weight"], first.weights["fc1.weight"][[6, 7, 0, 1, 6, 7]])
    assert twice.records.run.tolist() == [0, 0, 1, 1, 2, 2]
    assert twice.records.learning_rate.tolist() == [0.04, 0.04, 0.01, 0.01, 0.04, 0.04]
    for _ in range(2):
        same = train(TABLE.assign(learning_rate=0.07, seed=[5, 5, 5, 6]))
        assert same.records.run.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert trained == []


def test_a_block_that_is_broken_is_named(tmp_path):
    train_zoo(MLP(), DATA, TABLE, folder=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ZooError, match=f"^{path}: this is not a whole block .*; move the file"):
        train_zoo(MLP(), DATA, TABLE, folder=tmp_path)
    path.unlink()
    assert len(train_zoo(MLP(), DATA, TABLE, folder=tmp_path)) == 4


def test_what_else_is_in_the_folder_is_left_alone(tmp_path, monkeypatch):
    trained = counting(monkeypatch)
    expected = train_zoo(MLP(), DATA, TABLE, folder=tmp_path)
    # A zoo that was saved there, what a killed process left, and text.
    save_zoo(expected, tmp_path / "mine.safetensors")
    (block,) = tmp_path.glob("block-*")
    (tmp_path / f".{block.name}.0.part").write_bytes(block.read_bytes()[:50])
    (tmp_path / "block-notes.txt").write_text("dear")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert_same_zoo(train_zoo(MLP(), DATA, TABLE, folder=tmp_path), expected, 0)
    assert trained == [0, 1, 2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    other = save_zoo(expected, tmp_path / "block-mine.safetensors")
    with pytest.raises(ZooError, match=f"^{other}: this is not a whole block"):
        train_zoo(MLP(), DATA, TABLE, folder=tmp_path)


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    def fail(number):
        raise OSError(28, "disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(ZooError, match="disk full"):
        train_zoo(MLP(), DATA, TABLE, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_interrupted_training_keeps_the_finished_blocks(monkeypatch, caplog):
    real, calls = train_module.train_block, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(train_module, "train_block", interrupted)
    with caplog.at_level(logging.WARNING, logger="wskit"):
        zoo = train_zoo(MLP(), DATA, TABLE, block_size=1)
    assert zoo.records.run.tolist() == [0, 1]
    assert "interrupted: the zoo has 2 of 4 models" in caplog.text
    calls[:] = [None, None]
    with pytest.raises(KeyboardInterrupt):
        train_zoo(MLP(), DATA, TABLE)


def test_progress_is_shown_or_told(capsys):
    told = []
    expected = train_zoo(MLP(), DATA, TABLE, progress=True)
    assert "models/min" in capsys.readouterr().err
    report = lambda *numbers: told.append(numbers)  # noqa: E731
    assert_same_zoo(train_zoo(MLP(), DATA, TABLE, block_size=3, progress=report), expected)
    assert told == [(3, 4), (4, 4)]

    def cancel(done, total):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        train_zoo(MLP(), DATA, TABLE, progress=cancel)
