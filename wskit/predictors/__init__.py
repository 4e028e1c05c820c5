"""Accuracy predicted from weights: estimators, splits that do not leak, scores. No torch."""

from wskit.predictors._estimators import LogitLinearRegressor, boosted_trees, neural_network
from wskit.predictors._evaluation import (
    Evaluation,
    evaluate,
    importance_by_layer,
    learning_curve,
    transfer,
)
from wskit.predictors._scores import calibration, scores
from wskit.predictors._splits import run_groups, run_splits

__all__ = [
    "Evaluation",
    "LogitLinearRegressor",
    "boosted_trees",
    "calibration",
    "evaluate",
    "importance_by_layer",
    "learning_curve",
    "neural_network",
    "run_groups",
    "run_splits",
    "scores",
    "transfer",
]
