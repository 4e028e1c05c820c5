"""Many small models as stacked tensors, and the table of what is known about each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from wskit.errors import ZooError


@dataclass(frozen=True, eq=False)
class Zoo:
    """Models of one architecture, their weights stacked.

    Attributes
    ----------
    weights : mapping of str to Tensor of shape (models, ...)
        What ``torch.stack`` of the models' state dicts gives, under the names of one of them.
        Memory-mapped where the zoo was loaded from one file.
    records : DataFrame with one row per model
        Every zoo has the columns `run`, the training run that the model is a checkpoint of (two
        rows of one run are not independent: split by it), `epoch`, and `status`, "trained" or
        "diverged". Where known: `train_loss`, `train_accuracy`, `test_loss`, `test_accuracy`
        (losses in nats, accuracies as fractions), and a column for each hyper-parameter.

    Raises
    ------
    ZooError
        If a tensor's first axis is not as long as the table.

    Examples
    --------
    >>> records = pd.DataFrame({"run": [0, 1], "epoch": [5.0, 5.0], "status": "trained"})
    >>> zoo = Zoo({"fc.weight": torch.arange(12.0).reshape(2, 3, 2)}, records)
    >>> len(zoo), zoo.model(1)["fc.weight"].shape, len(zoo.select(records.run == 0))
    (2, torch.Size([3, 2]), 1)
    """

    weights: Mapping[str, Tensor]
    records: pd.DataFrame

    def __post_init__(self) -> None:
        for name, stack in self.weights.items():
            if stack.ndim == 0 or len(stack) != len(self.records):
                raise ZooError(
                    f"a zoo's tensors have one entry per model, and {name!r} has the shape "
                    f"{tuple(stack.shape)} where the table has {len(self.records)} rows."
                )

    def __len__(self) -> int:
        return len(self.records)

    def model(self, row: int) -> dict[str, Tensor]:
        """Return the weights of the model in that row of the table, as in a `state_dict`."""
        return {name: stack[row] for name, stack in self.weights.items()}

    def select(self, rows: Any) -> "Zoo":
        """Return a zoo of some of the models.

        Parameters
        ----------
        rows : slice, sequence of int, or mask with one value per model
            Positions in the table, in the order of the result.

        Returns
        -------
        Zoo
            Its table counts its rows from 0. A slice shares its memory with this zoo.
        """
        if isinstance(rows, slice):
            chosen: Any = rows
        else:
            array = np.asarray(rows)
            array = np.flatnonzero(array) if array.dtype == bool else array
            chosen = torch.as_tensor(array, dtype=torch.long)
        records = self.records.iloc[rows if isinstance(rows, slice) else chosen.numpy()]
        weights = {name: stack[chosen] for name, stack in self.weights.items()}
        return Zoo(weights, records.reset_index(drop=True))


def concatenate(zoos: Sequence[Zoo]) -> Zoo:
    """Put zoos of one architecture one after the other.

    Parameters
    ----------
    zoos : sequence of Zoo
        With the same tensors. Runs of two zoos that have the same number are the same run.

    Returns
    -------
    Zoo

    Raises
    ------
    ZooError
        If there is none, or their tensors differ in name or shape.

    Examples
    --------
    >>> one = Zoo({"w": torch.zeros(1, 2)}, pd.DataFrame({"run": [0]}))
    >>> len(concatenate([one, one]))
    2
    """
    if not zoos:
        raise ZooError("there are no zoos to put together; give at least one.")
    shapes = [{name: stack.shape[1:] for name, stack in zoo.weights.items()} for zoo in zoos]
    for i, found in enumerate(shapes):
        for name in {**shapes[0], **found}:
            if shapes[0].get(name) != found.get(name):
                raise ZooError(
                    f"zoos of one architecture are needed, and tensor {name!r} differs between "
                    f"the first and number {i}: {shapes[0].get(name)} and {found.get(name)}."
                )
    weights = {name: torch.cat([zoo.weights[name] for zoo in zoos]) for name in shapes[0]}
    return Zoo(weights, pd.concat([zoo.records for zoo in zoos], ignore_index=True))
