"""Task vectors, the steps from a base to fine-tuned models, and merges that are made of them."""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from wskit._base.checks import check_choice
from wskit._base.layout import Layout
from wskit._base.weights import block_size
from wskit.averaging._average import BASE, Weights, prepare
from wskit.averaging._merge import LazyMerge, LinearMerge, make_reader, read_entries
from wskit.errors import AveragingError


def task_vector(model: Weights, base: Weights, *, lazy: bool = False) -> Mapping[str, Tensor]:
    """Return the step from a base to a fine-tuned model, tau = theta - theta_base.

    Ilharco et al. 2023, arXiv:2212.04089. The step is in float32, or float64 where the models
    are: the difference of two bfloat16 numbers is in general no bfloat16 number.

    Parameters
    ----------
    model, base : weights
        A fine-tuned model and the model that it was fine-tuned from.
    lazy : bool, default False
        As for `average`.

    Returns
    -------
    mapping of str to Tensor
        Has the integer tensors of the base, so that it can be saved and compared like a model.

    Raises
    ------
    AveragingError
        As `average`; messages call the two "the model" and "the base".

    Examples
    --------
    >>> task_vector({"w": torch.tensor([1.0, 5.0])}, {"w": torch.tensor([1.0, 2.0])})
    {'w': tensor([0., 3.])}
    """
    _, everyone = _prepare_steps({"the model": model}, base)
    result = everyone["the model"]
    assert isinstance(result, LinearMerge)
    return result if lazy else result.read()


def add_task_vectors(
    base: Weights,
    task_vectors: Iterable[Weights],
    scale: float | ArrayLike = 1.0,
    *,
    lazy: bool = False,
) -> Mapping[str, Tensor]:
    """Add task vectors to a model: theta_base + the sum over i of scale_i tau_i.

    Task arithmetic (Ilharco et al. 2023, arXiv:2212.04089). The sum of several makes a model of
    several tasks. A negative scale makes a model forget its task. ``[task_vector(b, a)]`` added to
    c makes the model that is to c as b is to a.

    Parameters
    ----------
    base : weights
    task_vectors : sequence of weights
        From `task_vector`, in any floating-point dtypes.
    scale : float or array of shape (task_vectors,), default 1.0
        One for all, or one for each. The paper chooses one on held-out data.
    lazy : bool, default False
        As for `average`.

    Returns
    -------
    mapping of str to Tensor
        As `average` returns it, with the dtypes and integer tensors of the base.

    Raises
    ------
    AveragingError
        As `average`; messages call the first task vector model 1.

    Examples
    --------
    >>> base, model = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([1.0, 5.0])}
    >>> tau = task_vector(model, base)
    >>> add_task_vectors(base, [tau, tau], 0.5)["w"], add_task_vectors(base, [tau], -1.0)["w"]
    (tensor([1., 5.]), tensor([ 1., -1.]))
    """
    layout, everyone = prepare(task_vectors, base, any_float=True)
    scales = np.broadcast_to(np.asarray(scale, dtype=np.float64), len(everyone) - 1)
    result = LinearMerge(layout, everyone, [1.0, *scales.tolist()])
    return result if lazy else result.read()


def merge_ties(
    models: Iterable[Weights] | Mapping[str, Weights],
    base: Weights,
    *,
    density: float = 0.2,
    scale: float = 1.0,
    lazy: bool = False,
) -> Mapping[str, Tensor]:
    r"""Add to a base what fine-tuned models agree on: TIES-Merging.

    Algorithm 1 of Yadav et al. 2023, arXiv:2306.01708, for each entry of the task vectors \tau_i:

    1. trim: keep the share `density` of the entries of largest magnitude, and set the others to 0;
    2. elect: \gamma = sgn(\sum_i \hat\tau_i) of the trimmed vectors \hat\tau_i;
    3. disjoint mean: \tau = the mean of those \hat\tau_i whose sign is \gamma.

    The result is \theta_base + scale \tau. Where the sum is exactly 0, \gamma and \tau are 0.
    Entries are ranked within each tensor. (The authors' code ranks those of all tensors together,
    and loses tensors that moved little.)

    Parameters
    ----------
    models : sequence of weights, or mapping of str to weights
    base : weights
        The model that all of them were fine-tuned from.
    density : float, default 0.2
        The share to keep, rounded down, and at least one entry. Entries as large as the smallest
        one kept are kept too, so that the order of the entries does not matter.
    scale : float, default 1.0
        The paper's \lambda.
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
    _check_density(density)
    result = _Ties(*_prepare_steps(models, base), density, scale)
    return result if lazy else result.read()


def merge_dare(
    models: Iterable[Weights] | Mapping[str, Weights],
    base: Weights,
    *,
    seed: int,
    density: float = 0.1,
    scale: float = 1.0,
    combine: Literal["sum", "ties"] = "sum",
    lazy: bool = False,
) -> Mapping[str, Tensor]:
    r"""Drop most entries of each task vector at random, enlarge the others, and combine them.

    DARE, drop and rescale (Yu et al. 2023, arXiv:2311.03099). With masks m_i whose entries are 1
    with the probability `density`, which is 1 - p for the paper's drop rate p, and 0 otherwise,

    .. math::
        \hat\tau_i = m_i \odot \tau_i / (1 - p),

    whose mean over all m_i is \tau_i. These are added to the base, times `scale`.

    Parameters
    ----------
    models, base
        As for `merge_ties`.
    seed : int
        Seed of the masks. A tensor's mask depends on the seed, the model's number and the tensor's
        name alone: it is the same on every machine and in every order of access.
    density : float, default 0.1
        The share to keep.
    scale : float, default 1.0
    combine : {"sum", "ties"}
        Whether to add all, as in task arithmetic, or to elect signs and add the disjoint mean, as
        `merge_ties` does without trimming.
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
    _check_density(density)
    layout, everyone = _prepare_steps(models, base)
    for number, label in enumerate(list(everyone)[1:]):
        everyone[label] = _Dropped(layout, {label: everyone[label]}, density, f"{seed}/{number}")
    result: LazyMerge
    if combine == "sum":
        result = LinearMerge(layout, everyone, [1.0, *[scale] * (len(everyone) - 1)])
    else:
        result = _Ties(layout, everyone, 1.0, scale)
    return result if lazy else result.read()


class _Ties(LazyMerge):
    """A base, the first ingredient, and what the task vectors after it agree on."""

    def __init__(
        self,
        layout: Layout,
        ingredients: Mapping[str, Mapping[str, Tensor]],
        density: float,
        scale: float,
    ) -> None:
        super().__init__(layout, ingredients)
        self._density, self._scale = density, scale
        self._thresholds: dict[str, list[float]] = {}

    def _values(self, name: str, part: slice) -> Tensor:
        base, *vectors = self._ingredients.values()
        size = math.prod(self.shape(name))
        start, stop, _ = part.indices(size)
        origin = read_entries(base, name, part)
        result = origin.to(torch.promote_types(origin.dtype, torch.float32), copy=True)
        readers = [make_reader(vector, name) for vector in vectors]
        if name not in self._thresholds:  # two threads may both compute the same few numbers
            self._thresholds[name] = [self._find_threshold(read, size) for read in readers]
        thresholds = torch.tensor(self._thresholds[name], device=result.device)[:, None]
        for block in _cut(start, stop, result.device):
            tau = torch.stack([read(block).to(result) for read in readers])
            tau[tau.abs().float() < thresholds] = 0
            signs = tau.sign()
            elected = signs == tau.sum(dim=0).sign()
            count = (elected & (signs != 0)).sum(dim=0)
            mean = (tau * elected).sum(dim=0) / count.clamp(min=1)
            result[block.start - start : block.stop - start].add_(mean, alpha=self._scale)
        return result

    def _find_threshold(self, read: Callable[[slice], Tensor], size: int) -> float:
        """Return the least magnitude that is kept."""
        if self._density == 1 or size == 0:
            return 0.0
        k = max(1, math.floor(round(self._density * size, 6)))  # 0.29 * 100 is below 29
        return find_kth_largest(lambda: map(read, _cut(0, size, torch.device("cpu"))), k)


class _Dropped(LazyMerge):
    """A task vector with most entries set to 0 and the others enlarged."""

    def __init__(
        self,
        layout: Layout,
        ingredients: Mapping[str, Mapping[str, Tensor]],
        density: float,
        key: str,
    ) -> None:
        super().__init__(_widen(layout), ingredients)
        self._density, self._key = density, key

    def _values(self, name: str, part: slice) -> Tensor:
        (vector,) = self._ingredients.values()
        values = read_entries(vector, name, part)
        keep = draw_mask(f"{self._key}/{name}", part.start or 0, len(values), self._density)
        return values * keep.to(values.device) / self._density


def draw_mask(key: str, start: int, n: int, density: float) -> Tensor:
    """Draw the entries ``start`` to ``start + n`` of a mask, without drawing those before.

    Philox makes 8 numbers of 32 bits from each value of a counter, the same on every machine.
    """
    digest = hashlib.sha256(key.encode()).digest()
    counter, skipped = divmod(start, 8)
    philox = np.random.Philox(key=int.from_bytes(digest[:16], "little"), counter=counter)
    draws = philox.random_raw((skipped + n + 1) // 2).astype("<u8", copy=False).view("<u4")
    return torch.from_numpy(draws[skipped : skipped + n] < density * 2**32)


def find_kth_largest(blocks: Callable[[], Iterable[Tensor]], k: int) -> float:
    """Find the k-th largest magnitude, in float32, in two passes and little memory.

    The bits of magnitudes, read as integers, are in the order of the magnitudes. A first pass
    counts their upper halves, a second one the lower halves where the upper one is the k-th's.
    """

    def count(select: Callable[[Tensor], Tensor]) -> Tensor:
        bits = (block.abs().float().view(torch.int32) for block in blocks())
        return sum((torch.bincount(select(b), minlength=2**16).cpu() for b in bits), start=zero)

    def find(counts: Tensor, k: int) -> tuple[int, int]:
        larger = counts.flip(0).cumsum(0).flip(0)  # how many are in this bin or above
        found = int((larger >= k).nonzero().max())
        return found, k - int(larger[found] - counts[found])

    zero = torch.zeros(2**16, dtype=torch.int64)
    upper, left = find(count(lambda bits: bits >> 16), k)
    lower, _ = find(count(lambda bits: bits[bits >> 16 == upper] & 0xFFFF), left)
    return torch.tensor(upper << 16 | lower, dtype=torch.int32).view(torch.float32).item()


def _cut(start: int, stop: int, device: torch.device) -> Iterable[slice]:
    """Cut a range into small blocks, of each of which several results are in memory."""
    step = block_size(device) // 4
    return (slice(low, min(low + step, stop)) for low in range(start, stop, step))


def _prepare_steps(
    models: Iterable[Weights] | Mapping[str, Weights], base: Weights
) -> tuple[Layout, dict[str, Mapping[str, Tensor]]]:
    """Return the base's layout, and the base and the task vectors, computed on access."""
    layout, everyone = prepare(models, base)
    origin = everyone.pop(BASE)
    return layout, {BASE: origin} | {
        label: LinearMerge(_widen(layout), {BASE: origin, label: model}, [-1.0, 1.0])
        for label, model in everyone.items()
    }


def _widen(layout: Layout) -> Layout:
    """Return the layout with floating-point dtypes that hold differences."""
    wide = {
        name: torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else dtype
        for name, dtype in layout.dtypes.items()
    }
    return replace(layout, dtypes=wide)


def _check_density(density: float) -> None:
    if not 0 < density <= 1:
        raise AveragingError(f"density must lie in (0, 1], got {density}; 1 keeps every entry.")
