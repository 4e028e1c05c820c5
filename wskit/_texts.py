"""How panels and pages write numbers, sizes and names."""

from typing import Any

import numpy as np
import pandas as pd

DASH = "–"
_NAME_LETTERS = 30  # of a longer name the middle is left out


def cell_text(value: Any) -> str:
    """Return a value as a table shows it: numbers with four digits, a dash where there is none."""
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        return DASH if np.isnan(value) else f"{value:.4g}"
    return DASH if pd.isna(value) else str(value)


def size_text(layer: Any) -> str:
    """Return the size of a layer: of a Spectrum, or a row of a table."""
    times = f"{layer.n_matrices} × " if layer.n_matrices > 1 else ""
    return f"{times}{layer.N} × {layer.M}"


def shorten(name: str) -> str:
    """Return a name that fits a column, or a tick of an axis."""
    half = (_NAME_LETTERS - 1) // 2
    return name if len(name) <= _NAME_LETTERS else f"{name[:half]}…{name[-half:]}"


def printable(text: str) -> str:
    """Return a text with what has no shape of its own written out as its code.

    Control characters, marks that turn the direction of reading and lone surrogates: a name
    cannot pretend to be another, and what it is in can be encoded.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
