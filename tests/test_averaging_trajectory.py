"""Recorded trajectories, and any average of them afterwards."""

import numpy as np
import pytest
import torch
from torch import nn

from wskit.averaging import ExponentialMean, RunningMean, Trajectory, average
from wskit.errors import AveragingError


def run(n, *, dtype=torch.float32, seed=0):
    """The states of a random walk of a small network with BatchNorm, recorded every 5 steps."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).to(dtype)
    trajectory, states = Trajectory(), []
    for i in range(n):
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator).to(dtype)
                tensor.add_(noise * (1000 if "running" in name else 1))
        model[1].num_batches_tracked += 5
        states.append({k: t.clone() for k, t in model.state_dict().items()})
        trajectory.append(5 * i, model.state_dict())
    return trajectory, states


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_is_recorded_is_what_was(dtype):
    """Also when the record has grown, and when the model goes on changing in place."""
    trajectory, states = run(70, dtype=dtype)
    assert trajectory.steps.tolist() == list(range(0, 350, 5))
    assert len(trajectory) == 70
    assert list(trajectory.weights) == list(states[0])
    for name, stack in trajectory.weights.items():
        assert torch.equal(stack, torch.stack([state[name] for state in states]))
        assert stack.dtype == states[0][name].dtype
    for row in (0, 69, -1):
        assert all(torch.equal(t, states[row][k]) for k, t in trajectory.model(row).items())


def test_stacks_are_views_of_the_record():
    trajectory, _ = run(3)
    assert trajectory.weights["0.weight"].data_ptr() == trajectory.weights["0.weight"].data_ptr()


@pytest.mark.parametrize(
    ("start", "stop", "every"),
    [(None, None, 1), (3, 9, 1), (-4, None, 1), (0, 12, 4), (5, 12, 3), (2, 3, 5), (1, 11, 12)],
)
def test_window_mean_equals_the_mean_of_the_slice(start, stop, every):
    trajectory, states = run(12)
    mean = trajectory.window_mean(start, stop, every)
    chosen = states[start:stop:every]
    assert list(mean) == list(states[0])
    for name, tensor in mean.items():
        assert tensor.dtype == states[0][name].dtype
        if tensor.is_floating_point():
            exact = torch.stack([state[name] for state in chosen]).double().mean(0)
            torch.testing.assert_close(tensor, exact.float(), rtol=2e-7, atol=0)
        else:
            assert torch.equal(tensor, chosen[0][name])
    torch.testing.assert_close(mean, average(chosen), rtol=1e-6, atol=1e-6)


def test_a_mix_is_any_linear_combination():
    trajectory, states = run(10)
    swa = np.tril(np.ones((8, 10)), 2)
    swa[:, :2] = 0
    swa /= swa.sum(1, keepdims=True)
    ema = np.eye(10)
    for n in range(1, 10):
        ema[n] += 0.8 * (ema[n - 1] - ema[n])
    for c, mean, chosen in ((swa, RunningMean(), states[2:]), (ema, ExponentialMean(0.8), states)):
        stacks = trajectory.mix(c)
        for i, state in enumerate(chosen):
            mean.add(state)
            for name, tensor in mean.weights.items():
                torch.testing.assert_close(stacks[name][i], tensor, rtol=1e-5, atol=1e-5)
        assert {len(stack) for stack in stacks.values()} == {len(chosen)}
    assert torch.equal(trajectory.mix(np.eye(10)[3:5])["0.bias"], trajectory.weights["0.bias"][3:5])


def test_a_mix_of_more_parameters_than_are_converted_at_a_time():
    trajectory, generator = Trajectory(), torch.Generator().manual_seed(0)
    for step in range(3):
        trajectory.append(step, {"w": torch.randn(40_000, generator=generator)})
    c = torch.tensor([[0.5, 0.0, -2.0], [0.0, 1.0, 0.0]])
    torch.testing.assert_close(trajectory.mix(c)["w"], c @ trajectory.weights["w"])


def test_tied_tensors_stay_tied():
    trajectory = Trajectory()
    for step in range(3):
        w = torch.full((2, 2), float(step))
        trajectory.append(step, {"a": w, "b": w})
    for model in (trajectory.window_mean(), trajectory.model(1), trajectory.weights):
        assert model["a"].data_ptr() == model["b"].data_ptr()
    assert trajectory.window_mean(1)["b"].unique() == 1.5


def good(step=0.0):
    return {"w": torch.full((3,), float(step))}


@pytest.mark.parametrize(
    ("step", "bad", "message"),
    [
        (1, good(), "steps must increase, and 1 follows 1; begin a new Trajectory"),
        (2, {"v": torch.zeros(3)}, "tensor 'v' is in step 2 and not in step 0"),
        (
            2,
            {"w": torch.zeros(1)},
            r"tensor 'w' has the shape \(3,\) in step 0 and \(1,\) in step 2",
        ),
        (
            2,
            {"w": torch.tensor([1, 2, float("nan")])},
            "tensor 'w' of step 2 holds NaN or inf in 1 of",
        ),
    ],
)
def test_a_step_that_does_not_fit_is_not_recorded(step, bad, message):
    trajectory = Trajectory()
    trajectory.append(0, good(0))
    trajectory.append(1, good(1))
    with pytest.raises(AveragingError, match=message):
        trajectory.append(step, bad)
    assert trajectory.steps.tolist() == [0, 1]
    trajectory.append(3, good(5))
    assert trajectory.window_mean()["w"].tolist() == [2, 2, 2]


@pytest.mark.parametrize("window", [(1, 1), (5, None), (0, -3)])
def test_what_would_be_silently_wrong_is_refused(window):
    with pytest.raises(AveragingError, match="no step has been recorded yet"):
        Trajectory().window_mean()
    with pytest.raises(AveragingError, match=r"the window .* holds none of the 3 recorded steps"):
        run(3)[0].window_mean(*window)
