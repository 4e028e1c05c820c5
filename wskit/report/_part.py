"""Some tensors of a set of weights."""

from collections.abc import Collection, Iterator

from torch import Tensor

from wskit.checkpoints import Checkpoint
from wskit.spectra import LazyWeights


class Part(LazyWeights):
    """A mapping with some of the names of another, which holds the tensor that was read last.

    A tensor of a mapped file is copied when it is read: what is mapped stays in memory for as long
    as the system likes, and two files of 1 GB would count as 2 GB.

    Parameters
    ----------
    weights : Checkpoint
    names : collection of str

    Examples
    --------
    >>> import torch
    >>> from wskit.checkpoints import open_checkpoint
    >>> list(Part(open_checkpoint({"a": torch.ones(1), "b": torch.ones(2)}), ["b"]))
    ['b']
    """

    def __init__(self, weights: Checkpoint, names: Collection[str]) -> None:
        super().__init__(weights, self._read_whole, weights.rows)
        self._weights, self._names = weights, dict.fromkeys(names)
        self._last: tuple[str, Tensor] | None = None

    def _read_whole(self, name: str) -> Tensor:
        if self._last is None or self._last[0] != name:
            self._last = None  # before the next is read: two at a time are twice the memory
            shape = self._weights.shape(name)
            W = self._weights.rows(name, 0, shape[0]) if shape else self._weights[name]
            self._last = name, W
        return self._last[1]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
