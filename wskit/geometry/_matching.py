"""One network's units brought into another one's order."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from wskit._checks import check_whole
from wskit.errors import GeometryError
from wskit.geometry._layout import check, header, layout_of
from wskit.geometry._symmetries import (
    Symmetries,
    Table,
    apply_permutation,
    group_sizes,
    permute,
    tables_of,
)

_BUFFERS = ("running_mean", "running_var")
_GAIN = 1e-12  # of the product of both networks' norms: a smaller gain is rounding


@dataclass(frozen=True, eq=False)
class Matching:
    """A network in the order of a reference.

    Attributes
    ----------
    permutations : mapping of str to array of int of shape (elements,)
        For `apply_permutation`: unit i of the reference is matched with unit
        ``permutations[group][i]`` of the network.
    weights : dict of str to Tensor
        The network's, permuted; its function is the same.
    history : array of shape (n_sweeps + 1,)
        Inner product of both networks' weights, before the first sweep and after each.
    n_sweeps : int
        The last one changed nothing, unless `converged` is False.
    converged : bool
        Whether no change of a single group improves the inner product: a local maximum, not
        always the best one.
    """

    permutations: Mapping[str, Int64[np.ndarray, " elements"]]
    weights: dict[str, Tensor]
    history: Float64[np.ndarray, " sweeps"]
    n_sweeps: int
    converged: bool


def match_weights(
    weights: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    symmetries: Symmetries,
    *,
    seed: int,
    names: Iterable[str] | None = None,
    max_sweeps: int = 100,
) -> Matching:
    r"""Permute a network's units so that its weights agree best with a reference's.

    Weight matching (Ainsworth, Hayase and Srinivasa 2022, "Git Re-Basin", arXiv:2209.04836): the
    inner product :math:`\sum_t \langle R_t, \pi(W)_t \rangle` over the tensors t is maximised,
    which minimises the distance, by coordinate descent. With all groups but one held fixed, the
    best permutation of that one is a linear assignment. Sweeps over the groups, in random
    order, go on until one changes nothing. No data are needed.

    Parameters
    ----------
    weights, reference : mapping of str to Tensor
        Two networks of one architecture. Both are held in float64.
    symmetries : Symmetries
        Of `sequential_symmetries`, `resnet_symmetries`, `transformer_symmetries`, or by hand.
    seed : int
        Of the order of the groups in each sweep.
    names : iterable of str, optional
        The tensors whose inner product counts. None means all floating ones but the running
        statistics of batch normalisation, which are not weights; all are permuted either way.
    max_sweeps : int, default 100

    Returns
    -------
    Matching

    Raises
    ------
    GeometryError
        If the networks or the symmetries do not fit each other, a tensor holds NaN or inf, or a
        group is on two axes of one tensor (a recurrent layer's), where the best permutation is
        not that of a linear assignment.

    Examples
    --------
    >>> weights = {"a.weight": torch.tensor([[1.0], [2.0]]), "b.weight": torch.tensor([[3.0, 4.0]])}
    >>> reference = {"a.weight": torch.tensor([[2.0], [1.0]]), "b.weight": torch.tensor([[4.0, 3]])}
    >>> symmetries = {"a.weight": ("hidden", None), "b.weight": (None, "hidden")}
    >>> matching = match_weights(weights, reference, symmetries, seed=0)
    >>> matching.permutations["hidden"], matching.history
    (array([1, 0]), array([28., 30., 30.]))
    """
    check_whole(max_sweeps, GeometryError, "max_sweeps", least=0)
    tables = tables_of(weights, symmetries)
    sizes = group_sizes(tables)
    if names is None:
        names = [
            name
            for name in weights
            if header(weights, name)[1].is_floating_point and not name.endswith(_BUFFERS)
        ]
    layout = layout_of(weights, names=names)
    check(reference, layout, "the weights of the reference")
    products = _Products(weights, reference, tables, [slot.name for slot in layout.slots])
    permutations = {group: np.arange(size) for group, size in sizes.items()}
    rng = np.random.default_rng(seed)
    history = [products.total(permutations)]
    converged = False
    while not converged and len(history) <= max_sweeps:
        converged = True
        for group in rng.permutation(list(sizes)).tolist():
            gain = products.of_pairs(group, permutations)
            best = linear_sum_assignment(gain, maximize=True)[1]
            rows = np.arange(sizes[group])
            if (gain[rows, best] - gain[rows, permutations[group]]).sum() > products.noise:
                permutations[group], converged = best, False
        history.append(products.total(permutations))
    for order in permutations.values():
        order.flags.writeable = False
    trace = np.array(history)
    trace.flags.writeable = False
    permuted = apply_permutation(weights, permutations, symmetries)
    return Matching(permutations, permuted, trace, len(history) - 1, converged)


class _Products:
    """Inner products between a reference's tensors and those of a permuted network."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        reference: Mapping[str, Tensor],
        tables: Mapping[str, list[Table]],
        names: list[str],
    ) -> None:
        self._pairs = {}
        self._uses: dict[str, list[tuple[str, int]]] = {}
        squares = np.zeros(2)
        for name in names:
            a = reference[name].detach().double()
            b = weights[name].detach().to(a)
            for place, (values, whose) in enumerate(((a, "the reference"), (b, "the weights"))):
                squares[place] += float(values.square().sum())
                if not np.isfinite(squares[place]):
                    raise GeometryError(
                        f"tensor {name!r} of {whose} holds NaN or inf, which cannot be matched; "
                        "give a network that did not diverge."
                    )
            self._pairs[name] = a, b, tables[name]
            for axis, table in enumerate(tables[name]):
                for group in table:
                    uses = self._uses.setdefault(group, [])
                    if any(name == other for other, _ in uses):
                        raise GeometryError(
                            f"group {group!r} is on two axes of tensor {name!r}, and weight "
                            "matching needs one; leave the tensor out by `names`."
                        )
                    uses.append((name, axis))
        self.noise = _GAIN * float(np.sqrt(squares.prod()))

    def total(self, permutations: Mapping[str, np.ndarray]) -> float:
        """Return the inner product of all tensors."""
        return sum(
            float(torch.sum(a * permute(b, axes, permutations)))
            for a, b, axes in self._pairs.values()
        )

    def of_pairs(self, group: str, permutations: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return what matching element i of the reference with element j would add."""
        gain: Tensor | float = 0.0
        for name, axis in self._uses.get(group, []):
            a, b, axes = self._pairs[name]
            places = torch.as_tensor(axes[axis][group], device=a.device)
            b = permute(b, axes, permutations, skip=axis)
            # (copies, elements, width * rest)
            left, right = (t.movedim(axis, 0)[places].flatten(2) for t in (a, b))
            gain = gain + (left @ right.mT).sum(dim=0)
        if isinstance(gain, float):  # a group that no tensor of `names` shows
            n = permutations[group].size
            return np.zeros((n, n))
        matrix: np.ndarray = gain.cpu().numpy()
        return matrix
