"""Symmetries of networks, and permutations that bring one network into another's order."""

import itertools
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from wskit.errors import GeometryError
from wskit.geometry import (
    Run,
    apply_permutation,
    match_weights,
    random_permutations,
    resnet_symmetries,
    sequential_symmetries,
    transformer_symmetries,
)


class Block(nn.Module):
    """A basic block; its shortcut has no weights (option A) or a convolution."""

    def __init__(self, inputs, width, stride, convolution):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.pad = stride, (width - inputs) // 2
        self.shortcut = nn.Sequential()
        if convolution and (stride > 1 or inputs != width):
            conv = nn.Conv2d(inputs, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(width))

    def forward(self, x):
        h = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if len(self.shortcut):
            return functional.relu(h + self.shortcut(x))
        x = x[:, :, :: self.stride, :: self.stride]
        return functional.relu(h + functional.pad(x, (0, 0, 0, 0, self.pad, self.pad)))


class ResNet(nn.Module):
    """A CIFAR ResNet: of 20 layers with three blocks a stage."""

    def __init__(self, widths=(4, 8, 16), blocks=2, convolution=False):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        inputs = widths[0]
        for stage, width in enumerate(widths, start=1):
            layers = []
            for block in range(blocks):
                stride = 2 if stage > 1 and block == 0 else 1
                layers.append(Block(inputs, width, stride, convolution))
                inputs = width
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        self.n_stages = len(widths)
        self.linear = nn.Linear(inputs, 10)

    def forward(self, x):
        h = functional.relu(self.bn1(self.conv1(x)))
        for stage in range(1, self.n_stages + 1):
            h = getattr(self, f"layer{stage}")(h)
        return self.linear(h.mean((2, 3)))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 12)
        layer = nn.TransformerEncoderLayer(12, 3, 20, dropout=0.0, batch_first=True)
        # The fast path of evaluation needs an even number of heads, and warns otherwise.
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x)).mean(1))


def mlp():
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 12), nn.GELU(),
        nn.LayerNorm(12), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3),
    )  # fmt: skip


def small_cnn():
    """The zoo's."""
    layers = OrderedDict()
    for i, inputs in enumerate((1, 16, 16), start=1):
        layers[f"conv{i}"] = nn.Conv2d(inputs, 16, 3, 2, 1)
        layers[f"activation{i}"] = nn.ReLU()
    layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(16, 10)}
    return nn.Sequential(layers)


def flattened_cnn():
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(6 * 16, 10), nn.ReLU(), nn.Linear(10, 3),
    )  # fmt: skip


def images(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


NETWORKS = {
    "mlp": (mlp, sequential_symmetries, images(5, 6)),
    "small cnn": (small_cnn, sequential_symmetries, images(5, 1, 8, 8)),
    "flattened cnn": (flattened_cnn, sequential_symmetries, images(5, 2, 8, 8)),
    "resnet": (ResNet, resnet_symmetries, images(5, 3, 8, 8)),
    "resnet with convolutions": (
        lambda: ResNet(convolution=True),
        resnet_symmetries,
        images(5, 3, 8, 8),
    ),
    "transformer": (
        Transformer,
        lambda weights: transformer_symmetries(weights, n_heads=3),
        torch.arange(30).reshape(5, 6) % 11,
    ),
}


def network(name, seed=0):
    """Return a module in evaluation mode, every parameter and statistic of which is random."""
    make, symmetries_of, x = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = make().eval()
        for key, value in module.state_dict().items():
            if value.ndim == 1:
                value.copy_(torch.rand(value.shape) + 0.5)
            elif value.is_floating_point() and "embed" not in key:
                value.mul_(1.5)
    return module, symmetries_of(module.state_dict()), x


@pytest.mark.parametrize("name", NETWORKS)
def test_permuted_networks_compute_the_same(name):
    module, symmetries, x = network(name)
    weights = {k: v.clone() for k, v in module.state_dict().items()}
    permutations = {
        group: order if (order != np.arange(order.size)).any() else np.roll(order, 1)
        for group, order in random_permutations(weights, symmetries, seed=1).items()
    }
    permuted = apply_permutation(weights, permutations, symmetries)
    with torch.no_grad():
        before = module(x)
        module.load_state_dict(permuted)
        after = module(x)
    assert before.std() > 1e-2
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    moved = [k for k in weights if not torch.equal(weights[k], permuted[k])]
    expected = [k for k in weights if any(axis is not None for axis in symmetries[k])]
    assert moved == expected
    assert {k: v.dtype for k, v in permuted.items()} == {k: v.dtype for k, v in weights.items()}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(3))
def test_planted_permutations_are_recovered_exactly(name, seed):
    module, symmetries, _ = network(name, seed)
    reference = module.state_dict()
    planted = random_permutations(reference, symmetries, seed=seed + 10)
    permuted = apply_permutation(reference, planted, symmetries)
    matching = match_weights(permuted, reference, symmetries, seed=seed)
    for key in reference:
        assert torch.equal(matching.weights[key], reference[key]), key
    for group, order in planted.items():
        assert np.array_equal(order[matching.permutations[group]], np.arange(order.size))
    assert matching.converged


def test_planted_permutations_are_recovered_under_noise():
    for name in ("mlp", "small cnn", "resnet", "transformer"):
        module, symmetries, _ = network(name)
        reference = module.state_dict()
        planted = random_permutations(reference, symmetries, seed=1)
        noisy = {
            k: v + 0.05 * images(*v.shape) if v.is_floating_point() else v
            for k, v in apply_permutation(reference, planted, symmetries).items()
        }
        found = match_weights(noisy, reference, symmetries, seed=0).permutations
        for group, order in planted.items():
            assert np.array_equal(order[found[group]], np.arange(order.size)), (name, group)


def test_matching_is_the_best_of_all_permutations():
    """One hidden layer: the optimum of every order, tried one by one."""
    (a, symmetries, _), (b, _, _) = tiny(0), tiny(1)
    weights, reference = b.state_dict(), a.state_dict()

    def inner(w):
        return sum(float((w[k].double() * reference[k].double()).sum()) for k in w)

    best = max(
        inner(apply_permutation(weights, {"0": np.array(p)}, symmetries))
        for p in itertools.permutations(range(5))
    )
    matching = match_weights(weights, reference, symmetries, seed=0)
    assert matching.history[0] == pytest.approx(inner(weights))
    assert matching.history[-1] == pytest.approx(best)
    assert inner(matching.weights) == pytest.approx(best)
    assert best > inner(weights) + 0.1


def tiny(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    return module, sequential_symmetries(module.state_dict()), None


@pytest.mark.parametrize("name", NETWORKS)
def test_history_rises_and_nothing_else_decides(name):
    """Between unrelated networks: no sweep loses, the seed is all the chance, inputs are kept."""
    (first, symmetries, _), (second, _, _) = network(name, 0), network(name, 1)
    weights, reference = first.state_dict(), second.state_dict()
    before = {k: v.clone() for k, v in weights.items()}
    one, two = (match_weights(weights, reference, symmetries, seed=4) for _ in range(2))
    assert (np.diff(one.history) >= 0).all()
    assert one.history[-1] > one.history[0]
    for group in one.permutations:
        assert np.array_equal(one.permutations[group], two.permutations[group])
    assert all(torch.equal(weights[k], before[k]) for k in weights)
    applied = apply_permutation(weights, one.permutations, symmetries)
    assert all(torch.equal(one.weights[k], applied[k]) for k in applied)


def test_sweeps_end(monkeypatch):
    monkeypatch.setattr("wskit.geometry._matching._MAX_SWEEPS", 1)
    (first, symmetries, _), (second, _, _) = network("mlp", 0), network("mlp", 1)
    matching = match_weights(first, second, symmetries, seed=0)
    assert (len(matching.history), matching.converged) == (2, False)


def test_running_statistics_do_not_count_unless_they_are_named():
    module, symmetries, _ = network("mlp")
    weights = module.state_dict()
    huge = weights | {"1.running_var": 1e6 * weights["1.running_var"]}
    planted = random_permutations(weights, symmetries, seed=1)
    permuted = apply_permutation(huge, planted, symmetries)
    plain = match_weights(permuted, weights, symmetries, seed=0)
    assert plain.history[-1] < 1e5
    statistics = match_weights(permuted, weights, symmetries, seed=0, names=["1.running_var"])
    assert statistics.history[-1] > 1e5
    assert np.array_equal(statistics.permutations["3"], np.arange(12))  # none of its tensors


def test_resnet_20_has_the_groups_of_its_streams():
    symmetries = resnet_symmetries(ResNet((16, 32, 64), blocks=3).state_dict())
    groups = {
        run if isinstance(run, str) else run.group
        for axes in symmetries.values()
        for axis in axes
        if axis is not None
        for run in ([axis] if isinstance(axis, str) else axis)
    }
    inner = {f"layer{s}.{b}.conv1" for s in (1, 2, 3) for b in range(3)}
    assert groups == {"stem", "layer2.stream", "layer3.stream"} | inner
    assert symmetries["layer2.0.conv2.weight"][0] == (
        Run("layer2.stream", 0, 8),
        Run("stem", 0, 16),
        Run("layer2.stream", 8, 16),
    )
    assert symmetries["linear.weight"][1][2] == Run("stem", 0, 16)


def test_bottlenecks_are_residual_blocks_too_under_any_prefix():
    shapes = {"conv1": (4, 3, 7, 7), "layer1.0.conv1": (2, 4, 1, 1)}
    shapes |= {"layer1.0.conv2": (2, 2, 3, 3), "layer1.0.conv3": (8, 2, 1, 1)}
    shapes |= {"layer1.0.downsample.0": (8, 4, 1, 1), "fc": (5, 8)}
    weights = {f"module.{k}.weight": torch.zeros(s) for k, s in shapes.items()}
    symmetries = resnet_symmetries(weights)
    assert symmetries["module.layer1.0.conv3.weight"][:2] == (
        (Run("layer1.stream", 0, 8),),
        "layer1.0.conv2",
    )
    assert symmetries["module.layer1.0.downsample.0.weight"][:2] == (
        (Run("layer1.stream", 0, 8),),
        (Run("stem", 0, 4),),
    )
    assert symmetries["module.fc.weight"] == (None, (Run("layer1.stream", 0, 8),))


def test_order_of_a_file_that_is_sorted_by_name():
    weights = small_cnn().state_dict()
    ordered = {k: weights[k] for k in sorted(weights)}
    assert sequential_symmetries(ordered) == sequential_symmetries(weights)
    deep = {f"{i}.weight": torch.zeros(3, 3) for i in range(11)}
    with pytest.raises(GeometryError, match="module '2' stands after '10', so the order"):
        sequential_symmetries({k: deep[k] for k in sorted(deep)})


def test_tied_tensors_stay_tied():
    w = images(4, 4)
    weights = {"a": w, "b": w}
    swapped = apply_permutation(
        weights, {"h": np.array([1, 0, 2, 3])}, {"a": ("h", None), "b": ("h", None)}
    )
    assert swapped["a"] is swapped["b"]
    with pytest.raises(GeometryError, match="'a' and 'b' are tied, and the symmetries permute"):
        apply_permutation(weights, {}, {"a": ("h", None), "b": (None, "h")})


W = {"a.weight": torch.ones(4, 2), "b.weight": torch.ones(3, 4)}
S = {"a.weight": ("h", None), "b.weight": (None, "h")}
HALF = {"self_attn.in_proj_weight": torch.ones(6, 2), "self_attn.bias_k": torch.ones(2)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: apply_permutation(W, {}, S | {"c": ()}), "and 'c' is in only one of the two"),
        (lambda: apply_permutation(W, {}, S | {"a.weight": ("h",)}), "an entry for each axis"),
        (
            lambda: apply_permutation(W, {}, S | {"b.weight": ("h", None)}),
            "group 'h' has 4 elements in tensor 'a.weight' and 3 in 'b.weight'",
        ),
        (
            lambda: apply_permutation(W, {}, S | {"a.weight": ((Run("h", 0, 3),), None)}),
            "axis 0 of tensor 'a.weight' has 4 entries, and its runs add up to 3",
        ),
        (
            lambda: apply_permutation(
                W, {}, S | {"a.weight": ((Run("h", 0, 3), Run("h", 0, 1)), None)}
            ),
            "axis 0 of tensor 'a.weight' must hold each element of group 'h' equally often",
        ),
        (lambda: apply_permutation(W, {"x": np.arange(4)}, S), "'x', .* the groups are h"),
        (lambda: apply_permutation(W, {"h": np.zeros(4)}, S), "must hold each number below 4"),
        (
            lambda: match_weights(W, W | {"b.weight": torch.ones(3, 4) * torch.nan}, S, seed=0),
            "tensor 'b.weight' of the reference holds NaN or inf",
        ),
        (
            lambda: match_weights({"r": W["b.weight"][:, :3]}, {"r": torch.ones(3, 3)},
                                  {"r": ("h", "h")}, seed=0),
            "a group is on two axes of tensor 'r'",
        ),
        (lambda: sequential_symmetries(dict(reversed(W.items()))), "has 2 inputs where .* 3"),
        (
            lambda: sequential_symmetries(W | {"n.weight": torch.ones(7)}),
            "tensor 'n.weight' has 7 entries where the layer before has 3 outputs",
        ),
        (lambda: resnet_symmetries(W), r"one weight 'conv1.weight' before its layers, got none"),
        (
            lambda: resnet_symmetries(ResNet().state_dict() | {"pos": torch.ones(2)}),
            "tensor 'pos' is no part of a known ResNet",
        ),
        (
            lambda: resnet_symmetries(ResNet((4, 7))),
            "block 'layer2.0' is 7 channels wide after a stream of 4, and has no shortcut",
        ),
        (lambda: transformer_symmetries(W, n_heads=2), "an attention with torch's names"),
        (
            lambda: transformer_symmetries(Transformer(), n_heads=5),
            "got 5 heads for tensor .* of width 12",
        ),
        (lambda: transformer_symmetries(HALF, n_heads=1), "'self_attn.bias_k' is an unknown part"),
    ],
)  # fmt: skip
def test_symmetries_say_what_does_not_fit(call, message):
    with pytest.raises(GeometryError, match=message):
        call()
