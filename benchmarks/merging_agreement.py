"""Claims: the merge rules are mergekit's to 1e-5, but where mergekit strays from the papers.

    pip install mergekit==0.1.5      # in an environment of its own
    python benchmarks/merging_agreement.py --python /path/to/that/bin/python

Both sides merge the same small random checkpoints, a base and three models, mergekit by its
`merge_state_dicts` in its own Python. "Truth" is the paper's formula in float64 on the same inputs,
which for these rules is ours with float64 models (tests/test_averaging_merging.py has naive
formulae for that).
"""

import argparse
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wskit.averaging import (
    add_task_vectors,
    average,
    merge_dare,
    merge_model_stock,
    merge_ties,
    slerp,
    task_vector,
)

PEER = """
import sys
from importlib import metadata

import torch
from mergekit import sparsify
from mergekit.merge_methods.api import merge_state_dicts

bernoulli = torch.bernoulli
answers = []
for job in torch.load(sys.argv[1] + "/jobs.pt"):
    masks = iter(job.pop("masks"))
    sparsify.torch.bernoulli = (lambda p: next(masks).to(p)) if job.pop("ours") else bernoulli
    try:
        answers.append(merge_state_dicts(**job))
    except Exception as error:
        answers.append(f"{type(error).__name__}: {error}")
torch.save(answers, sys.argv[1] + "/answers.pt")
print("mergekit", metadata.version("mergekit"), "torch", torch.__version__)
"""

SHAPES = {"conv.weight": (32, 16, 3, 3), "fc.weight": (64, 128), "fc.bias": (64,), "scale": ()}
Models = list[dict[str, Tensor]]
Rule = Callable[[Models], Mapping[str, Tensor]]


def random_models(
    dtype: torch.dtype, *, step: float = 0.1, shapes: Mapping[str, tuple[int, ...]] = SHAPES
) -> Models:
    """Make a base and three models whose steps have a part in common."""
    generator = torch.Generator().manual_seed(0)

    def random() -> dict[str, Tensor]:
        return {k: 0.02 * torch.randn(shape, generator=generator) for k, shape in shapes.items()}

    base, common, *own = (random() for _ in range(5))
    moved = [{k: base[k] + step * (common[k] + own[i][k]) for k in shapes} for i in range(3)]
    return [{k: v.to(dtype) for k, v in model.items()} for model in (base, *moved)]


@dataclass
class Case:
    """A rule as both sides call it; the first of the models is the base."""

    what: str
    ours: Rule
    method: str
    parameters: dict[str, Any] = field(default_factory=dict)
    models: Callable[[torch.dtype], Models] = random_models
    masks: Sequence[Tensor] = ()
    n: int = 4
    base: bool = True

    def job(self, dtype: torch.dtype) -> dict[str, Any]:
        """Return what mergekit is to do."""
        return {
            "models": self.models(dtype)[: self.n],
            "method": self.method,
            "parameters": self.parameters,
            "base": 0 if self.base else None,
            "masks": list(self.masks),
            "ours": bool(self.masks),
        }


def dare_masks(seed: int, density: float) -> list[Tensor]:
    """Return the masks of `merge_dare`, in the order in which mergekit asks for its own."""
    zeros = {k: torch.zeros(shape) for k, shape in SHAPES.items()}
    ones = {k: torch.ones(shape) for k, shape in SHAPES.items()}
    masks = [merge_dare([zeros] * i + [ones], zeros, seed=seed, density=density) for i in range(3)]
    return [(mask[k] != 0).float() for k in SHAPES for mask in masks]


def with_counters(dtype: torch.dtype) -> Models:
    models = random_models(dtype)
    return [{**m, "num_batches_tracked": torch.tensor(100 * i)} for i, m in enumerate(models)]


def cancelling(dtype: torch.dtype) -> Models:
    steps = [torch.zeros(4), torch.tensor([1.0, -1, 2, 0]), torch.tensor([-1.0, 1, 1, 0])]
    return [{"w": step.to(dtype)} for step in steps]


def hundred(dtype: torch.dtype) -> Models:
    return random_models(dtype, shapes={"w": (100,)})


def small_steps(dtype: torch.dtype) -> Models:
    return random_models(dtype, step=1e-3, shapes={"fc.bias": (64,)})


def vectors(models: Models) -> Models:
    return [task_vector(model, models[0], lazy=True) for model in models[1:]]


def ties(**options: Any) -> Rule:
    return lambda m: merge_ties(m[1:], m[0], **options)


def stock(m: Models) -> Mapping[str, Tensor]:
    return merge_model_stock(m[1:], m[0])


def dare(combine: str) -> Rule:
    return lambda m: merge_dare(m[1:], m[0], seed=0, density=0.5, combine=combine)


MASKS = dare_masks(0, 0.5)
RESCALED = {"weight": 1.0, "density": 0.5, "rescale": False, "lambda": 2.0}
C = [0.1, 0.2, 0.3, 0.4]
KEPT = {"weight": 1.0, "density": 0.4}

AGREE = [
    Case("`average`", average, "linear", {"weight": 1.0}, base=False),
    Case("`average`, coefficients", lambda m: average(m, C), "linear", {"weight": C}, base=False),
    *(
        Case(f"`slerp`, t = {t}", lambda m, t=t: slerp(m[0], m[1], t), "slerp", {"t": t}, n=2)
        for t in (0.3, 1.5)
    ),
    Case(
        "`add_task_vectors`, scale 0.5",
        lambda m: add_task_vectors(m[0], vectors(m), 0.5),
        "task_arithmetic",
        {"weight": 0.5},
    ),
    Case(
        "`add_task_vectors`, scale -1",
        lambda m: add_task_vectors(m[0], vectors(m), -1.0),
        "task_arithmetic",
        {"weight": -1.0},
    ),
    Case("`merge_ties`, density 0.4", ties(density=0.4), "ties", KEPT),
    Case(
        "`merge_ties`, scale 1.5",
        ties(density=0.4, scale=1.5),
        "ties",
        {**KEPT, "lambda": 1.5},
    ),
    Case(
        "`merge_dare`, with our masks, 1/(1 - p)", dare("sum"), "dare_linear", RESCALED, masks=MASKS
    ),
    Case(
        '`merge_dare`, "ties", the same, normalised',
        dare("ties"),
        "dare_ties",
        {**RESCALED, "normalize": True},
        masks=MASKS,
    ),
    Case("`merge_model_stock`, 3 models", stock, "model_stock"),
    Case("`merge_model_stock`, 2 models", stock, "model_stock", n=3),
]

DIFFER = [
    Case(
        "counters of batch norms differ, `average`",
        average,
        "linear",
        {"weight": 1.0},
        with_counters,
        base=False,
    ),
    Case(
        "`merge_dare` as mergekit rescales by default",
        dare("sum"),
        "dare_linear",
        {"weight": 1.0, "density": 0.5},
        masks=MASKS,
    ),
    Case(
        '`merge_dare`, "ties", not normalised by default',
        dare("ties"),
        "dare_ties",
        RESCALED,
        masks=MASKS,
    ),
    Case(
        "`merge_ties`, steps 1 and -1 cancel",
        ties(density=1.0),
        "ties",
        {"weight": 1.0},
        cancelling,
        n=3,
    ),
    Case(
        "`merge_ties`, 29 of 100 entries",
        ties(density=0.29),
        "ties",
        {"weight": 1.0, "density": 0.29},
        hundred,
    ),
    Case("`merge_model_stock`, steps of length 2e-4", stock, "model_stock", {}, small_steps),
]


def ask(python: str, jobs: list[dict[str, Any]]) -> list[dict[str, Tensor] | str]:
    with tempfile.TemporaryDirectory() as folder:
        torch.save(jobs, Path(folder, "jobs.pt"))
        command = [python, "-c", PEER, folder]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        print(run.stdout)
        return torch.load(Path(folder, "answers.pt"))


def farthest(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Return the largest difference of two entries, over the largest entry of their tensor."""
    names = [k for k, v in a.items() if v.is_floating_point()]
    return max(
        float((a[k].double() - b[k].double()).abs().max() / a[k].double().abs().max())
        for k in names
    )


def step(merged: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> float:
    """Return the distance from the base."""
    return float(sum((merged[k] - base[k]).square().sum() for k in base)) ** 0.5


def error(merged: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> float:
    """Return the root of the mean squared error, over that of rounding the truth once."""
    squares = [
        sum((found[k].double() - truth[k]).square().sum() for k in truth)
        for found in (merged, {k: t.to(merged[k].dtype) for k, t in truth.items()})
    ]
    return float((squares[0] / squares[1]).sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", required=True, help="of an environment with mergekit")
    python = parser.parse_args().python
    single, half = torch.float32, torch.bfloat16
    jobs = [case.job(dtype) for dtype in (single, half) for case in AGREE]
    answers = ask(python, jobs + [case.job(single) for case in DIFFER])

    print(
        "| rule | largest difference | bfloat16: error of ours | of mergekit's |\n"
        + "|---" * 4
        + "|"
    )
    for i, case in enumerate(AGREE):
        theirs, theirs_half = answers[i], answers[len(AGREE) + i]
        apart = farthest(case.ours(case.models(single)[: case.n]), theirs)
        models = case.models(half)[: case.n]
        truth = case.ours([{k: v.double() for k, v in m.items()} for m in models])
        ours_half = case.ours(models)
        shown = f"{error(ours_half, truth):.2f} | {error(theirs_half, truth):.2f}"
        print(f"| {case.what} | {apart:.0e} | {shown} |")

    print("\n| where they differ | largest difference | its step / ours |\n" + "|---" * 3 + "|")
    for case, theirs in zip(DIFFER, answers[2 * len(AGREE) :], strict=True):
        if isinstance(theirs, str):
            print(f"| {case.what} | {theirs} | - |")
            continue
        models = case.models(single)[: case.n]
        ours = case.ours(models)
        apart = f"{farthest(ours, theirs):.0e}"
        print(f"| {case.what} | {apart} | {step(theirs, models[0]) / step(ours, models[0]):.3f} |")


if __name__ == "__main__":
    main()
