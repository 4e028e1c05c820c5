"""Running statistics of batch norms, computed anew for weights that were averaged."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wskit.errors import AveragingError


def recalibrate_bn(model: nn.Module, loader: Iterable[Any]) -> None:
    r"""Compute the running statistics of every BatchNorm anew from data, in place.

    Averaged weights need it: the mean of running statistics is not the statistics of the mean's
    activations (Izmailov et al. 2018, arXiv:1803.05407). The result is the mean and the unbiased
    variance over all values of a channel, whatever the sizes and the order of the batches. With
    the n_b values of batch b, their mean m_b and their sum of squared distances from it S_b,

    .. math::
        \mu = \frac1n \sum_b n_b m_b, \qquad
        \sigma^2 = \frac1{n - 1} \sum_b \big(S_b + n_b (m_b - \mu)^2\big),

    in float64, by the update of Chan, Golub and LeVeque (1983, doi:10.1080/00031305.1983.10483115).
    `torch.optim.swa_utils.update_bn` takes the plain mean of m_b and of S_b/(n_b - 1): a last
    batch of two images counts as much as a full one, and the variance between batches is lost.

    The model is in evaluation mode meanwhile, so that dropout is off, but its BatchNorms normalise
    by the batch, as in training. The result is exact for the first BatchNorm, or where one batch
    holds everything; a later one sees what was normalised batch by batch. Shuffle, as in training.

    Parameters
    ----------
    model : nn.Module
        Every BatchNorm with running statistics is recomputed, even one that is frozen in
        evaluation mode. One that is used several times pools all its uses. One that the data do
        not reach keeps its statistics. A SyncBatchNorm pools what its own process sees.
    loader : iterable of batches
        Gone through once. A batch is a tensor, or a list or tuple whose first element is one; the
        model is called with that tensor, on the device of its first parameter. Others need a
        generator: ``(batch["image"] for batch in loader)``.

    Raises
    ------
    AveragingError
        If no BatchNorm with running statistics is reached, or what reaches one is NaN or inf.
        After this or any other exception, the keyboard's among them, the statistics are what they
        were. Which modules train is always as before.

    Examples
    --------
    >>> model = nn.BatchNorm1d(1)
    >>> recalibrate_bn(model, [torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [6.0], [8.0]])])
    >>> model.running_mean, model.running_var, model.num_batches_tracked
    (tensor([4.]), tensor([10.]), tensor(2))
    """
    norms = {
        name: part
        for name, part in model.named_modules()
        if isinstance(part, _BatchNorm) and part.running_mean is not None
    }
    moments = {name: _Moments() for name in norms}
    device = next(chain(model.parameters(), model.buffers())).device
    batches = 0
    with _collect(model, norms, moments), torch.no_grad():
        for batch in loader:
            batches += 1
            first = batch[0] if isinstance(batch, list | tuple) else batch
            model(first.to(device))
    reached = {norms[name]: found for name, found in moments.items() if found.n}
    if not reached:
        raise AveragingError(
            f"no BatchNorm with running statistics of {type(model).__name__} was reached in "
            f"{batches} batches; pass an iterable with batches and a model that has one."
        )
    for name, found in moments.items():
        if found.n and not (found.mean.isfinite() & found.squares.isfinite()).all():
            raise AveragingError(
                f"what reaches BatchNorm {name!r} has no finite mean and variance; look for NaN "
                "or inf in the data and the weights."
            )
    for norm, found in reached.items():
        norm.running_mean.copy_(found.mean)
        norm.running_var.copy_(found.squares / (found.n - 1))
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.fill_(batches)


class _Moments:
    """Count, mean and sum of squared distances from the mean, for each channel."""

    def __init__(self) -> None:
        self.n = 0
        self.mean: Tensor
        self.squares: Tensor

    def add(self, x: Tensor) -> None:
        """Add values (images, channels, ...), by the rule of Chan et al."""
        dims, n = [dim for dim in range(x.ndim) if dim != 1], x.numel() // x.shape[1]
        wide = torch.float32 if x.device.type == "mps" else torch.float64  # which mps lacks
        # Not by torch.var_mean, which on a CPU takes several times as long.
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        center = x.mean(dims, keepdim=True)
        distances = x - center
        rest = distances.mean(dims).to(wide)  # of the mean, which was rounded
        mean = center.flatten().to(wide) + rest
        squares = distances.square_().sum(dims).to(wide)
        if self.n == 0:
            self.n, self.mean, self.squares = n, mean, squares
            return
        total, shift = self.n + n, mean - self.mean
        self.mean += shift * (n / total)
        self.squares += squares + shift.square() * (self.n * n / total)
        self.n = total


@contextmanager
def _collect(
    model: nn.Module, norms: dict[str, _BatchNorm], moments: dict[str, _Moments]
) -> Iterator[None]:
    """Have the BatchNorms normalise by the batch, and collect what reaches them."""
    modes = [(part, part.training) for part in model.modules()]
    hooks = []
    try:
        for part, _ in modes:
            part.training = False
        for name, norm in norms.items():
            # It normalises by the batch then, and leaves its statistics alone.
            norm.training, norm.track_running_stats = True, False
            look = partial(_look, moments=moments[name])
            hooks.append(norm.register_forward_pre_hook(look, with_kwargs=True))
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for norm in norms.values():
            norm.track_running_stats = True
        for part, training in modes:
            part.training = training


def _look(norm: _BatchNorm, args: Any, kwargs: Any, *, moments: _Moments) -> None:
    """Add what a BatchNorm is about to normalise."""
    x = args[0] if args else kwargs["input"]
    if x.ndim > 1 and x.shape[1] == norm.num_features:  # else BatchNorm itself says what is wrong
        moments.add(x.detach())
