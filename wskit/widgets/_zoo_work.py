"""The long work of ZooExplorer: predictions of models held out by run, and more models."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Integer
from sklearn.base import clone
from sklearn.model_selection import GroupKFold

from wskit.errors import PredictorError, ZooError
from wskit.predictors import calibration, scores
from wskit.widgets._zoo_table import TARGET, Ranges
from wskit.zoo import MLP, SmallCNN, Zoo, concatenate, sample_hyperparameters, train_zoo

FOLDS = 5
SEED = 0  # of the bootstrap

Report = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What was predicted, on which selection, and how good that is.

    `ranges` are those of the selection; `predictions` has the columns of those of
    `wskit.predictors.evaluate`.
    """

    ranges: Ranges
    predictions: pd.DataFrame
    scores: pd.DataFrame
    n_folds: int
    n_bins: int

    @property
    def calibration(self) -> pd.DataFrame | None:
        if not self.n_bins:
            return None
        found = self.predictions
        return calibration(found["y"], found["predicted"], n_bins=self.n_bins)


def evaluate_rows(
    zoo: Zoo,
    features: pd.DataFrame,
    estimator: Any,
    rows: Integer[np.ndarray, " rows"],
    ranges: Ranges,
    report: Report,
) -> Evaluated:
    """Predict each of these models by an estimator that was fitted to other runs."""
    if "run" not in zoo.records or zoo.records["run"].isna().any():
        raise PredictorError(
            "The zoo's records do not say the run of every model; number the runs."
        )
    groups = zoo.records["run"].to_numpy()[rows]
    X, y = features.iloc[rows], zoo.records[TARGET].to_numpy(float)[rows]
    n_folds = min(FOLDS, len(np.unique(groups)))
    if n_folds < 2:
        raise PredictorError(
            f"{len(rows)} models of {n_folds} runs are selected whose features and accuracy are "
            "known, and two runs are needed at least; select more models."
        )
    predicted, fold = np.empty(len(rows)), np.empty(len(rows), int)
    for i, (train, test) in enumerate(GroupKFold(n_folds).split(X, y, groups)):
        report(i, n_folds)
        try:
            predicted[test] = clone(estimator).fit(X.iloc[train], y[train]).predict(X.iloc[test])
        except ValueError as error:
            reason = str(error).split("\n", maxsplit=1)[0].rstrip(".")
            raise PredictorError(
                f"The estimator cannot be fitted to {len(train)} models ({reason}); select more, "
                "or give another estimator."
            ) from error
        fold[test] = i
    columns = {"split": fold, "row": rows, "group": groups, "y": y, "predicted": predicted}
    found = scores(y, predicted, groups=groups, rng=SEED)
    n_bins = min(10, len(rows) // 10)
    return Evaluated(ranges, pd.DataFrame(columns), found, n_folds, n_bins if n_bins > 1 else 0)


@dataclass(frozen=True)
class Recipe:
    """How more models are trained: all that a cell needs to train them again."""

    n: int
    seed: int  # of the sampled table, and of its first model
    run: int  # of the first model
    fixed: dict[str, float]  # columns that all new models share with most of the old ones
    dropped: list[str]  # columns that are part of a user's own module
    keep_epochs: list[float]

    @property
    def hyperparameters(self) -> pd.DataFrame:
        table = sample_hyperparameters(self.n, rng=self.seed).assign(**self.fixed)
        return table.drop(columns=self.dropped)


def recipe_for(zoo: Zoo, network: Any, n: int) -> Recipe:
    """Return how to train models as this zoo's were, with other seeds and run numbers."""
    records = zoo.records
    if "run" not in records or records["run"].dtype.kind not in "iu":
        raise ZooError(
            "new models get run numbers that follow those of the zoo, and its column 'run' does "
            "not hold whole numbers; number the runs."
        )
    fixed = {
        name: Counter(records[name].dropna().tolist()).most_common(1)[0][0]
        for name in ("epochs", "batch_size")
        if name in records and records[name].notna().any()
    }
    epochs = sorted(records["epoch"].dropna().unique()) if "epoch" in records else []
    has_history = records["run"].duplicated().any()
    seeds = records["seed"].dropna() if "seed" in records else pd.Series(dtype=float)
    own = not isinstance(network, SmallCNN | MLP)
    return Recipe(
        n=n,
        seed=max(len(zoo), 1 + int(seeds.max())) if len(seeds) else len(zoo),
        run=1 + int(records["run"].max()),
        fixed=fixed,
        dropped=["dropout", "activation"] if own else [],
        keep_epochs=[float(epoch) for epoch in epochs[:-1]] if has_history else [],
    )


def grow(zoo: Zoo, network: Any, data: Any, recipe: Recipe, report: Report) -> Zoo:
    """Return the zoo with more models."""
    table = recipe.hyperparameters.assign(seed=range(recipe.seed, recipe.seed + recipe.n))
    report(0, recipe.n)
    # Training one for no time raises early where the new models would not fit.
    first = train_zoo(network, data, table[:1].assign(epochs=0.0))
    concatenate([zoo.select(slice(0, 1)), first])
    new = train_zoo(network, data, table, keep_epochs=recipe.keep_epochs, progress=report)
    records = new.records.assign(run=new.records["run"] + recipe.run)
    return concatenate([zoo, Zoo(new.weights, records)])
