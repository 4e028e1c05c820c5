"""Accuracy predicted from weights: estimators, evaluation that does not leak, scores. No torch."""

from wskit.predictors._estimators import boosted_trees, logit_linear, neural_network
from wskit.predictors._evaluation import (
    evaluate,
    importance_by_layer,
    learning_curve,
    transfer,
)
from wskit.predictors._scores import calibration, scores

__all__ = [
    "boosted_trees",
    "calibration",
    "evaluate",
    "importance_by_layer",
    "learning_curve",
    "logit_linear",
    "neural_network",
    "scores",
    "transfer",
]


def __dir__() -> list[str]:
    return __all__
