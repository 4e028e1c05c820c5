"""Evaluators of networks: of a zoo's stacked weights, and of any module."""

import copy
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from wskit._base.checks import check_choice
from wskit.averaging import recalibrate_bn
from wskit.errors import LandscapeError
from wskit.landscape._evaluate import Evaluator
from wskit.zoo import MLP, SmallCNN, outputs

Metrics = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
"""Outputs (images, ...) and targets (images, ...) of one model -> means over the images."""


def classification_metrics(
    logits: Float[Tensor, "images classes"], y: Int[Tensor, " images"]
) -> dict[str, Tensor]:
    """Return the mean cross-entropy in nats, "loss", and the share of right answers, "accuracy".

    Parameters
    ----------
    logits : Tensor of shape (images, classes)
    y : Tensor of shape (images,)
        Classes, from 0.

    Returns
    -------
    dict of str to Tensor
        Where the loss is NaN, as the logits hold NaN or inf, the accuracy is NaN as well.

    Examples
    --------
    >>> found = classification_metrics(torch.zeros(3, 2), torch.tensor([0, 0, 1]))
    >>> {name: round(float(value), 4) for name, value in found.items()}
    {'loss': 0.6931, 'accuracy': 0.6667}
    """
    # Classes before images, in which log_softmax of many models is three times as fast.
    loss = functional.cross_entropy(logits.mT[None], y[None])
    accuracy = (logits.argmax(-1) == y).to(loss.dtype).mean()
    return {"loss": loss, "accuracy": torch.where(loss.isnan(), loss.detach(), accuracy)}


def zoo_metrics(
    model: SmallCNN | MLP | Callable[[], nn.Module],
    x: Float[Tensor, "images ..."],
    y: Tensor,
    *,
    activation: Literal["relu", "tanh", "gelu", "sigmoid"] = "relu",
    metrics: Metrics = classification_metrics,
) -> Evaluator:
    """Make an evaluator of the networks of a zoo.

    `wskit.zoo.outputs` calls many networks at once. A `SmallCNN` on a CPU is called one by one,
    since convolutions in groups take longer there.

    Parameters
    ----------
    model : SmallCNN, MLP or function that returns an nn.Module
        The architecture.
    x : Tensor of shape (images, ...)
    y : Tensor of shape (images, ...)
        The targets.
    activation : {"relu", "tanh", "gelu", "sigmoid"}, default "relu"
        As for `wskit.zoo.outputs`.
    metrics : callable, default `classification_metrics`
        Maps outputs and targets of one model to means over the images, with "loss" among them.

    Returns
    -------
    Evaluator
        Computes where the weights are, in float32, or in float64 where they are.

    Raises
    ------
    LandscapeError
        If there is not a target for each image; on evaluation, if weights do not fit the module.

    Examples
    --------
    >>> evaluate = zoo_metrics(MLP((4, 2)), torch.ones(1, 4), torch.tensor([0]))
    >>> weights = {name: torch.zeros(3, *shape) for name, shape in MLP((4, 2)).shapes.items()}
    >>> evaluate(weights)["loss"]
    tensor([0.6931, 0.6931, 0.6931])
    """
    _check_lengths(x, y)
    looped: Evaluator | None = None
    if isinstance(model, SmallCNN):
        module = model.module(activation)
        looped = module_metrics(module, x.float().cpu(), y.cpu(), metrics=metrics, form="loop")

    def evaluate(stacked: Mapping[str, Tensor]) -> Mapping[str, Any]:
        first = next(iter(stacked.values()))
        if looped is not None and first.device.type == "cpu" and first.dtype != torch.float64:
            return looped({name: stack.float() for name, stack in stacked.items()})
        logits = outputs(model, stacked, x, activation=activation)
        return dict(torch.vmap(metrics, (0, None))(logits, y.to(logits.device)))

    return evaluate


def module_metrics(
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    metrics: Metrics = classification_metrics,
    bn_loader: Iterable[Any] | None = None,
    form: Literal["loop", "vmap"] | None = None,
    batch_size: int = 1024,
) -> Evaluator:
    """Make an evaluator of any module, in evaluation mode.

    Parameters
    ----------
    module : nn.Module
        A copy of it is used; the module is not changed.
    x : Tensor of shape (images, ...)
        What the module is called with, `batch_size` images at a time, on the device of `x`.
    y : Tensor of shape (images, ...)
        The targets.
    metrics : callable, default `classification_metrics`
        Maps outputs and targets of one model to means over the images, with "loss" among them.
    bn_loader : iterable of batches, optional
        If given, `wskit.averaging.recalibrate_bn` recomputes the running statistics of every batch
        norm at each point. Mixed statistics are not those of mixed weights, so that without this a
        barrier can come from the batch norms alone. Use shuffled batches, or a list of one tensor,
        for which the statistics are exact. It is gone through once per point.
    form : {"loop", "vmap"}, optional
        "loop" takes one point after the other. "vmap" takes all points of a chunk at once, which
        needs memory for the activations of as many models. None means "vmap" on a GPU and "loop"
        elsewhere, since vmap of convolutions is slower on a CPU. With `bn_loader` it is a loop.
    batch_size : int, default 1024
        Images at a time, for each point; memory is bounded by it.

    Returns
    -------
    Evaluator
        Takes weights with the names of ``module.state_dict()``. One of several tied tensors is
        enough.

    Raises
    ------
    LandscapeError
        If there is not a target for each image; on evaluation, if weights do not fit the module.
    AveragingError
        On evaluation, if the module has no batch norm or `bn_loader` cannot be gone through.

    Examples
    --------
    >>> module = nn.Linear(2, 2)
    >>> evaluate = module_metrics(module, torch.ones(1, 2), torch.tensor([0]))
    >>> evaluate({"weight": torch.zeros(2, 2, 2), "bias": torch.zeros(2, 2)})["accuracy"]
    tensor([1., 1.], dtype=torch.float64)
    """
    _check_lengths(x, y)
    check_choice(form, ("loop", "vmap", None), LandscapeError, "form")
    # A copy is called, since functional_call and recalibrate_bn change their module.
    own = copy.deepcopy(module).to(x.device).eval().requires_grad_(False)
    vmapped = (form or ("vmap" if x.is_cuda else "loop")) == "vmap" and bn_loader is None
    # Under every name that a tied tensor has.
    kept = own.state_dict(keep_vars=True)
    tensors = {name: tensor for name, tensor in kept.items() if isinstance(tensor, Tensor)}
    images, targets = x.detach().split(batch_size), y.detach().to(x.device).split(batch_size)
    in_use = threading.Lock()  # a module that is being called has one set of weights

    def measure(weights: Mapping[str, Tensor], part: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        return dict(metrics(torch.func.functional_call(own, dict(weights), (part,)), wanted))

    def average(
        weights: Mapping[str, Tensor], call: Callable[..., dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        totals: dict[str, Tensor] = {}
        for part, wanted in zip(images, targets, strict=True):
            for name, value in call(weights, part, wanted).items():
                share = value.double() * (len(part) / len(x))
                totals[name] = totals[name] + share if name in totals else share
        return totals

    def evaluate(stacked: Mapping[str, Tensor]) -> dict[str, Tensor]:
        every = {name: stack.to(x.device) for name, stack in _fit(tensors, stacked).items()}
        with torch.no_grad(), in_use:
            if vmapped:
                return average(every, torch.vmap(measure, (0, None, None)))
            rows = []
            for i in range(len(next(iter(every.values())))):
                weights = {name: stack[i] for name, stack in every.items()}
                if bn_loader is not None:
                    for name, value in weights.items():
                        tensors[name].copy_(value)
                    recalibrate_bn(own, bn_loader)
                    weights = {}  # they are in the module now
                rows.append(average(weights, measure))
            return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    return evaluate


def split_metrics(**evaluators: Evaluator) -> Evaluator:
    """Make one evaluator of several, such as those of the training and the test data.

    Parameters
    ----------
    **evaluators : Evaluator
        By the prefix that their measures get: ``split_metrics(train=..., test=...)``.

    Returns
    -------
    Evaluator
        "loss" is that of the first one, which is what a path, a plane or a ray goes by. Every
        measure of every evaluator has its prefix: "train_loss", "train_accuracy", ...

    Examples
    --------
    >>> module, x = nn.Linear(2, 2), torch.ones(1, 2)
    >>> evaluate = split_metrics(
    ...     train=module_metrics(module, x, torch.tensor([0])),
    ...     test=module_metrics(module, x, torch.tensor([1])),
    ... )
    >>> found = evaluate({"weight": torch.zeros(1, 2, 2), "bias": torch.zeros(1, 2)})
    >>> {name: round(float(values[0]), 2) for name, values in found.items()}
    ... # doctest: +NORMALIZE_WHITESPACE
    {'loss': 0.69, 'train_loss': 0.69, 'train_accuracy': 1.0,
     'test_loss': 0.69, 'test_accuracy': 0.0}
    """

    def evaluate(stacked: Mapping[str, Tensor]) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        for prefix, part in evaluators.items():
            measures = part(stacked)
            found.setdefault("loss", measures["loss"])
            found |= {f"{prefix}_{name}": values for name, values in measures.items()}
        return found

    return evaluate


def _check_lengths(x: Tensor, y: Tensor) -> None:
    if not 0 < len(x) == len(y):
        raise LandscapeError(f"a target for each image is needed, got {len(x)} and {len(y)}.")


def _fit(tensors: Mapping[str, Tensor], stacked: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Choose the tensors that a module needs, one of those that are tied, or say what is wrong.

    functional_call would take the module's own tensor for one that is missing, and broadcast.
    """
    for name, stack in stacked.items():
        if name not in tensors or stack.shape[1:] != tensors[name].shape:
            expected = tuple(tensors[name].shape) if name in tensors else "no such tensor"
            raise LandscapeError(
                f"tensor {name!r} of shape {tuple(stack.shape[1:])} does not fit the module, which "
                f"has {expected}."
            )
    given = {id(tensors[name]): name for name in reversed(list(stacked))}
    for name, tensor in tensors.items():
        if id(tensor) not in given:
            raise LandscapeError(
                f"the weights lack the module's tensor {name!r}; take them from state_dict()."
            )
    return {name: stacked[name] for name in given.values()}
