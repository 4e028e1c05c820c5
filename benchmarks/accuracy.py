"""Claim: the accuracy of small networks can be read off their weights, in minutes on one core.

    python benchmarks/accuracy.py [--models 683 2048] [--updates 300]

A zoo of the Small CNN Zoo's network on scikit-learn's digits, hyper-parameters drawn as that zoo's;
the statistics of the weights; boosted trees and LightGBM's (`make peers`), five splits by
run, a quarter of the runs held out (683 networks leave 512 to fit to). Beside it, spectra and
weight correlation of the layers, and statistics of the outputs for 128 images without their labels,
which come from the validation part. CPU seconds of one thread.
"""

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

from _peers import MISSING, packages_of
from _record import Benchmark, Page

from wskit import data, features, predictors, zoo


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    return call(), time.process_time() - start


def libraries(page: Page) -> dict[str, bool]:
    """Return both kinds of trees, and whether they are there; LightGBM may be in the peers'."""
    there = packages_of("lightgbm")
    if importlib.util.find_spec("lightgbm") is None and there is not None:
        sys.path.append(str(there))
    found = importlib.util.find_spec("lightgbm") is not None
    if found:
        page.peers = (f"lightgbm=={metadata.version('lightgbm')}",)
    return {"sklearn": True, "lightgbm": found}


def verdict(page: Page, row: tuple[str, int], means: Mapping[str, float]) -> tuple[str, str]:
    """Return the goal for a row and whether it is reached, if it has one."""
    if row not in GOALS:
        return "", ""
    r2, tau, seconds = GOALS[row]
    reached = means["r2"] >= r2 and means["tau"] >= tau and means["seconds"] <= seconds
    limit = f", {seconds} s in all" if seconds < float("inf") else ""
    return f"R2 {r2}, tau {tau}{limit}", page.verdict(reached)


def splits(page: Page, options: argparse.Namespace) -> None:
    """Train zoos, and predict their accuracies from several tables of features."""
    digits = data.load_dataset("digits", validation_fraction=0.1, test_fraction=0.4, seed=0)
    page.text(
        f"{len(digits.train_x)} training images of the digits, {len(digits.test_x)} to test on, "
        f"{options.updates} updates of 64 images, hyper-parameters as in the Small CNN Zoo; five "
        "splits by run, mean and standard deviation over them. Seconds are CPU seconds of one "
        "thread. The settings of both kinds of trees were chosen on another such zoo of 640 "
        "networks, once for both."
    )
    head = ("networks", "fitted to", "zoo, s", "features", "trees", "5 splits, s", "R2", "tau")
    page.table(*head, "MAE", "goal", "reached")
    there = libraries(page)
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
            for library, found_it in there.items():
                if not found_it:
                    page.row(f"{len(models)} of {n}", "", "", name, library, MISSING, *[""] * 5)
                    continue
                trees = TREES[library]()
                found, spent = timed(
                    lambda trees=trees, X=X, y=y, runs=runs: predictors.evaluate(
                        trees, X, y, runs, rng=0
                    )
                )
                numbers = [
                    f"{found.scores[k].mean():.3f} ± {found.scores[k].std():.3f}"
                    for k in ("r2", "tau", "mae")
                ]
                fitted = found.scores.n_train[0]
                means = {key: found.scores[key].mean() for key in ("r2", "tau")}
                goal = verdict(page, (name, fitted), means | {"seconds": seconds + spent})
                cells = (f"{len(models)} of {n}", fitted, f"{seconds:.0f}", name, library)
                page.row(*cells, f"{spent:.1f}", *numbers, *goal)


def lightgbm_trees() -> Any:
    """LightGBM with the settings of `boosted_trees`; it samples the models for each tree, too."""
    return importlib.import_module("lightgbm").LGBMRegressor(
        learning_rate=0.05,
        n_estimators=400,
        num_leaves=15,
        min_child_samples=10,
        colsample_bytree=0.25,
        subsample=0.8,
        subsample_freq=1,
        random_state=0,
        n_jobs=1,  # with more threads its sums, and so its trees, may differ from run to run
        verbosity=-1,
    )


TREES = {"sklearn": lambda: predictors.boosted_trees(random_state=0), "lightgbm": lightgbm_trees}
GOALS = {
    ("statistics", 512): (0.91, 0.74, 180),
    ("and spectra, correlation", 1536): (0.94, 0.79, float("inf")),
    ("and answers to 128 images", 1536): (0.97, 0.86, float("inf")),
}
TITLE = "Accuracy from weights"
PARTS = {"splits": splits}
BENCHMARK = Benchmark(__file__, TITLE, PARTS, versions=("scikit-learn",))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = BENCHMARK.parser(__doc__)
    parser.add_argument("--models", type=int, nargs="+", default=[683, 2048])
    parser.add_argument("--updates", type=int, default=300)
    BENCHMARK.run(parser.parse_args(arguments), arguments)


if __name__ == "__main__":
    main()
