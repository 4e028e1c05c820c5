"""What the names and the memory of a model's tensors tell, and where each lies in one vector."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from wskit._checks import check_mapping
from wskit.errors import AveragingError

_STATISTICS = ("running_mean", "running_var")

# Entries that are worked on at a time. On a CPU they stay in its cache between being converted,
# checked and added; a GPU needs more of them to be busy.
_BLOCK_CPU, _BLOCK_GPU = 2**19, 2**26


def is_statistic(name: str) -> bool:
    """Tell what follows from the weights and the data: no direction in which training moves."""
    return name.rpartition(".")[2] in _STATISTICS


def ties(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of tied tensors, each with the first name of the same memory."""
    if hasattr(weights, "ties"):
        return dict(weights.ties)
    if not isinstance(weights, dict):  # an address tells nothing once its tensor is gone
        return {}
    first: dict[object, str] = {}
    found = {}
    for name, tensor in weights.items():
        if isinstance(tensor, Tensor) and tensor.numel():
            place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            owner = first.setdefault(place, name)
            if owner != name:
                found[name] = owner
    return found


def block_size(device: torch.device) -> int:
    """Return how many entries to work on at a time."""
    return _BLOCK_CPU if device.type == "cpu" else _BLOCK_GPU


def waits(device: torch.device) -> bool:
    """Tell whether a look at a number waits for all work before it, as on a GPU."""
    return device.type != "cpu"


def all_finite(x: Tensor) -> bool:
    """Tell whether there is no NaN and no inf; a sum tells it fastest, unless it overflows."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return math.isfinite(x.sum(dtype=dtype).item()) or bool(x.isfinite().all())


def diverged(x: Tensor, name: str, label: str) -> AveragingError:
    """Say where NaN or inf is."""
    bad = int((~x.isfinite()).sum())
    return AveragingError(
        f"tensor {name!r} of {label} holds NaN or inf in {bad} of its {x.numel()} entries; leave "
        "that model out."
    )


@dataclass(frozen=True, eq=False)
class Layout:
    """A model's header, and the order of its floating-point tensors in a vector.

    Attributes
    ----------
    label : str
        What messages call the model: "model 1".
    shapes, dtypes : dict
        Of every tensor, in the model's order.
    ties : dict of str to str
        Each tied name with the name whose tensor it shares.
    others : dict of str to Tensor
        Copies of the tensors that are not floating-point, without tied names.
    spans : dict of str to slice
        Where each floating-point tensor lies in the vector, without tied names: parameters first,
        running statistics after them.
    n_parameters : int
        How long the vector is without the running statistics.
    dtype : torch.dtype
        The vector's: float32, or float64 where a tensor is.
    """

    label: str
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]
    ties: dict[str, str]
    others: dict[str, Tensor]
    spans: dict[str, slice]
    n_parameters: int
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Length of the vector."""
        return sum(span.stop - span.start for span in self.spans.values())

    def device(self, weights: Mapping[str, Tensor]) -> torch.device:
        """Return where a model's first floating-point tensor is."""
        return weights[next(iter(self.spans))].device

    def check(self, weights: Mapping[str, Tensor], label: str, *, any_float: bool = False) -> None:
        """Raise unless a model, called `label`, has this header, or other floats by choice."""
        check_mapping(weights, AveragingError, label)
        if weights.keys() != self.shapes.keys():
            here, there = set(self.shapes) - set(weights), set(weights) - set(self.shapes)
            name = min(here | there)
            has, lacks = (self.label, label) if name in here else (label, self.label)
            raise AveragingError(
                f"tensor {name!r} is in {has} and not in {lacks} ({len(here | there)} such names); "
                "models of one architecture are needed."
            )
        for name, expected in self.shapes.items():
            shape, dtype = header_of(weights, name, label)
            if shape != expected:
                raise AveragingError(
                    f"tensor {name!r} has the shape {expected} in {self.label} and {tuple(shape)} "
                    f"in {label}; models of one architecture are needed."
                )
            floats = dtype.is_floating_point and self.dtypes[name].is_floating_point
            if dtype != self.dtypes[name] and not (any_float and floats):
                raise AveragingError(
                    f"tensor {name!r} is {self.dtypes[name]} in {self.label} and {dtype} in "
                    f"{label}; convert one of the two models."
                )
        told = ties(weights) if self.ties else {}
        for name, owner in self.ties.items():
            if told.get(name, name) != told.get(owner, owner) and not torch.equal(
                weights[name], weights[owner]
            ):
                raise AveragingError(
                    f"tensors {name!r} and {owner!r} are tied in {self.label} and differ in "
                    f"{label}; clone one of them in {self.label}, or leave the other model out."
                )
        for name, first in self.others.items():
            if first.dtype is torch.bool and not torch.equal(first, weights[name].to(first.device)):
                raise AveragingError(
                    f"tensor {name!r}, a mask, differs between {self.label} and {label}; "
                    "models with one mask are needed."
                )

    def parts(
        self, weights: Mapping[str, Tensor], label: str, device: torch.device
    ) -> Iterator[tuple[slice, Tensor]]:
        """Read a model's vector, part by part, and check it; one tensor is in memory at a time.

        Small tensors are read together, up to a block: a call for each would cost more than the
        work. The caller must let go of a part before it asks for the next one.
        """
        block = block_size(device)
        for names in self._groups(block):
            if len(names) == 1:
                whole = _row(weights[names[0]], device)
            else:
                whole = torch.cat([_row(weights[name], device, self.dtype) for name in names])
            start, length = self.spans[names[0]].start, len(whole)
            # Values, what they are converted to and what they are added to share the cache; where
            # nothing is converted, one call for all of it is as fast.
            step = max(length, 1) if whole.dtype == self.dtype else block // 4
            for low in range(0, length, step):
                values = whole[low : low + step].to(self.dtype)
                if not all_finite(values):
                    raise self._diverged(weights, names, label)
                if low + step >= length:
                    del whole
                yield slice(start + low, start + low + len(values)), values
                del values

    def flatten(
        self, weights: Mapping[str, Tensor], label: str, device: torch.device, out: Tensor
    ) -> None:
        """Copy a model's vector into `out`, of shape (size,)."""
        for part, values in self.parts(weights, label, device):
            out[part] = values
            del values

    def unflatten(self, flat: Tensor, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Make a model, or a stack of models, of vectors of shape (..., size).

        A tensor is a view into `flat` where the dtypes are the same. A `flat` of the first
        `n_parameters` entries only gives the parameters only.
        """
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
        """Make a model of memory of its own, whose other tensors are the first model's."""
        others = {name: tensor.clone() for name, tensor in self.others.items()}
        model = self.unflatten(flat, others)
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

    def _diverged(
        self, weights: Mapping[str, Tensor], names: list[str], label: str
    ) -> AveragingError:
        """Say which of a few tensors, of which one is not finite, it is."""
        name = next(name for name in names if not all_finite(weights[name].detach()))
        return diverged(weights[name].detach(), name, label)


def layout_of(weights: Mapping[str, Tensor], label: str = "model 1") -> Layout:
    """Describe the first model; only tensors that are not floating-point are read, and copied."""
    check_mapping(weights, AveragingError, label)
    headers = {name: header_of(weights, name, label) for name in weights}
    tied = ties(weights)
    floats = []
    others = {}
    for name, (_, dtype) in headers.items():
        if dtype.is_complex:
            raise AveragingError(
                f"tensor {name!r} of {label} is complex; store its real and imaginary parts."
            )
        if name not in tied:
            if dtype.is_floating_point:
                floats.append(name)
            else:
                others[name] = weights[name].detach().clone()
    if not floats:
        raise AveragingError(
            f"{label} holds no floating-point tensor that could be averaged; convert one."
        )
    floats.sort(key=is_statistic)  # stable: the model's order otherwise
    spans, start, n_parameters = {}, 0, 0
    for name in floats:
        spans[name] = slice(start, start + math.prod(headers[name][0]))
        start = spans[name].stop
        n_parameters = n_parameters if is_statistic(name) else start
    exact = any(headers[name][1] is torch.float64 for name in floats)
    return Layout(
        label=label,
        shapes={name: shape for name, (shape, _) in headers.items()},
        dtypes={name: dtype for name, (_, dtype) in headers.items()},
        ties=tied,
        others=others,
        spans=spans,
        n_parameters=n_parameters,
        dtype=torch.float64 if exact else torch.float32,
    )


def _row(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Flatten and convert, without the calls that change nothing: a small tensor costs no more."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.ndim != 1:
        tensor = tensor.reshape(-1)
    if tensor.device != device or (dtype is not None and tensor.dtype != dtype):
        tensor = tensor.to(device, dtype)
    return tensor


def header(
    weights: Mapping[str, Tensor], name: str, check: Callable[[Tensor], None] | None = None
) -> tuple[tuple[int, ...], torch.dtype]:
    """Shape and dtype of a tensor; a checkpoint tells both without reading it.

    What has to be read is given to `check` first, which raises where it is no tensor.
    """
    if hasattr(weights, "shape") and hasattr(weights, "dtype"):
        return tuple(weights.shape(name)), weights.dtype(name)
    tensor = weights[name]
    if check is not None:
        check(tensor)
    return tuple(tensor.shape), tensor.dtype


def header_of(
    weights: Mapping[str, Tensor], name: str, label: str
) -> tuple[tuple[int, ...], torch.dtype]:
    """Return the header of a tensor of the model that messages call `label`."""

    def check(tensor: object) -> None:
        if not isinstance(tensor, Tensor):
            raise AveragingError(
                f"{name!r} of {label} is of type {type(tensor).__name__} and not a tensor; give "
                "the state dict alone."
            )

    return header(weights, name, check)
