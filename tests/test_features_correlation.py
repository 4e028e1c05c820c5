import weakref

import numpy as np
import pandas as pd
import pytest
import torch

from wskit._base.weights import LazyWeights
from wskit.errors import FeatureError
from wskit.features import (
    correlation_chance,
    correlation_features,
    correlation_penalty,
    correlation_table,
    pac_bayes_measure,
    spectral_features,
    weight_correlation,
    weight_statistics,
)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def naive_correlation(W):
    """Pair by pair, channel by channel, in plain loops."""
    W = np.asarray(W, dtype=float)
    W = W.reshape(*W.shape[:2], -1)
    channels = [W[:, i] for i in range(W.shape[1])] if W.shape[2] > 1 else [W[:, :, 0]]
    means = []
    for vectors in channels:
        live = [v for v in vectors if np.any(v)]
        cosines = [
            abs(v @ u) / np.linalg.norm(v) / np.linalg.norm(u)
            for i, v in enumerate(live)
            for j, u in enumerate(live)
            if i != j
        ]
        if cosines:
            means.append(np.mean(cosines))
    return np.mean(means) if means else np.nan


@pytest.mark.parametrize("block", [2**27, 300])
@pytest.mark.parametrize("shape", [(7, 5), (5, 12), (6, 3, 3, 3), (4, 2, 5), (5, 4, 1, 1)])
def test_correlation_is_the_mean_over_all_pairs(shape, block, monkeypatch):
    monkeypatch.setattr("wskit.features._correlation._BLOCK", block)
    W = randn(3, *shape)
    W[1, 2] = 0  # a dead neuron
    if len(shape) > 2:
        W[2, 1:, 0] = 0  # a channel that one neuron reads
    found = correlation_features({"a.weight": W})["a.weight.correlation"]
    expected = [naive_correlation(one) for one in W]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert weight_correlation(W[1]).item() == pytest.approx(expected[1], rel=1e-12)


def test_correlation_is_invariant():
    """To the order of neurons and inputs, to each neuron's scale and sign, to rotated inputs."""
    W = randn(8, 6)
    expected = weight_correlation(W).item()
    scales = randn(8, seed=1)[:, None]
    rotation = torch.linalg.qr(randn(6, 6, seed=2))[0]
    permuted = W[torch.randperm(8)][:, torch.randperm(6)]
    for same in (permuted, scales * W, W @ rotation, 1e30 * W, 1e-30 * W):
        assert weight_correlation(same).item() == pytest.approx(expected, rel=1e-12)


def test_planted_correlations():
    parallel = torch.outer(randn(5), randn(4))
    assert weight_correlation(parallel).item() == pytest.approx(1)
    assert weight_correlation(torch.eye(4)).item() == 0
    rho, n = 0.3, 50
    root = torch.linalg.cholesky(torch.full((n, n), rho) + (1 - rho) * torch.eye(n))
    assert weight_correlation(root).item() == pytest.approx(rho, rel=1e-5)


def test_a_model_of_nan_spoils_no_other():
    W = randn(3, 4, 5)
    W[1, 2, 0] = torch.nan
    table = correlation_features({"fc.weight": W})
    assert table.isna().all(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_is_computed_in_float32(dtype):
    W = randn(9, 40, dtype=dtype)
    found = weight_correlation(W)
    assert found.dtype is torch.float32
    assert found.item() == pytest.approx(weight_correlation(W.double()).item(), rel=1e-6)


@pytest.mark.parametrize("d", [1, 3, 9, 40])
def test_chance_is_what_random_directions_have(d):
    u, v = np.random.default_rng(0).normal(size=(2, 200_000, d))
    cosines = np.abs((u * v).sum(axis=1)) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
    assert correlation_chance(d) == pytest.approx(cosines.mean(), abs=5 * 0.3 / np.sqrt(200_000))


MODEL = {
    "conv.weight": randn(6, 2, 3, 3),
    "conv.bias": randn(6),
    "point.weight": randn(7, 6, 1, 1),
    "pos": randn(1, 9, 5),
    "mlp.experts": randn(2, 4, 4),
    "fc.weight": randn(4, 7),
    "steps": torch.tensor(3),
}


def test_the_table_has_a_row_a_layer():
    weights = MODEL | {"conv.weight": MODEL["conv.weight"].clone()}
    weights["conv.weight"][3] = 0
    table = correlation_table(weights)
    assert table["name"].tolist() == ["conv.weight", "point.weight", "pos", "fc.weight"]
    assert table["d"].tolist() == [9, 6, 5, 7]
    assert table["n_neurons"].tolist() == [6, 7, 9, 4]
    assert table["n_dead"].tolist() == [1, 0, 0, 0]
    expected = [naive_correlation(weights[name].squeeze(0)) for name in table["name"]]
    np.testing.assert_allclose(table["correlation"], expected, rtol=1e-12)
    np.testing.assert_allclose(table["chance"], [correlation_chance(d) for d in table["d"]])
    np.testing.assert_allclose(table["excess"], table["correlation"] - table["chance"])


def test_the_table_says_why_there_is_no_correlation():
    weights = {
        "nan.weight": randn(3, 4).index_fill(0, torch.tensor([1]), torch.nan),
        "inf.weight": randn(3, 4).index_fill(1, torch.tensor([0]), torch.inf),
        "one.weight": randn(3, 4) * torch.tensor([[1.0], [0.0], [0.0]]),
        "zero.weight": torch.zeros(4, 2),
        "apart.weight": torch.eye(3)[:, :, None, None] * torch.ones(2, 2),
        "constant.weight": torch.ones(3, 4),
        "many.weight": randn(6, 4),
    }
    table = correlation_table(weights, most_neurons=5).set_index("name")
    undefined = ["correlation", "excess"]
    assert (table[undefined].isna().all(axis=1) == (table["reason"] != "")).all()
    assert table["reason"].to_dict() == {
        "nan.weight": "tensor 'nan.weight' holds NaN or inf; the model diverged.",
        "inf.weight": "tensor 'inf.weight' holds NaN or inf; the model diverged.",
        "one.weight": "1 of 3 neurons have weights that are not zero, and two are needed",
        "zero.weight": "0 of 4 neurons have weights that are not zero, and two are needed",
        "apart.weight": "no input channel is read by two neurons that could be compared",
        "constant.weight": "",
        "many.weight": "6 neurons are over 5: too many pairs to compare",
    }
    assert table["n_dead"].tolist() == [0, 0, 2, 4, 0, 0, pd.NA]
    assert table.drop(columns=[*undefined, "n_dead"]).notna().all(axis=None)
    whole = correlation_table({"fc.weight": randn(3, 4)})
    assert (whole.dtypes == table.reset_index().dtypes).all(), "whether or not one has failed"


def test_the_table_of_some_layers():
    names = ["fc.weight", "conv.weight"]
    table = correlation_table(MODEL, names=names)
    assert table["name"].tolist() == names
    whole = correlation_table(MODEL).set_index("name").loc[names].reset_index()
    pd.testing.assert_frame_equal(table, whole)
    empty = correlation_table({"bias": torch.zeros(3)}, names=[])
    assert len(empty) == 0
    assert (empty.columns == whole.columns).all()
    with pytest.raises(FeatureError, match=r"'conv\.bias' is neither a dense layer nor"):
        correlation_table(MODEL, names=["conv.bias"])


class Counted(LazyWeights):
    """Weights that are made when they are read, and counted while they are alive."""

    def __init__(self, shapes):
        self.shapes, self.alive, self.most = shapes, 0, 0

    def shape(self, name):
        return self.shapes[name]

    def dtype(self, name):
        return torch.float64

    def __getitem__(self, name):
        buffer = np.random.default_rng(len(name)).normal(size=self.shapes[name])
        weakref.finalize(buffer, self.forget)  # lives as long as the tensor's memory
        self.alive += 1
        self.most = max(self.most, self.alive)
        return torch.from_numpy(buffer)

    def forget(self):
        self.alive -= 1

    def __iter__(self):
        return iter(self.shapes)

    def __len__(self):
        return len(self.shapes)


ONE_AT_A_TIME = [correlation_table, correlation_features, correlation_penalty]
ONE_AT_A_TIME += [weight_statistics, spectral_features]


@pytest.mark.parametrize("call", ONE_AT_A_TIME)
def test_one_tensor_is_alive_at_a_time(call, without_type_checks):
    shapes = {f"{'l' * i}.weight": (3, 4, 5 + i) for i in range(6)} | {"bias": (3,)}
    counted = Counted(shapes)
    table = call(counted)
    assert len(table) if isinstance(table, pd.DataFrame) else table > 0
    assert (counted.most, counted.alive) == (1, 0)


def test_the_features_are_the_table_of_each_model():
    weights = {name: torch.stack([W, 2 * W.roll(1)]) for name, W in MODEL.items() if W.ndim}
    features = correlation_features(weights)
    for i in range(2):
        table = correlation_table({name: W[i] for name, W in weights.items()}).set_index("name")
        for key in ("correlation", "excess"):
            found = features.loc[i, [f"{name}.{key}" for name in table.index]]
            np.testing.assert_allclose(found.to_numpy(dtype=float), table[key], rtol=1e-12)


def test_pac_bayes_is_the_determinant_of_the_correlation_matrix():
    weights = {"a.weight": randn(2, 5, 3), "a.bias": randn(2, 5), "b.weight": randn(2, 4, 2, 3, 3)}
    initial = {name: W + 0.1 for name, W in weights.items()}
    table = pac_bayes_measure(weights, initial)
    for i in range(2):
        terms = []
        for name, n_in in (("a.weight", 3), ("b.weight", 18)):
            W = weights[name][i]
            rho, n = naive_correlation(W), len(W)
            R = np.full((n, n), rho) + (1 - rho) * np.eye(n)
            terms.append(-n_in * np.linalg.slogdet(R)[1])
        distance = 0.5 * 0.01 * sum(W[i].numel() for W in weights.values())
        expected = [distance, np.mean(terms), distance + np.mean(terms)]
        assert table.loc[i].tolist() == pytest.approx(expected)
    assert (table["correlation_term"] > 0).all()


def test_pac_bayes_grows_with_correlation():
    direction = randn(4)
    stack = torch.stack([randn(6, 4, seed=1) + c * direction for c in (0, 1, 3, 9)])
    table = pac_bayes_measure({"w": stack}, {"w": stack})
    assert (table["distance"] == 0).all()
    assert table["measure"].is_monotonic_increasing
    parallel = torch.ones(1, 3, 4)
    # Rounding may leave the cosine of parallel vectors just under 1.
    assert pac_bayes_measure({"w": parallel}, {"w": parallel})["measure"][0] > 100


def test_pac_bayes_needs_both_ends_of_training():
    W = randn(2, 4, 3)
    with pytest.raises(FeatureError, match=r"'w' has the shapes \(2, 4, 3\) and \(1, 4, 3\)"):
        pac_bayes_measure({"w": W}, {"w": W[:1]})
    bad = W.clone()
    bad[0, 0, 0] = torch.nan
    found = pac_bayes_measure({"w": W}, {"w": bad})
    assert found.isna().all(axis=1).tolist() == [True, False]


@pytest.mark.parametrize("block", [2**27, 200])
def test_the_penalty_has_the_gradient_of_the_formula(block, monkeypatch):
    monkeypatch.setattr("wskit.features._correlation._BLOCK", block)
    W = randn(5, 4).requires_grad_()
    kernel = randn(4, 2, 3, 3, seed=1).requires_grad_()

    def penalty(W, kernel):
        return correlation_penalty({"a.weight": W, "b.weight": kernel, "a.bias": W[:, 0]})

    expected = naive_correlation(W.detach()) + naive_correlation(kernel.detach())
    assert penalty(W, kernel).item() == pytest.approx(expected)
    assert torch.autograd.gradcheck(penalty, (W, kernel))


def test_the_gradient_of_a_dead_filter_is_finite():
    W = randn(5, 4)
    W[1] = 0
    W.requires_grad_()
    correlation_penalty({"fc.weight": W}).backward()
    assert W.grad.isfinite().all()
    assert (W.grad[1] == 0).all()
    dead = torch.zeros(3, 4, requires_grad=True)
    penalty = correlation_penalty({"fc.weight": dead})
    penalty.backward()
    assert penalty == 0
    assert (dead.grad == 0).all()


def test_the_penalty_of_a_stack_through_vmap():
    weights = {"a.weight": randn(3, 5, 4), "b.weight": randn(3, 4, 2, 3, 3)}
    gradients = torch.func.vmap(torch.func.grad(correlation_penalty))(weights)
    for i in range(3):
        one = {name: W[i].clone().requires_grad_() for name, W in weights.items()}
        correlation_penalty(one).backward()
        for name, W in one.items():
            torch.testing.assert_close(gradients[name][i], W.grad)


def test_what_has_no_neurons_is_refused():
    with pytest.raises(FeatureError, match="none of 'bias' holds one"):
        correlation_table({"bias": torch.zeros(3)})
    with pytest.raises(FeatureError, match="a dense layer or a convolution is needed"):
        correlation_features({"experts": torch.zeros(2, 3, 4, 5)})
