"""Task vectors, what a model has moved from its base, and merges that are made of them."""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from wskit._checks import check_choice, number, numbers
from wskit._weights import Layout, block_size, layout_of
from wskit.averaging._average import LinearMerge, numbered
from wskit.averaging._lazy import LazyMerge, entries, reader
from wskit.errors import AveragingError

_BASE = "the base"

_LARGEST_SCALE = 1e38


def task_vector(
    model: Mapping[str, Tensor], base: Mapping[str, Tensor], *, lazy: bool = False
) -> Mapping[str, Tensor]:
    """Return what a model has moved from its base, tau = theta - theta_base.

    Ilharco et al. 2023, arXiv:2212.04089. It is in float32, or float64 where the models are: a
    difference of two bfloat16 numbers is no bfloat16 number.

    Parameters
    ----------
    model, base : mappings of str to Tensor
        A fine-tuned model, and the one it was fine-tuned from.
    lazy : bool, default False
        As for `average`.

    Returns
    -------
    mapping of str to Tensor
        With the integer tensors of the base, so that it can be saved, or compared, as a model.

    Raises
    ------
    AveragingError
        As `average`; the two are called "the model" and "the base".

    Examples
    --------
    >>> task_vector({"w": torch.tensor([1.0, 5.0])}, {"w": torch.tensor([1.0, 2.0])})
    {'w': tensor([0., 3.])}
    """
    layout = layout_of(base, _BASE)
    layout.check(model, "the model")
    result = _difference(layout, base, model, "the model")
    return result if lazy else result.read()


def add_task_vectors(
    base: Mapping[str, Tensor],
    task_vectors: Sequence[Mapping[str, Tensor]],
    scale: float | ArrayLike = 1.0,
    *,
    lazy: bool = False,
) -> Mapping[str, Tensor]:
    """Add task vectors to a model: theta_base + the sum over i of scale_i tau_i.

    Task arithmetic (Ilharco et al. 2023, arXiv:2212.04089). The sum of several makes a model of
    several tasks; a negative scale makes one forget its task; ``[task_vector(b, a)]`` added to c
    makes the model that is to c as b is to a.

    Parameters
    ----------
    base : mapping of str to Tensor
    task_vectors : sequence of mappings of str to Tensor
        From `task_vector`; any floating-point dtypes.
    scale : float or array of shape (task_vectors,), default 1.0
        One for all, or one each. The paper takes one, found on held-out data.
    lazy : bool, default False
        As for `average`.

    Returns
    -------
    mapping of str to Tensor
        As `average` returns it, with the base's dtypes and integer tensors.

    Raises
    ------
    AveragingError
        As `average`; the first task vector is called model 1.

    Examples
    --------
    >>> base, model = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([1.0, 5.0])}
    >>> tau = task_vector(model, base)
    >>> add_task_vectors(base, [tau, tau], 0.5)["w"], add_task_vectors(base, [tau], -1.0)["w"]
    (tensor([1., 5.]), tensor([ 1., -1.]))
    """
    vectors = numbered(task_vectors)
    layout = layout_of(base, _BASE)
    for label, vector in vectors.items():
        layout.check(vector, label, any_float=True)
    scales = numbers(scale, AveragingError, "scale")
    if scales.shape not in ((), (len(vectors),)) or not np.isfinite(scales).all():
        raise AveragingError(
            f"scale must be a finite number, or {len(vectors)} of them, one a task vector, got "
            f"{scales}."
        )
    if np.abs(scales).max(initial=0) > _LARGEST_SCALE:
        raise AveragingError(
            f"scale must be at most {_LARGEST_SCALE:g}, as sums are in float32, got {scales}; "
            "lower it."
        )
    result = _added(layout, base, vectors, np.broadcast_to(scales, len(vectors)).tolist())
    return result if lazy else result.read()


def merge_ties(
    models: Sequence[Mapping[str, Tensor]],
    base: Mapping[str, Tensor],
    *,
    density: float = 0.2,
    scale: float = 1.0,
    trim: Literal["tensor", "model"] = "tensor",
    lazy: bool = False,
) -> Mapping[str, Tensor]:
    r"""Add to a base what fine-tuned models agree on: TIES-Merging.

    Yadav et al. 2023, arXiv:2306.01708, algorithm 1, entry by entry of the task vectors \tau_i:

    1. trim: keep the share `density` of the entries of largest magnitude, and make the others 0;
    2. elect: \gamma = sgn(\sum_i \hat\tau_i) of the trimmed ones \hat\tau_i;
    3. disjoint mean: \tau = the mean of those \hat\tau_i whose sign is \gamma;

    and the result is \theta_base + scale \tau. Where the sum is exactly 0, \gamma and \tau are 0.

    Parameters
    ----------
    models : sequence of mappings of str to Tensor
    base : mapping of str to Tensor
        The model that all of them were fine-tuned from.
    density : float, default 0.2
        The share that is kept, rounded down, and at least one entry. Entries as large as the
        smallest that is kept are kept too, so that the order of the entries does not matter.
    scale : float, default 1.0
        The paper's \lambda.
    trim : {"tensor", "model"}
        Whether the largest entries are those of each tensor, or of all floating-point tensors of
        a model together, as in the authors' code, where a tensor that moved little is lost. For
        "model" all models are read twice before the first tensor is computed.
    lazy : bool, default False
        As for `slerp`.

    Returns
    -------
    mapping of str to Tensor
        As `average` returns it, with the integer tensors of the base.

    Raises
    ------
    AveragingError
        As `average`, and if `density` is not in (0, 1].

    Examples
    --------
    >>> base = {"w": torch.zeros(4)}
    >>> a = {"w": torch.tensor([4.0, -3.0, 0.5, 2.0])}
    >>> b = {"w": torch.tensor([2.0, 5.0, -0.5, 0.1])}
    >>> merge_ties([a, b], base, density=0.75)["w"]
    tensor([ 3.0000,  5.0000, -0.5000,  2.0000])
    """
    check_choice(trim, ("tensor", "model"), AveragingError, "trim")
    _check_numbers(density, scale)
    layout, vectors = _vectors_of(models, base)
    result = _Ties(layout, base, vectors, density=density, scale=scale, by_tensor=trim == "tensor")
    return result if lazy else result.read()


def merge_dare(
    models: Sequence[Mapping[str, Tensor]],
    base: Mapping[str, Tensor],
    *,
    seed: int,
    density: float = 0.1,
    scale: float = 1.0,
    combine: Literal["sum", "ties"] = "sum",
    lazy: bool = False,
) -> Mapping[str, Tensor]:
    r"""Drop most entries of each task vector at random, enlarge the others, and combine them.

    DARE, drop and rescale (Yu et al. 2023, arXiv:2311.03099): with m_i of 0 and 1, each entry 1
    with the probability `density`, which is 1 - p with the paper's drop rate p,

    .. math::
        \hat\tau_i = m_i \odot \tau_i / (1 - p),

    whose mean over all m_i is \tau_i. These are then added to the base, times `scale`.

    Parameters
    ----------
    models, base
        As for `merge_ties`.
    seed : int
        Of the masks. A tensor's mask follows from the seed, the model's number and the tensor's
        name alone: it is the same on every machine, and whichever tensor is asked for first.
    density : float, default 0.1
        The share that is kept.
    scale : float, default 1.0
    combine : {"sum", "ties"}
        Whether all are added, as in task arithmetic, or signs are elected and the disjoint mean
        is added, as in `merge_ties`, which trims no further.
    lazy : bool, default False
        As for `average`.

    Returns
    -------
    mapping of str to Tensor
        As `average` returns it, with the integer tensors of the base.

    Raises
    ------
    AveragingError
        As `average`, and if `density` is not in (0, 1].

    Examples
    --------
    >>> base, model = {"w": torch.zeros(1000)}, {"w": torch.ones(1000)}
    >>> w = merge_dare([model], base, density=0.25, seed=0)["w"]
    >>> w.unique(), w.mean()
    (tensor([0., 4.]), tensor(0.9000))
    """
    check_choice(combine, ("sum", "ties"), AveragingError, "combine")
    _check_numbers(density, scale)
    layout, vectors = _vectors_of(models, base)
    dropped: dict[str, Mapping[str, Tensor]] = {
        label: _Dropped(vector, label, density, f"{seed}/{number}")
        for number, (label, vector) in enumerate(vectors.items())
    }
    result: LazyMerge
    if combine == "sum":
        result = _added(layout, base, dropped, [scale] * len(dropped))
    else:
        result = _Ties(layout, base, dropped, density=1.0, scale=scale, by_tensor=True)
    return result if lazy else result.read()


class _Ties(LazyMerge):
    """A base and what task vectors agree on."""

    def __init__(
        self,
        layout: Layout,
        base: Mapping[str, Tensor],
        vectors: Mapping[str, Mapping[str, Tensor]],
        *,
        density: float,
        scale: float,
        by_tensor: bool,
    ) -> None:
        super().__init__(layout, {_BASE: base, **vectors})
        self._density, self._scale = density, scale
        self._found: dict[str, list[float]] = {}
        if not by_tensor:
            thresholds = self._thresholds(list(layout.spans))
            self._found = dict.fromkeys(layout.spans, thresholds)

    def _values(self, name: str, part: slice) -> Tensor:
        if name not in self._found:  # two threads may both compute the same few numbers
            self._found[name] = self._thresholds([name])
        base, *vectors = self._ingredients.values()
        start, stop, _ = part.indices(math.prod(self.shape(name)))
        origin = entries(base, name, part)
        result = origin.to(torch.promote_types(origin.dtype, torch.float32), copy=True)
        readers = [reader(vector, name) for vector in vectors]
        thresholds = torch.tensor(self._found[name], device=result.device)[:, None]
        step = block_size(result.device) // 4  # several results of each block are in memory
        for low in range(start, stop, step):
            block = slice(low, min(low + step, stop))
            tau = torch.stack([read(block).to(result) for read in readers])
            tau[tau.abs().float() < thresholds] = 0
            signs = tau.sign()
            elected = signs == tau.sum(dim=0).sign()
            count = (elected & (signs != 0)).sum(dim=0)
            mean = (tau * elected).sum(dim=0) / count.clamp(min=1)
            result[low - start : block.stop - start].add_(mean, alpha=self._scale)
        return result

    def _thresholds(self, names: Sequence[str]) -> list[float]:
        """Return, of each task vector, the least magnitude that is kept in these tensors."""
        size = sum(math.prod(self.shape(name)) for name in names)
        _, *vectors = self._ingredients.values()
        if self._density == 1 or size == 0:
            return [0.0] * len(vectors)
        k = max(1, math.floor(round(self._density * size, 6)))  # 0.29 * 100 is below 29
        return [_kth_largest(partial(self._blocks, vector, names), k) for vector in vectors]

    def _blocks(self, vector: Mapping[str, Tensor], names: Sequence[str]) -> Iterable[Tensor]:
        for name in names:
            size = math.prod(self.shape(name))
            read, step = reader(vector, name), block_size(torch.device("cpu")) // 4
            for low in range(0, size, step):
                yield read(slice(low, min(low + step, size)))


class _Dropped(LazyMerge):
    """A task vector most of whose entries are 0, and the others larger for it."""

    def __init__(self, vector: LinearMerge, label: str, density: float, key: str) -> None:
        super().__init__(vector.layout, {label: vector})
        self._density, self._key = density, key

    def _values(self, name: str, part: slice) -> Tensor:
        (vector,) = self._ingredients.values()
        values = entries(vector, name, part)
        keep = _random_mask(f"{self._key}/{name}", part.start or 0, len(values), self._density)
        return values * keep.to(values.device) / self._density


def _random_mask(key: str, start: int, n: int, density: float) -> Tensor:
    """Draw n entries of a mask, from start on, of a generator that counts: no draw needs another.

    Philox makes 8 numbers of 32 bits of each value of its counter, the same on every machine.
    """
    digest = hashlib.sha256(key.encode()).digest()
    counter, skipped = divmod(start, 8)
    philox = np.random.Philox(key=int.from_bytes(digest[:16], "little"), counter=counter)
    draws = philox.random_raw((skipped + n + 1) // 2).astype("<u8", copy=False).view("<u4")
    return torch.from_numpy(draws[skipped : skipped + n] < density * 2**32)


def _kth_largest(blocks: Callable[[], Iterable[Tensor]], k: int) -> float:
    """Find the k-th largest magnitude, in float32, in two passes and little memory.

    The bits of magnitudes, read as integers, are in the order of the magnitudes: a first pass
    counts their upper halves, and a second the lower halves where the upper one is the k-th's.
    """

    def count(select: Callable[[Tensor], Tensor]) -> Tensor:
        bits = (block.abs().float().view(torch.int32) for block in blocks())
        return sum((torch.bincount(select(b), minlength=2**16).cpu() for b in bits), start=zero)

    def reach(counts: Tensor, k: int) -> tuple[int, int]:
        larger = counts.flip(0).cumsum(0).flip(0)  # how many are in this bin or above
        found = int((larger >= k).nonzero().max())
        return found, k - int(larger[found] - counts[found])

    zero = torch.zeros(2**16, dtype=torch.int64)
    upper, left = reach(count(lambda bits: bits >> 16), k)
    lower, _ = reach(count(lambda bits: bits[bits >> 16 == upper] & 0xFFFF), left)
    return torch.tensor(upper << 16 | lower, dtype=torch.int32).view(torch.float32).item()


def _difference(
    layout: Layout, base: Mapping[str, Tensor], model: Mapping[str, Tensor], label: str
) -> LinearMerge:
    wide = {
        name: torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else dtype
        for name, dtype in layout.dtypes.items()
    }
    return LinearMerge(replace(layout, dtypes=wide), {_BASE: base, label: model}, [-1.0, 1.0])


def _vectors_of(
    models: Sequence[Mapping[str, Tensor]], base: Mapping[str, Tensor]
) -> tuple[Layout, dict[str, LinearMerge]]:
    """Return the base's layout and each model's task vector, computed when it is read."""
    labelled = numbered(models)
    layout = layout_of(base, _BASE)
    for label, model in labelled.items():
        layout.check(model, label)
    return layout, {
        label: _difference(layout, base, model, label) for label, model in labelled.items()
    }


def _added(
    layout: Layout,
    base: Mapping[str, Tensor],
    vectors: Mapping[str, Mapping[str, Tensor]],
    scales: list[float],
) -> LinearMerge:
    return LinearMerge(layout, {_BASE: base, **vectors}, [1.0, *scales])


def _check_numbers(density: float, scale: float) -> None:
    if not 0 < number(density, AveragingError, "density") <= 1:
        raise AveragingError(f"density must lie in (0, 1], got {density}; 1 keeps every entry.")
    number(scale, AveragingError, "scale")
