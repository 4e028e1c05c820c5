"""Averages of models; trajectories and SWAG are in test_averaging_trajectory.py and _swag.py."""

import copy
import weakref
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wskit._weights import block_size
from wskit.averaging import ExponentialMean, RunningMean, average, interpolate
from wskit.checkpoints import open_checkpoint, save_weights
from wskit.errors import AveragingError

SHAPES = {"a.weight": (4, 3, 2), "a.bias": (4,), "b.scale": (), "b.running_var": (5,)}
BLOCK = block_size(torch.device("cpu"))


def models_of(n, *, dtype=torch.float32, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            **{
                k: (torch.randn(s, generator=generator) * scale).to(dtype)
                for k, s in SHAPES.items()
            },
            "n": torch.tensor(100 + i),
        }
        for i in range(n)
    ]


def naive(models, name, coefficients=None):
    stack = np.stack([model[name].double().numpy() for model in models])
    c = np.full(len(models), 1 / len(models)) if coefficients is None else np.array(coefficients)
    return np.tensordot(c, stack, axes=1)


def of_mean(mean, models):
    for model in models:
        mean.add(model)
    return mean.weights


class Network(nn.Module):
    """A network with tied weights, BatchNorm and a mask."""

    def __init__(self, mask):
        super().__init__()
        self.embed = nn.Linear(6, 5, bias=False)
        self.norm = nn.BatchNorm1d(5)
        self.head = nn.Linear(6, 5)
        self.head.weight = self.embed.weight
        if mask:  # AveragedModel would subtract masks, an error
            self.register_buffer("mask", torch.tensor([True, False]))


def networks(n, dtype=torch.float32, *, mask=False):
    torch.manual_seed(0)
    first = Network(mask).to(dtype)
    result = []
    for i in range(n):
        model = copy.deepcopy(first)
        for tensor in [*model.parameters(), model.norm.running_mean, model.norm.running_var]:
            tensor.data += torch.randn_like(tensor)
        model.norm.num_batches_tracked += 7 * i
        result.append(model)
    return result


# --- the naive formula ------------------------------------------------------------------------


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


@pytest.mark.parametrize("alpha", [-0.26, 0.0, 0.25, 1.0, 1.43])
def test_interpolate(alpha):
    a, b = models_of(2)
    point = interpolate(a, b, alpha)
    for name in SHAPES:
        expected = naive([a, b], name, [1 - alpha, alpha])
        np.testing.assert_allclose(point[name], expected, atol=3e-7)
        if alpha in (0, 1):
            assert torch.equal(point[name], (a, b)[int(alpha)][name])
    assert point["n"] == 100


def test_running_mean_is_the_mean_of_what_has_come():
    models = models_of(6)
    mean = RunningMean()
    for i, model in enumerate(models, start=1):
        mean.add(model)
        assert mean.n_averaged == i
        for name in SHAPES:
            np.testing.assert_allclose(mean.weights[name], naive(models[:i], name), atol=3e-7)
    assert list(mean.weights) == list(models[0])
    assert mean.weights["n"] == 100


@pytest.mark.parametrize("bias_correction", [False, True])
def test_exponential_mean_is_a_weighted_sum(bias_correction):
    models, decay = models_of(5), 0.7
    mean = of_mean(ExponentialMean(decay, bias_correction=bias_correction), models)
    c = decay ** np.arange(4, -1, -1.0)
    if bias_correction:
        c *= (1 - decay) / (1 - decay**5)
    else:
        c[1:] *= 1 - decay
    for name in SHAPES:
        np.testing.assert_allclose(mean[name], naive(models, name, c), atol=5e-7)


def test_tensors_larger_than_a_block():
    generator = torch.Generator().manual_seed(0)
    size = 2 * BLOCK + 3
    models = [
        {"w": torch.randn(size, generator=generator), "b": torch.randn(3, generator=generator)}
        for _ in range(3)
    ]
    for mean in (average(models), of_mean(RunningMean(), models)):
        for name in ("w", "b"):
            np.testing.assert_allclose(mean[name], naive(models, name), atol=3e-7)


# --- torch ------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_running_mean_agrees_with_averaged_model(use_buffers, dtype):
    models = networks(20, dtype)
    swa = AveragedModel(models[0], use_buffers=use_buffers)
    for model in models:
        swa.update_parameters(model)
    mean = of_mean(RunningMean(), [model.state_dict() for model in models])
    theirs = swa.module.state_dict()
    assert list(mean) == list(theirs)
    compared = theirs if use_buffers else dict(swa.module.named_parameters())
    for name in compared:
        if mean[name].is_floating_point():
            torch.testing.assert_close(mean[name], theirs[name].detach(), rtol=0, atol=1e-6)
    Network(mask=False).to(dtype).load_state_dict(mean)


def test_exponential_mean_agrees_with_averaged_model():
    models = networks(20)
    ema = AveragedModel(models[0], multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for model in models:
        ema.update_parameters(model)
    mean = of_mean(ExponentialMean(0.9), [model.state_dict() for model in models])
    for name, theirs in ema.module.state_dict().items():
        if theirs.is_floating_point():
            torch.testing.assert_close(mean[name], theirs.detach(), rtol=0, atol=1e-6)


# --- invariances ------------------------------------------------------------------------------


def test_order_does_not_matter():
    models = models_of(7)
    for one, other in [
        (average(models), average(models[::-1])),
        (of_mean(RunningMean(), models), of_mean(RunningMean(), models[::-1])),
        (average(models), of_mean(RunningMean(), models)),
    ]:
        for name in SHAPES:
            torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_mean_of_copies_is_the_model(dtype):
    (model,) = models_of(1, dtype=dtype)
    for mean in (RunningMean(), ExponentialMean(0.9)):
        result = of_mean(mean, [model] * 7)
        assert all(torch.equal(result[name], model[name]) for name in model)
    result = average([model] * 7)
    for name in model:
        torch.testing.assert_close(result[name], model[name], rtol=3e-7, atol=0)


def test_inputs_are_left_alone_and_nothing_is_shared():
    models = [
        {k: t.requires_grad_(t.is_floating_point()) for k, t in m.items()} for m in models_of(2)
    ]
    before = copy.deepcopy(models)
    running = RunningMean()
    results = [average(models), average(models[:1]), average(models, lazy=True)]
    of_mean(running, models)
    results += [running.weights, running.weights]
    for result in results:
        for tensor in result.values():
            assert not tensor.requires_grad
            tensor.zero_()
    assert all(torch.equal(m[k], b[k]) for m, b in zip(models, before, strict=True) for k in m)
    np.testing.assert_allclose(
        running.weights["a.bias"], naive(detached(models), "a.bias"), atol=1e-6
    )


def detached(models):
    return [{name: tensor.detach() for name, tensor in model.items()} for model in models]


# --- dtypes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [average, lambda models: of_mean(RunningMean(), models)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_dtype_is_kept_and_rounded_to_once(make, dtype):
    models = models_of(40, dtype=dtype, scale=0.02)
    mean = make(models)
    for name in SHAPES:
        assert mean[name].dtype is dtype
        exact = torch.from_numpy(np.asarray(naive(models, name)))
        error = (mean[name].double() - exact).abs()
        rounding = (exact.to(dtype).double() - exact).abs()
        limit = {torch.float64: 1e-16, torch.float32: 4e-8}.get(dtype, 1e-8)
        assert (error <= rounding + limit).all()
    assert mean["n"].dtype is torch.int64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_follows_a_slow_drift(dtype):
    """A mean kept in bfloat16 moves by less than its rounding from the 100th model on."""
    models = [{"w": torch.linspace(1, 2, 50).add(i * 1e-3).to(dtype)} for i in range(1000)]
    exact = torch.stack([model["w"].double() for model in models]).mean(0)
    error = (of_mean(RunningMean(), models)["w"].double() - exact).abs()
    assert (error <= exact * torch.finfo(dtype).eps / 2 + 1e-5).all()
    naive_mean = models[0]["w"].clone()
    for n, model in enumerate(models[1:], start=2):
        naive_mean.lerp_(model["w"], 1 / n)
    assert (naive_mean.double() - exact).abs().max() > 10 * error.max()


def test_a_float64_tensor_is_averaged_in_float64_beside_others():
    models = [
        {"x": torch.tensor(1 + i * 1e-12, dtype=torch.float64), "y": torch.tensor(1.0 + i)}
        for i in range(3)
    ]
    for mean in (average(models), of_mean(RunningMean(), models)):
        assert mean["x"].item() == pytest.approx(1 + 1e-12, abs=1e-15)
        assert (mean["x"].dtype, mean["y"].dtype) == (torch.float64, torch.float32)
        assert mean["y"] == 2


# --- tied tensors, other tensors --------------------------------------------------------------


@pytest.mark.parametrize("make", [average, lambda models: of_mean(RunningMean(), models)])
def test_tied_tensors_stay_tied_and_count_once(make):
    models = [model.state_dict() for model in networks(3, mask=True)]
    mean = make(models)
    assert mean["embed.weight"].data_ptr() == mean["head.weight"].data_ptr()
    np.testing.assert_allclose(mean["embed.weight"], naive(models, "head.weight"), atol=1e-6)
    assert mean["norm.num_batches_tracked"] == models[0]["norm.num_batches_tracked"]
    assert mean["mask"].tolist() == [True, False]


def test_ties_that_a_mapping_does_not_tell_are_compared():
    first, second = ({"a": torch.full((2,), float(i)), "n": torch.tensor(1)} for i in (1, 2))
    first["b"], second["b"] = first["a"], second["a"].clone()
    for mean in (
        average([first, second]),
        of_mean(RunningMean(), [first, MappingProxyType(second)]),
    ):
        assert mean["a"].data_ptr() == mean["b"].data_ptr()
        assert mean["b"].tolist() == [1.5, 1.5]
    second["b"] += 1
    with pytest.raises(
        AveragingError, match="tensors 'b' and 'a' are tied in model 1 and differ in"
    ):
        average([first, second])


def test_a_lazy_average_is_saved_with_its_ties(tmp_path):
    models = [model.state_dict() for model in networks(3, mask=True)]
    paths = [save_weights(m, tmp_path / f"{i}.safetensors") for i, m in enumerate(models)]
    checkpoints = [open_checkpoint(path) for path in paths]
    mean = average(checkpoints, lazy=True)
    assert mean.ties == {"head.weight": "embed.weight"}
    assert mean.shape("head.weight") == (5, 6)
    assert mean.dtype("mask") is torch.bool
    assert len(mean) == len(models[0])
    assert "nothing" not in mean
    with pytest.raises(KeyError):
        mean["nothing"]
    saved = open_checkpoint(save_weights(mean, tmp_path / "mean.safetensors"))
    assert saved.ties == mean.ties
    expected, running = average(models), of_mean(RunningMean(), checkpoints)
    for name in models[0]:
        assert torch.equal(saved[name], expected[name])
        torch.testing.assert_close(running[name], expected[name], rtol=0, atol=1e-6)


# --- memory -----------------------------------------------------------------------------------


class Buffer(np.ndarray):
    """An array that weak references can point at."""


class Counting(Mapping):
    """Makes a tensor when it is asked for, and counts how many are alive, or were at most."""

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
    "make",
    [
        average,
        lambda models: [t for _, t in average(models, lazy=True).items()],
        lambda models: of_mean(RunningMean(), models),
    ],
)
def test_one_tensor_of_one_model_is_alive_at_a_time(make, n, without_type_checks):
    shapes = {f"w{i}": (BLOCK + 5,) for i in range(3)}
    Counting.alive = Counting.most = Counting.made = 0
    result = make([Counting(shapes, i) for i in range(n)])
    assert Counting.most == 1
    assert 3 * n <= Counting.made <= 3 * n + 1  # each is read once; one more tells the device
    assert Counting.alive == 0
    first = result[0] if isinstance(result, list) else result["w0"]
    assert first[0] == pytest.approx((n - 1) / 2)


# --- cuda -------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu():
    models = [model.state_dict() for model in networks(4, mask=True)]
    on_gpu = [{name: tensor.cuda() for name, tensor in model.items()} for model in models]
    mixed = [on_gpu[0], *models[1:]]  # the first model decides where the result is
    for make in (
        average,
        lambda models: of_mean(RunningMean(), models),
        lambda models: of_mean(ExponentialMean(0.9), models),
    ):
        expected = make(models)
        for mean in (make(on_gpu), make(mixed)):
            for name, tensor in mean.items():
                assert tensor.is_cuda
                torch.testing.assert_close(tensor.cpu(), expected[name], rtol=0, atol=1e-6)


# --- messages ---------------------------------------------------------------------------------


def changed(model, **tensors):
    return {**model, **{name.replace("_", "."): tensor for name, tensor in tensors.items()}}


GOOD = models_of(1)[0]
BAD = [
    (
        {k: t for k, t in GOOD.items() if k != "a.bias"},
        r"tensor 'a.bias' is in model 1 and not in model 3 \(1 such names\); models of one",
    ),
    (changed(GOOD, x=torch.zeros(1)), r"tensor 'x' is in model 3 and not in model 1"),
    (
        changed(GOOD, a_bias=torch.zeros(1)),
        r"tensor 'a.bias' has the shape \(4,\) in model 1 and \(1,\) in model 3",
    ),
    (
        changed(GOOD, a_bias=torch.zeros(4, dtype=torch.float16)),
        r"tensor 'a.bias' is torch.float32 in model 1 and torch.float16 in model 3; convert one",
    ),
    (
        changed(GOOD, a_bias=torch.tensor([0, float("nan"), float("inf"), 1])),
        r"tensor 'a.bias' of model 3 holds NaN or inf in 2 of its 4 entries; leave that model out",
    ),
    (changed(GOOD, a_bias=3), r"'a.bias' of model 3 is of type int and not a tensor; give the"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
@pytest.mark.parametrize("make", [average, lambda models: of_mean(RunningMean(), models)])
def test_a_model_that_does_not_fit_is_named(make, bad, message, without_type_checks):
    with pytest.raises(AveragingError, match=message):
        make([GOOD, GOOD, bad])


def test_masks_must_agree():
    a, b = ({"w": torch.ones(2), "mask": torch.tensor([True, i == 0])} for i in range(2))
    with pytest.raises(
        AveragingError, match="tensor 'mask', a mask, differs between model 1 and mod"
    ):
        average([a, b])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("make", [RunningMean, lambda: ExponentialMean(0.9)])
def test_a_refused_model_leaves_the_mean_as_it_was(make, value):
    """NaN in the last tensor, when the others, which are larger than a block, are in the mean."""
    models = [{"w": torch.full((2 * BLOCK,), x), "v": torch.tensor(x)} for x in (1.0, 2.0)]
    bad = {"w": torch.full((2 * BLOCK,), 5.0), "v": torch.tensor(value)}
    mean = make()
    with pytest.raises(AveragingError, match="'v' of model 1 holds"):
        mean.add(bad)
    assert mean.n_averaged == 0
    of_mean(mean, models)
    before = mean.weights
    with pytest.raises(AveragingError, match="'v' of model 3 holds"):
        mean.add(bad)
    half = {"w": bad["w"].clone(), "v": models[0]["v"]}
    half["w"][-1] = value
    with pytest.raises(AveragingError, match="'w' of model 3 holds NaN or inf in 1 of its"):
        mean.add(half)
    assert mean.n_averaged == 2
    for name, tensor in mean.weights.items():
        torch.testing.assert_close(tensor, before[name], rtol=1e-6, atol=0)


def test_large_but_finite_values_are_no_error():
    model = {"w": torch.full((8,), 3e38), "h": torch.full((8,), 6e4, dtype=torch.float16)}
    mean = of_mean(RunningMean(), [model, model])
    assert all(torch.equal(mean[name], model[name]) for name in model)
    halves = [{"h": model["h"]}] * 4
    assert torch.equal(average(halves)["h"], model["h"])
    with pytest.raises(AveragingError, match=r"tensor 'w' of the result overflows torch.float32"):
        average([model, model])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: average([]), "there are no models to average"),
        (
            lambda: average(GOOD),
            "a list of models is needed, got one mapping; put it in a list",
        ),
        (
            lambda: average([GOOD], [0.5, 0.5]),
            r"1 models need 1 coefficients in one row, got .*\(2,",
        ),
        (lambda: average([GOOD, GOOD], [1, 1]), "sum to 1, and these sum to 2; divide them by"),
        (lambda: average([GOOD, GOOD], [1, -1]), "sum to 1, and these sum to 0"),
        (lambda: average([GOOD], [float("nan")]), "must be finite and sum to 1"),
        (lambda: average([{"n": torch.tensor(1)}]), "model 1 holds no floating-point tensor"),
        (
            lambda: average([{"z": torch.zeros(2, dtype=torch.cfloat)}]),
            "tensor 'z' of .* is complex",
        ),
        (lambda: interpolate(GOOD, GOOD, float("inf")), "alpha must be a finite number, got inf"),
        (lambda: ExponentialMean(1.0), "decay must lie between 0 and 1, got 1.0"),
        (lambda: RunningMean().weights, "no model has been added yet"),
    ],
)
def test_messages(call, message, without_type_checks):
    with pytest.raises(AveragingError, match=message):
        call()
