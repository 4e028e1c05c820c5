"""The public functions that make results of results: `fault_entries` goes on."""

import numpy as np
import pandas as pd
import torch
from fault_entries import (
    ARCHITECTURES,
    FEATURES,
    LABEL_FAULTS,
    LABELS,
    NET_STACKS,
    RUNS,
    STACKED_NETS,
    STEPS,
    Y,
    a_zoo,
    data,
    evaluate,
    held_out,
    metrics,
    mixed,
    mlp,
    ridge,
    score,
    squares,
    stack,
    stacked,
    table,
)
from fault_kit import (
    IMAGES,
    LOGITS,
    MATRIX,
    MODELS,
    NUMBER,
    NUMBERS,
    OTHER_WEIGHTS,
    STACKS,
    TABLES,
    VALUES,
    WEIGHTS,
    Entry,
    draw,
    module,
    net,
    scalars,
)

from wskit import checkpoints, features, landscape, predictors, report, soups, zoo

ZOO_FAULTS = {
    "empty": lambda: table().iloc[:0],
    "NaN": lambda: table(learning_rate=float("nan")),
    "inf": lambda: table(learning_rate=float("inf")),
    "wrong dtype": lambda: table(learning_rate="fast"),
    "wrong choice": lambda: table(optimizer="lion"),
    "negative": lambda: table(learning_rate=-1.0),
    "unknown column": lambda: table(lr=0.1),
    "huge": lambda: table(learning_rate=1e30),
    "no table": lambda: {"epochs": [1.0]},
    "one element": lambda: table().iloc[:1],
}


RESULT_ENTRIES = {
    # --- zoo
    "zoo.train_zoo": Entry(ZOO_FAULTS, lambda t: zoo.train_zoo(mlp, data(), t)),
    "zoo.train_zoo model": Entry(ARCHITECTURES, lambda m: zoo.train_zoo(m, data(), table())),
    "zoo.train_zoo images": Entry(IMAGES, lambda x: zoo.train_zoo(mlp, data(x), table())),
    "zoo.train_zoo labels": Entry(LABEL_FAULTS, lambda y: zoo.train_zoo(mlp, data(y=y), table())),
    "zoo.train_zoo seeds": Entry(
        scalars(
            empty=[], wrong_length=[1], wrong_dtype=["a", "b"], negative=[-1, -2], NaN=[np.nan] * 2
        ),
        lambda s: zoo.train_zoo(mlp, data(), table(), seeds=s),
    ),
    "zoo.train_zoo keep_epochs": Entry(
        scalars(NaN=[np.nan], negative=[-1.0], wrong_dtype=["x"], huge=[1e300]),
        lambda k: zoo.train_zoo(mlp, data(), table(), keep_epochs=k),
    ),
    "zoo.train_zoo compute": Entry(
        {
            "zero": lambda: zoo.Compute(block_size=0),
            "wrong choice": lambda: zoo.Compute(form="x"),
            "wrong dtype": lambda: "vmap",
        },
        lambda c: zoo.train_zoo(mlp, data(), table(), compute=c),
    ),
    "zoo.train_blocks": Entry(ZOO_FAULTS, lambda t: zoo.train_blocks(mlp, data(), t)),
    "zoo.outputs": Entry(NET_STACKS, lambda w: zoo.outputs(mlp, w, draw(5, 4))),
    "zoo.outputs x": Entry(IMAGES, lambda x: zoo.outputs(mlp, stacked(), x)),
    "zoo.outputs activation": Entry(
        scalars(wrong_length=["relu"], empty=[]),
        lambda a: zoo.outputs(mlp, stacked(), draw(5, 4), activation=a),
    ),
    "zoo.Zoo": Entry(
        STACKS | scalars(no_mapping=[1]),
        lambda w: len(zoo.Zoo(w, pd.DataFrame({"run": [0, 1]}))),
    ),
    "zoo.concatenate": Entry(
        {
            "empty": list,
            "other shapes": lambda: [a_zoo(), a_zoo(**{"fc1.weight": torch.ones(2, 2)})],
            "other names": lambda: [a_zoo(), a_zoo(x=torch.ones(2, 2))],
            "wrong dtype": lambda: [net()],
        },
        lambda zoos: len(zoo.concatenate(zoos)),
    ),
    "zoo.sample_hyperparameters": Entry(
        {**STEPS, **scalars(wrong_dtype="x")}, lambda n: zoo.sample_hyperparameters(n, rng=0)
    ),
    "zoo.MLP": Entry(
        scalars(
            empty=(), one_element=(4,), negative=(4, -1), wrong_dtype=("a", "b"), wrong_shape=4
        ),
        lambda s: len(zoo.MLP(s).shapes),
    ),
    "zoo.SmallCNN": Entry(
        {**STEPS, **scalars(wrong_dtype="x")}, lambda n: len(zoo.SmallCNN(channels=n).shapes)
    ),
    # --- features
    "features.canonical_weights": Entry(WEIGHTS, features.canonical_weights),
    "features.correlation_chance": Entry({**STEPS, **NUMBER}, features.correlation_chance),
    "features.weight_correlation": Entry(MATRIX, features.weight_correlation),
    "features.correlation_table": Entry(WEIGHTS, features.correlation_table),
    "features.correlation_penalty": Entry(WEIGHTS, features.correlation_penalty),
    "features.correlation_features": Entry(STACKS, features.correlation_features),
    "features.weight_statistics": Entry(STACKS, features.weight_statistics),
    "features.spectral_features": Entry(STACKS, features.spectral_features),
    "features.spectral_table": Entry(WEIGHTS, features.spectral_table),
    "features.spectral_table null_seed": Entry(
        WEIGHTS, lambda w: features.spectral_table(w, null_seed=0)
    ),
    "features.spectral_table n_resamples": Entry(
        scalars(negative=-1), lambda n: features.spectral_table(net(), n_resamples=n)
    ),
    "features.summary": Entry(
        {
            "empty": pd.DataFrame,
            "no rows": lambda: features.spectral_table(net()).iloc[:0],
            "NaN": lambda: features.spectral_table(net()).assign(alpha=np.nan),
            "wrong dtype": net,
        },
        features.summary,
    ),
    "features.output_statistics": Entry(
        {name: (lambda make=make: make()[None]) for name, make in LOGITS.items()},
        features.output_statistics,
    ),
    "features.pac_bayes_measure": Entry(
        STACKS,
        lambda w: features.pac_bayes_measure(
            w, {"0.weight": draw(2, 6, 4, seed=1), "2.weight": draw(2, 3, 6, seed=1)}
        ),
    ),
    "features.model_table": Entry(
        scalars(empty=[], no_such_file=["none"], wrong_dtype=[3]),
        lambda s: features.model_table(str, s),
    ),
    "features.model_table func": Entry(
        {
            "no row": lambda: lambda path: 3,
            "taken column": lambda: lambda path: {"source": 1},
            "wrong dtype": lambda: lambda path: {1: 1},
            "no function": lambda: 3,
        },
        lambda f: features.model_table(f, ["a"]),
    ),
    # --- landscape
    "landscape.loss_path": Entry(OTHER_WEIGHTS, lambda w: landscape.loss_path(evaluate, net(), w)),
    "landscape.loss_path alphas": Entry(
        VALUES, lambda a: landscape.loss_path(evaluate, net(), net(1), alphas=a)
    ),
    "landscape.loss_path evaluate": Entry(
        {
            "no loss": lambda: lambda w: {"x": [0.0] * len(w["0.bias"])},
            "wrong length": lambda: lambda w: {"loss": [0.0, 1.0]},
            "no mapping": lambda: lambda w: 3,
            "NaN": lambda: lambda w: {"loss": [float("nan")] * len(w["0.bias"])},
            "no function": lambda: 3,
        },
        lambda e: landscape.loss_path(e, net(), net(1)),
    ),
    "landscape.loss_path compute": Entry(
        STEPS,
        lambda n: landscape.loss_path(
            evaluate, net(), net(1), compute=landscape.Compute(chunk_size=n)
        ),
    ),
    "landscape.loss_plane": Entry(
        OTHER_WEIGHTS,
        lambda w: landscape.loss_plane(evaluate, net(), net(1), w, x=[0, 1], y=[0, 1]),
    ),
    "landscape.loss_plane x": Entry(
        VALUES, lambda x: landscape.loss_plane(evaluate, net(), net(1), net(2), x=x, y=[0, 1])
    ),
    "landscape.plane_through": Entry(
        OTHER_WEIGHTS, lambda w: landscape.plane_through(net(), net(1), w)
    ),
    "landscape.loss_simplex": Entry(
        MODELS, lambda m: landscape.loss_simplex(evaluate, m, n_points=3, seed=0)
    ),
    "landscape.loss_simplex n_points": Entry(
        STEPS, lambda n: landscape.loss_simplex(evaluate, [net(), net(1)], n_points=n, seed=0)
    ),
    "landscape.evaluate_mixtures": Entry(MODELS, mixed),
    "landscape.evaluate_mixtures coefficients": Entry(
        {
            "empty": lambda: np.empty((0, 2)),
            "NaN": lambda: np.full((1, 2), np.nan),
            "inf": lambda: np.full((1, 2), np.inf),
            "wrong shape": lambda: np.ones((1, 3)),
            "wrong dtype": lambda: np.array([["a", "b"]]),
            "huge": lambda: np.full((1, 2), 1e300),
        },
        lambda c: landscape.evaluate_mixtures(evaluate, [net(), net(1)], c),
    ),
    "landscape.iterate_mixtures": Entry(
        MODELS, lambda m: landscape.iterate_mixtures(evaluate, m, np.eye(2))
    ),
    "landscape.evaluate_models": Entry(
        MODELS, lambda m: landscape.evaluate_models(evaluate, dict(enumerate(m)))
    ),
    "landscape.one_by_one": Entry(STACKS, evaluate),
    "landscape.split_metrics": Entry(
        scalars(empty={}, no_function={"a": 3}), lambda e: landscape.split_metrics(**e)(stacked())
    ),
    "landscape.barrier": Entry(
        {
            "NaN": lambda: landscape.LossPath(
                np.array([0, 0.5, 1]), {"loss": np.array([0, np.nan, 1])}, ("a", "b"), 1.0
            ),
            "inf": lambda: landscape.LossPath(
                np.array([0, 0.5, 1]), {"loss": np.array([0, np.inf, 1])}, ("a", "b"), 1.0
            ),
            "no loss": lambda: landscape.LossPath(
                np.array([0, 1.0]), {"x": np.zeros(2)}, ("a", "b"), 1.0
            ),
            "no ends": lambda: landscape.LossPath(
                np.array([0.2, 0.5]), {"loss": np.zeros(2)}, ("a", "b"), 1.0
            ),
            "empty": lambda: landscape.LossPath(
                np.empty(0), {"loss": np.empty(0)}, ("a", "b"), 1.0
            ),
            "constant": lambda: landscape.LossPath(
                np.array([0, 0.5, 1]), {"loss": np.ones(3)}, ("a", "b"), 1.0
            ),
        },
        landscape.barrier,
    ),
    "landscape.classification_metrics": Entry(
        LOGITS, lambda z: landscape.classification_metrics(z, LABELS)
    ),
    "landscape.classification_metrics y": Entry(
        LABEL_FAULTS, lambda y: landscape.classification_metrics(draw(5, 3), y)
    ),
    "landscape.module_metrics": Entry(STACKED_NETS, metrics),
    "landscape.module_metrics x": Entry(
        IMAGES,
        lambda x: landscape.module_metrics(module(), x, LABELS)(stack(net())),
    ),
    "landscape.module_metrics y": Entry(
        LABEL_FAULTS,
        lambda y: landscape.module_metrics(module(), draw(5, 4), y)(stack(net())),
    ),
    "landscape.module_metrics batch_size": Entry(
        STEPS, lambda n: landscape.module_metrics(module(), draw(5, 4), LABELS, batch_size=n)
    ),
    "landscape.zoo_metrics": Entry(NET_STACKS, landscape.zoo_metrics(mlp, draw(5, 4), LABELS)),
    "landscape.zoo_metrics x": Entry(
        IMAGES, lambda x: landscape.zoo_metrics(mlp, x, LABELS)(stacked())
    ),
    "landscape.zoo_metrics y": Entry(
        LABEL_FAULTS, lambda y: landscape.zoo_metrics(mlp, draw(5, 4), y)(stacked())
    ),
    "landscape.moved": Entry(OTHER_WEIGHTS, lambda w: landscape.moved(net(), w)),
    "landscape.moved distance": Entry(NUMBER, lambda d: landscape.moved(net(), net(1), d)),
    "landscape.random_direction": Entry(WEIGHTS, lambda w: landscape.random_direction(w, seed=0)),
    "landscape.ray_sharpness": Entry(
        WEIGHTS,
        lambda w: landscape.ray_sharpness(evaluate, w, distances=[0.1], n_rays=2, seed=0),
    ),
    "landscape.ray_sharpness distances": Entry(
        VALUES,
        lambda d: landscape.ray_sharpness(evaluate, net(), distances=d, n_rays=2, seed=0),
    ),
    "landscape.ray_sharpness n_rays": Entry(
        STEPS,
        lambda n: landscape.ray_sharpness(evaluate, net(), distances=[0.1], n_rays=n, seed=0),
    ),
    "landscape.region_edges": Entry(
        OTHER_WEIGHTS,
        lambda w: landscape.region_edges(evaluate, net(), [w], level=100.0),
    ),
    "landscape.region_edges level": Entry(
        NUMBER, lambda v: landscape.region_edges(evaluate, net(), [net(1)], level=v)
    ),
    "landscape.region_edges directions": Entry(
        scalars(empty=[]), lambda d: landscape.region_edges(evaluate, net(), d, level=100.0)
    ),
    "landscape.region_losses": Entry(
        MODELS, lambda m: landscape.region_losses(evaluate, m, net(3), n_points=2, seed=0)
    ),
    "landscape.region_losses base": Entry(
        OTHER_WEIGHTS,
        lambda w: landscape.region_losses(evaluate, [net(), net(1)], w, n_points=2, seed=0),
    ),
    "landscape.top_hessian_eigenvalue": Entry(
        WEIGHTS, lambda w: landscape.top_hessian_eigenvalue(squares, w, seed=0)
    ),
    "landscape.top_hessian_eigenvalue n_iterations": Entry(
        STEPS,
        lambda n: landscape.top_hessian_eigenvalue(squares, net(), n_iterations=n, seed=0),
    ),
    "landscape.top_hessian_eigenvalue loss": Entry(
        {
            "NaN": lambda: lambda w: squares(w) * float("nan"),
            "constant": lambda: lambda w: torch.tensor(1.0),
            "no tensor": lambda: lambda w: 1.0,
            "wrong shape": lambda: lambda w: w["0.bias"],
        },
        lambda f: landscape.top_hessian_eigenvalue(f, net(), seed=0),
    ),
    "landscape.probability_of_better": Entry(
        NUMBERS, lambda a: landscape.probability_of_better(a, Y)
    ),
    # --- soups
    "soups.uniform_soup": Entry(MODELS, soups.uniform_soup),
    "soups.greedy_soup": Entry(MODELS, lambda m: soups.greedy_soup(m, score)),
    "soups.greedy_soup score": Entry(
        {
            "NaN": lambda: lambda w: float("nan"),
            "inf": lambda: lambda w: float("inf"),
            "wrong dtype": lambda: lambda w: "good",
            "wrong shape": lambda: lambda w: torch.ones(2),
            "no function": lambda: 3,
        },
        lambda s: soups.greedy_soup([net(), net(1)], s),
    ),
    "soups.greedy_soup scores": Entry(
        {
            "empty": list,
            "NaN": lambda: [np.nan, 1.0],
            "wrong length": lambda: [1.0],
            "wrong shape": lambda: [[1.0, 2.0]],
            "wrong dtype": lambda: ["a", "b"],
        },
        lambda s: soups.greedy_soup([net(), net(1)], score, scores=s),
    ),
    "soups.greedy_steps": Entry(MODELS, lambda m: soups.greedy_steps(m, score, [1.0] * len(m))),
    "soups.learned_soup": Entry(
        MODELS, lambda m: soups.learned_soup(m, module(), draw(5, 4), LABELS, steps=2)
    ),
    "soups.learned_soup x": Entry(
        IMAGES, lambda x: soups.learned_soup([net(), net(1)], module(), x, LABELS, steps=2)
    ),
    "soups.learned_soup y": Entry(
        LABEL_FAULTS,
        lambda y: soups.learned_soup([net(), net(1)], module(), draw(5, 4), y, steps=2),
    ),
    "soups.learned_soup steps": Entry(
        STEPS,
        lambda n: soups.learned_soup([net(), net(1)], module(), draw(5, 4), LABELS, steps=n),
    ),
    "soups.learned_soup learning_rate": Entry(
        {**NUMBER, **STEPS},
        lambda r: soups.learned_soup(
            [net(), net(1)], module(), draw(5, 4), LABELS, steps=2, learning_rate=r
        ),
    ),
    "soups.held_out_score": Entry(OTHER_WEIGHTS, held_out),
    "soups.held_out_score x": Entry(
        IMAGES, lambda x: soups.held_out_score(module(), x, LABELS)(net())
    ),
    "soups.held_out_score y": Entry(
        LABEL_FAULTS, lambda y: soups.held_out_score(module(), draw(5, 4), y)(net())
    ),
    "soups.logit_ensemble": Entry(MODELS, lambda m: soups.logit_ensemble(module(), m, draw(5, 4))),
    "soups.logit_ensemble x": Entry(
        IMAGES, lambda x: soups.logit_ensemble(module(), [net(), net(1)], x)
    ),
    # --- predictors
    "predictors.scores": Entry(NUMBERS, lambda y: predictors.scores(y, Y, n_resamples=5, rng=0)),
    "predictors.scores predicted": Entry(
        NUMBERS, lambda y: predictors.scores(Y, y, n_resamples=5, rng=0)
    ),
    "predictors.scores groups": Entry(
        NUMBERS, lambda g: predictors.scores(Y, Y, groups=g, n_resamples=5, rng=0)
    ),
    "predictors.calibration": Entry(NUMBERS, lambda y: predictors.calibration(Y, y)),
    "predictors.calibration n_bins": Entry(STEPS, lambda n: predictors.calibration(Y, Y, n_bins=n)),
    "predictors.evaluate": Entry(
        TABLES, lambda X: predictors.evaluate(ridge(), X, Y, RUNS, n_splits=2, rng=0)
    ),
    "predictors.evaluate y": Entry(
        NUMBERS, lambda y: predictors.evaluate(ridge(), FEATURES, y, RUNS, n_splits=2, rng=0)
    ),
    "predictors.evaluate groups": Entry(
        NUMBERS, lambda g: predictors.evaluate(ridge(), FEATURES, Y, g, n_splits=2, rng=0)
    ),
    "predictors.evaluate test_size": Entry(
        {**NUMBER, **STEPS},
        lambda t: predictors.evaluate(ridge(), FEATURES, Y, RUNS, test_size=t, rng=0),
    ),
    "predictors.importance_by_layer": Entry(
        TABLES,
        lambda X: predictors.importance_by_layer(
            ridge(), X, Y, RUNS, layers={"l": ["a"]}, n_splits=1, n_repeats=1, rng=0
        ),
    ),
    "predictors.learning_curve": Entry(
        TABLES, lambda X: predictors.learning_curve(ridge(), X, Y, RUNS, [3], n_splits=1, rng=0)
    ),
    "predictors.learning_curve sizes": Entry(
        scalars(empty=[], zero=[0], negative=[-1], huge=[10**6], wrong_dtype=["x"]),
        lambda s: predictors.learning_curve(ridge(), FEATURES, Y, RUNS, s, n_splits=1, rng=0),
    ),
    "predictors.transfer": Entry(
        TABLES,
        lambda X: predictors.transfer(
            ridge(), {"a": (FEATURES, Y, RUNS), "b": (X, Y, RUNS)}, n_splits=1, rng=0
        ),
    ),
    "predictors.transfer tables": Entry(
        scalars(empty={}, wrong_dtype={"a": 3}, wrong_shape={"a": (1, 2)}),
        lambda t: predictors.transfer(ridge(), t, n_splits=1, rng=0),
    ),
    "predictors.run_groups": Entry(
        {
            "empty": pd.DataFrame,
            "no column": lambda: FEATURES,
            "wrong dtype": net,
            "NaN": lambda: pd.DataFrame({"run": [np.nan, 1.0]}),
        },
        predictors.run_groups,
    ),
    "predictors.run_splits": Entry(
        {
            "empty": pd.DataFrame,
            "no column": lambda: FEATURES,
            "wrong dtype": net,
            "one element": lambda: pd.DataFrame({"run": [1]}),
            "constant": lambda: pd.DataFrame({"run": [1, 1, 1]}),
        },
        lambda r: len(predictors.run_splits(r, rng=0)),
    ),
    "predictors.LogitLinearRegressor clip": Entry(
        {**NUMBER, **STEPS},
        lambda c: predictors.LogitLinearRegressor(clip=c).fit(FEATURES, Y).predict(FEATURES),
    ),
    "predictors.boosted_trees": Entry(scalars(wrong_choice="x"), predictors.boosted_trees),
    "predictors.neural_network": Entry(
        scalars(empty=()),
        lambda h: predictors.neural_network(h, random_state=0).fit(FEATURES, Y).predict(FEATURES),
    ),
    # --- checkpoints and report, in memory
    "checkpoints.open_checkpoint": Entry(WEIGHTS, lambda w: dict(checkpoints.open_checkpoint(w))),
    "report.examine": Entry(WEIGHTS, report.examine),
    "report.examine other": Entry(OTHER_WEIGHTS, lambda w: report.examine(net(), other=w)),
}
