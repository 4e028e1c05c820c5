"""One row per model: statistics of a zoo's weights, or of its outputs."""

import math
from collections.abc import Mapping

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from wskit.errors import FeatureError
from wskit.features._stacks import make_table, map_blocks, stack_shapes

QUANTILES = (0, 25, 50, 75, 100)  # per cent


def weight_statistics(
    weights: Mapping[str, Tensor],
    *,
    device: torch.device | str | None = None,
) -> pd.DataFrame:
    """Compute the mean, variance and five quantiles of every tensor: seven columns each.

    These are the features of Unterthiner et al. 2020 (arXiv:2002.11448), who compute them for the
    kernel and the bias of each layer: 56 for the network of the Small CNN Zoo.

    Parameters
    ----------
    weights : mapping of str to Tensor of shape (models, ...)
        A zoo's stacked weights, read by blocks of models, so that a memory-mapped zoo is never
        held whole. Integer tensors (the counters of batch normalisation) are left out.
    device : torch.device or str, optional
        Where to compute. None means where each tensor is.

    Returns
    -------
    DataFrame
        One row per model, float64. A tensor ``conv1.weight`` has the columns
        ``conv1.weight.mean``, ``.variance`` (over all entries, divided by their number), and
        ``.q0``, ``.q25``, ``.q50``, ``.q75``, ``.q100``: quantiles with linear interpolation, as
        numpy's. A model whose weights hold NaN or inf has NaN in all columns.

    Raises
    ------
    FeatureError
        If there is no floating tensor, or their first axes differ.

    Examples
    --------
    >>> weight_statistics({"fc.bias": torch.tensor([[0.0, 1.0, 2.0, 5.0]])}).T[0].to_dict()
    {'fc.bias.mean': 2.0, 'fc.bias.variance': 3.5, 'fc.bias.q0': 0.0, 'fc.bias.q25': 0.75, \
'fc.bias.q50': 1.5, 'fc.bias.q75': 2.75, 'fc.bias.q100': 5.0}
    """
    columns: dict[str, Tensor] = {}
    for name in stack_shapes(weights):
        found = map_blocks(_moments_and_quantiles, weights[name], device)
        columns |= {f"{name}.{key}": x for key, x in found.items()}
    return make_table(columns, weights)


def _moments_and_quantiles(stack: Tensor) -> dict[str, Float[Tensor, " models"]]:
    values = stack.reshape(len(stack), -1)
    values = values if values.dtype == torch.float64 else values.float()
    # One sort gives all quantiles; `torch.quantile` sorts again for each and refuses large tensors.
    ordered, _ = values.sort(dim=1)
    variance, mean = torch.var_mean(values.double(), dim=1, correction=0)
    n = values.shape[1]
    found = {"mean": mean, "variance": variance}
    for q in QUANTILES:
        position = (n - 1) * q / 100
        below = math.floor(position)
        low = ordered[:, below].double()
        high = ordered[:, min(below + 1, n - 1)].double()
        found[f"q{q}"] = torch.lerp(low, high, position - below)
    return found


def output_statistics(
    logits: Float[Tensor, "models images classes"],
    *,
    device: torch.device | str | None = None,
) -> pd.DataFrame:
    r"""Summarise the outputs of networks on unlabelled images in 25 columns.

    z are the logits of an image, p is their softmax, and C the number of classes. Entropies are in
    units of ln(C), so that they are in [0, 1]. Nothing depends on the order of images or classes.

    =========================== ====================================================================
    confidence.mean, .std       of max(p), over the images
    confidence.q0 .. .q100      its quantiles 0, 25, 50, 75, 100
    entropy.mean, .std          of the entropy of p, over the images
    margin.mean, .std           of the largest logit less the second
    margin.q25, .q50, .q75      its quantiles
    predicted.entropy           entropy of the shares of the predicted classes
    predicted.max_share         share of the class that is predicted most often
    predicted.n_classes         share of the classes that are ever predicted
    marginal.entropy            entropy of the mean of p over the images
    marginal.information        marginal.entropy - entropy.mean: the mutual information of image
                                and class
    logit.mean, .std            of all logits
    logit.log_sum_exp           mean over the images of ln(sum(exp(z)))
    logit.between               variance, over the classes, of the images' mean: the part of the
                                output that is the same for all images
    logit.within                variance over the images, averaged over the classes: the part that
                                depends on the image
    logit.dimension             participation ratio tr(S)^2 / tr(S^2) of the covariance S of the
                                logits over the images, in [1, C]; 0 if all outputs are the same
    =========================== ====================================================================

    Parameters
    ----------
    logits : Tensor of shape (models, images, classes)
        The outputs before the softmax, of any floating dtype; converted to float64 by blocks of
        models.
    device : torch.device or str, optional
        Where to compute. None means where the tensor is.

    Returns
    -------
    DataFrame
        One row per model, float64; standard deviations and variances are divided by the number of
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
    if logits.ndim != 3 or logits.shape[1] < 1 or logits.shape[2] < 2:
        raise FeatureError(
            "outputs need the shape (models, images, classes) with two classes at least, got "
            f"{tuple(logits.shape)}."
        )
    return make_table(map_blocks(_outputs, logits, device), {"logits": logits})


def _outputs(z: Float[Tensor, "models images classes"]) -> dict[str, Float[Tensor, " models"]]:
    z = z.double()
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
    # A dead network has the same outputs for all images; the rest of its variance is rounding.
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
