"""Evaluations of networks: of a zoo's stacked weights, and of anyone's module."""

import copy
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from wskit._checks import calling, check_choice, check_tensor, check_weights, check_whole
from wskit.averaging import recalibrate_bn
from wskit.errors import LandscapeError
from wskit.landscape._evaluate import Evaluation, check_callable, count_points
from wskit.zoo import MLP, SmallCNN, outputs

Activation = Literal["relu", "tanh", "gelu", "sigmoid"]

Metrics = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
"""Outputs (images, ...) and targets (images, ...) of one model -> means over the images."""

_Means = dict[str, Tensor]


def classification_metrics(
    logits: Float[Tensor, "images classes"], y: Int[Tensor, " images"]
) -> dict[str, Tensor]:
    """Mean cross-entropy in nats, "loss", and share of right answers, "accuracy".

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
    with calling(
        LandscapeError,
        "the cross-entropy",
        "give floating logits (images, classes) and for each image a class from 0",
    ):
        loss = functional.cross_entropy(logits.mT[None], y[None])
    accuracy = (logits.argmax(-1) == y).to(loss.dtype).mean()
    return {"loss": loss, "accuracy": torch.where(loss.isnan(), loss.detach(), accuracy)}


def zoo_metrics(
    model: SmallCNN | MLP | Callable[[], nn.Module],
    x: Float[Tensor, "images ..."],
    y: Tensor,
    *,
    activation: Activation = "relu",
    metrics: Metrics = classification_metrics,
) -> Evaluation:
    """Evaluate the networks of a zoo.

    By `wskit.zoo.outputs`, many at once; but a `SmallCNN` on a CPU one after the other, where
    convolutions in groups take longer.

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
    Evaluation
        Computes where the weights are, in float32, or in float64 where they are.

    Raises
    ------
    LandscapeError
        If there is not a target for each image, or the activation is unknown.
    ZooError
        If the architecture cannot be fed the images; on evaluation, if the weights do not fit it.

    Examples
    --------
    >>> evaluate = zoo_metrics(MLP((4, 2)), torch.ones(1, 4), torch.tensor([0]))
    >>> weights = {name: torch.zeros(3, *shape) for name, shape in MLP((4, 2)).shapes.items()}
    >>> evaluate(weights)["loss"]
    tensor([0.6931, 0.6931, 0.6931])
    """
    _check_lengths(x, y)
    check_choice(activation, Activation, LandscapeError, "activation")
    looped: Evaluation | None = None
    if isinstance(model, SmallCNN):
        model.check(x)
        module = model.module(activation)
        looped = module_metrics(module, x.float(), y, metrics=metrics, form="loop", device="cpu")

    def evaluate(stacked: Mapping[str, Tensor]) -> Mapping[str, Any]:
        count_points(stacked)
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
    device: torch.device | str | None = None,
) -> Evaluation:
    """Evaluate anyone's module, in evaluation mode, at stacked weights.

    Parameters
    ----------
    module : nn.Module
        Is copied, and not changed.
    x : Tensor of shape (images, ...)
        What the module is called with, `batch_size` images at a time.
    y : Tensor of shape (images, ...)
        The targets.
    metrics : callable, default `classification_metrics`
        Maps outputs and targets of one model to means over the images, with "loss" among them.
    bn_loader : iterable of batches, optional
        Where given, the running statistics of every batch norm are recomputed at each point, by
        `wskit.averaging.recalibrate_bn` on the copy. Mixed statistics are not those of mixed
        weights, so that without this a barrier can be the batch norms' alone. Use shuffled
        batches, or a list of one tensor, for which the statistics are exact. Gone through once a
        point.
    form : {"loop", "vmap"}, optional
        "loop" takes one point after the other; "vmap" all points of a chunk at once, which needs
        memory for the activations of as many models. None means "vmap" on a GPU and "loop"
        elsewhere: on a CPU, vmap of convolutions is slower. With `bn_loader` it is a loop.
    batch_size : int, default 1024
        Images at a time, of each point; memory is bounded by it.
    device : torch.device or str, optional
        Where to compute. None means where `x` is.

    Returns
    -------
    Evaluation
        The weights must have the names of ``module.state_dict()``; of tied tensors one is enough.

    Raises
    ------
    LandscapeError
        If there is not a target for each image, if `bn_loader` can be gone through only once, or
        the module has no batch norm; on evaluation, if the weights do not fit the module.
    AveragingError
        On evaluation, if `wskit.averaging.recalibrate_bn` cannot go through `bn_loader`.

    Examples
    --------
    >>> module = nn.Linear(2, 2)
    >>> evaluate = module_metrics(module, torch.ones(1, 2), torch.tensor([0]))
    >>> evaluate({"weight": torch.zeros(2, 2, 2), "bias": torch.zeros(2, 2)})["accuracy"]
    tensor([1., 1.], dtype=torch.float64)
    """
    _check_lengths(x, y)
    where = torch.device(device) if device is not None else x.device
    check_whole(batch_size, LandscapeError, "batch_size")
    if form is not None:
        check_choice(form, ("loop", "vmap"), LandscapeError, "form")
    # What the module is called with must be a copy: functional_call and recalibrate_bn change it.
    own = copy.deepcopy(module).to(where).eval().requires_grad_(False)
    if bn_loader is not None:
        _check_batch_norm(own, bn_loader)
    vmapped = bn_loader is None and (form or ("vmap" if where.type == "cuda" else "loop")) == "vmap"
    images, targets = x.detach().split(batch_size), y.detach().split(batch_size)
    in_use = threading.Lock()  # a module that is being called has one set of weights

    def one(weights: Mapping[str, Tensor], part: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        with calling(LandscapeError, "the module", "give images and weights that it is made for"):
            logits = torch.func.functional_call(own, dict(weights), (part,))
        return dict(metrics(logits, wanted))

    def means(weights: Mapping[str, Tensor], call: Callable[..., dict[str, Tensor]]) -> _Means:
        totals: _Means = {}
        for part, wanted in zip(images, targets, strict=True):
            for name, value in call(weights, part.to(where), wanted.to(where)).items():
                share = value.double() * (len(part) / len(x))
                totals[name] = totals[name] + share if name in totals else share
        return totals

    def evaluate(stacked: Mapping[str, Tensor]) -> _Means:
        check_weights(stacked, LandscapeError, "the stacked weights")
        chosen = _fitting(own, stacked)
        with torch.no_grad(), in_use:
            if vmapped:
                every = {name: stack.to(where) for name, stack in chosen.items()}
                return means(every, torch.vmap(one, (0, None, None)))
            rows = []
            for i in range(len(next(iter(chosen.values())))):
                weights = {name: stack[i].to(where) for name, stack in chosen.items()}
                if bn_loader is not None:
                    _recompute_batch_norm(own, weights, bn_loader)
                    weights = {}  # they are in the module now
                rows.append(means(weights, one))
            return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    return evaluate


def split_metrics(**evaluations: Evaluation) -> Evaluation:
    """Make one evaluation of several, of the training and the test data, say.

    Parameters
    ----------
    **evaluations : Evaluation
        By the prefix that their measures get: ``split_metrics(train=..., test=...)``.

    Returns
    -------
    Evaluation
        "loss" is the first one's, which is what a path, a plane or a ray goes by. Every measure
        of every evaluation is there under its prefix: "train_loss", "train_accuracy", ...

    Raises
    ------
    LandscapeError
        If no evaluation is given; on evaluation, if one of them returns no "loss".

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
    if not evaluations:
        raise LandscapeError("an evaluation is needed; pass train=..., test=..., say.")

    def evaluate(stacked: Mapping[str, Tensor]) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        for prefix, part in evaluations.items():
            check_callable(part, f"the evaluation {prefix!r}")
            measures = part(stacked)
            if not isinstance(measures, Mapping) or "loss" not in measures:
                raise LandscapeError(
                    f"the evaluation {prefix!r} must return a mapping with 'loss' in it; wrap a "
                    "function of one model in `one_by_one`."
                )
            found.setdefault("loss", measures["loss"])
            found |= {f"{prefix}_{name}": values for name, values in measures.items()}
        return found

    return evaluate


def _check_lengths(x: Tensor, y: Tensor) -> None:
    check_tensor(x, LandscapeError, "x")
    check_tensor(y, LandscapeError, "y")
    if 0 in (x.ndim, y.ndim) or len(x) == 0 or len(x) != len(y):
        got = " and ".join(str(len(part) if part.ndim else "a scalar") for part in (x, y))
        raise LandscapeError(
            f"a target for each image is needed, got {got}; give as many targets as images."
        )


def _check_batch_norm(own: nn.Module, loader: Iterable[Any]) -> None:
    if iter(loader) is loader:
        raise LandscapeError(
            "bn_loader is gone through once a point, and an iterator is empty after the first; "
            "pass a list of batches or a DataLoader."
        )
    if not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in own.modules()):
        raise LandscapeError(
            f"{type(own).__name__} has no batch norm to recompute; leave bn_loader out."
        )


def _recompute_batch_norm(
    own: nn.Module, weights: Mapping[str, Tensor], loader: Iterable[Any]
) -> None:
    """Load weights, and replace the running statistics by those of the data."""
    tensors = _tensors(own)
    for name, value in weights.items():
        tensors[name].copy_(value)
    recalibrate_bn(own, loader)


def _tensors(own: nn.Module) -> dict[str, Tensor]:
    """Return what a state dict holds, under every name that a tied tensor has."""
    kept = own.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in kept.items() if isinstance(tensor, Tensor)}


def _fitting(own: nn.Module, stacked: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Choose the tensors that the module needs, one of those that are tied, or say what is wrong.

    functional_call would take the module's own tensor for one that is missing, and broadcast.
    """
    tensors = _tensors(own)
    for name, stack in stacked.items():
        if name not in tensors:
            raise LandscapeError(
                f"the module has no tensor {name!r}; it has {', '.join(list(tensors)[:4])}, ..."
            )
        if stack.shape[1:] != tensors[name].shape:
            raise LandscapeError(
                f"tensor {name!r} must have the shape {tuple(tensors[name].shape)} in this "
                f"module, got {tuple(stack.shape[1:])}."
            )
    given = {id(tensors[name]): name for name in reversed(list(stacked))}
    for name, tensor in tensors.items():
        if id(tensor) not in given:
            raise LandscapeError(
                f"the weights lack the module's tensor {name!r}; take them from state_dict()."
            )
    return {name: stacked[name] for name in given.values()}
