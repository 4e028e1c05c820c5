"""What a GPU gives is what the CPU gives, entry by entry: weights there, images there, results."""

from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import wskit.averaging as avg
import wskit.features as feat
import wskit.geometry as geo
import wskit.landscape as land
import wskit.soups as soup
import wskit.spectra as spec
from wskit.checkpoints import open_checkpoint, save_weights
from wskit.spectra._density import ApproximateDensity
from wskit.zoo import MLP, outputs

ARCHITECTURE = MLP((12, 9, 8, 4))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def case(device, noise=0.0):
    """Five networks close to each other, images and matrices, on a device."""

    def noisy(*shape, seed=0):
        return normal(*shape, seed=seed) + noise * normal(*shape, seed=seed + 99)

    shapes = ARCHITECTURE.shapes
    base = {name: noisy(*shape, seed=i) / 3 for i, (name, shape) in enumerate(shapes.items())}
    models = [
        {name: (W + noisy(*W.shape, seed=10 * k + 7) / 9).to(device) for name, W in base.items()}
        for k in range(5)
    ]
    stack = {name: torch.stack([model[name] for model in models]) for name in base}
    x, y = normal(40, 12, seed=5).to(device), (torch.arange(40) % 4).to(device)
    base = {name: W.to(device) for name, W in base.items()}
    big, kernel = noisy(900, 700).to(device), noisy(6, 5, 3, 3).to(device)
    B, A = noisy(50, 4).to(device), normal(4, 30).to(device)
    module = ARCHITECTURE.module().to(device).eval()
    evaluate = land.module_metrics(module, x, y)
    return SimpleNamespace(**locals())


def swag(c):
    posterior = avg.SWAG(rank=3)
    for model in c.models:
        posterior.add(model)
    return posterior.sample(seed=0)


def trajectory(c):
    recorded = avg.Trajectory()
    for step, model in enumerate(c.models):
        recorded.append(step, model)
    return [recorded.window_mean(1, 4), recorded.mix(np.eye(5)[1:3] / 3)]


def fisher(c):
    c.module.load_state_dict(c.base)
    return avg.fisher_diagonal(c.module, c.x)


def matched(c):
    symmetries = geo.sequential_symmetries(c.base)
    planted = geo.random_permutations(c.base, symmetries, seed=1)
    permuted = geo.apply_permutation(c.base, planted, symmetries)
    return geo.match_weights(permuted, c.base, symmetries, seed=0).weights


def hessian(c):
    def loss(weights):
        logits = torch.func.functional_call(c.module, dict(weights), (c.x,))
        return nn.functional.cross_entropy(logits, c.y)

    return land.top_hessian_eigenvalue(loss, c.base, seed=0, rtol=1e-4).value


def learned(c):
    return soup.learned_soup(c.models, c.module, c.x, c.y, steps=5).coefficients


def greedy(c):
    score = soup.held_out_score(c.module, c.x, c.y)
    return soup.greedy_soup({f"m{i}": m for i, m in enumerate(c.models)}, score).weights


def rays(c):
    table = land.ray_sharpness(c.evaluate, c.base, distances=[0.5, 1.0], n_rays=3, seed=0)
    directions = [land.random_direction(c.base, seed=i) for i in range(2)]
    level = 2 * float(table.loss.max())
    return [table, land.region_edges(c.evaluate, c.base, directions, level=level)]


def saved(c, folder):
    save_weights(c.base, folder / f"{c.device}.safetensors")
    with open_checkpoint(folder / f"{c.device}.safetensors") as ckpt:
        return dict(ckpt)


ENTRIES = {
    "spectrum, large": lambda c: spec.spectrum(c.big.cpu(), device=c.device),
    "spectrum, fft": lambda c: spec.spectrum(c.kernel, conv="fft"),
    "spectra": lambda c: spec.spectra(c.base | {"kernel": c.kernel}),
    "aspect_spectrum": lambda c: spec.aspect_spectrum(c.big),
    "low-rank": lambda c: spec.spectra({"x.lora_A.weight": c.A, "x.lora_B.weight": c.B}),
    "spectral_density": lambda c: spec.spectral_density(c.big, seed=0, n_steps=20),
    "shuffled_weights": lambda c: dict(spec.shuffled_weights(c.base, seed=0)),
    "difference": lambda c: dict(spec.difference(c.models[0], c.base)),
    "spectral_table": lambda c: feat.spectral_table(c.base, null_seed=0),
    "spectral_table, weightwatcher": lambda c: feat.spectral_table(
        c.base, convention="weightwatcher"
    ),
    "correlation_table": lambda c: feat.correlation_table(c.base),
    "weight_statistics": lambda c: feat.weight_statistics(c.stack),
    "spectral_features": lambda c: feat.spectral_features(c.stack),
    "correlation_features": lambda c: feat.correlation_features(c.stack),
    "pac_bayes_measure": lambda c: feat.pac_bayes_measure(c.stack, c.stack),
    "output_statistics": lambda c: feat.output_statistics(outputs(ARCHITECTURE, c.stack, c.x)),
    "weight_distances": lambda c: geo.weight_distances(c.models, c.base).euclidean(),
    "project_updates": lambda c: np.abs(
        geo.project_updates(geo.weight_distances(c.models, c.base)).coordinates
    ),
    "match_weights": matched,
    "flatten": lambda c: geo.flatten(c.base),
    "average, coefficients": lambda c: avg.average(c.models, [0.1, 0.2, 0.3, 0.2, 0.2]),
    "SWAG": swag,
    "Trajectory": trajectory,
    "fisher_diagonal": fisher,
    "loss_plane": lambda c: land.loss_plane(c.evaluate, *c.models[:3]).losses,
    "loss_plane, loop": lambda c: (
        land.loss_plane(land.module_metrics(c.module, c.x, c.y, form="loop"), *c.models[:3]).losses
    ),
    "loss_plane, zoo_metrics": lambda c: (
        land.loss_plane(land.zoo_metrics(ARCHITECTURE, c.x, c.y), *c.models[:3]).losses
    ),
    "loss_plane, weights on the CPU": lambda c: (
        land.loss_plane(
            c.evaluate, *({name: W.cpu() for name, W in m.items()} for m in c.models[:3])
        ).losses
    ),
    "region_losses": lambda c: land.region_losses(
        c.evaluate, c.models, c.base, n_points=3, seed=0
    ).select_dtypes("number"),
    "rays": rays,
    "top_hessian_eigenvalue": hessian,
    "greedy_soup": greedy,
    "learned_soup": learned,
}


def assert_alike(found, expected, where="result"):
    if isinstance(expected, spec.Spectrum):
        found, expected = found.eigenvalues, expected.eigenvalues
    if isinstance(expected, ApproximateDensity):
        found, expected = found.nodes, expected.nodes
    if isinstance(expected, Mapping):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_alike(found[key], value, f"{where}[{key!r}]")
    elif isinstance(expected, list):
        for i, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert_alike(a, b, f"{where}[{i}]")
    elif isinstance(expected, pd.DataFrame | pd.Series):
        found, expected = pd.DataFrame(found), pd.DataFrame(expected)
        pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=1e-4)
    else:
        a, b = (v.detach().cpu() if isinstance(v, torch.Tensor) else v for v in (found, expected))
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4, err_msg=where)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ENTRIES)
def test_cuda_gives_what_the_cpu_gives(name):
    assert_alike(ENTRIES[name](case("cuda")), ENTRIES[name](case("cpu")))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_weights_on_a_gpu_are_saved_as_those_on_the_cpu(tmp_path):
    assert_alike(saved(case("cuda"), tmp_path), saved(case("cpu"), tmp_path))


@pytest.mark.parametrize("name", ENTRIES)
def test_the_comparison_finds_a_difference(name):
    """Without a GPU too: noise of a fifth in the weights is found, and nothing where is none."""
    right = ENTRIES[name](case("cpu"))
    assert_alike(ENTRIES[name](case("cpu")), right)
    with pytest.raises(AssertionError):
        assert_alike(ENTRIES[name](case("cpu", noise=0.2)), right)
