"""Which permutations of its units leave a network's function as it is, written down as data."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wskit._checks import check_weights
from wskit._weights import ties
from wskit.errors import GeometryError
from wskit.geometry._layout import header


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
        Consecutive entries that an element has, and that move together: the width of an
        attention head, or the pixels of a channel where a convolution's output is flattened.
    """

    group: str
    start: int
    stop: int
    width: int = 1


Axis = str | None | tuple[Run, ...]
"""How an axis is permuted: the name of a group whose elements are its entries, None where it is
not, or runs that lie end to end. Query, key and value side by side are three runs of one group."""

Symmetries = Mapping[str, tuple[Axis, ...]]
"""For every tensor of a network, the `Axis` of each of its axes."""

Table = dict[str, np.ndarray]
"""Group -> positions on an axis, of shape (copies, elements, width)."""


def apply_permutation(
    weights: Mapping[str, Tensor], permutations: Mapping[str, np.ndarray], symmetries: Symmetries
) -> dict[str, Tensor]:
    """Permute a network's units. Where `symmetries` is right, its function stays the same.

    Parameters
    ----------
    weights : mapping of str to Tensor
    permutations : mapping of str to array of int of shape (elements,)
        Group -> order: element i of the result is element ``permutations[group][i]`` of
        `weights`. Groups that are not given stay as they are.
    symmetries : Symmetries

    Returns
    -------
    dict of str to Tensor
        Copies, in the tensors' own dtypes; tied tensors stay tied.

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
    tables = tables_of(weights, symmetries)
    sizes = group_sizes(tables)
    for group, order in permutations.items():
        if group not in sizes:
            raise GeometryError(
                f"there is no group {group!r} in these symmetries; they have {', '.join(sizes)}."
            )
        whole = np.asarray(order).dtype.kind in "iu"
        if not whole or not np.array_equal(np.sort(order), np.arange(sizes[group])):
            raise GeometryError(
                f"group {group!r} has {sizes[group]} elements, and its permutation must hold "
                f"each number from 0 to {sizes[group] - 1} once; see `random_permutations`."
            )
    permuted: dict[str, Tensor] = {}
    check_weights(weights, GeometryError)
    known_ties = ties(weights)
    for name, axes in tables.items():
        owner = known_ties.get(name, name)
        if owner != name and symmetries[owner] == symmetries[name]:
            permuted[name] = permuted[owner]
        elif owner != name:
            raise GeometryError(
                f"tensors {owner!r} and {name!r} are tied, and the symmetries permute them "
                "differently; give both the same groups."
            )
        else:
            permuted[name] = permute(weights[name].detach().clone(), axes, permutations)
    return permuted


def random_permutations(
    weights: Mapping[str, Tensor], symmetries: Symmetries, *, seed: int
) -> dict[str, np.ndarray]:
    """Draw a random permutation of every group: another network with the same function.

    Parameters
    ----------
    weights : mapping of str to Tensor
        Of a lazily opened checkpoint only the header is read.
    symmetries : Symmetries
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
    sizes = group_sizes(tables_of(weights, symmetries))
    return {group: rng.permutation(size) for group, size in sizes.items()}


def tables_of(weights: Mapping[str, Tensor], symmetries: Symmetries) -> dict[str, list[Table]]:
    """Return where on each axis of each tensor the elements of the groups are."""
    present = list(weights)
    for name in symmetries:
        if name not in present:
            raise GeometryError(
                f"the symmetries describe a tensor {name!r}, and these weights have none; derive "
                "them from weights of the same architecture."
            )
    tables = {}
    for name in present:
        shape = header(weights, name)[0]
        if name not in symmetries:
            raise GeometryError(
                f"the symmetries say nothing of tensor {name!r} of shape {shape}; add an entry, "
                f"with {(None,) * len(shape)} if it is not permuted."
            )
        if len(symmetries[name]) != len(shape):
            raise GeometryError(
                f"the symmetries have {len(symmetries[name])} axes for tensor {name!r} of shape "
                f"{shape}; one is needed for each of its axes."
            )
        tables[name] = [
            _table(axis, length, f"axis {i} of tensor {name!r}")
            for i, (axis, length) in enumerate(zip(symmetries[name], shape, strict=True))
        ]
    return tables


def group_sizes(tables: Mapping[str, list[Table]]) -> dict[str, int]:
    """Return how many elements each group has; they must agree from tensor to tensor."""
    sizes: dict[str, tuple[int, str]] = {}
    for name, axes in tables.items():
        for table in axes:
            for group, places in table.items():
                size, first = sizes.setdefault(group, (places.shape[1], name))
                if size != places.shape[1]:
                    raise GeometryError(
                        f"group {group!r} has {size} elements in tensor {first!r} and "
                        f"{places.shape[1]} in {name!r}; these symmetries are of another network."
                    )
    return {group: size for group, (size, _) in sizes.items()}


def permute(
    tensor: Tensor,
    axes: list[Table],
    permutations: Mapping[str, np.ndarray],
    *,
    skip: int | None = None,
) -> Tensor:
    """Permute a tensor's axes, but for axis `skip`."""
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


def _table(axis: Axis, length: int, label: str) -> Table:
    if axis is None:
        return {}
    if isinstance(axis, str):
        return {axis: np.arange(length).reshape(1, length, 1)}
    total = sum((run.stop - run.start) * run.width for run in axis)
    if total != length:
        raise GeometryError(f"{label} has {length} entries, and its runs add up to {total}.")
    table = {}
    for group in dict.fromkeys(run.group for run in axis):
        elements, firsts, start = [], [], 0
        for run in axis:
            n = run.stop - run.start
            if run.group == group:
                elements.append(np.arange(run.start, run.stop))
                firsts.append(start + run.width * np.arange(n))
            start += n * run.width
        widths = {run.width for run in axis if run.group == group}
        number = np.concatenate(elements)
        size = int(number.max()) + 1
        counts = np.bincount(number)
        if len(widths) > 1 or len(set(counts.tolist())) > 1:
            raise GeometryError(
                f"the runs of group {group!r} on {label} must hold each element equally often and "
                f"equally wide, got {[run for run in axis if run.group == group]}."
            )
        # The c-th place of each element, in the order of the axis, makes copy c.
        order = np.argsort(number, kind="stable").reshape(size, -1)
        places = np.concatenate(firsts)[order].T
        table[group] = places[:, :, None] + np.arange(widths.pop())
    return table
