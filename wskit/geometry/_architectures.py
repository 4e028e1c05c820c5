"""The symmetries of common networks, derived from the names and shapes of their tensors."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from wskit._base.weights import as_weights, header
from wskit.errors import GeometryError
from wskit.geometry._matching import Axis, Run, Symmetries

_IN_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.(conv|bn|shortcut\.|downsample\.)(\d+)\.\w+$")
_ATTENTION = re.compile(r"(.*\.)?(self_attn|multihead_attn)\.in_proj_weight$")
_BY_HAND = "write its symmetries by hand, the name of a group for every axis that is permuted"


def sequential_symmetries(
    weights: Mapping[str, Tensor] | nn.Module,
) -> Symmetries:
    """Return the symmetries of layers in a row: the units of each but the last can be permuted.

    The weights must be in the order in which the layers are applied, which is that of the state
    dict of an ``nn.Sequential``. The kit's `MLP` and `SmallCNN` are such networks. A layer is a
    module with a weight of two or more axes (outputs, inputs, ...): dense or convolutional. A
    module with vectors only (a batch or layer normalisation) belongs to the layer before it. Where
    a dense layer follows a convolution whose output was flattened, the pixels of a channel move
    together. Whatever treats units alike may lie between layers: activations, dropout, pooling.

    Parameters
    ----------
    weights : mapping of str to Tensor, or nn.Module
        Only the header of a lazily opened checkpoint is read.

    Returns
    -------
    mapping of str to tuple
        For each tensor, how each axis is permuted. A group has the name of the layer whose
        outputs it permutes.

    Raises
    ------
    GeometryError
        If a layer does not fit the one before, or numbered layers are out of order.

    Examples
    --------
    >>> import torch
    >>> weights = {"0.weight": torch.zeros(4, 2), "0.bias": torch.zeros(4)}
    >>> sequential_symmetries(weights | {"2.weight": torch.zeros(3, 4)})
    {'0.weight': ('0', None), '0.bias': ('0',), '2.weight': (None, '0')}
    """
    weights = as_weights(weights, GeometryError)
    modules: dict[str, dict[str, tuple[int, ...]]] = {}
    for name in weights:
        modules.setdefault(name.rpartition(".")[0], {})[name] = header(weights, name)[0]
    _check_ascending(list(modules))
    layers = [
        m for m, shapes in modules.items() if any(len(shape) > 1 for shape in shapes.values())
    ]
    symmetries: dict[str, tuple[Axis, ...]] = {}
    group, units = None, 0  # of the outputs of the latest layer; the network's inputs are fixed
    for module, shapes in modules.items():
        inputs, n_inputs = group, units
        if module in layers:
            group = module if module != layers[-1] else None
            units = next(shape[0] for shape in shapes.values() if len(shape) > 1)
        for name, shape in shapes.items():
            if len(shape) > 1:
                axis = _permute_inputs(inputs, n_inputs, shape, name) if n_inputs else None
                symmetries[name] = (group, axis, *(None,) * (len(shape) - 2))
            elif len(shape) == 1 and units not in (0, shape[0]):
                raise GeometryError(
                    f"tensor {name!r} has {shape[0]} entries where the layer before has {units} "
                    "outputs; these layers are not in a row, or not in their order."
                )
            else:
                symmetries[name] = (group,) * len(shape)
    return {name: symmetries[name] for name in weights}


def resnet_symmetries(weights: Mapping[str, Tensor] | nn.Module) -> Symmetries:
    """Return the symmetries of a ResNet with batch normalisation, by torch's names.

    The names are those of the CIFAR ResNets and of torchvision: conv1, bn1, layerX.Y.conv1, bn1,
    conv2, bn2 (and conv3, bn3 of a bottleneck), and one dense layer at the end. The channels
    within a block can be permuted freely. What a block adds to the residual stream has the order
    of the stream, which only a shortcut with a convolution (``shortcut.0`` or ``downsample.0``)
    can change. A shortcut without weights (He et al. 2016, option A) that widens the stream pads
    it by equally many channels of zeros before and after, as in the CIFAR ResNets of Idelbayev:
    the old channels keep their order, and only the new ones are a group of their own.

    Parameters
    ----------
    weights : mapping of str to Tensor, or nn.Module
        Only the header of a lazily opened checkpoint is read. All names may have a prefix.

    Returns
    -------
    mapping of str to tuple
        For each tensor, how each axis is permuted. Group "stem" permutes the stream from the
        start, "layerX.stream" what stage X adds to it, "layerX.Y.conv1" the channels in a block.

    Raises
    ------
    GeometryError
        If a tensor is none of the above.

    Examples
    --------
    >>> import torch
    >>> shapes = {"conv1": (2, 3, 3, 3), "layer1.0.conv1": (2, 2, 3, 3)}
    >>> shapes |= {"layer1.0.conv2": (4, 2, 3, 3), "linear": (10, 4)}
    >>> symmetries = resnet_symmetries({f"{k}.weight": torch.zeros(s) for k, s in shapes.items()})
    >>> for run in symmetries["linear.weight"][1]:
    ...     print(run)
    Run(group='layer1.stream', start=0, stop=1, width=1)
    Run(group='stem', start=0, stop=2, width=1)
    Run(group='layer1.stream', start=1, stop=2, width=1)
    """
    weights = as_weights(weights, GeometryError)
    stems = [n for n in weights if n.endswith("conv1.weight") and not _IN_BLOCK.search(n)]
    if len(stems) != 1:
        raise GeometryError(
            "a ResNet must have one weight 'conv1.weight' before its layers, got "
            f"{stems or 'none'}; {_BY_HAND}."
        )
    prefix = stems[0].removesuffix("conv1.weight")
    shapes = {name.removeprefix(prefix): header(weights, name)[0] for name in weights}
    parts: dict[str, tuple[Axis, Axis]] = {}  # module -> the axes of its outputs and its inputs
    stream: tuple[Run, ...] = (Run("stem", 0, shapes["conv1.weight"][0]),)
    parts["conv1"], parts["bn1"] = (stream, None), (stream, None)
    blocks = {(int(m[1]), int(m[2])) for m in map(_IN_BLOCK.match, shapes) if m}
    for stage, number in sorted(blocks):
        block = f"layer{stage}.{number}"
        last = max(k for k in range(1, 10) if f"{block}.conv{k}.weight" in shapes or k == 1)
        before, stream = stream, _widen(stream, stage, block, last, shapes)
        for shortcut in ("shortcut", "downsample"):
            parts[f"{block}.{shortcut}.0"] = (stream, before)
            parts[f"{block}.{shortcut}.1"] = (stream, None)
        inputs: Axis = before
        for k in range(1, last + 1):
            outputs: Axis = stream if k == last else f"{block}.conv{k}"
            parts[f"{block}.conv{k}"] = (outputs, inputs)
            parts[f"{block}.bn{k}"] = (outputs, None)
            inputs = outputs
    parts["linear"] = parts["fc"] = (None, stream)
    symmetries: dict[str, tuple[Axis, ...]] = {}
    for name, (short, shape) in zip(weights, shapes.items(), strict=True):
        module = short.rpartition(".")[0]
        if not name.startswith(prefix) or module not in parts:
            raise GeometryError(f"tensor {name!r} is no part of a known ResNet; {_BY_HAND}.")
        symmetries[name] = (*parts[module], None, None)[: len(shape)]
    return symmetries


def transformer_symmetries(
    weights: Mapping[str, Tensor] | nn.Module, *, n_heads: int
) -> Symmetries:
    """Return the symmetries of a transformer, by torch's names: its heads and its hidden units.

    The names are those of ``nn.TransformerEncoderLayer`` and ``nn.TransformerDecoderLayer``,
    under any prefix. The heads of an attention and the hidden units of an MLP can be permuted.
    The residual stream and everything else stay fixed.

    Parameters
    ----------
    weights : mapping of str to Tensor, or nn.Module
        Only the header of a lazily opened checkpoint is read.
    n_heads : int
        Number of heads of each attention, which shapes do not show.

    Returns
    -------
    mapping of str to tuple
        For each tensor, how each axis is permuted. A group has the name of an attention (its
        heads move as blocks, in query, key, value and output alike) or of an MLP's first layer.

    Raises
    ------
    GeometryError
        If there is no such layer, an attention has unknown parameters, or its width is no
        multiple of `n_heads`.

    Examples
    --------
    >>> import torch
    >>> layer = torch.nn.TransformerEncoderLayer(d_model=6, nhead=2, dim_feedforward=4)
    >>> symmetries = transformer_symmetries(layer, n_heads=2)
    >>> symmetries["self_attn.out_proj.weight"]
    (None, (Run(group='self_attn', start=0, stop=2, width=3),))
    >>> symmetries["linear2.weight"]
    (None, 'linear1')
    """
    weights = as_weights(weights, GeometryError)
    known: dict[str, tuple[Axis, ...]] = {}
    attentions = []
    for match in filter(None, map(_ATTENTION.match, weights)):
        layer, attention = match[1] or "", match[0].removesuffix(".in_proj_weight")
        width = header(weights, match[0])[0][1]
        if n_heads < 1 or width % n_heads:
            raise GeometryError(
                f"n_heads must divide the width of each attention, got {n_heads} heads for "
                f"tensor {match[0]!r} of width {width}."
            )
        attentions.append(f"{attention}.")
        heads = (Run(attention, 0, n_heads, width // n_heads),)
        known[f"{attention}.in_proj_weight"] = (heads * 3, None)
        known[f"{attention}.in_proj_bias"] = (heads * 3,)
        known[f"{attention}.out_proj.weight"] = (None, heads)
        known[f"{attention}.out_proj.bias"] = (None,)
        hidden = f"{layer}linear1"
        known[f"{hidden}.weight"], known[f"{hidden}.bias"] = (hidden, None), (hidden,)
        known[f"{layer}linear2.weight"] = (None, hidden)
    if not attentions:
        raise GeometryError(
            "a transformer must have an attention with torch's names (self_attn.in_proj_weight), "
            f"got none; {_BY_HAND}."
        )
    unknown = [n for n in weights if n not in known and n.startswith(tuple(attentions))]
    if unknown:
        raise GeometryError(
            f"tensor {unknown[0]!r} is an unknown part of an attention; {_BY_HAND}."
        )
    fixed = {name: (None,) * len(header(weights, name)[0]) for name in weights}
    return {name: known.get(name, fixed[name]) for name in weights}


def _check_ascending(modules: Sequence[str]) -> None:
    """Raise if numbered modules stand in another order than that of their numbers."""
    last: dict[str, tuple[list[int], str]] = {}
    for module in modules:
        pattern = re.sub(r"\d+", "#", module)
        numbers = [int(digits) for digits in re.findall(r"\d+", module)]
        before, name = last.get(pattern, (numbers, module))
        if numbers < before:
            raise GeometryError(
                f"module {module!r} stands after {name!r}, so the order of the names may not be "
                "that in which the layers are applied; reorder the weights."
            )
        last[pattern] = numbers, module


def _permute_inputs(group: str | None, units: int, shape: tuple[int, ...], name: str) -> Axis:
    """Return how the inputs of a layer move, which come from `units` outputs of another one."""
    if shape[1] % units or (len(shape) > 2 and shape[1] != units):
        raise GeometryError(
            f"tensor {name!r} has {shape[1]} inputs where the layer before has {units} outputs; "
            "these layers are not in a row, or not in the order of `layers`."
        )
    if group is None or shape[1] == units:
        return group
    return (Run(group, 0, units, shape[1] // units),)


def _widen(
    stream: tuple[Run, ...],
    stage: int,
    block: str,
    last: int,
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[Run, ...]:
    """Return the runs of the residual stream after a block whose last convolution is `last`."""
    before = sum(run.stop - run.start for run in stream)
    width = shapes.get(f"{block}.conv{last}.weight", (0,))[0]
    new = f"layer{stage}.stream"
    if f"{block}.shortcut.0.weight" in shapes or f"{block}.downsample.0.weight" in shapes:
        return (Run(new, 0, width),)
    if width == before:
        return stream
    pad, odd = divmod(width - before, 2)
    if odd or pad < 0:
        raise GeometryError(
            f"block {block!r} is {width} channels wide after a stream of {before}, and has no "
            "shortcut with weights; a shortcut without pads by equally many on both sides."
        )
    return (Run(new, 0, pad), *stream, Run(new, pad, 2 * pad))
