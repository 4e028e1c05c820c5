"""The one engine: stacked weights to measures, in chunks, with progress and a way to stop."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from tqdm.auto import tqdm

from wskit._checks import check_weights, numbers
from wskit.errors import LandscapeError
from wskit.landscape._mix import checked, mix

Evaluation = Callable[[Mapping[str, Tensor]], Mapping[str, Any]]
"""Stacked weights, each tensor (points, ...) -> measures by name, each an array (points,).

"loss" is among them. `module_metrics` and `zoo_metrics` make such functions, and `one_by_one`
makes one of a function of one model.
"""

_BYTES_AT_ONCE = 2**26
_POINTS_AT_ONCE = 64


@dataclass(frozen=True)
class Compute:
    """How many points are evaluated. The results do not depend on it, but for rounding.

    Attributes
    ----------
    chunk_size : int, optional
        Points whose weights are in memory together. None means at most 64, and no more than have
        weights of 64 MiB.
    progress : bool, default False
        Show a progress bar.
    should_stop : callable that returns a bool, optional
        Asked before each chunk. Once it says True nothing more is evaluated, and the result has
        the points that were.
    """

    chunk_size: int | None = None
    progress: bool = False
    should_stop: Callable[[], bool] | None = None


def count_points(stacked: Mapping[str, Tensor]) -> int:
    """Return how many models are stacked, or say which tensor does not tell."""
    check_weights(stacked, LandscapeError, "the stacked weights")
    for name, stack in stacked.items():
        if stack.ndim == 0:
            raise LandscapeError(
                f"stacked weights have an entry a point, and {name!r} is a scalar; stack one model "
                "with W[None]."
            )
    lengths = {len(stack) for stack in stacked.values()}
    if len(lengths) != 1:
        raise LandscapeError(
            "stacked weights have as many entries in every tensor, one a point, got "
            f"{sorted(lengths) or 'no tensor'}; stack models of one architecture."
        )
    return lengths.pop()


def check_callable(evaluate: object, what: str = "evaluate") -> None:
    """Raise unless this can be called."""
    if not callable(evaluate):
        raise LandscapeError(
            f"{what} must be a function of stacked weights, got a {type(evaluate).__name__}; make "
            "one with `one_by_one` or `module_metrics`."
        )


def one_by_one(function: Callable[[Mapping[str, Tensor]], Any]) -> Evaluation:
    """Make an `Evaluation` of a function of one model.

    Parameters
    ----------
    function : callable
        Maps weights (as in a ``state_dict``) to the loss, a float or a tensor of one value, or to
        a mapping of names to such, with "loss" among them.

    Returns
    -------
    Evaluation

    Examples
    --------
    >>> evaluate = one_by_one(lambda weights: weights["w"].square().sum())
    >>> evaluate({"w": torch.tensor([[1.0, 2.0], [0.0, 3.0]])})
    {'loss': [5.0, 9.0]}
    """

    def evaluate(stacked: Mapping[str, Tensor]) -> Mapping[str, Any]:
        points = count_points(stacked)
        rows = [function({name: s[i] for name, s in stacked.items()}) for i in range(points)]
        rows = [row if isinstance(row, Mapping) else {"loss": row} for row in rows]
        return {name: [float(row[name]) for row in rows] for name in rows[0]}

    return evaluate


def iterate_mixtures(
    evaluate: Evaluation,
    models: Sequence[Mapping[str, Tensor]],
    coefficients: ArrayLike,
    *,
    chunk_size: int | None = None,
) -> Iterator[pd.DataFrame]:
    """Evaluate linear combinations of models, and yield the results chunk by chunk.

    Parameters
    ----------
    evaluate : Evaluation
    models : sequence of k mappings of str to Tensor
        With the same names and shapes. They are read once and not changed.
    coefficients : array of shape (points, k)
        Point i is the sum over j of ``coefficients[i, j] * models[j]``. Tensors that are not
        floating-point (a batch norm's counters) are those of the first model.
    chunk_size : int, optional
        As in `Compute`.

    Yields
    ------
    DataFrame
        A row a point: "loss" and the other measures. The index is the row of `coefficients`.

    Raises
    ------
    LandscapeError
        If the models differ in names, shapes or kind of dtype, or hold NaN or inf; if there is not
        a coefficient for each model; if `evaluate` does not return measures of one value a point.

    Examples
    --------
    >>> evaluate = one_by_one(lambda weights: weights["w"].square().sum())
    >>> a, b = {"w": torch.tensor([2.0, 0.0])}, {"w": torch.tensor([0.0, 2.0])}
    >>> for part in iterate_mixtures(evaluate, [a, b], [[1, 0], [0.5, 0.5]], chunk_size=1):
    ...     print(part.loss.to_dict())
    {0: 4.0}
    {1: 2.0}
    """
    wanted = numbers(coefficients, LandscapeError, "coefficients")
    if wanted.ndim != 2 or wanted.shape[1] != len(models) or not np.isfinite(wanted).all():
        raise LandscapeError(
            f"finite coefficients of shape (points, {len(models)}) are needed, one for each of "
            f"the models, got an array of shape {wanted.shape}; reshape it, or leave NaN and inf "
            "out."
        )
    anchors = checked(models)
    size = points_at_once(anchors[0], chunk_size)
    for start in range(0, len(wanted), size):
        part = wanted[start : start + size]
        # Entered anew for each chunk: gradients stay on between them, where the caller works.
        with torch.no_grad():
            check_callable(evaluate)
            found = evaluate(mix(anchors, part))
        yield _table(found, start, len(part))


def evaluate_mixtures(
    evaluate: Evaluation,
    models: Sequence[Mapping[str, Tensor]],
    coefficients: ArrayLike,
    *,
    compute: Compute = Compute(),
) -> pd.DataFrame:
    """Evaluate linear combinations of models.

    Parameters
    ----------
    evaluate, models, coefficients
        As for `iterate_mixtures`.
    compute : Compute
        Chunks, progress, and a way to stop.

    Returns
    -------
    DataFrame
        A row a point, in the order of `coefficients`: "loss" and the other measures. Where it was
        stopped, the rows that were evaluated.

    Raises
    ------
    LandscapeError
        As `iterate_mixtures`, or if it was stopped before the first point.

    Examples
    --------
    >>> evaluate = one_by_one(lambda weights: weights["w"].square().sum())
    >>> a, b = {"w": torch.tensor([2.0, 0.0])}, {"w": torch.tensor([0.0, 2.0])}
    >>> evaluate_mixtures(evaluate, [a, b], [[1, 0], [0.5, 0.5], [2, -1]]).loss.tolist()
    [4.0, 2.0, 20.0]
    """
    parts = iterate_mixtures(evaluate, models, coefficients, chunk_size=compute.chunk_size)
    return collect(parts, len(np.asarray(coefficients)), compute)


def evaluate_models(
    evaluate: Evaluation,
    models: Mapping[Any, Mapping[str, Tensor]],
    *,
    compute: Compute = Compute(),
) -> pd.DataFrame:
    """Evaluate models that have names, or numbers such as epochs.

    Parameters
    ----------
    evaluate : Evaluation
    models : mapping of names or numbers to mappings of str to Tensor
        Of one architecture.
    compute : Compute
        As for `evaluate_mixtures`.

    Returns
    -------
    DataFrame
        A row a model, under its name: "loss" and the other measures.

    Raises
    ------
    LandscapeError
        As `evaluate_mixtures`.

    Examples
    --------
    >>> evaluate = one_by_one(lambda weights: weights["w"].square().sum())
    >>> models = {"a": {"w": torch.tensor([2.0, 0.0])}, "b": {"w": torch.tensor([1.0, 1.0])}}
    >>> evaluate_models(evaluate, models).loss.to_dict()
    {'a': 4.0, 'b': 2.0}
    """
    found = evaluate_mixtures(evaluate, list(models.values()), np.eye(len(models)), compute=compute)
    return found.set_axis(pd.Index(list(models)[: len(found)]))


def collect(parts: Iterator[pd.DataFrame], total: int, compute: Compute) -> pd.DataFrame:
    """Put chunks together until there are no more, or `compute.should_stop` says so."""
    tables: list[pd.DataFrame] = []
    with tqdm(total=total, disable=not compute.progress, unit="point") as bar:
        while compute.should_stop is None or not compute.should_stop():
            part = next(parts, None)
            if part is None:
                break
            tables.append(part)
            bar.update(len(part))
    if not tables:
        raise LandscapeError("no point was evaluated: none was asked for, or it was stopped.")
    return pd.concat(tables, ignore_index=True)


def points_at_once(weights: Mapping[str, Tensor], chunk_size: int | None) -> int:
    """Return the number of points in a chunk."""
    if chunk_size is None:
        size = sum(tensor.nbytes for tensor in weights.values())
        return int(min(_POINTS_AT_ONCE, max(1, _BYTES_AT_ONCE // max(size, 1))))
    if chunk_size < 1:
        raise LandscapeError(f"chunk_size must be at least 1, got {chunk_size}.")
    return chunk_size


def _table(found: Mapping[str, Any], start: int, points: int) -> pd.DataFrame:
    """Check what an evaluation returned."""
    if not isinstance(found, Mapping) or "loss" not in found:
        raise LandscapeError(
            "an evaluation must return a mapping with 'loss' in it, got "
            f"{sorted(found) if isinstance(found, Mapping) else type(found).__name__}; wrap a "
            "function of one model in `one_by_one`."
        )
    columns = {}
    for name, values in found.items():
        on_cpu = values.detach().cpu() if isinstance(values, Tensor) else values
        columns[name] = np.asarray(on_cpu, dtype=np.float64)
        if columns[name].shape != (points,):
            raise LandscapeError(
                f"an evaluation of {points} points must return {points} values of {name!r}, got "
                f"an array of shape {columns[name].shape}."
            )
    return pd.DataFrame(columns, index=pd.RangeIndex(start, start + points))
