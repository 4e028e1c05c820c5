"""wskit.course.grading_sources: nbgrader itself makes assignments of them, and grades answers."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from notebook_kit import NOTEBOOKS, leaked, load_build
from traitlets.config import Config

from wskit import course
from wskit.__main__ import main
from wskit.errors import WskitError

pytestmark = pytest.mark.filterwarnings("ignore")  # nbgrader's own, and its database's

TAIL = """\
# %% [markdown]
# # A tail

# %% tags=["setup"]
import numpy as np

from wskit import exercises

# %% [markdown]
# ## Exercises
#
# ### Exercise 1.1 ★★ (10 minutes)
# The exponent by hand.

# %% tags=["exercise"]
# Exercise 1.1
def exponent(eigenvalues, xmin):
    raise NotImplementedError("write me")

# %% tags=["check"]
print(exercises.check_power_law_exponent(exponent))

# %% [markdown]
# <details><summary>Hint 1.1</summary>Logarithms.</details>

# %% tags=["solution"]
# Solution 1.1 (click to open)
def exponent(eigenvalues, xmin):
    kept = eigenvalues[eigenvalues >= xmin]
    return 1 + len(kept) / np.sum(np.log(kept / xmin))


print(exercises.check_power_law_exponent(exponent))

# %% [markdown] tags=["teacher"]
# Ask the class what a single outlier would do.
"""
RIGHT = """\
# Exercise 1.1
def exponent(eigenvalues, xmin):
    logs = np.log(eigenvalues[eigenvalues >= xmin] / xmin)
    return 1 + 1 / logs.mean()
"""
WRONG = RIGHT.replace("1 + 1", "1")
NAMES = [path.stem for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))]


@pytest.fixture(scope="module", autouse=True)
def commands() -> Iterator[None]:
    """nbgrader calls alembic by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        yield


def grader(folder: Path) -> Any:
    """nbgrader's own interface, on a course in a folder."""
    from nbgrader.apps import NbGraderAPI

    settings = Config()
    settings.Exchange.root = str(folder / "exchange")
    settings.CourseDirectory.root = str(folder)
    settings.CourseDirectory.course_id = "weights"
    settings.CourseDirectory.db_url = f"sqlite:///{folder / 'gradebook.db'}"
    return NbGraderAPI(config=settings)


def code(notebook: Any) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def classroom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A course whose one assignment nbgrader has made from the small tutorial."""
    folder = tmp_path_factory.mktemp("course")
    (folder / "01_tail.py").write_text(TAIL, encoding="utf-8")
    build = load_build()
    (folder / "notebooks").mkdir()
    whole = folder / "notebooks" / "01_tail.ipynb"
    whole.write_text(build.as_text(build.read_source(folder / "01_tail.py")), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(course, "notebooks_folder", lambda: folder / "notebooks")
        copies = course.grading_sources(folder / "source")
    assert [path.relative_to(folder) for path in copies.written] == [
        Path("source/01_tail/01_tail.ipynb")
    ]
    made = grader(folder).generate_assignment("01_tail")
    assert made["success"], made["log"]
    return folder


def test_students_get_a_stub_and_a_locked_check(classroom: Path) -> None:
    released = nbformat.read(classroom / "release" / "01_tail" / "01_tail.ipynb", as_version=4)
    assert code(released)[1:] == [
        "# Exercise 1.1\n"
        "def exponent(eigenvalues, xmin):\n"
        "    # YOUR CODE HERE\n"
        "    raise NotImplementedError()",
        "verdict = exercises.check_power_law_exponent(exponent)\n"
        "print(verdict)\n"
        "assert verdict.passed, verdict.message",
    ]
    whole = json.loads((classroom / "notebooks" / "01_tail.ipynb").read_text(encoding="utf-8"))
    (given_away,) = leaked(whole, released).values()
    assert given_away == set()
    assert not any("outlier" in cell.source for cell in released.cells)
    assert [c.metadata.nbgrader.get("points") for c in released.cells if "nbgrader" in c.metadata][
        1
    ] == 2, "as many points as stars"


@pytest.mark.parametrize(("student", "answer", "score"), [("ada", RIGHT, 2), ("bob", WRONG, 0)])
def test_answers_are_graded(classroom: Path, student: str, answer: str, score: int) -> None:
    submitted = classroom / "submitted" / student / "01_tail" / "01_tail.ipynb"
    submitted.parent.mkdir(parents=True)
    shutil.copy(classroom / "release" / "01_tail" / "01_tail.ipynb", submitted)
    notebook = nbformat.read(submitted, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    cells[1].source = answer
    cells[2].source = "print('Passed')"  # a student who changes the check gains nothing
    nbformat.write(notebook, submitted)
    api = grader(classroom)
    graded = api.autograde("01_tail", student)
    assert graded["success"], graded["log"]
    with api.gradebook as book:
        assert book.find_submission("01_tail", student).score == score


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A course of all tutorials, as the command writes it."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(["grading-sources", str(folder / "source")]) == 0
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_nbgrader_makes_an_assignment_of_every_tutorial(name: str, sources: Path) -> None:
    made = grader(sources).generate_assignment(name)
    assert made["success"], made["log"]
    released = nbformat.read(sources / "release" / name / f"{name}.ipynb", as_version=4)
    whole = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))
    found = leaked(whole, released)
    assert found
    for solution, lines in found.items():
        assert not lines, f"given away: {lines} of {solution}"
    checks = [cell for cell in released.cells if "check" in cell.metadata.get("tags", [])]
    assert checks
    for cell in checks:
        assert cell.source.endswith("\nprint(verdict)\nassert verdict.passed, verdict.message")
        assert cell.metadata.nbgrader.locked
        assert cell.metadata.nbgrader.points in {1, 2, 3}


def test_a_check_that_prints_no_verdict_is_refused() -> None:
    cell = {"cell_type": "code", "metadata": {"tags": ["check"]}, "source": ["check(exponent)"]}
    with pytest.raises(WskitError, match=r"expected print\(exercises\.check_\.\.\..*check\(exp"):
        course.for_grading({"cells": [{**cell, "outputs": [], "execution_count": None}]})
