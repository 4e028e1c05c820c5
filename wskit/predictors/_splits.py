"""Splits of a table of models that put no run on both sides."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Integer
from numpy.typing import ArrayLike
from sklearn.model_selection import GroupShuffleSplit

from wskit._checks import number
from wskit.errors import PredictorError

Indices = Integer[np.ndarray, " _"]


def run_groups(
    records: pd.DataFrame, *, by: str | Sequence[str] = "run"
) -> Integer[np.ndarray, " models"]:
    """Label the rows that must stay on one side of a split.

    Parameters
    ----------
    records : DataFrame of a row a model
        A zoo's table.
    by : str or sequence of str, default "run"
        Rows with equal values in these columns are one group. ``"run"`` keeps the checkpoints
        of a training run together; the names of the hyper-parameters keep together all runs of
        one draw (its seeds), which is stricter.

    Returns
    -------
    array of int, of shape (models,)
        Counted from 0 in the order of appearance.

    Raises
    ------
    PredictorError
        If a column is missing, if a run is unknown (NaN), or if the columns would put
        checkpoints of one run into different groups, and so on both sides of a split.

    Examples
    --------
    >>> records = pd.DataFrame({"run": [3, 3, 5, 6], "learning_rate": [0.1, 0.1, 0.1, 0.2]})
    >>> run_groups(records), run_groups(records, by=["learning_rate"])
    (array([0, 0, 1, 2]), array([0, 0, 0, 1]))
    """
    columns = [by] if isinstance(by, str) else list(by)
    missing = [column for column in columns if column not in records]
    if missing or not columns:
        what = f"has no column {missing[0]!r}" if missing else "is grouped by no column"
        raise PredictorError(f"the table {what}; its columns are {', '.join(map(str, records))}.")
    if "run" in records and records["run"].isna().any():
        row = int(np.flatnonzero(records["run"].isna())[0])
        raise PredictorError(
            f"row {row} has no run, so that it cannot be told which rows belong together; "
            "number the runs."
        )
    labels = records.groupby(columns, sort=False, dropna=False).ngroup().to_numpy()
    if "run" in records:
        per_run = pd.Series(labels).groupby(records["run"].to_numpy()).nunique()
        if (per_run > 1).any():
            raise PredictorError(
                f"run {per_run.idxmax()} has different values of {', '.join(columns)} in its "
                "rows, and would be on both sides of a split; group by columns that are the same "
                "for all checkpoints of a run."
            )
    return labels


def run_splits(
    records: pd.DataFrame,
    n_splits: int = 5,
    test_size: float = 0.25,
    *,
    by: str | Sequence[str] = "run",
    rng: np.random.Generator | int,
) -> list[tuple[Indices, Indices]]:
    """Draw splits into training and test rows, with every run on one side.

    Two checkpoints of one run are nearly the same model: a split that puts one of them on each
    side measures memory. scikit-learn's ``GroupShuffleSplit`` on the labels of `run_groups`.

    Parameters
    ----------
    records : DataFrame of a row a model
        A zoo's table.
    n_splits : int, default 5
    test_size : float, default 0.25
        Share of the groups that is held out, in (0, 1).
    by : str or sequence of str, default "run"
        What makes a group, see `run_groups`.
    rng : numpy Generator or int

    Returns
    -------
    list of pairs of arrays of int
        Training and test rows, by position. scikit-learn takes the list as ``cv``.

    Raises
    ------
    PredictorError
        As `run_groups`, or if there are too few groups for two sides.

    Examples
    --------
    >>> records = pd.DataFrame({"run": [0, 0, 1, 1, 2, 2]})
    >>> train, test = run_splits(records, n_splits=1, test_size=0.3, rng=0)[0]
    >>> len(train), len(test), set(records.run[train]) & set(records.run[test])
    (4, 2, set())
    """
    return group_splits(run_groups(records, by=by), n_splits, test_size, rng)


def group_splits(
    groups: ArrayLike, n_splits: int, test_size: float, rng: np.random.Generator | int
) -> list[tuple[Indices, Indices]]:
    """Draw splits with every label on one side."""
    labels = np.asarray(groups)
    n_groups = pd.Series(labels).nunique()
    if not 0 < number(test_size, PredictorError, "test_size") < 1:
        raise PredictorError(f"test_size is a share of the groups in (0, 1), got {test_size}.")
    if math.ceil(test_size * n_groups) >= n_groups:
        raise PredictorError(
            f"{n_groups} groups cannot be split with a share of {test_size:g} for the test; "
            "more runs, or a smaller share, are needed."
        )
    seed = int(np.random.default_rng(rng).integers(2**31))
    splitter = GroupShuffleSplit(n_splits=n_splits, test_size=test_size, random_state=seed)
    return list(splitter.split(np.empty(len(labels)), groups=pd.factorize(labels)[0]))
