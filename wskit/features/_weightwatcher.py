"""The table of WeightWatcher 0.7.7, number for number, for comparison with it."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64
from torch import Tensor
from tqdm.auto import tqdm

from wskit.errors import FitError
from wskit.features._stacks import TEXT
from wskit.fits import fit_marchenko_pastur, fit_power_law
from wskit.spectra import inventory, matrices

_EVALS_THRESHOLD = 1e-5  # absolute: below it an eigenvalue is not fitted
_WEAK_RANK = 1e-6  # absolute as well
_EPS = np.finfo(float).eps


def table(
    weights: Mapping[str, Tensor], *, device: torch.device | str | None, progress: bool
) -> pd.DataFrame:
    """Make WeightWatcher's columns for each 2-D and 4-D weight, without the random ones."""
    listed = inventory(weights)
    listed = listed[listed["shape"].map(len).isin([2, 4]) & (listed["kind"] != "low-rank")]
    rows = []
    for entry in tqdm(listed.to_dict("records"), disable=not progress, unit="layer"):
        longname = entry["name"].removesuffix(".weight")
        row = {"name": longname.rpartition(".")[2], "longname": longname, "reason": entry["reason"]}
        if not entry["reason"]:
            name = entry["name"]
            W = dict(matrices({name: weights[name]}))[name]
            # conv2d_norm: WeightWatcher multiplies the slices of a convolution by sqrt(1/2).
            factor = np.sqrt(0.5) if W.ndim == 3 else 1.0
            exact = factor * W.to(device=device, dtype=torch.float64)
            if torch.isfinite(exact).all():
                singular = torch.linalg.svdvals(exact).cpu().numpy().reshape(-1, entry["M"])
                row |= _row(singular, entry["N"], entry["M"])
            else:
                row["reason"] = f"tensor {name!r} holds NaN or inf; the model diverged."
        rows.append(row)
    return pd.DataFrame(rows, columns=_COLUMNS).astype({"reason": TEXT})


_COLUMNS = ["name", "longname", "N", "M", "Q", "rf", "num_evals"]
_COLUMNS += ["alpha", "xmin", "xmax", "D", "sigma", "num_pl_spikes", "status", "warning"]
_COLUMNS += ["norm", "log_norm", "lambda_max", "spectral_norm", "log_spectral_norm"]
_COLUMNS += ["alpha_weighted", "log_alpha_norm", "stable_rank", "matrix_rank", "entropy"]
_COLUMNS += ["sv_min", "sv_max", "rank_loss", "weak_rank_loss"]
_COLUMNS += ["sigma_mp", "W_scale", "bulk_min", "bulk_max", "mp_softrank", "num_spikes", "reason"]


def _row(singular: Float64[np.ndarray, "k M"], N: int, M: int) -> dict[str, object]:
    e = np.sort(singular.ravel() ** 2)
    total, largest = e.sum(), e[-1]
    rank = int(np.count_nonzero(np.sqrt(e) > np.sqrt(largest) * len(e) * _EPS))
    p = e / total + 1e-10
    lost = singular <= singular.max(axis=1, keepdims=True) * N * _EPS
    row: dict[str, object] = {
        "N": N,
        "M": M,
        "Q": N / M,
        "rf": len(singular),
        "num_evals": e.size,
        "norm": total,
        "log_norm": np.log10(total),
        "lambda_max": largest,
        "spectral_norm": largest,
        "log_spectral_norm": np.log10(largest),
        "stable_rank": total / largest,
        "matrix_rank": rank,
        "entropy": -(p * np.log(p)).sum() / np.log(rank),
        "sv_min": singular.min(axis=1).max(),  # sic: the largest of the slices' smallest
        "sv_max": singular.max(),
        "rank_loss": int(lost.sum()),
        "weak_rank_loss": int(np.count_nonzero(e < _WEAK_RANK)),
    }
    try:
        fit = fit_power_law(e[e > _EVALS_THRESHOLD], rtol=0.0)
        mp = fit_marchenko_pastur(e, N=N, M=M, method="weightwatcher")
    except FitError as error:
        return row | {"status": "failed", "warning": "", "reason": str(error)}
    scale = np.sqrt(e.size / total)
    warning = "over-trained" if fit.alpha < 2 else "under-trained" if fit.alpha > 6 else ""
    return row | {
        "alpha": fit.alpha,
        "xmin": fit.xmin,
        "xmax": largest,
        "D": fit.ks,
        "sigma": fit.sigma,
        "num_pl_spikes": fit.n_tail,
        "status": "success",
        "warning": warning,
        "alpha_weighted": fit.alpha * np.log10(largest),
        "log_alpha_norm": np.log10(np.sum(e**fit.alpha)),
        "sigma_mp": mp.sigma * scale * np.sqrt(N),
        "W_scale": scale,
        "bulk_min": mp.lambda_minus,
        "bulk_max": mp.lambda_plus,
        "mp_softrank": mp.soft_rank,
        "num_spikes": mp.n_spikes,
    }
