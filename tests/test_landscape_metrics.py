"""Evaluations of networks: modules and zoos, batch norm, ties."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from wskit.errors import LandscapeError
from wskit.landscape import (
    evaluate_mixtures,
    loss_path,
    module_metrics,
    split_metrics,
    zoo_metrics,
)
from wskit.zoo import MLP, SmallCNN


def data(images=50, classes=4, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(images, 1, 8, 8, generator=rng)
    return x, torch.randint(0, classes, (images,), generator=rng)


def stacked(modules):
    states = [m.state_dict() for m in modules]
    return {name: torch.stack([s[name] for s in states]) for name in states[0]}


def by_hand(module, x, y):
    with torch.no_grad():
        logits = copy.deepcopy(module).eval()(x)
    loss = functional.cross_entropy(logits, y).item()
    return loss, (logits.argmax(1) == y).double().mean().item()


def bn_net(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(1, 5, 3),
            nn.BatchNorm2d(5),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(180, 4),
        )
        net.train()(torch.randn(64, 1, 8, 8) * 2 + 1)  # statistics of its own
        return net


@pytest.mark.parametrize("network", [SmallCNN(n_classes=4, width=6), MLP((64, 8, 4))])
@pytest.mark.parametrize("form", ["zoo", "loop", "vmap"])
def test_each_form_is_the_module_itself(network, form):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        nets = [network.module("tanh") for _ in range(3)]
    x, y = data()
    if form == "zoo":
        evaluate = zoo_metrics(network, x, y, activation="tanh")
    else:
        evaluate = module_metrics(nets[0], x, y, form=form, batch_size=16)
    found = evaluate(stacked(nets))
    expected = np.array([by_hand(net, x, y) for net in nets])
    np.testing.assert_allclose(found["loss"], expected[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found["accuracy"], expected[:, 1], rtol=1e-5)


@pytest.mark.parametrize("form", ["loop", "vmap"])
def test_without_a_loader_statistics_are_those_of_the_weights(form):
    nets = [bn_net(i) for i in range(2)]
    x, y = data()
    found = module_metrics(nets[0], x, y, form=form)(stacked(nets))
    np.testing.assert_allclose(found["loss"], [by_hand(net, x, y)[0] for net in nets], rtol=1e-5)


def test_batch_norm_is_recomputed_at_each_point():
    """By hand: mean and variance of the convolution's outputs, over all images and pixels."""
    a, b = bn_net(0), bn_net(1)
    x, y = data()
    train, _ = data(200, seed=1)
    before = {name: t.clone() for name, t in a.state_dict().items()}
    evaluate = module_metrics(a, x, y, bn_loader=[train])
    alphas = [0.0, 0.3, 1.0, 1.4]
    path = loss_path(evaluate, a.state_dict(), b.state_dict(), alphas=alphas)
    for alpha, loss in zip(alphas, path.losses, strict=True):
        w = {k: (1 - alpha) * t + alpha * b.state_dict()[k] for k, t in a.state_dict().items()}
        h = functional.conv2d(train, w["0.weight"], w["0.bias"])
        mean, var = h.mean((0, 2, 3)), h.var((0, 2, 3))
        h = functional.conv2d(x, w["0.weight"], w["0.bias"])
        h = (h - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        h = (h * w["1.weight"][:, None, None] + w["1.bias"][:, None, None]).relu().flatten(1)
        logits = functional.linear(h, w["5.weight"], w["5.bias"])
        assert loss == pytest.approx(functional.cross_entropy(logits, y).item(), rel=1e-4)
    assert all(torch.equal(before[name], t) for name, t in a.state_dict().items())
    assert a.training
    assert a[3].p == 0.5
    plain = loss_path(module_metrics(a, x, y), a.state_dict(), b.state_dict(), alphas=alphas)
    assert abs(plain.losses - path.losses).max() > 0.01


def test_one_evaluation_serves_two_threads():
    nets = [bn_net(i) for i in range(6)]
    x, y = data()
    evaluate = module_metrics(nets[0], x, y, bn_loader=[data(64, seed=1)[0]])
    alone = [evaluate(stacked([net]))["loss"] for net in nets]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda net: evaluate(stacked([net]))["loss"], nets))
    np.testing.assert_allclose(together, alone)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
        self.decode.weight = self.encode.weight
        self.register_buffer("offset", torch.full((1,), 2.0), persistent=False)

    def forward(self, x):
        return self.decode(self.encode(x.flatten(1)).relu()) + self.offset


@pytest.mark.parametrize("form", ["loop", "vmap"])
def test_tied_tensors_stay_tied_and_a_loss_of_ones_own(form):
    x, _ = data()
    net, other = Tied(), Tied()

    def error(outputs, targets):
        return {"loss": functional.mse_loss(outputs, targets)}

    evaluate = module_metrics(net, x, x.flatten(1), metrics=error, form=form, batch_size=20)
    a, b = net.state_dict(), other.state_dict()
    half = (a["encode.weight"] + b["encode.weight"]) / 2
    hidden = functional.linear(x.flatten(1), half).relu()
    expected = (functional.linear(hidden, half) + 2 - x.flatten(1)).square().mean().item()
    for names in (list(a), ["decode.weight"], ["encode.weight"]):
        models = [{name: w[name] for name in names} for w in (a, b)]
        table = evaluate_mixtures(evaluate, models, [[0.5, 0.5]])
        assert list(table) == ["loss"]
        assert table.loss[0] == pytest.approx(expected, rel=1e-5)


def test_weights_that_do_not_fit_the_module_are_named(without_type_checks):
    x, y = data()
    net = bn_net(0)
    evaluate = module_metrics(net, x, y)
    weights = stacked([net])
    with pytest.raises(LandscapeError, match=r"lack the module's tensor '1\.running_var'"):
        evaluate({k: t for k, t in weights.items() if k != "1.running_var"})
    with pytest.raises(LandscapeError, match=r"'head' .* has no such tensor"):
        evaluate(weights | {"head": torch.zeros(1, 1)})
    with pytest.raises(LandscapeError, match=r"'0.bias' of shape \(1,\) does not fit .* \(5,\)"):
        evaluate(weights | {"0.bias": torch.zeros(1, 1)})
    for images, targets in ((x, y[:-1]), (x[:0], y[:0])):
        with pytest.raises(LandscapeError, match="a target for each image is needed"):
            module_metrics(net, images, targets)
    with pytest.raises(LandscapeError, match="form must be one of"):
        module_metrics(net, x, y, form="fast")


def test_a_zoo_is_evaluated_in_its_own_precision():
    x, y = data()
    net = SmallCNN(n_classes=4, width=6)
    weights = stacked([net.module(), net.module()])
    found = zoo_metrics(net, x.double(), y)(weights)["loss"]
    np.testing.assert_array_equal(zoo_metrics(net, x, y)(weights)["loss"], found)
    wide = {k: t.double() for k, t in weights.items()}
    expected = module_metrics(net.module().double(), x.double(), y)(wide)["loss"]
    np.testing.assert_allclose(zoo_metrics(net, x, y)(wide)["loss"], expected, rtol=1e-12)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.raises(LandscapeError, match=r"lack the module's tensor 'fc\.bias'"):
        zoo_metrics(net, x, y)({k: t for k, t in weights.items() if k != "fc.bias"})


def test_split_metrics_keep_every_measure_of_each_split():
    network = MLP((64, 8, 4))
    models = [network.module().state_dict() for _ in range(2)]
    parts = {name: zoo_metrics(network, *data(seed=i)) for i, name in enumerate(["train", "test"])}
    coefficients = [[1, 0], [0.5, 0.5], [0, 1]]
    alone = {k: evaluate_mixtures(part, models, coefficients) for k, part in parts.items()}
    table = evaluate_mixtures(split_metrics(**parts), models, coefficients)
    assert list(table) == ["loss", "train_loss", "train_accuracy", "test_loss", "test_accuracy"]
    for prefix, expected in alone.items():
        for name, values in expected.items():
            np.testing.assert_array_equal(table[f"{prefix}_{name}"], values)
    np.testing.assert_array_equal(table.loss, table.train_loss)
    assert (table.train_loss != table.test_loss).all()
    turned = split_metrics(test=parts["test"], train=parts["train"])
    path = loss_path(turned, *models, alphas=[0.0, 0.5, 1.0])
    np.testing.assert_allclose(path.losses, table.test_loss, rtol=1e-6)
