"""Bad input of every kind, and one line on what comes of it."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from wskit.errors import WskitError

Faults = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Entry:
    """A public function: what it is fed with, and how it is called."""

    faults: Faults
    call: Callable[..., object]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_value(x: Tensor, value: float) -> Tensor:
    x.view(-1)[1] = value
    return x


def matrices(rows: int, columns: int) -> dict[str, Callable[[], object]]:
    """Matrices that are none, or odd ones."""
    return {
        "empty": lambda: torch.empty(0, columns),
        "NaN": lambda: with_value(draw(rows, columns), float("nan")),
        "inf": lambda: with_value(draw(rows, columns), float("inf")),
        "wrong shape": lambda: torch.ones(()),
        "wrong dtype": lambda: torch.ones(rows, columns, dtype=torch.int64),
        "complex": lambda: torch.ones(rows, columns, dtype=torch.complex64),
        "no tensor": lambda: np.ones((rows, columns), dtype=np.float32),
        "one element": lambda: torch.tensor([[2.0]]),
        "constant": lambda: torch.full((rows, columns), 2.0),
        "huge": lambda: draw(rows, columns).clamp(-3, 3) * 1e38,
    }


def net(seed: int = 0) -> dict[str, Tensor]:
    """Weights of a small perceptron, from 4 to 3."""
    return {
        "0.weight": draw(6, 4, seed=seed),
        "0.bias": draw(6, seed=seed + 1),
        "2.weight": draw(3, 6, seed=seed + 2),
        "2.bias": draw(3, seed=seed + 3),
    }


def module() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def within(weights: Callable[[], Mapping[str, Tensor]], name: str) -> Faults:
    """In place of weights of any architecture: the tensor of this name is a bad one."""
    shape = weights()[name].shape

    def bad(make: Callable[[], Any]) -> Mapping[str, Tensor]:
        value = make()
        whole = math.prod(value.shape) == shape.numel()
        return {**weights(), name: value.reshape(shape) if whole else value}

    made = matrices(shape[0], shape[1:].numel())
    return {
        **{fault: (lambda make=make: bad(make)) for fault, make in made.items()},
        "no tensors": dict,
        "no mapping": lambda: list(weights().values()),
    }


MATRIX: Faults = matrices(8, 4)
"""In place of a matrix."""

WEIGHTS: Faults = within(net, "2.weight")
"""In place of weights: the tensor '2.weight' is a bad one."""

OTHER_WEIGHTS: Faults = {
    **WEIGHTS,
    "other names": lambda: {f"x.{name}": value for name, value in net().items()},
    "other shapes": lambda: net() | {"2.weight": draw(5, 6)},
}
"""In place of weights that are compared with those of `net`."""

MODELS: Faults = {
    **{name: (lambda make=make: [net(7), make()]) for name, make in OTHER_WEIGHTS.items()},
    "no models": list,
    "one model": lambda: [net()],
    "equal models": lambda: [net(), net()],
}
"""In place of a list of models."""

STACKS: Faults = {
    **{
        name: (lambda make=make: {"0.weight": draw(2, 6, 4), "2.weight": make()})
        for name, make in {
            "empty": lambda: torch.empty(2, 0, 6),
            "NaN": lambda: with_value(draw(2, 3, 6), float("nan")),
            "inf": lambda: with_value(draw(2, 3, 6), float("inf")),
            "wrong shape": lambda: torch.ones(()),
            "wrong dtype": lambda: torch.ones(2, 3, 6, dtype=torch.int64),
            "complex": lambda: torch.ones(2, 3, 6, dtype=torch.complex64),
            "no tensor": lambda: np.ones((2, 3, 6), dtype=np.float32),
            "one element": lambda: torch.full((2, 1, 1), 2.0),
            "constant": lambda: torch.full((2, 3, 6), 2.0),
            "huge": lambda: draw(2, 3, 6).clamp(-3, 3) * 1e38,
            "other number of models": lambda: draw(5, 3, 6),
        }.items()
    },
    "no tensors": dict,
}
"""In place of stacked weights."""

VALUES: Faults = {
    "empty": lambda: np.empty(0),
    "NaN": lambda: np.array([1.0, np.nan, *range(1, 59)]),
    "inf": lambda: np.array([1.0, np.inf, *range(1, 59)]),
    "wrong shape": lambda: np.ones((4, 15)),
    "wrong dtype": lambda: np.array(["a", "b"]),
    "complex": lambda: np.ones(60, dtype=complex),
    "negative": lambda: np.linspace(-2.0, 3.0, 60),
    "one element": lambda: np.array([2.0]),
    "constant": lambda: np.full(60, 2.0),
    "huge": lambda: np.geomspace(1e250, 1e300, 60),
}
"""In place of eigenvalues."""


def numbers(n: int) -> dict[str, Callable[[], object]]:
    """In place of one number a model."""
    return {
        "empty": lambda: np.empty(0),
        "NaN": lambda: np.r_[np.nan, np.linspace(0.1, 0.9, n - 1)],
        "inf": lambda: np.r_[np.inf, np.linspace(0.1, 0.9, n - 1)],
        "wrong shape": lambda: np.ones((n, 2)),
        "wrong length": lambda: np.linspace(0.1, 0.9, n + 3),
        "wrong dtype": lambda: np.array(["a"] * n),
        "one element": lambda: np.array([0.5]),
        "constant": lambda: np.full(n, 0.5),
        "huge": lambda: np.linspace(-1.0, 1.0, n) * 1e300,
    }


NUMBERS: Faults = numbers(20)


def _frame(n: int = 20) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({"a": rng.uniform(size=n), "b": rng.uniform(size=n)})


TABLES: Faults = {
    "empty": lambda: _frame(0),
    "no columns": lambda: _frame()[[]],
    "NaN": lambda: _frame().assign(b=np.nan),
    "inf": lambda: _frame().assign(b=np.inf),
    "wrong length": lambda: _frame(23),
    "wrong dtype": lambda: _frame().assign(b="text"),
    "wrong shape": lambda: np.ones(20),
    "one element": lambda: _frame(1),
    "constant": lambda: _frame().assign(a=1.0, b=1.0),
    "huge": lambda: _frame() * 1e300,
}
"""In place of features of 20 models."""

LOGITS: Faults = {
    "empty": lambda: torch.empty(0, 3),
    "NaN": lambda: with_value(draw(5, 3), float("nan")),
    "inf": lambda: with_value(draw(5, 3), float("inf")),
    "wrong shape": lambda: draw(5),
    "wrong length": lambda: draw(6, 3),
    "wrong dtype": lambda: torch.ones(5, 3, dtype=torch.int64),
    "no tensor": lambda: np.ones((5, 3)),
    "one element": lambda: torch.ones(1, 1),
    "constant": lambda: torch.ones(5, 3),
    "huge": lambda: draw(5, 3) * 1e38,
}
"""In place of logits of 5 images."""

IMAGES: Faults = {
    "empty": lambda: torch.empty(0, 4),
    "NaN": lambda: with_value(draw(5, 4), float("nan")),
    "inf": lambda: with_value(draw(5, 4), float("inf")),
    "wrong shape": lambda: draw(5, 7),
    "wrong length": lambda: draw(6, 4),
    "wrong dtype": lambda: torch.ones(5, 4, dtype=torch.int64),
    "no tensor": lambda: np.ones((5, 4), dtype=np.float32),
    "one element": lambda: torch.ones(1, 1),
    "constant": lambda: torch.ones(5, 4),
    "huge": lambda: draw(5, 4) * 1e38,
}
"""In place of 5 images of 4 numbers."""


def scalars(**values: object) -> dict[str, Callable[[], object]]:
    """In place of one argument."""
    return {name.replace("_", " "): (lambda value=value: value) for name, value in values.items()}


NUMBER: Faults = scalars(NaN=float("nan"), inf=float("inf"), wrong_dtype="x", huge=1e300)

# Decimals, but not the digits of names: '2.weight', 'layer3.0.conv1'.
_NUMBER = re.compile(r"(?<![\w.])-?\d+(\.\d+(e[+-]?\d+)?|e[+-]?\d+)(?!\w|\.\w)")


@contextmanager
def no_warnings() -> Iterator[None]:
    """numpy and torch may warn of what the answer says too."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def outcome(entry: Entry, fault: str, folder: str) -> str:
    """Call a function with bad input, and return what happened in one line."""
    given = entry.faults[fault]()
    try:
        with no_warnings():
            found = entry.call(given)
            if isinstance(found, Iterator):
                found = list(found)
            return f"= {digest(found)}"
    except WskitError as error:
        message = str(error).replace(folder, "FOLDER")
        return f"{type(error).__name__}: {_NUMBER.sub('#', message)}"


def digest(found: object) -> str:
    """Say what a result is: its numbers, or how many of them are finite."""
    if isinstance(found, Tensor):
        found = found.detach()
        found = (
            found.resolve_conj().numpy() if found.dtype != torch.bfloat16 else found.float().numpy()
        )
    if isinstance(found, pd.DataFrame):
        text = f"{len(found)} rows of {len(found.columns)} columns"
        values = found.select_dtypes("number").to_numpy(dtype=float, na_value=np.nan)
        text += f", {_counts(values)}"
        if "reason" in found:
            reasons = found.reason.dropna().astype(str).unique()
            text += f", reasons: {'; '.join(reasons) or 'none'}"
        return _NUMBER.sub("#", text)
    if isinstance(found, pd.Series):
        return digest(found.to_numpy())
    if isinstance(found, np.ndarray | np.generic) and np.ndim(found):
        array = np.asarray(found)
        return f"{array.shape}, {_counts(array)}"
    if isinstance(found, Mapping):
        return "{" + ", ".join(f"{name}: {digest(value)}" for name, value in found.items()) + "}"
    if is_dataclass(found) and not isinstance(found, type):
        parts = (
            (field.name, getattr(found, field.name))
            for field in fields(found)
            if field.name != "provenance"
        )
        return f"{type(found).__name__}(" + ", ".join(f"{n}: {digest(v)}" for n, v in parts) + ")"
    if isinstance(found, list | tuple):
        return "[" + ", ".join(digest(part) for part in found) + "]"
    if isinstance(found, bool | int | str | np.integer | np.bool_) or found is None:
        return _NUMBER.sub("#", repr(found if not isinstance(found, np.generic) else found.item()))
    if isinstance(found, float | np.floating | np.ndarray):
        return f"{float(found):.2g}" if not abs(float(found)) <= 1e-9 else "0"
    return type(found).__name__


def _counts(array: np.ndarray) -> str:
    if array.dtype.kind not in "fc":
        return "all finite"
    broken = {"NaN": np.isnan(array).sum(), "inf": np.isinf(array).sum()}
    return ", ".join(f"{n} {kind}" for kind, n in broken.items() if n) or "all finite"
