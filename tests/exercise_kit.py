"""One table of answers per exercise: right ones pass, and each wrong one gets its hint."""

from collections.abc import Callable, Sequence

import pytest


def try_answers(
    check: Callable,
    *,
    right: Sequence[Callable],
    wrong: Sequence[tuple[Callable, str]],
    beside: str = "",
) -> Callable:
    """Return a test that gives each answer to the check, with what the fixture `beside` holds."""

    @pytest.mark.parametrize(("answer", "hint"), [*((answer, "") for answer in right), *wrong])
    def test(answer, hint, request):
        more = request.getfixturevalue(beside) if beside else ()
        verdict = check(answer, *(more if isinstance(more, tuple) else (more,)))
        assert verdict.passed is (hint == ""), verdict
        assert hint in verdict.message

    return test
