"""What a predictor achieves on models it has not seen, and what it does so with."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64, Integer
from numpy.typing import ArrayLike
from sklearn.base import clone

from wskit._checks import calling, numbers
from wskit.errors import PredictorError
from wskit.predictors._scores import check_finite, point_scores
from wskit.predictors._splits import group_splits

_TEST_SIZE = 0.25


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The scores of a predictor on held-out models.

    Attributes
    ----------
    scores : DataFrame
        A row a split: split, n_train, n_test, r2, tau, mae (see `wskit.predictors.scores`).
    predictions : DataFrame
        A row for each held-out model of each split: split, row (its position in the table),
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

    Parameters
    ----------
    estimator : scikit-learn estimator
        Cloned for each split.
    X : DataFrame or array of shape (models, features)
    y : array of shape (models,)
        Accuracies.
    groups : array of shape (models,)
        Labels of `run_groups`: a group is on one side. ``np.arange(len(y))`` splits at random,
        which leaks where several rows are checkpoints of one run.
    n_splits : int, default 5
    test_size : float, default 0.25
        Share of the groups that is held out.
    above : float, optional
        Score only the held-out models whose true accuracy is above it; all are fitted, and all
        are in `predictions`. Where fewer than two are left, R2 and tau are NaN.
    rng : numpy Generator or int
        Of the splits. The estimator has its own ``random_state``.

    Returns
    -------
    Evaluation

    Raises
    ------
    PredictorError
        If the lengths differ, y is not finite, a group is NaN, or there are too few groups.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> X = np.arange(20.0)[:, None]
    >>> found = evaluate(LinearRegression(), X, 3 * X[:, 0], np.arange(20), n_splits=2, rng=0)
    >>> found.scores[["n_train", "n_test", "r2", "tau"]].round(6).values.tolist()
    [[15.0, 5.0, 1.0, 1.0], [15.0, 5.0, 1.0, 1.0]]
    """
    table = _table(X, y, groups)
    rows, predictions = [], []
    for i, (train, test) in enumerate(group_splits(table.groups, n_splits, test_size, rng)):
        predicted = _predict(_fit(estimator, table, train), table.take(test))
        true = table.y[test]
        kept = true > (-np.inf if above is None else above)
        sizes = {"split": i, "n_train": len(train), "n_test": int(kept.sum())}
        rows.append(sizes | point_scores(true[kept], predicted[kept]))
        columns = {"split": i, "row": test, "group": table.groups[test]}
        predictions.append(pd.DataFrame(columns | {"y": true, "predicted": predicted}))
    return Evaluation(pd.DataFrame(rows), pd.concat(predictions, ignore_index=True))


def importance_by_layer(
    estimator: Any,
    X: pd.DataFrame,
    y: ArrayLike,
    groups: ArrayLike,
    *,
    layers: Mapping[str, Sequence[str]] | None = None,
    n_splits: int = 5,
    n_repeats: int = 5,
    rng: np.random.Generator | int,
) -> pd.DataFrame:
    """Measure how much worse held-out predictions are with a layer's columns shuffled.

    The columns of a layer tell nearly the same, so that shuffling one of them alone shows little:
    they are shuffled together, with the same order. A quarter of the groups is held out.

    Parameters
    ----------
    estimator : scikit-learn estimator
        Cloned for each split.
    X : DataFrame of shape (models, features)
    y, groups : array of shape (models,)
        As for `evaluate`.
    layers : mapping of str to sequence of str, optional
        The columns of each layer. None takes what is before the last two dots of a name:
        ``conv1.weight.q25`` and ``conv1.bias.mean`` are of ``conv1``; of a name with one dot,
        what is before it.
    n_splits, n_repeats : int, default 5
        Shuffles are repeated for each split.
    rng : numpy Generator or int
        Of splits and shuffles.

    Returns
    -------
    DataFrame
        A row a layer, in the order of the columns: layer, n_columns, and the means ``r2_drop``
        and ``tau_drop`` (score before less score after) with their standard deviations over
        splits and repeats, ``r2_drop_std`` and ``tau_drop_std``. Of two layers that tell the
        same, neither may seem important.

    Raises
    ------
    PredictorError
        As `evaluate`, or if a layer has a column that `X` has not.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> X = pd.DataFrame({"a.w.mean": np.arange(20.0), "b.w.mean": np.arange(20.0) % 3})
    >>> table = importance_by_layer(LinearRegression(), X, X["a.w.mean"], np.arange(20), rng=0)
    >>> table.layer[table.r2_drop > 0.1].tolist()
    ['a']
    """
    table = _table(X, y, groups)
    chosen = _layers_of(X) if layers is None else {k: list(v) for k, v in layers.items()}
    for layer, columns in chosen.items():
        if missing := [column for column in columns if column not in X]:
            raise PredictorError(f"layer {layer!r}: the table has no column {missing[0]!r}.")
    generator = np.random.default_rng(rng)
    drops: dict[str, list[tuple[float, float]]] = {layer: [] for layer in chosen}
    for train, test in group_splits(table.groups, n_splits, _TEST_SIZE, generator):
        model, held_out = _fit(estimator, table, train), table.take(test)
        before = point_scores(held_out.y, _predict(model, held_out))
        for layer, columns in chosen.items():
            for _ in range(n_repeats):
                X_shuffled = held_out.X.copy()
                order = generator.permutation(len(test))
                X_shuffled[columns] = held_out.X[columns].to_numpy()[order]
                shuffled = _Table(X_shuffled, held_out.y, held_out.groups)
                after = point_scores(held_out.y, _predict(model, shuffled))
                drops[layer].append((before["r2"] - after["r2"], before["tau"] - after["tau"]))
    rows = []
    for layer, columns in chosen.items():
        found = pd.DataFrame(drops[layer], columns=["r2_drop", "tau_drop"])
        rows.append({"layer": layer, "n_columns": len(columns)} | _mean_and_spread(found))
    return pd.DataFrame(rows)


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
        Numbers of models to fit to. Of each split the training groups are put in a random order,
        and the first models taken: a smaller set is part of each larger one.

    Returns
    -------
    DataFrame
        A row a size: n_models, n_splits, and the means over the splits ``r2``, ``tau``, ``mae``
        with their standard deviations ``r2_std`` and so on.

    Raises
    ------
    PredictorError
        As `evaluate`, or if a size is less than 1 or more than are left for training.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> X = np.arange(20.0)[:, None]
    >>> learning_curve(LinearRegression(), X, 3 * X[:, 0], np.arange(20), [2, 9], rng=0).r2.round(6)
    0    1.0
    1    1.0
    Name: r2, dtype: float64
    """
    table = _table(X, y, groups)
    generator = np.random.default_rng(rng)
    splits = group_splits(table.groups, n_splits, test_size, generator)
    fewest = min(len(train) for train, _ in splits)
    for size in sizes:
        if not isinstance(size, int | np.integer):
            raise PredictorError(f"sizes are numbers of models, got {size!r}; give whole ones.")
        if not 1 <= size <= fewest:
            raise PredictorError(
                f"a size of {size} models was asked for, and a split leaves {fewest} to fit to; "
                f"sizes from 1 to {fewest} are possible."
            )
    found: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for train, test in splits:
        codes, labels = pd.factorize(table.groups[train])
        ordered = train[np.argsort(generator.permutation(len(labels))[codes], kind="stable")]
        for size, each in found.items():
            model = _fit(estimator, table, ordered[:size])
            each.append(point_scores(table.y[test], _predict(model, table.take(test))))
    rows = [
        {"n_models": size, "n_splits": n_splits} | _mean_and_spread(pd.DataFrame(each))
        for size, each in found.items()
    ]
    return pd.DataFrame(rows)


def transfer(
    estimator: Any,
    tables: Mapping[str, tuple[Any, Any, Any]],
    *,
    n_splits: int = 5,
    test_size: float = _TEST_SIZE,
    rng: np.random.Generator | int,
) -> pd.DataFrame:
    """Fit on one zoo and score on each: what carries over from one data set to another.

    Every entry is of models that were not fitted to: on the diagonal the held-out groups of the
    split, elsewhere the groups whose labels are not among those that were fitted to. So runs of
    two zoos that share a draw of hyper-parameters, and its label, do not leak; where labels are
    equal by chance, give them other numbers, and all models are scored.

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
        As `evaluate`, or if the columns differ, or fewer than two models are left to score.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> X, groups = np.arange(20.0)[:, None], np.arange(20)
    >>> tables = {"a": (X, X[:, 0], groups), "b": (X, 100 + X[:, 0], groups)}
    >>> transfer(LinearRegression(), tables, rng=0)["tau"].round(3).values.tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    if not tables:
        raise PredictorError("there are no tables; give one at least.")
    named = {}
    for name, parts in tables.items():
        if not isinstance(parts, tuple | list) or len(parts) != 3:
            raise PredictorError(
                f"{name!r}: features, accuracies and groups are needed, got a "
                f"{type(parts).__name__}; give the three as a tuple."
            )
        named[name] = _table(*parts, f"{name!r}: ")
    _check_columns(named)
    generator = np.random.default_rng(rng)
    result: dict[tuple[str, str], dict[str, float]] = {}
    for source, table in named.items():
        found: dict[str, list[dict[str, float]]] = {name: [] for name in named}
        for train, test in group_splits(table.groups, n_splits, test_size, generator):
            model = _fit(estimator, table, train)
            for target, other in named.items():
                unseen = np.flatnonzero(~pd.Index(other.groups).isin(table.groups[train]))
                rows = test if target == source else unseen
                if len(rows) < 2:
                    raise PredictorError(
                        f"of {target!r}, {len(rows)} models have a group that was not fitted to "
                        f"in {source!r}, and two at least are scored; give the runs of different "
                        "zoos different labels."
                    )
                held_out = other.take(rows)
                found[target].append(point_scores(held_out.y, _predict(model, held_out)))
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

    def take(self, rows: Integer[np.ndarray, " rows"]) -> "_Table":
        X = self.X.iloc[rows] if isinstance(self.X, pd.DataFrame) else self.X[rows]
        return _Table(X, self.y[rows], self.groups[rows])


def _table(X: Any, y: ArrayLike, groups: ArrayLike, label: str = "") -> _Table:
    X = X if isinstance(X, pd.DataFrame) else np.asarray(X)
    true, labels = numbers(y, PredictorError, f"{label}y"), np.asarray(groups)
    if X.ndim != 2 or true.shape != (len(X),) or labels.shape != (len(X),):
        raise PredictorError(
            f"{label}a row of features, an accuracy and a group are needed for each model, got "
            f"the shapes {X.shape}, {true.shape} and {labels.shape}."
        )
    check_finite(true, f"{label}y")
    if (missing := pd.isna(labels)).any():
        row = int(np.flatnonzero(missing)[0])
        raise PredictorError(f"{label}row {row} has no group; label all rows, see `run_groups`.")
    return _Table(X, true, labels)


def _check_columns(named: Mapping[str, _Table]) -> None:
    columns = {
        name: list(t.X.columns) if isinstance(t.X, pd.DataFrame) else list(range(t.X.shape[1]))
        for name, t in named.items()
    }
    for name, own in columns.items():
        first = next(iter(columns))
        if own != columns[first]:
            odd = [str(c) for c in {*own} ^ {*columns[first]}]
            what = f"column {min(odd)!r} is in one of them only" if odd else "their order differs"
            raise PredictorError(
                f"{first!r} and {name!r} need the same columns in the same order: {what}."
            )


def _calling(estimator: Any) -> AbstractContextManager[None]:
    what = type(estimator).__name__
    return calling(PredictorError, what, "look for such values in the features")


def _fit(estimator: Any, table: _Table, rows: Integer[np.ndarray, " rows"]) -> Any:
    part = table.take(rows)
    with _calling(estimator):
        return clone(estimator).fit(part.X, part.y)


def _predict(model: Any, table: _Table) -> Float64[np.ndarray, " models"]:
    with _calling(model):
        return np.asarray(model.predict(table.X), dtype=np.float64)


def _layers_of(X: pd.DataFrame) -> dict[str, list[str]]:
    layers: dict[str, list[str]] = {}
    for column in X.columns:
        parts = str(column).split(".")
        layer = ".".join(parts[:-2] if len(parts) > 2 else parts[:1])
        layers.setdefault(layer, []).append(column)
    return layers


def _mean_and_spread(values: pd.DataFrame) -> dict[str, float]:
    """Return the mean and the standard deviation of each column, side by side."""
    row: dict[str, float] = {}
    for name in values:
        row |= {str(name): float(values[name].mean()), f"{name}_std": float(values[name].std())}
    return row
