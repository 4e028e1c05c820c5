"""The table that ZooExplorer draws from: a zoo's records, features and their projection."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Bool
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from wskit.errors import ZooError
from wskit.spectra import inventory
from wskit.zoo import Zoo

COMPONENTS = ["component 1", "component 2"]
TARGET = "test_accuracy"

Range = tuple[float, float] | None
Ranges = tuple[tuple[str, Range], ...]  # of columns

_CATEGORIES = 10  # texts that `plots.plot_models` has colours for
_STOPS = 101  # of a range slider
_FEW = 60  # different values that are its stops themselves


def check_features(features: pd.DataFrame, zoo: Zoo) -> pd.DataFrame:
    """Return the features with rows counted from 0, if there is one a model and all are numbers."""
    if len(zoo) == 0:
        raise ZooError("there are no models in this zoo; a panel needs one at least.")
    if len(features) != len(zoo):
        raise ZooError(
            f"features need a row for each of the {len(zoo)} models, got {len(features)} rows."
        )
    names = features.columns.tolist()
    for name in names:
        if not isinstance(name, str):
            raise ZooError(f"the features' columns have texts for names, got {name!r}; rename it.")
        if name in zoo.records or name in COMPONENTS or names.count(name) > 1:
            raise ZooError(
                f"column {name!r} of the features is there twice, or in the records too; rename it."
            )
        if features[name].dtype.kind not in "biuf":
            raise ZooError(f"features are numbers, and column {name!r} holds others; leave it out.")
    return features.reset_index(drop=True)


def join(zoo: Zoo, features: pd.DataFrame) -> pd.DataFrame:
    """Put records, features and the projection of the features side by side."""
    table = pd.concat([zoo.records.reset_index(drop=True), features], axis=1)
    known = finite(features)
    if features.shape[1] >= 2 and known.sum() >= 2:
        pca = make_pipeline(StandardScaler(), PCA(2, svd_solver="full"))
        table.loc[known, COMPONENTS] = pca.fit_transform(features[known])
    return table


def finite(features: pd.DataFrame) -> Bool[np.ndarray, " models"]:
    """Tell which models have all their features: diverged ones have not."""
    return np.isfinite(features.to_numpy(float)).all(axis=1)


def places(table: pd.DataFrame) -> list[str]:
    """Return the columns that can be an axis, the projection first."""
    every = map(str, table)
    names = [name for name in every if table[name].dtype.kind in "iuf" and _known(table[name])]
    return sorted(names, key=lambda name: name not in COMPONENTS)


def colours(table: pd.DataFrame) -> list[str]:
    """Return the columns that can be a colour."""
    numbers = set(places(table))
    return [
        name
        for name in map(str, table)
        if name in numbers
        or (table[name].dtype.kind not in "iuf" and 0 < table[name].nunique() <= _CATEGORIES)
    ]


def _known(column: "pd.Series[float]") -> bool:
    return bool(np.isfinite(column.to_numpy(float, na_value=np.nan)).any())


def stops(column: "pd.Series[float]") -> list[float]:
    """Return where a range of the column can begin and end; equally far apart on its axis."""
    values = column.to_numpy(float, na_value=np.nan)
    values = np.unique(values[np.isfinite(values)])
    if values.size <= _FEW:
        return [float(v) for v in values]
    low, high = values[0], values[-1]
    logarithmic = low > 0 and high > 100 * low
    found = (np.geomspace if logarithmic else np.linspace)(low, high, _STOPS)
    found[[0, -1]] = low, high  # which rounding would leave out
    return [float(v) for v in found]


def selected(table: pd.DataFrame, ranges: Ranges) -> Bool[np.ndarray, " models"]:
    """Tell which models are in the range of each column; None is any."""
    mask = np.ones(len(table), bool)
    for name, limits in ranges:
        if limits is not None:
            mask &= table[name].between(*limits).to_numpy(bool)
    return mask


def picture_layer(weights: Mapping[str, Tensor]) -> str:
    """Return the first weight that `plots.plot_kernels` can draw; empty if there is none."""
    return next((name for name, W in weights.items() if W.ndim in (3, 5)), "")


def largest_matrix(weights: Mapping[str, Tensor]) -> tuple[str, float]:
    """Return the weight with the largest matrix, and the operations that its spectrum takes."""
    listed = inventory({name: stack[0] for name, stack in weights.items()}, conv="unfold")
    listed = listed[(listed["reason"] == "") & (listed["n_matrices"] == 1)]
    if listed.empty:
        return "", 0.0
    row = listed.iloc[int((listed["N"] * listed["M"]).to_numpy().argmax())]
    return str(row["name"]), float(row["M"] ** 2 * (row["N"] + 10 * row["M"]))
