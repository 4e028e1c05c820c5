"""Two sets of weights beside each other."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from wskit.checkpoints import Checkpoint
from wskit.errors import ReportError
from wskit.features import spectral_table
from wskit.geometry import WeightDistances, weight_distances
from wskit.report._part import Part
from wskit.report._report import Comparison, Provenance
from wskit.report._specimens import specimens
from wskit.report._words import comparison_summary
from wskit.spectra import ConvRule, LazyWeights, difference, inventory


def compare(
    weights: Checkpoint,
    other: Checkpoint,
    origin: Provenance,
    *,
    conv: ConvRule,
    device: torch.device | str | None,
    progress: bool,
) -> Comparison:
    """Measure how far `weights` are from `other`, and take the spectra of their difference."""
    reasons = _reasons(weights, other)
    names = [name for name, reason in reasons.items() if not reason]
    if not names:
        raise ReportError(
            f"two sets of weights with a tensor of the same name and shape are needed, and "
            f"{weights.source} and {other.source} have none; give two models of one network."
        )
    a, b = Part(weights, names), Part(other, names)
    origin_of_all = LazyWeights(a, lambda name: torch.zeros(()).expand(a.shape(name)))
    measured = weight_distances(
        [a, b], origin_of_all, by="tensor", device=device, progress=progress
    )
    # The factors of a low-rank pair are left out: their difference is not that of the products.
    whole = set(inventory(weights, conv="slices")["name"])
    layers = [name for name in names if name in whole and len(weights.shape(name)) >= 2]
    delta = difference(Part(weights, layers), Part(other, layers))
    spectral = spectral_table(delta, conv=conv, device=device, progress=progress)
    distances = _distances(weights, other, reasons, measured)
    return Comparison(
        summary=comparison_summary(distances, spectral, _total(measured), origin),
        distances=distances,
        spectral=spectral,
        specimens=specimens(delta, _choose(spectral, distances), conv=conv, device=device),
        provenance=origin,
    )


def _reasons(weights: Checkpoint, other: Checkpoint) -> dict[str, str]:
    """Say of every tensor of either why it is not compared; of most, nothing."""
    a, b = Part(weights, weights), Part(other, other)
    found = {}
    for name in weights:
        if name not in other:
            found[name] = "only the first has it"
        elif weights.shape(name) != other.shape(name):
            first, second = (" × ".join(map(str, w.shape(name))) for w in (weights, other))
            found[name] = f"the shapes differ: {first or 'scalar'} and {second or 'scalar'}"
        elif name in weights.ties and name in other.ties:
            found[name] = f"it is tied to {weights.ties[name]}"
        elif not (weights.dtype(name).is_floating_point and other.dtype(name).is_floating_point):
            dtype = str(weights.dtype(name)).removeprefix("torch.")
            found[name] = f"its dtype is {dtype}, and a floating dtype is needed"
        elif 0 in weights.shape(name):
            found[name] = "it is empty"
        elif not (_is_finite(a[name]) and _is_finite(b[name])):
            found[name] = "one of the two holds NaN or inf"
        else:
            found[name] = ""
    return found | {name: "only the other has it" for name in other if name not in weights}


def _is_finite(W: Tensor) -> bool:
    """Look for NaN and inf without a copy; a dtype of one byte has no order."""
    low, high = torch.aminmax(W if W.dtype.itemsize > 1 else W.float())
    return bool(torch.isfinite(low) and torch.isfinite(high))


def _distances(
    weights: Checkpoint, other: Checkpoint, reasons: Mapping[str, str], measured: WeightDistances
) -> pd.DataFrame:
    rows = []
    for name, reason in reasons.items():
        shape = (weights if name in weights else other).shape(name)
        row = {"name": name, "n_parameters": int(np.prod(shape, dtype=np.int64))}
        rows.append(row | {"reason": reason} | ({} if reason else _measures(measured, name)))
    columns = ["norm", "other_norm", "distance", "relative", "angle"]
    return pd.DataFrame(rows, columns=["name", "n_parameters", *columns, "reason"])


def _total(measured: WeightDistances) -> dict[str, float]:
    return _measures(measured, None)


def _measures(measured: WeightDistances, group: str | None) -> dict[str, float]:
    norm, other_norm = measured.update_norms(group)
    distance = measured.euclidean(group)[0, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = distance / other_norm
    return {
        "norm": norm,
        "other_norm": other_norm,
        "distance": distance,
        "relative": relative if distance else 0.0,
        "angle": float(np.degrees(measured.angle(group)[0, 1])),
    }


def _choose(spectral: pd.DataFrame, distances: pd.DataFrame) -> dict[str, str]:
    """Choose differences that are worth a picture: those that moved most, and the least rank."""
    table = spectral[spectral["log_norm"].notna() & (spectral["log_norm"] > -np.inf)]
    moved = distances.set_index("name")["relative"]
    # A place in a kernel, conv.weight[0,2], has moved as far as its tensor.
    tensors = [name if name in moved else name.rpartition("[")[0] for name in table["name"]]
    table = table.assign(relative=moved.reindex(tensors).to_numpy())
    table = table.sort_values("relative", ascending=False, kind="stable").set_index("name")
    found = {
        str(name): f"moved by {row.relative:.1%} of its length, {place}"
        for (name, row), place in zip(
            table[:2].iterrows(), ("more than any other", "next to that"), strict=False
        )
    }
    low = table[table["phase"] == "rank-collapse"]
    if len(low):
        least = low.assign(share=low["rank"] / low["M"]).sort_values("share").iloc[0]
        text = f"the change of least rank, {least['rank']:.0f} of at most {least['M']}"
        found.setdefault(str(least.name), text)
    return found
