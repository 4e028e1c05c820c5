"""Models as points: their vectors, distances and angles, and their projection on a plane."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy.linalg.blas import dsyrk
from torch import Tensor, nn
from tqdm.auto import tqdm

from wskit._base.checks import check_choice
from wskit._base.layout import layout_of
from wskit._base.weights import as_weights, name_models
from wskit.errors import GeometryError

By = Literal["model", "tensor"]

_CLOSE = 1e-7  # of |a|^2 + |b|^2: below it, |a - b|^2 is not taken from the Gram matrix
_ROWS = 32  # models whose differences from one other are held at a time


@dataclass(frozen=True, eq=False)
class WeightDistances:
    """Squared distances between models, and the squared lengths of their updates.

    Everything else follows from these two by the law of cosines. Arrays are read-only float64.

    Attributes
    ----------
    groups : tuple of str
        What the weights are divided into: tensors, or the one group "model".
    squared : array of shape (groups, models, models)
        Squared Euclidean distances within each group.
    squared_updates : array of shape (groups, models), or None
        Squared Euclidean distances from the base; None where there was no base.
    """

    groups: tuple[str, ...]
    squared: Float64[np.ndarray, "groups models models"]
    squared_updates: Float64[np.ndarray, "groups models"] | None

    def euclidean(self, group: str | None = None) -> Float64[np.ndarray, "models models"]:
        """Return the distances between the models, in one group or over all of them."""
        return np.sqrt(self._select(self.squared, group))

    def update_norms(self, group: str | None = None) -> Float64[np.ndarray, " models"]:
        """Return the lengths of the updates w - w0: the models' distances from the base."""
        return np.sqrt(self._select(self.squared_updates, group))

    def cosine(self, group: str | None = None) -> Float64[np.ndarray, "models models"]:
        """Return the cosines of the angles between updates; NaN beside a model that did not move.

        With lengths a, b and distance d, the cosine is (a^2 + b^2 - d^2)/(2 a b).
        """
        d2, a2 = self._select(self.squared, group), self._select(self.squared_updates, group)
        with np.errstate(invalid="ignore", divide="ignore"):
            cosine = (a2[:, None] + a2 - d2) / (2 * np.sqrt(a2[:, None] * a2))
        cosine[(a2 == 0)[:, None] | (a2 == 0)] = np.nan
        return np.clip(cosine, -1, 1)

    def angle(self, group: str | None = None) -> Float64[np.ndarray, "models models"]:
        """Return the angles between updates in radians; NaN beside a model that did not move.

        With lengths a, b and distance d, tan^2(angle/2) = (d^2 - (a - b)^2)/((a + b)^2 - d^2).
        This form keeps small angles, which the arc cosine of a number close to 1 loses.
        """
        d2, a2 = self._select(self.squared, group), self._select(self.squared_updates, group)
        a, b = np.sqrt(a2)[:, None], np.sqrt(a2)
        above, below = np.maximum(d2 - (a - b) ** 2, 0), np.maximum((a + b) ** 2 - d2, 0)
        angle = 2 * np.arctan2(np.sqrt(above), np.sqrt(below))
        angle[(a == 0) | (b == 0)] = np.nan
        return angle

    def _select(self, values: np.ndarray | None, group: str | None) -> np.ndarray:
        """Return the sum over all groups, or the values of one."""
        if values is None:
            raise GeometryError(
                "an update is w - w0, and these distances were computed without the base w0; "
                "call weight_distances(models, base)."
            )
        if group is None:
            return values.sum(axis=0)
        check_choice(group, self.groups, GeometryError, "group")
        return values[self.groups.index(group)].copy()


def weight_distances(
    models: Any,
    base: Mapping[str, Tensor] | nn.Module | None = None,
    *,
    by: By = "model",
    names: Iterable[str] | None = None,
    block_bytes: int | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> WeightDistances:
    """Measure the distances between all pairs of models, and of their updates from a base.

    `block_bytes` bytes of the models' weights are held at a time, the same weights of each model,
    in float64. Their Gram matrix, measured from the models' mean, gives the distances. Where a
    pair is so close that this would cancel (a squared distance under 1e-7 of what it is the
    difference of), its entries are subtracted one by one instead. A distance therefore keeps seven
    digits however close the models are, and that of equal models is 0.

    Parameters
    ----------
    models : list or mapping of models, or mapping of str to Tensor of shape (models, ...)
        Lazily opened checkpoints, state dicts or modules; or the stacked weights of a zoo. A
        tensor that is larger than its part of a block is asked for once per block: mapped files
        read only that part, a mapping that computes its tensors on access computes it again.
    base : mapping of str to Tensor, or nn.Module, optional
        The weights w0 from which updates w - w0 are measured.
    by : {"model", "tensor"}, default "model"
        What one distance is measured over: all weights, or those of a tensor. The results take
        8 bytes per group and pair of models.
    names : iterable of str, optional
        The tensors to measure, where models differ in the others (heads for different tasks). None
        means all floating-point tensors, with the running statistics of batch norms. Tied tensors
        count once.
    block_bytes : int, optional
        Bytes of weights in float64 to hold at a time. It changes results by rounding only. None
        means 16 MiB, a part of which fits a CPU's cache, and 1 GiB on a GPU, which needs more of
        them to be busy.
    device : torch.device or str, optional
        Where to compute. None means where the first tensor is.
    progress : bool, default False
        Whether to show a progress bar.

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
    stacks = models if _is_stack(models) else None
    named = name_models(models if stacks is None else _unstack(stacks), GeometryError)
    labels, sources = list(named), list(named.values())
    layout = layout_of(sources[0], labels[0], error=GeometryError, names=names)
    for label, model in named.items() if stacks is None else ():
        layout.check(model, label, any_float=True)
    if base is not None:
        base = as_weights(base, GeometryError, "the base")
        layout.check(base, "the base", any_float=True)
    n = len(sources)
    place = torch.device(device or layout.device(sources[0]))
    if block_bytes is None:
        block_bytes = 2**24 if place.type == "cpu" else 2**30
    columns = max(1, block_bytes // (8 * n))
    groups = list(layout.spans) if by == "tensor" else ["model"]
    squared = torch.zeros(len(groups), n, n, dtype=torch.float64, device=place)
    updates = torch.zeros(len(groups), n, dtype=torch.float64, device=place)
    for name, span in tqdm(layout.spans.items(), disable=not progress, unit="tensor"):
        g = groups.index(name) if by == "tensor" else 0
        size = span.stop - span.start
        for start in range(0, size, columns):
            stop = min(start + columns, size)
            block = torch.empty(n, stop - start, dtype=torch.float64, device=place)
            if stacks is None:
                _fill(block, sources, name, start)
            else:
                block.copy_(stacks[name].detach().reshape(n, -1)[:, start:stop])
            _check_finite(block, name, labels)
            updates[g] += _subtract_origin(block, base, name, start)
            block -= block.mean(dim=0)
            squared[g] += _square_distances(block)
            del block  # before the next is made: two at a time are twice the memory
    return WeightDistances(
        groups=tuple(groups),
        squared=_lock(squared.cpu().numpy()),
        squared_updates=None if base is None else _lock(updates.cpu().numpy()),
    )


@dataclass(frozen=True, eq=False)
class UpdateProjection:
    """Models on the principal axes of their updates. Arrays are read-only float64.

    Attributes
    ----------
    coordinates : array of shape (models, components)
        In the units of the weights, measured from the models' mean.
    base : array of shape (components,), or None
        Projection of the base; None where the distances have no base.
    explained_variance_ratio : array of shape (components,)
        Share of the models' variance along each axis.
    """

    coordinates: Float64[np.ndarray, "models components"]
    base: Float64[np.ndarray, " components"] | None
    explained_variance_ratio: Float64[np.ndarray, " components"]


def project_updates(distances: WeightDistances, *, n_components: int = 2) -> UpdateProjection:
    r"""Project models on the principal axes of their updates, given the models' distances.

    With :math:`D_{ij}` the squared distances and :math:`J = I - 11^T/n`, the Gram matrix of the
    models measured from their mean is :math:`B = -J D J/2 = V \Lambda V^T`, and the coordinates
    are :math:`V \Lambda^{1/2}` (classical scaling of Euclidean distances, which is PCA). No weight
    is read again. The result is that of PCA of the flattened weights, or of the updates, since the
    base cancels in the mean.

    Parameters
    ----------
    distances : WeightDistances
    n_components : int, default 2

    Returns
    -------
    UpdateProjection
        Along each axis, the coordinate that is largest in size is positive.

    Raises
    ------
    GeometryError
        If the models span fewer dimensions than `n_components`.

    Examples
    --------
    >>> models = [{"w": torch.tensor([x, 0.0])} for x in (0.0, 1.0, 5.0)]
    >>> projection = project_updates(weight_distances(models), n_components=1)
    >>> projection.coordinates.round(6).ravel(), projection.explained_variance_ratio.round(6)
    (array([-2., -1.,  3.]), array([1.]))
    """
    squared = distances.euclidean() ** 2
    means = squared.mean(axis=0)
    gram = -0.5 * (squared - means - means[:, None] + means.mean())
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1], vectors[:, ::-1]
    rank = int(np.count_nonzero(values > 1e-12 * max(values[0], 0.0)))
    if not 1 <= n_components <= rank:
        raise GeometryError(
            f"n_components must be from 1 to {rank}, the number of dimensions that these "
            f"{len(squared)} models span, got {n_components}."
        )
    total = values[values > 0].sum()
    values, vectors = values[:n_components], vectors[:, :n_components]
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, np.arange(n_components)])
    base = None
    if distances.squared_updates is not None:
        # Axis k is a combination of the models whose coefficients sum to 0. That takes out the
        # constant by which this differs from the base's products with the models.
        loadings = (vectors / np.sqrt(values)).T
        loadings -= loadings.mean(axis=1, keepdims=True)
        base = _lock(loadings @ (0.5 * (means - distances.update_norms() ** 2)))
    return UpdateProjection(
        coordinates=_lock(vectors * np.sqrt(values)),
        base=base,
        explained_variance_ratio=_lock(values / total),
    )


def flatten(
    weights: Mapping[str, Tensor] | nn.Module,
    like: Mapping[str, Tensor] | nn.Module | None = None,
) -> Float[Tensor, " size"]:
    """Copy the floating-point tensors of a model into one vector, each tied tensor once.

    Parameters
    ----------
    weights : mapping of str to Tensor, or nn.Module
    like : mapping of str to Tensor, or nn.Module, optional
        A model of the same architecture, whose order the vector has. None takes that of
        `weights`. Vectors that are compared or averaged must have one order.

    Returns
    -------
    Tensor of shape (size,)
        In float32, or float64 where a tensor is, on the device of the first tensor.

    Raises
    ------
    GeometryError
        If the names or shapes of the two models differ, or a tensor holds NaN or inf.

    Examples
    --------
    >>> flatten({"w": torch.ones(1, 2), "b": torch.zeros(1, dtype=torch.float16)})
    tensor([1., 1., 0.])
    """
    weights = as_weights(weights, GeometryError)
    first = weights if like is None else as_weights(like, GeometryError)
    layout = layout_of(first, error=GeometryError)
    layout.check(weights, "the weights", any_float=True)
    return layout.flatten(weights)


def unflatten(
    vector: Float[Tensor, "*batch size"],
    like: Mapping[str, Tensor] | nn.Module,
) -> dict[str, Tensor]:
    """Cut a vector into the tensors of a model: the inverse of `flatten`.

    Parameters
    ----------
    vector : Tensor of shape (size,) or (..., size)
        Further axes in front lie in front of each tensor as well: many models, stacked.
    like : mapping of str to Tensor, or nn.Module
        The model whose names, order, shapes and dtypes the result has.

    Returns
    -------
    dict of str to Tensor
        In the dtypes of `like`; views of `vector` where that is the same, so that gradients flow.
        Tied names share one tensor. Tensors of integers are left out:
        ``{**weights, **unflatten(vector, weights)}`` has them from `weights`.

    Raises
    ------
    GeometryError
        If the last axis is not as long as the model's vector.

    Examples
    --------
    >>> unflatten(torch.tensor([5.0, 6.0, 7.0]), {"w": torch.ones(1, 2), "b": torch.zeros(1)})
    {'w': tensor([[5., 6.]]), 'b': tensor([7.])}
    """
    layout = layout_of(as_weights(like, GeometryError), error=GeometryError)
    if vector.shape[-1:] != (layout.size,):
        raise GeometryError(
            f"the vector of this model has {layout.size} entries, got the shape "
            f"{tuple(vector.shape)}; flatten the weights of the same tensors."
        )
    return layout.unflatten(vector)


def _is_stack(models: Any) -> bool:
    return isinstance(models, Mapping) and isinstance(next(iter(models.values()), None), Tensor)


def _unstack(models: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return stacked weights as a list of models, which share their memory."""
    lengths = {name: tuple(stack.shape[:1]) for name, stack in models.items()}
    if len(set(lengths.values())) != 1:
        raise GeometryError(
            "stacked weights must have an entry per model on the first axis of every tensor, got "
            f"first axes of {lengths}; put a single model in a list."
        )
    stacks = (stack.detach().unbind() for stack in models.values())
    return [dict(zip(models, tensors, strict=True)) for tensors in zip(*stacks, strict=True)]


def _fill(block: Tensor, models: Sequence[Mapping[str, Tensor]], name: str, start: int) -> None:
    """Copy the entries of a tensor from `start` on, of one model in each row."""
    stop = start + block.shape[1]
    parts = (model[name].detach().reshape(-1)[start:stop] for model in models)
    if block.is_cuda:  # one call for all, where many small ones are slow
        block.copy_(torch.stack([part.to(block.device) for part in parts]))
        return
    for row, part in zip(block, parts, strict=True):
        row.copy_(part)


def _check_finite(block: Tensor, name: str, labels: Sequence[str]) -> None:
    bad = ~torch.isfinite(torch.linalg.vector_norm(block, dim=1))
    if bad.any():
        first, *others = bad.nonzero().flatten().tolist()
        raise GeometryError(
            f"tensor {name!r} of {labels[first]} holds NaN or inf, and so do {len(others)} other "
            "models there; leave out the models that diverged."
        )


def _subtract_origin(
    block: Float[Tensor, "models columns"], base: Mapping[str, Tensor] | None, name: str, start: int
) -> Float[Tensor, " models"]:
    """Measure weights from the base, or else from the first model; return squared lengths.

    What all models have in common is then exactly 0, and stays so.
    """
    if base is None:
        origin = block[:1].clone()
    else:
        stop = start + block.shape[1]
        origin = base[name].detach().reshape(1, -1)[:, start:stop].to(block)
        _check_finite(origin, name, ["the base"])
    block -= origin
    return torch.linalg.vector_norm(block, dim=1).square()


def _square_distances(block: Float[Tensor, "models columns"]) -> Float[Tensor, "models models"]:
    """Return squared distances between rows; from the Gram matrix unless two are too close."""
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
    """Return the products of all rows; a CPU computes half of them, since they are symmetric."""
    if block.device.type != "cpu":
        return block @ block.mT
    upper = torch.from_numpy(dsyrk(1.0, block.numpy().T, trans=1))
    return upper + upper.triu(1).mT


def _lock(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
