"""The parts of ZooExplorer's picture of the chosen model."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import pandas as pd

from wskit import plots
from wskit.errors import SpectrumError
from wskit.spectra import spectra
from wskit.widgets import _zoo_table as tables
from wskit.widgets._zoo_work import Evaluated
from wskit.zoo import Zoo

SIZE = (8.0, 6.4)  # of the figure, in inches
PLACES = {"curve": 1, "kernels": 2, "spectrum": 3, "predictions": 4}  # in a grid of 2 x 2
ESD: dict[str, Any] = {"scale": "log-linear", "bins": 15}  # a small layer has few eigenvalues

# Floating-point operations that take about 0.1 s on one slow core: a larger layer is not shown.
_SPECTRUM_OPERATIONS = 2e9

_Metric = Literal["accuracy", "loss"]


@dataclass(frozen=True)
class Part:
    """What a part is of (a metric, a tensor), and how it is drawn."""

    of: str
    draw: Callable[..., Any]  # with `ax`


def parts(
    zoo: Zoo, table: pd.DataFrame, model: int, evaluated: Evaluated | None
) -> tuple[dict[str, Part], dict[str, str]]:
    """Return the parts that can be drawn, and the reasons why others cannot."""
    made = {
        "curve": _curve(table, model),
        "kernels": _kernels(zoo, model),
        "spectrum": _spectrum(zoo, model),
        "predictions": _predictions(evaluated, model),
    }
    found = {name: part for name, part in made.items() if isinstance(part, Part)}
    return found, {name: part for name, part in made.items() if isinstance(part, str)}


def _curve(table: pd.DataFrame, model: int) -> Part | str:
    if not {"run", "epoch"} <= set(table):
        return "No training curve: the records have no runs and epochs."
    rows = table[table["run"] == table["run"][model]]
    if len(rows) < 2:
        return "No training curve: the zoo has one epoch of this run."
    metrics: tuple[_Metric, ...] = ("accuracy", "loss")
    for metric in metrics:
        if {f"train_{metric}", f"test_{metric}"} & set(table):
            return Part(metric, partial(plots.plot_training_curve, rows, metric=metric))
    return "No training curve: the records have neither accuracy nor loss."


def _kernels(zoo: Zoo, model: int) -> Part | str:
    name = tables.picture_layer(zoo.weights)
    if not name:
        return "No weights as images: no tensor is of a dense layer or of kernels in 2-D."
    W = zoo.weights[name][model].float().cpu().numpy()
    return Part(name, partial(plots.plot_kernels, W, name=name))


def _spectrum(zoo: Zoo, model: int) -> Part | str:
    name, operations = tables.largest_matrix(zoo.weights)
    if not name or operations > _SPECTRUM_OPERATIONS:
        what = f"that of {name} takes too long" if name else "no tensor holds a matrix"
        return f"No spectrum: {what}."
    try:
        (s,) = spectra(zoo.model(model), names=[name], conv="unfold")
    except SpectrumError as error:
        return f"No spectrum: {error}"
    # The legend of one entry would hide some of it.
    return Part(name, lambda ax: plots.plot_esd(s, **ESD, ax=ax).get_legend().remove())


def _predictions(evaluated: Evaluated | None, model: int) -> Part | str:
    if evaluated is None:
        return "Retrain on selection, to see how well accuracies are predicted."
    draw = partial(
        plots.plot_predictions,
        evaluated.predictions,
        calibration=evaluated.calibration,
        chosen=model,
    )
    return Part(tables.TARGET, draw)
