"""The way in goes down, never up; and what is heavy is loaded only when it is used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "wskit"
MODULES = sorted(path.stem for path in PACKAGE.iterdir() if path.stem[0] not in "_.")

# What each module may import of wskit at run time. `errors` is open to everyone.
MAY_IMPORT = {
    "errors": set(),
    "data": set(),
    "checkpoints": set(),
    "spectra": set(),
    "fits": set(),
    "geometry": set(),
    "averaging": set(),
    "zoo": set(),
    "features": {"spectra", "fits"},
    "landscape": {"averaging", "zoo"},
    "soups": {"averaging", "zoo"},
    "predictors": set(),
    "plots": set(),
    "exercises": {"features", "fits", "landscape", "predictors", "spectra", "zoo"},
    "course": set(),
    "widgets": {
        *("plots", "checkpoints", "data", "spectra", "fits", "features", "zoo", "predictors"),
        *("geometry", "landscape", "averaging", "soups"),
    },
    "report": {"plots", "checkpoints", "data", "spectra", "fits", "features", "geometry"},
}
NO_TORCH = {"fits", "predictors", "plots", "errors", "course"}


def imports(module: str) -> set[str]:
    """Dotted names that a module or a folder imports at run time, inside functions as well."""
    path = PACKAGE / module
    found = set()
    for file in path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]:
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                node.body = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file} has a relative import"
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    used = {name.split(".")[1] for name in imports(module) if name.startswith("wskit.")}
    allowed = MAY_IMPORT[module] | {
        "errors",
        module,
        "__version__",
        "_texts",
        "_sources",
        "_parallel",
        "_checks",
        "_exchange",
        "_weights",
    }
    assert used <= allowed, f"wskit.{module} must not import {used - allowed}"


def test_no_package_looks_into_another():
    """What another package may use stands in the other's ``__init__``, or in a bottom module."""
    for path in PACKAGE.iterdir():
        if path.is_dir() or path.suffix == ".py":
            names = [name.split(".") for name in imports(path.stem) if name.startswith("wskit.")]
            private = [n for n in names if n[1] != path.stem and any(p[0] == "_" for p in n[2:])]
            assert not private, f"wskit.{path.stem} imports {'.'.join(private[0])}"


@pytest.mark.parametrize("module", sorted(NO_TORCH))
def test_no_torch(module):
    assert not {name for name in imports(module) if name.split(".")[0] == "torch"}


def test_import_is_light():
    """``import wskit`` loads none of the heavy libraries, and ``wskit.fits`` no torch."""
    heavy = ["torch", "matplotlib", "ipywidgets", "sklearn", "pandas", "scipy"]
    code = (
        "import sys, wskit\n"
        f"print([name for name in {heavy} if name in sys.modules])\n"
        "wskit.fits\n"
        "print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split("\n")[:2] == ["[]", "False"]


def test_every_submodule_is_listed():
    import wskit

    assert set(wskit._SUBMODULES) == set(MODULES) - {"errors", "course"}
    with pytest.raises(AttributeError, match="no attribute 'spectrums'"):
        _ = wskit.spectrums
