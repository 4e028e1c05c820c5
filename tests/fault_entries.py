"""Every public function of the library, with what it is fed in `fault_kit`'s ways."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from fault_kit import (
    IMAGES,
    MATRIX,
    MODELS,
    NUMBER,
    OTHER_WEIGHTS,
    STACKS,
    VALUES,
    WEIGHTS,
    Entry,
    draw,
    module,
    net,
    scalars,
    within,
)

from wskit import (
    averaging,
    fits,
    geometry,
    landscape,
    predictors,
    soups,
    spectra,
    zoo,
)

LABELS = torch.tensor([0, 1, 2, 0, 1])
BATCH_OF = scalars(zero=0, negative=-1)
SEEDED = {"seed": 0}
STEPS = scalars(zero=0, negative=-1)


def squares(weights):
    return sum(value.double().square().sum() for value in weights.values())


evaluate = landscape.one_by_one(squares)


def diverged(net_of_nan):
    torch.nn.init.constant_(net_of_nan[0].bias, float("nan"))
    return net_of_nan


def symmetries():
    return geometry.sequential_symmetries(net())


def added(mean, weights):
    """A mean of good weights and then of others."""
    mean.add(net())
    mean.add(weights)
    return mean.weights


def appended(weights):
    trajectory = averaging.Trajectory()
    trajectory.append(0, net())
    trajectory.append(1, weights)
    return trajectory.window_mean()


def swag(weights):
    found = averaging.SWAG(rank=2)
    for model in (net(), net(5), weights):
        found.add(model)
    return found.sample(seed=0)


def data(x=None, y=None):
    x = draw(5, 4) if x is None else x
    y = LABELS if y is None else y
    return SimpleNamespace(train_x=x, train_y=y, test_x=x, test_y=y)


RUNS = np.arange(20) // 2
Y = np.linspace(0.1, 0.9, 20)
FEATURES = pd.DataFrame({"a": Y, "b": np.cos(Y * 9)})


def ridge():
    return predictors.LogitLinearRegressor()


def table(**columns):
    return pd.DataFrame({"epochs": 1.0, **columns}, index=range(2))


def resnet():
    return {
        "conv1.weight": draw(4, 3, 3, 3),
        "layer1.0.conv1.weight": draw(4, 4, 3, 3),
        "layer1.0.conv2.weight": draw(4, 4, 3, 3),
        "linear.weight": draw(3, 4),
    }


RESNETS = within(resnet, "layer1.0.conv2.weight")
TRANSFORMER = torch.nn.TransformerEncoderLayer(4, nhead=2, dim_feedforward=6)
TRANSFORMERS = within(TRANSFORMER.state_dict, "linear2.weight")
ARCHITECTURES = {
    "wrong shape": lambda: zoo.MLP((5, 3)),
    "wrong dtype": lambda: "MLP",
}
LABEL_FAULTS = {
    "empty": lambda: torch.empty(0, dtype=torch.int64),
    "wrong length": lambda: torch.zeros(7, dtype=torch.int64),
    "wrong dtype": lambda: torch.zeros(5),
    "wrong shape": lambda: torch.zeros(5, 1, dtype=torch.int64),
    "no tensor": lambda: np.zeros(5, dtype=np.int64),
    "negative": lambda: torch.full((5,), -1),
    "huge": lambda: torch.full((5,), 10**9),
    "constant": lambda: torch.zeros(5, dtype=torch.int64),
}

mlp = zoo.MLP((4, 6, 3))


def stacked():
    return {
        name: torch.stack([draw(*shape), draw(*shape, seed=1)])
        for name, shape in mlp.shapes.items()
    }


def mlp_weights(make):
    """Stacked weights of the MLP, the last of which is a bad one."""
    return lambda: stacked() | {list(mlp.shapes)[-1]: make()}


NET_STACKS = {
    "NaN": mlp_weights(lambda: torch.full((2, 3), float("nan"))),
    "inf": mlp_weights(lambda: torch.full((2, 3), float("inf"))),
    "wrong shape": mlp_weights(lambda: torch.ones(())),
    "other number of models": mlp_weights(lambda: torch.ones(5, 3)),
    "wrong dtype": mlp_weights(lambda: torch.ones(2, 3, dtype=torch.int64)),
    "complex": mlp_weights(lambda: torch.ones(2, 3, dtype=torch.complex64)),
    "no tensor": mlp_weights(lambda: np.ones((2, 3))),
    "no tensors": dict,
    "other names": lambda: {f"x.{name}": value for name, value in stacked().items()},
    "huge": mlp_weights(lambda: torch.full((2, 3), 3e38)),
}


def a_zoo(**changes):
    records = pd.DataFrame({"run": [0, 1], "epoch": 1.0, "status": "trained"})
    return zoo.Zoo(stacked() | changes, records)


def mixed(models):
    return landscape.evaluate_mixtures(evaluate, models, np.eye(2))


def stack(weights):
    """One model stacked, or what is no model as it is."""
    if not isinstance(weights, dict):
        return weights
    return {name: value[None] for name, value in weights.items()}


STACKED_NETS = {name: (lambda make=make: stack(make())) for name, make in OTHER_WEIGHTS.items()}


def metrics(weights):
    return landscape.module_metrics(module(), draw(5, 4), LABELS)(weights)


def score(weights):
    return -float(squares(weights))


def held_out(weights):
    return soups.held_out_score(module(), draw(5, 4), LABELS)(weights)


FIT = fits.fit_power_law(np.geomspace(1, 100, 60))
TAIL = {"n_resamples": 5, "rng": 0}
MODEL = landscape.loss_path(evaluate, net(), net(1))

ENTRIES = {
    # --- spectra
    "spectra.spectrum": Entry(MATRIX, spectra.spectrum),
    "spectra.aspect_spectrum": Entry(MATRIX, lambda W: spectra.aspect_spectrum(W, M=2, Q=2.0)),
    "spectra.aspect_spectrum M": Entry(STEPS, lambda M: spectra.aspect_spectrum(draw(8, 4), M=M)),
    "spectra.aspect_spectrum Q": Entry(
        NUMBER, lambda Q: spectra.aspect_spectrum(draw(8, 4), M=2, Q=Q)
    ),
    "spectra.low_rank_spectrum": Entry(MATRIX, lambda B: spectra.low_rank_spectrum(B, draw(4, 9))),
    "spectra.spectral_density": Entry(
        MATRIX, lambda W: spectra.spectral_density(W, n_steps=4, n_probes=2, seed=0)
    ),
    "spectra.spectral_density n_steps": Entry(
        STEPS, lambda n: spectra.spectral_density(draw(8, 4), n_steps=n, seed=0)
    ),
    "spectra.spectral_density n_probes": Entry(
        STEPS, lambda n: spectra.spectral_density(draw(8, 4), n_probes=n, seed=0)
    ),
    "spectra.shuffled": Entry(MATRIX, lambda W: spectra.shuffled(W, seed=0)),
    "spectra.shuffled_weights": Entry(WEIGHTS, lambda w: dict(spectra.shuffled_weights(w, seed=0))),
    "spectra.difference": Entry(OTHER_WEIGHTS, lambda w: dict(spectra.difference(net(), w))),
    "spectra.inventory": Entry(WEIGHTS, spectra.inventory),
    "spectra.matrices": Entry(WEIGHTS, spectra.matrices),
    "spectra.spectra": Entry(WEIGHTS, spectra.spectra),
    "spectra.spectra names": Entry(
        scalars(wrong_name=["x"], empty=[]), lambda names: spectra.spectra(net(), names=names)
    ),
    # --- fits
    "fits.fit_power_law": Entry(VALUES, fits.fit_power_law),
    "fits.fit_power_law xmin": Entry(
        NUMBER, lambda v: fits.fit_power_law(np.geomspace(1, 9, 60), xmin=v)
    ),
    "fits.fit_power_law min_tail": Entry(
        STEPS, lambda v: fits.fit_power_law(np.geomspace(1, 9, 60), min_tail=v)
    ),
    "fits.fit_clipped": Entry(VALUES, fits.fit_clipped),
    "fits.fit_laws": Entry(VALUES, lambda x: fits.fit_laws(x, N=80, M=60)),
    "fits.fit_marchenko_pastur": Entry(VALUES, lambda x: fits.fit_marchenko_pastur(x, N=80, M=60)),
    "fits.fit_marchenko_pastur N": Entry(
        STEPS, lambda N: fits.fit_marchenko_pastur(np.linspace(1, 2, 60), N=N, M=60)
    ),
    "fits.classify_phase": Entry(VALUES, lambda x: fits.classify_phase(x, N=80, M=60)),
    "fits.classify_phase M": Entry(
        STEPS, lambda M: fits.classify_phase(np.linspace(1, 2, 60), N=80, M=M)
    ),
    "fits.compare_tails": Entry(VALUES, lambda x: fits.compare_tails(x, FIT)),
    "fits.compare_tails alternatives": Entry(
        scalars(empty=[]),
        lambda a: fits.compare_tails(np.geomspace(1, 100, 60), FIT, alternatives=a),
    ),
    "fits.ks_curve": Entry(VALUES, fits.ks_curve),
    "fits.alpha_interval": Entry(VALUES, lambda x: fits.alpha_interval(x, **TAIL)),
    "fits.alpha_interval n_resamples": Entry(
        STEPS, lambda n: fits.alpha_interval(np.geomspace(1, 9, 60), n_resamples=n, rng=0)
    ),
    "fits.alpha_interval level": Entry(
        NUMBER, lambda v: fits.alpha_interval(np.geomspace(1, 9, 60), level=v, **TAIL)
    ),
    "fits.goodness_of_fit": Entry(VALUES, lambda x: fits.goodness_of_fit(x, **TAIL)),
    "fits.goodness_of_fit n_resamples": Entry(
        STEPS, lambda n: fits.goodness_of_fit(np.geomspace(1, 9, 60), n_resamples=n, rng=0)
    ),
    "fits.MarchenkoPastur sigma": Entry(
        {**NUMBER, **STEPS}, lambda s: fits.MarchenkoPastur(s, 8, 4).pdf([0.5])
    ),
    "fits.MarchenkoPastur N": Entry(STEPS, lambda N: fits.MarchenkoPastur(1.0, N, 4).pdf([0.5])),
    "fits.MarchenkoPastur pdf": Entry(VALUES, fits.MarchenkoPastur(1.0, 8, 4).pdf),
    "fits.MarchenkoPastur cdf": Entry(VALUES, fits.MarchenkoPastur(1.0, 8, 4).cdf),
    "fits.MarchenkoPastur quantile": Entry(VALUES, fits.MarchenkoPastur(1.0, 8, 4).quantile),
    "fits.PowerLawFit pdf": Entry(VALUES, FIT.pdf),
    # --- geometry
    "geometry.layout_of": Entry(WEIGHTS, lambda w: geometry.layout_of(w).size),
    "geometry.layout_of names": Entry(
        scalars(wrong_name=["x"], empty=[]), lambda n: geometry.layout_of(net(), names=n).size
    ),
    "geometry.flatten": Entry(
        OTHER_WEIGHTS, lambda w: geometry.flatten(w, geometry.layout_of(net()))
    ),
    "geometry.unflatten": Entry(
        {
            "empty": lambda: torch.empty(0),
            "NaN": lambda: torch.full((51,), float("nan")),
            "wrong shape": lambda: torch.ones(()),
            "wrong length": lambda: torch.ones(50),
            "wrong dtype": lambda: torch.ones(51, dtype=torch.int64),
            "complex": lambda: torch.ones(51, dtype=torch.complex64),
            "no tensor": lambda: np.ones(51, dtype=np.float32),
        },
        lambda v: geometry.unflatten(v, geometry.layout_of(net())),
    ),
    "geometry.weight_distances": Entry(MODELS, lambda m: geometry.weight_distances(m).euclidean()),
    "geometry.weight_distances base": Entry(
        OTHER_WEIGHTS, lambda w: geometry.weight_distances([net(), net(4)], w).update_norms()
    ),
    "geometry.weight_distances stacked": Entry(
        STACKS, lambda w: geometry.weight_distances(w).euclidean()
    ),
    "geometry.WeightDistances cosine": Entry(
        MODELS, lambda m: geometry.weight_distances(m, net()).cosine()
    ),
    "geometry.WeightDistances group": Entry(
        scalars(wrong_name="x"), lambda g: geometry.weight_distances([net()]).euclidean(g)
    ),
    "geometry.project_updates": Entry(
        MODELS,
        lambda m: geometry.project_updates(geometry.weight_distances(m, net(3)), n_components=1),
    ),
    "geometry.project_updates n_components": Entry(
        scalars(zero=0, negative=-1, huge=10**6),
        lambda n: geometry.project_updates(
            geometry.weight_distances([net(), net(4)], net(3)), n_components=n
        ),
    ),
    "geometry.match_weights": Entry(
        OTHER_WEIGHTS, lambda w: geometry.match_weights(w, net(), symmetries(), seed=0).converged
    ),
    "geometry.match_weights reference": Entry(
        OTHER_WEIGHTS, lambda w: geometry.match_weights(net(), w, symmetries(), seed=0).converged
    ),
    "geometry.match_weights max_sweeps": Entry(
        STEPS,
        lambda n: (
            geometry.match_weights(net(), net(1), symmetries(), seed=0, max_sweeps=n).converged
        ),
    ),
    "geometry.match_weights symmetries": Entry(
        scalars(empty={}, wrong_name={"x": ("a",)}, wrong_shape={"0.weight": ("a",)}),
        lambda s: geometry.match_weights(net(), net(1), s, seed=0).converged,
    ),
    "geometry.apply_permutation": Entry(
        OTHER_WEIGHTS,
        lambda w: geometry.apply_permutation(w, {"0": np.arange(6)}, symmetries()),
    ),
    "geometry.apply_permutation permutations": Entry(
        {
            "empty": dict,
            "wrong name": lambda: {"x": np.arange(6)},
            "wrong length": lambda: {"0": np.arange(5)},
            "not a permutation": lambda: {"0": np.zeros(6, dtype=np.int64)},
            "wrong dtype": lambda: {"0": np.linspace(0, 5, 6)},
            "wrong shape": lambda: {"0": np.zeros((2, 3), dtype=np.int64)},
        },
        lambda p: geometry.apply_permutation(net(), p, symmetries()),
    ),
    "geometry.random_permutations": Entry(
        OTHER_WEIGHTS, lambda w: geometry.random_permutations(w, symmetries(), seed=0)
    ),
    "geometry.sequential_symmetries": Entry(
        OTHER_WEIGHTS, lambda w: len(geometry.sequential_symmetries(w))
    ),
    "geometry.resnet_symmetries": Entry(
        {**RESNETS, "another network": net},
        lambda w: geometry.resnet_symmetries(w)["layer1.0.conv2.weight"],
    ),
    "geometry.resnet_symmetries stem": Entry(
        within(resnet, "conv1.weight"),
        lambda w: geometry.resnet_symmetries(w)["layer1.0.conv2.weight"],
    ),
    "geometry.transformer_symmetries": Entry(
        {**TRANSFORMERS, "another network": net},
        lambda w: geometry.transformer_symmetries(w, n_heads=2)["linear2.weight"],
    ),
    "geometry.transformer_symmetries attention": Entry(
        within(TRANSFORMER.state_dict, "self_attn.in_proj_weight"),
        lambda w: geometry.transformer_symmetries(w, n_heads=2)["linear2.weight"],
    ),
    # --- averaging
    "averaging.average": Entry(MODELS, averaging.average),
    "averaging.average lazy": Entry(MODELS, lambda m: dict(averaging.average(m, lazy=True))),
    "averaging.average coefficients": Entry(
        {
            "empty": list,
            "NaN": lambda: [float("nan"), 1.0],
            "inf": lambda: [float("inf"), 1.0],
            "wrong length": lambda: [1.0],
            "wrong shape": lambda: [[1.0, 0.0]],
            "wrong dtype": lambda: ["a", "b"],
            "huge": lambda: [1e300, -1e300],
        },
        lambda c: averaging.average([net(), net(1)], c),
    ),
    "averaging.interpolate": Entry(OTHER_WEIGHTS, lambda w: averaging.interpolate(net(), w, 0.5)),
    "averaging.interpolate alpha": Entry(NUMBER, lambda v: averaging.interpolate(net(), net(1), v)),
    "averaging.slerp": Entry(OTHER_WEIGHTS, lambda w: averaging.slerp(net(), w, 0.5)),
    "averaging.slerp t": Entry(NUMBER, lambda v: averaging.slerp(net(), net(1), v)),
    "averaging.task_vector": Entry(OTHER_WEIGHTS, lambda w: averaging.task_vector(w, net())),
    "averaging.add_task_vectors": Entry(
        OTHER_WEIGHTS, lambda w: averaging.add_task_vectors(net(), [w], 0.5)
    ),
    "averaging.add_task_vectors scale": Entry(
        {**NUMBER, "wrong length": lambda: [1.0, 2.0, 3.0]},
        lambda v: averaging.add_task_vectors(net(), [net(1)], v),
    ),
    "averaging.merge_ties": Entry(MODELS, lambda m: averaging.merge_ties(m, net(3))),
    "averaging.merge_ties base": Entry(
        OTHER_WEIGHTS, lambda w: averaging.merge_ties([net(), net(1)], w)
    ),
    "averaging.merge_ties density": Entry(
        {**NUMBER, **STEPS}, lambda v: averaging.merge_ties([net(), net(1)], net(3), density=v)
    ),
    "averaging.merge_dare": Entry(MODELS, lambda m: averaging.merge_dare(m, net(3), seed=0)),
    "averaging.merge_dare density": Entry(
        {**NUMBER, **STEPS},
        lambda v: averaging.merge_dare([net(), net(1)], net(3), seed=0, density=v),
    ),
    "averaging.merge_model_stock": Entry(MODELS, lambda m: averaging.merge_model_stock(m, net(3))),
    "averaging.merge_model_stock base": Entry(
        OTHER_WEIGHTS, lambda w: averaging.merge_model_stock([net(), net(1)], w)
    ),
    "averaging.fisher_average": Entry(
        MODELS, lambda m: averaging.fisher_average(m, [net()] * len(m))
    ),
    "averaging.fisher_average fishers": Entry(
        {
            name: (lambda make=make: [{n: v.square() for n, v in net().items()}, make()])
            for name, make in OTHER_WEIGHTS.items()
        }
        | {"empty": list},
        lambda f: averaging.fisher_average([net(), net(1)], f),
    ),
    "averaging.fisher_diagonal": Entry(
        IMAGES, lambda x: averaging.fisher_diagonal(module().eval(), x)
    ),
    "averaging.fisher_diagonal module": Entry(
        {
            "training mode": module,
            "NaN": lambda: diverged(module().eval()),
            "wrong shape": lambda: torch.nn.Sequential(module(), torch.nn.Flatten(0)).eval(),
            "no parameters": lambda: torch.nn.ReLU().eval(),
        },
        lambda m: averaging.fisher_diagonal(m, draw(5, 4)),
    ),
    "averaging.fisher_diagonal n_draws": Entry(
        {**STEPS, **scalars(wrong_dtype="x")},
        lambda n: averaging.fisher_diagonal(module().eval(), draw(5, 4), n_draws=n),
    ),
    "averaging.recalibrate_bn": Entry(
        {name: (lambda make=make: [make()]) for name, make in IMAGES.items()}
        | {"no batches": list},
        lambda loader: averaging.recalibrate_bn(
            torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)), loader
        ),
    ),
    "averaging.RunningMean": Entry(OTHER_WEIGHTS, lambda w: added(averaging.RunningMean(), w)),
    "averaging.RunningMean weights": Entry(
        scalars(empty=0), lambda _: averaging.RunningMean().weights
    ),
    "averaging.ExponentialMean": Entry(
        OTHER_WEIGHTS, lambda w: added(averaging.ExponentialMean(0.9), w)
    ),
    "averaging.ExponentialMean decay": Entry(
        NUMBER, lambda d: added(averaging.ExponentialMean(d), net(1))
    ),
    "averaging.SWAG": Entry(OTHER_WEIGHTS, swag),
    "averaging.SWAG rank": Entry(STEPS, lambda r: averaging.SWAG(rank=r).n_averaged),
    "averaging.SWAG sample": Entry(scalars(empty=0), lambda _: averaging.SWAG().sample(seed=0)),
    "averaging.Trajectory": Entry(OTHER_WEIGHTS, appended),
    "averaging.Trajectory capacity": Entry(STEPS, lambda n: averaging.Trajectory(n).steps),
    "averaging.Trajectory spectrum": Entry(
        scalars(empty=0), lambda _: averaging.Trajectory().spectrum()
    ),
}
