"""How well accuracies are predicted: R2, Kendall's tau, mean absolute error, calibration."""

import numpy as np
import pandas as pd
from jaxtyping import Float64
from numpy.typing import ArrayLike
from scipy.stats import kendalltau

from wskit.errors import PredictorError

METRICS = ["r2", "tau", "mae"]


def scores(
    y: ArrayLike,
    predicted: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    above: float | None = None,
    n_resamples: int = 1000,
    level: float = 0.9,
    rng: np.random.Generator | int,
) -> pd.DataFrame:
    r"""Compute R2, Kendall's tau-b and the mean absolute error, with bootstrap intervals.

    R2 is :math:`1 - \sum (y - \hat y)^2 / \sum (y - \bar y)^2` and depends on calibration; tau
    depends on the ranking only. Half of tau may come from telling failed models from trained
    ones: see `above`.

    Parameters
    ----------
    y, predicted : array of shape (models,)
        Accuracies, and what was predicted for them out of sample.
    groups : array of shape (models,), optional
        The run of each model: whole runs are drawn, as checkpoints of one run are not
        independent. None draws single models.
    above : float, optional
        Score only the models whose true accuracy is above it.
    n_resamples : int, default 1000
        Bootstrap samples.
    level : float, default 0.9
        Share of the samples between `low` and `high`.
    rng : numpy Generator or int

    Returns
    -------
    DataFrame
        Rows ``r2``, ``tau``, ``mae`` (in units of y); columns ``value``, ``low``, ``high``. R2
        is NaN where y is constant, tau where either is.

    Raises
    ------
    PredictorError
        If the lengths differ, values are not finite, a group is NaN, or fewer than two models
        are left.

    Examples
    --------
    >>> scores([0.1, 0.5, 0.9], [0.1, 0.6, 0.8], rng=0, n_resamples=10).value.round(4).to_dict()
    {'r2': 0.9375, 'tau': 1.0, 'mae': 0.0667}
    """
    true, guess = check_finite(y, "y"), check_finite(predicted, "predicted")
    labels = check_groups(np.arange(true.size) if groups is None else groups)
    check_lengths(y=true, predicted=guess, groups=labels)
    kept = true > (-np.inf if above is None else above)
    if kept.sum() < 2:
        raise PredictorError(
            f"at least two models are needed, got {kept.sum()} of {true.size}"
            + ("." if above is None else f" with y > {above:g}; lower `above`.")
        )
    true, guess = true[kept], guess[kept]
    codes = pd.factorize(labels[kept])[0]
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    generator = np.random.default_rng(rng)
    samples = []
    for _ in range(n_resamples):
        drawn = generator.integers(len(members), size=len(members))
        rows = np.concatenate([members[i] for i in drawn])
        samples.append(score_points(true[rows], guess[rows]))
    tails = [(1 - level) / 2, (1 + level) / 2]
    # A sample of one model many times over has no R2 and no tau: pandas leaves it out.
    interval = pd.DataFrame(samples, columns=METRICS).quantile(tails)
    value = pd.Series(score_points(true, guess))
    return pd.DataFrame({"value": value, "low": interval.iloc[0], "high": interval.iloc[1]})


def score_points(
    y: Float64[np.ndarray, " n"], predicted: Float64[np.ndarray, " n"]
) -> dict[str, float]:
    """Return the three metrics; NaN where they are not defined."""
    if y.size == 0:
        return dict.fromkeys(METRICS, np.nan)
    residual, deviation = y - predicted, y - y.mean()
    # Equal values leave a deviation of rounding, which is no variance.
    varies = np.ptp(y) > 0
    r2 = 1 - (residual @ residual) / (deviation @ deviation) if varies else np.nan
    tau = kendalltau(y, predicted).statistic if varies else np.nan
    return {"r2": float(r2), "tau": float(tau), "mae": float(np.abs(residual).mean())}


def calibration(y: ArrayLike, predicted: ArrayLike, *, n_bins: int = 10) -> pd.DataFrame:
    """Compare means of the true and the predicted accuracies, in bins of the predicted.

    A predictor can rank well and be wrong throughout, as when it was trained on another data set.

    Parameters
    ----------
    y, predicted : array of shape (models,)
    n_bins : int, default 10
        Bins of equal numbers of models, as near as that goes.

    Returns
    -------
    DataFrame
        One row per bin, ascending: ``n`` models; ``low`` and ``high``, the least and the greatest
        prediction; the means ``predicted`` and ``true``; their difference ``bias`` (predicted -
        true); and ``standard_error`` of the true mean (NaN for one model).

    Raises
    ------
    PredictorError
        If the lengths differ, values are not finite, or there are fewer models than bins.

    Examples
    --------
    >>> table = calibration([0.1, 0.3, 0.5, 0.9], [0.2, 0.2, 0.6, 0.6], n_bins=2)
    >>> table[["n", "predicted", "true"]].round(6).values.tolist()
    [[2.0, 0.2, 0.2], [2.0, 0.6, 0.7]]
    """
    true, guess = check_finite(y, "y"), check_finite(predicted, "predicted")
    check_lengths(y=true, predicted=guess)
    if n_bins > true.size:
        raise PredictorError(f"{true.size} models are too few for {n_bins} bins; lower `n_bins`.")
    rows = []
    for members in np.array_split(np.argsort(guess, kind="stable"), n_bins):
        t, p = true[members], guess[members]
        error = t.std(ddof=1) / np.sqrt(t.size) if t.size > 1 else np.nan
        rows.append((t.size, p.min(), p.max(), p.mean(), t.mean(), p.mean() - t.mean(), error))
    columns = ["n", "low", "high", "predicted", "true", "bias", "standard_error"]
    return pd.DataFrame(rows, columns=columns)


def check_finite(values: ArrayLike, name: str) -> Float64[np.ndarray, " n"]:
    """Return an array in float64; name the first row that is not finite."""
    x = np.asarray(values, dtype=np.float64)
    if bad := np.flatnonzero(~np.isfinite(x)).tolist():
        raise PredictorError(
            f"{name} is {x.flat[bad[0]]} in row {bad[0]} ({len(bad)} such rows); leave out models "
            "without a finite value."
        )
    return x


def check_groups(groups: ArrayLike) -> np.ndarray:
    """Return the labels as an array; name the first row that has none."""
    labels = np.asarray(groups)
    if (missing := pd.isna(labels)).any():
        raise PredictorError(f"row {int(missing.argmax())} has no group; label all rows.")
    return labels


def check_lengths(**arrays: np.ndarray) -> None:
    """Raise unless there is one value per model in each of the arrays."""
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 1:
        raise PredictorError(f"one value per model is needed in each array, got shapes {shapes}.")
