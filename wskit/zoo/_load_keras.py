"""From Keras's names and axes to torch's, and Keras's ``.h5`` files."""

import importlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wskit.errors import ZooError
from wskit.zoo._reading import reading

H5_SUFFIXES = (".h5", ".hdf5")
# In the order of a state dict. Normalisation layers have the lower four.
_PARTS = {
    "kernel": "weight",
    "gamma": "weight",
    "bias": "bias",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def torch_layout(variables: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Name Keras's variables as torch would, and turn the kernels: views, nothing is copied.

    Parameters
    ----------
    variables : mapping of str to Tensor of shape (models, ...)
        Under names such as ``sequential/conv2d/kernel:0``, in the layers' order. A kernel's last
        two axes are in and out: (h, w, in, out) of a convolution, (in, out) of a dense layer.
    where : str
        The file, for messages.

    Returns
    -------
    dict of str to Tensor
        conv1.weight (models, out, in, h, w), conv1.bias, ..., fc.weight (models, out, in),
        fc.bias; fc1, fc2, ... where there are several dense layers; norm1, ... .
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for variable, stack in variables.items():
        layer, _, part = variable.removesuffix(":0").rpartition("/")
        odd = part in layers.get(layer, ()) or (part == "kernel" and stack.ndim < 3)
        if part not in _PARTS or odd:
            raise ZooError(
                f"{where}: the variable {variable!r} is none of a dense, convolution or "
                f"normalisation layer ({', '.join(_PARTS)}); such a layer cannot be read."
            )
        layers.setdefault(layer, {})[part] = stack
    kinds = [_kind(parts) for parts in layers.values()]
    counts: Counter[str] = Counter()
    weights = {}
    for kind, (layer, parts) in zip(kinds, layers.items(), strict=True):
        if "kernel" not in parts and "gamma" not in parts and "moving_mean" not in parts:
            raise ZooError(f"{where}: the layer {layer!r} has a bias and no kernel beside it.")
        counts[kind] += 1
        name = "fc" if kind == "fc" and kinds.count("fc") == 1 else f"{kind}{counts[kind]}"
        for part, torch_part in _PARTS.items():
            if part in parts:
                stack = parts[part]
                turned = stack.movedim((-1, -2), (1, 2)) if part == "kernel" else stack
                weights[f"{name}.{torch_part}"] = turned
    return weights


def _kind(parts: Mapping[str, Tensor]) -> str:
    if "kernel" not in parts:
        return "norm"
    return "fc" if parts["kernel"].ndim == 3 else "conv"


def read_h5(path: Path) -> dict[str, Tensor]:
    """Read one model's weights as Keras's ``model.save("x.h5")`` or ``save_weights`` wrote them."""
    try:
        h5py = importlib.import_module("h5py")
    except ModuleNotFoundError as error:
        raise ZooError(f"{path}: reading Keras's .h5 files needs h5py; install it.") from error
    with reading(path, "a Keras .h5 file"), h5py.File(path, "r") as file:
        variables = _variables(file, path)
    return {name: stack[0] for name, stack in torch_layout(variables, str(path)).items()}


def _variables(file: Any, path: Path) -> dict[str, Tensor]:
    root = file.get("model_weights", file)
    if "layer_names" not in root.attrs:
        raise ZooError(
            f"{path}: expected Keras's attribute layer_names, as model.save('x.h5') writes it; "
            "save the model again in that format."
        )
    variables: dict[str, Tensor] = {}
    for layer in map(_text, root.attrs["layer_names"]):
        for name in map(_text, root[layer].attrs["weight_names"]):
            data = root[layer][name]
            # A link to another file, or data that lies in one: a path out of the folder.
            elsewhere = data.file.filename != file.filename or data.external or data.is_virtual
            variable = f"{layer}/{name.rpartition('/')[2]}"
            if elsewhere or data.dtype.kind != "f" or variable in variables:
                raise ZooError(
                    f"{path}: the variable {name!r} of the layer {layer!r} must lie in this file, "
                    "hold floating-point numbers, and be the only one of its name."
                )
            variables[variable] = torch.from_numpy(np.asarray(data[()]))[None]
    return variables


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
