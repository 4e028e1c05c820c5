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
from nbval_plugin import Close
from notebook_kit import NOTEBOOKS, ROOT, nbval

DRAW = """
from IPython.display import Image, display
display(Image({png!r}, format="png"))
"""


def store(path: Path, *cells: tuple[str, str | bytes | None]) -> Path:
    """Write a notebook with the stored outputs given: text, a picture, or None for never run."""
    notebook = new_notebook()
    for count, (source, shown) in enumerate(cells, start=1):
        cell = new_code_cell(source, execution_count=None if shown is None else count)
        if source.startswith("# loose"):
            cell.metadata.tolerance = 0.2
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
        "loose": ("# loose\nprint('alpha', 2.3456)", "alpha 2.4456\n"),
        "too_loose": ("# loose\nprint('alpha', 2.3456)", "alpha 2.6456\n"),
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


@pytest.mark.parametrize("name", ["same", "close", "loose", "padding", "picture", "version"])
def test_gate_passes(verdicts: dict[str, str], name: str) -> None:
    assert verdicts[name] == ""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("wrong_number", "Cell outputs differ"),
        ("wrong_integer", "Cell outputs differ"),
        ("too_loose", "Cell outputs differ"),
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
    ("one", "other", "tolerance", "equal"),
    [
        ("alpha = 2.3456.", "alpha = 2.3460.", 0, True),
        ("1.000e-05 of", "1.0004e-05 of", 0, True),
        ("[0.1, 2.0]", "[0.2, 2.0]", 0, True),  # a tie that is rounded the other way
        ("[0.1, 2.0]", "[0.3, 2.0]", 0, False),
        ("[0.10, 2.00]", "[0.10, 2.02]", 0, False),
        ("1200. 1.0", "1201. 1.0", 0, False),  # numpy's way to print a whole number
        ("3 of 64", "4 of 64", 0.2, False),
        ("2", "2.0", 0, False),
        ("resnet20-2.5", "resnet32-2.5", 0, False),
        ("version 2.13.0", "version 2.13.1", 0, False),
        ("nan", "0.5", 0.2, False),
        ("1.0 x", "1.0 y", 0, False),
        ("1.0", "1.0 1.0", 0, False),
        ("tau 0.02", "tau -0.06", 0.2, True),
        ("tau 0.76", "tau 0.99", 0.2, False),
        ("tau 0.76", "R2 0.76", 0.2, False),
    ],
)
def test_close(one: str, other: str, tolerance: float, equal: bool) -> None:
    text = Close(one)
    text.tolerance = tolerance
    assert (text == other) is equal
    assert (text != other) is not equal


@pytest.mark.slow
def test_gate_over_the_spectra_notices_a_changed_constant(tmp_path: Path) -> None:
    """That 01 passes with the wskit that it was built with is what the gate itself shows."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "wskit", tmp_path / "wskit", ignore=ignore)
    shutil.copytree(ROOT / "data_manifests", tmp_path / "data_manifests")
    old = "float(1 + exponent)"
    files = [f for f in (tmp_path / "wskit" / "fits").glob("*.py") if old in f.read_text("utf-8")]
    assert len(files) == 1, f"the fits have changed: choose a new mutation for {old!r}"
    text = files[0].read_text(encoding="utf-8").replace(old, "float(1.1 + exponent)")
    files[0].write_text(text, encoding="utf-8")
    done = nbval([NOTEBOOKS / "01_esd.ipynb"], "-x", python_path=tmp_path)
    assert done.returncode == 1, done.stdout
    assert "Notebook cell execution failed" in done.stdout
    assert "ModuleNotFoundError" not in done.stdout
