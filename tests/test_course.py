"""wskit.course: copies to work in and copies for students."""

import datetime
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_output
from notebook_kit import ROOT, TUTORIAL, leaked, load_build

from wskit import course
from wskit.errors import WskitError

TODAY = datetime.datetime.now(datetime.UTC).date().isoformat()


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


def change(path: Path, edit: Callable[[Any], None]) -> bytes:
    """Edit a notebook's JSON; return what is in the file now."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    edit(notebook["cells"][0])
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path.read_bytes()


def say(text: str) -> Callable[[Any], None]:
    return lambda cell: cell.update(source=text)


# -- for students ----------------------------------------------------------------------------


def test_students_get_no_solution(tutorial: Path, tmp_path: Path) -> None:
    (path,) = course.student_copies(tmp_path / "class").new
    whole, student = (json.loads(p.read_text(encoding="utf-8")) for p in (tutorial, path))
    found = leaked(whole, student)
    assert len(found) == 2
    assert not set().union(*found.values())
    assert all(leaked(whole, whole).values()), "every solution has lines of its own"
    assert "single outlier" not in path.read_text(encoding="utf-8")


def test_students_get_everything_else(tutorial: Path, tmp_path: Path) -> None:
    (path,) = course.student_copies(tmp_path / "class").new
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


def test_for_students_leaves_its_argument(tutorial: Path) -> None:
    whole = nbformat.read(tutorial, as_version=4)
    assert len(course.for_students(whole).cells) == len(whole.cells) - 3
    assert whole == nbformat.read(tutorial, as_version=4)


@pytest.mark.filterwarnings("default::DeprecationWarning:jupyter_client")
def test_a_students_copy_runs(tutorial: Path, tmp_path: Path) -> None:
    (path,) = course.student_copies(tmp_path / "class").new
    student = nbformat.read(path, as_version=4)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    NotebookClient(student, timeout=600, kernel_name="python3").execute(env=environment)
    (check,) = (c for c in student.cells if "check" in c.metadata.get("tags", []))
    assert check.outputs[0].text == "not yet: see eq. 1\n"


# -- copies ----------------------------------------------------------------------------------

each_command = pytest.mark.parametrize("copy", [course.copy_notebooks, course.student_copies])


def test_copies_are_exact(tutorial: Path, tmp_path: Path) -> None:
    copies = course.copy_notebooks(tmp_path / "mine")
    assert copies.new == [tmp_path / "mine" / "01_tail.ipynb"]
    assert copies.new[0].read_bytes() == tutorial.read_bytes()
    assert course.copy_notebooks(tmp_path / "mine") == course.Copies(tmp_path / "mine")
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {
        "01_tail.ipynb",
        course.RECORD,
    }


@each_command
def test_an_unedited_copy_is_brought_up_to_date(tutorial: Path, tmp_path: Path, copy: Any) -> None:
    """It was run, so that its outputs and metadata changed, and no more."""
    (path,) = copy(tmp_path / "mine").new
    change(path, lambda cell: cell["metadata"].update(trusted=True))
    change(tutorial, say("# A newer tail"))
    copies = copy(tmp_path / "mine")
    assert (copies.new, copies.updated, copies.kept, copies.beside) == ([], [path], [], [])
    assert "A newer tail" in path.read_text(encoding="utf-8")
    assert copy(tmp_path / "mine") == course.Copies(tmp_path / "mine")


@each_command
def test_an_edited_copy_is_never_replaced(tutorial: Path, tmp_path: Path, copy: Any) -> None:
    (path,) = copy(tmp_path / "mine").new
    mine = change(path, say("my answers"))
    copies = copy(tmp_path / "mine")
    assert (copies.kept, copies.beside) == ([path], []), "there is no newer tutorial"

    for number, name in enumerate([f"01_tail.new-{TODAY}", f"01_tail.new-{TODAY}-2"]):
        change(tutorial, say(f"newer {number}"))
        copies = copy(tmp_path / "mine")
        assert copies.kept == [path]
        assert copies.beside == [path.with_name(f"{name}.ipynb")]
        assert f"newer {number}" in copies.beside[0].read_text(encoding="utf-8")
        assert path.read_bytes() == mine
        again = copy(tmp_path / "mine")
        assert (again.kept, again.beside) == ([path], []), "it is offered once"


@pytest.mark.parametrize("record", [None, b"", b"[", b"[1]", b'{"01_tail.ipynb": 3}'])
@pytest.mark.parametrize("content", [b"my answers", b'{"cells": [3]}'])
def test_a_file_of_unknown_origin_is_kept(
    tutorial: Path, tmp_path: Path, record: bytes | None, content: bytes
) -> None:
    path = tmp_path / "01_tail.ipynb"
    path.write_bytes(content)
    if record is not None:
        (tmp_path / course.RECORD).write_bytes(record)
    copies = course.copy_notebooks(tmp_path)
    assert path.read_bytes() == content
    assert copies.beside[0].read_bytes() == tutorial.read_bytes()


def test_a_place_that_cannot_be_written(tutorial: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(WskitError, match=r"file: cannot be written \(.*exists\)"):
        course.copy_notebooks(tmp_path / "file")


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
    assert re.fullmatch(r"wskit: expected the tutorials in .*_notebooks or .*\n", without.stderr)
    shutil.copytree(tutorial.parent, site / "wskit" / "_notebooks")
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "out: 1 new, 0 brought up to date\n"
    assert (tmp_path / "out" / "01_tail.ipynb").read_bytes() == tutorial.read_bytes()


# -- claims ----------------------------------------------------------------------------------


def test_claims_are_a_table() -> None:
    table = course.claims(("a", "1.0 ± 0.1", 5, "nowhere"), ("b", "no", "3", "everywhere"))
    assert table._repr_markdown_().splitlines() == [
        "| claim of the paper | what we saw here | seeds | where it did not hold |",
        "|---|---|---|---|",
        "| a | 1.0 ± 0.1 | 5 | nowhere |",
        "| b | no | 3 | everywhere |",
    ]


@pytest.mark.parametrize(
    "row", [("a", "b", 5), ("a", " ", 5, "c"), ("a", "x | y", 5, "c"), ("a", "x", 5, "c\nd")]
)
def test_claims_that_break_the_table(row: Any) -> None:
    with pytest.raises(WskitError, match="expected 4 entries of one line each"):
        course.claims(row)
