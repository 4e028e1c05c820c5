"""The cells of a notebook that shows every panel."""

REGION = [
    """\
import pandas as pd
import torch
from wskit import landscape, zoo
draw = torch.Generator().manual_seed(0)
shapes = zoo.MLP((64, 64, 64, 10)).shapes
base = {k: torch.randn(s, generator=draw) / s[-1] ** 0.5 for k, s in shapes.items()}
models = {
    f"model_{i}": {k: W + 0.1 * torch.randn(W.shape, generator=draw) for k, W in base.items()}
    for i in range(5)
}
x, y = torch.rand(200, 64, generator=draw), torch.arange(200) % 10
evaluate = landscape.zoo_metrics(zoo.MLP((64, 64, 64, 10)), x, y)
places = pd.DataFrame({"x": [1.0, 2.0, -1.0, 0.0, 1.0], "y": [0.0, 1.0, 2.0, -1.0, -2.0]})
places["task"], places["set"] = list("aabbb"), list("uvuvu")""",
    """\
from wskit import widgets
widgets.RegionExplorer(models, evaluate, base=base, map=places)""",
]

SOUP = [
    """\
import torch
from sklearn.datasets import load_digits
from torch import nn
from wskit import landscape, widgets
digits = load_digits()
x, y = torch.tensor(digits.images / 16).float().flatten(1), torch.tensor(digits.target)
draw = torch.Generator().manual_seed(0)
order = torch.randperm(len(x), generator=draw)
base, tune, held_out, test = order.split([300, 600, 300, 597])
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
def train(module, rows, rate, noise, steps):
    optimizer = torch.optim.SGD(module.parameters(), rate, momentum=0.9)
    for _ in range(steps):
        batch = rows[torch.randint(len(rows), (32,), generator=draw)]
        images = x[batch] + noise * torch.randn(32, 64, generator=draw)
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(images), y[batch]).backward()
        optimizer.step()
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}
start = train(network(), base, 0.05, 0.3, 200)
ingredients = {}
for rate in (0.01, 0.03, 0.1):
    for noise in (0.0, 0.1, 0.2, 0.4):
        module = network()
        module.load_state_dict(start)
        ingredients[f"rate {rate}, noise {noise}"] = train(module, tune, rate, noise, 150)""",
    """\
images = {"held_out": (x[held_out], y[held_out]), "clean": (x[test], y[test])}
images["shifted"] = x[test] + 0.4 * torch.randn(597, 64, generator=draw), y[test]
evaluate = landscape.split_metrics(
    **{name: landscape.module_metrics(network(), *part) for name, part in images.items()}
)
widgets.SoupKitchen(ingredients, evaluate, base=start)""",
]

ZOO = [
    """\
import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import Ridge
from wskit import data, zoo
rng, draw = np.random.default_rng(0), torch.Generator().manual_seed(0)
n = 24
scale = torch.linspace(0.2, 2, n)
shapes = zoo.MLP((64, 8, 10)).shapes
weights = {k: torch.randn(n, *s, generator=draw) for k, s in shapes.items()}
weights = {k: W * scale.view(-1, *[1] * (W.ndim - 1)) for k, W in weights.items()}
records = pd.DataFrame({"run": np.arange(n) // 2, "epoch": np.arange(n) % 2, "status": "trained"})
records["test_accuracy"] = 1 / (1 + np.exp(3 - 3 * scale.numpy()))
records["train_accuracy"] = records.test_accuracy + 0.01
records["optimizer"] = rng.choice(["adam", "sgd"], n)
records["learning_rate"] = np.geomspace(1e-4, 1e-1, n)
models = zoo.Zoo(weights, records.assign(epochs=1.0, seed=np.arange(n)))""",
    """\
from wskit import widgets
widgets.ZooExplorer(
    models, network=zoo.MLP((64, 8, 10)), data=data.load_dataset("digits"), estimator=Ridge()
)""",
]

SWA = [
    """\
import torch
from torch import nn
from wskit import averaging, landscape
draw = torch.Generator().manual_seed(0)
x, y = torch.randn(256, 8, generator=draw), torch.arange(256) % 4
x += 0.7 * torch.randn(4, 8, generator=draw)[y]
def network():
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
def train(rate, cycle, epochs, seed):
    torch.manual_seed(seed)
    module = network()
    optimizer = torch.optim.SGD(module.parameters(), momentum=0.9)
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - epoch % cycle / cycle)
        for batch in torch.randperm(128).split(16):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[batch]), y[batch]).backward()
            optimizer.step()
        yield module.state_dict()
runs = {}
for name, cycle in {"constant": 1, "cycles of 4": 4}.items():
    runs[name] = averaging.Trajectory()
    for epoch, weights in enumerate(train(0.3, cycle, 24, 0), start=1):
        runs[name].append(epoch, weights)""",
    """\
def metrics(logits, y):
    found = landscape.classification_metrics(logits, y)
    return {"loss": found["loss"], "test_error": 100 * (1 - found["accuracy"])}
evaluate, recalibrated = (
    landscape.module_metrics(network(), x[128:], y[128:], metrics=metrics, bn_loader=loader)
    for loader in (None, [x[:128]])
)""",
    """\
from wskit import widgets
widgets.SwaExplorer(runs, evaluate, recalibrated=recalibrated, train=train, unit="nats")""",
]
