"""Tensors that are in memory already, or mapped: state dicts, dicts around them, modules."""

import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from wskit.checkpoints._contents import Contents, Entry, Scalar, shorten
from wskit.errors import CheckpointError

NESTS = ("state_dict", "model_state_dict", "model", "params")


def contents_of(source: Mapping[Any, Any], where: str, within: str | None = None) -> Contents:
    """Find the state dict in `source` and describe its tensors.

    A mapping that tells ``shape(name)`` and ``dtype(name)`` by itself is not read.
    """
    if callable(getattr(source, "shape", None)) and callable(getattr(source, "dtype", None)):
        return _contents_of_lazy(source)
    weights, metadata, left_out = _find_weights(source, where, within)
    entries = {}
    owners = Owners()
    for name, value in weights.items():
        if isinstance(value, Tensor):
            if not isinstance(name, str):
                raise CheckpointError(
                    f"{where}: expected tensors under names, got one under the key {name!r};"
                    " pass a state dict"
                )
            check_plain(value, where, name)
            entries[name] = Entry(
                tuple(value.shape), value.dtype, _reader(weights, name), owners.first(name, value)
            )
        else:
            _keep_aside(name, value, metadata, left_out)
    if not entries:
        raise CheckpointError(
            f"{where}: expected a state dict, alone or under one of {', '.join(NESTS)}, got"
            f" no tensor at all under the keys {shorten([str(key) for key in weights])};"
            " name the entry that holds the weights with within="
        )
    return Contents(entries, metadata, tuple(left_out))


class Owners:
    """Finds tied tensors: those that are the same memory, seen in the same way."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, tuple[str, weakref.ref[Tensor]]] = {}

    def first(self, name: str, value: Tensor) -> str:
        """Return the first name under which this memory was met: `name` itself if it is new.

        An address tells a tied tensor only while its first owner lives: a mapping that makes its
        tensors on request may get the same memory for the next one.
        """
        view = (value.device, value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
        known = self._seen.get(view)
        if known is not None and known[1]() is not None and value.numel() > 0:
            return known[0]
        self._seen[view] = (name, weakref.ref(value))
        return name


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


def _contents_of_lazy(source: Any) -> Contents:
    ties = getattr(source, "ties", {})
    entries = {
        name: Entry(
            tuple(source.shape(name)),
            source.dtype(name),
            _reader(source, name),
            ties.get(name, name),
        )
        for name in source
    }
    return Contents(
        entries,
        getattr(source, "metadata", {}),
        getattr(source, "left_out", ()),
        views=getattr(source, "views", False),
    )


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
