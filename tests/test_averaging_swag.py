"""SWAG: the moments of its samples against the paper's covariance, written out."""

import numpy as np
import pytest
import torch

from wskit.averaging import SWAG, RunningMean
from wskit.errors import AveragingError

NAMES = ("a", "b")


def iterates(n, *, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
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


def vector(model):
    return torch.cat([model[name].double().flatten() for name in NAMES]).numpy()


def swag_of(models, **options):
    swag = SWAG(**options)
    for model in models:
        swag.add(model)
    return swag


def naive_covariance(models, rank):
    """Half the sum of Sigma_diag, by the difference of moments, and Sigma_low-rank."""
    X = np.array([vector(model) for model in models])
    diagonal = np.diag((X**2).mean(0) - X.mean(0) ** 2)
    D = np.array([X[i] - X[: i + 1].mean(0) for i in range(len(X))])[-rank:].T
    return (diagonal + D @ D.T / (D.shape[1] - 1)) / 2


@pytest.mark.parametrize("n", [2, 4, 9])
def test_moments_equal_the_formulae(n):
    models, rank = iterates(n), 4
    swag = swag_of(models, rank=rank)
    X = np.array([vector(model) for model in models])
    assert swag.n_averaged == n
    np.testing.assert_allclose(vector(swag.weights), X.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(vector(swag.variances), X.var(0), rtol=1e-4, atol=1e-7)
    D = np.array([X[i] - X[: i + 1].mean(0) for i in range(n)])[-rank:]
    ours = np.hstack([swag.deviations[name].flatten(1).numpy() for name in NAMES])
    np.testing.assert_allclose(ours, D, atol=5e-6)
    assert "bn.running_var" not in swag.variances
    running = RunningMean()
    for model in models:
        running.add(model)
    for name, tensor in running.weights.items():
        torch.testing.assert_close(swag.weights[name], tensor, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("n", "scale"), [(3, 1.0), (12, 1.0), (12, 0.25)])
def test_moments_of_samples_agree_with_the_covariance(n, scale):
    models, rank, draws = iterates(n), 5, 10_000
    swag = swag_of(models, rank=rank)
    samples = np.array([vector(swag.sample(seed=i, scale=scale)) for i in range(draws)])
    covariance = scale * naive_covariance(models, rank)
    spread = np.sqrt(np.diag(covariance))
    mean = np.array([vector(model) for model in models]).mean(0)
    assert (np.abs(samples.mean(0) - mean) < 5 * spread / np.sqrt(draws)).all()
    # The standard error of a covariance of unit normals is at most sqrt(2/draws) = 0.014.
    errors = (np.cov(samples.T) - covariance) / np.outer(spread, spread)
    assert np.abs(errors).max() < 0.06


def test_a_sample_is_a_model():
    models = iterates(6, dtype=torch.bfloat16)
    for model in models:
        model["tied"] = model["a"]
    swag = swag_of(models)
    sample = swag.sample(seed=3)
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


def test_sampling_leaves_the_moments_and_the_global_generator_alone():
    swag = swag_of(iterates(4))
    state = torch.get_rng_state()
    before = swag.weights, swag.variances
    swag.sample(seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    for old, new in zip(before, (swag.weights, swag.variances), strict=True):
        assert all(torch.equal(old[name], new[name]) for name in old)


def test_a_constant_model_has_no_variance():
    (model,) = iterates(1)
    swag = swag_of([model] * 5)
    assert all(torch.equal(swag.sample(seed=1)[name], model[name]) for name in NAMES)


def test_a_refused_model_changes_nothing():
    models = iterates(3)
    swag = swag_of(models)
    before = swag.weights, swag.variances
    bad = {**models[0], "b": torch.tensor([[1.0, float("nan")]])}
    with pytest.raises(
        AveragingError, match="tensor 'b' of model 4 holds NaN or inf in 1 of its 2"
    ):
        swag.add(bad)
    assert swag.n_averaged == 3
    for old, new in zip(before, (swag.weights, swag.variances), strict=True):
        assert all(torch.equal(old[name], new[name]) for name in old)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SWAG(rank=1), "rank must be at least 2, got 1"),
        (lambda: SWAG().sample(seed=0), "no model has been added yet"),
        (
            lambda: swag_of(iterates(1)).sample(seed=0),
            "needs at least 2 models, and 1 has been added",
        ),
        (lambda: swag_of(iterates(3)).sample(seed=0, scale=-1.0), "scale must be .* got -1.0"),
    ],
)
def test_messages(call, message):
    with pytest.raises(AveragingError, match=message):
        call()
