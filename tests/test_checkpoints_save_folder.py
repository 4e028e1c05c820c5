"""Saving to a folder: shards with an index, made block by block, resumed, and never half of it."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import filelock
import pytest
import torch
from checkpoint_kit import Blocks, weights
from safetensors.torch import load_file, save_file
from torch import nn

from wskit.averaging import average
from wskit.checkpoints import open_checkpoint, save_weights
from wskit.errors import CheckpointError

# The checks would read tensors, which is what must not happen here.
pytestmark = pytest.mark.usefixtures("without_type_checks")

INDEX = "model.safetensors.index.json"


def model(seed: int = 0) -> dict[str, torch.Tensor]:
    """Tensors of 400, 48, 4000, 0, 8 and 400 bytes."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "first": torch.randn(20, 5, generator=generator),
        "half": torch.randn(24, generator=generator).half(),
        "large": torch.randn(1000, generator=generator),
        "empty": torch.zeros(0, 3),
        "counter": torch.tensor(7 + seed),
        "last": torch.randn(100, generator=generator),
    }


def contents(folder: Path) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    return {name: content for name, content in found.items() if name != ".wskit.json"}


@pytest.mark.parametrize("kind", [dict, Blocks])
def test_the_layout_of_hugging_face(tmp_path, kind):
    values = model()
    folder = save_weights(kind(values), tmp_path / "llama-3.1", shard_size=900)
    names = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert list(contents(folder)) == [*names, INDEX]
    index = json.loads((folder / INDEX).read_text())
    assert index["metadata"] == {"total_size": 400 + 48 + 4000 + 8 + 400}
    expected = dict(zip(values, [names[i] for i in (0, 0, 1, 2, 2, 2)], strict=True))
    assert index["weight_map"] == expected
    assert list(index["weight_map"]) == list(values)
    for name, shard in expected.items():
        assert torch.equal(load_file(folder / shard)[name], values[name])
    with open_checkpoint(folder) as ckpt:
        assert list(ckpt) == list(values)
        assert all(ckpt.dtype(name) == value.dtype for name, value in values.items())
    assert list(tmp_path.iterdir()) == [folder]


def test_one_shard_has_no_index(tmp_path):
    folder = save_weights(weights(), tmp_path / "new", metadata={"note": "x"})
    assert list(contents(folder)) == ["model.safetensors"]
    with open_checkpoint(folder) as ckpt:
        assert ckpt.metadata["note"] == "x"
        assert list(ckpt) == list(weights())


def test_tied_tensors_across_shards(tmp_path):
    values = model()
    values["tied"] = values["first"]
    folder = save_weights(values, tmp_path / "new", shard_size=900)
    index = json.loads((folder / INDEX).read_text())
    assert "tied" not in index["weight_map"], "as transformers writes it"
    with open_checkpoint(folder) as ckpt:
        assert dict(ckpt.ties) == {"tied": "first"}
        assert ckpt.left_out == ()
        again = save_weights(ckpt, tmp_path / "again", shard_size=900)
    assert contents(again) == contents(folder)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_blocks_and_threads_change_nothing(tmp_path, monkeypatch, threads):
    monkeypatch.setattr(Blocks, "block_entries", 7)
    plain = save_weights(model(), tmp_path / "plain.safetensors")
    lazy = Blocks(model())
    blocks = save_weights(lazy, tmp_path / "blocks.safetensors", threads=threads)
    assert blocks.read_bytes() == plain.read_bytes()
    assert ("first", 98, 100) in lazy.reads
    assert max(stop - start for _, start, stop in lazy.reads) == 7


def test_torch_works_with_one_core_in_each_thread(tmp_path):
    """And with as many as before elsewhere, in threads that start meanwhile too."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    seen, elsewhere = {}, []

    class Curious(Blocks):
        def read_block(self, name, start, stop, out=None):
            seen[threading.current_thread().name] = torch.get_num_threads()
            other = threading.Thread(target=lambda: elsewhere.append(torch.get_num_threads()))
            other.start()
            other.join()
            return super().read_block(name, start, stop, out)

    try:
        save_weights(Curious(model()), tmp_path / "w.safetensors", threads=2)
        assert set(seen.values()) == {1}
        assert set(elsewhere) == {3}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_soup_of_files(tmp_path):
    paths = [save_weights(model(seed), tmp_path / f"{seed}.safetensors") for seed in range(3)]
    opened = [open_checkpoint(path) for path in paths]
    folder = save_weights(average(opened, lazy=True), tmp_path / "soup", shard_size=900)
    expected = average([model(seed) for seed in range(3)])
    with open_checkpoint(folder) as ckpt:
        assert ckpt["counter"] == 7
        assert all(torch.equal(ckpt[name], value) for name, value in expected.items())


KILLS = """
    import os, signal, sys
    from pathlib import Path
    import torch
    from checkpoint_kit import Blocks
    from test_checkpoints_save_folder import contents, model
    from wskit.checkpoints import save_weights

    folder = Path(sys.argv[1])

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    def call(kill):
        lazy = Blocks(model(1))
        if isinstance(kill, str):
            lazy.read_block = lambda name, *part: die() if name == kill else \\
                Blocks.read_block(lazy, name, *part)
        elif kill is not None:
            real, count = Path.rename, iter(range(9))
            Path.rename = lambda self, to: die() if next(count) == kill else real(self, to)
        save_weights(lazy, folder / "out", shard_size=900, metadata={"of": "1"})
        return [name for name, *_ in lazy.reads]

    old = contents(folder / "out")
    for kill in ("first", "large", "counter", "last", 0, 1):
        child = os.fork()
        if child == 0:
            call(kill)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL, kill
        hidden = folder / ".out.part"
        kept = contents(folder / "out") if kill != 1 else contents(hidden / "old")
        assert kept == old, kill
        print(kill, len(list(hidden.glob("made/model*.safetensors"))))
    print(call(None))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes that are killed are forks")
def test_killed_at_many_points_and_resumed(tmp_path):
    save_weights(model(0), tmp_path / "out", shard_size=900)
    expected = contents(
        save_weights(model(1), tmp_path / "expected", shard_size=900, metadata={"of": "1"})
    )
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLS), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[1]}"},
    )
    assert done.returncode == 0, done.stderr
    finished = ["first 0", "large 1", "counter 2", "last 2", "0 3", "1 3"]
    assert done.stdout.splitlines() == [*finished, "[]"]
    assert contents(tmp_path / "out") == expected
    assert {path.name for path in tmp_path.iterdir()} == {"out", "expected"}


def stops_after(reads: int, lazy: Blocks):
    return lambda: len(lazy.reads) >= reads


@pytest.mark.parametrize(
    ("first", "second", "again"),
    [
        ({"of": "a"}, {"of": "a"}, ["large", "counter", "last"]),
        ({"of": "a"}, {"of": "b"}, ["first", "half", "large", "counter", "last"]),
        (None, None, ["first", "half", "large", "counter", "last"]),
    ],
)
def test_stopped_and_resumed(tmp_path, first, second, again):
    """Only metadata that are the same say that the values are."""
    target = tmp_path / "out"
    lazy = Blocks(model())
    options = {"shard_size": 900, "threads": 1}
    stop = stops_after(3, lazy)
    with pytest.raises(CheckpointError, match=r"out: .* but was asked to stop; call it again"):
        save_weights(lazy, target, metadata=first, should_stop=stop, **options)
    assert [path.name for path in tmp_path.iterdir()] == ([".out.part"] if first else [])
    lazy = Blocks(model(1))
    save_weights(lazy, target, metadata=second, **options)
    assert [name for name, *_ in lazy.reads] == again
    assert list(tmp_path.iterdir()) == [target]


def test_a_damaged_shard_is_made_again(tmp_path):
    lazy = Blocks(model())
    options = {"shard_size": 900, "metadata": {"of": "a"}, "threads": 1}
    with pytest.raises(CheckpointError, match="asked to stop"):
        save_weights(lazy, tmp_path / "out", should_stop=stops_after(3, lazy), **options)
    (shard,) = (tmp_path / ".out.part" / "made").glob("*.safetensors")
    os.truncate(shard, 100)
    save_weights(model(), tmp_path / "out", **options)
    assert torch.equal(open_checkpoint(tmp_path / "out")["first"], model()["first"])


@pytest.mark.parametrize("target", ["w.safetensors", "folder"])
def test_stopped_at_once(tmp_path, target):
    with pytest.raises(CheckpointError, match="asked to stop"):
        save_weights(model(), tmp_path / target, should_stop=lambda: True)
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_a_block_is_the_error(tmp_path):
    class Breaks(Blocks):
        def read_block(self, name, start, stop, out=None):
            raise ZeroDivisionError(name)

    with pytest.raises(ZeroDivisionError):
        save_weights(Breaks(model()), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_is_another(tmp_path):
    class Liar(Blocks):
        def read_block(self, name, start, stop, out=None):
            return super().read_block(name, start, stop, out).double()

    with pytest.raises(CheckpointError, match=r"float32 of shape \(100,\), .* got torch.float64"):
        save_weights(Liar({"last": torch.zeros(100)}), tmp_path / "out")


@pytest.fixture
def ingredient(tmp_path):
    """A Hugging Face folder with all sorts of files."""
    folder = save_weights(model(), tmp_path / "ingredient", shard_size=900)
    for name in ("config.json", "merges.txt", "tokenizer.model", "chat_template.jinja"):
        (folder / name).write_text(name)
    for name in ("modeling.py", "README.md", ".hidden.json", "pytorch_model.bin.index.json"):
        (folder / name).write_text(name)
    (folder / "original.json").mkdir()
    return folder


def test_companions_are_copied(tmp_path, ingredient):
    (ingredient / "vocab.json").symlink_to("config.json")
    folder = save_weights({"w": torch.ones(1)}, tmp_path / "out", copy_from=ingredient)
    companions = {"config.json", "merges.txt", "tokenizer.model", "chat_template.jinja"}
    assert contents(folder).keys() == {"model.safetensors", "vocab.json"} | companions
    assert (folder / "vocab.json").read_text() == "config.json"
    assert not (folder / "vocab.json").is_symlink()
    assert list(open_checkpoint(folder)) == ["w"]
    # What was copied is no obstacle to replacing the folder.
    save_weights({"v": torch.ones(1)}, folder)
    assert contents(folder).keys() == {"model.safetensors"}


def test_companions_from_the_cache_of_the_hub(tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    (blobs / "123").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/123")
    folder = save_weights({"w": torch.ones(1)}, tmp_path / "out", copy_from=snapshot)
    assert (folder / "config.json").read_text() == "{}"


def test_companions_outside_are_refused(tmp_path, ingredient):
    (tmp_path / "secret.txt").write_text("secret")
    (ingredient / "notes.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(CheckpointError, match=r"'notes.txt' is a link to .*secret.txt; do not use"):
        save_weights(weights(), tmp_path / "out", copy_from=ingredient)
    assert not (tmp_path / "out").exists()


def test_bad_targets(tmp_path, ingredient):
    def refuses(match, target, **options):
        with pytest.raises(CheckpointError, match=match) as caught:
            save_weights(weights(), target, **options)
        assert str(target) in str(caught.value) or "copy_from" in str(caught.value)
        assert "\n" not in str(caught.value)

    (tmp_path / "file").touch()
    refuses("expected a folder or nothing, got a file; move it away", tmp_path / "file")
    refuses("expected a folder as the target", tmp_path / "w.safetensors", copy_from=ingredient)
    refuses("got a file; leave copy_from out", tmp_path / "x", copy_from=ingredient / "config.json")
    refuses("got nothing; leave copy_from out", tmp_path / "x", copy_from=tmp_path / "none")
    refuses("expected the folder .* to exist", tmp_path / "none" / "x")


@pytest.mark.parametrize(
    "change",
    [
        "a note",
        "another configuration",
        "weights of others",
        "an edited shard",
        "a link",
        "a folder",
    ],
)
def test_what_wskit_did_not_write_is_never_removed(tmp_path, change):
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text("{}")
    out = save_weights(model(), tmp_path / "out", shard_size=900, copy_from=source)
    save_weights(model(), out, shard_size=900, copy_from=source)  # its own folder is replaced
    if change == "a note":
        (out / "diary.txt").write_text("x")
    elif change == "another configuration":
        (out / "config.json").write_text('{"mine": true}')
    elif change == "weights of others":
        save_file({"w": torch.ones(1)}, out / "model.safetensors")
    elif change == "an edited shard":
        shard = out / "model-00001-of-00003.safetensors"
        shard.write_bytes(shard.read_bytes()[:-4] + b"abcd")
    elif change == "a link":
        (out / "config.json").rename(tmp_path / "elsewhere.json")
        (out / "config.json").symlink_to(tmp_path / "elsewhere.json")
    else:
        (out / "notes.json").mkdir()
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with pytest.raises(CheckpointError, match=r"one that wskit wrote, .* but it holds '"):
        save_weights(model(), out)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_a_folder_without_a_record_is_not_ours(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    save_weights({"w": torch.ones(1)}, folder)  # an empty folder is taken
    for record in (None, b"[]", b"[" * 100_000, b"{"):
        (folder / ".wskit.json").unlink(missing_ok=True)
        if record is not None:
            (folder / ".wskit.json").write_bytes(record)
        with pytest.raises(CheckpointError, match=r"it holds .model.safetensors.; choose another"):
            save_weights({"w": torch.ones(1)}, folder)


def test_a_disk_that_is_too_small(tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    for target in ("out", "w.safetensors"):
        with pytest.raises(CheckpointError, match=r"expected \d+ free bytes to write it, got 100"):
            save_weights(model(), tmp_path / target)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("room_for", range(4))  # the journal, two shards, the index
def test_a_disk_that_fills_up_is_said_of_the_target(tmp_path, monkeypatch, room_for):
    room, sync = iter(range(room_for)), os.fsync

    def fsync(handle):
        if next(room, None) is None:
            raise OSError(28, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    sentence = rf"{tmp_path / 'w'}: cannot be written \(No space left on device\); free some"
    with pytest.raises(CheckpointError, match=f"^{sentence}"):
        save_weights({"a": torch.ones(3), "b": torch.ones(2)}, tmp_path / "w", shard_size=12)
    assert not (tmp_path / "w").exists()


def test_two_at_a_time(tmp_path):
    (tmp_path / ".out.part").mkdir()
    with (
        filelock.FileLock(tmp_path / ".out.part" / "lock"),
        pytest.raises(CheckpointError, match="another process writes it; wait"),
    ):
        save_weights(weights(), tmp_path / "out")


@pytest.mark.parametrize("error", [OSError(13, "Permission denied"), KeyboardInterrupt()])
def test_a_second_rename_that_fails_puts_the_old_folder_back(tmp_path, monkeypatch, error):
    folder = save_weights(weights(), tmp_path / "out")
    before = contents(folder)
    rename = Path.rename

    def fails(self, target):
        if self.name == "made":
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises((CheckpointError, KeyboardInterrupt)):
        save_weights(model(), folder)
    assert contents(folder) == before


def test_replacing_the_folder_that_is_open(tmp_path):
    folder = save_weights(model(), tmp_path / "out", shard_size=900)
    with open_checkpoint(folder) as ckpt:
        save_weights(average([ckpt, model(2)], lazy=True), folder, copy_from=folder)
    expected = average([model(), model(2)])
    assert torch.equal(open_checkpoint(folder)["large"], expected["large"])
    assert contents(folder).keys() == {"model.safetensors"}


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "disk" / "out").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "out")
    assert save_weights(weights(), tmp_path / "link") == tmp_path / "link"
    assert (tmp_path / "link").is_symlink()
    assert list(open_checkpoint(tmp_path / "disk" / "out")) == list(weights())


def test_progress(tmp_path, capsys):
    save_weights(nn.Linear(3, 2).state_dict(), tmp_path / "a")
    assert capsys.readouterr().err == ""
    save_weights(nn.Linear(3, 2).state_dict(), tmp_path / "b", progress=True)
    assert "32.0/32.0" in capsys.readouterr().err
