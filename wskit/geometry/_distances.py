"""Distances between models, and angles between their updates, read block by block."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy.linalg.blas import dsyrk
from torch import Tensor
from tqdm.auto import tqdm

from wskit._checks import check_choice, check_weights
from wskit.errors import GeometryError
from wskit.geometry._layout import Layout, check, header, layout_of

By = Literal["model", "layer", "tensor"]
"""What one distance is measured over: all weights, those of a layer (the tensors whose names are
equal up to the last dot), or one tensor."""

_CLOSE = 1e-7  # of |a|^2 + |b|^2: below it, |a - b|^2 is not taken from the Gram matrix
_ROWS = 32  # models whose differences from one other are held at a time


@dataclass(frozen=True, eq=False)
class WeightDistances:
    """Squared distances between models, and the squared lengths of their updates.

    Everything else follows from these two by the law of cosines. Arrays are read-only float64.

    Attributes
    ----------
    groups : tuple of str
        What the weights were divided into: layers, tensors, or the one group "model".
    n_parameters : tuple of int
        Of each group.
    squared : array of shape (groups, models, models)
        Squared Euclidean distances within each group.
    squared_updates : array of shape (groups, models), or None
        Squared Euclidean distances from the base; None where there was no base.
    """

    groups: tuple[str, ...]
    n_parameters: tuple[int, ...]
    squared: Float64[np.ndarray, "groups models models"]
    squared_updates: Float64[np.ndarray, "groups models"] | None

    def euclidean(self, group: str | None = None) -> Float64[np.ndarray, "models models"]:
        """Euclidean distances between the models; in one group, or over all of them."""
        return np.sqrt(self._of(self.squared, group))

    def update_norms(self, group: str | None = None) -> Float64[np.ndarray, " models"]:
        """Lengths of the updates w - w0: the models' distances from the base."""
        return np.sqrt(self._of(self._updates(), group))

    def cosine(self, group: str | None = None) -> Float64[np.ndarray, "models models"]:
        """Cosines of the angles between updates; NaN beside a model whose update is 0.

        With lengths a, b and distance d, the cosine is (a^2 + b^2 - d^2)/(2 a b).
        """
        d2, a2 = self._of(self.squared, group), self._of(self._updates(), group)
        with np.errstate(invalid="ignore", divide="ignore"):
            cosine = (a2[:, None] + a2 - d2) / (2 * np.sqrt(a2[:, None] * a2))
        cosine[(a2 == 0)[:, None] | (a2 == 0)] = np.nan
        return np.clip(cosine, -1, 1)

    def angle(self, group: str | None = None) -> Float64[np.ndarray, "models models"]:
        """Angles between updates, in radians; NaN beside a model whose update is 0.

        With lengths a, b and distance d, tan^2(angle/2) = (d^2 - (a - b)^2)/((a + b)^2 - d^2).
        This form keeps small angles, which the arc cosine of a number close to 1 does not.
        """
        d2, a2 = self._of(self.squared, group), self._of(self._updates(), group)
        a, b = np.sqrt(a2)[:, None], np.sqrt(a2)
        above, below = np.maximum(d2 - (a - b) ** 2, 0), np.maximum((a + b) ** 2 - d2, 0)
        angle = 2 * np.arctan2(np.sqrt(above), np.sqrt(below))
        angle[(a == 0) | (b == 0)] = np.nan
        return angle

    def _updates(self) -> Float64[np.ndarray, "groups models"]:
        if self.squared_updates is None:
            raise GeometryError(
                "an update is w - w0, and these distances were computed without the base w0; "
                "call weight_distances(models, base)."
            )
        return self.squared_updates

    def _of(self, values: np.ndarray, group: str | None) -> np.ndarray:
        if group is None:
            return values.sum(axis=0)
        if group not in self.groups:
            raise GeometryError(
                f"there is no group {group!r}; the groups are {', '.join(self.groups[:8])}"
                f"{', ...' if len(self.groups) > 8 else ''}."
            )
        return values[self.groups.index(group)].copy()


def weight_distances(
    models: Sequence[Mapping[str, Tensor]] | Mapping[str, Tensor],
    base: Mapping[str, Tensor] | None = None,
    *,
    by: By = "model",
    names: Iterable[str] | None = None,
    block_bytes: int | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> WeightDistances:
    """Distances between all pairs of models, and the lengths of their updates from a base.

    Of every model, `block_bytes` hold the same few weights at a time, in float64. Their Gram
    matrix, measured from the models' mean, gives the distances. A pair so close that this would
    cancel (a squared distance under 1e-7 of what it is the difference of) is subtracted entry by
    entry instead, so that a distance keeps seven digits however close the models are, and that
    of equal models is 0.

    Parameters
    ----------
    models : sequence of mappings, or mapping of str to Tensor of shape (models, ...)
        Lazily opened checkpoints or state dicts; or a zoo's stacked weights. A tensor that is
        larger than its part of a block is asked for once a block: mapped files read only that
        part of it, a mapping that makes its tensors when they are read makes it again.
    base : mapping of str to Tensor, optional
        The weights w0 that updates w - w0 are measured from.
    by : {"model", "layer", "tensor"}, default "model"
        What the distances are divided into, see `By`. The results take 8 bytes for each group
        and pair of models.
    names : iterable of str, optional
        The tensors to measure, where models differ in the others (heads for different tasks). None
        means all floating tensors: running statistics of BatchNorm too, integer buffers not.
        Tied tensors count once.
    block_bytes : int, optional
        Of weights in float64 that are held at a time; it does not change the result but for
        rounding. None means 16 MiB, which a CPU's cache has a part of, and 1 GiB on a GPU, which
        needs more of them to be busy.
    device : torch.device or str, optional
        Where to compute. None means where the first tensor is.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    WeightDistances

    Raises
    ------
    GeometryError
        If there are no models, names or shapes differ, or a tensor holds NaN or inf.

    Examples
    --------
    >>> models = [{"w": torch.tensor([3.0, 0.0])}, {"w": torch.tensor([0.0, 4.0])}]
    >>> distances = weight_distances(models, {"w": torch.zeros(2)})
    >>> distances.euclidean()
    array([[0., 5.],
           [5., 0.]])
    >>> distances.update_norms(), distances.cosine()[0, 1]
    (array([3., 4.]), np.float64(0.0))
    """
    check_choice(by, By, GeometryError, "by")
    source = _Stacked(models) if isinstance(models, Mapping) else _Listed(models)
    layout = source.layout(names)
    if base is not None:
        check(base, layout, "the weights of the base")
    n = len(source)
    place = torch.device(device or source.device(layout.slots[0].name))
    if block_bytes is None:
        block_bytes = 2**24 if place.type == "cpu" else 2**30
    columns = max(1, block_bytes // (8 * n))
    sizes: dict[str, int] = {}
    for slot in layout.slots:
        group = _group(slot.name, by)
        sizes[group] = sizes.get(group, 0) + slot.stop - slot.start
    squared = torch.zeros(len(sizes), n, n, dtype=torch.float64, device=place)
    updates = torch.zeros(len(sizes), n, dtype=torch.float64, device=place)
    order = list(sizes)
    for slot in tqdm(layout.slots, disable=not progress, unit="tensor"):
        g = order.index(_group(slot.name, by))
        size = slot.stop - slot.start
        for start in range(0, size, columns):
            stop = min(start + columns, size)
            block = torch.empty(n, stop - start, dtype=torch.float64, device=place)
            source.fill(block, slot.name, start, stop)
            updates[g] += _subtract_origin(block, base, slot.name, start)
            block -= block.mean(dim=0)
            squared[g] += _squared_distances(block)
            del block  # before the next is made: two at a time are twice the memory
    return WeightDistances(
        groups=tuple(order),
        n_parameters=tuple(sizes.values()),
        squared=_read_only(squared),
        squared_updates=None if base is None else _read_only(updates),
    )


class _Listed:
    """Models one by one; a model is asked for again for every tensor, and none is kept."""

    def __init__(self, models: Sequence[Mapping[str, Tensor]]) -> None:
        if len(models) == 0:
            raise GeometryError("distances need models, and there are none; give one at least.")
        self._models = models

    def __len__(self) -> int:
        return len(self._models)

    def layout(self, names: Iterable[str] | None) -> Layout:
        layout = layout_of(self._models[0], names=names)
        for i in range(1, len(self)):
            check(self._models[i], layout, f"the weights of model {i}")
        return layout

    def device(self, name: str) -> torch.device:
        return self._models[0][name].device

    def fill(self, block: Tensor, name: str, start: int, stop: int) -> None:
        if block.is_cuda:  # one call for all, where many small ones are slow
            flat = [model[name].detach().reshape(-1)[start:stop] for model in self._models]
            block.copy_(torch.stack([part.to(block.device) for part in flat]))
            return
        for i in range(len(self)):
            block[i].copy_(self._models[i][name].detach().reshape(-1)[start:stop])


class _Stacked:
    """Models as entries of stacked tensors."""

    def __init__(self, stacks: Mapping[str, Tensor]) -> None:
        check_weights(stacks, GeometryError, "the stacked weights")
        lengths = {}
        for name in stacks:
            shape = header(stacks, name)[0]
            lengths[name] = shape[0] if shape else 0
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise GeometryError(
                "stacked weights have an entry a model on the first axis of every tensor, and "
                f"here the first axes are {lengths}; give a single model in a list."
            )
        self._stacks, self._n = stacks, next(iter(lengths.values()))

    def __len__(self) -> int:
        return self._n

    def layout(self, names: Iterable[str] | None) -> Layout:
        return layout_of({name: self._stacks[name][0] for name in self._stacks}, names=names)

    def device(self, name: str) -> torch.device:
        return self._stacks[name].device

    def fill(self, block: Tensor, name: str, start: int, stop: int) -> None:
        block.copy_(self._stacks[name].detach().reshape(self._n, -1)[:, start:stop])


def _group(name: str, by: By) -> str:
    if by == "layer":
        return name.rpartition(".")[0] or name
    return name if by == "tensor" else "model"


def _subtract_origin(
    block: Float[Tensor, "models columns"], base: Mapping[str, Tensor] | None, name: str, start: int
) -> Float[Tensor, " models"]:
    """Measure weights from the base, or else from the first model; return squared lengths.

    What all models have in common is then exactly 0, and stays so.
    """
    stop = start + block.shape[1]
    if base is None:
        origin = block[0].clone()
    else:
        origin = base[name].detach().reshape(-1)[start:stop].to(block)
        if not torch.isfinite(origin).all():
            raise GeometryError(
                f"tensor {name!r} of the base holds NaN or inf; give a base that did not diverge."
            )
    bad = ~torch.isfinite(torch.linalg.vector_norm(block, dim=1))
    if bad.any():
        raise GeometryError(
            f"tensor {name!r} of model {int(bad.nonzero()[0])} holds NaN or inf, and so do "
            f"{int(bad.sum()) - 1} other models there; leave out the models that diverged."
        )
    block -= origin
    return torch.linalg.vector_norm(block, dim=1).square()


def _squared_distances(block: Float[Tensor, "models columns"]) -> Float[Tensor, "models models"]:
    """Squared distances between rows; of rows too close for that, not from the Gram matrix."""
    squared = _gram(block)
    lengths = squared.diagonal().clone()
    squared.mul_(-2).add_(lengths[:, None]).add_(lengths)
    close = squared < _CLOSE * (lengths[:, None] + lengths)
    close.fill_diagonal_(False)
    for i in close.any(dim=1).nonzero().flatten().tolist():
        for rows in (close[i, i:].nonzero().flatten() + i).split(_ROWS):
            exact = torch.linalg.vector_norm(block[rows] - block[i], dim=1).square()
            squared[i, rows] = squared[rows, i] = exact
    return squared.fill_diagonal_(0.0)


def _gram(block: Float[Tensor, "models columns"]) -> Float[Tensor, "models models"]:
    """Products of all rows; on a CPU half of them are computed, for they are symmetric."""
    if block.device.type != "cpu":
        return block @ block.mT
    upper = torch.from_numpy(dsyrk(1.0, block.numpy().T, trans=1))
    return upper + upper.triu(1).mT


def _read_only(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.cpu().numpy()
    array.flags.writeable = False
    return array
