"""Spectra of weights, summarised: one row per layer, or one row per model of a zoo."""

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from wskit._base.checks import check_choice
from wskit._base.weights import as_weights
from wskit.errors import FeatureError, SpectrumError
from wskit.features import _weightwatcher
from wskit.features._stacks import (
    TEXT,
    layer_kinds,
    make_table,
    map_blocks,
    stack_shapes,
)
from wskit.fits import caveats, fit_laws
from wskit.spectra import (
    ConvRule,
    QkvRule,
    Spectrum,
    inventory,
    matrices,
    shuffled_weights,
    spectra,
)

Convention = Literal["wskit", "weightwatcher"]

_RTOL = 1e-12  # of the largest eigenvalue: smaller ones are the solver's noise, as in `fits`
_TAIL = ["alpha", "xmin", "ks", "sigma", "n_tail"]
_COUNTS = ["n_tail", "n_erg", "n_spikes"]
_COLUMNS = ["name", "kind", "N", "M", "Q", "n_matrices", "n_eigenvalues"]
_COLUMNS += [*_TAIL, "alpha_weighted", "log_norm", "log_spectral_norm", "log_alpha_norm"]
_COLUMNS += ["stable_rank", "rank", "entropy", "n_erg", "mp_sigma", "n_spikes", "soft_rank"]
_COLUMNS += ["mp_ks", "null_distance", "phase", "warning", "reason"]


def spectral_table(
    weights: Mapping[str, Tensor] | nn.Module,
    *,
    conv: ConvRule = "slices",
    qkv: QkvRule = "fused",
    convention: Convention = "wskit",
    null_seed: int | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    r"""Compute, fit and summarise the spectra of all layers: one row per layer.

    The columns, for the n eigenvalues :math:`\lambda_i` of W^T W, pooled over a layer's matrices:

    ================== =============================================================================
    alpha .. n_tail    `wskit.fits.fit_power_law`; sigma is the standard error of alpha
    log_norm           log10 of the sum, the squared Frobenius norm [1]_
    log_spectral_norm  log10 of the largest, the squared spectral norm [1]_
    alpha_weighted     alpha * log_spectral_norm [1]_, eq. 5
    log_alpha_norm     log10 of the sum of the alpha-th powers [1]_, eq. 6
    stable_rank        sum / (n_matrices * largest), at most M
    rank               eigenvalues over ``(N eps)`` of the largest, per matrix; at most M
    entropy            of the shares of the sum, in units of ln(n): 1 where all are equal
    n_erg              the largest number of top eigenvalues whose logarithms, with a mean
                       eigenvalue of 1, sum to 0 or more (the "detX" condition of [2]_)
    mp_sigma .. mp_ks  `wskit.fits.fit_marchenko_pastur`: standard deviation of the bulk's
                       entries, number of spikes, soft rank, distance of the bulk from the law
    null_distance      1-Wasserstein distance to the spectrum of the same entries in random
                       order, both in units of the mean eigenvalue; if `null_seed` is given
    phase              `wskit.fits.classify_phase`
    warning            why alpha may mean nothing, in words (`wskit.fits.caveats`)
    ================== =============================================================================

    With ``convention="weightwatcher"`` the columns have WeightWatcher 0.7.7's names and the
    numbers of its ``analyze(fit="PL", mp_fit=True)`` on a CPU, without those that it draws at
    random. They differ from ours: eigenvalues of convolutions are halved (which moves all norms,
    but not alpha); the power law is fitted to eigenvalues over 1e-5 (so that alpha changes or
    fails when weights are scaled); `stable_rank` of pooled slices is up to n_matrices * M;
    `entropy` adds 1e-10 to each share; the Marchenko-Pastur law is fitted to a kernel density,
    and for square matrices to a quarter circle whose support is fixed (so that sigma is off when
    there are spikes); its edge is moved out by the root of the Tracy-Widom scale (so that small
    spikes are missed); `sv_min` is the largest of the slices' smallest singular values.

    Parameters
    ----------
    weights : mapping of str to Tensor, or nn.Module
        Read one tensor at a time.
    conv, qkv
        The rules for convolutions and fused projections, see `wskit.spectra.inventory`.
        WeightWatcher's convention has only the defaults.
    convention : {"wskit", "weightwatcher"}, default "wskit"
        Whose definitions the columns follow.
    null_seed : int, optional
        Compare with the weights that `wskit.spectra.shuffled` makes with this seed.
    device : torch.device or str, optional
        Where to compute. None means where each tensor is.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    DataFrame
        One row per tensor of two dimensions or more, with the columns above. A value that could
        not be computed is NaN, and `reason` says why. Vectors and scalars have no row;
        `wskit.spectra.inventory` lists them too.

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
    weights = as_weights(weights, SpectrumError)
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
        # A low-rank pair has no entries to shuffle, as its product is not formed.
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
            row |= _scale_and_shape(s) | _tail_and_bulk(s)
            if name in nulls:
                row["null_distance"] = _wasserstein(s, nulls[name])
        row["reason"] = row["reason"] or reasons.get(name, "")
        rows.append(row)
    columns = {key: [row.get(key, np.nan) for row in rows] for key in _COLUMNS}
    counts = {key: pd.array(columns[key], dtype="Int64") for key in _COUNTS}
    return pd.DataFrame(columns | counts).astype({"reason": TEXT})


def summary(table: pd.DataFrame) -> pd.Series:
    """Average a `spectral_table` over the layers, each column over the layers that have a value.

    Parameters
    ----------
    table : DataFrame
        Of either convention.

    Returns
    -------
    Series
        The mean of each numeric column that is not a size, and `n_layers`, `n_fitted`.

    Examples
    --------
    >>> table = spectral_table({"a": torch.eye(4), "b": torch.diag(torch.arange(1.0, 9))})
    >>> summary(table)[["n_layers", "n_fitted"]].tolist()
    [2.0, 1.0]
    """
    sizes = {"layer_id", "N", "M", "Q", "rf", "n_matrices", "n_eigenvalues", "num_evals"}
    numbers = table.select_dtypes("number").drop(columns=list(sizes), errors="ignore")
    means = numbers.astype(float).replace([np.inf, -np.inf], np.nan).mean()
    has_spectrum = table["log_norm"].notna()
    counts = {"n_layers": has_spectrum.sum(), "n_fitted": table["alpha"].notna().sum()}
    return pd.concat([pd.Series(counts, dtype=float), means])


def spectral_features(
    weights: Mapping[str, Tensor],
    *,
    conv: Literal["unfold", "slices"] = "unfold",
    device: torch.device | str | None = None,
) -> pd.DataFrame:
    r"""Summarise the spectrum of every layer of every model in five columns.

    The columns, for the eigenvalues of W^T W; those that `spectral_table` has too are the same:

    ================== =============================================================================
    log_norm           log10 of the sum, the squared Frobenius norm
    log_spectral_norm  log10 of the largest, the squared spectral norm
    stable_rank        sum / (n_matrices * largest)
    entropy            of the shares of the sum, in units of ln(n)
    alpha_hill         exponent of the upper half of the eigenvalues, as by
                       ``wskit.fits.fit_power_law(..., method="hill")``
    ================== =============================================================================

    The layers of a small network have 10 to 16 eigenvalues. Hill's exponent of half of so few may
    serve a regressor, but says nothing about a tail: its standard error is a third of (alpha - 1),
    and a power law cannot be told from another distribution.

    Parameters
    ----------
    weights : mapping of str to Tensor of shape (models, ...)
        A zoo's stacked weights. The rules of `wskit.spectra.inventory` say which hold a matrix.
    conv : {"unfold", "slices"}, default "unfold"
        The rule for convolutions, see `wskit.spectra.inventory`. The default differs from
        `spectral_table`'s: the slices of a first layer that reads one channel have one column, and
        so no spectrum. Unfolded, every layer of a small network has one.
    device : torch.device or str, optional
        Where to compute. None means where each tensor is.

    Returns
    -------
    DataFrame
        One row per model, columns such as ``conv1.weight.stable_rank``, float64. A model whose
        weights hold NaN or inf has NaN in all columns. A value that is not defined (all weights
        of the layer are zero, or fewer than two eigenvalues are in the tail) is NaN.

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
    check_choice(conv, ("unfold", "slices"), FeatureError, "conv")
    columns: dict[str, Tensor] = {}
    for name in layer_kinds(stack_shapes(weights), conv):
        found = map_blocks(partial(_spectral, name=name, conv=conv), weights[name], device)
        columns |= {f"{name}.{key}": x for key, x in found.items()}
    return make_table(columns, weights)


def _spectral(stack: Tensor, *, name: str, conv: Any) -> dict[str, Float[Tensor, " models"]]:
    def as_matrices(W: Tensor) -> Tensor:
        matrix = next(matrices({name: W}, conv=conv))[1]
        return matrix if matrix.ndim == 3 else matrix[None]

    # The rules of `wskit.spectra` for one model, through vmap for all.
    exact = torch.vmap(as_matrices)(stack).double()  # (models, n, N, M)
    gram = exact.mT @ exact
    # A model that is not finite has no eigenvalues; its row is made NaN in the end.
    gram = torch.where(gram.isfinite().all(dim=(1, 2, 3), keepdim=True), gram, 0.0)
    e, _ = torch.linalg.eigvalsh(gram).clamp_min(0).flatten(1).sort(dim=1)
    columns = _summarize(e, exact.shape[1]) | {"alpha_hill": _hill(e)}
    return {key: torch.where(e[:, -1] > 0, x, torch.nan) for key, x in columns.items()}


def _summarize(
    e: Float[Tensor, "models n"], n_matrices: int
) -> dict[str, Float[Tensor, " models"]]:
    """Compute the norms, stable rank and entropy of ascending eigenvalues, for each row."""
    total, largest = e.sum(dim=1), e[:, -1]
    return {
        "log_norm": total.log10(),
        "log_spectral_norm": largest.log10(),
        "stable_rank": total / (n_matrices * largest),
        "entropy": torch.special.entr(e / total[:, None]).sum(dim=1) / math.log(e.shape[1]),
    }


def _hill(e: Float[Tensor, "models n"]) -> Float[Tensor, " models"]:
    """Return Hill's exponent of the upper half of the ascending values above the noise.

    These are the numbers of ``fit_power_law(..., method="hill")`` for thousands of rows at once.
    """
    n = e.shape[1]
    above = (e > _RTOL * e[:, -1:]).sum(dim=1, keepdim=True)
    k = above // 2
    start = torch.gather(e, 1, (n - 1 - k).clamp(0, n - 1))
    in_tail = torch.arange(n, device=e.device) >= n - k
    total = torch.where(in_tail, (e / start).log(), 0.0).sum(dim=1)
    defined = (k[:, 0] >= 2) & (total > 0)
    return torch.where(defined, 1 + k[:, 0] / total, torch.nan)


def _scale_and_shape(s: Spectrum) -> dict[str, float]:
    """Compute norms, ranks and entropy. A matrix of zeros has norms of log10(0) = -inf."""
    e = s.eigenvalues
    found = _summarize(torch.tensor(e)[None], s.n_matrices)
    row = {key: value.item() for key, value in found.items()}
    if e[-1] > 0:
        # An eigenvalue of W^T W is a squared singular value, and is known to eps of the largest.
        above = np.count_nonzero(e > s.N * np.finfo(float).eps * e[-1])
        row |= {"rank": above / s.n_matrices, "n_erg": _n_erg(e)}
    else:
        row["rank"] = 0.0
    return row


def _tail_and_bulk(s: Spectrum) -> dict[str, object]:
    """Fit all laws. If one fit fails, the others stand, and the first reason is kept."""
    laws = fit_laws(s.eigenvalues, N=s.N, M=s.M)
    row: dict[str, object] = {"phase": laws.phase}
    if laws.mp is not None:
        row |= {"mp_sigma": laws.mp.sigma, "n_spikes": laws.mp.n_spikes}
        row |= {"soft_rank": laws.mp.soft_rank, "mp_ks": laws.mp.ks}
    if laws.tail is not None:
        fit, largest = laws.tail, s.eigenvalues[-1]
        log_largest = float(np.log10(largest))
        # The largest is taken out of the sum: its alpha-th power overflows in a steep tail.
        ratios = np.sum((s.eigenvalues / largest) ** fit.alpha)
        row |= {key: getattr(fit, key) for key in _TAIL}
        row["alpha_weighted"] = fit.alpha * log_largest
        row["log_alpha_norm"] = fit.alpha * log_largest + float(np.log10(ratios))
        row["warning"] = " ".join(caveats(fit, mp=laws.mp))
    reasons = list(laws.reasons.values())
    return row | {"reason": reasons[0]} if reasons else row


def _n_erg(e: Float64[np.ndarray, " n"]) -> int:
    """Count by cumulative logarithms, as a product of thousands of eigenvalues overflows."""
    positive = e[e > 0][::-1] / e.mean()
    sums = np.cumsum(np.log(positive))
    return int(np.flatnonzero(sums >= -1e-12)[-1]) + 1


def _wasserstein(s: Spectrum, null: Spectrum) -> float:
    """Return the mean distance of the sorted values, over the mean eigenvalue."""
    if s.eigenvalues[-1] == 0:
        return 0.0
    return float(np.abs(s.eigenvalues - null.eigenvalues).mean() / s.eigenvalues.mean())
