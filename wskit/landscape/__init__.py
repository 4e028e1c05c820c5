"""Losses on a path, on a plane, in regions and along random rays; barriers, edges, sharpness.

Everything here asks one question: what is the loss at many points of weight space? Every point is
a linear combination of a few models. An `Evaluator`, a function of stacked weights, answers it.
"""

from wskit.landscape._evaluate import Evaluator as Evaluator  # in annotations
from wskit.landscape._evaluate import (
    evaluate_mixtures,
    evaluate_models,
    one_by_one,
)
from wskit.landscape._evaluate import iterate_mixtures as iterate_mixtures  # for panels
from wskit.landscape._metrics import (
    classification_metrics,
    module_metrics,
    split_metrics,
    zoo_metrics,
)
from wskit.landscape._paths import LossPath, barrier, loss_path, loss_plane, plane_through
from wskit.landscape._paths import LossPlane as LossPlane  # in annotations
from wskit.landscape._paths import Plane as Plane  # in annotations
from wskit.landscape._regions import region_edges, region_losses
from wskit.landscape._sharpness import random_direction, ray_sharpness, top_hessian_eigenvalue

__all__ = [
    "LossPath",
    "barrier",
    "classification_metrics",
    "evaluate_mixtures",
    "evaluate_models",
    "loss_path",
    "loss_plane",
    "module_metrics",
    "one_by_one",
    "plane_through",
    "random_direction",
    "ray_sharpness",
    "region_edges",
    "region_losses",
    "split_metrics",
    "top_hessian_eigenvalue",
    "zoo_metrics",
]


def __dir__() -> list[str]:
    return __all__
