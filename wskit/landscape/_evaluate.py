"""The one engine: linear combinations of models, stacked, and evaluated in chunks."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64
from numpy.typing import ArrayLike
from torch import Tensor

from wskit._base.layout import check_one_architecture
from wskit._base.weights import all_finite, is_statistic, name_models, nonfinite_error
from wskit.errors import LandscapeError

Evaluator = Callable[[Mapping[str, Tensor]], Mapping[str, Any]]
"""Stacked weights, each tensor (points, ...) -> measures by name, each an array (points,).

"loss" is among them. `module_metrics` and `zoo_metrics` make such functions, and `one_by_one`
makes one from a function of one model.
"""

_BYTES_AT_ONCE = 2**26
_POINTS_AT_ONCE = 64


def one_by_one(function: Callable[[Mapping[str, Tensor]], Any]) -> Evaluator:
    """Make an `Evaluator` from a function of one model.

    Parameters
    ----------
    function : callable
        Maps weights (as in a ``state_dict``) to the loss, a float or a tensor of one value, or to
        a mapping of names to such values, with "loss" among them.

    Returns
    -------
    Evaluator

    Examples
    --------
    >>> evaluate = one_by_one(lambda weights: weights["w"].square().sum())
    >>> evaluate({"w": torch.tensor([[1.0, 2.0], [0.0, 3.0]])})
    {'loss': [5.0, 9.0]}
    """

    def evaluate(stacked: Mapping[str, Tensor]) -> Mapping[str, Any]:
        points = len(next(iter(stacked.values())))
        rows = [function({name: s[i] for name, s in stacked.items()}) for i in range(points)]
        rows = [row if isinstance(row, Mapping) else {"loss": row} for row in rows]
        return {name: [float(row[name]) for row in rows] for name in rows[0]}

    return evaluate


def iterate_mixtures(
    evaluate: Evaluator,
    models: Any,
    coefficients: ArrayLike,
    *,
    chunk_size: int = _POINTS_AT_ONCE,
) -> Iterator[pd.DataFrame]:
    """Evaluate linear combinations of models, and yield the results chunk by chunk.

    Parameters
    ----------
    evaluate : Evaluator
    models : list or mapping of k models
        State dicts, checkpoints or modules of one architecture. They are read once and not
        changed.
    coefficients : array of shape (points, k)
        Point i is the sum over j of ``coefficients[i, j] * models[j]``. Tensors of integers (a
        batch norm's counters) are those of the first model.
    chunk_size : int, default 64
        Points whose weights are in memory together, at most; their weights take 64 MiB at most.

    Yields
    ------
    DataFrame
        One row per point: "loss" and the other measures. The index is the row of `coefficients`.

    Raises
    ------
    LandscapeError
        If the models differ in names, shapes or kind of dtype, or hold NaN or inf; if there is not
        a finite coefficient for each model; if `evaluate` does not return a value per point.

    Examples
    --------
    >>> evaluate = one_by_one(lambda weights: weights["w"].square().sum())
    >>> a, b = {"w": torch.tensor([2.0, 0.0])}, {"w": torch.tensor([0.0, 2.0])}
    >>> for part in iterate_mixtures(evaluate, [a, b], [[1, 0], [0.5, 0.5]], chunk_size=1):
    ...     print(part.loss.to_dict())
    {0: 4.0}
    {1: 2.0}
    """
    anchors = read_models(models)
    wanted = np.asarray(coefficients, dtype=np.float64)
    if wanted.shape[1:] != (len(anchors),) or not np.isfinite(wanted).all():
        raise LandscapeError(
            f"coefficients must be finite and of shape (points, {len(anchors)}), one for each of "
            f"the models, got an array of shape {wanted.shape}."
        )
    size = min(chunk_size, points_at_once(anchors[0]))
    for start in range(0, len(wanted), size):
        part = wanted[start : start + size]
        # Entered anew for each chunk: gradients stay on between them, where the caller works.
        with torch.no_grad():
            found = evaluate(mix(anchors, part))
        yield _tabulate(found, start, len(part))


def evaluate_mixtures(
    evaluate: Evaluator,
    models: Any,
    coefficients: ArrayLike,
) -> pd.DataFrame:
    """Evaluate linear combinations of models.

    Parameters
    ----------
    evaluate : Evaluator
    models : list or mapping of k models
        State dicts, checkpoints or modules of one architecture.
    coefficients : array of shape (points, k)
        Point i is the sum over j of ``coefficients[i, j] * models[j]``. Tensors of integers (a
        batch norm's counters) are those of the first model.

    Returns
    -------
    DataFrame
        One row per point, in the order of `coefficients`: "loss" and the other measures.

    Raises
    ------
    LandscapeError
        If the models differ in names, shapes or kind of dtype, or hold NaN or inf; if there is not
        a finite coefficient for each model; if `evaluate` does not return a value per point.

    Examples
    --------
    >>> evaluate = one_by_one(lambda weights: weights["w"].square().sum())
    >>> a, b = {"w": torch.tensor([2.0, 0.0])}, {"w": torch.tensor([0.0, 2.0])}
    >>> evaluate_mixtures(evaluate, [a, b], [[1, 0], [0.5, 0.5], [2, -1]]).loss.tolist()
    [4.0, 2.0, 20.0]
    """
    return collect(iterate_mixtures(evaluate, models, coefficients))


def evaluate_models(evaluate: Evaluator, models: Any) -> pd.DataFrame:
    """Evaluate several models.

    Parameters
    ----------
    evaluate : Evaluator
    models : list or mapping of models
        State dicts, checkpoints or modules of one architecture. The keys of a mapping are names,
        or numbers such as epochs.

    Returns
    -------
    DataFrame
        One row per model: "loss" and the other measures. The index is the mapping's keys, or
        "model 1", "model 2" and so on for a list.

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
    named = name_models(models, LandscapeError)
    found = evaluate_mixtures(evaluate, named, np.eye(len(named)))
    return found.set_axis(pd.Index(list(models if isinstance(models, Mapping) else named)))


def collect(parts: Iterator[pd.DataFrame]) -> pd.DataFrame:
    """Put chunks together."""
    tables = list(parts)
    if not tables:
        raise LandscapeError("at least one point is needed, got none.")
    return pd.concat(tables, ignore_index=True)


def points_at_once(weights: Mapping[str, Tensor]) -> int:
    """Return how many models like this one to hold at a time."""
    size = sum(tensor.nbytes for tensor in weights.values())
    return int(min(_POINTS_AT_ONCE, max(1, _BYTES_AT_ONCE // max(size, 1))))


def read_models(models: Any) -> list[dict[str, Tensor]]:
    """Read models of one architecture, and raise a `LandscapeError` where one is not finite."""
    named = name_models(models, LandscapeError)
    layout = check_one_architecture(named, error=LandscapeError, any_float=True)
    result = []
    for label, model in named.items():
        read = {name: model[name].detach() for name in layout.shapes}
        for name in layout.spans:
            if not all_finite(read[name]):
                raise nonfinite_error(read[name], name, label, LandscapeError)
        result.append(read)
    return result


def mix(
    anchors: list[dict[str, Tensor]], coefficients: Float64[np.ndarray, "points anchors"]
) -> dict[str, Tensor]:
    """Stack the sums of coefficient times anchor; tensors of integers are those of the first.

    Sums are made in float32 or better and rounded once to the dtype of the first anchor.
    """
    result = {}
    for name, first in anchors[0].items():
        shape = (len(coefficients), *first.shape)
        if first.is_floating_point():
            dtype = torch.promote_types(first.dtype, torch.float32)
            each = torch.stack([anchor[name].to(first.device, dtype) for anchor in anchors])
            c = torch.tensor(coefficients, dtype=dtype, device=first.device)
            result[name] = (c @ each.reshape(len(anchors), -1)).to(first.dtype).view(shape)
        else:
            result[name] = first.clone().expand(shape)
    return result


def weight_names(weights: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that distances and directions are made of.

    These are the floating-point tensors except the running statistics of batch norms, which
    follow from the weights and the data. A variance that is moved at random turns negative.
    """
    return [
        name
        for name, tensor in weights.items()
        if tensor.is_floating_point() and not is_statistic(name)
    ]


def grams(
    models: list[dict[str, Tensor]], origin: dict[str, Tensor]
) -> Float64[np.ndarray, "tensors models models"]:
    """Return the inner products of the models' differences from the origin, tensor by tensor."""
    result = []
    for name in weight_names(origin):
        start = origin[name].double().flatten()
        each = [model[name].to(start.device).double().flatten() - start for model in models]
        d = torch.stack(each)
        result.append((d @ d.T).cpu().numpy())
    return np.stack(result)


def _tabulate(found: Mapping[str, Any], start: int, points: int) -> pd.DataFrame:
    """Check what an evaluator returned, and put it in a table."""
    if not isinstance(found, Mapping) or "loss" not in found:
        raise LandscapeError(
            f"an evaluator must return a mapping with 'loss' in it, got {found!r:.60}; wrap a "
            "function of one model in `one_by_one`."
        )
    columns = {}
    for name, values in found.items():
        on_cpu = values.detach().cpu() if isinstance(values, Tensor) else values
        columns[name] = np.asarray(on_cpu, dtype=np.float64)
        if columns[name].shape != (points,):
            raise LandscapeError(
                f"an evaluator of {points} points must return {points} values of {name!r}, got "
                f"an array of shape {columns[name].shape}."
            )
    return pd.DataFrame(columns, index=pd.RangeIndex(start, start + points))
