"""Means that take one model at a time, and the Gaussian of SWAG around one."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from wskit._base.layout import Layout, layout_of
from wskit._base.weights import as_weights
from wskit.averaging._average import Weights
from wskit.errors import AveragingError


class _Mean(ABC):
    """A mean that moves a share of the way to each new model: theta <- theta + w (new - theta)."""

    def __init__(self) -> None:
        self._n = 0
        self._state: tuple[Layout, Tensor] | None = None

    @abstractmethod
    def _share(self, n: int) -> float:
        """Return how far to move to the n-th model: 1 for the first."""

    @property
    def n_averaged(self) -> int:
        """Number of models that have been added."""
        return self._n

    @property
    def weights(self) -> dict[str, Tensor]:
        """The mean in the models' dtypes, as a copy that later models do not change."""
        layout, mean = self._filled()
        return layout.copies(mean)

    def add(self, weights: Weights) -> None:
        """Add a model.

        Parameters
        ----------
        weights : weights
            Read once, tensor by tensor (small ones together, up to 2 MiB), and not kept.

        Raises
        ------
        AveragingError
            If the model does not fit the first one, or holds NaN or inf. The mean is then what it
            was before, up to rounding.
        """
        label = f"model {self._n + 1}"
        weights = as_weights(weights, AveragingError, label)
        first = self._state is None
        layout, mean = self._start(weights, label)
        share = self._share(self._n + 1)
        done = 0
        try:
            for part, values in layout.parts(weights, label, mean.device):
                mean[part].lerp_(values, share)
                done = part.stop
                del values  # frees it before the next tensor is read
        except BaseException:  # an interrupt from the keyboard must not leave half a step either
            if not first and done:
                for part, values in layout.parts(weights, label, mean.device):
                    mean[part].lerp_(values, -share / (1 - share))
                    del values
                    if part.stop == done:
                        break
            raise
        self._state = layout, mean
        self._n += 1

    def _start(self, weights: Weights, label: str) -> tuple[Layout, Tensor]:
        """Return the layout and the mean so far, which for the first model is 0."""
        if self._state is None:
            layout = layout_of(
                weights, label, error=AveragingError, statistics_last=True, keep_others=True
            )
            return layout, torch.zeros(
                layout.size, dtype=layout.dtype, device=layout.device(weights)
            )
        self._state[0].check(weights, label)
        return self._state

    def _filled(self) -> tuple[Layout, Tensor]:
        if self._state is None:
            raise AveragingError("no model has been added yet, so there is no mean.")
        return self._state


class RunningMean(_Mean):
    """The mean of models that come one at a time, as in stochastic weight averaging (SWA).

    The n-th model moves the mean by theta <- theta + (theta_n - theta)/n (Izmailov et al. 2018,
    arXiv:1803.05407), as `torch.optim.swa_utils.AveragedModel` does. The mean is kept in float32,
    or in float64 where a tensor of the models is float64, so that a mean of bfloat16 models does
    not stand still. It takes the memory of one model in that dtype, on the first model's device.

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
        Between 0 and 1; the average extends over about 1/(1 - decay) models.

    Raises
    ------
    AveragingError
        If `decay` is not between 0 and 1.

    Examples
    --------
    >>> mean = ExponentialMean(0.5)
    >>> for value in (1.0, 4.0):
    ...     mean.add({"w": torch.tensor([value])})
    >>> mean.weights["w"]
    tensor([2.5000])
    """

    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise AveragingError(f"decay must lie between 0 and 1, got {decay}; 0.99, say.")
        super().__init__()
        self._decay = decay

    def _share(self, n: int) -> float:
        return 1.0 if n == 1 else 1 - self._decay


class SWAG(RunningMean):
    r"""A Gaussian with the mean and the covariance of models that come one at a time.

    Maddox et al. 2019, arXiv:1902.02476. With n models theta_1 ... theta_n and the mean
    \bar\theta_i of the first i of them,

    .. math::
        \Sigma_{diag} = diag\Big(\tfrac1n \sum_i \theta_i^2 - \bar\theta_n^2\Big), \qquad
        \Sigma_{low-rank} = \frac{1}{K - 1} D D^T, \qquad
        p(\theta) = N\big(\bar\theta_n,\ \tfrac12 (\Sigma_{diag} + \Sigma_{low-rank})\big),

    where the columns of D are theta_i - \bar\theta_i for the last K models. The variances are
    updated by Welford's rule, which avoids the difference of two large numbers. All is kept in the
    dtype of `RunningMean`, in the memory of K + 2 models.

    Running statistics of a batch norm have a mean and no variance, as in the paper, which computes
    them anew for each sample: see `recalibrate_bn`.

    Parameters
    ----------
    rank : int, default 20
        The largest K, at least 2.

    Raises
    ------
    AveragingError
        If `rank` is below 2.

    Examples
    --------
    >>> swag = SWAG()
    >>> for value in (1.0, 3.0):
    ...     swag.add({"w": torch.tensor([value, 5.0])})
    >>> swag.weights["w"], swag.variances["w"]
    (tensor([2., 5.]), tensor([1., 0.]))
    >>> swag.sample(seed=0)["w"][1]
    tensor(5.)
    """

    def __init__(self, *, rank: int = 20) -> None:
        if rank < 2:
            raise AveragingError(
                f"rank must be at least 2, got {rank}: K - 1 divides the covariance."
            )
        super().__init__()
        self._rank = rank
        self._squares: Tensor  # sums of the parameters' squared distances from the mean
        self._deviations: Tensor  # one row per model; the oldest is written over

    def add(self, weights: Weights) -> None:
        """Add a model.

        Parameters
        ----------
        weights : weights
            Read once, and copied.

        Raises
        ------
        AveragingError
            If the model does not fit the first one, or holds NaN or inf; nothing is then changed.
        """
        label = f"model {self._n + 1}"
        weights = as_weights(weights, AveragingError, label)
        layout, mean = self._start(weights, label)
        theta = layout.flatten(weights, label, device=mean.device)
        p = layout.n_parameters
        if self._state is None:
            self._state = layout, mean
            self._squares = torch.zeros_like(theta[:p])
            self._deviations = theta.new_zeros(self._rank, p)
        self._n += 1
        before = theta - mean
        mean += before / self._n
        theta -= mean
        self._squares.addcmul_(before[:p], theta[:p])
        self._deviations[(self._n - 1) % self._rank] = theta[:p]

    @property
    def variances(self) -> dict[str, Tensor]:
        """The diagonal of Sigma_diag, by name of the parameter, in the models' dtypes."""
        layout, _ = self._filled()
        return layout.unflatten(self._variance())

    def sample(self, *, seed: int, scale: float = 1.0) -> dict[str, Tensor]:
        r"""Draw a model from the Gaussian.

        .. math::
            \theta = \bar\theta + \sqrt{scale} \Big(\tfrac{1}{\sqrt 2} \Sigma_{diag}^{1/2} z_1
                + \tfrac{1}{\sqrt{2 (K - 1)}} D z_2\Big), \qquad z_1, z_2 \sim N(0, I).

        Parameters
        ----------
        seed : int
            Seed of a generator on the CPU, so that the noise is the same on every device.
        scale : float, default 1.0
            Factor of the covariance. 1 is the paper's Gaussian and 0 its mean. (The authors' code
            has the 1/2 of the covariance in its ``scale``: 0.5 there is 1 here.)

        Returns
        -------
        dict of str to Tensor
            A model. Tensors that are not floating-point are those of the first model.

        Raises
        ------
        AveragingError
            If fewer than two models have been added, or `scale` is negative.
        """
        layout, mean = self._filled()
        if self._n < 2:
            raise AveragingError("a covariance needs at least 2 models, and 1 has been added.")
        if not 0 <= scale < math.inf:
            raise AveragingError(f"scale must be finite and not negative, got {scale}.")
        k, p = min(self._n, self._rank), layout.n_parameters
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(p + k, generator=generator, dtype=layout.dtype).to(mean.device)
        deviation = self._variance().sqrt_().mul_(noise[:p])
        deviation.addmv_(self._deviations[:k].mT, noise[p:], alpha=1 / math.sqrt(k - 1))
        flat = mean.clone()
        flat[:p].add_(deviation, alpha=math.sqrt(scale / 2))
        return layout.copies(flat)

    def _variance(self) -> Tensor:
        # Welford's sum is negative by rounding only, whose root would be NaN.
        return self._squares.clamp(min=0) / self._n
