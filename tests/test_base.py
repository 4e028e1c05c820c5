"""Weights, layouts and files at the bottom of the kit."""

import os
import stat

import pytest
import torch
from torch import nn

from wskit._base.checks import check_choice
from wskit._base.files import hash_file, write_atomically
from wskit._base.layout import check_one_architecture, layout_of
from wskit._base.weights import LazyWeights, as_weights, header, name_models, ties
from wskit.errors import DataError
from wskit.errors import GeometryError as Refused


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


class Doubled(LazyWeights):
    """Twice the tensors of a dict; counts what is read."""

    def __init__(self, weights):
        self.of, self.n_read = weights, 0

    def shape(self, name):
        return tuple(self.of[name].shape)

    def dtype(self, name):
        return self.of[name].dtype

    def __getitem__(self, name):
        self.n_read += 1
        return 2 * self.of[name]

    def __iter__(self):
        return iter(self.of)

    def __len__(self):
        return len(self.of)


def test_a_module_gives_its_tensors_and_names_its_buffers():
    net = network()
    weights = as_weights(net, Refused)
    assert weights["0.weight"].data_ptr() == net[0].weight.data_ptr()
    assert weights.buffers == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert list(name_models([net, weights], Refused)) == ["model 1", "model 2"]


def test_a_mapping_stays_itself():
    weights = Doubled({"w": torch.ones(2)})
    assert as_weights(weights, Refused) is weights


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("base.pt", r"open it with wskit.checkpoints.open_checkpoint\('base.pt'\)"),
        ([torch.ones(2)], "got a list"),
        ({"epoch": 3}, "'epoch' is a int"),
    ],
)
def test_what_is_no_weights_is_refused(source, sentence):
    with pytest.raises(Refused, match=sentence):
        as_weights(source, Refused)


@pytest.mark.parametrize("models", [network(), {"w": torch.ones(2)}, Doubled({}), []])
def test_several_models_are_needed(models):
    with pytest.raises(Refused, match="needed, got"):
        name_models(models, Refused)


def test_a_lazy_mapping_reads_rows_and_blocks():
    x = torch.arange(12.0).reshape(4, 3)
    lazy = Doubled({"w": x, "empty": torch.empty(0, 3), "number": torch.tensor(5.0)})
    assert "w" in lazy
    assert "v" not in lazy
    assert lazy.n_read == 0
    assert header(lazy, "w") == ((4, 3), torch.float32)
    assert torch.equal(lazy.rows("w", 1, 3), 2 * x[1:3])
    for start, stop in [(0, 12), (2, 7), (4, 5), (3, 3)]:
        assert torch.equal(lazy.read_block("w", start, stop), 2 * x.flatten()[start:stop])
    out = torch.empty(2)
    assert lazy.read_block("w", 1, 3, out) is out
    assert lazy.read_block("empty", 0, 0).shape == (0,)
    assert lazy.read_block("number", 0, 1).tolist() == [10.0]


def test_ties_are_shared_memory():
    w = torch.ones(2, 2)
    assert ties({"a": w, "b": w, "c": w.T, "d": w.clone()}) == {"b": "a"}
    meta = torch.empty(2, device="meta")
    assert ties({"a": meta, "b": torch.empty(2, device="meta")}) == {}


def test_flatten_and_unflatten_are_inverse():
    w = torch.randn(2, 3)
    weights = {"n": torch.tensor(7), "w": w, "half": torch.ones(2).half(), "tied": w}
    layout = layout_of(weights, error=Refused, keep_others=True)
    flat = layout.flatten(weights)
    assert flat.shape == (layout.size,) == (8,)
    assert layout.left_out == ("n",)
    back = layout.copies(flat)
    assert list(back) == list(weights)
    assert all(torch.equal(back[name], weights[name]) for name in weights)
    assert all(back[name].dtype == weights[name].dtype for name in weights)
    assert back["tied"] is back["w"]
    assert back["w"].data_ptr() != flat.data_ptr()
    stack = layout.unflatten(torch.stack([flat, 2 * flat]))
    assert torch.equal(stack["w"][1], 2 * w)


def test_running_statistics_can_lie_at_the_end():
    net = network()
    layout = layout_of(as_weights(net, Refused), error=Refused, statistics_last=True)
    n = sum(p.numel() for p in net.parameters())
    assert layout.n_parameters == n
    assert layout.size == n + 8
    flat = layout.flatten(net.state_dict())
    expected = torch.cat([p.detach().flatten() for p in net.parameters()])
    assert torch.equal(flat[:n], expected)


def test_some_names_make_a_partial_layout():
    weights = {"a": torch.ones(2), "b": torch.zeros(3), "head": torch.ones(5)}
    layout = layout_of(weights, error=Refused, names=["b", "a"])
    assert layout.flatten(weights).tolist() == [1, 1, 0, 0, 0]
    layout.check({**weights, "head": torch.ones(7)}, "model 2")
    with pytest.raises(Refused, match="no floating-point tensor 'c'"):
        layout_of(weights, error=Refused, names=["c"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"v": torch.ones(1)}, r"'v' is in b and not in a \(1 such names\)"),
        ({"w": torch.ones(3)}, r"shape \(2,\) in a and \(3,\) in b"),
        ({"w": torch.ones(2, dtype=torch.float64)}, "torch.float32 in a and torch.float64 in b"),
        ({"mask": torch.tensor([False])}, "'mask', a mask, differs"),
        ({"u": torch.zeros(2)}, "'u' and 'w' are tied in a and differ in b"),
    ],
)
def test_models_of_one_architecture(change, sentence):
    w = torch.ones(2)
    a = {"w": w, "u": w, "mask": torch.tensor([True])}
    b = {name: tensor.clone() for name, tensor in a.items()} | change
    with pytest.raises(Refused, match=sentence):
        check_one_architecture({"a": a, "b": b}, error=Refused, keep_others=True)


def test_nan_is_named_and_found_in_a_group_of_small_tensors():
    weights = {"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")])}
    layout = layout_of(weights, error=Refused)
    with pytest.raises(Refused, match="'b' of it holds NaN or inf in 1 of its 2 entries"):
        layout.flatten(weights, "it")
    huge = {"a": torch.full((2,), 3e38), "b": torch.full((2,), 3e38)}  # whose sum overflows
    assert layout.flatten(huge).isfinite().all()


@pytest.mark.parametrize(
    "weights", [{"n": torch.tensor(1)}, {}, {"c": torch.ones(1, dtype=torch.complex64)}]
)
def test_a_vector_needs_real_numbers(weights):
    with pytest.raises(Refused, match=r"floating-point|complex"):
        layout_of(weights, error=Refused)


def test_a_choice():
    check_choice("a", ("a", "b"), Refused, "method")
    with pytest.raises(Refused, match="method must be one of 'a', 'b', got 'c'"):
        check_choice("c", ("a", "b"), Refused, "method")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "x.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), write_atomically(target, Refused) as file:
        file.write(b"half")
        raise RuntimeError
    assert target.read_text() == "old"
    with write_atomically(target, Refused) as file:
        file.write(b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]
    assert target.read_text() == "new"
    assert hash_file(target)[:8] == "11507a0e"
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~_umask()


def test_an_error_of_the_kit_s_own_stays_itself(tmp_path):
    lost = DataError("the download was cancelled")  # an OSError too
    with pytest.raises(DataError) as caught, write_atomically(tmp_path / "x", Refused):
        raise lost
    assert caught.value is lost
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing_is_named(tmp_path):
    target = tmp_path / "no" / "x.txt"
    with pytest.raises(Refused, match=f"{target}: cannot be written"):  # noqa: SIM117
        with write_atomically(target, Refused):
            pass


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now
