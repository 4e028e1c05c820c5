"""The self-checks of tutorial 00: weights, their symmetries, and files of them."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wskit.errors import WskitError
from wskit.exercises._verdict import AnswerError, Verdict, as_number, verdict_on

_SHAPES = {"0.weight": (5, 3), "0.bias": (5,), "2.weight": (2, 5), "2.bias": (2,)}
_ANSWERS = ("same", "other", "refused")
_DRAWS = (1, 2, 3)  # of mysteries, for an answer to be tried on


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
    weights, order = _small(), torch.tensor([3, 0, 4, 1, 2])
    before = _copy(weights)
    moved = permute_hidden(weights, order)
    _check_moved(moved, weights, before)
    if _change(moved, before) > 1e-5:
        raise AnswerError(
            "the function has changed. A hidden neuron owns a part of three tensors: all of "
            "them must move, along the axis that counts hidden neurons, and in the same order."
        )
    if not torch.equal(moved["0.bias"], before["0.bias"][order]):
        raise AnswerError("the function is the same, but neuron i must be the old neuron order[i].")


def check_count_weights(count_weights: object) -> Verdict:
    """Check exercise 0.2: ``count_weights(checkpoint)`` counts them and reads no tensor.

    Parameters
    ----------
    count_weights : callable
        Takes an opened checkpoint; returns the number of entries of all its floating-point
        tensors.

    Returns
    -------
    Verdict
    """
    return verdict_on(_count_weights, count_weights, "all are counted, and none was read.")


def _count_weights(count_weights: Callable[..., Any]) -> None:
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
    wrong = {
        len(weights): "this is the number of tensors; each has many entries.",
        len(floating): "this is the number of tensors; each has many entries.",
        sum(W.numel() for W in weights.values()): "whole numbers, such as counters, are no "
        "weights.",
        right - 1: "a scalar, of shape (), has one entry.",
        sum(W.nbytes for W in weights.values()) / 4: "not every number has four bytes.",
        sum(W.nbytes for W in floating) / 4: "not every number has four bytes.",
        sum(sum(W.shape) for W in floating): "the sides of a tensor are not to be added.",
    }
    if found != right:
        raise AnswerError(wrong.get(found, f"a checkpoint of {right} weights gave {found:g}."))
    if checkpoint.read:
        raise AnswerError(
            f"the number is right, but {len(checkpoint.read)} tensors were read for it; what does "
            "a checkpoint know without reading?"
        )


class _Unread(Mapping[str, Tensor]):
    """As an opened checkpoint; it remembers which tensors were read."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = weights
        self.read: set[str] = set()
        self.nbytes = sum(W.nbytes for W in weights.values())

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._weights[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._weights[name].dtype

    def __contains__(self, name: object) -> bool:
        return name in self._weights

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return self._weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def check_rescale_hidden(rescale_hidden: object) -> Verdict:
    """Check exercise 0.3: ``rescale_hidden(weights, c)`` stretches each hidden neuron by its own c.

    Parameters
    ----------
    rescale_hidden : callable
        Takes the ``state_dict`` of ``Sequential(Linear, ReLU, Linear)`` and `c`, a tensor of shape
        (n_hidden,), all above 0; returns new weights of the same function, in which what comes
        into hidden neuron i is ``c[i]`` times as large.

    Returns
    -------
    Verdict
    """
    return verdict_on(_rescale_hidden, rescale_hidden, "same function, a vector of another length.")


def _rescale_hidden(rescale_hidden: Callable[..., Any]) -> None:
    weights, c = _small(), torch.tensor([0.5, 2.0, 1.0, 3.0, 0.25])
    before = _copy(weights)
    moved = rescale_hidden(weights, c)
    _check_moved(moved, weights, before)
    if not torch.allclose(moved["0.weight"], c[:, None] * before["0.weight"]):
        raise AnswerError("the incoming weights of hidden neuron i must be c[i] times as large.")
    if torch.equal(moved["0.bias"], before["0.bias"]):
        raise AnswerError(
            "the function has changed: the bias of a neuron is added before relu as well."
        )
    if torch.allclose(moved["2.weight"], before["2.weight"] * c):
        raise AnswerError("the function has changed: what comes out is larger by c squared.")
    if _change(moved, before) > 1e-4:
        raise AnswerError(
            "the function has changed. What goes into a neuron is larger by c[i]; which weights "
            "take its output, and along which axis are neurons counted there?"
        )


def write_mysteries(weights: Mapping[str, Tensor], folder: Path, *, seed: int = 0) -> list[Path]:
    """Write the six files of exercise 0.4, of which some hold the function of `weights`.

    Parameters
    ----------
    weights
        The ``state_dict`` of ``Sequential(Linear, ReLU, Linear)``.
    folder
        An existing folder.
    seed
        Of what is drawn, the files' names among it.

    Returns
    -------
    list of Path
        In alphabetical order, which says nothing.
    """
    return sorted(_write_mysteries(weights, folder, seed).values())


def _write_mysteries(weights: Mapping[str, Tensor], folder: Path, seed: int) -> dict[str, Path]:
    """Return kinds and paths; see `_WRONG` for the kinds."""
    letters = torch.randperm(len(_WRONG), generator=torch.Generator().manual_seed(seed))
    paths = {kind: folder / "abcdef"[i] for kind, i in zip(_WRONG, letters, strict=True)}
    for kind, path in paths.items():
        suffix = ".pt" if kind in ("renumbered", "pickled") else ".safetensors"
        paths[kind] = path.with_suffix(suffix)
    found = _moved(weights, seed)
    torch.save(found["renumbered"], paths["renumbered"])
    for kind in ("rescaled", "rotated", "left"):
        save_file({name: W.contiguous() for name, W in found[kind].items()}, paths[kind])
    whole = paths["rescaled"].read_bytes()
    paths["cut"].write_bytes(whole[: len(whole) // 2])
    torch.save(nn.Sequential(nn.Linear(2, 2)), paths["pickled"])
    return paths


def _moved(weights: Mapping[str, Tensor], seed: int) -> dict[str, dict[str, Tensor]]:
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


_WRONG = {
    "renumbered": "whose neurons have other numbers and nothing else is new",
    "rescaled": "whose neurons have other numbers and other lengths",
    "rotated": "whose layers have the eigenvalues of the one that was given, and whose outputs are "
    "others",
    "left": "whose weights have moved and whose biases have not",
    "cut": "that ends in the middle",
    "pickled": "that would run code",
}


def check_sort_file(sort_file: object, weights: Mapping[str, Tensor]) -> Verdict:
    """Check exercise 0.4: ``sort_file(path, weights)`` tells what a file is to a network.

    Parameters
    ----------
    sort_file : callable
        Takes a path and the weights of a network; returns "same" if the file holds the same
        function, "other" if another one, and "refused" if it cannot be opened safely.
    weights
        The ``state_dict`` of ``Sequential(Linear, ReLU, Linear)``.

    Returns
    -------
    Verdict
        Passed if all files are sorted right: three draws of `write_mysteries`.
    """
    return verdict_on(lambda answer: _sort_file(answer, weights), sort_file, "")


def _sort_file(sort_file: Callable[..., Any], weights: Mapping[str, Tensor]) -> str:
    wrong: Counter[str] = Counter()
    for seed in _DRAWS:
        truth = {
            kind: "same" if _change(moved, weights) < 1e-3 else "other"
            for kind, moved in _moved(weights, seed).items()
        }
        with tempfile.TemporaryDirectory(prefix="wskit-mysteries-") as folder:
            for kind, path in _write_mysteries(weights, Path(folder), seed).items():
                found = _sorted(sort_file, path, weights)
                wrong[kind] += found != truth.get(kind, "refused")
    total = len(_DRAWS) * len(_WRONG)
    right = total - wrong.total()
    if right < total:
        kind = next(kind for kind in _WRONG if wrong[kind])
        raise AnswerError(f"{right} of {total} files are sorted right. Open one {_WRONG[kind]}.")
    return f"all {total} files are sorted right."


def _sorted(sort_file: Callable[..., Any], path: Path, weights: Mapping[str, Tensor]) -> str:
    try:
        found = sort_file(path, _copy(weights))
    except WskitError as error:
        raise AnswerError(
            f"a file that cannot be opened safely is to be sorted too, and {type(error).__name__} "
            "came out of your function."
        ) from None
    if not isinstance(found, str) or found not in _ANSWERS:
        raise AnswerError(f"return one of {', '.join(map(repr, _ANSWERS))}, not {found!r:.40}.")
    return found


def _small() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {k: torch.randn(*shape, generator=draw) for k, shape in _SHAPES.items()}


def _copy(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: W.detach().clone() for k, W in weights.items()}


def _check_moved(moved: Any, weights: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> None:
    if not isinstance(moved, Mapping) or set(moved) != set(before):
        raise AnswerError(f"return a dict with the names {sorted(before)}.")
    for k, W in moved.items():
        if not isinstance(W, Tensor) or W.shape != before[k].shape:
            raise AnswerError(f"{k!r} must stay a tensor of shape {tuple(before[k].shape)}.")
    if not all(W.isfinite().all() for W in moved.values()):
        raise AnswerError("there are entries that are not finite.")
    if any(not torch.equal(weights[k], before[k]) for k in before):
        raise AnswerError("the weights that were given have changed; make new ones instead.")
    if all(torch.equal(moved[k], before[k]) for k in moved):
        raise AnswerError("these are the weights that were given; no neuron has moved.")
    if not torch.equal(moved["2.bias"], before["2.bias"]):
        raise AnswerError("'2.bias' belongs to the outputs, which stay where they are.")


def _change(moved: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> float:
    """Return how far outputs differ at most, in units of the largest."""
    x = torch.randn(64, weights["0.weight"].shape[1], generator=torch.Generator().manual_seed(1))

    def outputs(w: Mapping[str, Tensor]) -> Tensor:
        return torch.relu(x @ w["0.weight"].T + w["0.bias"]) @ w["2.weight"].T + w["2.bias"]

    before = outputs(weights)
    return float((outputs(moved) - before).abs().max() / before.abs().max())
