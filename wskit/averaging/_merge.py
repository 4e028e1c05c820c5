"""The engine: merges that compute their tensors on access, and sums of models."""

import math
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from wskit._base.layout import Layout
from wskit._base.weights import LazyWeights, all_finite, block_size, nonfinite_error
from wskit.errors import AveragingError

SUM_TOLERANCE = 1e-6  # coefficients that were computed in float32 sum to 1 within this


def read_entries(weights: Mapping[str, Tensor], name: str, part: slice) -> Tensor:
    """Return a part of a flattened tensor: a view where it is in memory, else these entries."""
    if isinstance(weights, LazyWeights) and not weights.views and part != slice(None):
        return weights.read_block(name, part.start, part.stop)
    return weights[name].detach().reshape(-1)[part]


def make_reader(weights: Mapping[str, Tensor], name: str) -> Callable[[slice], Tensor]:
    """Return a function that reads parts of a flattened tensor, at the cost of one reading."""
    if isinstance(weights, LazyWeights) and weights.block_reads:
        return lambda part: read_entries(weights, name, part)
    whole = read_entries(weights, name, slice(None))
    return lambda part: whole[part]


class LazyMerge(LazyWeights):
    """A model that is computed from others, tensor by tensor, on access.

    Floating-point tensors follow a rule, `_values`. The others are those of the layout. Several
    threads may read at once.

    Parameters
    ----------
    layout : Layout
        Names, shapes, dtypes and ties of the result.
    ingredients : mapping of str to mapping of str to Tensor
        The models by the labels that messages call them.
    """

    def __init__(self, layout: Layout, ingredients: Mapping[str, Mapping[str, Tensor]]) -> None:
        self._layout, self._ingredients = layout, ingredients

    @abstractmethod
    def _values(self, name: str, part: slice) -> Tensor:
        """Merge a part of a flattened tensor, in float32 or better.

        NaN or inf in an ingredient must raise, or leave NaN or inf in the result.
        """

    def __getitem__(self, name: str) -> Tensor:
        return self.read_block(name).view(self.shape(name))

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

    @property
    def block_reads(self) -> bool:
        models = self._ingredients.values()
        return all(m.block_reads for m in models if isinstance(m, LazyWeights))

    def read(self) -> dict[str, Tensor]:
        """Compute all tensors, tied ones once."""
        result: dict[str, Tensor] = {}
        for name, shape in self._layout.shapes.items():
            owner = self._layout.ties.get(name, name)
            if owner in result:
                result[name] = result[owner]
            else:
                result[name] = self._compute(name, slice(None)).view(shape)
        self._check_on_device({name: result[name] for name in self._layout.spans})
        return result

    def read_block(
        self,
        name: str,
        start: int | None = None,
        stop: int | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        result = self._compute(name, slice(start, stop), out)
        if self._layout.ties.get(name, name) in self._layout.spans:
            self._check_on_device({name: result})
        return result

    def _compute(self, name: str, part: slice, out: Tensor | None = None) -> Tensor:
        """Compute a part of a flattened tensor in its dtype, in `out` or in memory of its own."""
        if name not in self._layout.shapes:
            raise KeyError(name)
        owner = self._layout.ties.get(name, name)
        if owner in self._layout.others:
            found = self._layout.others[owner].reshape(-1)[part]
            return found.clone() if out is None else out.copy_(found)
        values = self._values(owner, part)
        result = values.to(self._layout.dtypes[name]) if out is None else out.copy_(values)
        self._check(result, owner)
        return result

    def _check(self, x: Tensor, name: str) -> None:
        """Raise where a CPU's tensor is not finite: once for all ingredients."""
        if not _waits(x.device) and not all_finite(x):
            raise self._find_nonfinite(name)

    def _check_on_device(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise unless tensors on a GPU are finite. It is waited for once, not for each tensor."""
        left = {name: tensor for name, tensor in tensors.items() if _waits(tensor.device)}
        if not left:
            return
        device = next(iter(left.values())).device
        wide = [(x, torch.promote_types(x.dtype, torch.float32)) for x in left.values()]
        sums = torch.stack([x.sum(dtype=dtype).to(device) for x, dtype in wide]).tolist()
        for (name, tensor), total in zip(left.items(), sums, strict=True):
            if not math.isfinite(total) and not all_finite(tensor):  # a sum may overflow
                raise self._find_nonfinite(self._layout.ties.get(name, name))

    def _find_nonfinite(self, name: str) -> Exception:
        """Find the model whose tensor is not finite, by reading it once more."""
        for label, model in self._ingredients.items():
            tensor = model[name].detach()
            if not all_finite(tensor):
                return nonfinite_error(tensor, name, label, AveragingError)
        return AveragingError(
            f"tensor {name!r} of the result overflows {self._layout.dtypes[name]}; convert the "
            "models to a wider dtype, or check the coefficients."
        )


class LinearMerge(LazyMerge):
    """The sum over i of c_i theta_i; the mean where the coefficients are None."""

    def __init__(
        self,
        layout: Layout,
        ingredients: Mapping[str, Mapping[str, Tensor]],
        coefficients: list[float] | None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(layout, ingredients)
        self._constants, self._dtype = coefficients, dtype
        self._views: dict[tuple[int, str], Tensor] = {}
        self._local = threading.local()

    @property
    def block_entries(self) -> int:
        return 2**20 if self._in_memory else super().block_entries

    @property
    def _in_memory(self) -> bool:
        """Whether all tensors are in memory, or mapped there."""
        models = self._ingredients.values()
        return all(isinstance(m, dict) or (isinstance(m, LazyWeights) and m.views) for m in models)

    def _coefficients(self, name: str) -> list[float] | None:
        return self._constants

    def _values(self, name: str, part: slice) -> Tensor:
        models = self._ingredients.values()
        return self._sum(name, (read_entries(model, name, part) for model in models))

    def _compute(self, name: str, part: slice, out: Tensor | None = None) -> Tensor:
        """Sum what is in memory, or mapped there, in pieces that stay in the cache."""
        owner = self._layout.ties.get(name, name)
        if not self._in_memory or owner not in self._layout.spans:
            return super()._compute(name, part, out)
        models = enumerate(self._ingredients.values())
        views = [self._view(number, model, owner)[part] for number, model in models]
        if out is None:
            out = torch.empty_like(views[0], dtype=self._layout.dtypes[owner])
        dtype, step = torch.promote_types(out.dtype, self._dtype), block_size(out.device) // 2
        c = self._coefficients(owner)
        # A mean lies between finite numbers; another sum may be too large for a narrow dtype.
        mean = c is None or (min(c) >= 0 and abs(sum(c) - 1) < SUM_TOLERANCE)
        for low in range(0, len(out), step):
            piece = out[low : low + step]
            total = piece if out.dtype == dtype else self._scratch(piece, dtype)[0]
            self._sum(owner, [view[low : low + step] for view in views], total)
            if total is not piece:
                piece.copy_(total)
            self._check(total if mean else piece, owner)
        return out

    def _sum(self, name: str, parts: Iterable[Tensor], total: Tensor | None = None) -> Tensor:
        """Sum a part of each model's tensor, one after the other, in `total` or a new tensor."""
        coefficients, n = self._coefficients(name), len(self._ingredients)
        parts = iter(parts)
        first = next(parts)
        if total is None:
            dtype = torch.promote_types(first.dtype, self._dtype)
            total = torch.empty_like(first, dtype=dtype).copy_(first)
            first = total  # frees what was read before the next model is
        elif (
            n == 1
            or coefficients is not None
            or first.dtype != total.dtype
            or first.device != total.device
        ):
            first = total.copy_(first)
        if coefficients is not None and coefficients[0] != 1:
            total *= coefficients[0]
        dtype, device = total.dtype, total.device
        for c in [1.0] * (n - 1) if coefficients is None else coefficients[1:]:
            values = next(parts)
            if values.dtype == dtype and values.device == device:
                torch.add(first, values, alpha=c, out=total)
            else:  # convert in a small buffer, which stays in the cache
                step = block_size(device) // 4
                for low in range(0, len(total), step):
                    piece = total[low : low + step]
                    converted = self._scratch(piece, dtype)[1].copy_(values[low : low + step])
                    torch.add(first[low : low + step], converted, alpha=c, out=piece)
            first = total
            del values  # frees it before the next model is read
        if coefficients is None:  # divide once, which rounds less than a product for each model
            # By a power of two a product is the same number, and faster.
            return total.div_(n) if n & (n - 1) else total.mul_(1 / n)
        return total

    def _scratch(self, like: Tensor, dtype: torch.dtype) -> Tensor:
        """Return memory for a piece and for a converted one, which each thread makes once."""
        n, device, kept = len(like), like.device, getattr(self._local, "kept", None)
        if kept is None or kept.shape[1] < n or (kept.dtype, kept.device) != (dtype, device):
            kept = self._local.kept = torch.empty(2, n, dtype=dtype, device=device)
        return kept[:, :n]

    def _view(self, number: int, model: Mapping[str, Tensor], name: str) -> Tensor:
        """Return a flattened tensor; open a mapped file's once, which costs as much as its sum."""
        if isinstance(model, dict):
            return read_entries(model, name, slice(None))
        if (number, name) not in self._views:
            self._views[number, name] = read_entries(model, name, slice(None))
        return self._views[number, name]


def _waits(device: torch.device) -> bool:
    """Return whether reading a number waits for all work before it, as on a GPU."""
    return device.type != "cpu"
