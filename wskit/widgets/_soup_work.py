"""The work of SoupKitchen: mixing, the greedy recipe, changes of one ingredient, a file."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pandas as pd
from torch import Tensor

from wskit import __version__
from wskit.averaging import average
from wskit.checkpoints import save_weights
from wskit.errors import SoupError
from wskit.soups import greedy_steps

HELD_OUT = "held_out"  # how the names of measures begin that may choose a soup

Models = Mapping[str, Mapping[str, Tensor]]
Score = Callable[[Mapping[str, Tensor]], float]
Report = Callable[[int, int | None], None]


def scores_among(measures: Iterable[str]) -> list[str]:
    """Return the measures that may choose a soup: of held-out data, and more is better."""
    return [
        name
        for name in measures
        if name.startswith(HELD_OUT) and not name.endswith(("loss", "error"))
    ]


def shares_of(chosen: Iterable[str], shares: Mapping[str, float]) -> dict[str, float]:
    """Return the coefficients of what is in the soup; nothing where all shares are 0."""
    total = sum(shares[name] for name in chosen)
    return {name: shares[name] / total for name in chosen} if total > 0 else {}


def mixed(ingredients: Models, coefficients: Mapping[str, float]) -> Mapping[str, Tensor]:
    """Return the average; equal coefficients are left out, which rounds less."""
    models = [ingredients[name] for name in coefficients]
    values = list(coefficients.values())
    return average(models, None if len(set(values)) == 1 else values)


def greedy_history(
    ingredients: Models,
    score: Score,
    singles: "pd.Series[float]",
    *,
    known: pd.DataFrame,
    until: int,
    report: Report,
) -> pd.DataFrame:
    """Go on with a greedy soup until so many ingredients were tried.

    The steps in `known` are made again from their scores: nothing is evaluated twice.
    """
    made = iter(known["held_out_score"].iloc[1:].tolist())  # the first one's score is its own
    steps = greedy_steps(
        ingredients,
        lambda weights: score(weights) if (found := next(made, None)) is None else found,
        singles,
    )
    for done, soup in zip(range(1, until + 1), steps, strict=False):
        known = soup.history
        report(done, until)
    return known


def changes_of_one(
    ingredients: Models,
    chosen: Iterable[str],
    shares: Mapping[str, float],
    score: Score,
    report: Report,
) -> pd.DataFrame:
    """Score the soup with each ingredient added that is not in it, and with each removed that is.

    Returns a row an ingredient: what the `change` is, and the `held_out_score` after it.
    """
    rows = {}
    for done, name in enumerate(ingredients, start=1):
        change = "remove" if name in chosen else "add"
        trial = [each for each in ingredients if (each in chosen) != (each == name)]
        if coefficients := shares_of(trial, shares):
            rows[name] = (change, score(mixed(ingredients, coefficients)))
        report(done, len(ingredients))
    if not rows:
        raise SoupError("There is no change of one ingredient to try; give some a share.")
    return pd.DataFrame.from_dict(rows, orient="index", columns=["change", "held_out_score"])


class Pantry:
    """Files that were written here, which alone may be written anew."""

    def __init__(self) -> None:
        self._written: dict[Path, tuple[int, int]] = {}

    def write(
        self,
        soup: Mapping[str, Tensor],
        path: str,
        coefficients: Mapping[str, float],
        should_stop: Callable[[], bool],
    ) -> Path:
        """Write a soup, with what it is made of in the header."""
        target = Path(path).expanduser().absolute()
        if target.suffix != ".safetensors":
            raise SoupError(f"The file's name must end in .safetensors, got {path!r}.")
        if target.exists() and self._written.get(target) != _stamp(target):
            raise SoupError(
                f"{target} is there already, and was not written here; choose another name."
            )
        made_of = {
            "wskit": __version__,
            "method": "linear",
            "ingredients": list(coefficients),
            "coefficients": list(coefficients.values()),
        }
        metadata = {"soup": json.dumps(made_of)}
        save_weights(soup, target, metadata=metadata, should_stop=should_stop)
        self._written[target] = _stamp(target)
        return target


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size
