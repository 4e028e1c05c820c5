"""What a self-check finds, and how it asks an answer without ever raising."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Verdict:
    """What a self-check found; printed, it is one line.

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


def as_number(value: Any) -> float:
    """Return the answer as one finite number, or say what it is instead."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise AnswerError(f"return one number, not {type(value).__name__}.") from None
    if not np.isfinite(number):
        raise AnswerError(f"return a finite number, not {number}.")
    return number


def verdict_on(check: Callable[[Any], str | None], answer: object, praise: str) -> Verdict:
    """Ask an answer; whatever it raises becomes a sentence."""
    if not callable(answer):
        return Verdict(False, f"a function is asked for, not {type(answer).__name__}.")
    try:
        praise = check(answer) or praise
    except NotImplementedError:
        return Verdict(False, "write the function in the cell above, then run this one again.")
    except AnswerError as wrong:
        return Verdict(False, str(wrong))
    except Exception as error:
        return Verdict(False, f"your function raised {type(error).__name__}: {error}")
    return Verdict(True, praise)
