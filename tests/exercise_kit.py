"""One table of answers per exercise: right ones pass, and each wrong one gets its hint."""

from collections.abc import Callable, Sequence

import pytest


def try_answers(
    check: Callable, *, right: Sequence[Callable], wrong: Sequence[tuple[Callable, str]]
) -> Callable:
    """Return a test that gives each answer to the check."""

    @pytest.mark.parametrize(("answer", "hint"), [*((answer, "") for answer in right), *wrong])
    def test(answer, hint):
        verdict = check(answer)
        assert verdict.passed is (hint == ""), verdict
        assert hint in verdict.message

    return test
