"""A row a layer: the spectrum of its weight, summed up."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64
from torch import Tensor

from wskit._checks import check_choice
from wskit.errors import FeatureError, SpectrumError
from wskit.features import _weightwatcher
from wskit.features._stacks import TEXT
from wskit.fits import PowerLawFit, alpha_interval, caveats, fit_laws
from wskit.spectra import ConvRule, QkvRule, Spectrum, inventory, shuffled_weights, spectra

Convention = Literal["wskit", "weightwatcher"]
"""Whose definitions a table follows. The two differ where WeightWatcher 0.7.7 halves the
eigenvalues of convolutions, drops eigenvalues under an absolute threshold, and fits the
Marchenko-Pastur law by a kernel density; `spectral_table` lists them all."""

_TAIL = ["alpha", "xmin", "ks", "sigma", "n_tail", "alpha_low", "alpha_high"]
_SCALE = ["alpha_weighted", "log_norm", "log_spectral_norm", "log_alpha_norm"]
_SHAPE = ["stable_rank", "rank", "entropy", "n_erg"]
_BULK = ["mp_sigma", "n_spikes", "soft_rank", "mp_ks"]
_COUNTS = ["n_tail", "n_erg", "n_spikes"]
_COLUMNS = ["name", "kind", "N", "M", "Q", "n_matrices", "n_eigenvalues"]
_COLUMNS += [*_TAIL, *_SCALE, *_SHAPE, *_BULK, "null_distance", "phase", "warning", "reason"]


def spectral_table(
    weights: Mapping[str, Tensor],
    *,
    conv: ConvRule = "slices",
    qkv: QkvRule = "fused",
    convention: Convention = "wskit",
    null_seed: int | None = None,
    n_resamples: int = 0,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    r"""Spectra of all layers, fitted and summed up: one row a layer.

    With :math:`\lambda_i` the n eigenvalues of W^T W, pooled over the matrices of a layer:

    ================== =============================================================================
    alpha .. n_tail    `wskit.fits.fit_power_law`; sigma is the standard error of alpha
    alpha_low, _high   90 % bootstrap interval of alpha, if `n_resamples` is given
    log_norm           log10 of the sum, the squared Frobenius norm [1]_
    log_spectral_norm  log10 of the largest, the squared spectral norm [1]_
    alpha_weighted     alpha * log_spectral_norm [1]_, eq. 5
    log_alpha_norm     log10 of the sum of the alpha-th powers [1]_, eq. 6
    stable_rank        sum / (n_matrices * largest), at most M
    rank               eigenvalues over ``(N eps)`` of the largest, a matrix on average; at most M
    entropy            of the shares of the sum, in units of ln(n): 1 where all are equal
    n_erg              the most largest eigenvalues whose logarithms, where the mean eigenvalue
                       is 1, sum to 0 or more (the "detX" condition of [2]_)
    mp_sigma .. mp_ks  `wskit.fits.fit_marchenko_pastur`: standard deviation of the bulk's
                       entries, eigenvalues beyond its edge, edge / largest, distance of the bulk
                       from the law
    null_distance      1-Wasserstein distance to the spectrum of the same entries in random
                       order, both in units of the mean eigenvalue; if `null_seed` is given
    phase              `wskit.fits.classify_phase`
    warning            why not to read alpha, in words (`wskit.fits.caveats`)
    ================== =============================================================================

    With ``convention="weightwatcher"`` the columns have WeightWatcher 0.7.7's names and the
    numbers of its ``analyze(fit="PL", mp_fit=True)`` on a CPU, without those that it draws at
    random. They differ from ours: eigenvalues of convolutions are halved (which moves all norms,
    and not alpha); the power law is fitted to eigenvalues over 1e-5 (so that alpha changes or
    fails when weights are scaled); `stable_rank` of pooled slices is up to n_matrices * M;
    `entropy` adds 1e-10 to each share; the Marchenko-Pastur law is fitted to a kernel density,
    and for square matrices to a quarter circle whose support is fixed (so that sigma is off when
    there are spikes); its edge is sharpened by the root of the Tracy-Widom scale (so that small
    spikes are missed); `sv_min` is the largest of the slices' smallest singular values.

    Parameters
    ----------
    weights : mapping of str to Tensor
        Read one tensor at a time.
    conv, qkv
        The rules for convolutions and fused projections, see `wskit.spectra.ConvRule` and
        `wskit.spectra.QkvRule`. WeightWatcher's convention has only the defaults.
    convention : {"wskit", "weightwatcher"}, default "wskit"
        Whose definitions the columns follow.
    null_seed : int, optional
        Compare with `wskit.spectra.shuffled` weights of this seed.
    n_resamples : int, default 0
        Bootstrap samples for the interval of alpha, drawn with seed 0.
    device : torch.device or str, optional
        Where to compute. None means where each tensor is.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    DataFrame
        A row for each tensor of two dimensions or more, with the columns above. Where a value
        could not be computed it is NaN and `reason` says why. Vectors and scalars have no row;
        `wskit.spectra.inventory` lists those as well.

    References
    ----------
    .. [1] Martin, Peng and Mahoney 2021, Nature Communications 12, 4122, arXiv:2002.06716.
    .. [2] Martin and Hinrichs 2025, "SETOL", arXiv:2507.17912.

    Examples
    --------
    >>> weights = {"fc.weight": torch.eye(3), "steps": torch.zeros(2, 2, dtype=torch.long)}
    >>> spectral_table(weights)[["name", "M", "log_norm", "reason"]].round(3).values.tolist()[1]
    ['steps', 0, nan, 'its dtype is int64, and a floating dtype is needed']
    """
    check_choice(convention, Convention, SpectrumError, "convention")
    if convention == "weightwatcher":
        if (conv, qkv) != ("slices", "fused"):
            raise SpectrumError(
                "WeightWatcher's convention pools the slices of a convolution and keeps fused "
                f"projections whole, got conv={conv!r}, qkv={qkv!r}."
            )
        return _weightwatcher.table(weights, device=device, progress=progress)
    entries: Iterable[Any] = inventory(weights, conv=conv, qkv=qkv).itertuples(index=False)
    listed = [entry for entry in entries if len(entry.shape) >= 2]
    reasons: dict[str, str] = {}
    solve = partial(spectra, conv=conv, qkv=qkv, device=device)
    found = {s.name: s for s in solve(weights, failures=reasons, progress=progress)}
    nulls: dict[str, Spectrum] = {}
    if null_seed is not None:
        # A low-rank pair has no entries to shuffle: its product is not formed.
        names = [e.name for e in listed if e.kind != "low-rank" and e.name in found]
        null = shuffled_weights(weights, seed=null_seed)
        nulls = {s.name: s for s in solve(null, names=names)}
    rows = []
    for entry in listed:
        name = entry.name
        row = {key: getattr(entry, key) for key in ("name", "kind", "N", "M", "n_matrices")}
        row |= {"n_eigenvalues": 0, "phase": "", "warning": "", "reason": entry.reason}
        if name in found:
            s = found[name]
            row |= {"Q": s.Q, "n_eigenvalues": s.eigenvalues.size}
            row |= _scale_and_shape(s) | _tail_and_bulk(s, n_resamples)
            if name in nulls:
                row["null_distance"] = _wasserstein(s, nulls[name])
        row["reason"] = row["reason"] or reasons.get(name, "")
        rows.append(row)
    columns = {key: [row.get(key, np.nan) for row in rows] for key in _COLUMNS}
    counts = {key: pd.array(columns[key], dtype="Int64") for key in _COUNTS}
    return pd.DataFrame(columns | counts).astype({"reason": TEXT})


def summary(table: pd.DataFrame) -> pd.Series:
    """Means over the layers of a `spectral_table`, each over the layers that have the value.

    A layer whose fit failed counts in no mean of what was fitted.

    Parameters
    ----------
    table : DataFrame
        Of either convention.

    Returns
    -------
    Series
        The mean of each numeric column that is no size, and `n_layers`, `n_fitted`.

    Examples
    --------
    >>> table = spectral_table({"a": torch.eye(4), "b": torch.diag(torch.arange(1.0, 9))})
    >>> summary(table)[["n_layers", "n_fitted"]].tolist()
    [2.0, 1.0]
    """
    sizes = {"layer_id", "N", "M", "Q", "rf", "n_matrices", "n_eigenvalues", "num_evals"}
    if not isinstance(table, pd.DataFrame) or not {"log_norm", "alpha"} <= {*table.columns}:
        raise FeatureError(
            f"a table of `spectral_table` is needed, got a {type(table).__name__} without its "
            "columns; make it first."
        )
    numbers = table.select_dtypes("number").drop(columns=list(sizes), errors="ignore")
    means = numbers.astype(float).replace([np.inf, -np.inf], np.nan).mean()
    has_spectrum = table["log_norm"].notna()
    counts = {"n_layers": has_spectrum.sum(), "n_fitted": table["alpha"].notna().sum()}
    return pd.concat([pd.Series(counts, dtype=float), means])


def _scale_and_shape(s: Spectrum) -> dict[str, float]:
    """Norms, ranks and entropy. A matrix of zeros has norms of log10(0) = -inf."""
    e, largest, total = s.eigenvalues, s.eigenvalues[-1], s.eigenvalues.sum()
    with np.errstate(divide="ignore"):
        row = {
            "log_norm": float(np.log10(total)),
            "log_spectral_norm": float(np.log10(largest)),
            "rank": 0.0,
        }
    if largest > 0:
        p = e[e > 0] / total
        # An eigenvalue of W^T W is a squared singular value, and is known to eps of the largest.
        rank = np.count_nonzero(e > s.N * np.finfo(float).eps * largest) / s.n_matrices
        row |= {"stable_rank": total / (s.n_matrices * largest), "rank": rank}
        row |= {"entropy": float(-(p * np.log(p)).sum() / np.log(e.size)), "n_erg": _n_erg(e)}
    return row


def _tail_and_bulk(s: Spectrum, n_resamples: int) -> dict[str, object]:
    """Fit all laws. Where one fit fails, the others stand, and the first reason is kept."""
    laws = fit_laws(s.eigenvalues, N=s.N, M=s.M)
    row: dict[str, object] = {"phase": laws.phase}
    if laws.mp is not None:
        row |= {"mp_sigma": laws.mp.sigma, "n_spikes": laws.mp.n_spikes}
        row |= {"soft_rank": laws.mp.soft_rank, "mp_ks": laws.mp.ks}
    if laws.tail is not None:
        warning = " ".join(caveats(laws.tail, mp=laws.mp))
        row |= _tail(s, laws.tail, n_resamples) | {"warning": warning}
    reasons = list(laws.reasons.values())
    return row | {"reason": reasons[0]} if reasons else row


def _tail(s: Spectrum, fit: PowerLawFit, n_resamples: int) -> dict[str, object]:
    alpha, largest = fit.alpha, s.eigenvalues[-1]
    log_largest = float(np.log10(largest))
    # The largest eigenvalue is taken out of the sum: its alpha-th power overflows in a steep tail.
    ratios = np.sum((s.eigenvalues / largest) ** alpha)
    row: dict[str, object] = {key: getattr(fit, key) for key in _TAIL[:5]}
    row["alpha_weighted"] = alpha * log_largest
    row["log_alpha_norm"] = alpha * log_largest + float(np.log10(ratios))
    if n_resamples:
        low, high = alpha_interval(s.eigenvalues, n_resamples=n_resamples, rng=0)
        row |= {"alpha_low": low, "alpha_high": high}
    return row


def _n_erg(e: Float64[np.ndarray, " n"]) -> int:
    """Count by cumulative logarithms: a product of thousands of eigenvalues overflows."""
    positive = e[e > 0][::-1] / e.mean()
    sums = np.cumsum(np.log(positive))
    return int(np.flatnonzero(sums >= -1e-12)[-1]) + 1


def _wasserstein(s: Spectrum, null: Spectrum) -> float:
    """Between two samples of equal size: the mean distance of the sorted values."""
    if s.eigenvalues[-1] == 0:
        return 0.0
    return float(np.abs(s.eigenvalues - null.eigenvalues).mean() / s.eigenvalues.mean())
