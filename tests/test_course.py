"""wskit.course: copies to work in and copies for students."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_output
from notebook_kit import ROOT, TUTORIAL, leaked, load_build

from wskit import course
from wskit.errors import WskitError


@pytest.fixture
def tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small tutorial in a notebooks folder; each cell's output repeats the cell's source."""
    build = load_build()
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "01_tail.py").write_text(TUTORIAL, encoding="utf-8")
    notebook = build.read_source(folder / "01_tail.py")
    for count, cell in enumerate(c for c in notebook.cells if c.cell_type == "code"):
        cell.execution_count = count + 1
        cell.outputs = [new_output("stream", text=cell.source)]
    (folder / "01_tail.ipynb").write_text(build.as_text(notebook), encoding="utf-8")
    monkeypatch.setattr(course, "notebooks_folder", lambda: folder)
    return folder / "01_tail.ipynb"


def test_students_get_no_solution(tutorial: Path, tmp_path: Path) -> None:
    copies = course.student_copies(tmp_path / "class")
    assert [path.name for path in copies.written] == ["01_tail.ipynb"]
    whole = json.loads(tutorial.read_text(encoding="utf-8"))
    student = json.loads(copies.written[0].read_text(encoding="utf-8"))
    found = leaked(whole, student)
    assert len(found) == 2
    assert not set().union(*found.values())
    assert all(leaked(whole, whole).values()), "every solution has lines of its own"
    assert "single outlier" not in copies.written[0].read_text(encoding="utf-8")


def test_students_get_everything_else(tutorial: Path, tmp_path: Path) -> None:
    (path,) = course.student_copies(tmp_path / "class").written
    student = nbformat.read(path, as_version=4)
    nbformat.validate(student)
    assert [cell.source.split("\n")[0] for cell in student.cells if cell.metadata.get("tags")] == [
        "import matplotlib.pyplot as plt",
        "# Exercise 1.1: the maximum-likelihood exponent of a tail that begins at xmin",
        "def check(alpha):",
    ]
    assert any("Hint 1.1" in cell.source for cell in student.cells)
    code = [cell for cell in student.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


@pytest.mark.filterwarnings("default::DeprecationWarning:jupyter_client")
def test_a_students_copy_runs(tutorial: Path, tmp_path: Path) -> None:
    (path,) = course.student_copies(tmp_path / "class").written
    student = nbformat.read(path, as_version=4)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    NotebookClient(student, timeout=120, kernel_name="python3").execute(env=environment)
    (check,) = (c for c in student.cells if "check" in c.metadata.get("tags", []))
    assert check.outputs[0].text == "not yet: see eq. 1\n"


def test_copies_are_exact_and_can_be_made_twice(tutorial: Path, tmp_path: Path) -> None:
    first = course.copy_notebooks(tmp_path / "mine")
    again = course.copy_notebooks(tmp_path / "mine")
    assert (tmp_path / "mine" / "01_tail.ipynb").read_bytes() == tutorial.read_bytes()
    assert (len(first.written), len(again.written), again.kept) == (1, 0, ())
    assert list((tmp_path / "mine").iterdir()) == list(first.written)


@pytest.mark.parametrize("copy", [course.copy_notebooks, course.student_copies])
def test_a_changed_copy_is_never_replaced(tutorial: Path, tmp_path: Path, copy: Any) -> None:
    shutil.copy(tutorial, tutorial.with_name("02_more.ipynb"))
    mine = tmp_path / "mine" / "01_tail.ipynb"
    mine.parent.mkdir()
    mine.write_text("my answers", encoding="utf-8")
    with pytest.raises(
        WskitError,
        match=r"expected no changed tutorial in .*mine, found 01_tail.ipynb: copy to another "
        r"folder, or move these away first; nothing was written",
    ):
        copy(mine.parent)
    assert list(mine.parent.iterdir()) == [mine]

    copies = copy(mine.parent, changed="keep")
    assert mine.read_text(encoding="utf-8") == "my answers"
    assert copies.kept == (mine,)
    assert copies.written == (mine.with_name("02_more.ipynb"),)


def test_a_place_that_cannot_be_written(tutorial: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(WskitError, match=r"cannot write the tutorials to .*file: .*exists"):
        course.copy_notebooks(tmp_path / "file")


@pytest.mark.parametrize("copy", [course.student_copies, course.grading_sources])
@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", b'{"cells": [3]}', b"[" * 20_000])
@pytest.mark.usefixtures("without_type_checks")
def test_a_damaged_tutorial_is_named(
    tutorial: Path, tmp_path: Path, copy: Any, content: bytes
) -> None:
    tutorial.write_bytes(content)
    with pytest.raises(WskitError, match=f"^{re.escape(str(tutorial))}: .*nbformat 4"):
        copy(tmp_path / "class")
    assert not (tmp_path / "class").exists()


def test_a_tutorial_that_cannot_be_read_is_named(tutorial: Path, tmp_path: Path) -> None:
    tutorial.unlink()
    tutorial.mkdir()
    with pytest.raises(WskitError, match=r"01_tail\.ipynb: the tutorial cannot be read, Is a dir"):
        course.copy_notebooks(tmp_path / "mine")


def test_for_students_leaves_its_argument(tutorial: Path) -> None:
    whole = json.loads(tutorial.read_text(encoding="utf-8"))
    before = json.dumps(whole)
    assert len(course.for_students(whole)["cells"]) == len(whole["cells"]) - 3
    assert json.dumps(whole) == before


def test_the_wheel_brings_its_own_tutorials(tutorial: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(ROOT / "wskit", site / "wskit", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "wskit", "copy-notebooks", "out"]
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    without = run()
    assert without.returncode == 2
    assert re.fullmatch(
        r"wskit: expected the tutorials in .*_notebooks or .*found no NN_name.ipynb in either: "
        r"install wskit again, or run `make notebooks` in a checkout\n",
        without.stderr,
    )
    shutil.copytree(tutorial.parent, site / "wskit" / "_notebooks")
    done = run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "out: 1 new\n", "")
    assert (tmp_path / "out" / "01_tail.ipynb").read_bytes() == tutorial.read_bytes()


def test_claims_are_a_table() -> None:
    table = course.claims(("a", "1.0 ± 0.1", 5, "nowhere"), ("b", "no", "3", "everywhere"))
    assert table._repr_markdown_().splitlines() == [
        "| claim of the paper | what we saw here | seeds | where it did not hold |",
        "|---|---|---|---|",
        "| a | 1.0 ± 0.1 | 5 | nowhere |",
        "| b | no | 3 | everywhere |",
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("a", "b", 5), "row 0 is ('a', 'b', 5); give one entry each for claim of the paper, what"),
        (("a", " ", 5, "c"), "row 0, what we saw here: '' does not fit into a table"),
        (("a", "x | y", 5, "c"), "write one line without '|'"),
        (("a", "x", 5, "c\nd"), "row 0, where it did not hold: "),
    ],
)
def test_claims_that_do_not_fit(row: Any, message: str) -> None:
    with pytest.raises(WskitError, match=re.escape(message)):
        course.claims(row)
