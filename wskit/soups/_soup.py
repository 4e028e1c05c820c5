"""What a soup is, what it is made of, and the uniform one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import Tensor

from wskit._weights import Layout, layout_of
from wskit.averaging import average
from wskit.errors import SoupError
from wskit.zoo import Zoo

Ingredients = Mapping[str, Mapping[str, Tensor]] | Sequence[Mapping[str, Tensor]] | Zoo


@dataclass(frozen=True, eq=False)
class Soup:
    """An average of models, and how it came about.

    Attributes
    ----------
    weights : mapping of str to Tensor
        The average. Integer tensors are those of the first ingredient. Nothing else uses its
        memory.
    ingredients : tuple of str
        Names of the models that are in it, in the order in which they were added.
    coefficients : Series or DataFrame
        What each ingredient's weights are multiplied by, by name; the sum is 1. Where each layer
        has coefficients of its own, a column a layer.
    history : DataFrame
        What was tried, a row a step.
    """

    weights: Mapping[str, Tensor]
    ingredients: tuple[str, ...]
    coefficients: pd.Series | pd.DataFrame
    history: pd.DataFrame

    def __repr__(self) -> str:
        shown = ", ".join(self.ingredients[:6]) + (", ..." if len(self.ingredients) > 6 else "")
        return f"Soup({len(self.ingredients)} ingredients: {shown})"


def uniform_soup(ingredients: Ingredients) -> Soup:
    """Average all ingredients with equal coefficients.

    Each is read once, and beyond the result one tensor is in memory at a time. A result larger
    than the memory is ``wskit.averaging.average(models, lazy=True)``.

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
        If there is no ingredient, or it is one model.
    AveragingError
        If two ingredients differ in names, shapes, dtypes, ties or masks, or one holds NaN or inf.

    Examples
    --------
    >>> import torch
    >>> soup = uniform_soup({"a": {"w": torch.tensor([1.0])}, "b": {"w": torch.tensor([4.0])}})
    >>> soup.weights["w"], soup.ingredients
    (tensor([2.5000]), ('a', 'b'))
    """
    pool = pool_of(ingredients)
    names = list(pool)
    weights = average({label_of(name): model for name, model in pool.items()})
    steps = np.arange(1, len(names) + 1)
    history = pd.DataFrame(
        {"step": steps, "ingredient": names, "accepted": True, "n_ingredients": steps}
    )
    return Soup(dict(weights), tuple(names), equal(names), history)


def pool_of(ingredients: Ingredients) -> dict[str, Mapping[str, Tensor]]:
    """Name the models; nothing is read."""
    pool: dict[str, Mapping[str, Tensor]]
    if isinstance(ingredients, Zoo):
        pool = {str(row): ingredients.model(row) for row in range(len(ingredients))}
    elif isinstance(ingredients, Mapping):
        pool = {str(name): model for name, model in ingredients.items()}
    else:
        pool = {str(place): model for place, model in enumerate(ingredients)}
    if not pool:
        raise SoupError("there are no ingredients; give at least one model.")
    for name, model in pool.items():
        if not isinstance(model, Mapping):
            raise SoupError(
                f"ingredient {name!r} must be a mapping of names to tensors, got "
                f"{type(model).__name__}; give several models, each as its state dict."
            )
    return pool


def layout_of_all(pool: Mapping[str, Mapping[str, Tensor]]) -> Layout:
    """Describe the first model, and check that all others are like it, by their headers."""
    names = list(pool)
    layout = layout_of(pool[names[0]], label_of(names[0]))
    for name in names[1:]:
        layout.check(pool[name], label_of(name))
    return layout


def model_of(layout: Layout, flat: Tensor) -> dict[str, Tensor]:
    """Make a model of views of a vector; its integer tensors are its own."""
    return layout.unflatten(flat, {name: other.clone() for name, other in layout.others.items()})


def label_of(name: str) -> str:
    """Return what messages call an ingredient."""
    return f"ingredient {name!r}"


def equal(names: Sequence[str]) -> pd.Series:
    """Return equal coefficients."""
    return pd.Series(1 / len(names), index=pd.Index(names, name="ingredient"), name="coefficient")
