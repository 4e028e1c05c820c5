"""What TEACHING.md plans and says is so: minutes, sections, commands, measures."""

import re

import nbformat
import pytest
from notebook_kit import NOTEBOOKS
from test_readme import REMEDY, make

from wskit import widgets

TEXT = (NOTEBOOKS / "TEACHING.md").read_text(encoding="utf-8")
PAGES = {path.name[:2]: path for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}
SESSION, DAY, WEEKS = re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:4]


def rows(plan: str) -> list[list[str]]:
    """Cells of a table, without its head."""
    lines = [line for line in plan.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_minutes_add_up() -> None:
    assert sum(int(row[0]) for row in rows(SESSION)) == 90
    assert "90 minutes" in SESSION.splitlines()[0]
    assert sum(int(row[0]) for row in rows(DAY)) == 8 * 60
    assert [row[0] for row in rows(WEEKS)] == list("123456")
    planned = {number for row in rows(WEEKS) for number in re.findall(r"\b0\d\b", " ".join(row))}
    assert planned == set(PAGES) - {"07"}


@pytest.mark.parametrize("row", rows(SESSION) + rows(DAY), ids=lambda row: row[1][:30])
def test_the_place_exists(row: list[str]) -> None:
    """`01, *Look around*` names a page and a heading of it, or its beginning."""
    for number in re.findall(r"\b0\d\b", row[2]):
        page = nbformat.read(PAGES[number], as_version=4)
        prose = "\n".join(cell.source for cell in page.cells if cell.cell_type == "markdown")
        for heading in re.findall(r"\*(.+?)\*", row[2]):
            assert re.search(rf"^#+ {re.escape(heading)}", prose, re.MULTILINE), heading
        for exercise in re.findall(rf"\b{int(number)}\.\d\b", row[1]):
            assert f"### Exercise {exercise} " in prose
    for name in re.findall(r"`(\w+)`", row[1]):
        assert hasattr(widgets, name)


def test_measures_are_current() -> None:
    assert make.with_measures(TEXT) == TEXT, REMEDY
    wrong = re.sub(r"\| \d+ \| \d+ \|", "| 1 | 1 |", TEXT)
    assert wrong != TEXT
    assert make.with_measures(wrong) == TEXT
