"""The weights of a training run at many steps, and any average of them afterwards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from wskit._weights import Layout, layout_of
from wskit.averaging._running import check_decay
from wskit.errors import AveragingError

_COLUMNS = 2**14  # of all steps that are converted to float64 at a time


@dataclass(frozen=True, eq=False)
class TrajectorySpectrum:
    """Principal components of a trajectory, the largest first, as scikit-learn's PCA has them.

    Attributes
    ----------
    steps : array of shape (steps,)
        Training steps of the weights.
    explained_variance : array of shape (components,)
        Variance of the weights along each component, with the divisor steps - 1.
    explained_variance_ratio : array of shape (components,)
        Its share of the variance of all parameters.
    coordinates : array of shape (steps, components)
        Of each step from the mean step, in the units of the weights. A component's sign is such
        that its coordinate of largest size is positive.
    """

    steps: Int64[np.ndarray, " steps"]
    explained_variance: Float64[np.ndarray, " components"]
    explained_variance_ratio: Float64[np.ndarray, " components"]
    coordinates: Float64[np.ndarray, "steps components"]


class Trajectory:
    """The weights of a small model at many training steps.

    Floating-point tensors are kept in one tensor of a row a step, of float32 (of float64 where a
    tensor of the model is), on the device of the first model; the other tensors are kept as they
    are. The first call of `window_mean` adds cumulative sums, which take twice as much again.

    Parameters
    ----------
    capacity : int, default 64
        For how many steps to allocate memory at first; it doubles when it is full.

    Raises
    ------
    AveragingError
        If `capacity` is not positive.

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

    def __init__(self, capacity: int = 64) -> None:
        if capacity < 1:
            raise AveragingError(f"capacity must be at least 1, got {capacity}.")
        self._capacity = capacity
        self._steps: list[int] = []
        self._others: list[dict[str, Tensor]] = []
        self._state: tuple[Layout, Tensor] | None = None
        self._sums: tuple[int, Tensor] | None = None  # `every`, and its cumulative sums

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
        """The recorded weights, as stacks of shape (steps, ...), like a zoo's.

        Where the model is of one of float32 and float64 they are views of the record: do not
        write to them.
        """
        layout, record = self._recorded()
        return layout.unflatten(record, self._stacked(range(len(self))))

    def append(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Record a model.

        Parameters
        ----------
        step : int
            Training step, epoch or whatever else counts; larger than the last one.
        weights : mapping of str to Tensor
            Is copied.

        Raises
        ------
        AveragingError
            If `step` is not larger than the last, or the model does not fit the first one or
            holds NaN or inf; nothing is then recorded.
        """
        if self._steps and step <= self._steps[-1]:
            raise AveragingError(
                f"steps must increase, and {step} follows {self._steps[-1]}; begin a new "
                "Trajectory for a new run."
            )
        label = f"step {step}"
        row = len(self)
        if self._state is None:
            layout = layout_of(weights, label)
            record = torch.empty(
                self._capacity, layout.size, dtype=layout.dtype, device=layout.device(weights)
            )
        else:
            layout, record = self._state
            layout.check(weights, label)
            if row == len(record):
                record = torch.cat([record, torch.empty_like(record)])
        layout.flatten(weights, label, record.device, out=record[row])
        self._others.append({name: weights[name].detach().clone() for name in layout.others})
        self._state = (layout, record)
        self._steps.append(step)
        self._sums = None

    def model(self, row: int) -> dict[str, Tensor]:
        """Return the weights of one recorded step, as in a `state_dict`; negative rows count back.

        As `weights`, they may be views of the record.
        """
        layout, record = self._recorded()
        try:
            return layout.unflatten(record[row], self._others[row])
        except IndexError:
            raise AveragingError(
                f"there are {len(self)} recorded steps, and no row {row}."
            ) from None

    def window_mean(
        self, start: int | None = None, stop: int | None = None, every: int = 1
    ) -> dict[str, Tensor]:
        """Mean of ``weights[start:stop:every]``, from cumulative sums, however long the window is.

        Parameters
        ----------
        start, stop : int, optional
            Rows of `steps`, as in a slice: negative ones count back from the end.
        every : int, default 1
            Leave out all but every so many rows: the ends of cycles, say.

        Returns
        -------
        dict of str to Tensor
            A model. Tensors that are not floating-point are those of the window's first step.

        Raises
        ------
        AveragingError
            If there is no step in the window, or `every` is not positive.
        """
        stacks = self.window_means([(start, stop)], every)
        layout = self._recorded()[0]
        models = {name: stack[0] for name, stack in stacks.items()}
        return {name: models[layout.ties.get(name, name)] for name in models}

    def window_means(
        self, windows: Sequence[tuple[int | None, int | None]], every: int = 1
    ) -> dict[str, Tensor]:
        """Means over many windows, stacked: the running mean of SWA by epoch, say.

        The sums are float64, and are kept until a step is added or `every` changes, so that a
        window costs the same whatever its length.

        Parameters
        ----------
        windows : sequence of pairs of int
            Start and stop of each, as for `window_mean`.
        every : int, default 1
            As for `window_mean`.

        Returns
        -------
        dict of str to Tensor
            Stacks of shape (windows, ...).

        Raises
        ------
        AveragingError
            As `window_mean`.

        Examples
        --------
        >>> trajectory = Trajectory()
        >>> for step, value in enumerate([1.0, 3.0, 8.0]):
        ...     trajectory.append(step, {"w": torch.tensor(value)})
        >>> trajectory.window_means([(0, stop) for stop in (1, 2, 3)])
        {'w': tensor([1., 2., 4.])}
        """
        layout, _ = self._recorded()
        if every < 1:
            raise AveragingError(f"every must be at least 1, got {every}.")
        if not windows:
            raise AveragingError("there are no windows to average over.")
        rows = [range(*slice(start, stop, every).indices(len(self))) for start, stop in windows]
        for (start, stop), each in zip(windows, rows, strict=True):
            if not each:
                raise AveragingError(
                    f"the window {start}:{stop} holds none of the {len(self)} recorded steps; "
                    "widen it."
                )
        sums = self._cumulative(every)
        first = torch.tensor([each[0] for each in rows], device=sums.device)
        last = torch.tensor([each[-1] for each in rows], device=sums.device)
        counts = torch.tensor([len(each) for each in rows], device=sums.device)
        means = (sums[last + every] - sums[first]) / counts[:, None]
        return layout.unflatten(means, self._stacked([each[0] for each in rows]))

    def exponential_means(
        self, decay: float, start: int | None = None, stop: int | None = None
    ) -> dict[str, Tensor]:
        """Exponential moving averages up to each row of ``weights[start:stop]``, stacked.

        Parameters
        ----------
        decay : float
            Between 0 and 1, as for `ExponentialMean`.
        start, stop : int, optional
            Rows of `steps`, as in a slice. The first of them begins the average.

        Returns
        -------
        dict of str to Tensor
            Stacks of shape (rows, ...). Tensors that are not floating-point are those of the first
            row.

        Raises
        ------
        AveragingError
            If there is no row, or `decay` is not between 0 and 1.

        Examples
        --------
        >>> trajectory = Trajectory()
        >>> for step, value in enumerate([1.0, 4.0, 4.0]):
        ...     trajectory.append(step, {"w": torch.tensor(value)})
        >>> trajectory.exponential_means(0.5)
        {'w': tensor([1.0000, 2.5000, 3.2500])}
        """
        layout, record = self._recorded()
        rows = range(*slice(start, stop).indices(len(self)))
        if not rows:
            raise AveragingError(f"{start}:{stop} holds none of the {len(self)} recorded steps.")
        check_decay(decay)
        means = record[rows.start : rows.stop].clone()
        for row in range(1, len(means)):
            torch.lerp(means[row - 1], means[row], 1 - decay, out=means[row])
        return layout.unflatten(means, self._stacked([rows.start] * len(rows)))

    def spectrum(self, start: int | None = None, stop: int | None = None) -> TrajectorySpectrum:
        """Principal components of the recorded parameters, by the Gram matrix of the steps.

        With the centred steps in the rows of X, the eigenvalues of X X^T over steps - 1 are the
        variances along the components, and its eigenvectors times their roots the coordinates.
        Running statistics of a BatchNorm are left out.

        Parameters
        ----------
        start, stop : int, optional
            Rows of `steps`, as in a slice.

        Returns
        -------
        TrajectorySpectrum
            Of min(steps - 1, parameters) components, in float64.

        Raises
        ------
        AveragingError
            If there are fewer than two steps, or the weights are the same in all of them.

        Examples
        --------
        >>> trajectory = Trajectory()
        >>> for step in range(3):
        ...     trajectory.append(step, {"w": torch.tensor([3.0 * step, 4.0 * step])})
        >>> trajectory.spectrum().explained_variance.round(6)
        array([25.,  0.])
        """
        layout, record = self._recorded()
        X = record[start:stop, : layout.n_parameters]
        if len(X) < 2:
            raise AveragingError(
                f"a spectrum needs at least 2 recorded steps, and {start}:{stop} holds {len(X)}."
            )
        gram = torch.zeros(len(X), len(X), dtype=torch.float64, device=X.device)
        for columns in X.split(_COLUMNS, dim=1):
            centred = columns.to(torch.float64, copy=True)
            centred -= centred[0].clone()  # so that what never moves is 0, without rounding
            centred -= centred.mean(dim=0)
            gram.addmm_(centred, centred.mT)
        values, vectors = np.linalg.eigh(gram.cpu().numpy())
        n = min(len(X) - 1, layout.n_parameters)
        values, vectors = np.maximum(values[::-1][:n], 0), vectors[:, ::-1][:, :n]
        if values[0] == 0:
            raise AveragingError("the recorded weights are the same at every step.")
        peaks = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
        found = TrajectorySpectrum(
            steps=self.steps[start:stop],
            explained_variance=values / (len(X) - 1),
            explained_variance_ratio=values / values.sum(),
            coordinates=vectors * np.sign(peaks) * np.sqrt(values),
        )
        for array in vars(found).values():
            array.flags.writeable = False
        return found

    def _recorded(self) -> tuple[Layout, Tensor]:
        if self._state is None:
            raise AveragingError("no step has been recorded yet.")
        layout, record = self._state
        return layout, record[: len(self)]

    def _stacked(self, rows: Sequence[int]) -> dict[str, Tensor]:
        layout, _ = self._recorded()
        return {
            name: torch.stack([self._others[row][name] for row in rows]) for name in layout.others
        }

    def _cumulative(self, every: int) -> Tensor:
        """Return S with S[i + every] = S[i] + x[i], whose differences are sums over a window."""
        if self._sums is None or self._sums[0] != every:
            _, record = self._recorded()
            n, size = record.shape
            sums = torch.zeros(n + every, size, dtype=torch.float64, device=record.device)
            for row in range(n):
                torch.add(sums[row], record[row], out=sums[row + every])
            self._sums = (every, sums)
        return self._sums[1]
