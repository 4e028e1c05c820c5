"""Tables of what weights look like: one row a layer, or one a model of a zoo."""

from wskit.features._correlation import (
    correlation_chance,
    correlation_features,
    correlation_penalty,
    correlation_table,
    pac_bayes_measure,
    weight_correlation,
)
from wskit.features._model_table import model_table
from wskit.features._spectral import Convention, spectral_table, summary
from wskit.features._statistics import (
    canonical_weights,
    output_statistics,
    spectral_features,
    weight_statistics,
)

__all__ = [
    "Convention",
    "canonical_weights",
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
