"""What a self-check finds, and what all self-checks share."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from typing import Any, Concatenate, ParamSpec

import numpy as np
import torch
from torch import Tensor

P = ParamSpec("P")
Answer = Callable[..., Any]
Weights = Mapping[str, Tensor]
Task = Callable[Concatenate[Answer, P], str | None]  # raises AnswerError, or returns praise
Check = Callable[Concatenate[Any, P], "Verdict"]


@dataclass(frozen=True)
class Verdict:
    """What a self-check found; it prints as one line.

    Attributes
    ----------
    passed : bool
    message : str
        What was right, or what is wrong and where to look.
    """

    passed: bool
    message: str

    def __str__(self) -> str:
        return f"{'Passed' if self.passed else 'Not yet'}: {self.message}"


class AnswerError(Exception):
    """What is wrong with an answer, in words for the reader."""


def self_check(praise: str = "") -> Callable[[Task[P]], Check[P]]:
    """Turn a function that raises `AnswerError` into a check that returns a `Verdict`.

    The check never raises, whatever the answer does. What the function returns replaces `praise`.
    """

    def decorate(check: Task[P]) -> Check[P]:
        @wraps(check)
        def judge(answer: Any, /, *args: P.args, **kwargs: P.kwargs) -> Verdict:
            if not callable(answer):
                return Verdict(False, f"give the check a function, not {type(answer).__name__}.")
            try:
                return Verdict(True, check(answer, *args, **kwargs) or praise)
            except NotImplementedError:
                words = "write the function in the cell above, then run this one again."
            except AnswerError as wrong:
                words = str(wrong)
            except Exception as error:
                words = f"your function raised {type(error).__name__}: {error}"
            return Verdict(False, words)

        judge.__signature__ = signature(check).replace(  # type: ignore[attr-defined]
            return_annotation=Verdict
        )
        return judge

    return decorate


def require(condition: Any, hint: str) -> None:
    """Raise the hint unless the condition holds."""
    if not condition:
        raise AnswerError(hint)


def diagnose(
    found: Any, right: Any, hints: Mapping[Any, str], otherwise: str, *, rtol: float = 1e-5
) -> None:
    """Compare an answer with the right one, and raise the hint of the wrong one that it equals.

    `hints` maps wrong values, numbers or tuples of numbers, to what they tell about the answer.
    """
    if np.allclose(found, right, rtol=rtol):
        return
    same = (hint for wrong, hint in hints.items() if np.allclose(found, wrong, rtol=rtol))
    raise AnswerError(next(same, otherwise))


def as_number(value: Any) -> float:
    """Return the answer as one finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise AnswerError(f"return one number, not {type(value).__name__}.") from None
    require(np.isfinite(number), f"return a finite number, not {number}.")
    return number


def as_truth(value: Any) -> bool:
    """Return the answer as True or False."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    kind = type(value).__name__
    require(isinstance(value, bool | np.bool_), f"return True or False, not {kind}.")
    return bool(value)


def as_array(value: Any, *shape: int) -> np.ndarray:
    """Return the answer as an array of finite numbers of that shape."""
    if isinstance(value, Tensor):
        value = value.detach()
    try:
        found = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise AnswerError(f"return an array of numbers, not {type(value).__name__}.") from None
    asked = f"{shape[0]} numbers" if len(shape) == 1 else f"an array of shape {shape}"
    require(found.shape == shape, f"return {asked}, not an array of shape {found.shape}.")
    require(np.isfinite(found).all(), f"{(~np.isfinite(found)).sum()} numbers are not finite.")
    return found


def check_model(found: Any, like: Weights) -> None:
    """Require a dict of tensors with the names and shapes of `like`."""
    same_names = isinstance(found, Mapping) and set(found) == set(like)
    require(same_names, f"return a dict with the names {sorted(like)}.")
    for name, W in found.items():
        same_shape = isinstance(W, Tensor) and W.shape == like[name].shape
        require(same_shape, f"{name!r} must stay a tensor of shape {tuple(like[name].shape)}.")


def check_counter(found: Weights, like: Weights, owner: str) -> None:
    """Require that the integer "n" of `like` was kept."""
    kept = not found["n"].is_floating_point() and int(found["n"]) == int(like["n"])
    require(kept, f"'n' is a counter: keep the one of {owner}, as a whole number.")


def copy_model(weights: Weights) -> dict[str, Tensor]:
    """Return the weights in memory of their own."""
    return {name: W.detach().clone() for name, W in weights.items()}


@contextmanager
def unchanged(*models: Weights) -> Iterator[None]:
    """Require that the answer, called within, leaves these tensors as they are."""
    before = [copy_model(model) for model in models]
    yield
    pairs = zip(models, before, strict=True)
    same = all(torch.equal(model[name], W) for model, copy in pairs for name, W in copy.items())
    require(same, "the tensors that you were given have changed; make new ones instead.")


def pass_if(condition: Any, words: str, hint: str = "") -> str:
    """Return the words as praise, or raise them with a hint."""
    require(condition, f"{words} {hint}".rstrip())
    return words
