"""What many models say of images, and how good that is."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from wskit._base.checks import check_choice
from wskit.errors import ZooError
from wskit.zoo._networks import (
    ACTIVATIONS,
    Activation,
    Model,
    Network,
    OwnModule,
    Shapes,
    network_of,
)

# Models and images that are computed together, and about as many outputs of the first layer.
# On a CPU they are 32 MiB in float32; a GPU needs more to be busy, and has the memory.
_MODELS_AT_ONCE, _IMAGES_AT_ONCE, _VALUES_AT_ONCE = 64, 512, 2**23
_MORE_ON_A_GPU = 16


def view_stacks(
    flat: Float[Tensor, "models parameters"], shapes: Shapes
) -> dict[str, Float[Tensor, "models ..."]]:
    """Name parts of a buffer as stacked tensors, without a copy.

    One split, whose gradient is one concatenation: a slice per tensor would cost a buffer each.
    """
    parts = flat.split([math.prod(shape) for shape in shapes.values()], dim=1)
    return {
        name: part.unflatten(1, shape) if shape else part[:, 0]
        for part, (name, shape) in zip(parts, shapes.items(), strict=True)
    }


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
    """Compute the logits of many models on the same images, without dropout.

    Parameters
    ----------
    model : SmallCNN, MLP or function that returns an nn.Module
        The architecture.
    weights : mapping of str to Tensor of shape (models, ...)
        Stacked, as in ``zoo.weights``; read by blocks of models.
    x : Tensor of shape (images, ...)
        Labels are not needed: outputs on unlabelled images say much about a model's accuracy.
    activation : str, or sequence of str with one per model
        As in ``zoo.records.activation``. A module of your own has its own, and ignores this.

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
    A network whose weights are zero returns its last bias:

    >>> from wskit.zoo import MLP
    >>> weights = {name: torch.zeros(2, *shape) for name, shape in MLP((4, 3)).shapes.items()}
    >>> weights["fc1.bias"] += torch.tensor([1.0, 2.0, 3.0])
    >>> outputs(MLP((4, 3)), weights, torch.ones(1, 4))[1]
    tensor([[1., 2., 3.]])
    """
    network = network_of(model)
    network.check(x)
    for name, shape in network.shapes.items():
        found = tuple(weights[name].shape[1:]) if name in weights else None
        if found != shape:
            raise ZooError(
                f"tensor {name!r} must have the shape (models, {str(shape)[1:-1]}) in this "
                f"architecture, got {found}."
            )
    first = next(iter(network.shapes))
    n_models, device = len(weights[first]), weights[first].device
    own_activation = isinstance(network, OwnModule)
    names = np.array("relu" if own_activation else activation, dtype=object)
    if names.shape not in ((), (n_models,)):
        raise ZooError(f"expected one activation per model, got {names.size} for {n_models}.")
    names = np.broadcast_to(names, n_models)
    result = None
    for name in dict.fromkeys(names):
        check_choice(name, ACTIVATIONS, ZooError, "activation")
        own = torch.as_tensor(np.flatnonzero(names == name))
        for rows in own.split(_models_at_once(device)):
            stacks = {key: widen(weights[key][rows]) for key in network.shapes}
            logits = _logits(network, stacks, x, name)
            if result is None:
                result = logits.new_empty(n_models, *logits.shape[1:])
            result[rows.to(device)] = logits
    if result is None:
        raise ZooError("there are no models: the stacks of weights are empty.")
    return result


def _models_at_once(device: torch.device) -> int:
    """Return how many models to compute at a time, so that memory stays bounded."""
    return _MODELS_AT_ONCE * (_MORE_ON_A_GPU if device.type == "cuda" else 1)


def _images_at_once(models: int, x: Tensor) -> int:
    """Return how many images to compute at a time, so that memory stays bounded."""
    more = _MORE_ON_A_GPU if x.is_cuda else 1
    room = more * _VALUES_AT_ONCE // (16 * models * max(1, x[0].numel()))
    return max(8, min(more * _IMAGES_AT_ONCE, room))


@torch.no_grad()  # type: ignore[untyped-decorator]
def _logits(
    network: Network, stacks: Mapping[str, Tensor], x: Tensor, activation: Activation
) -> Tensor:
    first = next(iter(stacks.values()))
    images = x.to(first)
    parts = [
        network.forward(stacks, part.expand(len(first), *part.shape), activation)
        for part in images.split(_images_at_once(len(first), images))
    ]
    return torch.cat(parts, 1)


@torch.no_grad()  # type: ignore[untyped-decorator]
def score_models(
    network: Network,
    activation: Activation,
    flat: Float[Tensor, "models parameters"],
    images: tuple[Tensor, Tensor],
    subsets: Sequence[np.ndarray],
) -> Float[np.ndarray, "models 2"]:
    """Return each model's mean cross-entropy in nats and accuracy on its own images.

    `subsets` holds the numbers of each model's images.
    """
    x, y = images
    sizes = np.array([len(subset) for subset in subsets])
    totals = torch.zeros(len(flat), 2, dtype=torch.float64, device=flat.device)
    n_blocks = math.ceil(len(flat) / _models_at_once(flat.device))
    # Models with subsets of about one size go together, so that little is computed in vain.
    for block in np.array_split(np.argsort(-sizes), n_blocks):
        step = _images_at_once(len(block), x)
        for start in range(0, sizes[block[0]], step):
            rows = block[sizes[block] > start]
            index = np.full((len(rows), min(step, sizes[block[0]] - start)), -1)
            for place, row in enumerate(rows):
                own = subsets[row][start : start + step]
                index[place, : len(own)] = own
            where = torch.as_tensor(rows, device=flat.device)
            at = torch.as_tensor(index, device=flat.device)
            stacks, labels = view_stacks(flat[where], network.shapes), y[at.clamp(min=0)]
            logits = network.forward(stacks, x[at.clamp(min=0)], activation)
            loss = functional.cross_entropy(logits.mT, labels, reduction="none")
            found = torch.stack([loss, (logits.mT.argmax(1) == labels).to(loss)], 2)
            own_found = torch.where((at >= 0)[:, :, None], found, 0)
            totals[where] += own_found.sum(1, dtype=torch.float64)
    return totals.cpu().numpy() / sizes[:, None]
