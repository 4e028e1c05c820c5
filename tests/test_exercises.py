"""What all self-checks have in common: whatever an answer does, they say what they found."""

import inspect

import numpy as np
import pandas as pd
import pytest
import torch

from wskit import exercises
from wskit.averaging import Trajectory
from wskit.exercises import Verdict
from wskit.landscape import one_by_one
from wskit.zoo import Zoo

CHECKS = {
    name: check
    for name, check in inspect.getmembers(exercises, inspect.isfunction)
    if name.startswith("check_")
}
NET = {"0.weight": torch.randn(5, 3), "0.bias": torch.randn(5)}
NET |= {"2.weight": torch.randn(2, 5), "2.bias": torch.randn(2)}
ZOO = Zoo(
    {name: W.expand(20, *W.shape).clone() for name, W in NET.items()},
    pd.DataFrame(
        {"run": range(20), "test_accuracy": np.linspace(0.8, 1, 20), "activation": "relu"}
    ),
)
RUN = Trajectory()
RUN.append(0, {"w": torch.ones(1)})
LOSS = one_by_one(lambda w: {"loss": w["w"].sum(), "error": w["w"].sum()})
MODELS = {name: {"w": torch.ones(1)} for name in "abc"}


def accuracy(weights):
    return 0.5


# What the checks take beside the answer.
BESIDE = {
    "check_choose": ([MODELS], [accuracy], [accuracy]),
    "check_design": ([RUN], [LOSS]),
    "check_feature": (ZOO,),
    "check_find_damage": ([NET],),
    "check_later": ([{0: NET, 1: NET}],),
    "check_place": ([MODELS], LOSS),
    "check_read_task": (np.eye(4), ["x", "y", "x", "y"], [0, 0, 1, 1]),
    "check_recalibrate": (np.linspace(0, 1, 30), np.linspace(0.2, 0.9, 30)),
    "check_sort_file": (NET,),
    "check_suspicion": (lambda path: {}, ZOO.records, ZOO),
    "check_tell_trained": ([{0: NET["0.weight"], 30: NET["0.weight"]}],),
}


def judge(name, answer):
    rival = {"rival": [MODELS["a"]]} if name == "check_design" else {}
    return CHECKS[name](answer, *BESIDE.get(name, ()), **rival)


def stub(*_):
    raise NotImplementedError


def raising(*_):
    raise KeyError("layer")


NONSENSE = [None, "a lot", 17, float("nan"), [], {}, np.ones(3), torch.ones(2, 2), object()]


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_takes_anything_and_returns_a_verdict(name):
    verdict = judge(name, None)
    assert str(verdict) == "Not yet: give the check a function, not NoneType."
    assert str(judge(name, stub)).startswith("Not yet: write the function in the cell above")
    answers = [raising, lambda: 1.0, lambda *_, x: 1.0]
    answers += [lambda *_, value=value: value for value in NONSENSE]
    for answer in answers:
        with np.errstate(all="ignore"):
            verdict = judge(name, answer)
        assert isinstance(verdict, Verdict)
        assert not verdict.passed
        if not verdict.message.startswith("your function raised"):
            code = ("numel", "sqrt", "log(", "norm(", "[order]", "shuffled(")
            assert not any(part in verdict.message for part in code), "that tells the answer"


@pytest.mark.parametrize("name", sorted(set(CHECKS) - {"check_safe_row", "check_place"}))
def test_what_an_answer_raises_is_named(name):
    assert judge(name, raising).message == "your function raised KeyError: 'layer'"


def test_a_verdict_prints_as_one_line():
    assert str(Verdict(True, "right.")) == "Passed: right."


def test_a_check_documents_what_it_takes_and_returns():
    assert set(CHECKS) <= set(exercises.__all__)
    for check in CHECKS.values():
        assert inspect.signature(check).return_annotation is Verdict
        assert check.__doc__.startswith("Check exercise ")
