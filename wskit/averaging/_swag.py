"""SWAG: a Gaussian over weights, from the moments of a training run."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from wskit._weights import Layout, layout_of
from wskit.errors import AveragingError


class SWAG:
    r"""A Gaussian with the mean and the covariance of models that come one at a time.

    Maddox et al. 2019, arXiv:1902.02476. With n models theta_1 ... theta_n and the mean
    \bar\theta_i of the first i of them,

    .. math::
        \Sigma_{diag} = diag\Big(\tfrac1n \sum_i \theta_i^2 - \bar\theta_n^2\Big), \qquad
        \Sigma_{low-rank} = \frac{1}{K - 1} D D^T, \qquad
        p(\theta) = N\big(\bar\theta_n,\ \tfrac12 (\Sigma_{diag} + \Sigma_{low-rank})\big),

    where the columns of D are theta_i - \bar\theta_i for the last K models. The variances are
    updated by Welford's rule, which is the same number without the difference of two large ones.
    All is kept in float32, or in float64 where a tensor of the models is float64, in the memory of
    K + 2 models.

    Running statistics of a BatchNorm have a mean and no variance, as in the paper, where they are
    computed anew for each sample; so should it be done here.

    Parameters
    ----------
    rank : int, default 20
        The largest K.

    Raises
    ------
    AveragingError
        If `rank` is below 2.

    Examples
    --------
    >>> swag = SWAG()
    >>> for value in (1.0, 3.0):
    ...     swag.add({"w": torch.tensor([value, 5.0])})
    >>> swag.weights["w"], swag.variances["w"], swag.deviations["w"]
    (tensor([2., 5.]), tensor([1., 0.]), tensor([[0., 0.],
            [1., 0.]]))
    >>> swag.sample(seed=0)["w"][1]
    tensor(5.)
    """

    def __init__(self, *, rank: int = 20) -> None:
        if rank < 2:
            raise AveragingError(
                f"rank must be at least 2, got {rank}: K - 1 divides the covariance."
            )
        self._rank = rank
        self._n = 0
        self._layout: Layout | None = None
        self._mean: Tensor
        self._squares: Tensor  # of the parameters' distances from the mean, summed
        self._deviations: Tensor  # a row a model; the oldest is written over

    @property
    def n_averaged(self) -> int:
        """How many models have been added."""
        return self._n

    def add(self, weights: Mapping[str, Tensor]) -> None:
        """Add a model.

        Parameters
        ----------
        weights : mapping of str to Tensor
            Is read once, and copied.

        Raises
        ------
        AveragingError
            If the model does not fit the first one, or holds NaN or inf; nothing is then changed.
        """
        label = f"model {self._n + 1}"
        if self._layout is None:
            layout = layout_of(weights, label)
            device = layout.device(weights)
        else:
            layout, device = self._layout, self._mean.device
            layout.check(weights, label)
        theta = torch.empty(layout.size, dtype=layout.dtype, device=device)
        layout.flatten(weights, label, device, out=theta)
        p = layout.n_parameters
        if self._layout is None:
            self._layout = layout
            self._mean = torch.zeros_like(theta)
            self._squares = torch.zeros_like(theta[:p])
            self._deviations = theta.new_zeros(self._rank, p)
        self._n += 1
        before = theta - self._mean
        self._mean += before / self._n
        theta -= self._mean
        self._squares.addcmul_(before[:p], theta[:p])
        self._deviations[(self._n - 1) % self._rank] = theta[:p]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The mean of the models, as a copy."""
        return self._filled().copies(self._mean)

    @property
    def variances(self) -> dict[str, Tensor]:
        """The diagonal of Sigma_diag, by name of the parameter, in the models' dtypes."""
        layout = self._filled()
        return layout.unflatten(self._variance(), {})

    @property
    def deviations(self) -> dict[str, Tensor]:
        """The columns of D as stacks of shape (K, ...), the oldest first, in the models' dtypes."""
        layout = self._filled()
        rows = [i % self._rank for i in range(max(0, self._n - self._rank), self._n)]
        return layout.unflatten(self._deviations[rows], {})

    def sample(self, *, seed: int, scale: float = 1.0) -> dict[str, Tensor]:
        r"""Draw a model from the Gaussian.

        .. math::
            \theta = \bar\theta + \sqrt{scale} \Big(\tfrac{1}{\sqrt 2} \Sigma_{diag}^{1/2} z_1
                + \tfrac{1}{\sqrt{2 (K - 1)}} D z_2\Big), \qquad z_1, z_2 \sim N(0, I).

        Parameters
        ----------
        seed : int
            Of a generator of its own, on the CPU, so that the noise is the same on every device.
        scale : float, default 1.0
            Factor of the covariance; 1 is the paper's Gaussian, 0 its mean. (The authors' code
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
        layout = self._filled()
        if self._n < 2:
            raise AveragingError("a covariance needs at least 2 models, and 1 has been added.")
        if not (math.isfinite(scale) and scale >= 0):
            raise AveragingError(f"scale must be a finite number and not negative, got {scale}.")
        k, p = min(self._n, self._rank), layout.n_parameters
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(p + k, generator=generator, dtype=layout.dtype).to(self._mean.device)
        deviation = self._variance().sqrt_().mul_(noise[:p])
        deviation.addmv_(self._deviations[:k].mT, noise[p:], alpha=1 / math.sqrt(k - 1))
        flat = self._mean.clone()
        flat[:p].add_(deviation, alpha=math.sqrt(scale / 2))
        return layout.copies(flat)

    def _variance(self) -> Tensor:
        # Welford's sum is never negative but for rounding, whose root would be NaN.
        return self._squares.clamp(min=0) / self._n

    def _filled(self) -> Layout:
        if self._layout is None:
            raise AveragingError("no model has been added yet.")
        return self._layout
