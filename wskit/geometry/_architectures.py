"""The symmetries of common networks, derived from the names and shapes of their tensors."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from wskit._checks import check_weights
from wskit.errors import GeometryError
from wskit.geometry._layout import header
from wskit.geometry._symmetries import Axis, Run, Symmetries

_IN_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.(conv|bn|shortcut\.|downsample\.)(\d+)\.\w+$")
_ATTENTION = ("self_attn", "multihead_attn")


def sequential_symmetries(
    weights: Mapping[str, Tensor], *, layers: Sequence[str] | None = None
) -> Symmetries:
    """Symmetries of layers in a row: the units of each but the last can be permuted.

    Of the kit's own networks, `MLP` and `SmallCNN`. A layer is what has a weight of two or more
    axes (outputs, inputs, ...): dense layers and convolutions. What has vectors only (batch or
    layer normalisation) belongs to the layer before it. Where a dense layer follows a
    convolution whose output was flattened, a channel's pixels move together. Between the layers
    there may be whatever treats units alike: activations, dropout, pooling.

    Parameters
    ----------
    weights : mapping of str to Tensor
        Of a lazily opened checkpoint only the header is read.
    layers : sequence of str, optional
        Modules' names in the order in which they are applied. None takes that of `weights`,
        which is right for a state dict of ``nn.Sequential``.

    Returns
    -------
    Symmetries
        Groups have the names of the layers whose outputs they permute.

    Raises
    ------
    GeometryError
        If the layers do not fit one to the next, or numbered ones are out of order.

    Examples
    --------
    >>> import torch
    >>> weights = {"0.weight": torch.zeros(4, 2), "0.bias": torch.zeros(4)}
    >>> sequential_symmetries(weights | {"2.weight": torch.zeros(3, 4)})
    {'0.weight': ('0', None), '0.bias': ('0',), '2.weight': (None, '0')}
    """
    check_weights(weights, GeometryError)
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for name in weights:
        shapes.setdefault(name.rpartition(".")[0], {})[name] = header(weights, name)[0]
    order = list(shapes) if layers is None else list(layers)
    if layers is None:
        _require_ascending(order)
    elif set(order) != set(shapes) or len(order) != len(shapes):
        wrong = sorted(set(order) ^ set(shapes)) or order
        raise GeometryError(f"layers must name every module once, and {wrong[0]!r} differs.")
    dense = [m for m in order if any(len(shape) > 1 for shape in shapes[m].values())]
    if not dense:
        raise GeometryError("a network in a row needs a weight of two axes, and there is none.")
    symmetries: dict[str, tuple[Axis, ...]] = {}
    group, units = None, 0  # of the outputs of the layer before; a network's inputs stay put
    for module in order:
        inputs, inputs_units = group, units
        if module in dense:
            group = module if module != dense[-1] else None
            units = next(shape[0] for shape in shapes[module].values() if len(shape) > 1)
        for name, shape in shapes[module].items():
            if len(shape) > 1:
                axis = _inputs(inputs, inputs_units, shape, name, module == dense[0])
                symmetries[name] = (group, axis, *(None,) * (len(shape) - 2))
            elif len(shape) == 1 and shape[0] != units and dense[0] in order[: order.index(module)]:
                raise GeometryError(
                    f"tensor {name!r} has {shape[0]} entries where the layer before has {units} "
                    "outputs; these layers are not in a row, or not in the order of `layers`."
                )
            else:
                symmetries[name] = (group,) * len(shape)
    return {name: symmetries[name] for name in weights}


def resnet_symmetries(weights: Mapping[str, Tensor]) -> Symmetries:
    """Symmetries of a ResNet with batch normalisation, by torch's names.

    The names are those of the CIFAR ResNets and of torchvision: conv1, bn1, layerX.Y.conv1, bn1,
    conv2, bn2 (and conv3, bn3 of a bottleneck), and one dense layer at the end. Within a block,
    channels can be permuted freely. What a block adds to the residual stream has the order of the
    stream, which only a shortcut with a convolution (``shortcut.0`` or ``downsample.0``) can
    change. A shortcut without weights (He et al. 2016, option A) that widens the stream pads it
    by equally many channels of zeros before and after, as in the CIFAR ResNets of Idelbayev: the
    old channels keep their order, and only the new ones are a group of their own.

    Parameters
    ----------
    weights : mapping of str to Tensor
        Of a lazily opened checkpoint only the header is read. All names may have a prefix.

    Returns
    -------
    Symmetries
        Group "stem" permutes the stream from the start, "layerX.stream" what stage X adds to it,
        "layerX.Y.conv1" the channels within a block.

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
    check_weights(weights, GeometryError)
    stems = [n for n in weights if n.endswith("conv1.weight") and not _IN_BLOCK.search(n)]
    if len(stems) != 1:
        raise GeometryError(
            f"a ResNet has one weight 'conv1.weight' before its layers, and these have {stems}; "
            "write the symmetries of another network by hand."
        )
    prefix = stems[0].removesuffix("conv1.weight")
    shapes = {
        name.removeprefix(prefix): header(weights, name)[0]
        for name in weights
        if name.startswith(prefix)
    }
    for name, shape in shapes.items():
        if name.endswith(".weight") and not shape:
            raise GeometryError(
                f"tensor {prefix + name!r} is a scalar, and a weight of a ResNet has an axis of "
                "channels; these are not the weights of one."
            )
    parts: dict[str, tuple[Axis, Axis]] = {}  # module -> its outputs' axis and its inputs'
    stream: tuple[Run, ...] = (Run("stem", 0, shapes["conv1.weight"][0]),)
    parts["conv1"], parts["bn1"] = (stream, None), (stream, None)
    blocks = {(int(m[1]), int(m[2])) for m in map(_IN_BLOCK.match, shapes) if m}
    for stage, number in sorted(blocks):
        block = f"layer{stage}.{number}"
        last = max(k for k in range(1, 10) if f"{block}.conv{k}.weight" in shapes or k == 1)
        width = shapes.get(f"{block}.conv{last}.weight", (0,))[0]
        before, stream = stream, _next_stream(stream, stage, block, width, shapes)
        for shortcut in ("shortcut", "downsample"):
            parts[f"{block}.{shortcut}.0"] = (stream, before)
            parts[f"{block}.{shortcut}.1"] = (stream, None)
        inputs: Axis = before
        for k in range(1, last + 1):
            outputs: Axis = stream if k == last else f"{block}.conv{k}"
            parts[f"{block}.conv{k}"], parts[f"{block}.bn{k}"] = (outputs, inputs), (outputs, None)
            inputs = outputs
    parts["linear"] = parts["fc"] = (None, stream)
    symmetries: dict[str, tuple[Axis, ...]] = {}
    for name in weights:
        short = name.removeprefix(prefix)
        module = short.rpartition(".")[0]
        if not name.startswith(prefix) or module not in parts:
            raise GeometryError(
                f"tensor {name!r} is not a part of a ResNet that is known here; write its "
                "symmetries by hand, a group's name for every axis that is permuted."
            )
        axes = (*parts[module], None, None)[: len(shapes[short])]
        symmetries[name] = tuple(_short(axis) for axis in axes)
    return symmetries


def transformer_symmetries(weights: Mapping[str, Tensor], *, n_heads: int) -> Symmetries:
    """Symmetries of a transformer by torch's names: its heads, and its MLPs' hidden units.

    The names are those of ``nn.TransformerEncoderLayer`` and ``nn.TransformerDecoderLayer``,
    under any prefix. The residual stream is left alone, and so is all else.

    Parameters
    ----------
    weights : mapping of str to Tensor
        Of a lazily opened checkpoint only the header is read.
    n_heads : int
        Of each attention; shapes do not tell it.

    Returns
    -------
    Symmetries
        Groups are named by the attention (its heads move as blocks, in query, key, value and
        output alike) and by the MLP's first layer.

    Raises
    ------
    GeometryError
        If there is no such layer, it has parameters of an unknown kind, or its width is no
        multiple of `n_heads`.

    Examples
    --------
    >>> import torch
    >>> layer = torch.nn.TransformerEncoderLayer(d_model=6, nhead=2, dim_feedforward=4)
    >>> symmetries = transformer_symmetries(layer.state_dict(), n_heads=2)
    >>> symmetries["self_attn.out_proj.weight"]
    (None, (Run(group='self_attn', start=0, stop=2, width=3),))
    >>> symmetries["linear2.weight"]
    (None, 'linear1')
    """
    check_weights(weights, GeometryError)
    known: dict[str, tuple[Axis, ...]] = {}
    attentions = set()
    for name in weights:
        attention, _, parameter = name.rpartition(".")
        if parameter != "in_proj_weight" or attention.rpartition(".")[2] not in _ATTENTION:
            continue
        attentions.add(f"{attention}.")
        shape = header(weights, name)[0]
        if len(shape) != 2:
            raise GeometryError(
                f"tensor {name!r} is that of an attention, which is a matrix, and has the shape "
                f"{shape}; these are not the weights of one."
            )
        width = shape[1]
        if n_heads < 1 or width % n_heads:
            raise GeometryError(
                f"tensor {name!r} is that of an attention of width {width}, which {n_heads} heads "
                "do not divide; give the model's own number of heads."
            )
        heads = (Run(attention, 0, n_heads, width // n_heads),)
        known[name], known[f"{attention}.in_proj_bias"] = (heads * 3, None), (heads * 3,)
        known[f"{attention}.out_proj.weight"] = (None, heads)
        known[f"{attention}.out_proj.bias"] = (None,)
        layer = attention[: -len(attention.rpartition(".")[2])]
        hidden = f"{layer}linear1"
        known[f"{hidden}.weight"], known[f"{hidden}.bias"] = (hidden, None), (hidden,)
        known[f"{layer}linear2.weight"] = (None, hidden)
    if not attentions:
        raise GeometryError(
            "these weights have no attention with torch's names (self_attn.in_proj_weight); write "
            "the symmetries by hand, a group's name for every axis that is permuted."
        )
    symmetries: dict[str, tuple[Axis, ...]] = {}
    for name in weights:
        if name not in known and name.startswith(tuple(attentions)):
            raise GeometryError(
                f"tensor {name!r} is a part of an attention that is not known here; write its "
                "symmetries by hand."
            )
        symmetries[name] = known.get(name, (None,) * len(header(weights, name)[0]))
    return symmetries


def _require_ascending(modules: Sequence[str]) -> None:
    """Raise if numbered modules stand in another order than that of their numbers."""
    last: dict[str, tuple[list[int], str]] = {}
    for module in modules:
        pattern, numbers = re.sub(r"\d+", "#", module), [int(d) for d in re.findall(r"\d+", module)]
        before, name = last.get(pattern, (numbers, module))
        if numbers < before:
            raise GeometryError(
                f"module {module!r} stands after {name!r}, so the order of the names may not be "
                "that in which the layers are applied; give their names as `layers`."
            )
        last[pattern] = numbers, module


def _inputs(
    group: str | None, units: int, shape: tuple[int, ...], name: str, is_first: bool
) -> Axis:
    """Axis of a layer's inputs, which come from `units` outputs of the layer before."""
    if is_first:
        return None
    if shape[1] % units or (len(shape) > 2 and shape[1] != units):
        raise GeometryError(
            f"tensor {name!r} has {shape[1]} inputs where the layer before has {units} outputs; "
            "these layers are not in a row, or not in the order of `layers`."
        )
    if group is None or shape[1] == units:
        return group
    return (Run(group, 0, units, shape[1] // units),)


def _next_stream(
    stream: tuple[Run, ...],
    stage: int,
    block: str,
    width: int,
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[Run, ...]:
    """Return the runs of the residual stream after a block that is `width` channels wide."""
    before = sum(run.stop - run.start for run in stream)
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


def _short(axis: Axis) -> Axis:
    """Write a single run as the name of its group."""
    return axis[0].group if isinstance(axis, tuple) and len(axis) == 1 else axis
