"""The networks of a zoo: two that are written for stacked weights, and anyone's own module."""

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from wskit._checks import check_whole
from wskit.errors import ZooError

Activation = Literal["relu", "tanh", "gelu", "sigmoid"]
Form = Literal["batched", "vmap", "loop"]
Shapes = dict[str, tuple[int, ...]]

Dropout = Callable[[int, tuple[int, ...]], Tensor]
"""Layer (from 0) and a layer's shape for one model -> what to multiply by, (models, *shape)."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "sigmoid": torch.sigmoid,
}
_MODULES = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "sigmoid": nn.Sigmoid}


@dataclass(frozen=True)
class SmallCNN:
    """Three 3x3 convolutions of stride 2, a global average pool and one dense layer.

    Each convolution is followed by the activation and by dropout. With `padding` 0 it is the
    network of the Small CNN Zoo (Unterthiner et al. 2020, arXiv:2002.11448); the default of 1
    lets images of 8x8 through as well. On one channel it has 4 970 parameters either way.

    Attributes
    ----------
    channels : int, default 1
        Of the images.
    n_classes : int, default 10
    width : int, default 16
        Filters of each convolution.
    padding : int, default 1
        Zeros put around the input of each convolution.

    Examples
    --------
    >>> sum(math.prod(shape) for shape in SmallCNN().shapes.values())
    4970
    """

    channels: int = 1
    n_classes: int = 10
    width: int = 16
    padding: int = 1

    def __post_init__(self) -> None:
        for name in ("channels", "n_classes", "width"):
            check_whole(getattr(self, name), ZooError, f"{name} of a SmallCNN")
        check_whole(self.padding, ZooError, "padding of a SmallCNN", least=0)

    @property
    def shapes(self) -> Shapes:
        """Names and shapes of one model's tensors, as in the state dict of `module`."""
        inputs = (self.channels, self.width, self.width)
        shapes: Shapes = {}
        for layer, size in enumerate(inputs, start=1):
            shapes[f"conv{layer}.weight"] = (self.width, size, 3, 3)
            shapes[f"conv{layer}.bias"] = (self.width,)
        return shapes | {
            "fc.weight": (self.n_classes, self.width),
            "fc.bias": (self.n_classes,),
        }

    def check(self, images: Tensor) -> None:
        """Raise a `ZooError` if the network cannot be fed these images."""
        side = min(images.shape[2:], default=0)
        for _ in range(3):
            side = (side + 2 * self.padding - 3) // 2 + 1
        if images.ndim != 4 or images.shape[1] != self.channels or side < 1:
            raise ZooError(
                f"{self} needs images of shape (n, {self.channels}, height, width) that three "
                f"convolutions leave something of, got {tuple(images.shape)}; change channels "
                "or padding."
            )

    def stacked(
        self,
        weights: Mapping[str, Tensor],
        x: Float[Tensor, "models images channels height width"],
        activation: Activation = "relu",
        dropout: Dropout | None = None,
    ) -> Float[Tensor, "models images classes"]:
        """Logits of many models at once: their filters are the groups of one convolution.

        A GPU, where groups are slow, and inexact by default (TF32), multiplies patches instead.
        """
        if x.is_cuda:
            return self._of_patches(weights, x, activation, dropout)
        models, images = x.shape[:2]
        h = x.transpose(0, 1).flatten(1, 2)  # (images, models * channels, height, width)
        for layer in range(3):
            kernel = weights[f"conv{layer + 1}.weight"].flatten(0, 1)
            bias = weights[f"conv{layer + 1}.bias"].flatten()
            h = functional.conv2d(h, kernel, bias, stride=2, padding=self.padding, groups=models)
            h = ACTIVATIONS[activation](h)
            if dropout is not None:
                each = h.unflatten(1, (models, self.width))
                scale = dropout(layer, (images, *each.shape[2:]))
                h = (each * scale.transpose(0, 1)).flatten(1, 2)
        h = h.mean((2, 3)).view(images, models, self.width).permute(1, 2, 0)
        return torch.baddbmm(weights["fc.bias"][:, :, None], weights["fc.weight"], h).mT

    def _of_patches(
        self,
        weights: Mapping[str, Tensor],
        x: Tensor,
        activation: Activation,
        dropout: Dropout | None,
    ) -> Tensor:
        images = x.shape[1]
        h = x.transpose(1, 2)  # (models, channels, images, height, width), as all of h below
        for layer in range(3):
            kernel, bias = weights[f"conv{layer + 1}.weight"], weights[f"conv{layer + 1}.bias"]
            h = functional.pad(h, [self.padding] * 4)
            height, width = ((side - 3) // 2 + 1 for side in h.shape[3:])
            taps = itertools.product(range(3), range(3))
            seen = [h[..., i : i + 2 * height : 2, j : j + 2 * width : 2] for i, j in taps]
            patches = torch.stack(seen, dim=2).flatten(1, 2).flatten(2)
            h = torch.baddbmm(bias[:, :, None], kernel.flatten(2), patches)
            h = ACTIVATIONS[activation](h.unflatten(2, (images, height, width)))
            if dropout is not None:
                h = h * dropout(layer, (images, self.width, height, width)).transpose(1, 2)
        h = h.mean((3, 4))
        return torch.baddbmm(weights["fc.bias"][:, :, None], weights["fc.weight"], h).mT

    def single(
        self,
        weights: Mapping[str, Tensor],
        x: Float[Tensor, "images channels height width"],
        activation: Activation = "relu",
        dropout: Sequence[Tensor] | None = None,
    ) -> Float[Tensor, "images classes"]:
        """Logits of one model; `dropout` holds what each layer is multiplied by."""
        h = x
        for layer in range(3):
            kernel, bias = weights[f"conv{layer + 1}.weight"], weights[f"conv{layer + 1}.bias"]
            h = functional.conv2d(h, kernel, bias, stride=2, padding=self.padding)
            h = ACTIVATIONS[activation](h)
            if dropout is not None:
                h = h * dropout[layer]
        return functional.linear(h.mean((2, 3)), weights["fc.weight"], weights["fc.bias"])

    def sites(self, images: int, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Shape of each layer that dropout follows, for one model and images of that shape."""
        sites: list[tuple[int, ...]] = []
        height, width = shape[1:]
        for _ in range(3):
            height = (height + 2 * self.padding - 3) // 2 + 1
            width = (width + 2 * self.padding - 3) // 2 + 1
            sites.append((images, self.width, height, width))
        return sites

    def module(self, activation: Activation = "relu", dropout: float = 0.0) -> nn.Module:
        """Return one such network as a plain module, to load ``zoo.model(row)`` into.

        Examples
        --------
        >>> SmallCNN().module()(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
        """
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for layer, size in enumerate((self.channels, self.width, self.width), start=1):
            layers[f"conv{layer}"] = nn.Conv2d(size, self.width, 3, 2, self.padding)
            layers[f"activation{layer}"] = _MODULES[activation]()
            layers[f"dropout{layer}"] = nn.Dropout(dropout)
        layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        layers["fc"] = nn.Linear(self.width, self.n_classes)
        return nn.Sequential(layers)


@dataclass(frozen=True)
class MLP:
    """Dense layers, each but the last followed by the activation and by dropout.

    Attributes
    ----------
    sizes : tuple of int, default (64, 32, 32, 10)
        Numbers of inputs (pixels of an image), of each hidden layer's units, and of classes.

    Examples
    --------
    >>> MLP((4, 3, 2)).shapes
    {'fc1.weight': (3, 4), 'fc1.bias': (3,), 'fc2.weight': (2, 3), 'fc2.bias': (2,)}
    """

    sizes: tuple[int, ...] = (64, 32, 32, 10)

    def __post_init__(self) -> None:
        sizes: object = self.sizes
        if not isinstance(sizes, tuple | list) or len(sizes) < 2:
            raise ZooError(
                "an MLP has a tuple of two sizes at least, its inputs and its classes, got "
                f"{sizes!r}; give (64, 10), say."
            )
        for size in sizes:
            check_whole(size, ZooError, "each size of an MLP")

    @property
    def n_classes(self) -> int:
        """Number of outputs."""
        return self.sizes[-1]

    @property
    def shapes(self) -> Shapes:
        """Names and shapes of one model's tensors, as in the state dict of `module`."""
        shapes: Shapes = {}
        for layer, (inputs, outputs) in enumerate(itertools.pairwise(self.sizes), start=1):
            shapes[f"fc{layer}.weight"] = (outputs, inputs)
            shapes[f"fc{layer}.bias"] = (outputs,)
        return shapes

    def check(self, images: Tensor) -> None:
        """Raise a `ZooError` if the network cannot be fed these images."""
        pixels = math.prod(images.shape[1:])
        if pixels != self.sizes[0]:
            raise ZooError(
                f"{self} needs images of as many values as its first size, got images of {pixels}; "
                "change the sizes."
            )

    def stacked(
        self,
        weights: Mapping[str, Tensor],
        x: Float[Tensor, "models images ..."],
        activation: Activation = "relu",
        dropout: Dropout | None = None,
    ) -> Float[Tensor, "models images classes"]:
        """Logits of many models at once: a batched matrix product a layer."""
        h = x.flatten(2).mT  # (models, pixels, images): faster by a third than images first
        last = len(self.sizes) - 2
        for layer in range(last + 1):
            bias = weights[f"fc{layer + 1}.bias"][:, :, None]
            h = torch.baddbmm(bias, weights[f"fc{layer + 1}.weight"], h)
            if layer < last:
                h = ACTIVATIONS[activation](h)
                if dropout is not None:
                    h = h * dropout(layer, (h.shape[1], h.shape[2]))
        return h.mT

    def single(
        self,
        weights: Mapping[str, Tensor],
        x: Float[Tensor, "images ..."],
        activation: Activation = "relu",
        dropout: Sequence[Tensor] | None = None,
    ) -> Float[Tensor, "images classes"]:
        """Logits of one model; `dropout` holds what each layer is multiplied by."""
        h = x.flatten(1)
        last = len(self.sizes) - 2
        for layer in range(last + 1):
            h = functional.linear(
                h, weights[f"fc{layer + 1}.weight"], weights[f"fc{layer + 1}.bias"]
            )
            if layer < last:
                h = ACTIVATIONS[activation](h)
                if dropout is not None:
                    h = h * dropout[layer].mT
        return h

    def sites(self, images: int, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Shape of each layer that dropout follows, for one model."""
        return [(units, images) for units in self.sizes[1:-1]]

    def module(self, activation: Activation = "relu", dropout: float = 0.0) -> nn.Module:
        """Return one such network as a plain module, to load ``zoo.model(row)`` into.

        Examples
        --------
        >>> MLP().module()(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
        """
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for layer, (inputs, outputs) in enumerate(itertools.pairwise(self.sizes), start=1):
            layers[f"fc{layer}"] = nn.Linear(inputs, outputs)
            if layer < len(self.sizes) - 1:
                layers[f"activation{layer}"] = _MODULES[activation]()
                layers[f"dropout{layer}"] = nn.Dropout(dropout)
        return nn.Sequential(layers)


class OwnModule:
    """A user's module, called without state of its own.

    Parameters
    ----------
    make : callable that returns an nn.Module
        Called once a model, for its initial weights, and once for what to call.

    Raises
    ------
    ZooError
        If it is none, or keeps what cannot be kept a model: running statistics, other buffers, a
        seed for dropout.
    """

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        if not callable(make):
            raise ZooError(
                "a model is SmallCNN(...), MLP(...) or a function without arguments that returns "
                f"an nn.Module, got a {type(make).__name__}; give one of these."
            )
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
                    f"the part {name!r} of the model is a {type(part).__name__}, and neither "
                    "running statistics, other buffers nor a dropout's seed can be kept for each "
                    "model of a block; take it out, or use GroupNorm or LayerNorm."
                )
        self.shapes: Shapes = {
            name: tuple(value.shape) for name, value in self._module.named_parameters()
        }

    def __repr__(self) -> str:
        return f"{self.shapes} {self._module!r}"

    def single(
        self,
        weights: Mapping[str, Tensor],
        x: Tensor,
        activation: str = "",
        dropout: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Logits of one model."""
        return torch.func.functional_call(self._module, dict(weights), (x,))

    def initial(self, seed: int) -> dict[str, Tensor]:
        """Weights as the module makes them, from torch's own generator, which is put back."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return {name: p.detach() for name, p in self.make().named_parameters()}


Model = SmallCNN | MLP | Callable[[], nn.Module]
Network = SmallCNN | MLP | OwnModule


def network_of(model: Model) -> Network:
    """Return the network that is meant."""
    return model if isinstance(model, SmallCNN | MLP) else OwnModule(model)
