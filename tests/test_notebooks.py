"""The tutorials as they are stored, and their common form: what nbval does not look at."""

import base64
import io
import os
import re
import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from notebook_kit import NOTEBOOKS, leaked, load_build
from PIL import Image

from wskit import course

build = load_build()
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)

OPENING = ["You will be able to", "You should know", "Time to read", "Time to run", "Downloads"]
ENDING = ["Limits", "Exercises", "Summary", "For discussion", "References"]
EXERCISE = re.compile(r"^### Exercise (\d\.\d) (★{1,3}) \((.+)\)$", re.MULTILINE)
IDENTIFIER = re.compile(r"arXiv:\d{4}\.\d{4,5}|doi:10\.\d{4,}/\S+")
PANEL = re.compile(r"`(\w+Explorer|SoupKitchen|CheckpointPicker)`")


@cache
def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def prose(path: Path) -> str:
    return "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")


def code_cells(path: Path) -> list[Any]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def tags(cell: Any) -> set[str]:
    return set(cell.metadata.get("tags", []))


def outputs(path: Path) -> Iterator[Any]:
    for cell in code_cells(path):
        yield from cell.outputs


@each
def test_stored_as_the_build_writes_it(path: Path) -> None:
    """Somebody who saves it in JupyterLab finds out here."""
    notebook = read(path)
    nbformat.validate(notebook)
    assert path.read_text(encoding="utf-8") == build.as_text(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert path.stat().st_size <= build.MAX_BYTES


@each
def test_run_in_order(path: Path) -> None:
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))


@each
def test_outputs_are_fit_to_be_kept(path: Path) -> None:
    kinds = [(output.output_type, output.get("name")) for output in outputs(path)]
    assert {kind for kind, _ in kinds} <= {"stream", "display_data", "execute_result"}
    assert "stderr" not in {name for _, name in kinds}
    assert ("stream", "stdout") in kinds, "results are printed, or nbval compares nothing"
    for output in outputs(path):
        build._check_machine_bound(output, path.name)
        data = output.get("data", {})
        assert build.WIDGET_VIEW not in data
        if "image/png" in data:
            with Image.open(io.BytesIO(base64.b64decode(data["image/png"]))) as image:
                assert image.format == "PNG"
                assert image.info == {}


@each
def test_every_picture_is_described(path: Path) -> None:
    """By what the cell prints, or by the text that goes with the picture of a widget."""
    for cell in code_cells(path):
        pictures = [o for o in cell.outputs if "image/png" in o.get("data", {})]
        texts = [o.text for o in cell.outputs if o.output_type == "stream"]
        texts += [o.data.get("text/plain", "") for o in cell.outputs if "data" in o]
        described = [text for text in texts if len(text) > 20 and not text.startswith("<Figure")]
        assert len(described) >= len(pictures), cell.source


@each
def test_cells_are_short(path: Path) -> None:
    """A page is 12 to 35 cells of code, 65 with its prose; what asks and ends comes after it."""
    lengths = [len(c.source.splitlines()) for c in code_cells(path) if "claims" not in tags(c)]
    assert max(lengths) <= 20
    assert statistics.median(lengths) <= 6
    cells = read(path).cells
    page = cells[
        : next(i for i, c in enumerate(cells) if re.search(r"^## Exercise", c.source, re.M))
    ]
    assert 12 <= sum(cell.cell_type == "code" for cell in page) <= 35
    assert len(page) <= 65


@each
def test_exercises_are_complete(path: Path) -> None:
    cells = read(path).cells
    stubs = [i for i, cell in enumerate(cells) if "exercise" in tags(cell)]
    assert stubs, "a tutorial has an exercise"
    for start, end in zip(stubs, [*stubs[1:], len(cells)], strict=True):
        found = re.match(r"# Exercise (\d+\.\d+)", cells[start].source)
        assert found, cells[start].source
        number = re.escape(found[1])
        after = cells[start + 1 : end]
        kinds = {
            "check": [i for i, c in enumerate(after) if "check" in tags(c)],
            "hint": [i for i, c in enumerate(after) if f"<summary>Hint {found[1]}" in c.source],
            "solution": [
                i
                for i, c in enumerate(after)
                if "solution" in tags(c) and re.search(rf"Solution {number}\b", c.source)
            ],
        }
        for kind, places in kinds.items():
            assert places, f"exercise {found[1]} has no {kind}"
        firsts = [places[0] for places in kinds.values()]
        assert firsts == sorted(firsts), f"exercise {found[1]}: check, hint, solution"


@each
def test_students_get_no_solution(path: Path) -> None:
    whole = read(path)
    student = course.for_students(whole)
    found = leaked(whole, student)
    assert found, "a tutorial has a solution"
    for solution, lines in found.items():
        assert not lines, f"given away: {lines}"
        assert leaked(whole, whole)[solution], f"nothing of this is the solution's own: {solution}"


@pytest.mark.slow
@each
def test_a_students_copy_runs(path: Path, tmp_path: Path) -> None:
    student = course.for_students(read(path))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WSKIT_OFFLINE": "1"}
    client = NotebookClient(
        student, timeout=180, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(env=environment)
    checks = [cell for cell in student.cells if "check" in tags(cell)]
    for cell in checks:
        assert any("not yet" in o.get("text", "").lower() for o in cell.outputs), cell.source


@each
def test_opens_with_claim_and_table(path: Path) -> None:
    first = read(path).cells[0].source
    number = path.name[:2]
    assert re.match(rf"# {number}\. \S", first), "a title that begins with the page's number"
    assert re.search(r"\n\*\*[^|]{40,}?\*\*", first), "the claim, in bold"
    rows = re.findall(r"^\| \*\*(.+?)\*\* \| (.+) \|$", first, re.MULTILINE)
    assert [name for name, _ in rows] == OPENING
    values = dict(rows)
    assert values["You will be able to"].count(";") >= 2, "three objectives or more"
    assert re.match(r"\d+ minutes", values["Time to read"])
    assert re.match(r"(about )?\d+ (seconds|minutes?) on two CPU cores", values["Time to run"])
    assert values["Downloads"].startswith("none")


@each
def test_ends_alike(path: Path) -> None:
    sections = re.findall(r"^## (.+)$", prose(path), re.MULTILINE)
    assert [s for s in sections if s in ENDING] == ENDING
    assert sections[-len(ENDING) :] == ENDING
    last = read(path).cells[-1].source
    assert re.search(r"^\*\*Next:\*\* ", last, re.MULTILINE), "the next step is said last"


@each
def test_references_can_be_found(path: Path) -> None:
    """A DOI or an arXiv number each; what has neither, such as code, says where it is."""
    references = prose(path).rpartition("## References")[2].partition("**Next:**")[0]
    entries = re.split(r"\n(?=\d+\. )", references.strip())
    assert len(entries) >= 3
    for entry in entries:
        text = " ".join(entry.split())
        assert IDENTIFIER.search(text) or "github.com/" in text, text


@each
def test_four_exercises_of_rising_difficulty(path: Path) -> None:
    found = EXERCISE.findall(prose(path))
    assert len(found) >= 4
    chapter = int(path.name[:2])
    assert [number for number, _, _ in found] == [f"{chapter}.{i + 1}" for i in range(len(found))]
    stars = [len(stars) for _, stars, _ in found]
    assert stars == sorted(stars)
    assert (stars[0], stars[-1]) == (1, 3)
    assert "open-ended" in found[-1][2]
    for _, _, words in found:
        assert re.search(r"\d+ minutes", words)


@each
def test_the_open_exercise_has_a_widget_and_a_goal(path: Path) -> None:
    cell = next(c for c in read(path).cells if re.search(r"★★★ \(open-ended", c.source))
    text = cell.source[cell.source.index("(open-ended") :]
    assert "**Goal:**" in text
    assert PANEL.search(text)


@each
def test_what_is_expected_is_what_the_solution_prints(path: Path) -> None:
    """Up to its numbers, which may be another processor's."""

    def words(text: str) -> str:
        return re.sub(r"[-\d.]+", "#", " ".join(text.split()))

    cells = read(path).cells
    for number, _, _ in EXERCISE.findall(prose(path)):
        expected = re.search(
            rf"<summary>Expected output {number}</summary>\s+```text\n(.+?)\n```", prose(path), re.S
        )
        assert expected, f"no expected output {number}"
        solution = next(
            c
            for c in cells
            if c.cell_type == "code" and c.source.startswith(f"# Solution {number} ")
        )
        printed = "".join(o.text for o in solution.outputs if o.output_type == "stream")
        assert words(printed) == words(expected[1]), number
        assert "Passed: " in printed


@each
def test_questions_are_answered_for_the_teacher_only(path: Path) -> None:
    cells = read(path).cells
    asked = next(c for c in cells if re.search(r"^## For discussion$", c.source, re.MULTILINE))
    questions = re.findall(r"^(\d)\. ", asked.source.partition("## For discussion")[2], re.M)
    assert len(questions) >= 3
    assert "teacher" not in tags(asked)
    answered = cells[cells.index(asked) + 1]
    assert "teacher" in tags(answered)
    assert answered.source.startswith("<details><summary>For the teacher</summary>")
    assert re.findall(r"^(\d)\. ", answered.source, re.M) == questions


@pytest.mark.parametrize("path", PATHS[1:6], ids=lambda path: path.stem)
def test_a_paper_s_claims_are_set_beside_what_was_seen(path: Path) -> None:
    (cell,) = (c for c in read(path).cells if "claims" in tags(c))
    (output,) = cell.outputs
    rows = output.data["text/markdown"].splitlines()[2:]
    assert len(rows) >= 3
    for row in rows:
        claim, seen, seeds, _ = (entry.strip() for entry in row.strip("|").split(" | "))
        assert claim
        assert re.search(r"\d", seen), f"no figure: {seen}"
        assert re.match(r"\d+", seeds), f"over how many seeds? {seeds}"
    assert 'f"' in cell.source or "f'" in cell.source, "figures come from variables"
