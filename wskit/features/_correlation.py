"""Weight correlation (Jin et al. 2020): how alike the neurons of a layer are."""

import math
from collections.abc import Iterable, Mapping

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from tqdm.auto import tqdm

from wskit._base.weights import as_weights
from wskit.errors import FeatureError
from wskit.features._stacks import (
    TEXT,
    Shapes,
    blocks,
    float_shapes,
    layer_kinds,
    make_table,
    stack_shapes,
)

_BLOCK = 2**26  # bytes of cosines that are held at a time


def weight_correlation(W: Float[Tensor, "O I ..."]) -> Float[Tensor, ""]:
    r"""Compute the mean absolute cosine between the weights of two neurons of a layer.

    For a dense layer with rows :math:`w_1 \dots w_n`, over all pairs of different rows,

    .. math:: \rho = \frac{1}{n (n - 1)} \sum_{i \ne j}
              \frac{|\langle w_i, w_j \rangle|}{\|w_i\| \, \|w_j\|}.

    For a convolution it is computed for each input channel, whose kernels in all filters are the
    vectors, and averaged over the input channels (Jin et al. 2020, "How does weight correlation
    affect the generalisation ability of deep neural networks", arXiv:2010.05983). A kernel of
    one place is treated as a dense layer, since slices of one number all have a cosine of 1.

    Vectors of zeros (dead filters) have no direction and are left out, and so are input channels
    with fewer than two other vectors. The authors' program differs: it counts the pairs i = j,
    reads nine inputs of a dense layer, and gives dead filters a cosine of 1.

    Parameters
    ----------
    W : Tensor of shape (O, I) or (O, I, *kernel)
        Any floating dtype. The cosines are computed on the device of `W`, in float64 if `W` is and
        else in float32, by blocks of rows, so that the matrix of all pairs is never held.

    Returns
    -------
    Tensor of shape ()
        In [0, 1], and differentiable; NaN if there are no two neurons to compare, or `W` holds
        NaN, inf or values whose squares overflow. Random directions have `correlation_chance` on
        average: compare with that.

    Examples
    --------
    Cosines of 0, 1/sqrt(2) and 1/sqrt(2):

    >>> W = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 3.0], [0.0, 0.0]])
    >>> round(weight_correlation(W).item(), 4)
    0.4714
    """
    return _correlate(W[None] if W.dtype == torch.float64 else W[None].float())[0]


def _correlate(stack: Float[Tensor, "models O I ..."]) -> Float[Tensor, " models"]:
    """Compute the correlation of a layer for all models together."""
    places = math.prod(stack.shape[3:])
    vectors = stack.flatten(3).movedim(2, 1) if places > 1 else stack.flatten(2)[:, None]
    norms = torch.linalg.vector_norm(vectors, dim=3, keepdim=True)
    # Zeros stay zeros, which add nothing to the sum and are not counted.
    unit = vectors / torch.where(norms > 0, norms, 1.0)
    n_live = (norms > 0).sum(dim=(2, 3))
    n_pairs = n_live * (n_live - 1) / 2  # (models, channels)
    total = _sum_of_pairs(unit.flatten(0, 1)).unflatten(0, n_pairs.shape)
    each = total / torch.where(n_pairs > 0, n_pairs, 1.0)
    n_channels = (n_pairs > 0).sum(dim=1)
    # A norm of NaN must not be taken for a dead neuron, and one of inf has no direction.
    undefined = (n_channels == 0) | ~norms.isfinite().all(dim=3).all(dim=2).all(dim=1)
    mean = each.sum(dim=1) / torch.where(undefined, 1, n_channels)
    return torch.where(undefined, torch.nan, mean)


def _sum_of_pairs(unit: Float[Tensor, "stack n d"]) -> Float[Tensor, " stack"]:
    """Add up the absolute products of all pairs of rows i < j, by blocks of rows."""
    n = unit.shape[1]
    row_bytes = n * unit.element_size()
    n_rows = max(1, min(n, _BLOCK // row_bytes))
    n_stack = max(1, _BLOCK // (row_bytes * n_rows))
    totals = []
    for part in unit.split(n_stack):
        total = part.new_zeros(len(part))
        for start in range(0, n, n_rows):
            # The blocks are computed again for the gradient, as together they are all pairs.
            total = total + (
                checkpoint(_sum_from, part, start, n_rows, use_reentrant=False)
                if n_rows < n and part.requires_grad
                else _sum_from(part, start, n_rows)
            )
        totals.append(total)
    return torch.cat(totals)


def _sum_from(unit: Float[Tensor, "stack n d"], start: int, n_rows: int) -> Float[Tensor, " stack"]:
    rest = unit[:, start:]
    cosines = rest[:, :n_rows] @ rest.mT
    return cosines.abs().triu(diagonal=1).sum(dim=(1, 2))


def correlation_chance(d: int) -> float:
    r"""Return the mean absolute cosine of two random directions in `d` dimensions.

    .. math:: E|\cos| = \frac{\Gamma(d/2)}{\sqrt{\pi} \, \Gamma((d + 1)/2)}

    It falls as sqrt(2/(pi d)), so that only the excess over it can be compared between layers.

    Parameters
    ----------
    d : int
        Length of each vector: I of a dense layer, the places of a convolution's kernel.

    Returns
    -------
    float

    Examples
    --------
    >>> [round(correlation_chance(d), 3) for d in (1, 2, 9, 64)]
    [1.0, 0.637, 0.273, 0.1]
    """
    return math.exp(math.lgamma(d / 2) - math.lgamma((d + 1) / 2)) / math.sqrt(math.pi)


def correlation_table(
    weights: Mapping[str, Tensor] | nn.Module,
    *,
    names: Iterable[str] | None = None,
    most_neurons: int | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Compute the weight correlation of every layer of one model: one row per layer.

    Parameters
    ----------
    weights : mapping of str to Tensor, or nn.Module
        One model, read one tensor at a time. The rules of `wskit.spectra.inventory` say which
        tensors are dense layers or convolutions; all others have no row.
    names : iterable of str, optional
        Dense layers and convolutions. None means all of them, and at least one.
    most_neurons : int, optional
        Layers with more neurons are not read, as comparing all pairs can take hours. None means
        no limit.
    device : torch.device or str, optional
        Where to compute. None means where each tensor is.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    DataFrame
        ``name``; ``n_neurons``, ``n_dead`` (neurons whose weights are all zero); ``d``, the
        length of the vectors that are compared; ``correlation`` (`weight_correlation`, in
        float64); ``chance`` (`correlation_chance` of d); ``excess``, the difference of the two;
        ``reason``, why there is no correlation, or "".

    Raises
    ------
    FeatureError
        If no tensor is a dense layer or a convolution, or one of `names` is not.

    Examples
    --------
    >>> table = correlation_table({"fc.weight": torch.eye(3), "fc.bias": torch.ones(3)})
    >>> table[["name", "n_neurons", "correlation", "chance"]].round(3)
            name  n_neurons  correlation  chance
    0  fc.weight          3          0.0     0.5
    """
    weights = as_weights(weights, FeatureError)
    wanted = None if names is None else list(names)
    shapes = {} if wanted == [] else _layers(float_shapes(weights))
    chosen = list(shapes) if wanted is None else wanted
    if unknown := [name for name in chosen if name not in shapes]:
        raise FeatureError(
            f"{unknown[0]!r} is neither a dense layer nor a convolution; see `inventory`."
        )
    rows = []
    for name in tqdm(chosen, disable=not progress, unit="layer"):
        shape = shapes[name]
        d, n = _dimension(shape), shape[0]
        row = {"name": name, "n_neurons": n, "d": d, "chance": correlation_chance(d)}
        if most_neurons is not None and n > most_neurons:
            row["reason"] = f"{n} neurons are over {most_neurons}: too many pairs to compare"
        else:
            row |= _compare(name, weights[name].detach().reshape(shape), device)
            row["excess"] = row["correlation"] - row["chance"]
        rows.append(row)
    columns = ["name", "n_neurons", "n_dead", "d", "correlation", "chance", "excess", "reason"]
    table = pd.DataFrame(rows, columns=columns)
    return table.astype({"n_dead": "Int64", "reason": TEXT})


def _compare(
    name: str, W: Float[Tensor, "O I ..."], device: torch.device | str | None
) -> dict[str, object]:
    W = W.to(device or W.device)
    n, n_dead = len(W), int((W.flatten(1) == 0).all(dim=1).sum())
    rho = weight_correlation(W.double()).item()
    reason = ""
    if not W.isfinite().all():
        rho, reason = math.nan, f"tensor {name!r} holds NaN or inf; the model diverged."
    elif math.isnan(rho):
        reason = f"{n - n_dead} of {n} neurons have weights that are not zero, and two are needed"
        if n - n_dead > 1:
            reason = "no input channel is read by two neurons that could be compared"
    return {"n_dead": n_dead, "correlation": rho, "reason": reason}


def correlation_features(
    weights: Mapping[str, Tensor],
    *,
    device: torch.device | str | None = None,
) -> pd.DataFrame:
    """Compute the weight correlation of every layer of every model: one row per model.

    Parameters
    ----------
    weights : mapping of str to Tensor of shape (models, ...)
        A zoo's stacked weights, read by blocks of models.
    device : torch.device or str, optional
        Where to compute. None means where each tensor is.

    Returns
    -------
    DataFrame
        A tensor ``conv1.weight`` has the columns ``conv1.weight.correlation``, as in
        `correlation_table`, and ``conv1.weight.excess`` over chance. A model whose weights hold
        NaN or inf has NaN in all columns, a layer without two neurons to compare in its own.

    Raises
    ------
    FeatureError
        If no tensor is a dense layer or a convolution, or the first axes differ.

    Examples
    --------
    >>> correlation_features({"fc.weight": torch.eye(2)[None]}).round(3).T[0].to_dict()
    {'fc.weight.correlation': 0.0, 'fc.weight.excess': -0.637}
    """
    columns: dict[str, Tensor] = {}
    for name, shape in _layers(stack_shapes(weights)).items():
        rho = _correlations(weights[name].reshape(-1, *shape), device)
        columns[f"{name}.correlation"] = rho
        columns[f"{name}.excess"] = rho - correlation_chance(_dimension(shape))
    return make_table(columns, weights)


def pac_bayes_measure(
    weights: Mapping[str, Tensor],
    initial: Mapping[str, Tensor],
) -> pd.DataFrame:
    r"""Compute the PAC-Bayes measure with weight correlation of every model: one row per model.

    A posterior whose neurons correlate by :math:`\rho` adds to the squared distance from the
    initial weights, for a layer of n_out neurons with n_in weights each,

    .. math:: g = -(n_{out} - 1) \, n_{in} \ln(1 - \rho)
              - n_{in} \ln(1 + (n_{out} - 1) \rho) \ge 0,

    which is n_in times the negative logarithm of the determinant of the neurons' correlation
    matrix. The measure is :math:`\|w - w_0\|^2/2` plus the mean of g over the layers (Jin et al.
    2020, arXiv:2010.05983; their program computes the mean, not the sum). n_in of a convolution is
    I times the places of its kernel.

    Parameters
    ----------
    weights, initial : mapping of str to Tensor of shape (models, ...)
        Stacked weights after and before training. The distance is over all floating tensors.

    Returns
    -------
    DataFrame
        ``distance``, half the squared distance; ``correlation_term``, the mean of g over the
        layers that have a correlation; ``measure``, their sum. Infinite where all neurons of a
        layer are parallel; NaN where a model holds NaN or inf.

    Raises
    ------
    FeatureError
        If the two differ in names or shapes, or no tensor is a dense layer or a convolution.

    Examples
    --------
    Two neurons at an angle of 60 degrees: g = -2 ln(1/2) - 2 ln(3/2).

    >>> W = torch.tensor([[[1.0, 0.0], [0.5, 0.75**0.5]]])
    >>> pac_bayes_measure({"fc.weight": W}, {"fc.weight": 0 * W}).round(4).iloc[0].tolist()
    [1.0, 0.5754, 1.5754]
    """
    shapes, before = float_shapes(weights), float_shapes(initial)
    if shapes != before:
        name = next(n for n in {**shapes, **before} if shapes.get(n) != before.get(n))
        raise FeatureError(
            f"weights after and before training need the same floating tensors, and {name!r} has "
            f"the shapes {shapes.get(name)} and {before.get(name)}."
        )
    distance = torch.stack([_squared(weights[n], initial[n]) for n in shapes]).sum(dim=0) / 2
    terms = []
    for name, shape in _layers(stack_shapes(weights)).items():
        rho = _correlations(weights[name].reshape(-1, *shape), None).clamp(max=1.0)
        n_out, n_in = shape[0], math.prod(shape[1:])
        spread = (n_out - 1) * torch.log1p(-rho) + torch.log1p((n_out - 1) * rho)
        terms.append(-n_in * spread)
    term = torch.stack(terms).nanmean(dim=0)
    columns = {"distance": distance, "correlation_term": term, "measure": distance + term}
    return make_table(columns, weights, initial)


def correlation_penalty(weights: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """Sum the layers' weight correlations: a term for a loss.

    ``loss + strength * correlation_penalty(dict(model.named_parameters()))`` turns neurons away
    from each other (after Jin et al. 2020, arXiv:2010.05983, who correct the gradient instead).
    Only directions count: it is the same for ``c * W``. To spare the output layer, as they do,
    leave its weight out of the mapping.

    Parameters
    ----------
    weights : mapping of str to Tensor
        One model, with gradients; in `torch.func.vmap`, each model of a stack.

    Returns
    -------
    Tensor of shape ()
        Differentiable. A layer without two live neurons adds 0; NaN if a layer holds NaN, inf or
        values whose squares overflow. Integer and complex tensors add nothing.

    Raises
    ------
    FeatureError
        If no tensor is a dense layer or a convolution.

    Examples
    --------
    >>> W = torch.tensor([[1.0, 0.0], [3.0, 4.0]], requires_grad=True)
    >>> penalty = correlation_penalty({"fc.weight": W})
    >>> penalty.backward()
    >>> round(penalty.item(), 3), W.grad[0].tolist()
    (0.6, [0.0, 0.800000011920929])
    """
    shapes = _layers(float_shapes(weights))
    terms = [_term(weights[name].reshape(shape)) for name, shape in shapes.items()]
    return torch.stack(terms).sum()


def _term(W: Float[Tensor, "O I ..."]) -> Float[Tensor, ""]:
    rho = weight_correlation(W)
    norm = torch.linalg.vector_norm(W, dtype=torch.promote_types(W.dtype, torch.float32))
    return torch.where(rho.isnan() & norm.isfinite(), 0.0, rho)


def _correlations(
    stack: Float[Tensor, "models O I ..."], device: torch.device | str | None
) -> Float[Tensor, " models"]:
    parts = [_correlate(part.double()) for part in blocks(stack, device)]
    return torch.cat(parts).cpu()


def _squared(
    new: Float[Tensor, "models ..."], old: Float[Tensor, "models ..."]
) -> Float[Tensor, " models"]:
    parts = []
    for after, before in zip(blocks(new), blocks(old), strict=True):
        moved = after.double() - before.to(after.device).double()
        parts.append(moved.square().reshape(len(moved), -1).sum(dim=1).cpu())
    return torch.cat(parts)


def _layers(shapes: Shapes) -> Shapes:
    """Return the dense layers and convolutions of one model, with shapes (O, I, *kernel)."""
    kinds = layer_kinds(shapes, "unfold")
    # Axes of one in front of a matrix are ignored, as `inventory` does.
    found = {
        name: shapes[name][-2:] if kind == "matrix" else shapes[name]
        for name, kind in kinds.items()
        if kind in ("matrix", "convolution")
    }
    if not found:
        raise FeatureError(f"a dense layer or a convolution is needed, got {kinds}.")
    return found


def _dimension(shape: tuple[int, ...]) -> int:
    """Return the length of the vectors that are compared, for a layer (O, I, *kernel)."""
    places = math.prod(shape[2:])
    return places if places > 1 else shape[1]
