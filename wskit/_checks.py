"""What the library asks of what it is given, in one sentence where it is something else."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, get_args

import numpy as np

from wskit.errors import WskitError


def check_mapping(weights: object, error: type[WskitError], what: str = "the weights") -> None:
    """Raise unless this is a mapping."""
    if not isinstance(weights, Mapping):
        raise error(
            f"{what} must be a mapping of names to tensors, got a {type(weights).__name__}; give "
            "a state_dict()."
        )


def check_weights(weights: object, error: type[WskitError], what: str = "the weights") -> None:
    """Raise unless these are a mapping, and its values tensors; a lazy one is not read."""
    check_mapping(weights, error, what)
    for name, value in weights.items() if isinstance(weights, dict) else ():
        if not isinstance(name, str):
            raise error(f"tensors have texts for names, got {name!r} in {what}; rename it.")
        check_tensor(value, error, f"{name!r} of {what}")


def check_tensor(value: object, error: type[WskitError], what: str) -> None:
    """Raise unless this is a tensor."""
    from torch import Tensor

    if not isinstance(value, Tensor):
        raise error(
            f"{what} must be a tensor, got a {type(value).__name__}; convert it with "
            "torch.as_tensor()."
        )


def check_matrix(W: object, error: type[WskitError], what: str) -> None:
    """Raise unless this is a tensor of two axes with an entry."""
    check_tensor(W, error, what)
    shape = tuple(W.shape)  # type: ignore[attr-defined]
    if len(shape) != 2 or 0 in shape:
        raise error(
            f"{what} must be a matrix with entries, got the shape {shape}; reshape it, or leave "
            "it out."
        )


def check_whole(value: object, error: type[WskitError], what: str, *, least: int = 1) -> None:
    """Raise unless this is a whole number of at least `least`."""
    if not isinstance(value, int | np.integer) or value < least:
        raise error(f"{what} must be a whole number of at least {least}, got {value!r}; change it.")


def check_choice(value: object, choices: object, error: type[WskitError], what: str) -> None:
    """Raise unless this is one of the choices: those of a `Literal`, or a collection of texts."""
    known = get_args(choices) or tuple(choices)  # type: ignore[arg-type]
    if not isinstance(value, str) or value not in known:
        names = ", ".join(map(repr, known))
        raise error(f"{what} must be one of {names}, got {value!r}; choose one of these.")


def numbers(values: Any, error: type[WskitError], what: str) -> np.ndarray:
    """Return an array in float64, or say that these are no real numbers."""
    try:
        if np.iscomplexobj(values):
            raise TypeError("they are complex")
        return np.asarray(values, dtype=np.float64)
    except (ValueError, TypeError) as reason:
        raise error(f"{what} must be real numbers ({reason}); convert them.") from reason


def number(value: object, error: type[WskitError], what: str) -> float:
    """Return a finite number, or say that this is none."""
    try:
        found = float(value)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        found = np.nan
    if not np.isfinite(found):
        raise error(f"{what} must be a finite number, got {value!r}; change it.")
    return found


@contextmanager
def calling(error: type[WskitError], what: str, remedy: str) -> Iterator[None]:
    """Say in one sentence that a caller's own function, module or estimator failed."""
    try:
        yield
    except WskitError:
        raise
    except (ValueError, TypeError, RuntimeError, IndexError, AttributeError) as reason:
        lines = str(reason).strip().splitlines() or [type(reason).__name__]
        raise error(f"{what} failed ({lines[0]}); {remedy}.") from reason
