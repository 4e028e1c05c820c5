"""A model as one vector: where each tensor lies, and what another model must have to fit."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from wskit._base.weights import (
    all_finite,
    as_weights,
    block_size,
    header,
    is_statistic,
    nonfinite_error,
    ties,
)
from wskit.errors import WskitError


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
    others : dict of str to Tensor
        Copies of the tensors that are not floating-point, where `layout_of` was to keep them.
    """

    label: str
    error: type[WskitError]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]
    ties: dict[str, str]
    spans: dict[str, slice]
    partial: bool = False
    others: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def size(self) -> int:
        """Length of the vector."""
        return next(reversed(self.spans.values())).stop

    @cached_property
    def n_parameters(self) -> int:
        """Length of the vector without running statistics that lie at its end."""
        return max((s.stop for name, s in self.spans.items() if not is_statistic(name)), default=0)

    @cached_property
    def dtype(self) -> torch.dtype:
        """The vector's: float32, or float64 where a tensor in it is."""
        exact = any(self.dtypes[name] is torch.float64 for name in self.spans)
        return torch.float64 if exact else torch.float32

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names that are not in the vector: of integers, or not chosen."""
        return tuple(name for name in self.shapes if self.ties.get(name, name) not in self.spans)

    def device(self, weights: Mapping[str, Tensor]) -> torch.device:
        """Return the device of a model's first floating-point tensor."""
        return weights[next(iter(self.spans))].device

    def check(self, weights: Mapping[str, Tensor], label: str, *, any_float: bool = False) -> None:
        """Raise unless a model has the same architecture.

        Names, shapes, dtypes, ties and masks must agree; of a partial layout, only the tensors
        that it holds.

        Parameters
        ----------
        weights : mapping of str to Tensor
            A lazy one is not read, but for tied tensors that it does not tie and for masks.
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
        for name, mask in self.others.items():
            if mask.dtype is torch.bool and not torch.equal(mask, weights[name].to(mask.device)):
                raise self.error(
                    f"tensor {name!r}, a mask, differs between {self.label} and {label}; models "
                    "with one mask are needed."
                )

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

    def parts(
        self, weights: Mapping[str, Tensor], label: str, device: torch.device
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yield a model's vector part by part, and raise where it is not finite.

        One tensor is in memory at a time. Small tensors are read together, up to a block, since a
        call for each would cost more than the work. The caller must let go of a part before it
        asks for the next one.
        """
        block = block_size(device)
        for names in self._groups(block):
            if len(names) == 1:
                whole = _row(weights[names[0]], device)
            else:
                whole = torch.cat([_row(weights[name], device, self.dtype) for name in names])
            start, length = self.spans[names[0]].start, len(whole)
            # Values, what they are converted to and what they are added to share the cache. Where
            # nothing is converted, one call for all of it is as fast.
            step = max(length, 1) if whole.dtype == self.dtype else block // 4
            for low in range(0, length, step):
                values = whole[low : low + step].to(self.dtype)
                if not all_finite(values):
                    raise self._nonfinite(weights, names, label)
                if low + step >= length:
                    del whole
                yield slice(start + low, start + low + len(values)), values
                del values

    def flatten(
        self,
        weights: Mapping[str, Tensor],
        label: str = "the weights",
        *,
        device: torch.device | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Return a copy of a model's vector, of shape (size,), in `out` if given.

        `device` is the vector's; None means that of the first tensor.
        """
        if out is None:
            place = device or self.device(weights)
            out = torch.empty(self.size, dtype=self.dtype, device=place)
        for part, values in self.parts(weights, label, out.device):
            out[part] = values
            del values
        return out

    def unflatten(
        self, flat: Tensor, others: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Cut a model, or a stack of models, out of vectors of shape (..., size).

        A tensor is a view of `flat` where their dtypes agree. Tied names share one tensor. A
        `flat` of the first `n_parameters` entries gives the parameters only. Tensors that are not
        in the vector are taken from `others`, or left out.
        """
        others = others or {}
        result: dict[str, Tensor] = {}
        for name, shape in self.shapes.items():
            owner = self.ties.get(name, name)
            if owner in result:
                result[name] = result[owner]
            elif owner in others:
                result[name] = others[owner]
            elif owner in self.spans and self.spans[owner].stop <= flat.shape[-1]:
                values = flat[..., self.spans[owner]].to(self.dtypes[name])
                result[name] = values.reshape((*flat.shape[:-1], *shape))
        return result

    def copies(self, flat: Tensor) -> dict[str, Tensor]:
        """Return a model with memory of its own, whose other tensors are copies of `others`."""
        model = self.unflatten(flat, {name: x.clone() for name, x in self.others.items()})
        own = {name: tensor.clone() for name, tensor in model.items() if tensor.dtype == flat.dtype}
        for name, owner in self.ties.items():
            if name in own:
                own[name] = own[owner]
        return {**model, **own}

    def _groups(self, block: int) -> Iterator[list[str]]:
        """Group the names that are read together."""
        names: list[str] = []
        for name, span in self.spans.items():
            if names and span.stop - self.spans[names[0]].start > block:
                yield names
                names = []
            names.append(name)
        yield names

    def _nonfinite(self, weights: Mapping[str, Tensor], names: list[str], label: str) -> WskitError:
        """Find which of a few tensors is not finite."""
        name = next(name for name in names if not all_finite(weights[name].detach()))
        return nonfinite_error(weights[name].detach(), name, label, self.error)


def layout_of(
    weights: Mapping[str, Tensor],
    label: str = "model 1",
    *,
    error: type[WskitError],
    names: Iterable[str] | None = None,
    statistics_last: bool = False,
    keep_others: bool = False,
) -> Layout:
    """Describe a model: its header, and the place of each floating-point tensor in a vector.

    Parameters
    ----------
    weights : mapping of str to Tensor
        A lazy one is not read, unless `keep_others`.
    label : str
        What messages call the model.
    error : type of WskitError
        The exception to raise.
    names : iterable of str, optional
        Floating-point tensors to take; None takes all of them.
    statistics_last : bool, default False
        Whether running statistics of batch norms lie behind the parameters, and not in the
        model's order.
    keep_others : bool, default False
        Whether to read and keep copies of the tensors that are not floating-point.

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
    if statistics_last:
        placed.sort(key=is_statistic)  # stable: the model's order otherwise
    spans, start = {}, 0
    for name in placed:
        spans[name] = slice(start, start + math.prod(headers[name][0]))
        start = spans[name].stop
    kept = [name for name in headers if keep_others and name not in floats and name not in tied]
    return Layout(
        label=label,
        error=error,
        shapes={name: shape for name, (shape, _) in headers.items()},
        dtypes={name: dtype for name, (_, dtype) in headers.items()},
        ties=tied,
        spans=spans,
        partial=wanted is not None,
        others={name: weights[name].detach().clone() for name in kept},
    )


def check_one_architecture(
    models: Mapping[str, Mapping[str, Tensor]],
    *,
    error: type[WskitError],
    any_float: bool = False,
    statistics_last: bool = False,
    keep_others: bool = False,
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
    statistics_last, keep_others : bool, default False
        As for `layout_of`.
    """
    first, *labels = models
    layout = layout_of(
        models[first],
        first,
        error=error,
        statistics_last=statistics_last,
        keep_others=keep_others,
    )
    for label in labels:
        if models[label] is not models[first]:
            layout.check(models[label], label, any_float=any_float)
    return layout


def _row(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Flatten and convert, without calls that change nothing: small tensors must cost little."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.ndim != 1:
        tensor = tensor.reshape(-1)
    if tensor.device != device or (dtype is not None and tensor.dtype != dtype):
        tensor = tensor.to(device, dtype)
    return tensor
