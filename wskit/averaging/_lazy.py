"""Merged models whose tensors are computed when they are read."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from wskit._base.weights import LazyWeights
from wskit._weights import Layout, all_finite, diverged, waits
from wskit.errors import AveragingError


def entries(weights: Mapping[str, Tensor], name: str, part: slice) -> Tensor:
    """Read a part of a flat tensor; a merge computes no more than that, of others it is a view."""
    if isinstance(weights, LazyMerge) and part != slice(None):
        return weights.read_block(name, part.start, part.stop)
    return weights[name].detach().reshape(-1)[part]


def reader(weights: Mapping[str, Tensor], name: str) -> Callable[[slice], Tensor]:
    """Return what reads parts of a flat tensor, all of them for the cost of the whole."""
    if isinstance(weights, LazyMerge) and weights.block_reads:
        return lambda part: entries(weights, name, part)
    whole = entries(weights, name, slice(None))
    return lambda part: whole[part]


class LazyMerge(LazyWeights):
    """A mapping with a model's header, each of whose tensors is computed when it is asked for.

    Floating-point tensors follow a rule, `_values`; the others are those of the layout. Several
    threads may read at once.

    Parameters
    ----------
    layout : Layout
        Names, shapes, dtypes and ties of the result.
    ingredients : mapping of str to mappings
        What messages call each model, and the model.
    """

    def __init__(self, layout: Layout, ingredients: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.layout, self._ingredients = layout, ingredients

    @abstractmethod
    def _values(self, name: str, part: slice) -> Tensor:
        """Merge a part of a flat tensor, in float32 or better.

        NaN or inf in an ingredient must raise, or leave NaN or inf behind.
        """

    @property
    def block_reads(self) -> bool:
        """Whether a block costs its entries only.

        It costs its whole tensor where that of an ingredient must be read, as from an ``.npz``.
        """
        models = self._ingredients.values()
        return all(getattr(m, "block_reads", getattr(m, "views", True)) for m in models)

    @property
    def block_entries(self) -> int:
        """How many entries to read at a time: a rule with many intermediate results takes fewer."""
        return 2**18

    def __getitem__(self, name: str) -> Tensor:
        return self._rounded(name, slice(None)).view(self.layout.shapes[name])

    def __contains__(self, name: object) -> bool:
        return name in self.layout.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout.shapes)

    def __len__(self) -> int:
        return len(self.layout.shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.layout.shapes[name]

    def dtype(self, name: str) -> torch.dtype:
        return self.layout.dtypes[name]

    @property
    def ties(self) -> Mapping[str, str]:
        return dict(self.layout.ties)

    def read(self) -> dict[str, Tensor]:
        """Compute every tensor, tied ones once."""
        result: dict[str, Tensor] = {}
        for name, shape in self.layout.shapes.items():
            owner = self.layout.ties.get(name, name)
            if owner in result:
                result[name] = result[owner]
            else:
                result[name] = self._rounded(name, slice(None), later=True).view(shape)
        self._look({name: result[name] for name in self.layout.spans})
        return result

    def read_block(self, name: str, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        """Compute the entries start:stop of a flat tensor, in its dtype; in `out`, where given."""
        return self._rounded(name, slice(start, stop), out)

    def _rounded(
        self, name: str, part: slice, out: Tensor | None = None, *, later: bool = False
    ) -> Tensor:
        """Compute a part of a flat tensor, in `out` or as memory of its own.

        With `later` the caller has `_look` find NaN in what is on a GPU.
        """
        if name not in self.layout.shapes:
            raise KeyError(name)
        owner = self.layout.ties.get(name, name)
        if owner in self.layout.others:
            found = self.layout.others[owner].reshape(-1)[part]
            return found.clone() if out is None else out.copy_(found)
        values = self._values(owner, part)
        result = values.to(self.layout.dtypes[name]) if out is None else out.copy_(values)
        self._check(result, owner, later=later)  # once for all models
        return result

    def _check(self, x: Tensor, name: str, *, later: bool) -> None:
        if not (later and waits(x.device)) and not all_finite(x):
            raise self._diverged(name)

    def _look(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise unless what `_check` has left is finite; a GPU is waited for once, and not each."""
        left = {name: tensor for name, tensor in tensors.items() if waits(tensor.device)}
        if not left:
            return
        device = next(iter(left.values())).device
        wide = [(x, torch.promote_types(x.dtype, torch.float32)) for x in left.values()]
        sums = torch.stack([x.sum(dtype=dtype).to(device) for x, dtype in wide]).tolist()
        for (name, tensor), total in zip(left.items(), sums, strict=True):
            if not math.isfinite(total):  # it may have overflowed
                self._check(tensor, name, later=False)

    def _diverged(self, name: str) -> AveragingError:
        """Find the model whose tensor is not finite; they are read once more."""
        for label, model in self._ingredients.items():
            tensor = model[name].detach()
            if not all_finite(tensor):
                return diverged(tensor, name, label)
        return AveragingError(
            f"tensor {name!r} of the result overflows {self.layout.dtypes[name]}; convert the "
            "models to a wider dtype first."
        )
