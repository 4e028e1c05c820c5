"""Claim: the accuracy of small networks can be read off their weights, in minutes on one core.

    python benchmarks/accuracy.py [--models 683 2048] [--updates 300]

A zoo of the Small CNN Zoo's network on scikit-learn's digits, hyper-parameters drawn as that zoo's;
the statistics of the weights; boosted trees (and LightGBM, where it is installed), five splits by
run, a quarter of the runs held out (683 networks leave 512 to fit to). Beside it, spectra and
weight correlation of the layers, and statistics of the outputs for 128 images without their labels,
which come from the validation part. CPU seconds of one thread.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import torch

from wskit import data, features, predictors, zoo


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    return call(), time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, nargs="+", default=[683, 2048])
    parser.add_argument("--updates", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    digits = data.load_dataset("digits", validation_fraction=0.1, test_fraction=0.4, seed=0)
    libraries = ["sklearn"] + ["lightgbm"] * (importlib.util.find_spec("lightgbm") is not None)
    print(digits, f"{options.updates} updates of 64 images\n")
    print("| networks | fitted to | zoo, s | features | trees | 5 splits, s | R2 | tau | MAE |")
    print("|---|---|---|---|---|---|---|---|---|")
    for n in options.models:
        table = zoo.sample_hyperparameters(n, rng=n)
        table["epochs"] = options.updates * 64 / (len(digits.train_x) * table.train_fraction)
        cnn = zoo.SmallCNN()
        models, seconds = timed(lambda cnn=cnn, table=table: zoo.train_zoo(cnn, digits, table))
        models = models.select(models.records.status == "trained")
        y, runs = models.records.test_accuracy, models.records.run
        statistics = features.weight_statistics(models.weights)
        images = digits.validation_x[:128]
        logits = zoo.outputs(cnn, models.weights, images, activation=models.records.activation)
        rich = statistics.join(features.spectral_features(models.weights))
        rich = rich.join(features.correlation_features(models.weights))
        asked = statistics.join(features.output_statistics(logits))
        tables = {"statistics": statistics, "and spectra, correlation": rich}
        for name, X in (tables | {"and answers to 128 images": asked}).items():
            for library in libraries:
                trees = predictors.boosted_trees(library, random_state=0)
                found, spent = timed(
                    lambda trees=trees, X=X, y=y, runs=runs: predictors.evaluate(
                        trees, X, y, runs, rng=0
                    )
                )
                numbers = " | ".join(
                    f"{found.scores[k].mean():.3f} ± {found.scores[k].std():.3f}"
                    for k in ("r2", "tau", "mae")
                )
                fitted = found.scores.n_train[0]
                row = f"| {len(models)} of {n} | {fitted} | {seconds:.0f} | {name} | {library} |"
                print(f"{row} {spent:.1f} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
