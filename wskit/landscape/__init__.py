"""Losses on a path, on a plane, in a simplex and along random rays; barriers, edges, sharpness.

Everything here asks one question, what the loss is at many points of weight space, through an
`Evaluation`: a function of stacked weights. Every point is a linear combination of a few models.
"""

from wskit.landscape._evaluate import (
    Compute,
    Evaluation,
    evaluate_mixtures,
    evaluate_models,
    iterate_mixtures,
    one_by_one,
)
from wskit.landscape._evaluate import points_at_once as points_at_once  # for panels' Cancel
from wskit.landscape._hessian import HessianEigenvalue, top_hessian_eigenvalue
from wskit.landscape._metrics import (
    classification_metrics,
    module_metrics,
    split_metrics,
    zoo_metrics,
)
from wskit.landscape._paths import LossPath, barrier, loss_path
from wskit.landscape._plane import LossPlane, Plane, loss_plane, loss_simplex, plane_through
from wskit.landscape._rays import moved, random_direction, ray_sharpness, region_edges
from wskit.landscape._regions import probability_of_better, region_losses

__all__ = [
    "Compute",
    "Evaluation",
    "HessianEigenvalue",
    "LossPath",
    "LossPlane",
    "Plane",
    "barrier",
    "classification_metrics",
    "evaluate_mixtures",
    "evaluate_models",
    "iterate_mixtures",
    "loss_path",
    "loss_plane",
    "loss_simplex",
    "module_metrics",
    "moved",
    "one_by_one",
    "plane_through",
    "probability_of_better",
    "random_direction",
    "ray_sharpness",
    "region_edges",
    "region_losses",
    "split_metrics",
    "top_hessian_eigenvalue",
    "zoo_metrics",
]
