"""What an estimator is given: scikit-learn's errors in one sentence, with row and column."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from sklearn.exceptions import NotFittedError

from wskit.errors import PredictorError

_CLEARER = {
    "at least one array or dtype is required": "the table has no columns",
    "array must not contain infs or NaNs": "the values are so large that their squares overflow",
    "dtype='numeric' is not compatible with arrays of bytes/strings."
    "Convert your data to numeric values explicitly instead.": "there are texts among the numbers",
}
_TOO_FEW = ("validation set is too small", "train set will be empty")


class InputTypeError(PredictorError, TypeError):
    """Input of a type that is refused: scikit-learn's conventions ask for a `TypeError`."""


class ClearErrors:
    """A scikit-learn estimator, to be put before it, whose errors are `PredictorError`."""

    def fit(self, X: Any, y: Any, **params: Any) -> Any:
        """Fit."""
        with clear_errors(self, "be fitted", X, y):
            return super().fit(X, y, **params)  # type: ignore[misc]

    def predict(self, X: Any, **params: Any) -> Any:
        """Predict."""
        with clear_errors(self, "predict", X):
            return super().predict(X, **params)  # type: ignore[misc]


@contextmanager
def clear_errors(estimator: object, task: str, X: Any, y: Any = None) -> Iterator[None]:
    """Say in one sentence why these features, or this y, cannot be used.

    scikit-learn's words are kept, for its own checks look for them.
    """
    try:
        yield
    except (PredictorError, NotFittedError):
        raise
    except (ValueError, TypeError) as error:
        kind = InputTypeError if isinstance(error, TypeError) else PredictorError
        words, remedy = _words(str(error), X)
        what = f"{type(estimator).__name__} cannot {task}"
        raise kind(f"{what}: {words}{_place(words, X, y)}; {remedy}.") from error


def warn_outside(y: Any, stacklevel: int) -> None:
    """Warn of targets that are no accuracies."""
    values = np.asarray(y)
    outside = (values < 0) | (values > 1)
    if n_outside := np.count_nonzero(outside):
        warnings.warn(
            f"{n_outside} of {values.size} values of y are outside [0, 1], where accuracies are, "
            f"and are clipped; the first is {values[outside][0]:g}.",
            stacklevel=stacklevel + 1,
        )


def _words(text: str, X: Any) -> tuple[str, str]:
    """Return what is wrong, and what to do about it."""
    lines = text.strip().splitlines() or ["it failed"]
    first = _CLEARER.get(lines[0], lines[0]).rstrip(".")
    if "feature names" in first:
        return text.strip().rstrip("."), "give the columns that it was fitted to, in their order"
    head, asked, what = first.partition(" instead. Pass ")
    if asked:
        return head, f"pass {what}"
    if any(part in first for part in _TOO_FEW):
        held_out = f"of n_samples={len(X)} models too few are left when some are held out"
        return f"{held_out} to stop training by", "give 32 at least"
    if first.startswith("The DType"):
        return "there are columns of different kinds, dates and numbers say", "give numbers only"
    if lines[-1].startswith("Reshape your data"):
        return first.rstrip(":"), lines[-1].rstrip(".")
    if "NaN" in first or "infinity" in first:
        return first, "leave such models out"
    if "could not convert" in first:
        return first, "leave out what is no number"
    if "parameter" in first:
        return first, "change it"
    return first, "give a row of finite numbers a model, in the same columns to fit and to predict"


def _place(words: str, X: Any, y: Any) -> str:
    """Say where the first of the values is that are refused, if that is what was said."""
    if not any(part in words for part in ("contains NaN", "infinity", "could not convert")):
        return ""
    for values in (y,) if "Input y" in words else (X, y):
        table = pd.DataFrame(values)
        numbers = table.apply(pd.to_numeric, errors="coerce")
        if "contains NaN" in words:
            bad = table.isna()
        elif "infinity" in words:
            bad = numbers.abs() == np.inf
        else:
            bad = numbers.isna() & table.notna()
        rows, columns = np.nonzero(bad.to_numpy())
        if rows.size:
            row, column = table.index[rows[0]], table.columns[columns[0]]
            if values is y:
                return f" in row {row} of y"
            # Rows of an array have no labels: these may be a part of what the user has.
            known = isinstance(X, pd.DataFrame)
            return f" in row {row}{'' if known else f' of {len(table)}'}, column {column!r}"
    return ""
