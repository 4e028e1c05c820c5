"""Averages of models: at once, running, exponential, over a recorded trajectory; SWAG.

What holds for all of them:

- Models are compared by name: the first one decides on names, shapes and dtypes, and another
  that differs, or that holds NaN or inf, is an `AveragingError` that names tensor and model.
- Floating-point tensors are averaged, running statistics of a BatchNorm among them, in float32 or
  better, and rounded once to their own dtype.
- Other tensors (``num_batches_tracked``) are never averaged: they are those of the first model.
  Tensors of bool, which are masks, must be the same in all models.
- Tensors that are tied in the first model stay tied, and must be equal in every other model.
- A model is read tensor by tensor, so that it may be a lazily opened checkpoint.
"""

from wskit.averaging._average import average, interpolate
from wskit.averaging._batch_norm import recalibrate_bn
from wskit.averaging._running import ExponentialMean, RunningMean
from wskit.averaging._swag import SWAG
from wskit.averaging._trajectory import Trajectory, TrajectorySpectrum

__all__ = [
    "SWAG",
    "ExponentialMean",
    "RunningMean",
    "Trajectory",
    "TrajectorySpectrum",
    "average",
    "interpolate",
    "recalibrate_bn",
]
