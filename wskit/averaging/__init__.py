"""Averages of models: at once, running, over a recorded trajectory; SWAG; merges; batch norms.

All of them follow the same rules:

- Models are compared by name. The first one, or the base where there is one, sets the names,
  shapes and dtypes. Another model that differs, or that holds NaN or inf, raises an
  `AveragingError` that names the tensor and the model.
- Floating-point tensors are averaged in float32 or better, running statistics of batch norms among
  them, and rounded once to their own dtype.
- Other tensors (``num_batches_tracked``) are never averaged but copied from the first model or the
  base. Boolean tensors are masks and must be equal in all models.
- Tensors that are tied in the first model stay tied, and must be equal in every other model.
- Models are read tensor by tensor, so that they may be lazily opened checkpoints. A module is read
  through its ``state_dict``.
- With ``lazy=True`` the result is a mapping that computes its tensors on access, so that it may be
  larger than the memory.
"""

from wskit.averaging._average import average, merge_model_stock, slerp
from wskit.averaging._batch_norm import recalibrate_bn
from wskit.averaging._fisher import fisher_average, fisher_diagonal
from wskit.averaging._running import SWAG, ExponentialMean, RunningMean
from wskit.averaging._task_vectors import add_task_vectors, merge_dare, merge_ties, task_vector
from wskit.averaging._trajectory import Trajectory

__all__ = [
    "SWAG",
    "ExponentialMean",
    "RunningMean",
    "Trajectory",
    "add_task_vectors",
    "average",
    "fisher_average",
    "fisher_diagonal",
    "merge_dare",
    "merge_model_stock",
    "merge_ties",
    "recalibrate_bn",
    "slerp",
    "task_vector",
]


def __dir__() -> list[str]:
    return __all__
