"""What all self-checks have in common: they never raise, and say what they found."""

import inspect

import pytest

from wskit import exercises
from wskit.exercises import Verdict

CHECKS = {
    name: check
    for name, check in inspect.getmembers(exercises, inspect.isfunction)
    if name.startswith("check_")
}
# Those that need no models beside the answer.
ALONE = [name for name, check in CHECKS.items() if len(inspect.signature(check).parameters) == 1]


def stub(*_, **__):
    raise NotImplementedError


def raising(*_, **__):
    raise KeyError("layer")


@pytest.mark.parametrize("name", ALONE)
def test_all_checks_take_anything_and_return_a_verdict(name):
    for answer in (None, "f", 3, stub, raising, lambda *_, **__: None, lambda *_, **__: "f"):
        verdict = CHECKS[name](answer)
        assert isinstance(verdict, Verdict)
        assert not verdict.passed


@pytest.mark.parametrize("name", ALONE)
def test_what_is_no_function_is_named(name):
    assert "NoneType" in CHECKS[name](None).message


@pytest.mark.parametrize(("passed", "text"), [(True, "Passed: right."), (False, "Not yet: right.")])
def test_a_verdict_as_it_is_printed(passed, text):
    assert str(Verdict(passed, "right.")) == text


def test_every_check_is_exported():
    assert set(CHECKS) <= set(exercises.__all__)
