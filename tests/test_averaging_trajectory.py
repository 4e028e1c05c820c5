"""Recorded trajectories: any average afterwards, and their spectrum."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from wskit.averaging import ExponentialMean, RunningMean, Trajectory, average
from wskit.errors import AveragingError


def run(n, *, dtype=torch.float32, capacity=4, seed=0):
    """The states of a random walk of a small network with BatchNorm, recorded every 5 steps."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).to(dtype)
    trajectory, states = Trajectory(capacity), []
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
    """Also when the record has grown twice, and when the model goes on changing in place."""
    trajectory, states = run(11, dtype=dtype)
    assert trajectory.steps.tolist() == list(range(0, 55, 5))
    assert len(trajectory) == 11
    assert list(trajectory.weights) == list(states[0])
    for name, stack in trajectory.weights.items():
        assert torch.equal(stack, torch.stack([state[name] for state in states]))
        assert stack.dtype == states[0][name].dtype
    for row in (0, 10, -1):
        assert all(torch.equal(t, states[row][k]) for k, t in trajectory.model(row).items())


def test_stacks_are_views_of_the_record():
    trajectory, _ = run(3, capacity=4)
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
            assert torch.equal(tensor, exact.float())
        else:
            assert torch.equal(tensor, chosen[0][name])
    expected = average(chosen)
    for name in mean:
        torch.testing.assert_close(mean[name], expected[name], rtol=1e-6, atol=1e-6)


def test_window_means_are_the_running_mean():
    trajectory, states = run(10)
    stacks = trajectory.window_means([(2, stop) for stop in range(3, 11)])
    running = RunningMean()
    for i, state in enumerate(states[2:]):
        running.add(state)
        for name, tensor in running.weights.items():
            torch.testing.assert_close(stacks[name][i], tensor, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("start", "stop"), [(None, None), (3, -2), (9, 10)])
def test_exponential_means_are_those_of_models_one_at_a_time(start, stop):
    trajectory, states = run(10)
    stacks = trajectory.exponential_means(0.8, start, stop)
    one = ExponentialMean(0.8)
    chosen = states[start:stop]
    for i, state in enumerate(chosen):
        one.add(state)
        for name, tensor in one.weights.items():
            torch.testing.assert_close(stacks[name][i], tensor, rtol=1e-5, atol=1e-5)
    assert {len(stack) for stack in stacks.values()} == {len(chosen)}


def test_windows_see_what_is_appended_later():
    trajectory, states = run(6)
    trajectory.window_mean()
    trajectory.append(99, states[0])
    expected = average([*states, states[0]])
    torch.testing.assert_close(trajectory.window_mean()["0.bias"], expected["0.bias"])


def test_tied_tensors_stay_tied():
    trajectory = Trajectory()
    for step in range(3):
        w = torch.full((2, 2), float(step))
        trajectory.append(step, {"a": w, "b": w})
    for model in (trajectory.window_mean(), trajectory.model(1), trajectory.weights):
        assert model["a"].data_ptr() == model["b"].data_ptr()
    assert trajectory.window_mean(1)["b"].unique() == 1.5
    assert trajectory.spectrum().explained_variance[0] == pytest.approx(4.0)  # not 8: once


def test_spectrum_equals_pca():
    trajectory, states = run(9)
    names = [
        name for name, _ in nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).named_parameters()
    ]
    names += ["2.weight", "2.bias"]
    X = np.array([torch.cat([s[k].flatten() for k in names]).double().numpy() for s in states])
    pca = PCA().fit(X[2:])
    spectrum = trajectory.spectrum(start=2)
    assert spectrum.steps.tolist() == list(range(10, 45, 5))
    np.testing.assert_allclose(spectrum.explained_variance, pca.explained_variance_[:6], rtol=1e-9)
    np.testing.assert_allclose(
        spectrum.explained_variance_ratio, pca.explained_variance_ratio_[:6], rtol=1e-9
    )
    theirs = pca.transform(X[2:])[:, :6]
    np.testing.assert_allclose(np.abs(spectrum.coordinates), np.abs(theirs), atol=1e-8)
    distances = np.linalg.norm(X[2:, None] - X[None, 2:], axis=-1)
    c = spectrum.coordinates
    np.testing.assert_allclose(np.linalg.norm(c[:, None] - c[None], axis=-1), distances, atol=1e-7)
    assert (np.take_along_axis(c, np.abs(c).argmax(axis=0)[None], axis=0) > 0).all()
    with pytest.raises(ValueError, match="read-only"):
        spectrum.coordinates[0] = 0


def test_spectrum_of_many_parameters_recovers_planted_directions():
    """Two directions in 40 000 dimensions, which is more than a block of columns."""
    generator = torch.Generator().manual_seed(0)
    d = torch.linalg.qr(torch.randn(40_000, 2, generator=generator, dtype=torch.float64))[0]
    path = torch.stack([3 * torch.arange(8.0), torch.tensor([1.0, -1] * 4)], dim=1).double()
    trajectory = Trajectory()
    for step, theta in enumerate(path @ d.T + 7):
        trajectory.append(step, {"w": theta})
    s = trajectory.spectrum()
    expected = np.linalg.eigvalsh(np.cov(path.numpy().T))[::-1]
    np.testing.assert_allclose(s.explained_variance[:2], expected, rtol=1e-9)
    assert s.explained_variance_ratio[:2].sum() == pytest.approx(1)
    assert s.explained_variance.shape == (7,)
    recorded = trajectory.weights["w"]
    torch.testing.assert_close(recorded, path @ d.T + 7, msg="the record is another now")


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
    trajectory = Trajectory(capacity=2)
    trajectory.append(0, good(0))
    trajectory.append(1, good(1))
    with pytest.raises(AveragingError, match=message):
        trajectory.append(step, bad)
    assert trajectory.steps.tolist() == [0, 1]
    trajectory.append(3, good(5))
    assert trajectory.window_mean()["w"].tolist() == [2, 2, 2]


def constant():
    trajectory = Trajectory()
    trajectory.append(0, good(0.1))
    trajectory.append(1, good(0.1))
    trajectory.append(2, good(0.1))
    return trajectory


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Trajectory(0), "capacity must be at least 1, got 0"),
        (lambda: Trajectory().weights, "no step has been recorded yet"),
        (
            lambda: constant().window_mean(1, 1),
            "the window 1:1 holds none of the 3 recorded steps; widen",
        ),
        (lambda: constant().window_mean(every=0), "every must be at least 1, got 0"),
        (lambda: constant().window_means([]), "there are no windows"),
        (lambda: constant().model(3), "there are 3 recorded steps, and no row 3"),
        (
            lambda: constant().spectrum(2),
            "a spectrum needs at least 2 recorded steps, and 2:None holds 1",
        ),
        (lambda: constant().exponential_means(0.5, 3), "3:None holds none of the 3 recorded"),
        (lambda: constant().exponential_means(1.0), "decay must lie between 0 and 1, got 1.0"),
        (lambda: constant().spectrum(), "the recorded weights are the same at every step"),
    ],
)
def test_messages(call, message):
    with pytest.raises(AveragingError, match=message):
        call()
