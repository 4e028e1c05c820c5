"""Tables of what weights look like: one row per layer, or one per model of a zoo."""

from wskit.features._correlation import (
    correlation_chance,
    correlation_features,
    correlation_penalty,
    correlation_table,
    pac_bayes_measure,
    weight_correlation,
)
from wskit.features._model_table import model_table
from wskit.features._spectral import spectral_features, spectral_table, summary
from wskit.features._statistics import output_statistics, weight_statistics

__all__ = [
    "correlation_chance",
    "correlation_features",
    "correlation_penalty",
    "correlation_table",
    "model_table",
    "output_statistics",
    "pac_bayes_measure",
    "spectral_features",
    "spectral_table",
    "summary",
    "weight_correlation",
    "weight_statistics",
]


def __dir__() -> list[str]:
    return __all__
