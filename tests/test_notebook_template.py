"""Every tutorial is made on one template, so that a learner finds their way in all of them."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from notebook_kit import NOTEBOOKS

PATHS = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
TOPICS = [path for path in PATHS if "01" <= path.name[:2] <= "05"]
OPENING = ["You will be able to", "You should know", "Time to read", "Time to run", "Downloads"]
ENDING = ["Limits", "Exercises", "Summary", "For discussion", "References"]
EXERCISE = re.compile(r"^### Exercise (\d\.\d) (★{1,3}) \((.+)\)$", re.MULTILINE)
IDENTIFIER = re.compile(r"arXiv:\d{4}\.\d{4,5}|doi:10\.\d{4,}/\S+")


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def prose(path: Path) -> str:
    return "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")


def tags(cell: Any) -> set[str]:
    return set(cell.metadata.get("tags", []))


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
def test_the_time_to_run_is_the_measured_one(path: Path) -> None:
    source = NOTEBOOKS / "src" / f"{path.stem}.py"
    assert "{{run_time}}" in source.read_text(encoding="utf-8")


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
    assert re.search(r"`(EsdExplorer|ZooExplorer|RegionExplorer|SwaExplorer|SoupKitchen|"
                     r"CheckpointPicker)`", text)  # fmt: skip


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


@pytest.mark.parametrize("path", TOPICS, ids=lambda path: path.stem)
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
