"""Many models' weights in one buffer, and what the models say of images."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from wskit._checks import check_choice, check_tensor, check_weights
from wskit.errors import ZooError
from wskit.zoo._architectures import (
    ACTIVATIONS,
    Activation,
    Dropout,
    Form,
    Model,
    Network,
    OwnModule,
    Shapes,
    network_of,
)

Forward = Callable[[Mapping[str, Tensor], Tensor, Dropout | None], Tensor]
"""Stacked weights, (models, images, ...), dropout -> logits (models, images, classes)."""

# Models and images that are gone through together, and values of the first layer's outputs, about.
# On a CPU they are 32 MiB in float32; a GPU needs more to be busy, and has the memory.
_MODELS_AT_ONCE, _IMAGES_AT_ONCE, _VALUES_AT_ONCE = 64, 512, 2**23
_MORE_ON_A_GPU = 16


class Layout:
    """Where each tensor of a model lies in its row of a (models, parameters) buffer."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self.sizes = [math.prod(shape) for shape in shapes.values()]
        self.n_parameters = sum(self.sizes)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Name parts of the buffer as tensors (models, ...), without a copy."""
        parts = flat.split(self.sizes, 1)
        return {
            name: part.unflatten(1, shape) if shape else part[:, 0]
            for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)
        }

    def is_kernel(self) -> Tensor:
        """Mark the parameters that belong to tensors of two or more dimensions."""
        return torch.cat(
            [
                torch.full((size,), len(shape) >= 2)
                for size, shape in zip(self.sizes, self.shapes.values(), strict=True)
            ]
        )


def forward_of(network: Network, form: Form, activation: Activation) -> Forward:
    """Return the function that computes the logits of many models, in that form."""
    if form == "batched":
        if isinstance(network, OwnModule):
            raise ZooError(
                "the form 'batched' is written for SmallCNN and MLP only; a module of your own "
                "has the forms 'vmap' and 'loop'."
            )
        stacked = network.stacked
        return lambda weights, x, dropout: stacked(weights, x, activation, dropout)

    def one(weights: Mapping[str, Tensor], x: Tensor, scales: list[Tensor] | None) -> Tensor:
        return network.single(weights, x, activation, scales)

    def forward(weights: Mapping[str, Tensor], x: Tensor, dropout: Dropout | None) -> Tensor:
        scales = None
        if dropout is not None and not isinstance(network, OwnModule):
            sites = network.sites(x.shape[1], tuple(x.shape[2:]))
            scales = [dropout(layer, site) for layer, site in enumerate(sites)]
        if form == "vmap":
            in_dims = (0, 0, None if scales is None else 0)
            return torch.vmap(one, in_dims)(dict(weights), x, scales)
        models = range(len(x))
        each = [{name: stack[i] for name, stack in weights.items()} for i in models]
        chosen = [None if scales is None else [scale[i] for scale in scales] for i in models]
        return torch.stack([one(each[i], x[i], chosen[i]) for i in models])

    return forward


def models_at_once(device: torch.device) -> int:
    """Return how many models to compute at a time, so that memory stays bounded."""
    return _MODELS_AT_ONCE * (_MORE_ON_A_GPU if device.type == "cuda" else 1)


def images_at_once(models: int, x: Tensor) -> int:
    """Return how many images to compute at a time, so that memory stays bounded."""
    more = _MORE_ON_A_GPU if x.is_cuda else 1
    room = more * _VALUES_AT_ONCE // (16 * models * max(1, x[0].numel()))
    return max(8, min(more * _IMAGES_AT_ONCE, room))


def widen(x: Tensor) -> Tensor:
    """Return a tensor in float32, or as it is if it is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def outputs(
    model: Model,
    weights: Mapping[str, Tensor],
    x: Float[Tensor, "images ..."],
    *,
    activation: Activation | Sequence[str] | np.ndarray | pd.Series = "relu",
) -> Float[Tensor, "models images classes"]:
    """Logits of many models on the same images, without dropout.

    Parameters
    ----------
    model : SmallCNN, MLP or function that returns an nn.Module
        The architecture.
    weights : mapping of str to Tensor of shape (models, ...)
        Stacked, as in ``zoo.weights``; read by blocks of models.
    x : Tensor of shape (images, ...)
        Labels are not needed: what models say of unlabelled images tells much of their accuracy.
    activation : str, or sequence of a str a model
        As in ``zoo.records.activation``. A module of your own has its own; this is not used then.

    Returns
    -------
    Tensor of shape (models, images, classes)
        float32, or float64 where the weights are, on the device of the weights.

    Raises
    ------
    ZooError
        If the images or weights do not fit the architecture, or an activation is unknown.

    Examples
    --------
    A network without weights gives its last bias:

    >>> from wskit.zoo import MLP
    >>> weights = {name: torch.zeros(2, *shape) for name, shape in MLP((4, 3)).shapes.items()}
    >>> weights["fc1.bias"] += torch.tensor([1.0, 2.0, 3.0])
    >>> outputs(MLP((4, 3)), weights, torch.ones(1, 4))[1]
    tensor([[1., 2., 3.]])
    """
    check_weights(weights, ZooError)
    check_tensor(x, ZooError, "x")
    network = network_of(model)
    if len(x) == 0:
        raise ZooError(f"models need images, got x of shape {tuple(x.shape)}; give one at least.")
    if isinstance(network, OwnModule):
        activation = "relu"
    else:
        network.check(x)
    for name, shape in network.shapes.items():
        found = tuple(weights[name].shape[1:]) if name in weights else None
        if found != shape:
            raise ZooError(
                f"tensor {name!r} must have the shape (models, {str(shape)[1:-1]}) in this "
                f"architecture, got {found}."
            )
    first = next(iter(network.shapes))
    n_models = len(weights[first])
    one = isinstance(activation, str) or not isinstance(activation, Iterable)
    names: list[Any] = [activation] * n_models if one else list(activation)
    if len(names) != n_models:
        raise ZooError(
            f"one activation a model is needed, got {len(names)} for {n_models}; give one text "
            "for all of them."
        )
    found_names = np.asarray(names, dtype=str)
    parts: list[tuple[Tensor, Tensor]] = []
    for name in dict.fromkeys(names):
        check_choice(name, ACTIVATIONS, ZooError, "activation")
        form: Form = "vmap" if isinstance(network, OwnModule) else "batched"
        forward = forward_of(network, form, name)
        own = torch.as_tensor(np.flatnonzero(found_names == name))
        for rows in own.split(models_at_once(weights[first].device)):
            stacks = {key: widen(weights[key][rows]) for key in network.shapes}
            parts.append((rows, _logits(forward, stacks, x)))
    result = parts[0][1].new_empty(n_models, *parts[0][1].shape[1:])
    for rows, logits in parts:
        result[rows.to(result.device)] = logits
    return result


@torch.no_grad()  # type: ignore[untyped-decorator]
def _logits(forward: Forward, stacks: Mapping[str, Tensor], x: Tensor) -> Tensor:
    first = next(iter(stacks.values()))
    images = x.to(first)
    step = images_at_once(len(first), images)
    parts = [
        forward(stacks, part.expand(len(first), *part.shape), None) for part in images.split(step)
    ]
    return torch.cat(parts, 1)


@torch.no_grad()  # type: ignore[untyped-decorator]
def scores(
    forward: Forward,
    layout: Layout,
    flat: Float[Tensor, "models parameters"],
    images: tuple[Tensor, Tensor],
    subsets: Sequence[np.ndarray],
) -> Float[np.ndarray, "models 2"]:
    """Mean cross-entropy in nats and accuracy of each model on the images of its own subset."""
    x, y = images
    sizes = np.array([len(subset) for subset in subsets])
    totals = torch.zeros(len(flat), 2, dtype=torch.float64, device=flat.device)
    n_blocks = math.ceil(len(flat) / models_at_once(flat.device))
    # Models with subsets of about one size together, so that few places are filled in vain.
    for block in np.array_split(np.argsort(-sizes), n_blocks):
        step = images_at_once(len(block), x)
        for start in range(0, sizes[block[0]], step):
            rows = block[sizes[block] > start]
            index = np.full((len(rows), min(step, sizes[block[0]] - start)), -1)
            for place, row in enumerate(rows):
                own = subsets[row][start : start + step]
                index[place, : len(own)] = own
            where = torch.as_tensor(rows, device=flat.device)
            at = torch.as_tensor(index, device=flat.device)
            weights = layout.views(flat[where])
            logits = forward(weights, x[at.clamp(min=0)], None)
            labels = y[at.clamp(min=0)]
            loss = functional.cross_entropy(logits.mT, labels, reduction="none")
            found = torch.stack([loss, (logits.mT.argmax(1) == labels).to(loss)], 2)
            totals[where] += torch.where((at >= 0)[:, :, None], found, 0).sum(
                1, dtype=torch.float64
            )
    return totals.cpu().numpy() / sizes[:, None]
