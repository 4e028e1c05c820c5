"""Merged models whose tensors are computed when they are read."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from wskit.averaging._layout import Layout, all_finite, diverged
from wskit.errors import AveragingError


class LazyMerge(Mapping[str, Tensor], ABC):
    """A mapping with a model's header, each of whose tensors is computed when it is asked for.

    Floating-point tensors follow a rule, `_values`; the others are those of the layout. Nothing
    is kept, so that several threads may read at once.

    Parameters
    ----------
    layout : Layout
        Names, shapes, dtypes and ties of the result.
    ingredients : mapping of str to mappings
        What messages call each model, and the model.
    """

    block_reads: ClassVar[bool] = False
    """Whether a block costs its entries only; otherwise it costs its whole tensor."""

    def __init__(self, layout: Layout, ingredients: Mapping[str, Mapping[str, Tensor]]) -> None:
        self._layout, self._ingredients = layout, ingredients

    @abstractmethod
    def _values(self, name: str, part: slice) -> Tensor:
        """Merge a part of a flat tensor, in float32 or better.

        Where not `block_reads` the part is always the whole tensor. Of NaN or inf in an ingredient
        NaN or inf must be left.
        """

    def __getitem__(self, name: str) -> Tensor:
        return self._rounded(name, slice(None)).view(self._layout.shapes[name])

    def __contains__(self, name: object) -> bool:
        return name in self._layout.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._layout.shapes)

    def __len__(self) -> int:
        return len(self._layout.shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._layout.shapes[name]

    def dtype(self, name: str) -> torch.dtype:
        return self._layout.dtypes[name]

    @property
    def ties(self) -> Mapping[str, str]:
        return dict(self._layout.ties)

    def read(self) -> dict[str, Tensor]:
        """Compute every tensor, tied ones once."""
        result: dict[str, Tensor] = {}
        for name in self:
            owner = self._layout.ties.get(name, name)
            result[name] = result[owner] if owner in result else self[name]
        return result

    def read_block(self, name: str, start: int, stop: int) -> Tensor:
        """Compute the entries start:stop of a flat tensor, in its dtype."""
        if self.block_reads:
            return self._rounded(name, slice(start, stop))
        return self._rounded(name, slice(None))[start:stop]

    def _rounded(self, name: str, part: slice) -> Tensor:
        """Compute a part of a flat tensor, as memory of its own."""
        if name not in self._layout.shapes:
            raise KeyError(name)
        owner = self._layout.ties.get(name, name)
        if owner in self._layout.others:
            return self._layout.others[owner].reshape(-1)[part].clone()
        result = self._values(owner, part).to(self._layout.dtypes[name])
        if not all_finite(result):  # one check for all models
            raise self._diverged(owner)
        return result

    def _diverged(self, name: str) -> AveragingError:
        """Find the model whose tensor is not finite; they are read once more."""
        for label, model in self._ingredients.items():
            tensor = model[name].detach()
            if not all_finite(tensor):
                return diverged(tensor, name, label)
        return AveragingError(
            f"tensor {name!r} of the result overflows {self._layout.dtypes[name]}; convert the "
            "models to a wider dtype first."
        )
