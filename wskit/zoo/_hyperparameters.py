"""The table of hyper-parameters: what it may hold, and tables drawn at random."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from wskit.errors import ZooError
from wskit.zoo._networks import ACTIVATIONS, Network, OwnModule

INITS = ("glorot_normal", "he_normal", "orthogonal", "normal", "truncated_normal")
OWN_INIT = "module"  # as the user's module makes its weights
OPTIMIZERS = ("sgd", "adam", "rmsprop")

DEFAULTS: Mapping[str, Any] = {
    "optimizer": "adam",
    "learning_rate": 0.01,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "dropout": 0.0,
    "activation": "relu",
    "init": "glorot_normal",
    "init_std": 0.05,
    "train_fraction": 1.0,
    "epochs": 10.0,
    "batch_size": 64,
    "seed": None,  # the number of the row
}

_CHOICES = {"optimizer": OPTIMIZERS, "activation": tuple(ACTIVATIONS), "init": INITS}
_WHOLE = ("batch_size", "seed")
_NUMBERS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "learning_rate": ("positive", lambda v: v > 0),
    "momentum": ("at least 0 and below 1", lambda v: (v >= 0) & (v < 1)),
    "weight_decay": ("at least 0", lambda v: v >= 0),
    "dropout": ("at least 0 and below 1", lambda v: (v >= 0) & (v < 1)),
    "init_std": ("positive", lambda v: v > 0),
    "train_fraction": ("above 0 and at most 1", lambda v: (v > 0) & (v <= 1)),
    "epochs": ("at least 0", lambda v: v >= 0),
    "batch_size": ("a whole number from 1", lambda v: (v >= 1) & (v % 1 == 0)),
    "seed": ("a whole number from 0", lambda v: (v >= 0) & (v % 1 == 0)),
}


def sample_hyperparameters(n: int, *, rng: np.random.Generator | int) -> pd.DataFrame:
    """Draw hyper-parameters as the Small CNN Zoo did (Unterthiner et al. 2020, arXiv:2002.11448).

    The ranges are approximate: the zoo's own tables record what was drawn, but not from where.
    Log-uniform: learning_rate in [5e-4, 5e-2], weight_decay in [2e-8, 2e-2] (twice the factor of
    Keras, whose penalty has no 1/2), init_std in [1e-3, 0.5]. Uniform: dropout in [0, 0.7]. From
    a list: optimizer (sgd, adam, rmsprop), activation (relu, tanh), init (all five),
    train_fraction (0.1, 0.25, 0.5, 1).

    Parameters
    ----------
    n : int
        Number of models.
    rng : Generator or int

    Returns
    -------
    DataFrame with one row per model
        For `train_zoo`. Add `epochs`, `batch_size` and `seed` as you need them.

    Examples
    --------
    >>> table = sample_hyperparameters(100, rng=0)
    >>> len(table), sorted(table.activation.unique())
    (100, ['relu', 'tanh'])
    """
    rng = np.random.default_rng(rng)

    def log_uniform(low: float, high: float) -> np.ndarray:
        return np.exp(rng.uniform(np.log(low), np.log(high), n))

    return pd.DataFrame(
        {
            "optimizer": rng.choice(OPTIMIZERS, n),
            "learning_rate": log_uniform(5e-4, 5e-2),
            "weight_decay": log_uniform(2e-8, 2e-2),
            "dropout": rng.uniform(0, 0.7, n),
            "activation": rng.choice(("relu", "tanh"), n),
            "init": rng.choice(INITS, n),
            "init_std": log_uniform(1e-3, 0.5),
            "train_fraction": rng.choice((0.1, 0.25, 0.5, 1.0), n),
        }
    )


def complete_table(hyperparameters: pd.DataFrame, network: Network) -> pd.DataFrame:
    """Check a table, and add the defaults of the columns that it lacks."""
    unknown = [str(name) for name in hyperparameters.columns if name not in DEFAULTS]
    if unknown:
        raise ZooError(
            f"{unknown[0]!r} is not a hyper-parameter of a zoo; the columns may be "
            f"{', '.join(DEFAULTS)}."
        )
    if len(hyperparameters) == 0:
        raise ZooError("a zoo needs at least one row of hyper-parameters, got an empty table.")
    own = isinstance(network, OwnModule)
    for name in ("activation", "dropout") if own else ():
        if name in hyperparameters:
            raise ZooError(
                f"{name!r} is part of your own module and cannot be set from the table; drop the "
                "column, or train one zoo for each."
            )
    defaults = {**DEFAULTS, "seed": np.arange(len(hyperparameters))}
    if own:
        defaults["init"] = OWN_INIT
    table = pd.DataFrame(defaults).assign(**hyperparameters.reset_index(drop=True))
    for name, choices in _CHOICES.items():
        if name in hyperparameters:
            _refuse(table, name, ~table[name].isin(choices), f"one of {', '.join(choices)}")
            table[name] = table[name].astype(str)
    for name, (wanted, holds) in _NUMBERS.items():
        values = pd.to_numeric(table[name], errors="coerce").to_numpy(float, na_value=np.nan)
        _refuse(table, name, ~(np.isfinite(values) & holds(values)), wanted)
        table[name] = table[name].astype(np.int64) if name in _WHOLE else values
    own_momentum = (table.optimizer == "adam") & (table.momentum > 0)
    wanted = "0 for adam, which has its own (set optimizer to sgd or rmsprop)"
    _refuse(table, "momentum", own_momentum, wanted)
    return table.drop(columns=["activation", "dropout"]) if own else table


def _refuse(table: pd.DataFrame, name: str, bad: Any, wanted: str) -> None:
    rows = np.flatnonzero(np.asarray(bad))
    if rows.size:
        value = table[name].iloc[rows[0]]
        raise ZooError(
            f"row {rows[0]} of the hyper-parameters: {name} must be {wanted}, got {value!r}."
        )
