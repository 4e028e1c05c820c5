"""The nbval gate itself: what it must catch, and what it must let pass."""

import base64
import io
import shutil
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_notebook, new_output
from nbval_plugin import Approximate, Close
from notebook_kit import NOTEBOOKS, ROOT, TUTORIAL, load_build, nbval

DRAW = """
from IPython.display import Image, display
display(Image({png!r}, format="png"))
"""


def store(path: Path, *cells: tuple[str, str | bytes | None]) -> Path:
    """Write a notebook with the stored outputs given: text, a picture, or None for never run."""
    notebook = new_notebook()
    for count, (source, shown) in enumerate(cells, start=1):
        cell = new_code_cell(source, execution_count=None if shown is None else count)
        if source.startswith("# approximate"):
            cell.metadata.tags = ["approximate"]
        if isinstance(shown, bytes):
            data = {
                "image/png": shown.decode(),
                "text/plain": "<IPython.core.display.Image object>",
            }
            cell.outputs = [new_output("display_data", data)]
        elif shown:
            cell.outputs = [new_output("stream", name="stdout", text=shown)]
        notebook.cells.append(cell)
    nbformat.write(notebook, path)
    return path


@pytest.fixture(scope="module")
def png() -> bytes:
    buffer = io.BytesIO()
    Figure(figsize=(1, 1)).savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue())


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory, png: bytes) -> dict[str, str]:
    """Run the gate once over a cell a case; '' for each that passed, else why it failed."""
    folder = tmp_path_factory.mktemp("nbval")
    draw = f"import base64\n{DRAW.format(png=base64.b64decode(png))}"
    cases: dict[str, tuple[str, str | bytes | None]] = {
        "same": ("print('alpha', 2.3456)", "alpha 2.3456\n"),
        "close": ("print('alpha', 2.3456)", "alpha 2.3460\n"),
        "approximate": ("# approximate\nprint('alpha', 2.3456)", "alpha 2.4456\n"),
        "too_approximate": ("# approximate\nprint('alpha', 2.3456)", "alpha 2.8456\n"),
        "padding": ("print('a   2.3456')", "a  2.3460\n"),
        "wrong_number": ("print('alpha', 2.3456)", "alpha 2.4456\n"),
        "wrong_integer": ("print(12000, 'tail')", "12001 tail\n"),
        "wrong_sign": ("print(-2.5)", "2.5\n"),
        "wrong_text": ("print('the spectrum is heavy')", "the spectrum is light\n"),
        "missing_line": ("print('one'); print('two')", "one\n"),
        "no_output": ("print('alpha', 2.3456)", ""),
        "never_run": ("print('alpha', 2.3456)", None),
        "raises": ("1 / 0", ""),
        "warns": ("import warnings; warnings.warn('look out')", ""),
        "stderr": ("import sys; print('x', file=sys.stderr)", ""),
        "picture": (draw, png),
        "false_picture": (draw, base64.b64encode(b"not a png at all")),
        "no_picture": (draw, ""),
        "version": ("import numpy; print('numpy', numpy.__version__)", "numpy 1.0.0\n"),
        "dies": ("import os, time; time.sleep(0.5); os._exit(1)", ""),
        "after_it": ("print(1)", "1\n"),
    }
    junit = folder / "report.xml"
    done = nbval([store(folder / "cases.ipynb", *cases.values())], f"--junitxml={junit}")
    assert done.returncode == 1, done.stdout + done.stderr
    report = list(ElementTree.parse(junit).iter("testcase"))
    found = {}
    for name, case in zip(cases, report, strict=True):
        failure = case.find("failure")
        found[name] = "" if failure is None else f"{failure.text} in {case.get('time')} s"
    return found


@pytest.mark.parametrize("name", ["same", "close", "approximate", "padding", "picture", "version"])
def test_gate_passes(verdicts: dict[str, str], name: str) -> None:
    assert verdicts[name] == ""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("wrong_number", "Cell outputs differ"),
        ("wrong_integer", "Cell outputs differ"),
        ("too_approximate", "Cell outputs differ"),
        ("wrong_sign", "Cell outputs differ"),
        ("wrong_text", "Cell outputs differ"),
        ("missing_line", "Cell outputs differ"),
        ("no_output", "Cell outputs differ"),
        ("never_run", "never run"),
        ("raises", "ZeroDivisionError"),
        ("warns", "stderr"),
        ("stderr", "stderr"),
        ("false_picture", "Cell outputs differ"),
        ("no_picture", "Cell outputs differ"),
        ("dies", "the kernel died while it ran this cell"),
        ("after_it", "Kernel dead"),
    ],
)
def test_gate_fails(verdicts: dict[str, str], name: str, reason: str) -> None:
    assert reason in verdicts[name]


def test_a_dead_kernel_is_found_within_seconds(verdicts: dict[str, str]) -> None:
    seconds = float(verdicts["dies"].split()[-2])
    assert seconds < 20, "the cell's time-out is 120 s"


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("alpha = 2.3456.", "alpha = 2.3460.", True),
        ("1.000e-05 of", "1.0004e-05 of", True),
        ("[0.1, 2.0]", "[0.1, 2.001]", True),
        ("[0.1, 2.0]", "[0.1, 2.01]", False),
        ("1200. 1.0", "1201. 1.0", False),  # numpy's way to print a whole number
        ("3 of 64", "4 of 64", False),
        ("2", "2.0", False),
        ("resnet20-2.5", "resnet32-2.5", False),
        ("version 2.13.0", "version 2.13.1", False),
        ("nan", "0.5", False),
        ("1.0 x", "1.0 y", False),
        ("1.0", "1.0 1.0", False),
    ],
)
def test_close(one: str, other: str, equal: bool) -> None:
    assert (Close(one) == Close(other)) is equal
    assert (Close(other) != Close(one)) is not equal


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("tau 0.76", "tau 0.80", True),
        ("tau 0.02", "tau -0.06", True),
        ("tau 0.76", "tau 0.95", False),
        ("loss 20.0", "loss 21.9", True),
        ("loss 20.0", "loss 24.0", False),
        ("5 of 5", "4 of 5", False),
        ("tau 0.76", "R2 0.76", False),
    ],
)
def test_approximate(one: str, other: str, equal: bool) -> None:
    assert (Approximate(one) == Approximate(other)) is equal


MUTATIONS = {
    "the exponent's 1": ("fits/_power_law.py", "float(1 + exponent)", "float(1.1 + exponent)"),
    "strictly below": ("fits/_power_law.py", 'side="left"', 'side="right"'),
}


def mutated(folder: Path, mutation: str) -> Path:
    """Copy wskit into a folder, with one change; return the folder."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "wskit", folder / "wskit", ignore=ignore)
    shutil.copytree(ROOT / "data_manifests", folder / "data_manifests")
    name, old, new = MUTATIONS[mutation]
    text = (folder / "wskit" / name).read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{name} has changed: choose a new mutation for {old!r}"
    (folder / "wskit" / name).write_text(text.replace(old, new), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_gate_notices_a_changed_constant(tmp_path: Path) -> None:
    build = load_build()
    (tmp_path / "01_tail.py").write_text(TUTORIAL, encoding="utf-8")
    build.build(tmp_path / "01_tail.py", tmp_path / "01_tail.ipynb")
    same = nbval([tmp_path / "01_tail.ipynb"])
    assert same.returncode == 0, same.stdout
    done = nbval([tmp_path / "01_tail.ipynb"], python_path=mutated(tmp_path, "strictly below"))
    assert done.returncode == 1, done.stdout
    assert "Cell outputs differ" in done.stdout


@pytest.mark.slow
def test_gate_over_the_spectra_notices_a_changed_constant(tmp_path: Path) -> None:
    """That 01 passes with the wskit that it was built with is what the gate itself shows."""
    python_path = mutated(tmp_path, "the exponent's 1")
    done = nbval([NOTEBOOKS / "01_esd.ipynb"], "-x", python_path=python_path)
    assert done.returncode == 1, done.stdout
    assert "Notebook cell execution failed" in done.stdout
    assert "ModuleNotFoundError" not in done.stdout
