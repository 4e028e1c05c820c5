"""What the numbers say, in sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from wskit.fits import FEW_EIGENVALUES
from wskit.report._report import Provenance

VERDICTS = {
    "rank-collapse": "collapsed",
    "random-like": "random",
    "bleeding-out": "random",
    "bulk+spikes": "trained",
    "bulk-decay": "trained",
    "heavy-tailed": "trained",
}
"""What a phase says about training. Eigenvalues just beyond the edge of a bulk are no evidence."""

# Remarks are made of a mean absolute cosine this far over chance, and of a stable rank this low.
_ALIKE, _ONE_DIRECTION = 0.1, 1.5

_PHASES = {
    "rank-collapse": "It has lost rank: its eigenvalues reach {rank:.0f} of at most {M}.",
    "random-like": "Its spectrum is that of random entries.",
    "bleeding-out": "A few eigenvalues are just beyond the bulk of random entries; that is little.",
    "bulk+spikes": "A random bulk, and {n_spikes} of {n_eigenvalues} eigenvalues apart from it.",
    "bulk-decay": "No random bulk; the spectrum decays into its tail.",
    "heavy-tailed": "A heavy tail: a power law holds {n_tail} of {n_eigenvalues} eigenvalues.",
}


def remarks(spectral: pd.DataFrame, correlation: pd.DataFrame) -> pd.DataFrame:
    """Say of each layer what its spectrum looks like, and what to be wary of: a row a layer."""
    neurons = correlation.set_index("name").to_dict("index")
    rows = []
    for row in spectral.to_dict("records"):
        sentences = [*_of_spectrum(row), *_of_neurons(neurons.get(row["name"], {}))]
        rows.append((row["name"], _verdict(row), " ".join(sentences)))
    return pd.DataFrame(rows, columns=["name", "verdict", "remarks"])


def _verdict(row: Mapping[Any, Any]) -> str:
    verdict = VERDICTS.get(row["phase"], "unclear")
    if row["kind"] == "low-rank":  # its rank says how it was made
        return "unclear"
    if verdict == "collapsed":
        return verdict
    # A few in a hundred random matrices have no bulk that fits, but nothing beyond its edge.
    within = not pd.isna(row["n_spikes"]) and row["n_spikes"] == 0
    if row["n_eigenvalues"] < FEW_EIGENVALUES or (verdict == "trained" and within):
        return "unclear"
    return verdict


def _of_spectrum(row: Mapping[Any, Any]) -> list[str]:
    if np.isnan(row["log_norm"]):
        return [f"No spectrum: {row['reason'].rstrip('.')}."]
    if row["log_norm"] == -np.inf:
        return ["All its entries are zero."]
    found = [_PHASES[row["phase"]].format(**row)] if row["phase"] else []
    if row["kind"] == "low-rank":
        found = [f"A product of two factors, of rank {row['rank']:.0f}."]
    if row["n_matrices"] == 1 and row["stable_rank"] < _ONE_DIRECTION:
        found.append(
            f"One direction outweighs all others: the stable rank is {row['stable_rank']:.2f}."
        )
    if row["reason"]:
        found.append(f"Not fitted: {row['reason'].rstrip('.')}.")
    return [*found, row["warning"]] if row["warning"] else found


def _of_neurons(row: Mapping[Any, Any]) -> list[str]:
    found = []
    if row and not pd.isna(row["n_dead"]) and row["n_dead"] > 0:
        found.append(f"{row['n_dead']} of {row['n_neurons']} neurons have no weight but zero.")
    if row and row["excess"] > _ALIKE:
        found.append(
            f"Its neurons are alike: their mean |cosine| is {row['correlation']:.2f}, and "
            f"{row['chance']:.2f} by chance."
        )
    return found


def summary(
    inventory: pd.DataFrame,
    spectral: pd.DataFrame,
    remarks: pd.DataFrame,
    correlation: pd.DataFrame,
    provenance: Provenance,
) -> tuple[str, ...]:
    """Say in a few sentences what there is, and what it cannot say."""
    has = spectral["log_norm"].notna()
    n, n_tensors = int(has.sum()), sum(provenance.dtypes.values())
    found = [
        f"There are {provenance.n_parameters:,} parameters in {_count(n_tensors, 'tensor')}, and "
        f"{_count(n, 'layer')} with a spectrum."
    ]
    if n == 0:
        found.append("Without a matrix there is nothing to say about training.")
    else:
        trained, *others = _of_verdicts(remarks[has.to_numpy()])
        found += [trained, _of_alpha(spectral), *others]
    found += _of_trouble(spectral, correlation)
    found.append(
        "Weights alone do not tell how accurate a network is, or on what; nor does a spectrum "
        "that differs from a random one prove training, for entries that were never independent "
        "(orthogonal initialisation, pruning, quantisation) differ as well."
    )
    return tuple(found)


def _of_verdicts(remarks: pd.DataFrame) -> list[str]:
    groups = {key: list(rows["name"]) for key, rows in remarks.groupby("verdict")}
    n, found = len(remarks), []
    if names := groups.get("trained"):
        which = "All" if len(names) == n else f"{len(names)} of {n}"
        found.append(f"{which} look trained: random entries do not have such spectra.")
    else:
        found.append("None looks trained.")
    if names := groups.get("random"):
        found.append(f"{len(names)} cannot be told from random entries: {_listed(names)}.")
    if names := groups.get("collapsed"):
        found.append(f"{len(names)} lost rank: {_listed(names)}.")
    if names := groups.get("unclear"):
        few = f"under {FEW_EIGENVALUES} eigenvalues, none beyond chance, or no law that fits"
        found.append(f"{len(names)} cannot be judged ({few}): {_listed(names)}.")
    return found


def _of_alpha(spectral: pd.DataFrame) -> str:
    sound = spectral[spectral["alpha"].notna() & (spectral["warning"] == "")]
    if sound.empty:
        return "In no layer can the exponent alpha be read: each has a warning, or no tail."
    alpha = sound.set_index("name")["alpha"]
    if len(sound) == 1:
        return f"Alpha can be read in one layer, {alpha.index[0]}: {alpha.iloc[0]:.2f}."
    return (
        f"In the {len(sound)} layers whose exponent alpha can be read, its median is "
        f"{alpha.median():.2f}; it goes from {alpha.min():.2f} ({alpha.idxmin()}) to "
        f"{alpha.max():.2f} ({alpha.idxmax()})."
    )


def _of_trouble(spectral: pd.DataFrame, correlation: pd.DataFrame) -> list[str]:
    found = []
    rows = spectral.to_dict("records")
    if names := [str(row["name"]) for row in rows if "NaN or inf" in row["reason"]]:
        found.append(f"NaN or inf is in {_count(len(names), 'layer')}: {_listed(names)}.")
    n_dead = int(correlation["n_dead"].sum())
    if n_dead:
        layers = list(correlation["name"][correlation["n_dead"].fillna(0) > 0])
        found.append(f"{_count(n_dead, 'neuron')} in {_listed(layers)} have no weight but zero.")
    return found


def comparison_summary(
    distances: pd.DataFrame,
    spectral: pd.DataFrame,
    total: Mapping[str, float],
    origin: Provenance,
) -> tuple[str, ...]:
    """Say in a few sentences how far two sets of weights are from each other."""
    compared = distances[distances["reason"] == ""]
    still = compared[compared["distance"] == 0]
    found = [
        f"{len(compared)} of {_count(len(distances), 'tensor')} can be compared with "
        f"{origin.source}."
    ]
    if len(still) == len(compared):
        return (*found, "All of them are equal.")
    found.append(
        f"They are {total['distance']:.3g} apart, {total['relative']:.1%} of the other's length, "
        f"at an angle of {total['angle']:.1f} degrees."
    )
    moved = compared.sort_values("relative", ascending=False, kind="stable").head(3)
    texts = [
        f"{name} ({share:.1%})"
        for name, share in zip(moved["name"], moved["relative"], strict=True)
    ]
    found.append(f"Most of its own length moved: {', '.join(texts)}.")
    if len(still):
        found.append(
            f"{_count(len(still), 'tensor')} did not move: {_listed(list(still['name']))}."
        )
    changed = spectral[spectral["log_norm"] > -np.inf]
    low = list(changed["name"][changed["phase"] == "rank-collapse"])
    if low:
        found.append(
            f"The change of {len(low)} of {_count(len(changed), 'layer')} is of low rank: "
            f"{_listed(low)}."
        )
    chance = list(changed["name"][changed["phase"].isin(["random-like", "bleeding-out"])])
    if chance:
        found.append(
            f"The change of {len(chance)} cannot be told from random entries: {_listed(chance)}."
        )
    return tuple(found)


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _listed(names: Sequence[str], limit: int = 3) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
