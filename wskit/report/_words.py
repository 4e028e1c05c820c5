"""What the numbers of a report say, in sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from wskit.fits import FEW_EIGENVALUES

MOST = 6
"""Layers that get a picture, at the most: a report of 300 layers stays one that can be read."""

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


def remark(spectral: pd.DataFrame, correlation: pd.DataFrame) -> pd.DataFrame:
    """Say of each layer what its spectrum looks like, and what to be wary of."""
    neurons = correlation.set_index("name").to_dict("index")
    rows = [
        (row["name"], _judge(row), " ".join(_describe(row, neurons.get(row["name"], {}))))
        for row in spectral.to_dict("records")
    ]
    return pd.DataFrame(rows, columns=["name", "verdict", "remarks"])


def _judge(row: Mapping[Any, Any]) -> str:
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


def _describe(row: Mapping[Any, Any], neurons: Mapping[Any, Any]) -> list[str]:
    if np.isnan(row["log_norm"]):
        return [f"No spectrum: {row['reason'].rstrip('.')}."]
    found = []
    if row["log_norm"] == -np.inf:
        found.append("All its entries are zero.")
    elif row["kind"] == "low-rank":
        found.append(f"A product of two factors, of rank {row['rank']:.0f}.")
    elif row["phase"]:
        found.append(_PHASES[row["phase"]].format(**row))
    if row["log_norm"] > -np.inf:
        if row["n_matrices"] == 1 and row["stable_rank"] < _ONE_DIRECTION:
            rank = row["stable_rank"]
            found.append(f"One direction outweighs all others: the stable rank is {rank:.2f}.")
        if row["reason"]:
            found.append(f"Not fitted: {row['reason'].rstrip('.')}.")
        if row["warning"]:
            found.append(row["warning"])
    if neurons and not pd.isna(neurons["n_dead"]) and neurons["n_dead"] > 0:
        found.append(
            f"{neurons['n_dead']} of {neurons['n_neurons']} neurons have no weight but zero."
        )
    if neurons and neurons["excess"] > _ALIKE:
        found.append(
            f"Its neurons are alike: their mean |cosine| is {neurons['correlation']:.2f}, and "
            f"{neurons['chance']:.2f} by chance."
        )
    return found


def summarise(
    n_parameters: int,
    n_tensors: int,
    spectral: pd.DataFrame,
    remarks: pd.DataFrame,
    correlation: pd.DataFrame,
) -> tuple[str, ...]:
    """Say in a few sentences what there is, and what it cannot say."""
    judged = remarks[spectral["log_norm"].notna().to_numpy()]
    found = [
        f"There are {n_parameters:,} parameters in {_count(n_tensors, 'tensor')}, and "
        f"{_count(len(judged), 'layer')} with a spectrum."
    ]
    if judged.empty:
        found.append("Without a matrix there is nothing to say about training.")
    else:
        named = {key: list(rows["name"]) for key, rows in judged.groupby("verdict")}
        trained = named.pop("trained", [])
        which = "All" if len(trained) == len(judged) else f"{len(trained)} of {len(judged)}"
        found.append(
            f"{which} look trained: random entries do not have such spectra."
            if trained
            else "None looks trained."
        )
        found.append(_say_alpha(spectral))
        for verdict, text in (
            ("random", "cannot be told from random entries"),
            ("collapsed", "lost rank"),
            (
                "unclear",
                f"cannot be judged (under {FEW_EIGENVALUES} eigenvalues, none beyond chance, or no "
                "law that fits)",
            ),
        ):
            if names := named.get(verdict):
                found.append(f"{len(names)} {text}: {_list(names)}.")
    if names := list(spectral["name"][spectral["reason"].str.contains("NaN or inf")]):
        found.append(f"NaN or inf is in {_count(len(names), 'layer')}: {_list(names)}.")
    if n_dead := int(correlation["n_dead"].sum()):
        names = list(correlation["name"][correlation["n_dead"].fillna(0) > 0])
        found.append(f"{_count(n_dead, 'neuron')} in {_list(names)} have no weight but zero.")
    found.append(
        "Weights alone do not tell how accurate a network is, or on what. Nor does a spectrum that "
        "differs from a random one prove training: entries that were never independent (orthogonal "
        "initialisation, pruning, quantisation) differ as well."
    )
    return tuple(found)


def _say_alpha(spectral: pd.DataFrame) -> str:
    alpha = _select_sound(spectral).set_index("name")["alpha"]
    if alpha.empty:
        return "In no layer can the exponent alpha be read: each has a warning, or no tail."
    if len(alpha) == 1:
        return f"Alpha can be read in one layer, {alpha.index[0]}: {alpha.iloc[0]:.2f}."
    return (
        f"In the {len(alpha)} layers whose exponent alpha can be read, its median is "
        f"{alpha.median():.2f}; it goes from {alpha.min():.2f} ({alpha.idxmin()}) to "
        f"{alpha.max():.2f} ({alpha.idxmax()})."
    )


def _select_sound(spectral: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose alpha can be read."""
    return spectral[spectral["alpha"].notna() & (spectral["warning"] == "")]


def choose(spectral: pd.DataFrame, remarks: pd.DataFrame) -> dict[str, str]:
    """Choose layers that are worth a picture: the ends and the middle of what is there.

    Returns
    -------
    dict of str to str
        Names, each with the reason; at most `MOST`.
    """
    table = spectral.assign(verdict=remarks["verdict"].to_numpy())
    table = table[table["log_norm"].notna()]
    table = table.sort_values("n_eigenvalues", ascending=False, kind="stable")
    sound = _select_sound(table).sort_values("alpha", kind="stable")
    trained = sound[sound["verdict"] == "trained"]
    random, collapsed = (table[table["verdict"] == key] for key in ("random", "collapsed"))
    share = collapsed["rank"] / collapsed["M"]
    spiked = table[table["n_spikes"].notna() & (table["verdict"] == "trained")]
    spikes = spiked["n_spikes"].astype(float) / spiked["n_eigenvalues"]
    found: dict[str, str] = {}
    for rows, why in (
        (trained, "the heaviest tail whose alpha can be read, {alpha:.2f}"),
        (trained[::-1], "the lightest tail of those that look trained, with alpha = {alpha:.2f}"),
        (sound[len(sound) // 2 :] if len(sound) > 2 else sound[:0],
         "the median of all alpha, {alpha:.2f}"),
        (collapsed.loc[share.sort_values(kind="stable").index],
         "the least rank: {rank:.0f} of at most {M}"),
        (random, "the largest that looks like random entries"),
        (spiked.loc[spikes.sort_values(ascending=False, kind="stable").index],
         "the most eigenvalues beyond a random bulk, {n_spikes} of {n_eigenvalues}"),
    ):  # fmt: skip
        for row in rows[:1].to_dict("records"):
            found.setdefault(row["name"], why.format_map(row))
    for row in table[:1].to_dict("records") if not found else []:
        found[row["name"]] = "the largest layer"
    return dict(list(found.items())[:MOST])


def choose_moved(spectral: pd.DataFrame, distances: pd.DataFrame) -> dict[str, str]:
    """Choose differences that are worth a picture: those that moved most, and the least rank."""
    table = spectral[spectral["log_norm"].notna() & (spectral["log_norm"] > -np.inf)]
    moved = distances.set_index("name")["relative"]
    # A place in a kernel, conv.weight[0,2], has moved as far as its tensor.
    tensors = [name if name in moved else name.rpartition("[")[0] for name in table["name"]]
    table = table.assign(
        relative=moved.reindex(tensors).to_numpy(), share=table["rank"] / table["M"]
    )
    table = table.sort_values("relative", ascending=False, kind="stable")
    found: dict[str, str] = {}
    for row, place in zip(
        table[:2].itertuples(), ("more than any other", "next to that"), strict=False
    ):
        found[str(row.name)] = f"moved by {row.relative:.1%} of its length, {place}"
    low = table[table["phase"] == "rank-collapse"].sort_values("share", kind="stable")
    for row in low[:1].itertuples():
        text = f"the change of least rank, {row.rank:.0f} of at most {row.M}"
        found.setdefault(str(row.name), text)
    return found


def summarise_comparison(
    distances: pd.DataFrame, spectral: pd.DataFrame, total: Mapping[str, float], source: str
) -> tuple[str, ...]:
    """Say in a few sentences how far two sets of weights are from each other."""
    compared = distances[distances["reason"] == ""]
    still = list(compared["name"][compared["distance"] == 0])
    found = [
        f"{len(compared)} of {_count(len(distances), 'tensor')} can be compared with {source}."
    ]
    if len(still) == len(compared):
        return (*found, "All of them are equal.")
    moved = compared.sort_values("relative", ascending=False, kind="stable")[:3]
    farthest = ", ".join(
        f"{row.name} ({row.relative:.1%})" for row in moved.itertuples(index=False)
    )
    found += [
        f"They are {total['distance']:.3g} apart, {total['relative']:.1%} of the other's length, "
        f"at an angle of {total['angle']:.1f} degrees.",
        f"Most of its own length moved: {farthest}.",
    ]
    if still:
        found.append(f"{_count(len(still), 'tensor')} did not move: {_list(still)}.")
    changed = spectral[spectral["log_norm"] > -np.inf]
    if names := list(changed["name"][changed["phase"] == "rank-collapse"]):
        layers = _count(len(changed), "layer")
        found.append(f"The change of {len(names)} of {layers} is of low rank: {_list(names)}.")
    if names := list(changed["name"][changed["phase"].isin(["random-like", "bleeding-out"])]):
        found.append(
            f"The change of {len(names)} cannot be told from random entries: {_list(names)}."
        )
    return tuple(found)


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _list(names: Sequence[str], limit: int = 3) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
