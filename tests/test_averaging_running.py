"""Running means against torch's, by every way it has; odd tensors that are read in groups."""

import copy

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

from wskit.averaging import ExponentialMean, RunningMean
from wskit.errors import AveragingError


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
        mean.add(last.state_dict())
    assert mean.n_averaged == theirs.n_averaged == 100
    averaged = [name for name, _ in last.named_parameters()]
    averaged += ["1.running_mean", "1.running_var"] * ("use_buffers" in options)
    expected, found = theirs.module.state_dict(), mean.weights
    for name in averaged:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-6)
    assert (found["3.weight"] - last.state_dict()["3.weight"]).abs().max() > 1e-4


def odd(i):
    generator = torch.Generator().manual_seed(i)
    normal = torch.randn(6, 4, generator=generator)
    return {
        "plain": normal.clone(),
        "transposed": normal.T,
        "every second": normal[:, ::2],
        "row": normal[0],
        "scalar": normal[0, 0],
        "empty": torch.zeros(0, 3),
        "bfloat16": normal.bfloat16(),
        "float16": normal.half(),
        "float64": normal.double() / 3,
        "parameter": nn.Parameter(normal.clone()),
        "image": torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "count": torch.tensor(i),
    }


def test_tensors_of_every_kind_are_read_together():
    """Small ones are, whatever their dtype and strides."""
    models = [odd(i) for i in range(9)]
    before = copy.deepcopy(models)
    mean = RunningMean()
    for model in models:
        mean.add(model)
    for name, tensor in mean.weights.items():
        assert tensor.dtype == models[0][name].dtype
        assert not tensor.requires_grad
        if name != "count":
            exact = torch.stack([model[name].detach().double() for model in models]).mean(0)
            torch.testing.assert_close(tensor, exact.to(tensor.dtype), rtol=0, atol=1e-15)
        assert all(torch.equal(m[name], b[name]) for m, b in zip(models, before, strict=True))
    models[0]["transposed"] = models[0]["transposed"].clone()
    models[0]["transposed"][2, 1] = float("nan")
    with pytest.raises(
        AveragingError, match="tensor 'transposed' of model 10 holds NaN or inf in 1"
    ):
        mean.add(models[0])
    assert mean.n_averaged == 9
