"""A row a model: what the weights of a zoo, or its outputs, look like."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from wskit._checks import check_tensor
from wskit.errors import FeatureError
from wskit.features._stacks import as_table, blocks, count_models, diverged, headers, layers_of
from wskit.spectra import matrices

QUANTILES = (0, 25, 50, 75, 100)  # per cent

_RTOL = 1e-12  # of the largest eigenvalue: what is below is the solver's noise, as in `fits`


def weight_statistics(
    weights: Mapping[str, Tensor],
    *,
    device: torch.device | str | None = None,
    failures: dict[int, str] | None = None,
) -> pd.DataFrame:
    """Mean, variance and five quantiles of every tensor: seven columns a tensor.

    The features of Unterthiner et al. 2020 (arXiv:2002.11448), who take them for the kernel and
    for the bias of each layer: 56 for the network of the Small CNN Zoo.

    Parameters
    ----------
    weights : mapping of str to Tensor of shape (models, ...)
        A zoo's stacked weights. Integer tensors (the counters of batch normalisation) are left
        out. Read by blocks of models, so that a memory-mapped zoo is never held whole.
    device : torch.device or str, optional
        Where to compute. None means where each tensor is.
    failures : dict, optional
        Where given, a model with NaN in its row adds its number and the reason to it.

    Returns
    -------
    DataFrame
        A row a model, float64. For a tensor ``conv1.weight`` the columns ``conv1.weight.mean``,
        ``.variance`` (over all entries, divided by their number), and ``.q0``, ``.q25``,
        ``.q50``, ``.q75``, ``.q100``: quantiles with linear interpolation, as numpy's. A model
        whose weights hold NaN or inf has NaN in all columns.

    Raises
    ------
    FeatureError
        If there is no floating tensor, if one of them is empty, or if their first axes differ.

    Examples
    --------
    >>> weight_statistics({"fc.bias": torch.tensor([[0.0, 1.0, 2.0, 5.0]])}).T[0].to_dict()
    {'fc.bias.mean': 2.0, 'fc.bias.variance': 3.5, 'fc.bias.q0': 0.0, 'fc.bias.q25': 0.75, \
'fc.bias.q50': 1.5, 'fc.bias.q75': 2.75, 'fc.bias.q100': 5.0}
    """
    known = headers(weights)
    count_models(known)
    labels = ("mean", "variance", *(f"q{q}" for q in QUANTILES))
    columns: dict[str, Tensor] = {}
    for name in known:
        parts = [_moments_and_quantiles(part) for part in blocks(weights[name], device)]
        table = torch.cat(parts)
        columns |= {f"{name}.{label}": table[:, i] for i, label in enumerate(labels)}
    return as_table(columns, diverged(weights), failures)


def _moments_and_quantiles(stack: Tensor) -> Float[Tensor, "models 7"]:
    values = stack.reshape(len(stack), -1)
    values = values if values.dtype == torch.float64 else values.float()
    # One sort gives all quantiles; `torch.quantile` sorts for each, and refuses large tensors.
    ordered, _ = values.sort(dim=1)
    variance, mean = torch.var_mean(values.double(), dim=1, correction=0)
    n = values.shape[1]
    found = [mean, variance]
    for q in QUANTILES:
        position = (n - 1) * q / 100
        below = math.floor(position)
        low = ordered[:, below].double()
        high = ordered[:, min(below + 1, n - 1)].double()
        found.append(torch.lerp(low, high, position - below))
    return torch.stack(found, dim=1)


def spectral_features(
    weights: Mapping[str, Tensor],
    *,
    conv: Literal["unfold", "slices"] = "unfold",
    device: torch.device | str | None = None,
    failures: dict[int, str] | None = None,
) -> pd.DataFrame:
    r"""Norms, ranks and tails of the spectrum of every layer: five columns a layer.

    With :math:`\lambda_i` the eigenvalues of W^T W, as in `spectral_table` where the names are
    the same:

    ================== =============================================================================
    log_norm           log10 of the sum, the squared Frobenius norm
    log_spectral_norm  log10 of the largest, the squared spectral norm
    stable_rank        sum / (n_matrices * largest)
    entropy            of the shares of the sum, in units of ln(n)
    alpha_hill         exponent of the upper half of the eigenvalues, as by
                       ``wskit.fits.fit_power_law(..., method="hill")``
    ================== =============================================================================

    The layers of a small network have 10 to 16 eigenvalues. Hill's exponent of half of so few is
    a demonstration only: it has a standard error of a third of (alpha - 1), and no power law can
    be told from another distribution. It may serve a regressor, but says nothing of a tail.

    Parameters
    ----------
    weights : mapping of str to Tensor of shape (models, ...)
        A zoo's stacked weights. Each tensor is a matrix or not by the rules of
        `wskit.spectra.inventory`.
    conv : {"unfold", "slices"}, default "unfold"
        The rule for convolutions, see `wskit.spectra.ConvRule`. The default differs from
        `spectral_table`'s: a first layer that reads one channel has slices of one column, and so
        no spectrum as slices. Unfolded, it is the matrix that acts on a patch, and every layer
        of a small network has its row.
    device : torch.device or str, optional
        Where to compute. None means where each tensor is.
    failures : dict, optional
        Where given, a model with NaN in its row adds its number and the reason to it.

    Returns
    -------
    DataFrame
        A row a model, columns such as ``conv1.weight.stable_rank``, float64. A model whose
        weights hold NaN or inf has NaN in all columns. Where a value is not defined (all weights
        of the layer are zero, or fewer than two eigenvalues in the tail) it is NaN.

    Raises
    ------
    FeatureError
        If no tensor holds a matrix, or the first axes of the tensors differ.

    Examples
    --------
    >>> weights = {"fc.weight": torch.diag(torch.tensor([3.0, 1.0]))[None]}
    >>> spectral_features(weights).round(3).T[0].tolist()
    [1.0, 0.954, 1.111, 0.469, nan]
    """
    known = headers(weights)
    count_models(known)
    columns: dict[str, Tensor] = {}
    for name in layers_of(known, conv):
        parts = [
            _spectral(_as_matrices(part, name, conv)) for part in blocks(weights[name], device)
        ]
        columns |= {f"{name}.{key}": torch.cat([p[key] for p in parts]) for key in parts[0]}
    return as_table(columns, diverged(weights), failures)


def _as_matrices(stack: Tensor, name: str, conv: Any) -> Float[Tensor, "models n N M"]:
    """Apply the rules of `wskit.spectra` to one model, and through vmap to all."""

    def one(W: Tensor) -> Tensor:
        matrix = next(matrices({name: W}, conv=conv))[1]
        return matrix if matrix.ndim == 3 else matrix[None]

    return torch.vmap(one)(stack)


def _spectral(W: Float[Tensor, "models n N M"]) -> dict[str, Float[Tensor, " models"]]:
    exact = W.double()
    n_matrices = W.shape[1]
    gram = exact.mT @ exact
    # A model that diverged has no eigenvalues; its row is made NaN in the end.
    gram = torch.where(gram.isfinite().all(dim=(1, 2, 3), keepdim=True), gram, 0.0)
    e, _ = torch.linalg.eigvalsh(gram).clamp_min(0).flatten(1).sort(dim=1)
    total, largest = e.sum(dim=1), e[:, -1]
    log_norm, log_spectral_norm = total.log10(), largest.log10()
    shares = e / total[:, None]
    entropy = torch.special.entr(shares).sum(dim=1) / math.log(e.shape[1])
    columns = {
        "log_norm": log_norm,
        "log_spectral_norm": log_spectral_norm,
        "stable_rank": total / (n_matrices * largest),
        "entropy": entropy,
        "alpha_hill": _hill(e),
    }
    return {key: torch.where(largest > 0, x, torch.nan) for key, x in columns.items()}


def _hill(e: Float[Tensor, "models n"]) -> Float[Tensor, " models"]:
    """Hill's exponent of the upper half of those ascending values that are above the noise."""
    n = e.shape[1]
    above = (e > _RTOL * e[:, -1:]).sum(dim=1, keepdim=True)
    k = above // 2
    start = torch.gather(e, 1, (n - 1 - k).clamp(0, n - 1))
    in_tail = torch.arange(n, device=e.device) >= n - k
    total = torch.where(in_tail, (e / start).log(), 0.0).sum(dim=1)
    defined = (k[:, 0] >= 2) & (total > 0)
    return torch.where(defined, 1 + k[:, 0] / total, torch.nan)


def output_statistics(
    logits: Float[Tensor, "models images classes"],
    *,
    device: torch.device | str | None = None,
    failures: dict[int, str] | None = None,
) -> pd.DataFrame:
    r"""Sum up what networks answer to unlabelled images: 25 columns.

    With z the logits of an image, p their softmax, and C classes; entropies are in units of
    ln(C), so that they are in [0, 1]. Nothing depends on the order of images or classes.

    =========================== ====================================================================
    confidence.mean, .std       of max(p), over the images
    confidence.q0 .. .q100      its quantiles 0, 25, 50, 75, 100
    entropy.mean, .std          of the entropy of p, over the images
    margin.mean, .std           of the largest logit less the second
    margin.q25, .q50, .q75      its quantiles
    predicted.entropy           entropy of the shares of the predicted classes
    predicted.max_share         share of the class that is predicted most often
    predicted.n_classes         share of the classes that are predicted at all
    marginal.entropy            entropy of the mean of p over the images
    marginal.information        marginal.entropy - entropy.mean: the mutual information of image
                                and class
    logit.mean, .std            of all logits
    logit.log_sum_exp           mean over the images of ln(sum(exp(z)))
    logit.between               variance, over the classes, of the images' mean: what is answered
                                whatever the image
    logit.within                variance over the images, averaged over the classes: what depends
                                on the image
    logit.dimension             participation ratio tr(S)^2 / tr(S^2) of the covariance S of the
                                logits over the images, in [1, C]; 0 if all answers are the same
    =========================== ====================================================================

    Parameters
    ----------
    logits : Tensor of shape (models, images, classes)
        The outputs before the softmax, of any floating dtype; converted to float64 by blocks of
        models.
    device : torch.device or str, optional
        Where to compute. None means where the tensor is.
    failures : dict, optional
        Where given, a model with NaN in its row adds its number and the reason to it.

    Returns
    -------
    DataFrame
        A row a model, float64; standard deviations and variances are divided by the number of
        values. A model with NaN or inf among its outputs has NaN in all columns.

    Raises
    ------
    FeatureError
        If there is no image, or fewer than two classes.

    Examples
    --------
    >>> table = output_statistics(torch.zeros(1, 5, 4))
    >>> table[["confidence.mean", "entropy.mean", "predicted.max_share"]].iloc[0].tolist()
    [0.25, 1.0, 1.0]
    """
    check_tensor(logits, FeatureError, "logits")
    shaped = logits.ndim == 3 and logits.shape[1] >= 1 and logits.shape[2] >= 2
    if not (shaped and logits.is_floating_point()):
        raise FeatureError(
            "outputs of the shape (models, images, classes) are needed, with an image and two "
            f"classes at least, got {logits.dtype} of {tuple(logits.shape)}; see `outputs`."
        )
    if not len(logits):
        raise FeatureError("there are no models: the outputs have no rows; give one.")
    parts = [_outputs(part.double()) for part in blocks(logits, device)]
    columns = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    return as_table(columns, diverged({"logits": logits}), failures)


def _outputs(z: Float[Tensor, "models images classes"]) -> dict[str, Float[Tensor, " models"]]:
    log_classes = math.log(z.shape[2])
    p = z.softmax(dim=2)
    largest, places = z.topk(2, dim=2)
    confidence, margin = p.amax(dim=2), largest[..., 0] - largest[..., 1]
    entropy = torch.special.entr(p).sum(dim=2) / log_classes
    chosen = torch.zeros_like(z).scatter_(2, places[..., :1], 1.0)
    shares = chosen.mean(dim=1)
    marginal = torch.special.entr(p.mean(dim=1)).sum(dim=1) / log_classes
    means = z.mean(dim=1)
    centred = z - means[:, None]
    covariance = centred.mT @ centred / z.shape[1]
    trace = covariance.diagonal(dim1=1, dim2=2).sum(dim=1)
    # A dead network answers the same to all: what rounding leaves of its variance is no answer.
    varies = trace > 1e-20 * z.square().sum(dim=2).mean(dim=1)
    dimension = trace.square() / covariance.square().sum(dim=(1, 2))
    return {
        **_spread("confidence", confidence, QUANTILES),
        **_spread("entropy", entropy, ()),
        **_spread("margin", margin, (25, 50, 75)),
        "predicted.entropy": torch.special.entr(shares).sum(dim=1) / log_classes,
        "predicted.max_share": shares.amax(dim=1),
        "predicted.n_classes": (shares > 0).double().mean(dim=1),
        "marginal.entropy": marginal,
        "marginal.information": marginal - entropy.mean(dim=1),
        "logit.mean": z.mean(dim=(1, 2)),
        "logit.std": z.std(dim=(1, 2), correction=0),
        "logit.log_sum_exp": z.logsumexp(dim=2).mean(dim=1),
        "logit.between": means.var(dim=1, correction=0),
        "logit.within": torch.where(varies, trace / z.shape[2], 0.0),
        "logit.dimension": torch.where(varies, dimension, 0.0),
    }


def _spread(
    label: str, x: Float[Tensor, "models images"], quantiles: tuple[int, ...]
) -> dict[str, Float[Tensor, " models"]]:
    found = {f"{label}.mean": x.mean(dim=1), f"{label}.std": x.std(dim=1, correction=0)}
    if quantiles:
        levels = torch.tensor(quantiles, dtype=x.dtype, device=x.device) / 100
        rows = x.quantile(levels, dim=1)
        found |= {f"{label}.q{q}": row for q, row in zip(quantiles, rows, strict=True)}
    return found


def canonical_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sort the hidden units of every model by the norm of their incoming weights.

    Permuting the units of a hidden layer, together with the inputs of the next, leaves the
    function as it was, so that a network has many equal copies. Of these the one is returned
    whose units come in descending order of norm (Euclidean, without the bias), so that flat
    weights of two models can be compared entry by entry.

    Parameters
    ----------
    weights : mapping of str to Tensor of shape (models, ...)
        Stacked weights of a chain of layers in their order from input to output, each a dense
        (models, O, I) or a convolution (models, O, I, *kernel), whose I is the O of the layer
        before; a convolution is followed by a dense layer after global pooling. The vectors of
        length O under the layer's own prefix (``conv1.bias``), and under prefixes without a
        matrix that follow it (batch normalisation), are sorted along.

    Returns
    -------
    dict of str to Tensor
        New tensors of the same names, shapes and dtypes. Input units and output units keep
        their places.

    Raises
    ------
    FeatureError
        If the layers are no such chain.

    Examples
    --------
    >>> weights = {
    ...     "hidden.weight": torch.tensor([[[1.0, 0.0], [3.0, 4.0]]]),
    ...     "hidden.bias": torch.tensor([[0.1, 0.2]]),
    ...     "out.weight": torch.tensor([[[7.0, 8.0]]]),
    ... }
    >>> sorted_ = canonical_weights(weights)
    >>> sorted_["hidden.bias"].tolist()[0], sorted_["out.weight"].tolist()[0]
    ([0.20000000298023224, 0.10000000149011612], [[8.0, 7.0]])
    """
    count_models(headers(weights))
    chain = _chain(weights)
    result = {name: stack.detach().clone() for name, stack in weights.items()}
    for (matrix, vectors), (following, _) in pairwise(chain):
        W = result[matrix]
        norms = torch.linalg.vector_norm(W.flatten(2).double(), dim=2)
        order = norms.sort(dim=1, descending=True, stable=True).indices  # (models, O)
        for name in (matrix, *vectors):
            result[name] = _take(result[name], order, axis=1)
        result[following] = _take(result[following], order, axis=2)
    return result


def _chain(weights: Mapping[str, Tensor]) -> list[tuple[str, list[str]]]:
    """Find the layers: the name of each matrix, and of the vectors that go with its outputs."""
    groups: dict[str, list[str]] = {}
    for name in headers(weights):
        groups.setdefault(name.rpartition(".")[0], []).append(name)
    chain: list[tuple[str, list[str]]] = []
    for prefix, names in groups.items():
        own = [name for name in names if weights[name].ndim > 2]
        if len(own) > 1:
            raise FeatureError(
                f"a chain has one matrix a layer, and {prefix!r} has {len(own)}: "
                f"{', '.join(map(repr, own))}."
            )
        if own:
            n_inputs = weights[own[0]].shape[2]
            if chain and n_inputs != (n := weights[chain[-1][0]].shape[1]):
                raise FeatureError(
                    f"a layer of a chain reads the outputs of the one before, and {own[0]!r} has "
                    f"{n_inputs} inputs where {chain[-1][0]!r} has {n} outputs; give the layers "
                    "in their order, without branches, and pooled before a dense layer."
                )
            chain.append((own[0], []))
        for name in names:
            stack = weights[name]
            if stack.ndim != 2:
                continue
            if not chain or stack.shape[1] != weights[chain[-1][0]].shape[1]:
                raise FeatureError(
                    f"vector {name!r} of length {stack.shape[1]} belongs to no layer: the layer "
                    "before it in the chain has another number of outputs."
                )
            chain[-1][1].append(name)
    return chain


def _take(stack: Tensor, order: Integer[Tensor, "models units"], axis: int) -> Tensor:
    """Reorder each model's entries along an axis."""
    shape = [1] * stack.ndim
    shape[0], shape[axis] = order.shape
    return torch.take_along_dim(stack, order.reshape(shape).to(stack.device), dim=axis)
