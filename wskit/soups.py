"""Soups: averages of fine-tuned models, chosen by a held-out score.

All of them follow Wortsman et al. 2022, arXiv:2203.05482, and the same rules:

- Ingredients are models of one architecture that were fine-tuned from one start. They are given
  as a mapping of names to weights, as a sequence, or as a `Zoo`. In the last two an ingredient's
  name is its place, from "0".
- Nothing is chosen on the test set: a held-out set picks and weighs ingredients, and another one
  measures what is reported.
- The running statistics of a batch norm are averaged like all else, and then are not those of the
  averaged weights. Recompute them on training data with `wskit.averaging.recalibrate_bn`, in the
  score as well as in the result.
- Dtypes, integer tensors, ties and errors are as in `wskit.averaging`.
"""

import copy
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from wskit._base.checks import check_choice
from wskit._base.layout import Layout, check_one_architecture
from wskit._base.weights import name_models
from wskit.averaging import average
from wskit.errors import AveragingError, SoupError
from wskit.zoo import Zoo

__all__ = ["Soup", "greedy_soup", "held_out_score", "learned_soup", "uniform_soup"]

_Weights: TypeAlias = Mapping[str, Tensor] | nn.Module
_Ingredients: TypeAlias = Mapping[str, _Weights] | Iterable[_Weights] | Zoo
_Score: TypeAlias = Callable[[Mapping[str, Tensor]], float]

_IMAGES_AT_ONCE = 1024


def __dir__() -> list[str]:
    return __all__


@dataclass(frozen=True, eq=False)
class Soup:
    """An average of models, and how it came about.

    Attributes
    ----------
    weights : mapping of str to Tensor
        The average, in memory of its own. Integer tensors are those of the first ingredient.
    ingredients : tuple of str
        Names of the models in it, in the order in which they were added.
    coefficients : Series or DataFrame
        Coefficient of each ingredient, by name; they sum to 1. A DataFrame has one column per
        layer.
    history : DataFrame
        What was tried, one row per step.
    """

    weights: Mapping[str, Tensor]
    ingredients: tuple[str, ...]
    coefficients: pd.Series | pd.DataFrame
    history: pd.DataFrame

    def __repr__(self) -> str:
        shown = ", ".join(self.ingredients[:6]) + (", ..." if len(self.ingredients) > 6 else "")
        return f"Soup({len(self.ingredients)} ingredients: {shown})"


def uniform_soup(ingredients: _Ingredients) -> Soup:
    """Average all ingredients with equal coefficients.

    Each is read once, and beyond the result one tensor is in memory at a time. For a result larger
    than the memory use ``wskit.averaging.average(models, lazy=True)``.

    Parameters
    ----------
    ingredients : mapping of str to weights, sequence of weights, or Zoo

    Returns
    -------
    Soup
        `history` has the columns `step`, `ingredient`, `accepted` (always True) and
        `n_ingredients`.

    Raises
    ------
    SoupError
        If there is no ingredient, or `ingredients` is one model.
    AveragingError
        If two ingredients differ in names, shapes, dtypes, ties or masks, or one holds NaN or inf.

    Examples
    --------
    >>> soup = uniform_soup({"a": {"w": torch.tensor([1.0])}, "b": {"w": torch.tensor([4.0])}})
    >>> soup.weights["w"], soup.ingredients
    (tensor([2.5000]), ('a', 'b'))
    """
    pool = _name_ingredients(ingredients)
    weights = average({_label(name): model for name, model in pool.items()})
    steps = np.arange(1, len(pool) + 1)
    history = pd.DataFrame(
        {"step": steps, "ingredient": list(pool), "accepted": True, "n_ingredients": steps}
    )
    return Soup(weights, tuple(pool), _equal_coefficients(pool), history)


def greedy_soup(
    ingredients: _Ingredients,
    score: _Score,
    *,
    scores: ArrayLike | None = None,
    progress: bool = False,
    callback: Callable[[Soup], bool | None] | None = None,
) -> Soup:
    """Average those ingredients that, from the best one on, do not lower a held-out score.

    Recipe 1 of Wortsman et al. (2022, arXiv:2203.05482). Ingredients are sorted by their own
    scores, the best first; equal ones keep their order. The best one is the first soup. Each of
    the others is averaged with the soup, all ingredients with equal weights, and stays in it if
    the score of this average is at least the soup's. (The released code asks for a higher score,
    and keeps fewer.) On the data of the score, the soup is never worse than the best ingredient.

    Every ingredient is read once to be scored, unless `scores` are given, and once to be tried.
    Two averages in float32 (in float64 where an ingredient is) are in memory, however many
    ingredients there are, and what `score` needs.

    Parameters
    ----------
    ingredients : mapping of str to weights, sequence of weights, or Zoo
    score : callable
        Maps weights to a finite number on held-out data, higher being better, and does not change
        them: see `held_out_score`. It must not see the test set.
    scores : array of shape (ingredients,), optional
        The ingredients' own scores, in their order, where they are known.
    progress : bool, default False
        Show a progress bar with one tick per ingredient.
    callback : callable, optional
        Called with the soup after each step; it stops the search by returning True.

    Returns
    -------
    Soup
        `history` has one row for each ingredient that was tried: `step` from 1, `ingredient`,
        `own_score`, `held_out_score` of the average with it, `accepted`, and `n_ingredients` of
        the soup after it.

    Raises
    ------
    SoupError
        If there is no ingredient, or there is not one finite score for each.
    AveragingError
        If two ingredients differ in names, shapes, dtypes, ties or masks, or one holds NaN or inf.

    Examples
    --------
    >>> models = {name: {"w": torch.tensor([w])} for name, w in zip("abc", (0.0, 1.5, 3.0))}
    >>> soup = greedy_soup(models, lambda weights: -abs(weights["w"].item() - 1))
    >>> soup.ingredients, soup.weights["w"]
    (('b', 'a'), tensor([0.7500]))
    >>> print(soup.history.to_string(index=False))
     step ingredient  own_score  held_out_score  accepted  n_ingredients
        1          b       -0.5           -0.50      True              1
        2          a       -1.0           -0.25      True              2
        3          c       -2.0           -0.50     False              2
    """
    pool = _name_ingredients(ingredients)
    if scores is None:
        _check_architecture(pool)  # names a model that does not fit before any is scored
        named = tqdm(pool.items(), disable=not progress, desc="scores")
        own = {name: _evaluate(score, model, _label(name)) for name, model in named}
    else:
        own = dict(zip(pool, np.asarray(scores, dtype=float).tolist(), strict=True))
    if not all(map(math.isfinite, own.values())):
        raise SoupError(f"each ingredient needs a finite score, got {list(own.values())}.")
    order = sorted(pool, key=lambda name: -own[name])  # stable
    # The best one decides on integer tensors and ties.
    layout = _check_architecture({name: pool[name] for name in order})
    mean = torch.zeros(layout.size, dtype=layout.dtype, device=layout.device(pool[order[0]]))
    kept: list[str] = []
    reached = -math.inf
    rows: list[tuple[object, ...]] = []

    def make_soup() -> Soup:
        columns = ["step", "ingredient", "own_score", "held_out_score", "accepted", "n_ingredients"]
        history = pd.DataFrame(rows, columns=columns)
        return Soup(_cut_model(layout, mean), tuple(kept), _equal_coefficients(kept), history)

    for step, name in enumerate(tqdm(order, disable=not progress, desc="steps"), start=1):
        trial = torch.empty_like(mean)  # the soup so far may be the caller's by now
        for part, values in layout.parts(pool[name], _label(name), mean.device):
            torch.lerp(mean[part], values, 1 / (len(kept) + 1), out=trial[part])
            del values  # frees it before the next tensor is read
        found = own[name]
        if kept:
            label = f"the soup with {_label(name)}"
            found = _evaluate(score, _cut_model(layout, trial), label)
        accepted = found >= reached
        if accepted:
            mean, reached = trial, found
            kept.append(name)
        del trial
        rows.append((step, name, own[name], found, accepted, len(kept)))
        if callback is not None and callback(make_soup()):
            break
    return make_soup()


def held_out_score(
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    test_x: Tensor | None = None,
    batch_size: int = 1024,
) -> Callable[[Mapping[str, Tensor]], float]:
    """Make a score of weights: the module's accuracy on held-out data, in evaluation mode.

    Parameters
    ----------
    module : nn.Module
        Copied, and not changed.
    x : Tensor of shape (images, ...)
        Held-out: neither trained on nor tested on.
    y : Tensor of shape (images,)
        Classes, from 0.
    test_x : Tensor of shape (test images, ...), optional
        The images that the result will be tested on. None of them may be in `x`.
    batch_size : int, default 1024
        Number of images at a time.

    Returns
    -------
    callable
        Maps weights, with the names of ``module.state_dict()``, to the share of right answers.
        Logits that hold NaN count as a wrong answer.

    Raises
    ------
    SoupError
        If there is not one class for each image, or an image is in `test_x` as well.

    Examples
    --------
    >>> score = held_out_score(nn.Linear(1, 2), torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1]))
    >>> score({"weight": torch.tensor([[1.0], [0.0]]), "bias": torch.zeros(2)})
    1.0
    """
    _check_classes(x, y)
    if test_x is not None:
        tested = set(_hash_rows(test_x))
        shared = sum(digest in tested for digest in _hash_rows(x))
        if shared:
            raise SoupError(
                f"{shared} of the {len(x)} held-out images are test images too, and a score that "
                "chooses a soup must not see these; split the data anew."
            )
    own = copy.deepcopy(module).eval()

    def score(weights: Mapping[str, Tensor]) -> float:
        own.load_state_dict(dict(weights))
        right = 0
        for part, wanted in zip(x.split(batch_size), y.split(batch_size), strict=True):
            with torch.no_grad():
                logits = own(part)
            found = (logits.argmax(-1) == wanted) & ~logits.isnan().any(-1)
            right += int(found.sum())
        return right / len(x)

    return score


def learned_soup(
    ingredients: _Ingredients,
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    per: Literal["model", "layer"] = "model",
    steps: int = 100,
    learning_rate: float = 0.05,
    progress: bool = False,
) -> Soup:
    r"""Average ingredients with the coefficients that lower a held-out loss.

    Minimises the mean cross-entropy of the logits
    :math:`\beta f(x; \sum_i \mathrm{softmax}(\alpha)_i \theta_i)` over :math:`\alpha` and
    :math:`\beta` (Wortsman et al. 2022, arXiv:2203.05482, section on learned soups), by Adam from
    equal coefficients and :math:`\beta = 1`. Each step uses all held-out images, so that nothing
    is random. The temperature `beta` makes up for the confidence that averaging takes away. It is
    not part of the soup, as it changes no answer.

    All ingredients are in memory, in float32 or better: this is for small models.

    Parameters
    ----------
    ingredients : mapping of str to weights, sequence of weights, or Zoo
    module : nn.Module
        Copied, and not changed; called in evaluation mode.
    x : Tensor of shape (images, ...)
        Held-out: neither trained on nor tested on.
    y : Tensor of shape (images,)
        Classes, from 0.
    per : {"model", "layer"}, default "model"
        Whether an ingredient has one coefficient, or one for each layer. A layer is all tensors
        that share a name up to the last dot: a weight and its bias.
    steps : int, default 100
    learning_rate : float, default 0.05
        Learning rate of Adam, for `alpha` and `beta`.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    Soup
        Has all ingredients. `history` has the columns `step`, from 0, `loss` in nats before that
        step, and `beta`; its last row is the result's.

    Raises
    ------
    SoupError
        If there is no ingredient, there is not one class for each image, or the loss is not
        finite.
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
    check_choice(per, ("model", "layer"), SoupError, "per")
    _check_classes(x, y)
    pool = _name_ingredients(ingredients)
    layout = _check_architecture(pool)
    own = copy.deepcopy(module).eval().requires_grad_(False)
    own.load_state_dict(dict(next(iter(pool.values()))))  # raises if they do not fit
    stack = torch.stack([layout.flatten(model, _label(name)) for name, model in pool.items()])
    layer = {name: name.rpartition(".")[0] or name for name in layout.spans}
    if per == "model":
        layer = dict.fromkeys(layer, "coefficient")
    layers = list(dict.fromkeys(layer.values()))
    alpha = torch.zeros(len(pool), len(layers), device=stack.device, requires_grad=True)
    beta = torch.ones((), device=stack.device, requires_grad=True)
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in (alpha, beta)]
    rows = []
    for step in tqdm(range(steps + 1), disable=not progress, unit="step"):
        with torch.enable_grad():
            c = alpha.softmax(0).to(stack.dtype)
            flat = torch.cat(
                [c[:, layers.index(layer[k])] @ stack[:, span] for k, span in layout.spans.items()]
            )
            # The loss has no gradient with respect to running statistics, the vector's end.
            parameters = flat.detach()[: layout.n_parameters].requires_grad_()
            weights = layout.unflatten(flat.detach(), layout.others) | layout.unflatten(parameters)
            alpha.grad = beta.grad = None
            rows.append((step, _backpropagate(own, weights, beta, x, y), beta.item()))
            if step < steps:
                flat[: layout.n_parameters].backward(parameters.grad)
                for p, moment in zip((alpha, beta), moments, strict=True):
                    _update(p, moment, learning_rate, step + 1)
    history = pd.DataFrame(rows, columns=["step", "loss", "beta"])
    if not np.isfinite(history.loss).all():
        raise SoupError(
            f"the held-out loss is {history.loss.iloc[-1]} after {steps} steps; lower the "
            f"learning_rate of {learning_rate}, or look for NaN in the images."
        )
    coefficients = pd.DataFrame(
        alpha.detach().softmax(0).cpu().double().numpy(),
        index=pd.Index(list(pool), name="ingredient"),
        columns=pd.Index(layers, name="layer"),
    )
    return Soup(
        _cut_model(layout, flat.detach()),
        tuple(pool),
        coefficients if per == "layer" else coefficients["coefficient"],
        history,
    )


def _backpropagate(
    own: nn.Module, weights: dict[str, Tensor], beta: Tensor, x: Tensor, y: Tensor
) -> float:
    """Return the mean loss over the images; its gradients go to the weights and `beta`."""
    total = 0.0
    for part, wanted in zip(x.split(_IMAGES_AT_ONCE), y.split(_IMAGES_AT_ONCE), strict=True):
        logits = beta * torch.func.functional_call(own, weights, (part,))
        loss = functional.cross_entropy(logits, wanted, reduction="sum") / len(x)
        # The weights are views of one vector: each part needs the graph that made them.
        loss.backward(retain_graph=True)
        total += loss.item()
    return total


def _update(p: Tensor, moments: tuple[Tensor, Tensor], rate: float, step: int) -> None:
    """Step as torch.optim.Adam, whose own work takes longer than such small models' gradients."""
    assert p.grad is not None
    mean, square = moments
    mean.lerp_(p.grad, 0.1)
    square.lerp_(p.grad.square(), 0.001)
    scale = (square / (1 - 0.999**step)).sqrt().add_(1e-8)
    p.data.addcdiv_(mean, scale, value=-rate / (1 - 0.9**step))


def _name_ingredients(ingredients: _Ingredients) -> dict[str, Mapping[str, Tensor]]:
    """Return the models by name; nothing is read."""
    if isinstance(ingredients, Zoo):
        ingredients = [ingredients.model(row) for row in range(len(ingredients))]
    models = name_models(ingredients, SoupError, "ingredient")
    if isinstance(ingredients, Mapping):
        return models
    return {str(place): model for place, model in enumerate(models.values())}


def _check_architecture(pool: Mapping[str, Mapping[str, Tensor]]) -> Layout:
    """Raise unless all models are like the first one, by their headers; return its layout."""
    return check_one_architecture(
        {_label(name): model for name, model in pool.items()},
        error=AveragingError,
        statistics_last=True,
        keep_others=True,
    )


def _check_classes(x: Tensor, y: Tensor) -> None:
    if len(x) == 0 or y.shape != (len(x),):
        raise SoupError(
            f"x needs one class for each image, got {len(x)} images and classes of shape "
            f"{tuple(y.shape)}."
        )


def _evaluate(score: _Score, weights: Mapping[str, Tensor], label: str) -> float:
    with torch.no_grad():
        found = float(score(weights))
    if not math.isfinite(found):
        raise SoupError(f"the score of {label} must be finite, got {found}.")
    return found


def _hash_rows(x: Tensor) -> list[bytes]:
    rows = x.detach().to("cpu", torch.float32).flatten(1).contiguous().numpy()
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]


def _cut_model(layout: Layout, flat: Tensor) -> dict[str, Tensor]:
    """Cut a model of views out of a vector; its integer tensors are copies."""
    return layout.unflatten(flat, {name: other.clone() for name, other in layout.others.items()})


def _label(name: str) -> str:
    """Return what messages call an ingredient."""
    return f"ingredient {name!r}"


def _equal_coefficients(names: Iterable[str]) -> pd.Series:
    index = pd.Index(list(names), name="ingredient")
    return pd.Series(1 / len(index), index=index, name="coefficient")
