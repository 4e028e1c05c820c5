"""Permutations of a network's units, and the one that brings them into another one's order."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from wskit._base.layout import layout_of
from wskit._base.weights import (
    all_finite,
    as_weights,
    header,
    is_statistic,
    nonfinite_error,
    ties,
)
from wskit.errors import GeometryError

_GAIN = 1e-12  # of the product of both networks' norms: a smaller gain is rounding
_MAX_SWEEPS = 100


@dataclass(frozen=True)
class Run:
    """Consecutive entries of an axis that hold the elements `start` to `stop` of a group.

    Attributes
    ----------
    group : str
        Elements of one group are permuted alike wherever the group appears.
    start, stop : int
        Elements of the group, `stop` excluded.
    width : int, default 1
        Number of consecutive entries that belong to one element and move together: the width of
        an attention head, or the pixels of a channel where a convolution's output is flattened.
    """

    group: str
    start: int
    stop: int
    width: int = 1


Axis = str | None | tuple[Run, ...]
"""How an axis is permuted: the name of a group whose elements are its entries, None where it is
fixed, or runs that lie end to end. Query, key and value side by side are three runs of a group."""

Symmetries = Mapping[str, tuple[Axis, ...]]
"""The `Axis` of each axis of each tensor of a network."""

Table = dict[str, np.ndarray]
"""Group -> positions on an axis, of shape (copies, elements, width)."""


@dataclass(frozen=True, eq=False)
class Matching:
    """A network in the order of a reference.

    Attributes
    ----------
    permutations : mapping of str to array of int of shape (elements,)
        For `apply_permutation`. Unit i of the reference is matched with unit
        ``permutations[group][i]`` of the network.
    weights : dict of str to Tensor
        The permuted network, which computes the same function.
    history : array of shape (n_sweeps + 1,)
        Inner product of both networks' weights, before the first sweep and after each.
    converged : bool
        Whether no change of a single group improves the inner product. It is then a local
        maximum, but not always the best one.
    """

    permutations: Mapping[str, Int64[np.ndarray, " elements"]]
    weights: dict[str, Tensor]
    history: Float64[np.ndarray, " sweeps"]
    converged: bool


def apply_permutation(
    weights: Mapping[str, Tensor] | nn.Module,
    permutations: Mapping[str, np.ndarray],
    symmetries: Symmetries,
) -> dict[str, Tensor]:
    """Permute the units of a network. Where `symmetries` is right, its function stays the same.

    Parameters
    ----------
    weights : mapping of str to Tensor, or nn.Module
    permutations : mapping of str to array of int of shape (elements,)
        Group -> order: element i of the result is element ``permutations[group][i]`` of
        `weights`. Groups that are not given stay as they are.
    symmetries : mapping of str to tuple
        For each tensor, how each of its axes is permuted: the name of a group, None, or runs.

    Returns
    -------
    dict of str to Tensor
        Copies, in the tensors' own dtypes. Tied tensors stay tied.

    Raises
    ------
    GeometryError
        If the symmetries do not fit the weights, or an array is no permutation of its group.

    Examples
    --------
    >>> weights = {"a.weight": torch.tensor([[1.0], [2.0]]), "b.weight": torch.tensor([[3.0, 4.0]])}
    >>> symmetries = {"a.weight": ("hidden", None), "b.weight": (None, "hidden")}
    >>> swapped = apply_permutation(weights, {"hidden": np.array([1, 0])}, symmetries)
    >>> swapped["a.weight"].tolist(), swapped["b.weight"].tolist()
    ([[2.0], [1.0]], [[4.0, 3.0]])
    """
    weights = as_weights(weights, GeometryError)
    tables, sizes = _locate(weights, symmetries)
    for group, order in permutations.items():
        size = sizes.get(group, 0)
        if not size or not np.array_equal(np.sort(order), np.arange(size)):
            raise GeometryError(
                f"the permutation of group {group!r}, which has {size} elements, must hold each "
                f"number below {size} once; the groups are {', '.join(sizes)}."
            )
    permuted: dict[str, Tensor] = {}
    known_ties = ties(weights)
    for name, axes in tables.items():
        owner = known_ties.get(name, name)
        if owner == name:
            permuted[name] = _permute(weights[name].detach().clone(), axes, permutations)
        elif symmetries[owner] == symmetries[name]:
            permuted[name] = permuted[owner]
        else:
            raise GeometryError(
                f"tensors {owner!r} and {name!r} are tied, and the symmetries permute them "
                "differently; give both the same groups."
            )
    return permuted


def random_permutations(
    weights: Mapping[str, Tensor] | nn.Module, symmetries: Symmetries, *, seed: int
) -> dict[str, np.ndarray]:
    """Draw a random permutation of every group: another network with the same function.

    Parameters
    ----------
    weights : mapping of str to Tensor, or nn.Module
        Only the header of a lazily opened checkpoint is read.
    symmetries : mapping of str to tuple
        As for `apply_permutation`.
    seed : int

    Returns
    -------
    dict of str to array of int of shape (elements,)
        For `apply_permutation`.

    Raises
    ------
    GeometryError
        If the symmetries do not fit the weights.

    Examples
    --------
    >>> weights = {"a.weight": torch.zeros(4, 1)}
    >>> random_permutations(weights, {"a.weight": ("hidden", None)}, seed=0)
    {'hidden': array([2, 0, 1, 3])}
    """
    rng = np.random.default_rng(seed)
    _, sizes = _locate(as_weights(weights, GeometryError), symmetries)
    return {group: rng.permutation(size) for group, size in sizes.items()}


def match_weights(
    weights: Mapping[str, Tensor] | nn.Module,
    reference: Mapping[str, Tensor] | nn.Module,
    symmetries: Symmetries,
    *,
    seed: int,
    names: Iterable[str] | None = None,
) -> Matching:
    r"""Permute a network's units so that its weights agree best with those of a reference.

    Weight matching (Ainsworth, Hayase and Srinivasa 2022, "Git Re-Basin", arXiv:2209.04836)
    maximises the inner product :math:`\sum_t \langle R_t, \pi(W)_t \rangle` over the tensors t,
    and so minimises the distance, by coordinate descent. With all groups but one held fixed, the
    best permutation of that one is a linear assignment. Sweeps over the groups, in random order,
    go on until one changes nothing, at most 100. The method needs no data.

    Parameters
    ----------
    weights, reference : mapping of str to Tensor, or nn.Module
        Two networks of one architecture. Both are held in float64.
    symmetries : mapping of str to tuple
        From `sequential_symmetries`, `resnet_symmetries` or `transformer_symmetries`, or written
        by hand as for `apply_permutation`.
    seed : int
        Seed of the order of the groups in each sweep.
    names : iterable of str, optional
        The tensors whose inner product counts. None means all floating-point ones except the
        running statistics of batch norms, which are not weights. All are permuted either way.

    Returns
    -------
    Matching

    Raises
    ------
    GeometryError
        If the networks or the symmetries do not fit each other, a tensor holds NaN or inf, or a
        group is on two axes of one tensor (of a recurrent layer), where the best permutation is
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
    weights, reference = as_weights(weights, GeometryError), as_weights(reference, GeometryError)
    tables, sizes = _locate(weights, symmetries)
    if names is None:
        floats = [name for name in weights if header(weights, name)[1].is_floating_point]
        names = [name for name in floats if not is_statistic(name)]
    layout = layout_of(weights, "the network", error=GeometryError, names=names)
    layout.check(reference, "the reference", any_float=True)
    pairs = {name: _read_pair(reference, weights, name) for name in layout.spans}
    uses: dict[str, list[tuple[str, int]]] = {group: [] for group in sizes}
    for name in pairs:
        groups = [(group, axis) for axis, table in enumerate(tables[name]) for group in table]
        for group, axis in groups:
            uses[group].append((name, axis))
        if len(dict(groups)) < len(groups):
            raise GeometryError(
                f"a group is on two axes of tensor {name!r}, and weight matching needs it on one; "
                "leave the tensor out by `names`."
            )
    norms = np.sum([[float(t.square().sum()) for t in pair] for pair in pairs.values()], axis=0)
    noise = _GAIN * float(np.sqrt(norms.prod()))

    def multiply() -> float:
        """Return the inner product of all tensors."""
        permuted = ((a, _permute(b, tables[name], orders)) for name, (a, b) in pairs.items())
        return sum(float(torch.sum(a * b)) for a, b in permuted)

    def compare(group: str) -> np.ndarray:
        """Return what matching element i of the reference with element j would add."""
        gain = np.zeros((sizes[group], sizes[group]))
        for name, axis in uses[group]:
            a, b = pairs[name]
            b = _permute(b, tables[name], orders, skip=axis)
            places = torch.as_tensor(tables[name][axis][group], device=a.device)
            # (copies, elements, width * rest)
            left, right = (t.movedim(axis, 0)[places].flatten(2) for t in (a, b))
            gain += (left @ right.mT).sum(dim=0).cpu().numpy()
        return gain

    orders = {group: np.arange(size) for group, size in sizes.items()}
    rng = np.random.default_rng(seed)
    history = [multiply()]
    converged = False
    while not converged and len(history) <= _MAX_SWEEPS:
        converged = True
        for group in rng.permutation(list(sizes)).tolist():
            gain = compare(group)
            best = linear_sum_assignment(gain, maximize=True)[1]
            rows = np.arange(sizes[group])
            if (gain[rows, best] - gain[rows, orders[group]]).sum() > noise:
                orders[group], converged = best, False
        history.append(multiply())
    trace = np.array(history)
    for array in (trace, *orders.values()):
        array.flags.writeable = False
    return Matching(orders, apply_permutation(weights, orders, symmetries), trace, converged)


def _read_pair(
    reference: Mapping[str, Tensor], weights: Mapping[str, Tensor], name: str
) -> tuple[Tensor, Tensor]:
    """Return a tensor of both networks in float64."""
    a = reference[name].detach().double()
    b = weights[name].detach().to(a)
    for tensor, label in ((a, "the reference"), (b, "the network")):
        if not all_finite(tensor):
            raise nonfinite_error(tensor, name, label, GeometryError)
    return a, b


def _locate(
    weights: Mapping[str, Tensor], symmetries: Symmetries
) -> tuple[dict[str, list[Table]], dict[str, int]]:
    """Return where on each axis of each tensor the groups lie, and how large each group is."""
    differing = set(symmetries) ^ set(weights)
    if differing:
        raise GeometryError(
            f"symmetries must have an entry for each tensor, and {min(differing)!r} is in only one "
            "of the two; derive them from weights of the same architecture."
        )
    tables: dict[str, list[Table]] = {}
    sizes: dict[str, tuple[int, str]] = {}
    for name in weights:
        shape = header(weights, name)[0]
        if len(symmetries[name]) != len(shape):
            raise GeometryError(
                f"symmetries must have an entry for each axis, got {symmetries[name]} for tensor "
                f"{name!r} of shape {shape}."
            )
        labels = [f"axis {i} of tensor {name!r}" for i in range(len(shape))]
        tables[name] = list(map(_tabulate, symmetries[name], shape, labels))
        for table in tables[name]:
            for group, places in table.items():
                size, first = sizes.setdefault(group, (places.shape[1], name))
                if size != places.shape[1]:
                    raise GeometryError(
                        f"group {group!r} has {size} elements in tensor {first!r} and "
                        f"{places.shape[1]} in {name!r}; these symmetries are of another network."
                    )
    return tables, {group: size for group, (size, _) in sizes.items()}


def _tabulate(axis: Axis, length: int, label: str) -> Table:
    """Return where the elements of each group lie on one axis."""
    if axis is None:
        return {}
    runs = (Run(axis, 0, length),) if isinstance(axis, str) else axis
    elements: dict[str, list[np.ndarray]] = {}
    entries: dict[str, list[np.ndarray]] = {}
    start = 0
    for run in runs:
        n = run.stop - run.start
        elements.setdefault(run.group, []).append(np.arange(run.start, run.stop))
        places = start + np.arange(n * run.width).reshape(n, run.width)
        entries.setdefault(run.group, []).append(places)
        start += places.size
    if start != length:
        raise GeometryError(f"{label} has {length} entries, and its runs add up to {start}.")
    table = {}
    for group, numbers in elements.items():
        number = np.concatenate(numbers)
        copies = np.bincount(number)
        if len(set(copies.tolist())) > 1:
            raise GeometryError(
                f"the runs on {label} must hold each element of group {group!r} equally often, "
                f"got {runs}."
            )
        # The c-th place of each element, in the order of the axis, makes copy c.
        order = np.argsort(number, kind="stable").reshape(len(copies), -1)
        table[group] = np.concatenate(entries[group])[order].swapaxes(0, 1)
    return table


def _permute(
    tensor: Tensor,
    axes: list[Table],
    permutations: Mapping[str, np.ndarray],
    *,
    skip: int | None = None,
) -> Tensor:
    """Permute the axes of a tensor, all but `skip`."""
    for i, table in enumerate(axes):
        moved = [group for group in table if group in permutations]
        if i == skip or not moved:
            continue
        order = np.arange(tensor.shape[i])
        for group in moved:
            places = table[group]
            order[places] = places[:, permutations[group]]
        tensor = tensor.index_select(i, torch.as_tensor(order, device=tensor.device))
    return tensor
