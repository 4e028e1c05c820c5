"""The tutorials as files: where they are, copies to work in, for students, for grading.

Each tutorial is one executed notebook, built from ``notebooks/src`` with `TAGS` on its cells.
A learner works in a copy of it (`copy_notebooks`); a class gets copies without the solutions
(`student_copies`), or, where nbgrader hands out and collects, assignments made of
`grading_sources`. None of these ever replaces a file that somebody has changed.

An exercise is four cells in this order: the stub (a code cell tagged ``exercise`` that begins
``# Exercise 1.2``), its ``check``, a hint and what a right answer prints (markdown,
``<details><summary>Hint 1.2</summary>`` and ``<details><summary>Expected output 1.2</summary>``)
and the ``solution``: code that begins ``# Solution 1.2 (click to open)``, or markdown within
``<details><summary>Solution 1.2</summary>``.

What a tutorial found of its paper's claims is the output of one cell tagged ``claims``, made by
`claims` from numbers that the page has computed.
"""

from __future__ import annotations

import ast
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from wskit._checks import check_choice
from wskit.errors import WskitError

__all__ = [
    "CLAIM_COLUMNS",
    "NOT_FOR_STUDENTS",
    "TAGS",
    "Claims",
    "Copies",
    "claims",
    "copy_notebooks",
    "for_grading",
    "for_students",
    "grading_sources",
    "notebooks_folder",
    "picture_text",
    "student_copies",
    "tutorials",
    "without_descriptions",
]

TAGS: Mapping[str, str] = MappingProxyType(
    {
        "setup": "imports, seeds and the size knob; run it first",
        "exercise": "the stub that a learner fills in",
        "check": "the self-check of the stub above: it says 'not yet', it never raises",
        "solution": "folded in the tutorial, not in the students' copies",
        "teacher": "notes for whoever gives the course, not in the students' copies",
        "hide-input": "folded: only the first line of the code shows",
        "approximate": "its numbers are another sample on another processor: compared loosely",
        "nbval-ignore-output": "run by the tests, but its output may differ",
        "claims": "what the paper claims beside what the page saw; gathered into the first page",
        "slide": "a slide begins here; of code, what it shows",
        "slide-more": "goes on the slide that was begun last",
        "show-input": "its code is on the slide too",
    }
)
"""Every tag that a cell may have, and what it means. The build refuses any other."""

NOT_FOR_STUDENTS = frozenset({"solution", "teacher"})

# What `wskit.plots.describe` returns of an Axes: a line, and indented ones.
_DESCRIPTION = re.compile(r"^Axes(?: '.*'| \".*\")?: x .*, y .*\n?(?:^  .*\n?)*", re.MULTILINE)

CLAIM_COLUMNS = ("claim of the paper", "what we saw here", "seeds", "where it did not hold")


@dataclass(frozen=True)
class Claims:
    """A paper's claims beside what a page saw; a notebook shows it as a table.

    Attributes
    ----------
    rows
        Four texts each, one for each of `CLAIM_COLUMNS`.
    """

    rows: tuple[tuple[str, ...], ...]

    def _repr_markdown_(self) -> str:
        head = f"| {' | '.join(CLAIM_COLUMNS)} |\n|---|---|---|---|"
        return "\n".join([head, *(f"| {' | '.join(row)} |" for row in self.rows)])

    def __repr__(self) -> str:
        return "\n".join("; ".join(row) for row in self.rows)


def claims(*rows: tuple[str | int, ...]) -> Claims:
    """Set a paper's claims beside what was seen.

    Parameters
    ----------
    *rows
        The claim, in the page's own words; what was seen, with its spread; over how many seeds;
        where it did not hold, or what was not tried.

    Returns
    -------
    Claims

    Raises
    ------
    WskitError
        If a row has not four entries, or one of them is empty or would break the table.

    Examples
    --------
    >>> claims(("averages are better", "by 5.4 ± 0.5 points", 10, "with right labels"))
    averages are better; by 5.4 ± 0.5 points; 10; with right labels
    """
    for number, entries in enumerate(rows):
        if not isinstance(entries, tuple | list) or len(entries) != len(CLAIM_COLUMNS):
            raise WskitError(
                f"row {number} is {entries!r:.80}; give one entry each for "
                f"{', '.join(CLAIM_COLUMNS)}"
            )
    texts = tuple(tuple(str(entry).strip() for entry in row) for row in rows)
    for number, row in enumerate(texts):
        for column, text in zip(CLAIM_COLUMNS, row, strict=True):
            if not text or "|" in text or "\n" in text:
                raise WskitError(
                    f"row {number}, {column}: {text!r} does not fit into a table; write one line "
                    "without '|'"
                )
    return Claims(texts)


@dataclass(frozen=True)
class Copies:
    """What `copy_notebooks` or `student_copies` did in a folder.

    Attributes
    ----------
    folder
        Where the copies are.
    written
        Files that are new there.
    kept
        Files that were there and differ from the tutorial, left as they are.
    """

    folder: Path
    written: tuple[Path, ...]
    kept: tuple[Path, ...]


def notebooks_folder() -> Path:
    """Return the folder of the tutorials: inside the installed wheel, or the checkout's own.

    Raises
    ------
    WskitError
        If there is neither.
    """
    package = Path(__file__).parent
    for folder in (package / "_notebooks", package.parent / "notebooks"):
        if any(folder.glob("[0-9][0-9]_*.ipynb")):
            return folder
    raise WskitError(
        f"expected the tutorials in {package / '_notebooks'} or {package.parent / 'notebooks'}, "
        "found no NN_name.ipynb in either: install wskit again, or run `make notebooks` in a "
        "checkout"
    )


def tutorials() -> list[Path]:
    """Return the executed notebooks of `notebooks_folder`, in order."""
    return sorted(notebooks_folder().glob("[0-9][0-9]_*.ipynb"))


def copy_notebooks(
    destination: str | os.PathLike[str], *, changed: Literal["refuse", "keep"] = "refuse"
) -> Copies:
    """Copy the tutorials, as executed, into a folder to work in.

    Parameters
    ----------
    destination
        The folder; it is made if there is none.
    changed
        What to do where a file of the same name differs from the tutorial, as it does once a
        learner has worked in it: refuse to copy anything, or keep that file and copy the rest.

    Raises
    ------
    WskitError
        If a file would have to be replaced, a tutorial cannot be read, or the folder cannot be
        written; every file that is there is a whole one.
    """
    contents = {path.name: _read(path) for path in tutorials()}
    return _write_copies(destination, contents, changed)


def student_copies(
    destination: str | os.PathLike[str], *, changed: Literal["refuse", "keep"] = "refuse"
) -> Copies:
    """Write the tutorials without solutions, teacher's notes and outputs.

    Parameters
    ----------
    destination, changed
        As for `copy_notebooks`.

    Raises
    ------
    WskitError
        As for `copy_notebooks`.
    """
    contents = {path.name: _changed(path, for_students) for path in tutorials()}
    return _write_copies(destination, contents, changed)


def _cells(notebook: object) -> list[dict[str, Any]]:
    """Return a notebook's cells, if they are some."""
    cells = notebook.get("cells") if isinstance(notebook, Mapping) else None
    if not isinstance(cells, list):
        raise WskitError(
            f"expected a notebook's JSON (nbformat 4) with a list of cells, got {notebook!r:.80}; "
            "save it again"
        )
    for number, cell in enumerate(cells):
        if not _is_cell(cell):
            raise WskitError(
                f"cell {number} is {cell!r:.80}, expected its cell_type, its source and metadata "
                "whose tags are a list (nbformat 4); save the notebook again"
            )
    return cells


def _is_cell(cell: object) -> bool:
    if not isinstance(cell, dict) or not isinstance(cell.get("metadata"), dict):
        return False
    source, tags = cell.get("source"), cell["metadata"].get("tags", [])
    lines = [source] if isinstance(source, str) else source
    if not isinstance(lines, list) or not isinstance(tags, list):
        return False
    return all(isinstance(text, str) for text in (cell.get("cell_type"), *lines, *tags))


def for_students(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """Return a notebook (its JSON, nbformat 4) as students get it; the one given stays as it is."""
    cells = [
        cell | ({"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else {})
        for cell in _cells(notebook)
        if NOT_FOR_STUDENTS.isdisjoint(cell["metadata"].get("tags", []))
    ]
    return {**notebook, "cells": cells}


def grading_sources(
    destination: str | os.PathLike[str], *, changed: Literal["refuse", "keep"] = "refuse"
) -> Copies:
    """Write the tutorials as nbgrader's source assignments, one each: ``01_esd/01_esd.ipynb``.

    Parameters
    ----------
    destination
        The folder ``source`` of an nbgrader course.
    changed
        As for `copy_notebooks`.

    Raises
    ------
    WskitError
        As for `copy_notebooks`.
    """
    contents = {f"{path.stem}/{path.name}": _changed(path, for_grading) for path in tutorials()}
    return _write_copies(destination, contents, changed)


def for_grading(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """Return a notebook (its JSON, nbformat 4) as nbgrader's source of an assignment.

    Each stub becomes a cell with the solution between nbgrader's marks, each check a locked cell
    that fails where the answer does; it is worth as many points as the exercise has stars.
    """
    solutions = {
        match[1]: _text(cell)
        for cell in _cells(notebook)
        if cell["cell_type"] == "code"
        and (match := re.match(r"# Solution (\d+\.\d+)", _text(cell)))
    }
    cells, number, stars = [], "", 1
    for cell in for_students(notebook)["cells"]:
        tags = cell["metadata"].get("tags", [])
        if heading := re.search(r"^#+ Exercise \d+\.\d+ (★+)", _text(cell), re.MULTILINE):
            stars = len(heading[1])
        if "exercise" in tags and (begin := re.match(r"# Exercise (\d+\.\d+)", _text(cell))):
            number = begin[1]
            if number not in solutions:
                raise WskitError(
                    f"exercise {number} has no solution: add a code cell that begins "
                    f"'# Solution {number}'"
                )
            marked = _marked(_text(cell), solutions[number])
            cells.append(_graded(cell, f"exercise-{number}", marked, solution=True))
        elif "check" in tags:
            asserting = _asserting(_text(cell))
            cells.append(_graded(cell, f"check-{number}", asserting, points=stars))
        else:
            cells.append(cell)
    return {**notebook, "cells": cells}


def _text(cell: Mapping[str, Any]) -> str:
    return "".join(cell["source"])


def _marked(stub: str, solution: str) -> str:
    """Return a stub with what the solution has beyond it between nbgrader's marks."""
    answer, _ = _apart(solution)  # the check has a cell of its own
    own = answer.rstrip().split("\n")[1:]  # without "# Solution 1.2 (click to open)"
    title, *rest = stub.split("\n")
    same = 0
    while same < min(len(rest), len(own)) and rest[same] == own[same]:
        same += 1
    if same == len(own):
        raise WskitError(f"expected a solution that is more than its stub {title!r:.80}: write it")
    indent = " " * (len(own[same]) - len(own[same].lstrip()))
    begin, end = f"{indent}### BEGIN SOLUTION", f"{indent}### END SOLUTION"
    return "\n".join([title, *own[:same], begin, *own[same:], end])


def _asserting(check: str) -> str:
    """Return a check cell that also fails if the verdict that it prints is not a pass."""
    before, verdict = _apart(check)
    assertion = "print(verdict)\nassert verdict.passed, verdict.message"
    return f"{before}verdict = {verdict}\n{assertion}"


def _apart(code: str) -> tuple[str, str]:
    """Return a cell's code without the ``print(verdict)`` that ends it, and that verdict."""
    try:
        last = ast.parse(code).body[-1]
    except (SyntaxError, ValueError, IndexError, RecursionError, MemoryError):
        last = None  # no code, or none at all
    if not (
        isinstance(last, ast.Expr)
        and isinstance(last.value, ast.Call)
        and ast.unparse(last.value.func) == "print"
        and len(last.value.args) == 1
    ):
        raise WskitError(
            f"expected print(exercises.check_...(...)) as the last statement, got {code!r:.200}: "
            "a check and a solution end with it"
        )
    before = "".join(code.splitlines(keepends=True)[: last.lineno - 1])
    return before, ast.unparse(last.value.args[0])


def _graded(
    cell: Mapping[str, Any], name: str, source: str, *, solution: bool = False, points: int = 0
) -> dict[str, Any]:
    """Return a cell with the metadata by which nbgrader knows it (its schema 3)."""
    graded = {
        "schema_version": 3,
        "cell_type": "code",
        "grade_id": name.replace(".", "-"),
        "solution": solution,
        "grade": not solution,
        "locked": not solution,
        "task": False,
    }
    if points:
        graded["points"] = points
    metadata = {**cell["metadata"], "nbgrader": graded}
    return {**cell, "metadata": metadata, "source": source.splitlines(keepends=True)}


def picture_text(cell: Mapping[str, Any], output: Mapping[str, Any]) -> str:
    """Return what stands for a picture where it cannot be seen.

    Parameters
    ----------
    cell, output
        A code cell with its outputs, and the one of them that is a picture.

    Returns
    -------
    str
        A widget's own text; of a figure, what the cell prints about it: the lines of
        `wskit.plots.describe`, or else all that it prints. Empty if it prints nothing.
    """
    own = "".join(output["data"].get("text/plain", ""))
    if own and not own.startswith("<"):  # <Figure size 640x400 with 1 Axes>
        return own
    streams = (o for o in cell["outputs"] if o["output_type"] == "stream")
    printed = "".join("".join(stream["text"]) for stream in streams)
    described = "".join(match[0] for match in _DESCRIPTION.finditer(printed))
    return (described or printed).strip()


def without_descriptions(printed: str) -> str:
    """Return printed text without the lines of `wskit.plots.describe`."""
    return _DESCRIPTION.sub("", printed)


def _changed(path: Path, change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> bytes:
    """Return what becomes of a stored notebook."""
    try:
        notebook = change(json.loads(_read(path)))
        return f"{json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True)}\n".encode()
    except WskitError as error:
        raise WskitError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise WskitError(
            f"{path}: expected a notebook's JSON (nbformat 4), but {error}; install wskit again"
        ) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WskitError(
            f"{path}: the tutorial cannot be read, {error.strerror}; install wskit again"
        ) from error


def _write_copies(
    destination: str | os.PathLike[str], contents: Mapping[str, bytes], changed: str
) -> Copies:
    """Write every file that is not there yet; look at all of them before writing any."""
    check_choice(changed, ("refuse", "keep"), WskitError, "changed")
    if not isinstance(destination, str | os.PathLike):
        raise WskitError(f"expected a folder to copy the tutorials to, got {destination!r}")
    folder = Path(destination)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = {name for name in contents if (folder / name).exists()}
        kept = sorted(name for name in present if (folder / name).read_bytes() != contents[name])
        if kept and changed == "refuse":
            raise WskitError(
                f"expected no changed tutorial in {folder}, found {', '.join(kept)}: copy to "
                "another folder, or move these away first; nothing was written"
            )
        written = sorted(contents.keys() - present)
        for name in written:
            _write(folder / name, contents[name])
    except OSError as error:
        raise WskitError(
            f"cannot write the tutorials to {folder}: {error.strerror}; free some space or choose "
            "another folder"
        ) from error
    return Copies(folder, tuple(folder / n for n in written), tuple(folder / n for n in kept))


def _write(path: Path, content: bytes) -> None:
    """Write a file beside its place, then move it there: never half a file under its name."""
    is_new = not path.parent.exists()
    path.parent.mkdir(exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).chmod(0o644)  # mkstemp makes private files; a course folder is shared
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        if is_new:
            path.parent.rmdir()
        raise
