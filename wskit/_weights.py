"""What the names and the memory of a model's tensors tell."""

from collections.abc import Mapping

from torch import Tensor

_STATISTICS = ("running_mean", "running_var")


def is_statistic(name: str) -> bool:
    """Tell what follows from the weights and the data: no direction in which training moves."""
    return name.rpartition(".")[2] in _STATISTICS


def ties(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of tied tensors, each with the first name of the same memory."""
    if hasattr(weights, "ties"):
        return dict(weights.ties)
    if not isinstance(weights, dict):  # an address tells nothing once its tensor is gone
        return {}
    first: dict[object, str] = {}
    found = {}
    for name, tensor in weights.items():
        if isinstance(tensor, Tensor) and tensor.numel():
            place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            owner = first.setdefault(place, name)
            if owner != name:
                found[name] = owner
    return found
