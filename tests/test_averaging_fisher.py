"""The Fisher information; the rule of its averages is in test_averaging_merging.py."""

import numpy as np
import pytest
import torch
from torch import nn

from wskit import averaging
from wskit.averaging import fisher_average, fisher_diagonal
from wskit.errors import AveragingError


def test_the_least_squares_solution_of_all_data_is_the_fisher_average():
    """With F the precision of each model's posterior, as the derivation has it."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 4)), rng.normal(size=30)
    X[:15, :2] = X[15:, 2:] = 0  # each half knows two of the weights
    X = np.linalg.qr(X)[0]  # so that the precisions are diagonal
    halves = [(X[:15], y[:15]), (X[15:], y[15:])]
    models = [{"w": torch.tensor(np.linalg.lstsq(A, b, rcond=None)[0])} for A, b in halves]
    fishers = [{"w": torch.tensor((A**2).sum(0))} for A, _ in halves]
    merged = fisher_average(models, fishers, floor=1e-12)["w"]
    np.testing.assert_allclose(merged, np.linalg.lstsq(X, y, rcond=None)[0], atol=1e-9)


class Network(nn.Module):
    """Tied weights, a batch norm and a buffer of integers."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.b = nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(torch.tanh(self.norm(self.a(x))))


def network():
    torch.manual_seed(0)
    return Network().eval(), torch.randn(9, 4)


def naive_fisher_diagonal(module, x):
    total = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    for image in x:
        p = module(image[None]).softmax(-1)[0].detach()
        for label, share in enumerate(p):
            module.zero_grad()
            module(image[None]).log_softmax(-1)[0, label].backward()
            for name, parameter in module.named_parameters():
                total[name] += share * parameter.grad**2 / len(x)
    module.zero_grad()
    return total


def test_fisher_diagonal_is_the_expected_square_of_the_gradient(monkeypatch):
    module, x = network()
    truth = naive_fisher_diagonal(module, x)
    for gradients in (2**24, 100, 1):  # all at once, some, one at a time
        monkeypatch.setattr(averaging._fisher, "_GRADIENTS", gradients)
        found = fisher_diagonal(module, x)
        for name, value in truth.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-9)
        assert torch.equal(found["b.weight"], found["a.weight"])
        assert not found["norm.running_var"].any()
        assert list(found) == [k for k, v in module.state_dict().items() if v.is_floating_point()]
    assert all(p.grad is None for p in module.parameters())
    merged = fisher_average([module.state_dict()] * 2, [found, found])
    torch.testing.assert_close(merged["a.weight"], module.state_dict()["a.weight"])


def test_drawn_labels_lead_to_the_expectation():
    module, x = network()
    truth = fisher_diagonal(module, x)["a.bias"]
    errors = [
        (fisher_diagonal(module, x, n_draws=n, seed=1)["a.bias"] - truth).norm() / truth.norm()
        for n in (1, 10000)
    ]
    assert errors[0] > 0.03
    assert 0 < errors[1] < 0.01
    again = [fisher_diagonal(module, x, n_draws=2, seed=s)["a.bias"] for s in (1, 1, 2)]
    assert torch.equal(again[0], again[1])
    assert not torch.equal(again[0], again[2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fisher_diagonal(nn.Linear(1, 2), torch.ones(1, 1)), r"call its eval\(\) first"),
        (
            lambda: fisher_diagonal(nn.Linear(1, 2).eval(), torch.ones(0, 1)),
            r"got the shape \(0, 1\)",
        ),
        (
            lambda: fisher_diagonal(nn.Linear(1, 2).eval(), torch.ones(2, 1), n_draws=0),
            "n_draws must be a whole number of at least 1, got 0",
        ),
    ],
)
def test_messages(call, message):
    with pytest.raises(AveragingError, match=message):
        call()
