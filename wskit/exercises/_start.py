"""The self-checks of tutorial 00: weights, their symmetries, and files of them."""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wskit._base.weights import DerivedWeights
from wskit.errors import WskitError
from wskit.exercises._verdict import (
    Answer,
    AnswerError,
    Weights,
    as_number,
    check_model,
    copy_model,
    diagnose,
    require,
    self_check,
    unchanged,
)

_SHAPES = {"0.weight": (5, 3), "0.bias": (5,), "2.weight": (2, 5), "2.bias": (2,)}
_ANSWERS = ("same", "other", "refused")
_DRAWS = (1, 2, 3)  # seeds of the mysteries that an answer is tried on


@self_check("same function, other weights.")
def check_permute_hidden(permute_hidden: Answer) -> None:
    """Check exercise 0.1: ``permute_hidden(weights, order)`` moves the hidden neurons of an MLP.

    It takes the ``state_dict`` of ``Sequential(Linear, ReLU, Linear)`` and `order`, a tensor of
    shape (n_hidden,), and returns new weights in which hidden neuron i is the old ``order[i]``.
    """
    weights, order = _small(), torch.tensor([3, 0, 4, 1, 2])
    with unchanged(weights):
        moved = permute_hidden(weights, order)
    _check_moved(moved, weights)
    require(
        _change(moved, weights) <= 1e-5,
        "the function has changed. A hidden neuron owns a part of three tensors: move all of them, "
        "along the axis that counts hidden neurons, and in the same order.",
    )
    same_order = torch.equal(moved["0.bias"], weights["0.bias"][order])
    require(same_order, "the function is the same, but neuron i must be the old neuron order[i].")


@self_check("all are counted, and none was read.")
def check_count_weights(count_weights: Answer) -> None:
    """Check exercise 0.2: ``count_weights(checkpoint)`` counts them and reads no tensor.

    It takes an opened checkpoint and returns the number of entries of all its floating-point
    tensors.
    """
    weights = {
        "conv.weight": torch.zeros(4, 3, 2, 2),
        "norm.num_batches_tracked": torch.tensor(7),
        "norm.ids": torch.arange(6),
        "fc.weight": torch.zeros(5, 4, dtype=torch.float16),
        "scale": torch.tensor(1.0),
    }
    checkpoint = _Unread(weights)
    found = as_number(count_weights(checkpoint))
    floating = [W for W in weights.values() if W.is_floating_point()]
    right = sum(W.numel() for W in floating)
    tensors = "this is the number of tensors; each has many entries."
    four_bytes = "not every number has four bytes."
    hints = {
        len(weights): tensors,
        len(floating): tensors,
        sum(W.numel() for W in weights.values()): "whole numbers, such as counters, are not "
        "weights.",
        right - 1: "a scalar, of shape (), has one entry.",
        sum(W.nbytes for W in weights.values()) / 4: four_bytes,
        sum(W.nbytes for W in floating) / 4: four_bytes,
        sum(sum(W.shape) for W in floating): "do not add the sides of a tensor.",
    }
    diagnose(found, right, hints, f"a checkpoint of {right} weights gave {found:g}.")
    require(
        not checkpoint.read,
        f"the number is right, but {len(checkpoint.read)} tensors were read for it; what does a "
        "checkpoint know without reading?",
    )


class _Unread(DerivedWeights):
    """A checkpoint that remembers which of its tensors were read."""

    def __init__(self, weights: Weights) -> None:
        super().__init__(weights)
        self.read: set[str] = set()
        self.nbytes = sum(W.nbytes for W in weights.values())

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return self._like[name]


@self_check("same function, a vector of another length.")
def check_rescale_hidden(rescale_hidden: Answer) -> None:
    """Check exercise 0.3: ``rescale_hidden(weights, c)`` stretches each hidden neuron by its own c.

    It takes the ``state_dict`` of ``Sequential(Linear, ReLU, Linear)`` and `c`, a tensor of shape
    (n_hidden,), all above 0. It returns new weights of the same function, in which what comes into
    hidden neuron i is ``c[i]`` times as large.
    """
    weights, c = _small(), torch.tensor([0.5, 2.0, 1.0, 3.0, 0.25])
    with unchanged(weights):
        moved = rescale_hidden(weights, c)
    _check_moved(moved, weights)
    scaled = torch.allclose(moved["0.weight"], c[:, None] * weights["0.weight"])
    require(scaled, "the incoming weights of hidden neuron i must be c[i] times as large.")
    require(
        not torch.equal(moved["0.bias"], weights["0.bias"]),
        "the function has changed: the bias of a neuron is added before relu as well.",
    )
    squared = torch.allclose(moved["2.weight"], weights["2.weight"] * c)
    require(not squared, "the function has changed: what comes out is larger by c squared.")
    require(
        _change(moved, weights) <= 1e-4,
        "the function has changed. What goes into a neuron is larger by c[i]; which weights take "
        "its output, and along which axis are neurons counted there?",
    )


def write_mysteries(weights: Weights, folder: Path, *, seed: int = 0) -> list[Path]:
    """Write the six files of exercise 0.4, of which some hold the function of `weights`.

    Parameters
    ----------
    weights : mapping of str to Tensor
        The ``state_dict`` of ``Sequential(Linear, ReLU, Linear)``.
    folder : Path
        An existing folder.
    seed : int, default 0
        Draws the weights and the names of the files.

    Returns
    -------
    list of Path
        In alphabetical order, which tells nothing.
    """
    return sorted(_write_mysteries(weights, folder, seed).values())


_KINDS = {
    "renumbered": "whose neurons have other numbers and nothing else is new",
    "rescaled": "whose neurons have other numbers and other lengths",
    "rotated": "whose layers have the eigenvalues of the one that was given, and whose outputs "
    "differ",
    "left": "whose weights have moved and whose biases have not",
    "cut": "that ends in the middle",
    "pickled": "that would run code",
}


def _write_mysteries(weights: Weights, folder: Path, seed: int) -> dict[str, Path]:
    """Return the path of each of `_KINDS`."""
    letters = torch.randperm(len(_KINDS), generator=torch.Generator().manual_seed(seed))
    paths = {kind: folder / "abcdef"[i] for kind, i in zip(_KINDS, letters, strict=True)}
    for kind, path in paths.items():
        suffix = ".pt" if kind in ("renumbered", "pickled") else ".safetensors"
        paths[kind] = path.with_suffix(suffix)
    found = _move(weights, seed)
    torch.save(found["renumbered"], paths["renumbered"])
    for kind in ("rescaled", "rotated", "left"):
        save_file({name: W.contiguous() for name, W in found[kind].items()}, paths[kind])
    whole = paths["rescaled"].read_bytes()
    paths["cut"].write_bytes(whole[: len(whole) // 2])
    torch.save(nn.Sequential(nn.Linear(2, 2)), paths["pickled"])
    return paths


def _move(weights: Weights, seed: int) -> dict[str, dict[str, Tensor]]:
    """Return networks with the same eigenvalues in each layer, or the same function, or both."""
    draw, n = torch.Generator().manual_seed(seed), len(weights["0.bias"])
    order = torch.randperm(n, generator=draw)
    renumbered = {
        "0.weight": weights["0.weight"][order],
        "0.bias": weights["0.bias"][order],
        "2.weight": weights["2.weight"][:, order],
        "2.bias": weights["2.bias"].clone(),
    }
    c = torch.exp(2 * torch.rand(n, generator=draw) - 1)
    rescaled = renumbered | {
        "0.weight": c[:, None] * renumbered["0.weight"],
        "0.bias": c * renumbered["0.bias"],
        "2.weight": renumbered["2.weight"] / c,
    }
    U = torch.linalg.qr(torch.randn(n, n, generator=draw))[0]
    rotated = renumbered | {
        "0.weight": U @ weights["0.weight"],
        "0.bias": U @ weights["0.bias"],
        "2.weight": weights["2.weight"] @ U.T,
    }
    left = renumbered | {"0.bias": weights["0.bias"].clone()}
    return {"renumbered": renumbered, "rescaled": rescaled, "rotated": rotated, "left": left}


@self_check()
def check_sort_file(sort_file: Answer, weights: Weights) -> str:
    """Check exercise 0.4: ``sort_file(path, weights)`` tells what a file is to a network.

    It takes a path and the weights of a network, the ``state_dict`` of ``Sequential(Linear, ReLU,
    Linear)``, and returns "same" if the file holds the same function, "other" if it holds another,
    and "refused" if it cannot be opened safely. All files of three draws of `write_mysteries` must
    be sorted right.
    """
    wrong: Counter[str] = Counter()
    for seed in _DRAWS:
        truth = {
            kind: "same" if _change(moved, weights) < 1e-3 else "other"
            for kind, moved in _move(weights, seed).items()
        }
        with tempfile.TemporaryDirectory(prefix="wskit-mysteries-") as folder:
            for kind, path in _write_mysteries(weights, Path(folder), seed).items():
                found = _sort(sort_file, path, weights)
                wrong[kind] += found != truth.get(kind, "refused")
    total = len(_DRAWS) * len(_KINDS)
    right = total - wrong.total()
    if right == total:
        return f"all {total} files are sorted right."
    kind = next(kind for kind in _KINDS if wrong[kind])
    raise AnswerError(f"{right} of {total} files are sorted right. Open one {_KINDS[kind]}.")


def _sort(sort_file: Answer, path: Path, weights: Weights) -> str:
    try:
        found = sort_file(path, copy_model(weights))
    except WskitError as error:
        raise AnswerError(
            f"sort a file that cannot be opened safely, too: {type(error).__name__} came out of "
            "your function."
        ) from None
    if not isinstance(found, str) or found not in _ANSWERS:
        raise AnswerError(f"return one of {', '.join(map(repr, _ANSWERS))}, not {found!r:.40}.")
    return found


def _small() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {k: torch.randn(*shape, generator=draw) for k, shape in _SHAPES.items()}


def _check_moved(moved: Any, weights: Weights) -> None:
    check_model(moved, weights)
    finite = all(W.isfinite().all() for W in moved.values())
    require(finite, "some entries are not finite.")
    same = all(torch.equal(moved[k], weights[k]) for k in moved)
    require(not same, "these are the weights that you were given; no neuron has moved.")
    outputs = torch.equal(moved["2.bias"], weights["2.bias"])
    require(outputs, "'2.bias' belongs to the outputs, which stay where they are.")


def _change(moved: Weights, weights: Weights) -> float:
    """Return the largest difference of outputs, in units of the largest output."""
    x = torch.randn(64, weights["0.weight"].shape[1], generator=torch.Generator().manual_seed(1))

    def outputs(w: Weights) -> Tensor:
        return torch.relu(x @ w["0.weight"].T + w["0.bias"]) @ w["2.weight"].T + w["2.bias"]

    before = outputs(weights)
    return float((outputs(moved) - before).abs().max() / before.abs().max())
