"""Running statistics of batch norms, computed anew for weights that were averaged."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wskit._checks import calling
from wskit.errors import AveragingError


class _Moments:
    """Count, mean and sum of squared distances from it, of each channel."""

    def __init__(self) -> None:
        self.n = 0
        self.mean: Tensor
        self.squares: Tensor

    def add(self, x: Tensor) -> None:
        """Add values (images, channels, ...), by the rule of Chan et al."""
        dims, n = [dim for dim in range(x.ndim) if dim != 1], x.numel() // x.shape[1]
        wide = torch.float32 if x.device.type == "mps" else torch.float64  # which mps has not
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


def recalibrate_bn(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    device: torch.device | str | None = None,
) -> None:
    r"""Compute the running statistics of every BatchNorm anew from data, in place.

    Averaged weights need it: the mean of running statistics is not the statistics of the mean's
    activations (Izmailov et al. 2018, arXiv:1803.05407). What is computed is the mean and the
    unbiased variance over all values of a channel, whatever the batches' sizes and order: with
    the n_b values of batch b, of mean m_b and sum of squared distances from it S_b,

    .. math::
        \mu = \frac1n \sum_b n_b m_b, \qquad
        \sigma^2 = \frac1{n - 1} \sum_b \big(S_b + n_b (m_b - \mu)^2\big),

    in float64, by the update of Chan, Golub and LeVeque (1983, doi:10.1080/00031305.1983.10483115).
    `torch.optim.swa_utils.update_bn` takes the plain mean of m_b and of S_b/(n_b - 1): a last
    batch of two images counts as much as a full one, and what lies between the batches is lost.

    The model is in evaluation mode meanwhile, so that dropout is off, but its BatchNorms normalise
    by the batch, as in training. So all is exact for the first BatchNorm, or where one batch holds
    everything; what comes to a later one was normalised batch by batch. Shuffle, as in training.

    Parameters
    ----------
    model : nn.Module
        Every BatchNorm in it is recomputed, also one that is frozen in evaluation mode; not one
        without running statistics, ``track_running_stats=False``. One that is used several times
        pools all its uses; one that the data do not come to keeps its statistics. A
        SyncBatchNorm pools what its own process sees.
    loader : iterable of batches
        Is gone through once. A batch is a tensor, or a list or tuple whose first element is one;
        the model is called with that tensor. All else needs `forward`.
    forward : callable, optional
        Called with the model and a batch, as the loader gives it; calls the model:
        ``lambda model, batch: model(batch["image"].to("cuda"))``.
    device : torch.device or str, optional
        Where to move the tensors the model is called with. None means where its first parameter
        is. Without effect on `forward`.

    Raises
    ------
    AveragingError
        If the model has no BatchNorm with running statistics, or the loader no batch; if the
        model cannot be called with a batch; if a batch has a single value a channel, by which a
        BatchNorm cannot normalise; if no BatchNorm is reached, or what comes to one is NaN or
        inf. After this or any other exception, the loader's and the keyboard's among them, the
        statistics are what they were. Which modules train is always as before.

    Examples
    --------
    >>> model = nn.BatchNorm1d(1)
    >>> recalibrate_bn(model, [torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [6.0], [8.0]])])
    >>> model.running_mean, model.running_var, model.num_batches_tracked
    (tensor([4.]), tensor([10.]), tensor(2))
    """
    norms = _norms(model)
    if not norms:
        raise AveragingError(
            f"{type(model).__name__} has no BatchNorm with running statistics: there is nothing "
            "to recompute."
        )
    if forward is None:
        where = device or next(chain(model.parameters(), model.buffers())).device
        forward = partial(_call, where=torch.device(where))
    modes = [(part, part.training) for part in model.modules()]
    before = [(kept, kept.clone()) for norm in norms.values() for kept in norm.buffers(False)]
    moments = {name: _Moments() for name in norms}
    hooks = []
    try:
        for part, _ in modes:
            part.training = False
        for name, norm in norms.items():
            # Normalises by the batch then, and leaves its statistics alone.
            norm.training, norm.track_running_stats = True, False
            look = partial(_look, name=name, moments=moments[name])
            hooks.append(norm.register_forward_pre_hook(look, with_kwargs=True))
        batches = 0
        with torch.no_grad():
            for batch in loader:
                batches += 1
                forward(model, batch)
        _write(model, norms, moments, batches)
    except BaseException:  # an interrupt from the keyboard too
        for kept, value in before:
            kept.copy_(value)
        raise
    finally:
        for hook in hooks:
            hook.remove()
        for norm in norms.values():
            norm.track_running_stats = True
        for part, training in modes:
            part.training = training


def _norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Find the BatchNorms that have running statistics."""
    return {
        name: part
        for name, part in model.named_modules()
        if isinstance(part, _BatchNorm)
        and part.track_running_stats
        and part.running_mean is not None
    }


def _call(model: nn.Module, batch: Any, *, where: torch.device) -> None:
    first = batch[0] if isinstance(batch, list | tuple) and batch else batch
    if not isinstance(first, Tensor):
        kind = type(batch).__name__
        raise AveragingError(
            f"a batch must be a tensor, or a list or tuple that begins with one, got a {kind}"
            f"{'' if first is batch else f' that begins with a {type(first).__name__}'}; pass "
            "forward=, a function of the model and a batch that calls the model."
        )
    with calling(AveragingError, "the model", "give a loader of batches that it is made for"):
        model(first.to(where))


def _look(norm: _BatchNorm, args: Any, kwargs: Any, *, name: str, moments: _Moments) -> None:
    """Add what a BatchNorm is about to normalise."""
    x = args[0] if args else kwargs["input"]
    if x.ndim < 2 or x.shape[1] != norm.num_features:
        return  # the BatchNorm itself says what is wrong
    values = x.numel() // x.shape[1]
    if values < 2:
        raise AveragingError(
            f"BatchNorm {name!r} cannot normalise a batch of {values} values a channel; leave "
            "that batch out (drop_last=True), or make it larger."
        )
    moments.add(x.detach())


def _write(
    model: nn.Module, norms: dict[str, _BatchNorm], moments: dict[str, _Moments], batches: int
) -> None:
    """Put what was computed into the BatchNorms that were reached."""
    if not batches:
        raise AveragingError(
            "the loader gave no batch; an iterator that was gone through before is empty."
        )
    reached = {name: found for name, found in moments.items() if found.n}
    if not reached:
        raise AveragingError(
            f"in {batches} batches nothing came to a BatchNorm of {type(model).__name__}; "
            "forward must call the model that it is given."
        )
    for name, found in reached.items():
        norm = norms[name]
        norm.running_mean.copy_(found.mean)
        norm.running_var.copy_(found.squares / (found.n - 1))
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.fill_(batches)
        if not (norm.running_mean.isfinite() & norm.running_var.isfinite()).all():
            raise AveragingError(
                f"what comes to BatchNorm {name!r} has no finite mean and variance in "
                f"{norm.running_var.dtype}; look for NaN or inf in the data and the weights."
            )
