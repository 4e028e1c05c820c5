import numpy as np
import pandas as pd
import pytest
import scipy.special
import torch

from wskit.errors import FeatureError
from wskit.features import (
    canonical_weights,
    output_statistics,
    spectral_features,
    spectral_table,
    weight_statistics,
)
from wskit.fits import fit_power_law
from wskit.spectra import spectrum

SHAPES = {
    "conv1.weight": (6, 1, 3, 3),
    "conv1.bias": (6,),
    "conv2.weight": (5, 6, 3, 3),
    "conv2.bias": (5,),
    "fc.weight": (4, 5),
    "fc.bias": (4,),
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def stack(n_models=7, dtype=torch.float32):
    return {
        name: randn(n_models, *shape, seed=i, dtype=dtype)
        for i, (name, shape) in enumerate(SHAPES.items())
    }


def on(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return device


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_statistics_are_numpys(dtype, device, monkeypatch):
    monkeypatch.setattr("wskit.features._stacks._BLOCK", 1000)  # several blocks
    weights = stack(dtype=dtype)
    table = weight_statistics(weights, device=on(device))
    assert table.shape == (7, 7 * len(SHAPES))
    assert (table.dtypes == np.float64).all()
    for name, W in weights.items():
        values = W.double().flatten(1).numpy()
        found = table[[c for c in table if c.rpartition(".")[0] == name]].to_numpy()
        quantiles = np.percentile(values, [0, 25, 50, 75, 100], axis=1)
        expected = np.stack([values.mean(axis=1), values.var(axis=1), *quantiles], axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


def test_the_small_cnn_has_56_features():
    shapes = {"a": (16, 1, 3, 3), "b": (16, 16, 3, 3), "c": (16, 16, 3, 3), "d": (10, 16)}
    weights = {}
    for name, shape in shapes.items():
        weights |= {f"{name}.weight": randn(2, *shape), f"{name}.bias": randn(2, shape[0])}
    assert sum(W[0].numel() for W in weights.values()) == 4970
    assert weight_statistics(weights).shape == (2, 56)


def test_statistics_know_nothing_of_the_order_of_neurons():
    weights = stack()
    permuted = {name: W[:, torch.randperm(W.shape[1])] for name, W in weights.items()}
    pd.testing.assert_frame_equal(weight_statistics(weights), weight_statistics(permuted))


def test_counters_are_left_out_and_scalars_are_tensors():
    weights = {"bn.scale": randn(3), "bn.num_batches_tracked": torch.arange(3)}
    table = weight_statistics(weights)
    assert table.shape == (3, 7)
    assert table["bn.scale.q25"].tolist() == weights["bn.scale"].tolist()
    assert (table["bn.scale.variance"] == 0).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("features", [weight_statistics, spectral_features])
def test_a_diverged_model_has_a_row_of_nan(features, bad):
    weights = stack()
    clean = features(weights)
    weights["conv2.bias"][3, 1] = bad
    weights["conv2.weight"][5, 1, 2] = bad
    failures = {}
    table = features(weights, failures=failures)
    assert table.loc[[3, 5]].isna().all(axis=None)
    assert failures == {
        3: "tensor 'conv2.bias' holds NaN or inf; the model diverged.",
        5: "tensor 'conv2.weight' holds NaN or inf; the model diverged.",
    }
    rest = [0, 1, 2, 4, 6]
    pd.testing.assert_frame_equal(table.loc[rest], clean.loc[rest])
    pd.testing.assert_frame_equal(table, features(weights))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("conv", ["unfold", "slices"])
def test_spectral_features_are_those_of_the_table(conv, device, monkeypatch):
    monkeypatch.setattr("wskit.features._stacks._BLOCK", 3000)
    weights = stack()
    weights["conv2.weight"][2, 1:] *= 0  # of rank one
    found = spectral_features(weights, conv=conv, device=on(device))
    for i in range(7):
        model = {name: W[i] for name, W in weights.items()}
        table = spectral_table(model, conv=conv).set_index("name")
        table = table[table["n_eigenvalues"] > 0]
        assert len(table) == len(found.columns) / 5 == (3 if conv == "unfold" else 2)
        for name, row in table.iterrows():
            for key in ("log_norm", "log_spectral_norm", "stable_rank", "entropy"):
                assert found.loc[i, f"{name}.{key}"] == pytest.approx(row[key], abs=1e-10)
            alpha = found.loc[i, f"{name}.alpha_hill"]
            e = spectrum(model[name], conv=conv, name=name.removesuffix(".weight")).eigenvalues
            if np.count_nonzero(e > 1e-12 * e[-1]) < 4:
                assert np.isnan(alpha)
            else:
                hill = fit_power_law(e, method="hill").alpha
                assert alpha == pytest.approx(hill, rel=1e-8)


def test_spectral_features_are_invariant():
    """To permuted neurons and inputs; of scale, only the norms know: by log10 of its square."""
    weights = {"fc.weight": randn(4, 9, 7)}
    found = spectral_features(weights)
    permuted = weights["fc.weight"][:, torch.randperm(9)][:, :, torch.randperm(7)].mT
    pd.testing.assert_frame_equal(spectral_features({"fc.weight": permuted}), found)
    scaled = spectral_features({"fc.weight": 100 * weights["fc.weight"]}) - found
    assert scaled.to_numpy() == pytest.approx(np.tile([4.0, 4.0, 0, 0, 0], (4, 1)), abs=1e-6)


def test_a_layer_of_zeros_has_no_spectral_features():
    weights = {"fc.weight": randn(2, 5, 4)}
    weights["fc.weight"][0] = 0
    failures = {}
    found = spectral_features(weights, failures=failures)
    assert found.loc[0].isna().all()
    assert found.loc[1].notna().all()
    zero = "its weights are all zero, or too small or large for float64"
    assert failures == {0: f"log_norm of 'fc.weight' is not defined: {zero}."}


def test_two_eigenvalues_have_no_tail():
    failures = {}
    found = spectral_features({"fc.weight": randn(1, 5, 2)}, failures=failures)
    assert found.columns[found.isna().loc[0]].tolist() == ["fc.weight.alpha_hill"]
    assert failures[0].startswith("alpha_hill of 'fc.weight' is not defined: fewer than two")


def test_outputs_of_nan_have_a_reason():
    failures = {}
    logits = randn(3, 4, 5)
    logits[2, 0, 0] = torch.nan
    assert output_statistics(logits, failures=failures).isna().any(axis=1).tolist()[2]
    assert failures == {2: "tensor 'logits' holds NaN or inf; the model diverged."}


def naive_outputs(z):
    """One model's 25 columns, in numpy, image by image."""
    images, classes = z.shape
    p = scipy.special.softmax(z, axis=1)

    def entropy(q):
        return -sum(x * np.log(x) for x in q if x > 0) / np.log(classes)

    ordered = np.sort(z, axis=1)
    margin, confidence = ordered[:, -1] - ordered[:, -2], p.max(axis=1)
    entropies = np.array([entropy(q) for q in p])
    shares = np.bincount(z.argmax(axis=1), minlength=classes) / images
    S = np.cov(z.T, bias=True)
    marginal = entropy(p.mean(axis=0))
    return {
        "confidence.mean": confidence.mean(),
        "confidence.std": confidence.std(),
        **{f"confidence.q{q}": np.percentile(confidence, q) for q in (0, 25, 50, 75, 100)},
        "entropy.mean": entropies.mean(),
        "entropy.std": entropies.std(),
        "margin.mean": margin.mean(),
        "margin.std": margin.std(),
        **{f"margin.q{q}": np.percentile(margin, q) for q in (25, 50, 75)},
        "predicted.entropy": entropy(shares),
        "predicted.max_share": shares.max(),
        "predicted.n_classes": np.count_nonzero(shares) / classes,
        "marginal.entropy": marginal,
        "marginal.information": marginal - entropies.mean(),
        "logit.mean": z.mean(),
        "logit.std": z.std(),
        "logit.log_sum_exp": scipy.special.logsumexp(z, axis=1).mean(),
        "logit.between": z.mean(axis=0).var(),
        "logit.within": z.var(axis=0).mean(),
        "logit.dimension": np.trace(S) ** 2 / np.trace(S @ S),
    }


@pytest.mark.parametrize("device", DEVICES)
def test_output_statistics_are_the_naive_ones(device, monkeypatch):
    monkeypatch.setattr("wskit.features._stacks._BLOCK", 10_000)
    z = 2 * randn(11, 20, 6) + randn(11, 1, 6, seed=1)
    table = output_statistics(z, device=on(device))
    expected = pd.DataFrame([naive_outputs(one) for one in z.double().numpy()])
    assert table.shape == (11, 25)
    pd.testing.assert_frame_equal(table, expected, rtol=1e-10)


def test_outputs_know_no_order_of_images_or_classes():
    z = randn(3, 15, 5, dtype=torch.float64)
    shuffled = z[:, torch.randperm(15)][:, :, torch.randperm(5)]
    pd.testing.assert_frame_equal(output_statistics(z), output_statistics(shuffled))


def test_outputs_of_networks_that_are_sure_dead_or_diverged():
    sure = 1000 * torch.eye(4).repeat(5, 1)  # each class five times
    dead = torch.tensor([0.3, 0.1, -0.7, 0.2]).expand(20, 4)
    diverged = torch.full((20, 4), torch.nan)
    table = output_statistics(torch.stack([sure, dead, diverged]))
    assert table.loc[2].isna().all()
    assert not table.loc[:1].isna().any(axis=None)
    information = ["marginal.information", "predicted.entropy", "predicted.max_share"]
    assert table.loc[0, information].tolist() == pytest.approx([1, 1, 0.25])
    assert table.loc[1, information].tolist() == pytest.approx([0, 0, 1])
    assert table.loc[1, ["logit.within", "logit.dimension"]].tolist() == [0, 0]
    assert table.loc[0, "logit.dimension"] == pytest.approx(3)  # four corners of a simplex


def forward(weights, x):
    """The chain of SHAPES, with a nonlinearity, global pooling and a normalisation."""
    conv = torch.nn.functional.conv2d
    x = conv(x, weights["conv1.weight"], weights["conv1.bias"])
    if "bn1.scale" in weights:
        x = x * weights["bn1.scale"][:, None, None]
    x = conv(x.relu(), weights["conv2.weight"], weights["conv2.bias"]).tanh()
    return x.mean(dim=(2, 3)) @ weights["fc.weight"].T + weights["fc.bias"]


@pytest.mark.parametrize("order", ["weight first", "bias first", "normalised"])
def test_canonical_weights_are_the_same_function(order):
    weights = stack(dtype=torch.float64)
    if order == "bias first":
        names = [f"{layer}.{kind}" for layer in ("conv1", "conv2", "fc")
                 for kind in ("bias", "weight")]  # fmt: skip
        weights = {name: weights[name] for name in names}
    if order == "normalised":
        first, rest = list(weights.items())[:2], list(weights.items())[2:]
        extra = {"bn1.scale": randn(7, 6, dtype=torch.float64), "bn1.steps": torch.arange(7)}
        weights = dict(first) | extra | dict(rest)
    before = {name: W.clone() for name, W in weights.items()}
    sorted_ = canonical_weights(weights)
    assert list(sorted_) == list(weights)
    assert all(torch.equal(weights[name], W) for name, W in before.items())
    x = randn(5, 1, 8, 8, seed=9, dtype=torch.float64)
    for i in range(7):
        old, new = ({name: W[i] for name, W in w.items()} for w in (weights, sorted_))
        torch.testing.assert_close(forward(new, x), forward(old, x))
    for layer in ("conv1", "conv2"):
        norms = sorted_[f"{layer}.weight"].flatten(2).norm(dim=2)
        assert (norms.diff(dim=1) <= 0).all()
        assert not torch.equal(sorted_[f"{layer}.weight"], weights[f"{layer}.weight"])


def test_permuted_copies_have_one_canonical_form():
    weights = stack(dtype=torch.float64)
    permuted = dict(weights)
    order = torch.randperm(6)
    for name in ("conv1.weight", "conv1.bias"):
        permuted[name] = weights[name][:, order]
    permuted["conv2.weight"] = weights["conv2.weight"][:, :, order]
    for one, other in zip(
        canonical_weights(weights).values(), canonical_weights(permuted).values(), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            {"a.weight": randn(2, 4, 3), "b.weight": randn(2, 5, 6)},
            "'b.weight' has 6 inputs where 'a.weight' has 4 outputs; give the layers in their",
        ),
        (
            {"a.weight": randn(2, 4, 3), "a.gain": randn(2, 7)},
            "vector 'a.gain' of length 7 belongs to no layer",
        ),
        ({"pos": randn(2, 7)}, "vector 'pos' of length 7 belongs to no layer"),
        (
            {"rnn.input": randn(2, 4, 3), "rnn.hidden": randn(2, 4, 4)},
            "one matrix a layer, and 'rnn' has 2: 'rnn.input', 'rnn.hidden'",
        ),
    ],
)
def test_what_is_no_chain_is_refused(weights, message):
    with pytest.raises(FeatureError, match=message):
        canonical_weights(weights)


@pytest.mark.parametrize("features", [weight_statistics, spectral_features, canonical_weights])
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "there is no floating tensor"),
        ({"steps": torch.arange(3)}, "there is no floating tensor"),
        ({"a": randn(3, 2, 2), "b": randn(2, 4)}, "'a' has 3 where 'b' has 2; give `zoo.weights`"),
        ({"scale": torch.tensor(1.0)}, "'scale' is a scalar; give `zoo.weights`, or stack"),
        ({"a": torch.zeros(3, 0)}, r"tensor 'a' of shape \(3, 0\) holds no values"),
    ],
)
def test_stacks_that_do_not_fit_are_refused(features, weights, message):
    with pytest.raises(FeatureError, match=message):
        features(weights)


def test_a_zoo_without_matrices_has_no_spectra():
    with pytest.raises(
        FeatureError, match=r"none of the tensors 'a', 'b' holds one; dense layers are"
    ):
        spectral_features({"a": randn(2, 3), "b": randn(2, 1, 3)})


@pytest.mark.parametrize("shape", [(3, 4), (3, 0, 5), (3, 4, 1), (0, 4, 5)])
def test_outputs_of_another_shape_are_refused(shape, without_type_checks):
    with pytest.raises(FeatureError, match=r"outputs of the shape|there are no models"):
        output_statistics(torch.zeros(*shape))
