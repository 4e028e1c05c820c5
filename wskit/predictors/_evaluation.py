"""What a predictor achieves on models it has not seen, and which layers it uses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64, Integer
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.model_selection import GroupShuffleSplit

from wskit.errors import PredictorError
from wskit.predictors._scores import check_finite, check_groups, check_lengths, score_points

_TEST_SIZE = 0.25

_Rows = Integer[np.ndarray, " _"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The scores of a predictor on held-out models.

    Attributes
    ----------
    scores : DataFrame
        One row per split: split, n_train, n_test, r2, tau, mae (see `wskit.predictors.scores`).
    predictions : DataFrame
        One row for each held-out model of each split: split, row (its position in the table),
        group, y, predicted. A model may be held out in several splits, or in none.
    """

    scores: pd.DataFrame
    predictions: pd.DataFrame


def evaluate(
    estimator: Any,
    X: pd.DataFrame | np.ndarray,
    y: ArrayLike,
    groups: ArrayLike,
    *,
    n_splits: int = 5,
    test_size: float = _TEST_SIZE,
    above: float | None = None,
    rng: np.random.Generator | int,
) -> Evaluation:
    """Fit on some groups and score on the others, for several splits.

    Two checkpoints of one run are nearly the same model: a split that puts one of them on each
    side measures memory. The splits are those of scikit-learn's ``GroupShuffleSplit``.

    Parameters
    ----------
    estimator : scikit-learn estimator
        Cloned for each split.
    X : DataFrame or array of shape (models, features)
    y : array of shape (models,)
        Accuracies.
    groups : array of shape (models,)
        Labels of what stays on one side, such as ``zoo.records.run``. ``np.arange(len(y))``
        splits at random, which leaks where several rows are checkpoints of one run.
    n_splits : int, default 5
    test_size : float, default 0.25
        Share of the groups that is held out.
    above : float, optional
        Score only the held-out models whose true accuracy is above it; all are fitted, and all
        are in `predictions`. Where fewer than two are left, R2 and tau are NaN.
    rng : numpy Generator or int
        Draws the splits. The estimator has its own ``random_state``.

    Returns
    -------
    Evaluation
        With the tables ``scores`` (one row per split: split, n_train, n_test, r2, tau, mae) and
        ``predictions`` (one row per held-out model and split: split, row, group, y, predicted).

    Raises
    ------
    PredictorError
        If the lengths differ, y is not finite, or a group is NaN.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> X = np.arange(20.0)[:, None]
    >>> found = evaluate(LinearRegression(), X, 3 * X[:, 0], np.arange(20), n_splits=2, rng=0)
    >>> found.scores[["n_train", "n_test", "r2", "tau"]].round(6).values.tolist()
    [[15.0, 5.0, 1.0, 1.0], [15.0, 5.0, 1.0, 1.0]]
    """
    table = _Table.check(X, y, groups)
    rows, predictions = [], []
    for i, (train, test) in enumerate(table.split(n_splits, test_size, rng)):
        predicted = table.fit(estimator, train).predict(table.take(test))
        true = table.y[test]
        kept = true > (-np.inf if above is None else above)
        sizes = {"split": i, "n_train": len(train), "n_test": int(kept.sum())}
        rows.append(sizes | score_points(true[kept], predicted[kept]))
        columns = {"split": i, "row": test, "group": table.groups[test]}
        predictions.append(pd.DataFrame(columns | {"y": true, "predicted": predicted}))
    return Evaluation(pd.DataFrame(rows), pd.concat(predictions, ignore_index=True))


def importance_by_layer(
    estimator: Any,
    X: pd.DataFrame,
    y: ArrayLike,
    groups: ArrayLike,
    *,
    n_splits: int = 5,
    n_repeats: int = 5,
    rng: np.random.Generator | int,
) -> pd.DataFrame:
    """Measure how much worse held-out predictions are with a layer's columns shuffled.

    The columns of a layer say nearly the same, so that shuffling one of them alone shows little:
    they are shuffled together, in the same order. A quarter of the groups is held out.

    Parameters
    ----------
    estimator : scikit-learn estimator
        Cloned for each split.
    X : DataFrame of shape (models, features)
        A column's layer is what stands before the last two dots of its name: ``conv1.weight.q25``
        and ``conv1.bias.mean`` are of ``conv1``. In a name with one dot, it is what stands before
        that.
    y, groups : array of shape (models,)
        As for `evaluate`.
    n_splits, n_repeats : int, default 5
        Shuffles are repeated for each split.
    rng : numpy Generator or int
        Draws splits and shuffles.

    Returns
    -------
    DataFrame
        One row per layer, in the order of the columns: layer, n_columns, and the means
        ``r2_drop`` and ``tau_drop`` (score before less score after) with their standard
        deviations over splits and repeats, ``r2_drop_std`` and ``tau_drop_std``. If two layers
        say the same, neither may seem important.

    Raises
    ------
    PredictorError
        As `evaluate`.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> X = pd.DataFrame({"a.w.mean": np.arange(20.0), "b.w.mean": np.arange(20.0) % 3})
    >>> table = importance_by_layer(LinearRegression(), X, X["a.w.mean"], np.arange(20), rng=0)
    >>> table.layer[table.r2_drop > 0.1].tolist()
    ['a']
    """
    table = _Table.check(X, y, groups)
    layers: dict[str, list[str]] = {}
    for column in X.columns:
        parts = str(column).split(".")
        layers.setdefault(".".join(parts[:-2] or parts[:1]), []).append(column)
    generator = np.random.default_rng(rng)
    drops: dict[str, list[dict[str, float]]] = {layer: [] for layer in layers}
    for train, test in table.split(n_splits, _TEST_SIZE, generator):
        model, held_out, true = table.fit(estimator, train), table.take(test), table.y[test]
        before = score_points(true, model.predict(held_out))
        for layer, columns in layers.items():
            for _ in range(n_repeats):
                shuffled = held_out.copy()
                order = generator.permutation(len(test))
                shuffled[columns] = held_out[columns].to_numpy()[order]
                after = score_points(true, model.predict(shuffled))
                drops[layer].append({f"{k}_drop": before[k] - after[k] for k in ("r2", "tau")})
    return pd.DataFrame(
        [
            {"layer": layer, "n_columns": len(columns)} | _summarise(drops[layer])
            for layer, columns in layers.items()
        ]
    )


def learning_curve(
    estimator: Any,
    X: pd.DataFrame | np.ndarray,
    y: ArrayLike,
    groups: ArrayLike,
    sizes: Sequence[int],
    *,
    n_splits: int = 5,
    test_size: float = _TEST_SIZE,
    rng: np.random.Generator | int,
) -> pd.DataFrame:
    """Score predictors that were fitted to fewer models, on the same held-out models.

    Parameters
    ----------
    estimator, X, y, groups, n_splits, test_size, rng
        As for `evaluate`.
    sizes : sequence of int
        Numbers of models to fit to. In each split, the training groups are put in a random order
        and the first models are taken: a smaller set is part of each larger one.

    Returns
    -------
    DataFrame
        One row per size: n_models, n_splits, and the means over the splits ``r2``, ``tau``,
        ``mae`` with their standard deviations ``r2_std`` and so on.

    Raises
    ------
    PredictorError
        As `evaluate`, or if a size is less than 1 or more than a split leaves for training.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> X = np.arange(20.0)[:, None]
    >>> learning_curve(LinearRegression(), X, 3 * X[:, 0], np.arange(20), [2, 9], rng=0).r2.round(6)
    0    1.0
    1    1.0
    Name: r2, dtype: float64
    """
    table = _Table.check(X, y, groups)
    generator = np.random.default_rng(rng)
    splits = table.split(n_splits, test_size, generator)
    fewest = min(len(train) for train, _ in splits)
    if not 1 <= min(sizes) <= max(sizes) <= fewest:
        raise PredictorError(
            f"sizes must be from 1 to {fewest}, the models that a split leaves to fit to, got "
            f"{list(sizes)}."
        )
    found: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for train, test in splits:
        codes, labels = pd.factorize(table.groups[train])
        ordered = train[np.argsort(generator.permutation(len(labels))[codes], kind="stable")]
        for size, each in found.items():
            model = table.fit(estimator, ordered[:size])
            each.append(score_points(table.y[test], model.predict(table.take(test))))
    return pd.DataFrame(
        [
            {"n_models": size, "n_splits": n_splits} | _summarise(each)
            for size, each in found.items()
        ]
    )


def transfer(
    estimator: Any,
    tables: Mapping[str, tuple[Any, Any, Any]],
    *,
    n_splits: int = 5,
    test_size: float = _TEST_SIZE,
    rng: np.random.Generator | int,
) -> pd.DataFrame:
    """Fit on one zoo and score on each: what carries over from one data set to another.

    Every entry is about models that were not fitted to: on the diagonal the held-out groups of
    the split, elsewhere the groups whose labels are not among the fitted ones. So runs of two
    zoos that share a draw of hyper-parameters, and its label, do not leak. Where labels are equal
    by chance, give them other numbers, and all models are scored.

    Parameters
    ----------
    estimator : scikit-learn estimator
        Cloned for each split.
    tables : mapping of str to (X, y, groups)
        For each zoo, as for `evaluate`. The X have the same columns.
    n_splits, test_size, rng
        As for `evaluate`.

    Returns
    -------
    DataFrame
        Rows: the zoo that was fitted to. Columns: (metric, zoo that was scored), with the metrics
        ``r2`` and ``tau``, averaged over the splits; ``result["tau"]`` is a square matrix.

    Raises
    ------
    PredictorError
        As `evaluate`, or if fewer than two models are left to score.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> X, groups = np.arange(20.0)[:, None], np.arange(20)
    >>> tables = {"a": (X, X[:, 0], groups), "b": (X, 100 + X[:, 0], groups)}
    >>> transfer(LinearRegression(), tables, rng=0)["tau"].round(3).values.tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    named = {name: _Table.check(X, y, groups, name) for name, (X, y, groups) in tables.items()}
    generator = np.random.default_rng(rng)
    result: dict[tuple[str, str], dict[str, float]] = {}
    for source, table in named.items():
        found: dict[str, list[dict[str, float]]] = {name: [] for name in named}
        for train, test in table.split(n_splits, test_size, generator):
            model = table.fit(estimator, train)
            for target, other in named.items():
                unseen = np.flatnonzero(~pd.Index(other.groups).isin(table.groups[train]))
                rows = test if target == source else unseen
                if len(rows) < 2:
                    raise PredictorError(
                        f"{target!r} has {len(rows)} models of groups that were not fitted to in "
                        f"{source!r}, and at least two are scored; give the runs of different "
                        "zoos different labels."
                    )
                found[target].append(score_points(other.y[rows], model.predict(other.take(rows))))
        for target, each in found.items():
            means = pd.DataFrame(each).mean()
            for metric in ("r2", "tau"):
                result.setdefault((metric, target), {})[source] = float(means[metric])
    matrix = pd.DataFrame(result).rename_axis(index="fitted_to", columns=["metric", "scored_on"])
    return matrix[["r2", "tau"]].loc[list(named)]


@dataclass(frozen=True, eq=False)
class _Table:
    """Features, accuracies and groups of the same models."""

    X: Any
    y: Float64[np.ndarray, " models"]
    groups: np.ndarray

    @classmethod
    def check(cls, X: Any, y: ArrayLike, groups: ArrayLike, name: str = "") -> "_Table":
        """Raise unless every model has features, a finite accuracy and a group."""
        X = X if isinstance(X, pd.DataFrame) else np.asarray(X)
        table = cls(X, check_finite(y, f"{name} y".strip()), check_groups(groups))
        check_lengths(X=np.arange(len(X)), y=table.y, groups=table.groups)
        return table

    def split(
        self, n_splits: int, test_size: float, rng: np.random.Generator | int
    ) -> list[tuple[_Rows, _Rows]]:
        """Draw splits with every group on one side."""
        seed = int(np.random.default_rng(rng).integers(2**31))
        splitter = GroupShuffleSplit(n_splits=n_splits, test_size=test_size, random_state=seed)
        return list(splitter.split(self.y, groups=pd.factorize(self.groups)[0]))

    def take(self, rows: _Rows) -> Any:
        """Return the features of these rows."""
        return self.X.iloc[rows] if isinstance(self.X, pd.DataFrame) else self.X[rows]

    def fit(self, estimator: Any, rows: _Rows) -> Any:
        """Fit a clone to these rows."""
        return clone(estimator).fit(self.take(rows), self.y[rows])


def _summarise(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean and the standard deviation of each metric, side by side."""
    values = pd.DataFrame(each)
    row: dict[str, float] = {}
    for name in values:
        row |= {str(name): float(values[name].mean()), f"{name}_std": float(values[name].std())}
    return row
