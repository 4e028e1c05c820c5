"""The checks at a function's entry that prevent a silently wrong result."""

from typing import Any, get_args

from wskit.errors import WskitError


def check_choice(value: object, choices: Any, error: type[WskitError], what: str) -> None:
    """Raise unless `value` is one of the choices.

    Parameters
    ----------
    value
        What the caller passed.
    choices : Literal or collection of str
        The options, as a `Literal` type or as strings.
    error : type of WskitError
        The exception to raise.
    what : str
        Name of the parameter in the message.
    """
    known = get_args(choices) or tuple(choices)
    if value not in known:
        raise error(f"{what} must be one of {', '.join(map(repr, known))}, got {value!r}.")
