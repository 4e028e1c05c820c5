"""Points of weight space: linear combinations of a few models, stacked."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from wskit._checks import check_weights
from wskit._weights import is_statistic
from wskit.errors import LandscapeError


def checked(models: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Read models, and raise a `LandscapeError` unless they can be mixed.

    They must have the same names and shapes, on which the first decides, and finite values.
    """
    if len(models) == 0:
        raise LandscapeError("there are no models; give one at least.")
    for number, model in enumerate(models, start=1):
        check_weights(model, LandscapeError, f"model {number}")
    first = {name: tensor.detach() for name, tensor in models[0].items()}
    if not any(tensor.is_floating_point() for tensor in first.values()):
        raise LandscapeError(
            "the first model holds no floating-point tensor to move along; convert one."
        )
    result = []
    for number, model in enumerate(models, start=1):
        only = sorted(set(model) ^ set(first))
        if only:
            raise LandscapeError(
                f"tensor {only[0]!r} is in only one of the models 1 and {number} ({len(only)} "
                "such names); models of one architecture are needed."
            )
        read = {name: model[name].detach() for name in first}
        for name, tensor in read.items():
            if tensor.shape != first[name].shape:
                raise LandscapeError(
                    f"tensor {name!r} has the shape {tuple(first[name].shape)} in model 1 and "
                    f"{tuple(tensor.shape)} in model {number}; models of one architecture are "
                    "needed."
                )
            if tensor.is_complex() or tensor.is_floating_point() != first[name].is_floating_point():
                raise LandscapeError(
                    f"tensor {name!r} is {first[name].dtype} in model 1 and {tensor.dtype} in "
                    f"model {number}; it must be real, and floating-point in all or in none."
                )
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise LandscapeError(
                    f"tensor {name!r} of model {number} holds NaN or inf; leave that model out."
                )
        result.append(read)
    return result


def mix(
    anchors: Sequence[Mapping[str, Tensor]], coefficients: Float64[np.ndarray, "points anchors"]
) -> dict[str, Tensor]:
    """Stack the sums of coefficient times anchor; tensors of integers are those of the first.

    Sums are made in float32 or better and rounded once to the first anchor's dtype.
    """
    result = {}
    for name, first in anchors[0].items():
        shape = (len(coefficients), *first.shape)
        if first.is_floating_point():
            dtype = torch.promote_types(first.dtype, torch.float32)
            each = torch.stack([anchor[name].to(first.device, dtype) for anchor in anchors])
            c = torch.tensor(coefficients, dtype=dtype, device=first.device)
            result[name] = (c @ each.reshape(len(anchors), -1)).to(first.dtype).view(shape)
        else:
            result[name] = first.clone().expand(shape)
    return result


def weight_names(weights: Mapping[str, Tensor]) -> list[str]:
    """Names of what distances and directions are made of.

    Floating-point tensors, but for the running statistics of a batch norm: these follow from the
    weights and the data, and a variance that is moved at random turns negative.
    """
    return [
        name
        for name, tensor in weights.items()
        if tensor.is_floating_point() and not is_statistic(name)
    ]


def grams(
    models: Sequence[Mapping[str, Tensor]], origin: Mapping[str, Tensor]
) -> Float64[np.ndarray, "tensors models models"]:
    """Inner products of the models' differences from the origin, tensor by tensor, in float64."""
    result = []
    for name in weight_names(origin):
        start = origin[name].double().flatten()
        each = [model[name].to(start.device).double().flatten() - start for model in models]
        d = torch.stack(each)
        result.append((d @ d.T).cpu().numpy())
    return np.stack(result)
