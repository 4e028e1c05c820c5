"""Means that take one model at a time."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from wskit._checks import number
from wskit._weights import Layout, layout_of
from wskit.errors import AveragingError


class _Mean(ABC):
    """A mean that moves a share of the way to each new model: theta <- theta + w (new - theta)."""

    def __init__(self) -> None:
        self._n = 0
        self._state: tuple[Layout, Tensor] | None = None

    @abstractmethod
    def _share(self, n: int) -> float:
        """Return how far to move to the n-th model; 1 to the first."""

    @property
    def n_averaged(self) -> int:
        """How many models have been added."""
        return self._n

    @property
    def weights(self) -> dict[str, Tensor]:
        """The mean, in the models' dtypes, as a copy: later models do not change it."""
        if self._state is None:
            raise AveragingError("no model has been added yet, so there is no mean.")
        layout, mean = self._state
        return layout.copies(mean)

    def add(self, weights: Mapping[str, Tensor]) -> None:
        """Add a model.

        Parameters
        ----------
        weights : mapping of str to Tensor
            It is read once, tensor by tensor (small ones together, up to 2 MiB), and not kept.

        Raises
        ------
        AveragingError
            If the model does not fit the first one, or holds NaN or inf; the mean is then what it
            was before, up to rounding.
        """
        label = f"model {self._n + 1}"
        if self._state is None:
            layout = layout_of(weights, label)
            device = layout.device(weights)
            mean = torch.zeros(layout.size, dtype=layout.dtype, device=device)
        else:
            layout, mean = self._state
            layout.check(weights, label)
        share = self._share(self._n + 1)
        done = 0
        try:
            for part, values in layout.parts(weights, label, mean.device):
                mean[part].lerp_(values, share)
                done = part.stop
                del values  # before the next tensor is read
        except BaseException:  # an interrupt from the keyboard too must leave no half a step
            if self._state is not None and done:
                for part, values in layout.parts(weights, label, mean.device):
                    mean[part].lerp_(values, -share / (1 - share))
                    del values
                    if part.stop == done:
                        break
            raise
        self._state = (layout, mean)
        self._n += 1


class RunningMean(_Mean):
    """The mean of models that come one at a time, as in stochastic weight averaging (SWA).

    The n-th model moves the mean by theta <- theta + (theta_n - theta)/n (Izmailov et al. 2018,
    arXiv:1803.05407), which is what `torch.optim.swa_utils.AveragedModel` does. The mean is kept
    in float32, or in float64 where a tensor of the models is float64, so that a mean of bfloat16
    models does not stand still; it takes the memory of one model in that dtype, on the first
    model's device.

    Examples
    --------
    >>> mean = RunningMean()
    >>> for value in (1.0, 2.0, 6.0):
    ...     mean.add({"w": torch.tensor([value])})
    >>> mean.weights, mean.n_averaged
    ({'w': tensor([3.])}, 3)
    """

    def _share(self, n: int) -> float:
        return 1 / n


class ExponentialMean(_Mean):
    """An exponential moving average (EMA) of models that come one at a time.

    theta <- decay theta + (1 - decay) theta_n, beginning with the first model itself, as
    `torch.optim.swa_utils.get_ema_multi_avg_fn` has it. It is kept as in `RunningMean`.

    Parameters
    ----------
    decay : float
        Between 0 and 1. An average over about 1/(1 - decay) models.
    bias_correction : bool, default False
        Whether to divide by the sum of the coefficients, 1 - decay^n, instead of giving the first
        model the coefficient decay^(n - 1): the mean is then
        (1 - decay)/(1 - decay^n) times the sum over i of decay^(n - i) theta_i, and the first
        models weigh no more than by their age. (Kingma and Ba 2015, arXiv:1412.6980, section 3.)

    Raises
    ------
    AveragingError
        If `decay` is not between 0 and 1.

    Examples
    --------
    >>> plain, corrected = ExponentialMean(0.5), ExponentialMean(0.5, bias_correction=True)
    >>> for value in (1.0, 4.0):
    ...     plain.add({"w": torch.tensor([value])})
    ...     corrected.add({"w": torch.tensor([value])})
    >>> plain.weights["w"], corrected.weights["w"]
    (tensor([2.5000]), tensor([3.]))
    """

    def __init__(self, decay: float, *, bias_correction: bool = False) -> None:
        check_decay(decay)
        super().__init__()
        self._decay, self._bias_correction = decay, bias_correction

    def _share(self, n: int) -> float:
        if n == 1:
            return 1.0
        return (1 - self._decay) / (1 - self._decay**n if self._bias_correction else 1)


def check_decay(decay: float) -> None:
    """Raise unless an exponential average can have this decay."""
    if not 0 < number(decay, AveragingError, "decay") < 1:
        raise AveragingError(f"decay must lie between 0 and 1, got {decay}; 0.99, say.")
