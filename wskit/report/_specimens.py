"""Which layers are worth a picture, and what is drawn of them."""

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from wskit.fits import fit_laws
from wskit.report._report import Specimen
from wskit.spectra import ConvRule, inventory, shuffled_weights, spectra

MOST = 6
"""Layers that get a picture, at the most: a report of 300 layers stays one that can be read."""

# Entries that are shuffled take eight bytes each, and a copy.
_MOST_SHUFFLED = 2**26


def choose(spectral: pd.DataFrame, remarks: pd.DataFrame) -> dict[str, str]:
    """Choose layers of a spectral table: the ends and the middle of what is there.

    Returns
    -------
    dict of str to str
        Names, each with the reason; at most `MOST`.
    """
    verdict = remarks.set_index("name")["verdict"]
    table = spectral[spectral["log_norm"].notna()].set_index("name")
    table = table.assign(verdict=verdict.reindex(table.index))
    sound = table[table["alpha"].notna() & (table["warning"] == "")].sort_values("alpha")
    trained = sound[sound["verdict"] == "trained"]
    found: dict[str, str] = {}

    def add(rows: pd.DataFrame, text: str) -> None:
        if len(rows) and rows.index[0] not in found:
            found[str(rows.index[0])] = text.format_map(rows.iloc[0])

    add(trained, "the heaviest tail whose alpha can be read, {alpha:.2f}")
    add(trained[::-1], "the lightest tail of those that look trained, with alpha = {alpha:.2f}")
    if len(sound) >= 3:
        add(sound[len(sound) // 2 :], "the median of all alpha, {alpha:.2f}")
    collapsed = table[table["verdict"] == "collapsed"]
    collapsed = collapsed.assign(share=collapsed["rank"] / collapsed["M"]).sort_values("share")
    add(collapsed, "the least rank: {rank:.0f} of at most {M}")
    by_size = table.sort_values("n_eigenvalues", ascending=False, kind="stable")
    add(by_size[by_size["verdict"] == "random"], "the largest that looks like random entries")
    spiked = table[table["n_spikes"].notna() & (table["verdict"] == "trained")]
    spiked = spiked.assign(share=spiked["n_spikes"].astype(float) / spiked["n_eigenvalues"])
    spiked = spiked.sort_values("share", ascending=False, kind="stable")
    add(spiked, "the most eigenvalues beyond a random bulk, {n_spikes} of {n_eigenvalues}")
    if not found:
        add(by_size, "the largest layer")
    return dict(list(found.items())[:MOST])


def specimens(
    weights: Mapping[str, Tensor],
    reasons: Mapping[str, str],
    *,
    conv: ConvRule,
    device: torch.device | str | None,
) -> tuple[Specimen, ...]:
    """Return spectrum, laws and null model of the layers named in `reasons`, one by one."""
    if not reasons:
        return ()
    table = inventory(weights, conv=conv).set_index("name")
    null_weights = shuffled_weights(weights, seed=0)
    made = []
    for name, why in reasons.items():
        (s,) = spectra(weights, names=[name], conv=conv, device=device)
        null = None
        row = table.loc[name]
        if row["kind"] != "low-rank" and row["n_parameters"] <= _MOST_SHUFFLED:
            (null,) = spectra(null_weights, names=[name], conv=conv, device=device)
        laws = fit_laws(s.eigenvalues, N=s.N, M=s.M)
        made.append(Specimen(name, why, s, laws, null))
    return tuple(made)
