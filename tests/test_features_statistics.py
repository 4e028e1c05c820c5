import numpy as np
import pandas as pd
import pytest
import scipy.special
import torch

from wskit.errors import FeatureError
from wskit.features import (
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


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def stack(n_models=7, dtype=torch.float32):
    return {
        name: randn(n_models, *shape, seed=i, dtype=dtype)
        for i, (name, shape) in enumerate(SHAPES.items())
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_statistics_are_numpys(dtype, monkeypatch):
    monkeypatch.setattr("wskit.features._stacks._BLOCK", 1000)  # several blocks
    weights = stack(dtype=dtype)
    table = weight_statistics(weights)
    assert table.shape == (7, 7 * len(SHAPES))
    assert (table.dtypes == np.float64).all()
    for name, W in weights.items():
        values = W.double().flatten(1).numpy()
        found = table[[c for c in table if c.rpartition(".")[0] == name]].to_numpy()
        quantiles = np.percentile(values, [0, 25, 50, 75, 100], axis=1)
        expected = np.stack([values.mean(axis=1), values.var(axis=1), *quantiles], axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


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
    table = features(weights)
    assert table.loc[[3, 5]].isna().all(axis=None)
    rest = [0, 1, 2, 4, 6]
    pd.testing.assert_frame_equal(table.loc[rest], clean.loc[rest])


@pytest.mark.parametrize("conv", ["unfold", "slices"])
def test_spectral_features_are_those_of_the_table(conv, monkeypatch):
    monkeypatch.setattr("wskit.features._stacks._BLOCK", 3000)
    weights = stack()
    weights["conv2.weight"][2, 1:] *= 0  # of rank one
    found = spectral_features(weights, conv=conv)
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
    found = spectral_features(weights)
    assert found.loc[0].isna().all()
    assert found.loc[1].notna().all()


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


def test_output_statistics_are_the_naive_ones(monkeypatch):
    monkeypatch.setattr("wskit.features._stacks._BLOCK", 10_000)
    z = 2 * randn(11, 20, 6) + randn(11, 1, 6, seed=1)
    table = output_statistics(z)
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


@pytest.mark.parametrize("features", [weight_statistics, spectral_features])
@pytest.mark.parametrize(
    "weights",
    [
        {"steps": torch.arange(3)},
        {"a": randn(3, 2, 2), "b": randn(2, 4)},
        {"scale": torch.tensor(1.0)},
    ],
)
def test_stacks_that_do_not_fit_are_refused(features, weights):
    with pytest.raises(FeatureError, match=r"stacked weights need .* pass `zoo\.weights`"):
        features(weights)


def test_what_has_no_spectrum_or_no_classes_is_refused(without_type_checks):
    with pytest.raises(FeatureError, match="none of 'a', 'b' holds one"):
        spectral_features({"a": randn(2, 3), "b": randn(2, 1, 3)})
    with pytest.raises(FeatureError, match=r"outputs need the shape .*got \(3, 4, 1\)"):
        output_statistics(torch.zeros(3, 4, 1))
