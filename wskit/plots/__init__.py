"""Results drawn on matplotlib Axes: a result in, Axes out; nothing is shown, nothing is saved.

Each function draws on `ax`, or on a new figure where that is None, and returns the Axes. Further
keywords are options of one artist, which its docstring names.
"""

from wskit.plots._averaging import plot_mean_curves, plot_trajectory
from wskit.plots._landscape import (
    plot_distance_matrix,
    plot_loss_path,
    plot_loss_plane,
    plot_model_map,
)
from wskit.plots._soups import plot_greedy_path, plot_soup_scores
from wskit.plots._spectra import (
    plot_esd,
    plot_esd_evolution,
    plot_layers_grid,
    plot_metric_by_depth,
    plot_xmin_scan,
)
from wskit.plots._style import PALETTE, STYLE, describe
from wskit.plots._zoo import (
    plot_importance,
    plot_kernels,
    plot_learning_curve,
    plot_models,
    plot_predictions,
    plot_training_curve,
    plot_transfer,
)

__all__ = [
    "PALETTE",
    "STYLE",
    "describe",
    "plot_distance_matrix",
    "plot_esd",
    "plot_esd_evolution",
    "plot_greedy_path",
    "plot_importance",
    "plot_kernels",
    "plot_layers_grid",
    "plot_learning_curve",
    "plot_loss_path",
    "plot_loss_plane",
    "plot_mean_curves",
    "plot_metric_by_depth",
    "plot_model_map",
    "plot_models",
    "plot_predictions",
    "plot_soup_scores",
    "plot_training_curve",
    "plot_trajectory",
    "plot_transfer",
    "plot_xmin_scan",
]


def __dir__() -> list[str]:
    return __all__
