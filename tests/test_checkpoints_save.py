"""Saving: every reader reads it, tied tensors stay tied, a failure leaves no trace."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from checkpoint_kit import FORMATS, Lazy, tied, weights, write
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, load_model
from torch import nn

from wskit.checkpoints import open_checkpoint, save_weights
from wskit.errors import CheckpointError

DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16,
    torch.uint32, torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
]  # fmt: skip


def raw(value: torch.Tensor) -> bytes:
    return bytes(value.contiguous().reshape(-1).view(torch.uint8).tolist())


@settings(max_examples=50)
@given(
    specs=st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3)),
        min_size=1,
        max_size=5,
    )
)
def test_the_library_and_we_read_back_every_bit(tmp_path_factory, specs):
    values = {name: torch.randint(0, 2, shape).to(dtype) for name, (dtype, shape) in specs.items()}
    path = save_weights(values, tmp_path_factory.mktemp("save") / "w.safetensors")
    library = load_file(path)
    with open_checkpoint(path, strip_prefixes=()) as ckpt:
        assert list(ckpt) == list(values), "the order is the mapping's"
        for name, value in values.items():
            for read in (ckpt[name], library[name]):
                assert (read.dtype, read.shape) == (value.dtype, value.shape)
                assert raw(read) == raw(value)


@pytest.mark.parametrize("kind", FORMATS)
def test_from_one_format_to_safetensors(tmp_path, kind):
    with open_checkpoint(write(tmp_path, kind)) as ckpt:
        path = save_weights(ckpt, tmp_path / "saved.safetensors", metadata={"from": kind})
    with open_checkpoint(path) as again:
        assert dict(again.metadata) == {"format": "pt", "from": kind}
        for name, value in weights().items():
            assert raw(again[name]) == raw(value)


def test_odd_tensors_are_written_by_value(tmp_path):
    base = torch.arange(6.0).reshape(2, 3)
    values = {
        "transposed": base.T,
        "part": base[:, 1],
        "repeated": torch.ones(1).expand(4),
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "parameter": nn.Parameter(torch.ones(2)),
    }
    read = load_file(save_weights(values, tmp_path / "w.safetensors"))
    for name, value in values.items():
        assert torch.equal(read[name], value)


def test_tied_tensors_are_stored_once_and_tied_again(tmp_path):
    model = tied()
    path = save_weights(model.state_dict(), tmp_path / "w.safetensors")
    assert path.stat().st_size < 4 * (40 * 30 + 30) + 1000
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == {"embed.weight", "head.bias"}
        assert file.metadata() == {"format": "pt", "head.weight": "embed.weight"}
    # Saved again from the file, the tie still holds.
    with open_checkpoint(path) as ckpt:
        copy = save_weights(ckpt, tmp_path / "copy.safetensors")
    for file in (path, copy):
        with open_checkpoint(file) as ckpt:
            assert ckpt["head.weight"].data_ptr() == ckpt["embed.weight"].data_ptr()
            assert torch.equal(ckpt["head.weight"], model["head"].weight)
            assert dict(ckpt.ties) == {"head.weight": "embed.weight"}
            assert dict(ckpt.metadata) == {"format": "pt"}
    fresh = tied()
    load_model(fresh, path)  # the library knows the convention
    assert torch.equal(fresh["head"].weight, model["embed"].weight)


@pytest.mark.parametrize(
    ("values", "metadata", "match"),
    [
        ({"w": torch.zeros(1, dtype=torch.complex128)}, None, "'w' is torch.complex128; convert"),
        ({"w": torch.eye(2).to_sparse()}, None, "'w' is sparse_coo"),
        ({"w": [1.0]}, None, "'w' is a list; pass the state dict alone"),
        ({3: torch.zeros(1)}, None, "expected names of tensors, got 3"),
        ({"__metadata__": torch.zeros(1)}, None, "got '__metadata__'; rename it"),
        ({"w": torch.zeros(1)}, {"epoch": 3}, "metadata of strings, got 'epoch': 3; use str"),
        ({"w": torch.zeros(1)}, {"best": "w"}, "'best': 'w' would read as a tied tensor"),
    ],
)
def test_what_the_format_cannot_hold(tmp_path, without_type_checks, values, metadata, match):
    with pytest.raises(CheckpointError, match=match):
        save_weights(values, tmp_path / "w.safetensors", metadata=metadata)
    assert list(tmp_path.iterdir()) == []


def test_bad_targets(tmp_path):
    with pytest.raises(CheckpointError, match=r"expected the suffix .safetensors, got '.pt'"):
        save_weights(weights(), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"expected the folder .* to exist; make it first"):
        save_weights(weights(), tmp_path / "none" / "w.safetensors")
    (tmp_path / "w.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot be written \(Is a directory"):
        save_weights(weights(), tmp_path / "w.safetensors")


def test_a_mapping_that_lies_about_its_tensors(tmp_path, without_type_checks):
    class Liar(Lazy):
        def shape(self, name):
            return (3,)

    with pytest.raises(CheckpointError, match=r"of shape \(3,\), as the mapping said"):
        save_weights(Liar({"w": torch.zeros(2)}), tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def original(tmp_path):
    """A file that is to be replaced; afterwards it must be alone and unchanged."""
    path = save_weights({"w": torch.ones(3)}, tmp_path / "w.safetensors")
    before = path.read_bytes()
    yield path
    assert path.read_bytes() == before


def test_an_error_in_the_middle(original, without_type_checks):
    class Breaks(Lazy):
        def __getitem__(self, name):
            return torch.zeros(1000) if name == "a" else 1 / 0

    with pytest.raises(ZeroDivisionError):
        save_weights(Breaks(dict.fromkeys("ab", torch.zeros(1000))), original)
    assert [path.name for path in original.parent.iterdir()] == ["w.safetensors"]


def test_a_full_disk(original, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left on device\); free some"):
        save_weights(weights(), original)
    assert [path.name for path in original.parent.iterdir()] == ["w.safetensors"]


@pytest.mark.slow
def test_killed_in_the_middle(original):
    """The half-written file lies beside the target, under another name."""
    code = f"""
        import os, signal, torch
        from checkpoint_kit import Lazy
        from wskit.checkpoints import save_weights

        class Dies(Lazy):
            def __getitem__(self, name):
                if name == "b":
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().__getitem__(name)

        save_weights(Dies(dict.fromkeys("ab", torch.zeros(100_000))), {str(original)!r})
    """
    env = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[1]}"}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False, env=env)
    assert done.returncode == -signal.SIGKILL
    left = [path for path in original.parent.iterdir() if path != original]
    assert [path.suffix for path in left] == [".part"]


def test_replacing_the_file_that_is_open(tmp_path):
    path = save_weights({"w": torch.ones(3)}, tmp_path / "w.safetensors")
    with open_checkpoint(path) as ckpt:
        save_weights({name: 2 * ckpt[name] for name in ckpt}, path)
        assert ckpt["w"].tolist() == [1.0, 1.0, 1.0], "what is open stays what it was"
    assert open_checkpoint(path)["w"].tolist() == [2.0, 2.0, 2.0]


def test_lazy_weights_are_read_once_and_one_at_a_time(tmp_path, without_type_checks):
    lazy = Lazy({"a": torch.zeros(1000), "b": torch.ones(1000)})
    path = save_weights(lazy, tmp_path / "w.safetensors")
    assert lazy.reads == ["a", "b"]
    assert torch.equal(load_file(path)["b"], torch.ones(1000))
