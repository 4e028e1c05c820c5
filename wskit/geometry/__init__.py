"""Models as points: vectors, distances, permutations that match them, projections."""

from wskit.geometry._architectures import (
    resnet_symmetries,
    sequential_symmetries,
    transformer_symmetries,
)
from wskit.geometry._distances import (
    WeightDistances,
    flatten,
    project_updates,
    unflatten,
    weight_distances,
)
from wskit.geometry._matching import Run as Run  # for symmetries that are written by hand
from wskit.geometry._matching import apply_permutation, match_weights, random_permutations

__all__ = [
    "WeightDistances",
    "apply_permutation",
    "flatten",
    "match_weights",
    "project_updates",
    "random_permutations",
    "resnet_symmetries",
    "sequential_symmetries",
    "transformer_symmetries",
    "unflatten",
    "weight_distances",
]


def __dir__() -> list[str]:
    return __all__
