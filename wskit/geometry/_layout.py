"""A model's weights as one vector, and where each tensor lies in it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from wskit import _weights
from wskit._checks import check_tensor, check_weights
from wskit._weights import ties
from wskit.errors import GeometryError


@dataclass(frozen=True)
class Slot:
    """Where a tensor lies in the vector: from `start` to `stop`, row by row."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int

    @property
    def stop(self) -> int:
        """Position after the tensor's last entry."""
        return self.start + math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """How a vector holds a model's weights.

    Attributes
    ----------
    slots : tuple of Slot
        The floating tensors, in the order of the vector.
    ties : tuple of pairs of str
        Each tied name with the name whose slot it shares: tied tensors are in the vector once.
    left_out : tuple of str
        Names that are not in the vector: integer buffers, and what was not asked for.
    partial : bool
        Whether names were asked for, so that it does not matter what else a model has.
    """

    slots: tuple[Slot, ...]
    ties: tuple[tuple[str, str], ...] = ()
    left_out: tuple[str, ...] = ()
    partial: bool = False

    @property
    def size(self) -> int:
        """Length of the vector."""
        return self.slots[-1].stop if self.slots else 0

    @property
    def dtype(self) -> torch.dtype:
        """The vector's: float32, or float64 where a tensor is."""
        exact = any(slot.dtype is torch.float64 for slot in self.slots)
        return torch.float64 if exact else torch.float32


def layout_of(weights: Mapping[str, Tensor], *, names: Iterable[str] | None = None) -> Layout:
    """Record where each tensor of a model goes in a vector.

    Parameters
    ----------
    weights : mapping of str to Tensor
        Of a lazily opened checkpoint only the header is read.
    names : iterable of str, optional
        Of floating tensors, to take these only; the body without the head, say. None takes all.
        Running statistics of BatchNorm are floating tensors as well.

    Returns
    -------
    Layout
        In the order of `weights`. Tied tensors are told by the checkpoint's own `ties`, or, in a
        dict, by their shared memory; in another mapping they cannot be told.

    Raises
    ------
    GeometryError
        If a name is not that of a floating tensor, or there is none at all, or a tensor is
        complex.

    Examples
    --------
    >>> weights = {"w": torch.ones(2, 3), "n": torch.tensor(7), "b": torch.zeros(3)}
    >>> layout = layout_of(weights)
    >>> [(slot.name, slot.start, slot.stop) for slot in layout.slots], layout.left_out
    ([('w', 0, 6), ('b', 6, 9)], ('n',))
    """
    wanted = None if names is None else set(names)
    check_weights(weights, GeometryError)
    known_ties = ties(weights)
    slots: list[Slot] = []
    tied: list[tuple[str, str]] = []
    left_out: list[str] = []
    placed: set[str | None] = set()
    start = 0
    for name in weights:
        shape, dtype = header(weights, name)
        if dtype.is_complex:
            raise GeometryError(
                f"tensor {name!r} is complex, and a vector of weights is real; leave it out, or "
                "store its real and imaginary parts."
            )
        if not dtype.is_floating_point or (wanted is not None and name not in wanted):
            left_out.append(name)
        elif known_ties.get(name) in placed:
            tied.append((name, known_ties[name]))
        else:
            slots.append(Slot(name, shape, dtype, start))
            placed.add(name)
            start = slots[-1].stop
    missing = sorted((wanted or set()) - placed - {name for name, _ in tied})
    if missing:
        raise GeometryError(
            f"{missing[0]!r} is not the name of a floating tensor of these weights; they have "
            f"{', '.join(repr(slot.name) for slot in slots[:5]) or 'none of those asked for'}."
        )
    if not slots:
        raise GeometryError(
            "these weights have no floating tensor, so there is no vector; convert one."
        )
    return Layout(tuple(slots), tuple(tied), tuple(left_out), partial=names is not None)


def flatten(weights: Mapping[str, Tensor], layout: Layout) -> Float[Tensor, " size"]:
    """Copy a model's weights into one vector.

    Parameters
    ----------
    weights : mapping of str to Tensor
        With the names and shapes of `layout`.
    layout : Layout
        Of this model, or of another one of the same architecture.

    Returns
    -------
    Tensor of shape (layout.size,)
        A copy, of `layout.dtype`, on the device of the first tensor.

    Raises
    ------
    GeometryError
        If a name or a shape differs from the layout's, or a tensor holds NaN or inf.

    Examples
    --------
    >>> weights = {"w": torch.ones(1, 2), "b": torch.zeros(1, dtype=torch.float16)}
    >>> flatten(weights, layout_of(weights))
    tensor([1., 1., 0.])
    """
    check_weights(weights, GeometryError)
    check(weights, layout, "these weights")
    device = weights[layout.slots[0].name].device
    vector = torch.empty(layout.size, dtype=layout.dtype, device=device)
    for slot in layout.slots:
        part = vector[slot.start : slot.stop]
        part.copy_(weights[slot.name].detach().reshape(-1))
        if not torch.isfinite(part).all():
            raise GeometryError(
                f"tensor {slot.name!r} holds NaN or inf; the model diverged or the file is damaged."
            )
    return vector


def unflatten(vector: Float[Tensor, "*batch size"], layout: Layout) -> dict[str, Tensor]:
    """Cut a vector into a model's tensors: the inverse of `flatten`.

    Parameters
    ----------
    vector : Tensor of shape (size,) or (..., size)
        With further axes in front, each tensor has them in front as well: many models, stacked.
    layout : Layout

    Returns
    -------
    dict of str to Tensor
        In the tensors' own dtypes; views of `vector` where that is the same, so that gradients
        flow. Tied names share one tensor. What the layout leaves out is not there:
        ``{**weights, **unflatten(vector, layout)}`` has it from `weights`.

    Raises
    ------
    GeometryError
        If the last axis is not as long as the layout.

    Examples
    --------
    >>> layout = layout_of({"w": torch.ones(1, 2), "b": torch.zeros(1)})
    >>> unflatten(torch.tensor([5.0, 6.0, 7.0]), layout)
    {'w': tensor([[5., 6.]]), 'b': tensor([7.])}
    """
    check_tensor(vector, GeometryError, "the vector")
    if vector.is_complex():
        raise GeometryError("a vector of weights is real, got a complex one; take its .real.")
    if vector.ndim == 0 or vector.shape[-1] != layout.size:
        raise GeometryError(
            f"the layout is that of a vector of {layout.size} entries, got the shape "
            f"{tuple(vector.shape)}; flatten the weights with the same layout."
        )
    batch = vector.shape[:-1]
    weights = {
        slot.name: vector[..., slot.start : slot.stop].reshape(*batch, *slot.shape).to(slot.dtype)
        for slot in layout.slots
    }
    return weights | {name: weights[owner] for name, owner in layout.ties}


def check(weights: Mapping[str, Tensor], layout: Layout, label: str) -> None:
    """Raise if names or shapes of `weights`, called `label`, are not those of the layout."""
    check_weights(weights, GeometryError, label)
    known = {slot.name for slot in layout.slots} | {name for name, _ in layout.ties}
    present = list(weights)  # `in` would read the tensor, in a Mapping that does not say otherwise
    for slot in layout.slots:
        if slot.name not in present:
            raise GeometryError(
                f"models of one architecture are needed, and {label} have no tensor {slot.name!r}; "
                "give the names that all models have."
            )
        shape, dtype = header(weights, slot.name)
        if dtype.is_complex:
            raise GeometryError(
                f"tensor {slot.name!r} of {label} is complex, and a vector of weights is real; "
                "leave it out, or store its real and imaginary parts."
            )
        if shape != slot.shape:
            raise GeometryError(
                f"models of one architecture are needed, and tensor {slot.name!r} of {label} has "
                f"the shape {shape} instead of {slot.shape}; leave it out by `names`."
            )
    extra = [name for name in present if name not in known and name not in layout.left_out]
    if extra and not layout.partial:
        raise GeometryError(
            f"models of one architecture are needed, and {label} have a tensor {extra[0]!r} that "
            "the first has not; give the names that all models have."
        )


def header(weights: Mapping[str, Tensor], name: str) -> tuple[tuple[int, ...], torch.dtype]:
    """Shape and dtype of a tensor; a checkpoint tells both without reading it."""
    return _weights.header(
        weights, name, lambda tensor: check_tensor(tensor, GeometryError, repr(name))
    )
