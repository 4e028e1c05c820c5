"""The tutorials as files: where they are, copies to work in, copies for students.

Each tutorial is one executed notebook, built from ``notebooks/src`` with `TAGS` on its cells. A
learner works in a copy of it (`copy_notebooks`), a class gets copies without the solutions
(`student_copies`). Neither ever replaces a copy that somebody has edited.

An exercise is four cells in this order: the stub (a code cell tagged ``exercise`` that begins
``# Exercise 1.2``), its ``check``, a hint and what a right answer prints (markdown,
``<details><summary>Hint 1.2</summary>`` and ``<details><summary>Expected output 1.2</summary>``)
and the ``solution``: code that begins ``# Solution 1.2 (click to open)``, or markdown within
``<details><summary>Solution 1.2</summary>``.

What a tutorial found of its paper's claims is the output of one cell tagged ``claims``, made by
`claims` from numbers that the page has computed.
"""

from __future__ import annotations

import copy
import datetime
import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from wskit._base.files import explain_write_errors, write_atomically
from wskit.errors import WskitError

__all__ = ["TAGS", "claims", "copy_notebooks", "student_copies", "tutorials"]


def __dir__() -> list[str]:
    return __all__


TAGS: Mapping[str, str] = MappingProxyType(
    {
        "setup": "imports, seeds and the size knob; run it first",
        "exercise": "the stub that a learner fills in",
        "check": "the self-check of the stub above: it says 'not yet', it never raises",
        "solution": "folded in the tutorial, not in the students' copies",
        "teacher": "notes for whoever gives the course, not in the students' copies",
        "hide-input": "folded: only the first line of the code shows",
        "nbval-ignore-output": "run by the tests, but not compared: it shows times, or a download",
        "claims": "what the paper claims beside what the page saw; gathered into the first page",
    }
)
"""Every tag that a cell may have, and what it means. The build refuses any other."""

NOT_FOR_STUDENTS = frozenset({"solution", "teacher"})

CLAIM_COLUMNS = ("claim of the paper", "what we saw here", "seeds", "where it did not hold")

RECORD = ".wskit-copies.json"
"""The file, beside the copies, that says what was copied: a hash of the cells of each."""


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
        If a row does not fit into the table.

    Examples
    --------
    >>> claims(("averages are better", "by 5.4 ± 0.5 points", 10, "with right labels"))
    averages are better; by 5.4 ± 0.5 points; 10; with right labels
    """
    texts = tuple(tuple(str(entry).strip() for entry in row) for row in rows)
    for row in texts:
        if len(row) != len(CLAIM_COLUMNS) or any(not t or "|" in t or "\n" in t for t in row):
            raise WskitError(
                f"expected {len(CLAIM_COLUMNS)} entries of one line each without '|' "
                f"({', '.join(CLAIM_COLUMNS)}), got {row}"
            )
    return Claims(texts)


@dataclass(frozen=True)
class Copies:
    """What `copy_notebooks` or `student_copies` did in a folder.

    Attributes
    ----------
    folder
        Where the copies are.
    new, updated
        Copies that were not there before, and copies that nobody had edited.
    kept
        Edited copies, left as they are.
    beside
        Newer tutorials, each beside the edited copy of an older one.
    """

    folder: Path
    new: list[Path] = field(default_factory=list)
    updated: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    beside: list[Path] = field(default_factory=list)


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


def copy_notebooks(destination: str | os.PathLike[str]) -> Copies:
    """Copy the tutorials, as executed, into a folder to work in, or bring the copies up to date.

    An edited copy is never replaced: a tutorial that is newer than it is put beside it, as
    ``01_esd.new-2026-12-01.ipynb``. A copy counts as edited once the text of a cell has changed;
    outputs alone, which each run changes, do not count.

    Parameters
    ----------
    destination
        The folder; it is made if there is none.

    Returns
    -------
    Copies

    Raises
    ------
    WskitError
        If the folder cannot be written; every file that is there is a whole one.
    """
    return _write_copies(destination, {path.name: path.read_bytes() for path in tutorials()})


def student_copies(destination: str | os.PathLike[str]) -> Copies:
    """Write the tutorials without solutions, teacher's notes and outputs, as `copy_notebooks` does.

    Parameters
    ----------
    destination
        The folder; it is made if there is none.

    Returns
    -------
    Copies

    Raises
    ------
    WskitError
        As for `copy_notebooks`.
    """
    import nbformat

    contents = {}
    for path in tutorials():
        text = nbformat.writes(for_students(nbformat.read(path, as_version=4)))
        contents[path.name] = f"{text}\n".encode()
    return _write_copies(destination, contents)


def for_students(notebook: Any) -> Any:
    """Return a notebook (a `nbformat.NotebookNode`) without what students do not get."""
    from nbconvert.preprocessors import ClearOutputPreprocessor, TagRemovePreprocessor

    notebook = copy.deepcopy(notebook)
    resources: dict[str, Any] = {}
    cut = TagRemovePreprocessor(enabled=True, remove_cell_tags=set(NOT_FOR_STUDENTS))
    notebook, resources = cut(notebook, resources)
    notebook, _ = ClearOutputPreprocessor(enabled=True)(notebook, resources)
    return notebook


def _write_copies(destination: str | os.PathLike[str], contents: Mapping[str, bytes]) -> Copies:
    done = Copies(Path(destination))

    def write(path: Path, content: bytes, kind: list[Path]) -> None:
        with write_atomically(path, WskitError) as file:
            file.write(content)
        kind.append(path)

    with explain_write_errors(done.folder, WskitError):
        done.folder.mkdir(parents=True, exist_ok=True)
        record = _read_record(done.folder / RECORD)
        for name, content in contents.items():
            path, newest = done.folder / name, _hash_cells(content)
            present = _hash_cells(path.read_bytes()) if path.exists() else None
            if present is None:
                write(path, content, done.new)
            elif present == record.get(name) != newest:
                write(path, content, done.updated)
            elif present != newest:
                done.kept.append(path)
                if record.get(name) != newest:
                    write(_place_beside(path), content, done.beside)
            record[name] = newest
        with write_atomically(done.folder / RECORD, WskitError) as file:
            file.write(json.dumps(record, indent=1, sort_keys=True).encode())
    return done


def _place_beside(path: Path) -> Path:
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    for number in itertools.count(1):
        place = path.with_suffix(f".new-{day}{f'-{number}' if number > 1 else ''}{path.suffix}")
        if not place.exists():
            break
    return place


def _read_record(path: Path) -> dict[str, Any]:
    """Return the hash of each tutorial that was copied; of a damaged record, nothing."""
    try:
        record = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _hash_cells(content: bytes) -> str:
    """Return a hash of what a user edits: the kind and the text of each cell."""
    try:
        cells = json.loads(content)["cells"]
        texts = [[cell["cell_type"], "".join(cell["source"])] for cell in cells]
        content = json.dumps(texts).encode()
    except (ValueError, TypeError, LookupError, RecursionError):
        pass  # not a notebook: of the bytes
    return hashlib.sha256(content).hexdigest()
