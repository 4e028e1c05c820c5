"""The networks of a zoo: two that are written for stacked weights, and anyone's own module."""

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from wskit.errors import ZooError

Activation = Literal["relu", "tanh", "gelu", "sigmoid"]
Shapes = dict[str, tuple[int, ...]]

Dropout = Callable[[int, tuple[int, ...]], Tensor]
"""Maps a layer (from 0) and its shape for one model to factors of shape (models, *shape)."""

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
}


class _Architecture:
    """A network that knows its plain module, and so the shapes of its tensors."""

    def module(self) -> nn.Module:
        raise NotImplementedError

    @cached_property
    def shapes(self) -> Shapes:
        """Names and shapes of one model's tensors, as in the state dict of `module`."""
        with torch.device("meta"):
            parameters = self.module().named_parameters()
        return {name: tuple(value.shape) for name, value in parameters}


@dataclass(frozen=True)
class SmallCNN(_Architecture):
    """Three 3x3 convolutions of stride 2, a global average pool and one dense layer.

    The activation and dropout follow each convolution. With `padding` 0 it is the network of the
    Small CNN Zoo (Unterthiner et al. 2020, arXiv:2002.11448); the default of 1 lets images of 8x8
    through as well. On one channel it has 4 970 parameters either way.

    Attributes
    ----------
    channels : int, default 1
        Channels of the images.
    n_classes : int, default 10
    width : int, default 16
        Filters of each convolution.
    padding : int, default 1
        Zeros around the input of each convolution.

    Examples
    --------
    >>> sum(math.prod(shape) for shape in SmallCNN().shapes.values())
    4970
    """

    channels: int = 1
    n_classes: int = 10
    width: int = 16
    padding: int = 1

    n_hidden = 3  # layers that dropout follows

    def check(self, images: Tensor) -> None:
        """Raise a `ZooError` unless the network can be fed these images."""
        side = min(images.shape[2:], default=0)
        for _ in range(3):
            side = (side + 2 * self.padding - 3) // 2 + 1
        if images.ndim != 4 or images.shape[1] != self.channels or side < 1:
            raise ZooError(
                f"{self} needs images of shape (n, {self.channels}, height, width) that are large "
                f"enough for three convolutions, got {tuple(images.shape)}; set channels or "
                "padding to fit."
            )

    def forward(
        self,
        weights: Mapping[str, Tensor],
        x: Float[Tensor, "models images channels height width"],
        activation: Activation = "relu",
        dropout: Dropout | None = None,
    ) -> Float[Tensor, "models images classes"]:
        """Compute the logits of many models at once."""
        activate = ACTIVATIONS[activation]()
        h = x.transpose(0, 1)  # (images, models, channels, height, width), as all of h below
        for layer in range(3):
            kernel, bias = weights[f"conv{layer + 1}.weight"], weights[f"conv{layer + 1}.bias"]
            h = activate(_convolve(h, kernel, bias, self.padding))
            if dropout is not None:
                h = h * dropout(layer, (len(h), *h.shape[2:])).transpose(0, 1)
        h = h.mean((3, 4)).permute(1, 2, 0)
        return torch.baddbmm(weights["fc.bias"][:, :, None], weights["fc.weight"], h).mT

    def module(self, activation: Activation = "relu") -> nn.Module:
        """Return one such network as a plain module, to load ``zoo.model(row)`` into.

        Examples
        --------
        >>> SmallCNN().module()(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
        """
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for layer, size in enumerate((self.channels, self.width, self.width), start=1):
            layers[f"conv{layer}"] = nn.Conv2d(size, self.width, 3, 2, self.padding)
            layers[f"activation{layer}"] = ACTIVATIONS[activation]()
        layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        layers["fc"] = nn.Linear(self.width, self.n_classes)
        return nn.Sequential(layers)


def _convolve(
    h: Float[Tensor, "images models channels height width"],
    kernel: Float[Tensor, "models filters channels 3 3"],
    bias: Float[Tensor, "models filters"],
    padding: int,
) -> Float[Tensor, "images models filters height2 width2"]:
    """Convolve each model's images with its own 3x3 kernels, with stride 2.

    On a CPU the models are the groups of one convolution. On a GPU, where groups are slow, and
    inexact by default (TF32), patches are multiplied instead.
    """
    if not h.is_cuda:
        kernel, models = kernel.flatten(0, 1), h.shape[1]
        h = functional.conv2d(
            h.flatten(1, 2), kernel, bias.flatten(), stride=2, padding=padding, groups=models
        )
        return h.unflatten(1, (models, -1))
    return multiply_patches(h, kernel, bias, padding)


def multiply_patches(h: Tensor, kernel: Tensor, bias: Tensor, padding: int) -> Tensor:
    """Convolve as `_convolve` does, by one batched matrix product."""
    images = len(h)
    h = functional.pad(h.permute(1, 2, 0, 3, 4), [padding] * 4)
    height, width = ((side - 3) // 2 + 1 for side in h.shape[3:])
    taps = itertools.product(range(3), range(3))
    seen = [h[..., i : i + 2 * height : 2, j : j + 2 * width : 2] for i, j in taps]
    patches = torch.stack(seen, dim=2).flatten(1, 2).flatten(2)
    h = torch.baddbmm(bias[:, :, None], kernel.flatten(2), patches)
    return h.unflatten(2, (images, height, width)).permute(2, 0, 1, 3, 4)


@dataclass(frozen=True)
class MLP(_Architecture):
    """Dense layers; the activation and dropout follow each but the last.

    Attributes
    ----------
    sizes : tuple of int, default (64, 32, 32, 10)
        Numbers of inputs (pixels of an image), of each hidden layer's units, and of classes.

    Raises
    ------
    ZooError
        If there are fewer than two sizes.

    Examples
    --------
    >>> MLP((4, 3, 2)).shapes
    {'fc1.weight': (3, 4), 'fc1.bias': (3,), 'fc2.weight': (2, 3), 'fc2.bias': (2,)}
    """

    sizes: tuple[int, ...] = (64, 32, 32, 10)

    def __post_init__(self) -> None:
        if len(self.sizes) < 2:
            raise ZooError(
                f"an MLP needs the numbers of its inputs and of its classes, got {self.sizes}; "
                "give (64, 10), for example."
            )

    @property
    def n_classes(self) -> int:
        """Number of outputs."""
        return self.sizes[-1]

    @property
    def n_hidden(self) -> int:
        """Number of layers that dropout follows."""
        return len(self.sizes) - 2

    def check(self, images: Tensor) -> None:
        """Raise a `ZooError` unless the network can be fed these images."""
        pixels = math.prod(images.shape[1:])
        if pixels != self.sizes[0]:
            raise ZooError(
                f"{self} needs images of as many values as its first size, got images of {pixels}."
            )

    def forward(
        self,
        weights: Mapping[str, Tensor],
        x: Float[Tensor, "models images ..."],
        activation: Activation = "relu",
        dropout: Dropout | None = None,
    ) -> Float[Tensor, "models images classes"]:
        """Compute the logits of many models at once, with a batched matrix product per layer."""
        activate = ACTIVATIONS[activation]()
        h = x.flatten(2).mT  # (models, pixels, images): faster by a third than images first
        for layer in range(self.n_hidden + 1):
            bias = weights[f"fc{layer + 1}.bias"][:, :, None]
            h = torch.baddbmm(bias, weights[f"fc{layer + 1}.weight"], h)
            if layer < self.n_hidden:
                h = activate(h)
                if dropout is not None:
                    h = h * dropout(layer, (h.shape[1], h.shape[2]))
        return h.mT

    def module(self, activation: Activation = "relu") -> nn.Module:
        """Return one such network as a plain module, to load ``zoo.model(row)`` into.

        Examples
        --------
        >>> MLP().module()(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
        """
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for layer, (inputs, outputs) in enumerate(itertools.pairwise(self.sizes), start=1):
            layers[f"fc{layer}"] = nn.Linear(inputs, outputs)
            if layer <= self.n_hidden:
                layers[f"activation{layer}"] = ACTIVATIONS[activation]()
        return nn.Sequential(layers)


class OwnModule:
    """A user's module, called without state of its own.

    Parameters
    ----------
    make : callable that returns an nn.Module
        Called once for the module to call, and once per model for its initial weights.

    Raises
    ------
    ZooError
        If it returns no module, or one whose state cannot be kept per model: running statistics,
        other buffers, a seed for dropout.
    """

    n_hidden = 0
    n_classes: int  # known once `check` has seen images

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        self.make = make
        with torch.random.fork_rng(devices=[]):
            self._module = make()
        if not isinstance(self._module, nn.Module):
            raise ZooError(
                "a model is SmallCNN(...), MLP(...) or a function without arguments that returns "
                f"an nn.Module; this function returned {type(self._module).__name__}."
            )
        for name, part in self._module.named_modules():
            rate = getattr(part, "dropout", 0.0)
            drops = isinstance(part, nn.modules.dropout._DropoutNd) or (
                isinstance(rate, float) and rate > 0
            )
            if drops or next(part.buffers(recurse=False), None) is not None:
                raise ZooError(
                    f"the part {name!r} of the model is a {type(part).__name__}, and a block of "
                    "models cannot keep running statistics, other buffers or a dropout's seed for "
                    "each; remove it, or use GroupNorm or LayerNorm."
                )
        self.shapes: Shapes = {
            name: tuple(value.shape) for name, value in self._module.named_parameters()
        }

    def __repr__(self) -> str:
        return f"{self.shapes} {self._module!r}"

    def forward(
        self,
        weights: Mapping[str, Tensor],
        x: Tensor,
        activation: Activation = "relu",
        dropout: Dropout | None = None,
    ) -> Tensor:
        """Compute the logits of many models at once; the module has its own activation."""

        def compute(weights: dict[str, Tensor], x: Tensor) -> Tensor:
            found: Tensor = torch.func.functional_call(self._module, weights, (x,))
            return found

        return torch.func.vmap(compute)(dict(weights), x)

    def check(self, images: Tensor) -> None:
        """Raise a `ZooError` unless the module maps these images to logits."""
        x = images[:2].cpu()
        zeros = {name: x.new_zeros(1, *shape) for name, shape in self.shapes.items()}
        with torch.no_grad():
            shape = tuple(self.forward(zeros, x[None])[0].shape)
        if len(shape) != 2 or shape[0] != len(x):
            raise ZooError(
                "your module must map (images, ...) to logits (images, classes), and mapped "
                f"{tuple(x.shape)} to {shape}."
            )
        self.n_classes = shape[1]

    def initial(self, seed: int) -> dict[str, Tensor]:
        """Return the weights that the module makes; torch's own generator is put back."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return {name: p.detach() for name, p in self.make().named_parameters()}


Model = SmallCNN | MLP | Callable[[], nn.Module]
Network = SmallCNN | MLP | OwnModule


def network_of(model: Model) -> Network:
    """Return the network that trains such models."""
    return model if isinstance(model, SmallCNN | MLP) else OwnModule(model)
