"""The weights of a training run at many steps, and any average of them afterwards."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import ArrayLike
from torch import Tensor

from wskit._base.layout import Layout, layout_of
from wskit._base.weights import as_weights
from wskit.averaging._average import Weights
from wskit.errors import AveragingError

_COLUMNS = 2**14  # that are converted to float64 at a time


class Trajectory:
    """The weights of a small model at many training steps.

    Floating-point tensors are kept in one matrix, with a row per step, of float32 (of float64
    where a tensor of the model is), on the device of the first model. Other tensors are kept as
    they are.

    Examples
    --------
    >>> trajectory = Trajectory()
    >>> for step in range(0, 50, 10):
    ...     trajectory.append(step, {"w": torch.tensor([float(step), 1.0])})
    >>> trajectory.steps, trajectory.weights["w"].shape
    (array([ 0, 10, 20, 30, 40]), torch.Size([5, 2]))
    >>> trajectory.window_mean(2)["w"], trajectory.window_mean(0, 4, 3)["w"]
    (tensor([30.,  1.]), tensor([15.,  1.]))
    """

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._others: list[dict[str, Tensor]] = []
        self._state: tuple[Layout, Tensor] | None = None  # the record has room for more rows

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def steps(self) -> Int64[np.ndarray, " steps"]:
        """The training steps that were recorded, ascending."""
        steps = np.array(self._steps, dtype=np.int64)
        steps.flags.writeable = False
        return steps

    @property
    def weights(self) -> dict[str, Tensor]:
        """The recorded weights as stacks of shape (steps, ...), like a zoo's.

        They are views of the record where its dtype is the model's: do not write to them.
        """
        layout, record = self._recorded()
        return layout.unflatten(record, self._stack_others(range(len(self))))

    def append(self, step: int, weights: Weights) -> None:
        """Record a model.

        Parameters
        ----------
        step : int
            Training step, epoch or whatever else counts; larger than the last one.
        weights : weights
            Copied.

        Raises
        ------
        AveragingError
            If `step` is not larger than the last one, or the model does not fit the first one or
            holds NaN or inf. Nothing is then recorded.
        """
        if self._steps and step <= self._steps[-1]:
            raise AveragingError(
                f"steps must increase, and {step} follows {self._steps[-1]}; begin a new "
                "Trajectory for a new run."
            )
        label, row = f"step {step}", len(self)
        weights = as_weights(weights, AveragingError, label)
        if self._state is None:
            layout = layout_of(
                weights, label, error=AveragingError, statistics_last=True, keep_others=True
            )
            record = torch.empty(64, layout.size, dtype=layout.dtype, device=layout.device(weights))
        else:
            layout, record = self._state
            layout.check(weights, label)
            if row == len(record):
                record = torch.cat([record, torch.empty_like(record)])
        layout.flatten(weights, label, out=record[row])
        self._others.append({name: weights[name].detach().clone() for name in layout.others})
        self._state = layout, record
        self._steps.append(step)

    def model(self, row: int) -> dict[str, Tensor]:
        """Return the weights of one recorded step, as in a `state_dict`; negative rows count back.

        As `weights`, they may be views of the record.
        """
        layout, record = self._recorded()
        return layout.unflatten(record[row], self._others[row])

    def window_mean(
        self, start: int | None = None, stop: int | None = None, every: int = 1
    ) -> dict[str, Tensor]:
        """Return the mean of ``weights[start:stop:every]``, as a model.

        Parameters
        ----------
        start, stop, every : int, optional
            Rows of `steps`, as in a slice: negative ones count back from the end. `every` leaves
            out all but every so many rows, such as the ends of cycles.

        Returns
        -------
        dict of str to Tensor
            Tensors that are not floating-point are those of the window's first step.

        Raises
        ------
        AveragingError
            If no step is in the window.
        """
        layout, _ = self._recorded()
        c = np.zeros((1, len(self)))
        c[0, start:stop:every] = 1
        if not c.any():
            raise AveragingError(
                f"the window {start}:{stop} holds none of the {len(self)} recorded steps."
            )
        models = {name: stack[0] for name, stack in self.mix(c / c.sum()).items()}
        return {name: models[layout.ties.get(name, name)] for name in models}

    def mix(self, coefficients: ArrayLike) -> dict[str, Tensor]:
        """Return linear combinations of the recorded models, such as means of many windows.

        Parameters
        ----------
        coefficients : array of shape (points, steps)
            One row per combination. They need not sum to 1.

        Returns
        -------
        dict of str to Tensor
            Stacks of shape (points, ...), from sums in float64. Tensors that are not
            floating-point are those of the first step whose coefficient is not 0.

        Examples
        --------
        The running mean of SWA:

        >>> trajectory = Trajectory()
        >>> for step, value in enumerate([1.0, 3.0, 8.0]):
        ...     trajectory.append(step, {"w": torch.tensor(value)})
        >>> trajectory.mix(np.tril(np.ones((3, 3))) / [[1], [2], [3]])
        {'w': tensor([1., 2., 4.])}
        """
        layout, record = self._recorded()
        c = torch.as_tensor(coefficients, dtype=torch.float64)
        used = c.any(dim=0).nonzero().flatten().tolist() or [0]
        rows = slice(used[0], used[-1] + 1)
        inside = c[:, rows].to(record.device)
        blocks = [inside @ block.double() for block in record[rows].split(_COLUMNS, dim=1)]
        first = c.ne(0).int().argmax(dim=1).tolist()
        return layout.unflatten(torch.cat(blocks, dim=1), self._stack_others(first))

    def _recorded(self) -> tuple[Layout, Tensor]:
        if self._state is None:
            raise AveragingError("no step has been recorded yet.")
        layout, record = self._state
        return layout, record[: len(self)]

    def _stack_others(self, rows: Sequence[int]) -> dict[str, Tensor]:
        layout, _ = self._recorded()
        return {
            name: torch.stack([self._others[row][name] for row in rows]) for name in layout.others
        }
