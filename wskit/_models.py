"""Models by name, and the one check that they have one architecture.

Stands in for `wskit._base`, and goes when that is here: its functions have the same names there.
"""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wskit._weights import all_finite, header, ties
from wskit.errors import WskitError


class ModuleWeights(dict[str, Tensor]):
    """The tensors of a module's ``state_dict``, with the names of those that are buffers."""

    def __init__(self, module: nn.Module) -> None:
        state = module.state_dict()
        super().__init__((k, v) for k, v in state.items() if isinstance(v, Tensor))
        parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
        self.module = module
        self.buffers = frozenset(self) - parameters


def as_weights(
    source: Any, error: type[WskitError], label: str = "the weights"
) -> Mapping[str, Tensor]:
    """Return weights as a mapping of names to tensors.

    Parameters
    ----------
    source : mapping of str to Tensor, or nn.Module
        A mapping is returned as it is. A module gives its `ModuleWeights`, which share its memory.
    error : type of WskitError
        The exception to raise.
    label : str
        What the message calls the weights.

    Returns
    -------
    mapping of str to Tensor

    Raises
    ------
    WskitError
        If `source` is neither, as a path is, or is a dict that holds something else than tensors.
    """
    if isinstance(source, nn.Module):
        return ModuleWeights(source)
    if isinstance(source, str | os.PathLike):
        raise error(
            f"{label} must be a mapping of names to tensors, got the path {os.fspath(source)!r}; "
            f"open it with wskit.checkpoints.open_checkpoint({os.fspath(source)!r})."
        )
    if not isinstance(source, Mapping):
        raise error(
            f"{label} must be a mapping of names to tensors, got a {type(source).__name__}; pass "
            "a state_dict() or a module."
        )
    if isinstance(source, dict):
        for name, value in source.items():
            if not isinstance(value, Tensor):
                raise error(
                    f"{label} must hold tensors only, and {name!r} is a {type(value).__name__}; "
                    "pass the state dict alone."
                )
    return source


def name_models(
    models: Any, error: type[WskitError], noun: str = "model"
) -> dict[str, Mapping[str, Tensor]]:
    """Return several models by the labels that messages call them.

    Parameters
    ----------
    models : mapping of str to weights, or iterable of weights
        A mapping's keys are the labels. Others are called "model 1", "model 2" and so on.
    error : type of WskitError
        The exception to raise if there are none, or one of them is not a model's weights.
    noun : str
        What labels start with.
    """
    one = isinstance(models, Mapping) and isinstance(next(iter(models.values()), None), Tensor)
    if one or isinstance(models, nn.Module):
        raise error(f"several {noun}s are needed, got one; put it in a list.")
    if isinstance(models, str) or not isinstance(models, Iterable):
        raise error(f"a list of {noun}s is needed, got a {type(models).__name__}.")
    pairs = (
        [(str(name), model) for name, model in models.items()]
        if isinstance(models, Mapping)
        else [(f"{noun} {place}", model) for place, model in enumerate(models, start=1)]
    )
    if not pairs:
        raise error(f"at least one {noun} is needed, got none.")
    return {label: as_weights(model, error, label) for label, model in pairs}


def nonfinite_error(x: Tensor, name: str, label: str, error: type[WskitError]) -> WskitError:
    """Make the error that says how many entries of a tensor are NaN or inf."""
    bad = int((~x.isfinite()).sum())
    return error(
        f"tensor {name!r} of {label} holds NaN or inf in {bad} of its {x.numel()} entries; leave "
        "that model out."
    )


@dataclass(frozen=True, eq=False)
class Layout:
    """The header of a model, and the place of its floating-point tensors in a vector.

    Attributes
    ----------
    label : str
        What messages call the model.
    error : type of WskitError
        What its methods raise.
    shapes, dtypes : dict
        Of all tensors, in the model's order.
    ties : dict of str to str
        Each tied name with the name whose tensor it shares.
    spans : dict of str to slice
        The place of each floating-point tensor in the vector. Tied tensors are there once.
    partial : bool
        Whether the vector holds chosen names only, so that models may differ in the others.
    """

    label: str
    error: type[WskitError]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]
    ties: dict[str, str]
    spans: dict[str, slice]
    partial: bool = False

    @property
    def size(self) -> int:
        """Length of the vector."""
        return next(reversed(self.spans.values())).stop

    @property
    def dtype(self) -> torch.dtype:
        """The vector's: float32, or float64 where a tensor in it is."""
        exact = any(self.dtypes[name] is torch.float64 for name in self.spans)
        return torch.float64 if exact else torch.float32

    def device(self, weights: Mapping[str, Tensor]) -> torch.device:
        """Return the device of a model's first floating-point tensor."""
        return weights[next(iter(self.spans))].device

    def check(self, weights: Mapping[str, Tensor], label: str, *, any_float: bool = False) -> None:
        """Raise unless a model has the same architecture.

        Names, shapes, dtypes and ties must agree; of a partial layout, only the tensors
        that it holds.

        Parameters
        ----------
        weights : mapping of str to Tensor
            A lazy one is not read, except tied tensors that it does not tie.
        label : str
            What messages call it.
        any_float : bool, default False
            Whether a floating-point tensor may have another floating-point dtype.
        """
        as_weights(weights, self.error, label)
        names = set(self.spans) if self.partial else set(self.shapes)
        differing = names - set(weights) if self.partial else names ^ set(weights)
        if differing:
            name = min(differing)
            has, lacks = (self.label, label) if name in names else (label, self.label)
            raise self.error(
                f"tensor {name!r} is in {has} and not in {lacks} ({len(differing)} such names); "
                "models of one architecture are needed."
            )
        for name in self.spans if self.partial else self.shapes:
            shape, dtype = header(weights, name)
            if shape != self.shapes[name]:
                raise self.error(
                    f"tensor {name!r} has the shape {self.shapes[name]} in {self.label} and "
                    f"{shape} in {label}; models of one architecture are needed."
                )
            floats = dtype.is_floating_point and self.dtypes[name].is_floating_point
            if dtype != self.dtypes[name] and not (any_float and floats):
                raise self.error(
                    f"tensor {name!r} is {self.dtypes[name]} in {self.label} and {dtype} in "
                    f"{label}; convert one of the two models."
                )
        self._check_ties(weights, label)

    def _check_ties(self, weights: Mapping[str, Tensor], label: str) -> None:
        """Raise if tensors that are tied here have other values in `weights`."""
        told = ties(weights) if self.ties else {}
        for name, owner in self.ties.items():
            if self.partial and (name not in weights or owner not in self.spans):
                continue
            if told.get(name, name) != told.get(owner, owner) and not torch.equal(
                weights[name], weights[owner]
            ):
                raise self.error(
                    f"tensors {name!r} and {owner!r} are tied in {self.label} and differ in "
                    f"{label}; clone one of them in {self.label}, or leave the other model out."
                )

    def flatten(self, weights: Mapping[str, Tensor], label: str = "the weights") -> Tensor:
        """Return a copy of a model's vector, of shape (size,), on its first tensor's device."""
        vector = torch.empty(self.size, dtype=self.dtype, device=self.device(weights))
        for name, span in self.spans.items():
            vector[span] = weights[name].detach().reshape(-1)
            if not all_finite(vector[span]):
                raise nonfinite_error(vector[span], name, label, self.error)
        return vector

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """Cut a model, or a stack of models, out of vectors of shape (..., size).

        A tensor is a view of `flat` where their dtypes agree. Tied names share one tensor.
        """
        result: dict[str, Tensor] = {}
        for name, shape in self.shapes.items():
            owner = self.ties.get(name, name)
            if owner in result:
                result[name] = result[owner]
            elif owner in self.spans:
                values = flat[..., self.spans[owner]].to(self.dtypes[name])
                result[name] = values.reshape((*flat.shape[:-1], *shape))
        return result


def layout_of(
    weights: Mapping[str, Tensor],
    label: str = "model 1",
    *,
    error: type[WskitError],
    names: Iterable[str] | None = None,
) -> Layout:
    """Describe a model: its header, and the place of each floating-point tensor in a vector.

    Parameters
    ----------
    weights : mapping of str to Tensor
        A lazy one is not read.
    label : str
        What messages call the model.
    error : type of WskitError
        The exception to raise.
    names : iterable of str, optional
        Floating-point tensors to take; None takes all of them.

    Raises
    ------
    WskitError
        If there is no floating-point tensor, a tensor is complex, or a name is unknown.
    """
    weights = as_weights(weights, error, label)
    headers = {name: header(weights, name) for name in weights}
    tied = {k: v for k, v in ties(weights).items() if headers[k] == headers[v]}
    wanted = None if names is None else set(names)
    floats = []
    for name, (_, dtype) in headers.items():
        if dtype.is_complex and (wanted is None or name in wanted):
            raise error(
                f"tensor {name!r} of {label} is complex, and a vector of weights is real; store "
                "its real and imaginary parts."
            )
        if dtype.is_floating_point and (wanted is None or name in wanted):
            floats.append(name)
    unknown = sorted((wanted or set()) - set(floats))
    if unknown:
        raise error(f"{label} has no floating-point tensor {unknown[0]!r}.")
    if not floats:
        raise error(f"{label} holds no floating-point tensor; convert one.")
    if wanted is not None:  # a tie leads to the first of the chosen names
        tied = {k: v for k, v in tied.items() if v in floats and k in floats}
    placed = [name for name in floats if name not in tied]
    spans, start = {}, 0
    for name in placed:
        spans[name] = slice(start, start + math.prod(headers[name][0]))
        start = spans[name].stop
    return Layout(
        label=label,
        error=error,
        shapes={name: shape for name, (shape, _) in headers.items()},
        dtypes={name: dtype for name, (_, dtype) in headers.items()},
        ties=tied,
        spans=spans,
        partial=wanted is not None,
    )


def check_one_architecture(
    models: Mapping[str, Mapping[str, Tensor]],
    *,
    error: type[WskitError],
    any_float: bool = False,
) -> Layout:
    """Raise unless all models have the first one's names, shapes and dtypes; return its layout.

    Parameters
    ----------
    models : mapping of str to weights
        By label, as from `name_models`.
    error : type of WskitError
        The exception to raise.
    any_float : bool, default False
        Whether floating-point dtypes may differ.
    """
    first, *labels = models
    layout = layout_of(models[first], first, error=error)
    for label in labels:
        if models[label] is not models[first]:
            layout.check(models[label], label, any_float=any_float)
    return layout
