"""The house: the way in goes down, what is heavy waits until it is used, and all of it is small."""

import ast
import graphlib
import importlib
import io
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import wskit

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "wskit"
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
MODULES = sorted({name.split(".")[1] for name in FILES if "." in name})
PUBLIC = [name for name in MODULES if name[0] != "_" and name != "errors"]

# What each module may import of wskit at run time, beside `errors`, and the base below it.
BASE = {"_base", "_parallel", "_texts"}
L2 = {"spectra", "fits", "geometry", "averaging", "zoo"}
MAY_IMPORT = {
    **{m: set() for m in ("errors", "data", "checkpoints", "predictors", "plots", "course", *L2)},
    "features": {"spectra", "fits"},
    "landscape": {"averaging", "zoo"},
    "soups": {"averaging", "zoo"},
    "exercises": {"features", "fits", "landscape", "predictors", "spectra", "zoo"},
    "_sources": {"checkpoints", "data", "zoo"},
    "report": {"plots", "checkpoints", "data", "spectra", "fits", "features", "geometry"}
    | {"_sources"},
    "widgets": {"plots", "checkpoints", "data", "features", "predictors", "landscape", "soups"}
    | {"_sources", *L2},
}
NO_TORCH = {"fits", "predictors", "plots", "errors", "course"}

# The budget: what is over it wants a simpler idea, or a library.
MOST_CODE, MOST_LINES, MOST_NAMES = 14_800, 24_200, 148
MOST_LINES_OF_TESTS, MOST_LINES_OF_A_FILE = 22_200, 500


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports at run time, inside functions as well."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


IMPORTS = {name: imports(path) for name, path in FILES.items()}


def of_module(module: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (file, dotted name in parts) of all that the files of a module import of wskit."""
    for file, names in IMPORTS.items():
        if file.split(".")[1:2] == [module]:
            yield from ((file, name.split(".")) for name in names if name.startswith("wskit."))


@pytest.mark.parametrize("module", [m for m in MODULES if m in MAY_IMPORT or m[0] != "_"])
def test_imports_go_down(module):
    used = {parts[1] for _, parts in of_module(module)} & set(MODULES)
    allowed = MAY_IMPORT[module] | BASE | {"errors", module}
    assert used <= allowed, f"wskit.{module} must not import {used - allowed}"


@pytest.mark.parametrize("module", sorted(BASE & set(MODULES)))
def test_the_base_is_at_the_bottom(module):
    assert {parts[1] for _, parts in of_module(module)} & set(MODULES) <= BASE | {"errors"}


def test_no_module_looks_into_another():
    """What another module may use stands in the other's ``__init__``, or in the base."""
    for module in MODULES:
        for file, parts in of_module(module):
            private = parts[1] != module and any(part[0] == "_" for part in parts[2:])
            assert not private, f"{file} imports {'.'.join(parts)}"


def test_no_import_goes_in_a_circle():
    graph = {}
    for file, names in IMPORTS.items():
        near = {name if name in FILES else name.rpartition(".")[0] for name in names}
        graph[file] = {name for name in near & set(FILES) if name not in (file, "wskit")}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


@pytest.mark.parametrize("module", sorted(NO_TORCH))
def test_no_torch(module):
    files = [names for file, names in IMPORTS.items() if file.split(".")[1:2] == [module]]
    assert not [name for names in files for name in names if name.split(".")[0] == "torch"]


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


def test_the_core_is_light():
    """What analyses and draws loads no library but those that it needs at once."""
    heavy = ["seaborn", "sklearn", "joblib", "powerlaw", "requests", "pooch", "IPython"]
    heavy += ["ipywidgets", "altair", "bqplot", "scipy.optimize", "scipy.stats", "jinja2"]
    code = (
        "import sys\n"
        "from wskit import checkpoints, spectra, fits, plots, features\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_submodule_is_listed():
    assert set(wskit._SUBMODULES) == set(PUBLIC) - {"course"}
    with pytest.raises(AttributeError, match="no attribute 'spectrums'"):
        _ = wskit.spectrums


@pytest.mark.parametrize("module", PUBLIC)
def test_a_module_shows_what_users_use(module):
    found = importlib.import_module(f"wskit.{module}")
    assert {name for name in dir(found) if not name.startswith("__")} == set(found.__all__)
    assert all(hasattr(found, name) for name in found.__all__)


def code_lines(text: str) -> int:
    """Count the lines that hold code: neither blank, nor a comment, nor of a docstring."""
    kept = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    prose: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, kept) and ast.get_docstring(node, clean=False) is not None:
            prose |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    void = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER}
    void |= {tokenize.INDENT, tokenize.DEDENT}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in void:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - prose)


def length(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_lines_of_code_are_counted():
    text = '"""A docstring\n\nof three lines."""\n\n# a comment\nx = (\n    1\n)  # three lines\n'
    assert code_lines(text) == 3


def test_the_package_is_small():
    texts = {name: path.read_text(encoding="utf-8") for name, path in FILES.items()}
    assert sum(map(code_lines, texts.values())) <= MOST_CODE
    assert sum(len(text.splitlines()) for text in texts.values()) <= MOST_LINES
    names = {m: len(importlib.import_module(f"wskit.{m}").__all__) for m in PUBLIC}
    assert sum(n for module, n in names.items() if module != "exercises") <= MOST_NAMES, names


def test_no_file_is_long():
    long = {name: length(path) for name, path in FILES.items()}
    assert not {name: n for name, n in long.items() if n > MOST_LINES_OF_A_FILE}


def test_the_tests_are_fewer_than_the_code():
    folder = ROOT / "tests"
    files = [path for kind in ("py", "tsv", "cfg") for path in folder.rglob(f"*.{kind}")]
    assert sum(map(length, files)) <= MOST_LINES_OF_TESTS
