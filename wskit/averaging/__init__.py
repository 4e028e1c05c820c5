"""Averages of models: at once, running, exponential, over a recorded trajectory; SWAG; merges.

What holds for all of them:

- Models are compared by name: the first one decides on names, shapes and dtypes, and another
  that differs, or that holds NaN or inf, is an `AveragingError` that names tensor and model.
- Floating-point tensors are averaged, running statistics of a BatchNorm among them, in float32 or
  better, and rounded once to their own dtype.
- Other tensors (``num_batches_tracked``) are never averaged: they are those of the first model,
  or of the base where there is one. Tensors of bool, which are masks, must be the same in all.
- Tensors that are tied in the first model stay tied, and must be equal in every other model.
- A model is read tensor by tensor, so that it may be a lazily opened checkpoint.
- With ``lazy=True`` the result is a mapping whose tensors are computed when they are read, and
  whose ``read_block(name, start, stop, out)`` computes the entries start:stop of a flat tensor.
"""

from wskit.averaging._angles import merge_model_stock, slerp
from wskit.averaging._average import average, interpolate
from wskit.averaging._batch_norm import recalibrate_bn
from wskit.averaging._fisher import fisher_average, fisher_diagonal
from wskit.averaging._running import ExponentialMean, RunningMean
from wskit.averaging._swag import SWAG
from wskit.averaging._task_vectors import add_task_vectors, merge_dare, merge_ties, task_vector
from wskit.averaging._trajectory import Trajectory, TrajectorySpectrum

__all__ = [
    "SWAG",
    "ExponentialMean",
    "RunningMean",
    "Trajectory",
    "TrajectorySpectrum",
    "add_task_vectors",
    "average",
    "fisher_average",
    "fisher_diagonal",
    "interpolate",
    "merge_dare",
    "merge_model_stock",
    "merge_ties",
    "recalibrate_bn",
    "slerp",
    "task_vector",
]
