"""Models as points: vectors, distances, permutations that match them, projections."""

from wskit.geometry._architectures import (
    resnet_symmetries,
    sequential_symmetries,
    transformer_symmetries,
)
from wskit.geometry._distances import By, WeightDistances, weight_distances
from wskit.geometry._layout import Layout, Slot, flatten, layout_of, unflatten
from wskit.geometry._matching import Matching, match_weights
from wskit.geometry._projection import UpdateProjection, project_updates
from wskit.geometry._symmetries import (
    Axis,
    Run,
    Symmetries,
    apply_permutation,
    random_permutations,
)

__all__ = [
    "Axis",
    "By",
    "Layout",
    "Matching",
    "Run",
    "Slot",
    "Symmetries",
    "UpdateProjection",
    "WeightDistances",
    "apply_permutation",
    "flatten",
    "layout_of",
    "match_weights",
    "project_updates",
    "random_permutations",
    "resnet_symmetries",
    "sequential_symmetries",
    "transformer_symmetries",
    "unflatten",
    "weight_distances",
]
