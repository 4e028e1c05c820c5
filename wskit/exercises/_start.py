"""The self-check of tutorial 00: symmetries."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from wskit.exercises._verdict import AnswerError, Verdict, verdict_on


def check_permute_hidden(permute_hidden: object) -> Verdict:
    """Check exercise 0.1: ``permute_hidden(weights, order)`` moves the hidden neurons of an MLP.

    Parameters
    ----------
    permute_hidden : callable
        Takes the ``state_dict`` of ``Sequential(Linear, ReLU, Linear)`` and `order`, a tensor of
        shape (n_hidden,), and returns new weights in which hidden neuron i is the old one
        ``order[i]``.

    Returns
    -------
    Verdict
    """
    return verdict_on(_permute_hidden, permute_hidden, "same function, other weights.")


def _permute_hidden(permute_hidden: Callable[..., Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"0.weight": (5, 3), "0.bias": (5,), "2.weight": (2, 5), "2.bias": (2,)}
    weights = {k: torch.randn(*shape, generator=generator) for k, shape in shapes.items()}
    before = {k: W.clone() for k, W in weights.items()}
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = permute_hidden(weights, order)
    if not isinstance(moved, Mapping) or set(moved) != set(weights):
        raise AnswerError(f"return a dict with the names {sorted(weights)}.")
    for k, W in moved.items():
        if not isinstance(W, Tensor) or W.shape != weights[k].shape:
            raise AnswerError(f"{k!r} must stay a tensor of shape {tuple(before[k].shape)}.")
    if any(not torch.equal(weights[k], before[k]) for k in weights):
        raise AnswerError("the weights that were given have changed; make new ones instead.")
    if all(torch.equal(moved[k], before[k]) for k in moved):
        raise AnswerError("these are the weights that were given; no neuron has moved.")
    if not torch.equal(moved["2.bias"], before["2.bias"]):
        raise AnswerError("'2.bias' belongs to the outputs, which stay where they are.")

    def output(w: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return torch.relu(x @ w["0.weight"].T + w["0.bias"]) @ w["2.weight"].T + w["2.bias"]

    x = torch.randn(20, 3, generator=generator)
    if not torch.allclose(output(moved, x), output(before, x), atol=1e-5):
        raise AnswerError(
            "the function has changed. A hidden neuron owns a part of three tensors: all of "
            "them must move, along the axis that counts hidden neurons, and in the same order."
        )
    if not torch.equal(moved["0.bias"], before["0.bias"][order]):
        raise AnswerError("the function is the same, but neuron i must be the old neuron order[i].")
