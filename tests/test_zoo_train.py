from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional

from wskit.data import load_dataset
from wskit.errors import ZooError
from wskit.zoo import (
    MLP,
    SmallCNN,
    outputs,
    sample_hyperparameters,
    train_zoo,
)
from wskit.zoo._block import _Masks
from wskit.zoo._networks import _convolve, multiply_patches

DIGITS = load_dataset("digits")
DATA = SimpleNamespace(
    train_x=DIGITS.train_x[:100],
    train_y=DIGITS.train_y[:100],
    test_x=DIGITS.test_x[:50],
    test_y=DIGITS.test_y[:50],
)
METRICS = ["train_loss", "train_accuracy", "test_loss", "test_accuracy"]
OPTIMIZERS = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "rmsprop": torch.optim.RMSprop,
}


def own_module():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 10)
    )


def subset_of(row, n_images):
    """A model's images, by the rule of the docstring; the generator goes on to their order."""
    rng = np.random.default_rng(row.seed)
    return rng, rng.permutation(n_images)[: round(row.train_fraction * n_images)]


def train_alone(module, row, data=DATA):
    """One model, trained with an nn.Module and torch.optim from the weights that it holds."""
    rng, subset = subset_of(row, len(data.train_x))
    n_updates = max(1, round(row.epochs * len(subset) / row.batch_size))
    stream = np.concatenate(
        [rng.permutation(subset) for _ in range(1 + n_updates * row.batch_size // len(subset))]
    )
    kernels = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": row.weight_decay}, {"params": others}]
    options = {} if row.optimizer == "adam" else {"momentum": row.momentum}
    optimizer = OPTIMIZERS[row.optimizer](groups, lr=row.learning_rate, **options)
    for update in range(n_updates):
        batch = stream[update * row.batch_size : (update + 1) * row.batch_size]
        optimizer.zero_grad()
        functional.cross_entropy(module(data.train_x[batch]), data.train_y[batch]).backward()
        optimizer.step()
    return module


def assert_same_weights(weights, expected, tolerance=2e-5):
    assert list(weights) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value.detach(), rtol=0, atol=tolerance)


def assert_same_zoo(zoo, expected, tolerance=2e-5):
    assert_same_weights(zoo.weights, expected.weights, tolerance)
    pd.testing.assert_frame_equal(zoo.records, expected.records, atol=1e-4, rtol=1e-3)


# Every optimiser with every activation; the rest varies from row to row.
GRID = pd.DataFrame(
    [
        {
            "optimizer": optimizer,
            "activation": activation,
            "learning_rate": 0.003 if optimizer != "sgd" else 0.1,
            "momentum": 0.0 if optimizer == "adam" else 0.3 * (i % 3),
            "weight_decay": 0.02 * (i % 4),
            "train_fraction": (1.0, 0.5, 0.25)[i % 3],
            "init": ("glorot_normal", "he_normal", "orthogonal", "normal")[i % 4],
            "init_std": 0.2,
            "epochs": 1.0 + i % 3,
            "batch_size": 20 if i < 8 else 32,
            "seed": 10 + i,
        }
        for i, (optimizer, activation) in enumerate(
            (o, a) for o in OPTIMIZERS for a in ("relu", "tanh", "gelu", "sigmoid")
        )
    ]
)


def test_networks_have_the_parameters_that_they_say():
    for model, images in ((SmallCNN(3, 7, 5, 0), (2, 3, 32, 32)), (MLP((64, 9, 3)), (2, 1, 8, 8))):
        module = model.module("gelu")
        found = {name: tuple(value.shape) for name, value in module.state_dict().items()}
        assert found == model.shapes
        assert module(torch.zeros(images)).shape == (2, model.n_classes)
    assert sum(p.numel() for p in SmallCNN().module("tanh").parameters()) == 4970


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("model", [SmallCNN(), MLP()], ids=["cnn", "mlp"])
def test_each_model_is_what_torch_makes_of_it_alone(model, dtype):
    images = {name: getattr(DATA, name).to(dtype) for name in ("train_x", "test_x")}
    data = SimpleNamespace(**vars(DATA) | images)
    zoo = train_zoo(model, data, GRID)
    start = train_zoo(model, data, GRID.assign(epochs=0))
    assert zoo.records.run.tolist() == list(range(12))
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-12}[dtype]
    for i, row in enumerate(zoo.records.itertuples()):
        module = model.module(row.activation).to(dtype)
        module.load_state_dict(start.model(i))
        train_alone(module, row, data)
        assert_same_weights(zoo.model(i), module.state_dict(), tolerance)
        logits = outputs(model, zoo.select([i]).weights, data.test_x, activation=row.activation)
        torch.testing.assert_close(logits[0], module(data.test_x), rtol=0, atol=10 * tolerance)
        x, y = data.train_x[(own := subset_of(row, 100)[1])], data.train_y[own]
        for images, labels, part in ((x, y, "train"), (data.test_x, data.test_y, "test")):
            logits = module(images)
            loss = functional.cross_entropy(logits, labels).item()
            assert getattr(row, f"{part}_loss") == pytest.approx(loss, rel=1e-4)
            share = (logits.argmax(1) == labels).float().mean().item()
            assert getattr(row, f"{part}_accuracy") == pytest.approx(share)


@pytest.mark.parametrize("model", [SmallCNN(), MLP()], ids=["cnn", "mlp"])
def test_a_model_does_not_depend_on_its_block(model):
    table = sample_hyperparameters(12, rng=0).assign(epochs=2.0, batch_size=16)
    table["optimizer"] = ["sgd", "adam", "rmsprop"] * 4
    table.loc[5, "epochs"] = 0.0
    expected = train_zoo(model, DATA, table, keep_epochs=[0, 1], block_size=100)
    for size in (1, 3):
        found = train_zoo(model, DATA, table, keep_epochs=[0, 1], block_size=size)
        assert_same_zoo(found, expected, 1e-3)
    order = np.random.default_rng(1).permutation(12)
    mixed = train_zoo(model, DATA, table.iloc[order].assign(seed=order), keep_epochs=[0, 1])
    for place, run in enumerate(order):
        one = mixed.select(mixed.records.run == place)
        other = expected.select(expected.records.run == run)
        one.records["run"] = run
        assert_same_zoo(one, other, 1e-3)


def test_dropout_takes_its_share_at_random():
    rates = np.array([0.0, 0.3, 0.7])
    masks = _Masks(np.array([1, 2, 3]), rates, 2, torch.empty(0))
    keys = masks.keys(range(40, 44))
    shape = (50, 41, 7)
    drawn = torch.stack(
        [torch.stack([masks.at(keys[u])(layer, shape) for layer in range(2)]) for u in range(4)]
    )
    assert drawn.shape == (4, 2, 3, *shape)
    n = 50 * 41 * 7
    kept = (drawn != 0).float().flatten(3)
    assert (kept[:, :, 0] == 1).all()
    for model, rate in enumerate(rates):
        error = 5 * np.sqrt(rate * (1 - rate) / n) + 2e-5
        assert (kept[:, :, model].mean(-1) - (1 - rate)).abs().max() < error
        values = drawn[:, :, model].unique()
        assert values[-1] == pytest.approx(1 / (1 - rate), rel=1e-4)
        assert len(values) == 1 + (rate > 0)
    # No two of the 16 masks agree more than chance has it, nor a mask with itself, shifted.
    noise = kept[:, :, 1:] - kept[:, :, 1:].mean(-1, keepdim=True)
    noise = (noise / noise.std(-1, keepdim=True)).reshape(16, -1)
    assert (noise @ noise.T / n - torch.eye(16)).abs().max() < 5 / np.sqrt(n)
    for shift in (1, 2, 7, 41 * 7, n // 2):
        assert ((noise * noise.roll(shift, 1)).mean(1)).abs().max() < 5 / np.sqrt(n)
    # Nor does a mask depend on the block, or on when its update's chunk began.
    alone = _Masks(np.array([3]), rates[2:], 2, torch.empty(0))
    assert torch.equal(alone.at(alone.keys(range(43, 44))[0])(1, shape)[0], drawn[3, 1, 2])


def test_dropout_is_for_training_only_and_keeps_the_mean():
    """The mean update under dropout of a linear network's hidden layer is that without it."""
    table = pd.DataFrame({"dropout": [0.0] + [0.5] * 2000, "optimizer": "sgd", "epochs": 0.64})
    x = torch.ones(100, 1)
    data = SimpleNamespace(train_x=x, train_y=DATA.train_y % 2, test_x=x, test_y=DATA.train_y % 2)
    zoo = train_zoo(MLP((1, 4, 2)), data, table.assign(init_std=0.5))
    again = train_zoo(MLP((1, 4, 2)), data, table.assign(init_std=0.5, dropout=0.0))
    assert torch.equal(zoo.weights["fc1.weight"][0], again.weights["fc1.weight"][0])
    assert not torch.equal(zoo.weights["fc1.weight"], again.weights["fc1.weight"])
    difference = zoo.weights["fc2.bias"] - again.weights["fc2.bias"]
    spread = difference.std() / np.sqrt(2000)
    assert difference.mean(0).abs().max() < 5 * spread + 1e-5


def test_states_at_chosen_epochs_are_those_of_shorter_runs():
    table = pd.DataFrame({"epochs": [3.0, 1.0, 0.5, 0.0], "train_fraction": [1.0, 0.5, 1.0, 1.0]})
    table = table.assign(batch_size=25, dropout=0.2)
    zoo = train_zoo(MLP(), DATA, table, keep_epochs=[1, 0])
    rows = list(zip(zoo.records.run, zoo.records.epoch, strict=True))
    assert rows == [(0, 0), (0, 1), (0, 3), (1, 0), (1, 1), (2, 0), (2, 0.5), (3, 0)]
    short = train_zoo(MLP(), DATA, table.assign(epochs=1.0))
    for row, run in ((1, 0), (4, 1)):
        assert_same_weights(zoo.model(row), short.model(run))
        found = zoo.records.loc[row, METRICS].astype(float)
        expected = short.records.loc[run, METRICS].astype(float)
        pd.testing.assert_series_equal(found, expected, check_names=False, rtol=1e-4)
    tiny = train_zoo(MLP(), DATA, table.assign(epochs=1e-6), keep_epochs=[0])
    assert not torch.equal(tiny.weights["fc1.weight"][0], tiny.weights["fc1.weight"][1])


def test_a_diverged_model_is_kept_and_marked_and_alone():
    table = pd.DataFrame({"learning_rate": [0.1, 1e30, 0.1], "optimizer": "sgd", "epochs": 3.0})
    for model in (SmallCNN(), MLP()):
        zoo = train_zoo(model, DATA, table, keep_epochs=[0])
        assert zoo.records.status.tolist() == ["trained"] * 3 + ["diverged"] + ["trained"] * 2
        assert zoo.records.loc[3, METRICS].isna().all()
        assert zoo.records.drop(index=3)[METRICS].notna().all(axis=None)
        others = train_zoo(model, DATA, table.iloc[[0, 2]].assign(seed=[0, 2]))
        assert_same_weights(zoo.model(1), others.model(0))
        assert_same_weights(zoo.model(5), others.model(1))


def test_initial_weights_follow_their_law():
    laws = ["glorot_normal", "he_normal", "normal", "truncated_normal", "orthogonal"]
    table = pd.DataFrame({"init": laws, "init_std": 0.3, "epochs": 0.0})
    zoo = train_zoo(MLP((64, 500, 10)), DATA, table)
    W = zoo.weights["fc1.weight"].double()
    # A normal law cut at two standard deviations has 0.8796 of its standard deviation.
    expected = [np.sqrt(2 / 564), np.sqrt(2 / 64), 0.3, 0.3 * 0.8796]
    np.testing.assert_allclose(W[:4].flatten(1).std(1), expected, rtol=0.02)
    assert W[3].abs().max() <= 0.6
    torch.testing.assert_close(W[4].T @ W[4], torch.eye(64).double(), atol=1e-5, rtol=0)
    assert zoo.weights["fc1.bias"].count_nonzero() == 0
    again = train_zoo(MLP((64, 500, 10)), DATA, table.assign(seed=[5, 1, 2, 3, 4]))
    same = (again.weights["fc1.weight"] == zoo.weights["fc1.weight"]).flatten(1).all(1)
    assert same.tolist() == [False, True, True, True, True]


def test_a_module_of_ones_own():
    table = GRID.drop(columns=["activation", "init", "init_std"]).iloc[::3]
    before = torch.get_rng_state()
    zoo = train_zoo(own_module, DATA, table.assign(seed=[3, 1, 4, 2]))
    assert torch.equal(before, torch.get_rng_state())
    assert set(zoo.records.init) == {"module"}
    assert "activation" not in zoo.records
    for i, row in enumerate(zoo.records.itertuples()):
        with torch.random.fork_rng():
            torch.manual_seed(row.seed)
            module = own_module()
        train_alone(module, row)
        assert_same_weights(zoo.model(i), module.state_dict(), 1e-4)
        logits = outputs(own_module, zoo.weights, DATA.test_x)[i]
        torch.testing.assert_close(logits, module(DATA.test_x).detach(), atol=1e-3, rtol=0)
    chosen = train_zoo(own_module, DATA, table.assign(init="he_normal", epochs=0.0))
    assert (chosen.weights["1.weight"] == 1).all()
    assert chosen.weights["4.weight"].std() == pytest.approx(np.sqrt(2 / 36), rel=0.1)


class WithBuffer(nn.Linear):
    def __init__(self):
        super().__init__(64, 10)
        self.register_buffer("steps", torch.zeros(1))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (lambda: nn.BatchNorm2d(1), "part '0' of the model is a BatchNorm2d, and a block"),
        (lambda: nn.Dropout(0.2), "part '0' of the model is a Dropout"),
        (lambda: nn.GRU(4, 4, 2, dropout=0.1), "part '0' of the model is a GRU"),
        (WithBuffer, "part '0' of the model is a WithBuffer"),
    ],
)
def test_modules_with_a_state_are_refused(part, message):
    def make():
        return nn.Sequential(part(), nn.Flatten(), nn.Linear(64, 10))

    with pytest.raises(ZooError, match=message):
        train_zoo(make, DATA, GRID[["epochs"]])


def test_other_models_are_refused():
    epochs = pd.DataFrame({"epochs": [1.0]})
    with pytest.raises(ZooError, match=r"returns an nn\.Module; this function returned int"):
        train_zoo(lambda: 3, DATA, epochs)
    with pytest.raises(ZooError, match="'activation' is part of your own module"):
        train_zoo(own_module, DATA, epochs.assign(activation="relu"))
    with pytest.raises(ZooError, match=r"must map .* \(2, 1, 8, 8\) to \(2, 1, 8, 10\)"):
        train_zoo(lambda: nn.Linear(8, 10), DATA, epochs)
    with pytest.raises(
        ZooError, match=r"images of shape \(n, 3, height, width\).*\(100, 1, 8, 8\)"
    ):
        train_zoo(SmallCNN(3), DATA, epochs)
    with pytest.raises(ZooError, match="set channels or padding"):
        train_zoo(SmallCNN(padding=0), DATA, epochs)
    with pytest.raises(ZooError, match=r"MLP\(sizes=\(63, 10\)\) needs .* got images of 64"):
        train_zoo(MLP((63, 10)), DATA, epochs)
    with pytest.raises(ZooError, match="labels from 0 to 9, and the network has 4 classes"):
        train_zoo(MLP((64, 4)), DATA, epochs)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"lr": [1.0, 1.0]}, "'lr' is not a hyper-parameter of a zoo; the columns may be opti"),
        ({"learning_rate": [0.1, 0.0]}, "row 1 .*: learning_rate must be positive, got .*0.0"),
        ({"epochs": [np.nan, 1.0]}, "row 0 .*: epochs must be at least 0, got .*nan"),
        ({"epochs": ["3", "many"]}, "row 1 .*: epochs must be at least 0, got 'many'"),
        ({"dropout": [0.0, 1.0]}, "row 1 .*: dropout must be at least 0 and below 1"),
        ({"momentum": [-0.1, 0.0]}, "row 0 .*: momentum must be at least 0 and below 1"),
        ({"momentum": [0.0, 0.9]}, "row 1 .*: momentum must be 0 for adam.*sgd or rmsprop"),
        ({"train_fraction": [1.0, 1.5]}, "row 1 .*: train_fraction must be above 0 and at most 1"),
        ({"batch_size": [64, 6.5]}, "row 1 .*: batch_size must be a whole number from 1"),
        ({"weight_decay": [0, -1]}, "row 1 .*: weight_decay must be at least 0"),
        ({"init_std": [1, 0]}, "row 1 .*: init_std must be positive"),
        ({"optimizer": ["sgd", "lion"]}, "row 1 .*: optimizer must be one of sgd, adam, .*'lion'"),
        ({"activation": [None, "relu"]}, "row 0 .*: activation must be one of relu, tanh"),
        ({"seed": [0, -1]}, "row 1 .*: seed must be a whole number from 0, got .*-1"),
        ({"epochs": []}, "at least one row"),
    ],
)
def test_bad_hyperparameters_are_refused_by_row(columns, message):
    with pytest.raises(ZooError, match=message):
        train_zoo(MLP(), DATA, pd.DataFrame(columns, index=list("ab")[: len(*columns.values())]))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("test_y", lambda y: y[:5], r"data\.test_y must hold one integer label for each"),
        ("train_y", lambda y: y.float(), r"data\.train_y must hold one integer label for each"),
        ("train_y", lambda y: y - 1, "labels from -1 to 8, and the network has 10 classes"),
        ("test_x", lambda x: x.log() * 0, r"data\.test_x holds NaN or inf"),
    ],
)
def test_data_that_would_train_something_else_are_refused(name, change, message):
    data = SimpleNamespace(**vars(DATA) | {name: change(getattr(DATA, name))})
    with pytest.raises(ZooError, match=message):
        train_zoo(MLP(), data, pd.DataFrame({"epochs": [1.0]}))
    with pytest.raises(ZooError, match="keep_epochs must be finite"):
        train_zoo(MLP(), DATA, pd.DataFrame({"epochs": [1.0]}), keep_epochs=[-1.0])


def test_sampled_hyperparameters_are_in_their_ranges():
    table = sample_hyperparameters(4000, rng=np.random.default_rng(3))
    assert table.equals(sample_hyperparameters(4000, rng=np.random.default_rng(3)))
    for name, low, high in (
        ("learning_rate", 5e-4, 5e-2),
        ("weight_decay", 2e-8, 2e-2),
        ("init_std", 1e-3, 0.5),
    ):
        assert table[name].between(low, high).all()
        assert np.log(table[name]).mean() == pytest.approx(np.log(low * high) / 2, abs=0.2)
    assert table.dropout.between(0, 0.7).all()
    assert {name: table[name].nunique() for name in ("optimizer", "init", "train_fraction")} == {
        "optimizer": 3,
        "init": 5,
        "train_fraction": 4,
    }


@pytest.mark.parametrize("model", [SmallCNN(), MLP()], ids=["cnn", "mlp"])
def test_outputs_are_those_of_the_modules(model):
    names = np.array(["relu", "tanh", "gelu", "sigmoid"] * 20)
    table = pd.DataFrame({"activation": names, "epochs": 0.0})
    zoo = train_zoo(model, DATA, table)
    logits = outputs(model, zoo.weights, DATA.test_x, activation=zoo.records.activation)
    assert logits.shape == (80, 50, 10)
    for i in range(0, 80, 7):
        module = model.module(names[i])
        module.load_state_dict(zoo.model(i))
        torch.testing.assert_close(logits[i], module(DATA.test_x).detach(), atol=1e-5, rtol=0)


def test_outputs_of_large_images_are_computed_in_parts(monkeypatch):
    zoo = train_zoo(MLP(), DATA, pd.DataFrame({"epochs": [0.0] * 3}))
    expected = outputs(MLP(), zoo.weights, DATA.test_x)
    monkeypatch.setattr("wskit.zoo._outputs._VALUES_AT_ONCE", 1)
    monkeypatch.setattr("wskit.zoo._outputs._MODELS_AT_ONCE", 2)
    torch.testing.assert_close(outputs(MLP(), zoo.weights, DATA.test_x), expected)
    again = train_zoo(MLP(), DATA, pd.DataFrame({"epochs": [0.0] * 3}))
    pd.testing.assert_frame_equal(again.records, zoo.records)


def test_outputs_say_what_does_not_fit(without_type_checks):
    weights = train_zoo(MLP(), DATA, pd.DataFrame({"epochs": [0.0]})).weights
    with pytest.raises(ZooError, match=r"'fc1.weight' must have the shape \(models, 9, 64\)"):
        outputs(MLP((64, 9)), weights, DATA.test_x)
    with pytest.raises(ZooError, match="one activation per model, got 2 for 1"):
        outputs(MLP(), weights, DATA.test_x, activation=["relu", "relu"])
    with pytest.raises(ZooError, match=r"activation must be one of 'relu'.*got 'swish'"):
        outputs(MLP(), weights, DATA.test_x, activation="swish")


TABLE = pd.DataFrame({"learning_rate": [0.01, 0.02, 0.03, 0.04], "epochs": 1.0})


def test_the_gradient_is_taken_even_where_it_is_switched_off():
    expected = train_zoo(MLP(), DATA, TABLE)
    with torch.no_grad():
        assert_same_zoo(train_zoo(MLP(), DATA, TABLE), expected, 0)
    assert not any(stack.requires_grad for stack in expected.weights.values())


@pytest.mark.parametrize("padding", [0, 1])
def test_patches_as_on_a_gpu_give_what_the_groups_of_a_convolution_give(padding):
    rng = torch.Generator().manual_seed(0)
    h = torch.randn(6, 4, 3, 19, 16, generator=rng)
    kernel = torch.randn(4, 5, 3, 3, 3, generator=rng)
    bias = torch.randn(4, 5, generator=rng)
    expected = _convolve(h, kernel, bias, padding)
    found = multiply_patches(h, kernel, bias, padding)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for i in range(4):
        alone = functional.conv2d(h[:, i], kernel[i], bias[i], stride=2, padding=padding)
        torch.testing.assert_close(expected[:, i], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("model", [SmallCNN(), MLP(), own_module], ids=["cnn", "mlp", "own"])
def test_cuda_gives_what_the_cpu_gives(model):
    table = sample_hyperparameters(12, rng=0).assign(epochs=2.0, batch_size=16)
    if model is own_module:
        table = table.drop(columns=["activation", "dropout"])
    options = {"keep_epochs": [0, 1]}
    expected = train_zoo(model, DATA, table, **options)
    found = train_zoo(model, DATA, table, device="cuda", **options)
    assert_same_zoo(found, expected, 1e-3)
