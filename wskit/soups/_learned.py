"""The learned soup: coefficients by gradient descent on held-out data."""

import copy
from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from wskit._checks import calling, check_choice, number
from wskit.errors import SoupError
from wskit.soups._scores import check_labels, load
from wskit.soups._soup import Ingredients, Soup, label_of, layout_of_all, model_of, pool_of

Per = Literal["model", "layer"]

_IMAGES_AT_ONCE = 1024

_LARGEST_RATE = 1e9


def learned_soup(
    ingredients: Ingredients,
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    per: Per = "model",
    steps: int = 100,
    learning_rate: float = 0.05,
    progress: bool = False,
) -> Soup:
    r"""Average ingredients with the coefficients that lower a held-out loss.

    Minimises the mean cross-entropy of the logits
    :math:`\beta f(x; \sum_i \mathrm{softmax}(\alpha)_i \theta_i)` over :math:`\alpha` and
    :math:`\beta` (Wortsman et al. 2022, arXiv:2203.05482, section on learned soups), by Adam from
    equal coefficients and :math:`\beta = 1`. Each step is on all of the held-out images, so that
    nothing is random. `beta` is a temperature: it makes up for the confidence that averaging
    takes away, and is not part of the soup, as it changes no answer.

    All ingredients are in memory, in float32 or better: this is for small models.

    Parameters
    ----------
    ingredients : mapping of str to weights, sequence of weights, or Zoo
    module : nn.Module
        Is copied, and not changed; called in evaluation mode.
    x : Tensor of shape (images, ...)
        Held-out: neither trained on nor tested on.
    y : Tensor of shape (images,)
        Classes, from 0.
    per : {"model", "layer"}, default "model"
        Whether an ingredient has one coefficient, or one for each layer. A layer is what shares
        a name up to the last dot: a weight and its bias.
    steps : int, default 100
    learning_rate : float, default 0.05
        Of Adam, for `alpha` and `beta`.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    Soup
        All ingredients are in it. `history` has the columns `step`, from 0, `loss` in nats before
        that step, and `beta`; the last row is of the result.

    Raises
    ------
    SoupError
        If there is no ingredient, the weights do not fit the module, there is not a class for each
        image, or `per`, `steps` or the loss is not as it should be.
    AveragingError
        If two ingredients differ in names, shapes, dtypes, ties or masks, or one holds NaN or inf.

    Examples
    --------
    One ingredient tells the classes apart, and the other swaps them:

    >>> models = {"right": {"weight": torch.eye(2)}, "wrong": {"weight": torch.eye(2).flip(0)}}
    >>> module = nn.Linear(2, 2, bias=False)
    >>> soup = learned_soup(models, module, torch.eye(2), torch.tensor([0, 1]))
    >>> soup.coefficients.round(1).to_dict()
    {'right': 1.0, 'wrong': 0.0}
    """
    check_choice(per, Per, SoupError, "per")
    rate = number(learning_rate, SoupError, "learning_rate")
    if steps < 1 or not 0 < rate < _LARGEST_RATE:
        raise SoupError(
            f"steps and learning_rate must be positive, got {steps} and {learning_rate}; give 100 "
            "and 0.05, say."
        )
    check_labels(x, y)
    pool = pool_of(ingredients)
    names = list(pool)
    layout = layout_of_all(pool)
    first = pool[names[0]]
    own = copy.deepcopy(module).eval().requires_grad_(False)
    load(own, first, label_of(names[0]))
    stack = torch.empty(len(pool), layout.size, dtype=layout.dtype, device=layout.device(first))
    for row, name in zip(stack, names, strict=True):
        layout.flatten(pool[name], label_of(name), row.device, out=row)
    layers = ["all"]
    if per == "layer":
        layers = list(dict.fromkeys(_layer(name) for name in layout.spans))
    column = {name: layers.index(_layer(name)) if per == "layer" else 0 for name in layout.spans}
    alpha = torch.zeros(len(pool), len(layers), device=stack.device, requires_grad=True)
    beta = torch.ones((), device=stack.device, requires_grad=True)
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in (alpha, beta)]
    rows = []
    with torch.enable_grad():
        for step in tqdm(range(steps + 1), disable=not progress, unit="step"):
            c = alpha.softmax(0).to(stack.dtype)
            mixed = [c[:, column[name]] @ stack[:, span] for name, span in layout.spans.items()]
            flat = torch.cat(mixed)
            # The loss has no gradient by running statistics, which are the vector's end.
            parameters = flat.detach()[: layout.n_parameters].requires_grad_()
            weights = layout.unflatten(flat.detach(), layout.others)
            weights |= layout.unflatten(parameters, {})
            alpha.grad = beta.grad = None
            rows.append((step, _backward(own, weights, beta, x, y), beta.item()))
            if step < steps:
                flat[: layout.n_parameters].backward(parameters.grad)
                for p, moment in zip((alpha, beta), moments, strict=True):
                    _adam(p, moment, learning_rate, step + 1)
    history = pd.DataFrame(rows, columns=["step", "loss", "beta"])
    if not np.isfinite(history.loss).all():
        raise SoupError(
            f"the held-out loss is {history.loss.iloc[-1]} after {steps} steps; lower the "
            f"learning_rate of {learning_rate}, or look for NaN in the images."
        )
    found = pd.DataFrame(
        alpha.detach().softmax(0).cpu().double().numpy(),
        index=pd.Index(names, name="ingredient"),
        columns=pd.Index(layers, name="layer"),
    )
    coefficients = found if per == "layer" else found["all"].rename("coefficient")
    return Soup(model_of(layout, flat.detach()), tuple(names), coefficients, history)


def _backward(
    own: nn.Module, weights: Mapping[str, Tensor], beta: Tensor, x: Tensor, y: Tensor
) -> float:
    """Mean loss over the images, a part at a time; its gradients go to the weights and beta."""
    total = 0.0
    for part, wanted in zip(x.split(_IMAGES_AT_ONCE), y.split(_IMAGES_AT_ONCE), strict=True):
        # The weights are views of one vector, made once: their graph is needed for every part.
        with calling(SoupError, "the module", "give it images and classes that it is made for"):
            logits = beta * torch.func.functional_call(own, dict(weights), (part,))
            loss = functional.cross_entropy(logits, wanted, reduction="sum") / len(x)
        loss.backward(retain_graph=True)
        total += loss.item()
    return total


def _adam(p: Tensor, moments: tuple[Tensor, Tensor], rate: float, step: int) -> None:
    """Update as torch.optim.Adam, whose first use takes seconds to import a compiler."""
    assert p.grad is not None
    mean, square = moments
    mean.lerp_(p.grad, 0.1)
    square.lerp_(p.grad.square(), 0.001)
    scale = (square / (1 - 0.999**step)).sqrt().add_(1e-8)
    p.data.addcdiv_(mean, scale, value=-rate / (1 - 0.9**step))


def _layer(name: str) -> str:
    return name.rpartition(".")[0] or name
