"""Means of models that come one at a time, against torch's; SWAG against the paper's formulae."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import (
    AveragedModel,
    get_ema_avg_fn,
    get_ema_multi_avg_fn,
    get_swa_avg_fn,
    get_swa_multi_avg_fn,
)

from wskit._base.weights import block_size
from wskit.averaging import SWAG, ExponentialMean, RunningMean
from wskit.errors import AveragingError

BLOCK = block_size(torch.device("cpu"))


def fill(mean, models):
    for model in models:
        mean.add(model)
    return mean


def trained(n):
    """The same network again and again, as training changes it in place."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(n):
        optimizer.zero_grad()
        model(torch.rand(8, 2, 4, 4)).square().mean().backward()
        optimizer.step()
        yield model


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (RunningMean, {}),
        (RunningMean, {"use_buffers": True}),
        (RunningMean, {"avg_fn": get_swa_avg_fn()}),
        # With use_buffers, it fails on the counter of a BatchNorm.
        (RunningMean, {"multi_avg_fn": get_swa_multi_avg_fn()}),
        (lambda: ExponentialMean(0.95), {"avg_fn": get_ema_avg_fn(0.95)}),
        (
            lambda: ExponentialMean(0.95),
            {"multi_avg_fn": get_ema_multi_avg_fn(0.95), "use_buffers": True},
        ),
    ],
)
def test_it_agrees_with_averaged_model_in_each_form(make, options):
    mean, theirs, last = make(), None, None
    for last in trained(100):
        theirs = theirs or AveragedModel(last, **options)
        theirs.update_parameters(last)
        mean.add(last)
    assert mean.n_averaged == theirs.n_averaged == 100
    averaged = [name for name, _ in last.named_parameters()]
    averaged += ["1.running_mean", "1.running_var"] * ("use_buffers" in options)
    expected, found = theirs.module.state_dict(), mean.weights
    assert list(found) == list(expected)
    for name in averaged:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-6)
    assert (found["3.weight"] - last.state_dict()["3.weight"]).abs().max() > 1e-4


@pytest.mark.parametrize("decay", [None, 0.7])
def test_a_mean_is_the_weighted_sum_of_what_has_come(decay):
    models = [
        {"w": torch.randn(4, 3, generator=torch.Generator().manual_seed(i))} for i in range(6)
    ]
    mean = RunningMean() if decay is None else ExponentialMean(decay)
    for n, model in enumerate(models, start=1):
        mean.add(model)
        c = np.full(n, 1 / n)
        if decay is not None:
            c = decay ** np.arange(n - 1, -1, -1.0)
            c[1:] *= 1 - decay
        exact = sum(ci * m["w"].double() for ci, m in zip(c, models, strict=False))
        torch.testing.assert_close(mean.weights["w"].double(), exact, rtol=0, atol=5e-7)


def odd(i):
    generator = torch.Generator().manual_seed(i)
    normal = torch.randn(6, 4, generator=generator)
    return {
        "plain": normal.clone(),
        "transposed": normal.T,
        "every second": normal[:, ::2],
        "scalar": normal[0, 0],
        "empty": torch.zeros(0, 3),
        "bfloat16": normal.bfloat16(),
        "float64": normal.double() / 3,
        "parameter": nn.Parameter(normal.clone()),
        "image": torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "count": torch.tensor(i),
    }


def test_tensors_of_every_kind_are_read_together():
    """Small ones are, whatever their dtypes and strides."""
    models = [odd(i) for i in range(9)]
    before = copy.deepcopy(models)
    mean = fill(RunningMean(), models)
    for name, tensor in mean.weights.items():
        assert tensor.dtype == models[0][name].dtype
        assert not tensor.requires_grad
        if name != "count":
            exact = torch.stack([model[name].detach().double() for model in models]).mean(0)
            torch.testing.assert_close(tensor, exact.to(tensor.dtype), rtol=0, atol=1e-15)
        assert all(torch.equal(m[name], b[name]) for m, b in zip(models, before, strict=True))
    models[0]["transposed"] = models[0]["transposed"].clone()
    models[0]["transposed"][2, 1] = float("nan")
    with pytest.raises(AveragingError, match="'transposed' of model 10 holds NaN or inf in 1"):
        mean.add(models[0])
    assert mean.n_averaged == 9


@pytest.mark.parametrize("make", [RunningMean, lambda: ExponentialMean(0.9), SWAG])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_mean_of_copies_is_the_model(make, dtype):
    model = {"w": torch.randn(50, generator=torch.Generator().manual_seed(0)).to(dtype)}
    assert torch.equal(fill(make(), [model] * 7).weights["w"], model["w"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_follows_a_slow_drift(dtype):
    """A mean kept in bfloat16 moves by less than its rounding from the 100th model on."""
    models = [{"w": torch.linspace(1, 2, 50).add(i * 1e-3).to(dtype)} for i in range(1000)]
    exact = torch.stack([model["w"].double() for model in models]).mean(0)
    error = (fill(RunningMean(), models).weights["w"].double() - exact).abs()
    assert (error <= exact * torch.finfo(dtype).eps / 2 + 1e-5).all()
    naive_mean = models[0]["w"].clone()
    for n, model in enumerate(models[1:], start=2):
        naive_mean.lerp_(model["w"], 1 / n)
    assert (naive_mean.double() - exact).abs().max() > 10 * error.max()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("make", [RunningMean, lambda: ExponentialMean(0.9), SWAG])
def test_a_refused_model_leaves_the_mean_as_it_was(make, value):
    """NaN in the last tensor, when the others, which are larger than a block, are in the mean."""
    models = [{"w": torch.full((2 * BLOCK,), x), "v": torch.tensor(x)} for x in (1.0, 2.0)]
    bad = {"w": torch.full((2 * BLOCK,), 5.0), "v": torch.tensor(value)}
    mean = make()
    with pytest.raises(AveragingError, match="'v' of model 1 holds"):
        mean.add(bad)
    assert mean.n_averaged == 0
    fill(mean, models)
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
        tensor.zero_()  # is a copy
    torch.testing.assert_close(mean.weights, before, rtol=1e-6, atol=0)


# --- SWAG -------------------------------------------------------------------------------------


NAMES = ("a", "b")


def iterates(n, *, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([0.1, 1, 3])
    return [
        {
            "a": (torch.randn(3, generator=generator) * scales + 10).to(dtype),
            "bn.running_var": torch.rand(2, generator=generator).to(dtype),
            "b": torch.randn(1, 2, generator=generator).to(dtype),
            "n": torch.tensor(i),
        }
        for i in range(n)
    ]


def flatten(model):
    return torch.cat([model[name].double().flatten() for name in NAMES]).numpy()


def naive_covariance(models, rank):
    """Half the sum of Sigma_diag, by the difference of moments, and Sigma_low-rank."""
    X = np.array([flatten(model) for model in models])
    diagonal = np.diag((X**2).mean(0) - X.mean(0) ** 2)
    D = np.array([X[i] - X[: i + 1].mean(0) for i in range(len(X))])[-rank:].T
    return (diagonal + D @ D.T / (D.shape[1] - 1)) / 2


@pytest.mark.parametrize("n", [2, 4, 9])
def test_moments_equal_the_formulae(n):
    models = iterates(n)
    swag = fill(SWAG(rank=4), models)
    X = np.array([flatten(model) for model in models])
    assert swag.n_averaged == n
    np.testing.assert_allclose(flatten(swag.weights), X.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(flatten(swag.variances), X.var(0), rtol=1e-4, atol=1e-7)
    assert "bn.running_var" not in swag.variances
    for name, tensor in fill(RunningMean(), models).weights.items():
        torch.testing.assert_close(swag.weights[name], tensor, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("n", "scale"), [(3, 1.0), (12, 1.0), (12, 0.25)])
def test_moments_of_samples_agree_with_the_covariance(n, scale):
    models, rank, draws = iterates(n), 5, 10_000
    swag = fill(SWAG(rank=rank), models)
    samples = np.array([flatten(swag.sample(seed=i, scale=scale)) for i in range(draws)])
    covariance = scale * naive_covariance(models, rank)
    spread = np.sqrt(np.diag(covariance))
    mean = np.array([flatten(model) for model in models]).mean(0)
    assert (np.abs(samples.mean(0) - mean) < 5 * spread / np.sqrt(draws)).all()
    # The standard error of a covariance of unit normals is at most sqrt(2/draws) = 0.014.
    errors = (np.cov(samples.T) - covariance) / np.outer(spread, spread)
    assert np.abs(errors).max() < 0.06


def test_a_sample_is_a_model():
    models = iterates(6, dtype=torch.bfloat16)
    for model in models:
        model["tied"] = model["a"]
    swag = fill(SWAG(), models)
    state = torch.get_rng_state()
    sample = swag.sample(seed=3)
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn globally
    assert list(sample) == list(models[0])
    assert all(sample[name].dtype == models[0][name].dtype for name in sample)
    assert sample["tied"].data_ptr() == sample["a"].data_ptr()
    assert sample["n"] == 0
    assert torch.equal(sample["bn.running_var"], swag.weights["bn.running_var"])
    again, other = swag.sample(seed=3), swag.sample(seed=4)
    assert all(torch.equal(sample[name], again[name]) for name in sample)
    assert not torch.equal(sample["b"], other["b"])
    centre = swag.sample(seed=3, scale=0.0)
    assert all(torch.equal(centre[name], tensor) for name, tensor in swag.weights.items())


def test_a_constant_model_has_no_variance():
    model = iterates(1)[0]
    swag = fill(SWAG(), [model] * 5)
    assert all(torch.equal(swag.sample(seed=1)[name], model[name]) for name in NAMES)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ExponentialMean(1.0), "decay must lie between 0 and 1, got 1.0"),
        (lambda: RunningMean().weights, "no model has been added yet"),
        (lambda: SWAG(rank=1), "rank must be at least 2, got 1"),
        (lambda: fill(SWAG(), iterates(1)).sample(seed=0), "needs at least 2 models, and 1 has"),
        (lambda: fill(SWAG(), iterates(3)).sample(seed=0, scale=-1.0), "not negative, got -1.0"),
    ],
)
def test_what_would_be_silently_wrong_is_refused(call, message):
    with pytest.raises(AveragingError, match=message):
        call()
