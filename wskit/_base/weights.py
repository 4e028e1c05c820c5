"""What the kit takes as a model's weights, and what it asks of them.

Weights are a ``Mapping[str, Tensor]`` with the flat names of a ``state_dict``. A mapping that
reads or computes its tensors on access is a `LazyWeights`; any other one holds them in memory.
"""

import math
import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wskit.errors import WskitError

_STATISTICS = ("running_mean", "running_var")

# Entries to work on at a time. On a CPU they stay in its cache while they are converted, checked
# and added. A GPU needs more of them to be busy.
_BLOCK_CPU, _BLOCK_GPU = 2**19, 2**26


class LazyWeights(Mapping[str, Tensor]):
    """Weights whose tensors are read or computed on access; their headers cost nothing.

    A subclass defines ``__getitem__``, ``__iter__``, ``__len__``, `shape` and `dtype`. It
    overrides the rest where it can do better.
    """

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""

    @abstractmethod
    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of a tensor without reading it."""

    @property
    def ties(self) -> Mapping[str, str]:
        """Each tied name with the first name of the same memory."""
        return {}

    @property
    def views(self) -> bool:
        """Whether every tensor is a view of memory or of a mapped file, so that access is free."""
        return False

    @property
    def block_reads(self) -> bool:
        """Whether reading rows or a block costs these entries only, and not the whole tensor."""
        return self.views

    @property
    def block_entries(self) -> int:
        """Number of entries to read at a time with `read_block`."""
        return 2**18

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Return the rows ``start`` to ``stop`` of a tensor, as ``self[name][start:stop]``."""
        return self[name][start:stop]

    def read_block(self, name: str, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        """Return the entries ``start`` to ``stop`` of the flattened tensor, in `out` if given."""
        shape = self.shape(name)
        width = math.prod(shape[1:]) if shape else 1
        if self.views or not shape or width == 0:
            block = self[name].detach().reshape(-1)[start:stop]
        else:
            first = start // width
            rows = self.rows(name, first, -(-stop // width))
            block = rows.detach().reshape(-1)[start - first * width : stop - first * width]
        return block if out is None else out.copy_(block)

    def __contains__(self, name: object) -> bool:
        return any(name == known for known in self)  # Mapping's own reads the tensor


class DerivedWeights(LazyWeights):
    """Weights with the names, shapes and dtypes of `like`; a subclass defines the tensors."""

    def __init__(self, like: Mapping[str, Tensor]) -> None:
        self._like = like

    def __contains__(self, name: object) -> bool:
        return name in self._like

    def __iter__(self) -> Iterator[str]:
        return iter(self._like)

    def __len__(self) -> int:
        return len(self._like)

    def shape(self, name: str) -> tuple[int, ...]:
        return header(self._like, name)[0]

    def dtype(self, name: str) -> torch.dtype:
        return header(self._like, name)[1]


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
    if isinstance(models, nn.Module | LazyWeights) or (
        isinstance(models, dict) and any(isinstance(model, Tensor) for model in models.values())
    ):
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


def header(weights: Mapping[str, Tensor], name: str) -> tuple[tuple[int, ...], torch.dtype]:
    """Return the shape and dtype of a tensor; a lazy one is not read."""
    if isinstance(weights, LazyWeights):
        return tuple(weights.shape(name)), weights.dtype(name)
    tensor = weights[name]
    return tuple(tensor.shape), tensor.dtype


def read_rows(weights: Mapping[str, Tensor], name: str, start: int, stop: int) -> Tensor:
    """Return the rows ``start`` to ``stop`` of a tensor; a lazy mapping may read just these."""
    if isinstance(weights, LazyWeights):
        return weights.rows(name, start, stop)
    return weights[name][start:stop]


def ties(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the names of tied tensors, each with the first name of the same memory.

    A lazy mapping knows its own ties. A dict's tensors are tied where they share their memory. In
    any other mapping an address says nothing once its tensor is gone.
    """
    if isinstance(weights, LazyWeights):
        return dict(weights.ties)
    if not isinstance(weights, dict):
        return {}
    first: dict[object, str] = {}
    found = {}
    for name, tensor in weights.items():
        if tensor.numel() and tensor.device.type != "meta":
            place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            owner = first.setdefault(place, name)
            if owner != name:
                found[name] = owner
    return found


def is_statistic(name: str) -> bool:
    """Return whether a name is that of a running statistic, which training does not move."""
    return name.rpartition(".")[2] in _STATISTICS


def block_size(device: torch.device) -> int:
    """Return how many entries to work on at a time."""
    return _BLOCK_CPU if device.type == "cpu" else _BLOCK_GPU


def all_finite(x: Tensor) -> bool:
    """Return whether `x` has no NaN and no inf. A sum shows it fastest, unless it overflows."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return math.isfinite(x.sum(dtype=dtype).item()) or bool(x.isfinite().all())


def nonfinite_error(x: Tensor, name: str, label: str, error: type[WskitError]) -> WskitError:
    """Make the error that says how many entries of a tensor are NaN or inf."""
    bad = int((~x.isfinite()).sum())
    return error(
        f"tensor {name!r} of {label} holds NaN or inf in {bad} of its {x.numel()} entries; leave "
        "that model out."
    )
