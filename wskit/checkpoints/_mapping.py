"""Weights in memory, or in a file that was loaded: state dicts, dicts around them, modules."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from wskit._base.weights import LazyWeights, ties
from wskit.checkpoints._reading import Contents, Entry, Scalar, shorten
from wskit.errors import CheckpointError

NESTS = ("state_dict", "model_state_dict", "model", "params")


def read_mapping(source: Mapping[Any, Any], where: str, within: str | None = None) -> Contents:
    """Find the state dict in `source` and describe its tensors; lazy weights are not read."""
    if isinstance(source, LazyWeights):
        return _read_lazy(source)
    weights, metadata, left_out = _find_weights(source, where, within)
    tensors = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    for name, value in weights.items():
        if name not in tensors:
            _keep_aside(name, value, metadata, left_out)
        elif not isinstance(name, str):
            raise CheckpointError(
                f"{where}: expected tensors under names, got one under the key {name!r};"
                " pass a state dict"
            )
        else:
            check_plain(tensors[name], where, name)
    if not tensors:
        raise CheckpointError(
            f"{where}: expected a state dict, alone or under one of {', '.join(NESTS)}, got"
            f" no tensor at all under the keys {shorten([str(key) for key in weights])};"
            " name the entry that holds the weights with within="
        )
    tied = ties(tensors) if isinstance(weights, dict) else {}
    entries = {
        name: Entry(tuple(x.shape), x.dtype, _reader(weights, name), tied.get(name, name))
        for name, x in tensors.items()
    }
    return Contents(entries, metadata, tuple(left_out))


def check_plain(value: Tensor, where: str, name: str) -> None:
    """Refuse tensors that are no plain block of numbers."""
    if torch.nn.parameter.is_lazy(value):
        kind = "uninitialized"
    elif value.is_meta:
        kind = "meta (it has a shape and no values)"
    elif value.is_quantized:
        kind = "quantized"
    elif value.layout is not torch.strided:
        kind = str(value.layout).removeprefix("torch.")
    else:
        return
    raise CheckpointError(
        f"{where}: expected ordinary dense tensors, but {name!r} is {kind};"
        " convert it and save it again"
    )


def tensors_in(source: object) -> list[tuple[str, Tensor]]:
    """List every tensor inside nested dicts, lists, tuples and sets, with where it lies."""
    found: list[tuple[str, Tensor]] = []
    seen: set[int] = set()  # pickles can hold cycles
    todo: list[tuple[str, object]] = [("", source)]
    while todo:
        path, item = todo.pop()
        if isinstance(item, Tensor):
            found.append((path, item))
            continue
        if id(item) in seen:
            continue
        seen.add(id(item))
        prefix = f"{path}." if path else ""
        if isinstance(item, Mapping):
            todo += [(f"{prefix}{key}", value) for key, value in item.items()]
            todo += [(f"{prefix}{key} (a key)", key) for key in item if not isinstance(key, str)]
        elif isinstance(item, (set, frozenset, Sequence)) and not isinstance(item, (str, bytes)):
            todo += [(f"{prefix}{index}", value) for index, value in enumerate(item)]
    return found


def _read_lazy(source: LazyWeights) -> Contents:
    tied = source.ties
    entries = {
        name: Entry(
            tuple(source.shape(name)),
            source.dtype(name),
            _reader(source, name),
            tied.get(name, name),
            partial(source.rows, name) if source.shape(name) else None,
        )
        for name in source
    }
    metadata, left_out = getattr(source, "metadata", {}), getattr(source, "left_out", ())
    return Contents(entries, metadata, left_out, views=source.views)


def _find_weights(
    source: Mapping[Any, Any], where: str, within: str | None
) -> tuple[Mapping[Any, Any], dict[str, Scalar], list[str]]:
    """Go down to the state dict; what lies beside the way is metadata, or left out."""
    level = source
    metadata: dict[str, Scalar] = {}
    left_out: list[str] = []
    if within is not None and not isinstance(source.get(within), Mapping):
        raise CheckpointError(
            f"{where}: expected a dict under within={within!r}, got the keys"
            f" {shorten([str(key) for key in source])}"
        )
    nests = [within] if within is not None else _nests(level)
    while nests:
        if len(nests) > 1:
            raise CheckpointError(
                f"{where}: expected one set of weights, got the dicts {shorten(nests)};"
                f" choose one, for example within={nests[0]!r}"
            )
        for key, value in level.items():
            if key != nests[0]:
                _keep_aside(key, value, metadata, left_out)
        level = level[nests[0]]
        nests = _nests(level)
    return level, metadata, left_out


def _nests(level: Mapping[Any, Any]) -> list[str]:
    return [key for key in NESTS if isinstance(level.get(key), Mapping)]


def _keep_aside(
    key: object, value: object, metadata: dict[str, Scalar], left_out: list[str]
) -> None:
    if isinstance(key, str) and (value is None or isinstance(value, (str, int, float))):
        metadata[key] = value
    else:
        left_out.append(str(key))


def _reader(weights: Mapping[str, Any], name: str) -> Callable[[], Tensor]:
    def read() -> Tensor:
        value: Tensor = weights[name].detach()
        return value

    return read
