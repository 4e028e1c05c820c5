"""The work of ZooExplorer: the table of models, predictions of held-out runs, more models."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool
from sklearn.base import clone
from sklearn.model_selection import GroupKFold

from wskit.errors import PredictorError, ZooError
from wskit.predictors import scores
from wskit.widgets._panel import call
from wskit.zoo import MLP, SmallCNN, Zoo, concatenate, sample_hyperparameters, train_zoo

TARGET = "test_accuracy"
FOLDS = 5
SEED = 0  # of the bootstrap
COMPONENTS = ["component 1", "component 2"]
CATEGORIES = 10  # strings that `plots.plot_models` has colours for
STOPS = 101  # of a range slider
FEW = 60  # different values that are its stops themselves
Ranges = list[tuple[str, tuple[float, float]]]  # columns and their limits


@dataclass(frozen=True)
class Recipe:
    """How more models are trained as a zoo's were, with other seeds and run numbers."""

    table: str  # as code
    run: int  # of the first model
    options: dict[str, Any]

    def code(self) -> list[str]:
        return [
            f"new = {self.table}",
            f"more = {call('zoo.train_zoo', 'network', 'data', 'new', **self.options)}",
            f'more.records["run"] += {self.run}',
            "models = zoo.concatenate([models, more])",
        ]


def recipe_for(zoo: Zoo, network: Any, n: int) -> tuple[pd.DataFrame, Recipe]:
    """Return the hyper-parameters of n more models, and how they are trained."""
    records = zoo.records
    if "run" not in records or records["run"].dtype.kind not in "iu":
        raise ZooError(
            "new models get run numbers that follow those of the zoo, and its column 'run' does "
            "not hold whole numbers; number the runs."
        )
    taken = [len(zoo) - 1, *(records["seed"].dropna() if "seed" in records else [])]
    seed = 1 + int(max(taken))
    known = [name for name in ("epochs", "batch_size") if name in records]
    fixed = {name: records[name].mode().iloc[0].item() for name in known if records[name].any()}
    own = [] if isinstance(network, SmallCNN | MLP) else ["dropout", "activation"]
    table = sample_hyperparameters(n, rng=seed).assign(**fixed).drop(columns=own)
    table = table.assign(seed=range(seed, seed + n))
    drawn = f"zoo.sample_hyperparameters({n}, rng={seed}).assign(**{fixed!r})"
    code = f"{drawn}.drop(columns={own!r}).assign(seed={range(seed, seed + n)!r})"
    options: dict[str, Any] = {}
    if "epoch" in records and records["run"].duplicated().any():
        options["keep_epochs"] = sorted(records["epoch"].dropna().unique().tolist())[:-1]
    return table, Recipe(code, 1 + int(records["run"].max()), options)


def finite(features: pd.DataFrame) -> Bool[np.ndarray, " models"]:
    """Return which models have all their features: diverged ones have not."""
    return np.isfinite(features.to_numpy(float)).all(axis=1)


def places(table: pd.DataFrame) -> list[str]:
    """Return the columns that can be an axis, the projection first."""
    numbers = table.select_dtypes("number")
    known = np.isfinite(numbers.to_numpy(float, na_value=np.nan)).any(axis=0)
    return sorted(numbers.columns[known], key=lambda name: name not in COMPONENTS)


def colours(table: pd.DataFrame) -> list[str]:
    """Return the columns that can be a colour: numbers, or a few different values."""
    numbers, others = places(table), table.select_dtypes(exclude="number")
    few = [name for name in others if 0 < others[name].nunique() <= CATEGORIES]
    return [str(name) for name in table if name in numbers or name in few]


def stops(column: "pd.Series[float]") -> list[float]:
    """Return where a range of the column can begin and end; equally far apart on its axis."""
    values = column.to_numpy(float, na_value=np.nan)
    values = np.unique(values[np.isfinite(values)])
    if values.size <= FEW:
        return [float(v) for v in values]
    low, high = values[0], values[-1]
    logarithmic = low > 0 and high > 100 * low
    found = (np.geomspace if logarithmic else np.linspace)(low, high, STOPS)
    found[[0, -1]] = low, high  # which rounding would leave out
    return [float(v) for v in found]


def selected(table: pd.DataFrame, ranges: Ranges) -> Bool[np.ndarray, " models"]:
    """Return which models are in the range of each column."""
    mask = np.ones(len(table), bool)
    for name, limits in ranges:
        mask &= table[name].between(*limits).to_numpy(bool)
    return mask


def selection_code(name: str, start: str, ranges: Ranges) -> list[str]:
    """Return the lines that select the models of `start` in the range of each column."""
    inside = [f"{name} &= table[{each!r}].between{limits!r}" for each, limits in ranges]
    return [f"{name} = {start}", *inside]


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What was predicted on the selection with these ranges, and how good that is."""

    ranges: Ranges
    predictions: pd.DataFrame
    scores: pd.DataFrame
    n_folds: int
    n_bins: int


def predict_held_out(
    zoo: Zoo, X: pd.DataFrame, estimator: Any, ranges: Ranges, report: Callable[[int, int], None]
) -> Evaluated:
    """Predict each of these models by an estimator that was fitted to other runs."""
    rows = X.index.to_numpy()
    if "run" not in zoo.records or zoo.records["run"].isna().any():
        raise PredictorError(
            "The zoo's records do not say the run of every model; number the runs."
        )
    groups, y = (zoo.records[name].to_numpy()[rows] for name in ("run", TARGET))
    n_folds = min(FOLDS, len(np.unique(groups)))
    if n_folds < 2:
        raise PredictorError(
            f"{len(rows)} models of {n_folds} runs are selected whose features and "
            "accuracy are known, and at least two runs are needed; select more models."
        )
    found = pd.DataFrame({"split": 0, "row": rows, "group": groups, "y": y})
    predicted = np.empty(len(rows))
    for i, (train, test) in enumerate(GroupKFold(n_folds).split(X, y, groups)):
        report(i, n_folds)
        model = clone(estimator)
        try:
            predicted[test] = model.fit(X.iloc[train], y[train]).predict(X.iloc[test])
        except ValueError as error:
            reason = str(error).split("\n", maxsplit=1)[0].rstrip(".")
            raise PredictorError(
                f"The estimator cannot be fitted to {len(train)} models ({reason}); "
                "select more, or give another estimator."
            ) from error
        found.loc[test, "split"] = i
    found["predicted"] = predicted
    scored = scores(y, predicted, groups=groups, rng=SEED)
    n_bins = min(10, len(rows) // 10)
    return Evaluated(ranges, found, scored, n_folds, n_bins if n_bins > 1 else 0)


def grow(
    zoo: Zoo, network: Any, data: Any, n: int, report: Callable[[int, int], None]
) -> tuple[Recipe, Zoo]:
    """Return the zoo with n more models, and how they were trained."""
    table, recipe = recipe_for(zoo, network, n)
    # Training one for no time raises early where the new models would not fit.
    first = train_zoo(network, data, table[:1].assign(epochs=0.0))
    concatenate([zoo.select(slice(0, 1)), first])
    new = train_zoo(network, data, table, progress=report, **recipe.options)
    records = new.records.assign(run=new.records["run"] + recipe.run)
    return recipe, concatenate([zoo, Zoo(new.weights, records)])
