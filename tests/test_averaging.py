"""Averages of models: the formula, what is kept of the models, memory, lazy blocks, refusals."""

import copy
import weakref
from types import MappingProxyType

import numpy as np
import pytest
import torch
from torch import nn

from wskit import averaging
from wskit._base.weights import LazyWeights, block_size
from wskit.averaging import RunningMean, average, fisher_average, slerp
from wskit.averaging import _merge as engine
from wskit.checkpoints import open_checkpoint, save_weights
from wskit.errors import AveragingError

SHAPES = {"a.weight": (4, 3, 2), "a.bias": (4,), "b.scale": (), "b.running_var": (5,)}
BLOCK = block_size(torch.device("cpu"))
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def models_of(n, *, dtype=torch.float32, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def random(shape):
        return (torch.randn(shape, generator=generator) * scale).to(dtype)

    return [
        {**{k: random(s) for k, s in SHAPES.items()}, "n": torch.tensor(100 + i)} for i in range(n)
    ]


def naive(models, name, coefficients=None):
    stack = np.stack([model[name].detach().double().numpy() for model in models])
    c = np.full(len(models), 1 / len(models)) if coefficients is None else np.array(coefficients)
    return np.tensordot(c, stack, axes=1)


def mean_of(models):
    mean = RunningMean()
    for model in models:
        mean.add(model)
    return mean.weights


BOTH = pytest.mark.parametrize("make", [average, mean_of])


class Network(nn.Module):
    """A network with tied weights, a batch norm and a mask."""

    def __init__(self, seed):
        super().__init__()
        self.embed = nn.Linear(6, 5, bias=False)
        self.norm = nn.BatchNorm1d(5)
        self.head = nn.Linear(6, 5)
        self.head.weight = self.embed.weight
        self.register_buffer("mask", torch.tensor([True, False]))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for tensor in [*self.parameters(), self.norm.running_mean, self.norm.running_var]:
                tensor.add_(torch.randn(tensor.shape, generator=generator))
        self.norm.num_batches_tracked += 7 * seed


def networks(n):
    return [Network(seed) for seed in range(n)]


# --- the formula ------------------------------------------------------------------------------


@pytest.mark.parametrize("coefficients", [None, [0.5, 0.2, 0.3], [1.5, -0.25, -0.25]])
@pytest.mark.parametrize("lazy", [False, True])
def test_average_equals_the_sum(coefficients, lazy):
    models = models_of(3)
    mean = average(models, coefficients, lazy=lazy)
    assert list(mean) == list(models[0])
    for name, shape in SHAPES.items():
        np.testing.assert_allclose(mean[name], naive(models, name, coefficients), atol=3e-7)
        assert mean[name].shape == shape
    assert mean["n"] == 100  # the first model's


@pytest.mark.parametrize("t", [-0.26, 0.0, 0.25, 1.0, 1.43])
def test_a_point_on_the_line(t):
    a, b = models_of(2)
    point = average([a, b], [1 - t, t])
    for name in SHAPES:
        np.testing.assert_allclose(point[name], naive([a, b], name, [1 - t, t]), atol=3e-7)
        if t in (0, 1):
            assert torch.equal(point[name], (a, b)[int(t)][name])


def test_the_precision_of_the_sums():
    models = [{"w": torch.tensor(x)} for x in (2.0**24, 1.0, 1.0, 1.0, 2.0**24)]
    c = [1.0, 0.5, 0.5, 0.0, -1.0]
    assert average(models, c, precision="float64")["w"] == 1
    assert average(models, c)["w"] == 0  # 2^24 + 0.5 is no float32


@BOTH
def test_tensors_larger_than_a_block(make):
    generator = torch.Generator().manual_seed(0)
    shapes = {"w": 2 * BLOCK + 3, "b": 3}
    models = [{k: torch.randn(n, generator=generator) for k, n in shapes.items()} for _ in range(3)]
    mean = make(models)
    for name in shapes:
        np.testing.assert_allclose(mean[name], naive(models, name), atol=3e-7)


def test_order_does_not_matter():
    models = models_of(7)
    for one, other in [
        (average(models), average(models[::-1])),
        (mean_of(models), mean_of(models[::-1])),
        (average(models), mean_of(models)),
    ]:
        for name in SHAPES:
            torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-6)


# --- modules, dtypes, ties, other tensors -----------------------------------------------------


@BOTH
def test_modules_are_read_by_their_state_dict(make):
    models = networks(3)
    found, expected = make(models), make([model.state_dict() for model in models])
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in found)
    models[0].load_state_dict(found)


@BOTH
def test_inputs_are_left_alone_and_nothing_is_shared(make):
    models = [
        {k: nn.Parameter(t, t.is_floating_point()) for k, t in m.items()} for m in models_of(2)
    ]
    before = copy.deepcopy(models)
    for result in (make(models), make(models[:1]), average(models, lazy=True)):
        for tensor in result.values():
            assert not tensor.requires_grad
            tensor.zero_()
    assert all(torch.equal(m[k], b[k]) for m, b in zip(models, before, strict=True) for k in m)


@BOTH
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_dtype_is_kept_and_rounded_to_once(make, dtype):
    models = models_of(40, dtype=dtype, scale=0.02)
    mean = make(models)
    limit = {torch.float64: 1e-16, torch.float32: 4e-8}.get(dtype, 1e-8)
    for name in SHAPES:
        assert mean[name].dtype is dtype
        exact = torch.from_numpy(np.asarray(naive(models, name)))
        rounding = (exact.to(dtype).double() - exact).abs()
        assert ((mean[name].double() - exact).abs() <= rounding + limit).all()
    assert mean["n"].dtype is torch.int64


@BOTH
def test_a_float64_tensor_is_averaged_in_float64_beside_others(make):
    models = [
        {"x": torch.tensor(1 + i * 1e-12, dtype=torch.float64), "y": torch.tensor(1.0 + i)}
        for i in range(3)
    ]
    mean = make(models)
    assert mean["x"].item() == pytest.approx(1 + 1e-12, abs=1e-15)
    assert (mean["x"].dtype, mean["y"].dtype, mean["y"].item()) == (torch.float64, torch.float32, 2)


@BOTH
def test_tied_tensors_stay_tied_and_others_are_the_first_ones(make):
    models = [model.state_dict() for model in networks(3)]
    mean = make(models)
    assert mean["embed.weight"].data_ptr() == mean["head.weight"].data_ptr()
    np.testing.assert_allclose(mean["embed.weight"], naive(models, "head.weight"), atol=1e-6)
    assert mean["norm.num_batches_tracked"] == models[0]["norm.num_batches_tracked"]
    assert mean["mask"].tolist() == [True, False]


def test_ties_that_a_mapping_does_not_know_are_compared():
    first, second = ({"a": torch.full((2,), float(i)), "n": torch.tensor(1)} for i in (1, 2))
    first["b"], second["b"] = first["a"], second["a"].clone()
    for mean in (average([first, second]), mean_of([first, MappingProxyType(second)])):
        assert mean["a"].data_ptr() == mean["b"].data_ptr()
        assert mean["b"].tolist() == [1.5, 1.5]
    second["b"] += 1
    with pytest.raises(AveragingError, match="'b' and 'a' are tied in model 1 and differ in"):
        average([first, second])


def test_a_lazy_average_is_saved_with_its_ties(tmp_path):
    models = [model.state_dict() for model in networks(3)]
    paths = [save_weights(m, tmp_path / f"{i}.safetensors") for i, m in enumerate(models)]
    checkpoints = [open_checkpoint(path) for path in paths]
    mean = average(checkpoints, lazy=True)
    assert mean.ties == {"head.weight": "embed.weight"}
    assert (mean.shape("head.weight"), mean.dtype("mask")) == ((5, 6), torch.bool)
    assert len(mean) == len(models[0])
    assert "nothing" not in mean
    with pytest.raises(KeyError):
        mean["nothing"]
    saved = open_checkpoint(save_weights(mean, tmp_path / "mean.safetensors"))
    assert saved.ties == mean.ties
    expected, running = average(models), mean_of(checkpoints)
    for name in models[0]:
        assert torch.equal(saved[name], expected[name])
        torch.testing.assert_close(running[name], expected[name], rtol=0, atol=1e-6)


# --- memory -----------------------------------------------------------------------------------


class Buffer(np.ndarray):
    """An array that weak references can point at."""


class Counting(LazyWeights):
    """Makes a tensor on access, and counts how many are alive, or were at most."""

    alive, most, made = 0, 0, 0

    def __init__(self, shapes, fill):
        self._shapes, self._fill = shapes, fill

    def __getitem__(self, name):
        buffer = np.full(self._shapes[name], self._fill, dtype=np.float32).view(Buffer)
        weakref.finalize(buffer, Counting.forget)  # lives as long as the tensor's memory
        Counting.alive += 1
        Counting.made += 1
        Counting.most = max(Counting.most, Counting.alive)
        return torch.from_numpy(buffer)

    @staticmethod
    def forget():
        Counting.alive -= 1

    def __iter__(self):
        return iter(self._shapes)

    def __len__(self):
        return len(self._shapes)

    def shape(self, name):
        return self._shapes[name]

    def dtype(self, name):
        return torch.float32


@pytest.mark.parametrize("n", [2, 6])
@pytest.mark.parametrize(
    "make", [average, lambda models: dict(average(models, lazy=True).items()), mean_of]
)
def test_one_tensor_of_one_model_is_alive_at_a_time(make, n, without_type_checks):
    shapes = {f"w{i}": (BLOCK + 5,) for i in range(3)}
    Counting.alive = Counting.most = Counting.made = 0
    result = make([Counting(shapes, i) for i in range(n)])
    assert Counting.most == 1
    assert 3 * n <= Counting.made <= 3 * n + 1  # each is read once; one more shows the device
    assert Counting.alive == 0
    assert result["w0"][0] == pytest.approx((n - 1) / 2)


# --- blocks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("coefficients", [None, [0.5, 0.25, 0.25], [2.0, -1.5, 0.5]])
def test_a_block_is_computed_into_given_memory(dtype, coefficients):
    draw = torch.Generator().manual_seed(0)
    models = [{"w": torch.randn(BLOCK + 9, generator=draw).to(dtype)} for _ in range(3)]
    lazy = average(models, coefficients, lazy=True)
    out = torch.empty(BLOCK - 1, dtype=dtype)
    assert lazy.read_block("w", 5, BLOCK + 4, out).data_ptr() == out.data_ptr()
    assert torch.equal(out, lazy["w"][5 : BLOCK + 4])
    exact = torch.from_numpy(naive(models, "w", coefficients))
    near = 1e-2 if dtype is torch.bfloat16 else 2e-3
    torch.testing.assert_close(lazy["w"].double(), exact, rtol=near, atol=near)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Check for NaN as where each check waits; return what is checked before the end."""
    checked = []
    monkeypatch.setattr(engine, "_waits", lambda device: True)
    monkeypatch.setattr(
        engine, "all_finite", lambda x: checked.append(x) or bool(x.isfinite().all())
    )
    return checked


def pair(dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    return [
        {"v": torch.randn(3, generator=draw).to(dtype), "w": torch.full((2, 5), i, dtype=dtype)}
        for i in (1, 2)
    ]


def by_fisher(models):
    return fisher_average(models, [{name: t.abs() + 1 for name, t in m.items()} for m in pair()])


@pytest.mark.parametrize(
    "merge",
    [
        average,
        lambda models: average([MappingProxyType(model) for model in models]),
        by_fisher,
        lambda models: slerp(*models, 0.25),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_a_gpu_is_waited_for_once(as_on_a_gpu, merge, value, dtype):
    models = pair(dtype)
    found = merge(models)
    assert not as_on_a_gpu  # no tensor by itself
    assert found["w"].isfinite().all()
    models[1]["w"][1, 2] = value
    for call in (lambda: merge(models), lambda: average(models, lazy=True)["w"]):
        with pytest.raises(AveragingError, match="'w' of model 2 holds NaN or inf in 1 of its 10"):
            call()


def test_on_a_gpu_large_sums_are_no_error_and_overflows_are(as_on_a_gpu):
    huge = {"w": torch.full((4,), 1e38)}
    assert torch.equal(average([huge, huge])["w"], huge["w"])
    assert len(as_on_a_gpu) == 1  # the sum of its entries is inf
    with pytest.raises(AveragingError, match=r"of the result overflows torch.float16"):
        average([{"w": torch.tensor([x], dtype=torch.float16)} for x in (6e4, -6e4)], [1.5, -0.5])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@BOTH
def test_cuda_equals_cpu(make):
    models = [model.state_dict() for model in networks(4)]
    on_gpu = [{name: tensor.cuda() for name, tensor in model.items()} for model in models]
    expected = make(models)
    for each in (on_gpu, [on_gpu[0], *models[1:]]):  # the first model decides on the device
        for name, tensor in make(each).items():
            assert tensor.is_cuda
            torch.testing.assert_close(tensor.cpu(), expected[name], rtol=0, atol=1e-6)


# --- refusals ---------------------------------------------------------------------------------


GOOD = models_of(1)[0]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({k: t for k, t in GOOD.items() if k != "a.bias"}, "'a.bias' is in model 1 and not in mod"),
        (GOOD | {"x": torch.zeros(1)}, "'x' is in model 3 and not in model 1"),
        (GOOD | {"a.bias": torch.zeros(1)}, r"'a.bias' has the shape \(4,\) in model 1 and \(1,\)"),
        (GOOD | {"a.bias": torch.zeros(4).half()}, "is torch.float32 in model 1 and torch.float16"),
        (
            GOOD | {"a.bias": torch.tensor([0, float("nan"), float("inf"), 1])},
            "'a.bias' of model 3 holds NaN or inf in 2 of its 4 entries",
        ),
    ],
)
@BOTH
def test_a_model_that_does_not_fit_is_named(make, bad, message):
    with pytest.raises(AveragingError, match=message):
        make([GOOD, GOOD, bad])


def test_models_are_called_by_their_names():
    models = dict(zip(("seed 3", "seed 5"), pair(), strict=True))
    assert torch.equal(average(models)["v"], average(list(models.values()))["v"])
    models["seed 5"]["w"][0, 0] = float("nan")
    with pytest.raises(AveragingError, match="'w' of seed 5 holds NaN"):
        average(models)


def test_masks_must_agree():
    a, b = ({"w": torch.ones(2), "mask": torch.tensor([True, i == 0])} for i in range(2))
    with pytest.raises(AveragingError, match="'mask', a mask, differs between model 1 and model 2"):
        average([a, b])


def test_large_but_finite_values_are_no_error():
    model = {"w": torch.full((8,), 3e38), "h": torch.full((8,), 6e4, dtype=torch.float16)}
    mean = mean_of([model, model])
    assert all(torch.equal(mean[name], model[name]) for name in model)
    halves = [{"h": model["h"]}] * 4
    assert torch.equal(average(halves)["h"], model["h"])
    with pytest.raises(AveragingError, match=r"tensor 'w' of the result overflows torch.float32"):
        average([model, model])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: average([]), "got none"),
        (lambda: average(GOOD), "put it in a list"),
        (lambda: average(Network(0)), "put it in a list"),
        (lambda: average([GOOD], [0.5, 0.5]), r"1 models need 1 coefficients, .*\(2,"),
        (lambda: average([GOOD, GOOD], [1, 1]), "sum to 1, got 2"),
        (lambda: average([GOOD], [float("nan")]), "sum to 1, got nan"),
        (lambda: average([GOOD], precision="float16"), "precision must be one of 'float32', "),
        (lambda: average([{"n": torch.tensor(1)}]), "model 1 holds no floating-point tensor"),
        (lambda: average([{"z": torch.zeros(2, dtype=torch.cfloat)}]), "'z' of .* is complex"),
    ],
)
def test_what_would_be_silently_wrong_is_refused(call, message, without_type_checks):
    with pytest.raises(AveragingError, match=message):
        call()


def test_the_module_lists_what_users_use():
    assert dir(averaging) == sorted(averaging.__all__)
