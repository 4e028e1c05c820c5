"""What the tests of the notebook machinery share: a small tutorial, the build, the gate."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"

TUTORIAL = """\
# %% [markdown]
# # A tail
# How heavy is the tail of a sample?

# %% tags=["setup"]
import matplotlib.pyplot as plt
import numpy as np

from wskit.fits import fit_power_law

# %%
rng = np.random.default_rng(0)
x = (1 - rng.random(500)) ** -0.5
fit = fit_power_law(x)
print(f"alpha {fit.alpha:.4f}, KS {fit.ks:.4f}, {fit.n_tail} values in the tail")

# %%
fig, ax = plt.subplots(figsize=(4, 3))
ax.hist(np.log(x), bins=20)
print(f"20 bins from {np.log(x).min():.2f} to {np.log(x).max():.2f}")

# %%
import ipywidgets

ipywidgets.IntSlider(value=3, description="bins")

# %% [markdown]
# ### Exercise 1.1: the exponent by hand

# %% tags=["exercise"]
# Exercise 1.1: the maximum-likelihood exponent of a tail that begins at xmin
def my_alpha(x, xmin):
    return None

# %% tags=["check"]
def check(alpha):
    print("right" if alpha is not None and abs(alpha - 3) < 0.5 else "not yet: see eq. 1")

check(my_alpha(x, 1.0))

# %% [markdown]
# <details><summary>Hint 1.1</summary>Logarithms.</details>

# %% tags=["solution"]
# Solution 1.1 (click to open)
def my_alpha(x, xmin):
    return 1 + len(x) / np.log(x / xmin).sum()

check(my_alpha(x, 1.0))

# %% [markdown] tags=["solution"]
# <details><summary>Solution 1.1</summary>
#
# It is the reciprocal of the mean logarithm, and one more.
#
# </details>

# %% [markdown] tags=["teacher"]
# Ask the class what a single outlier would do.
"""


def load_build() -> ModuleType:
    """Import notebooks/build.py, which is a script and in no package."""
    spec = importlib.util.spec_from_file_location("notebook_build", NOTEBOOKS / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nbval(
    notebooks: Sequence[Path],
    *options: str,
    python_path: Path = ROOT,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the gate as `make test` does, with the wskit that is found in `python_path`."""
    fixed = [
        *("-p", "tests.nbval_plugin", "-p", "no:cacheprovider", "-o", "addopts="),
        *("--nbval", "--nbval-current-env", "--nbval-cell-timeout=180"),
        f"--nbval-sanitize-with={ROOT / 'tests' / 'nbval_sanitize.cfg'}",
        *("--color=no", "-c", str(ROOT / "pyproject.toml")),
    ]
    settings = {
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "WSKIT_OFFLINE": "1",
        "PYTHONPATH": str(python_path),
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", *fixed, *options, *map(str, notebooks)],
        cwd=ROOT,
        env={**os.environ, **settings, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def leaked(tutorial: Any, student: Any) -> dict[str, set[str]]:
    """Lines that only solutions have, and that are in the student's copy; by solution.

    Both are a notebook's JSON. Every string of the student's copy is looked through: sources,
    outputs, metadata. Spaces, comment marks, escapes and HTML tags make no difference.
    """

    def bare(text: str) -> str:
        return re.sub(r"<[^>\n]*>|[^\S\n]|[#\\]", "", text).lower()

    def lines(cell: Any) -> set[str]:
        return {line for line in bare("".join(cell["source"])).split("\n") if len(line) > 5}

    def strings(node: Any) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        elif isinstance(node, dict | list):
            for child in node.values() if isinstance(node, dict) else node:
                yield from strings(child)

    solutions = [c for c in tutorial["cells"] if "solution" in c["metadata"].get("tags", [])]
    others = {line for c in tutorial["cells"] if c not in solutions for line in lines(c)}
    held = "\n".join(map(bare, strings(student)))
    return {
        "".join(cell["source"]): {line for line in lines(cell) - others if line in held}
        for cell in solutions
    }
