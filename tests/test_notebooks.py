"""The tutorials as they are stored: what nbval does not look at."""

import base64
import io
import os
import re
import statistics
from collections.abc import Iterator
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

Notebook = Any


def read(path: Path) -> Notebook:
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list[Any]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def tags(cell: Any) -> set[str]:
    return set(cell.metadata.get("tags", []))


def outputs(path: Path) -> Iterator[Any]:
    for cell in code_cells(path):
        yield from cell.outputs


def test_the_first_tutorials_are_there() -> None:
    assert {"00_start_here", "01_esd"} <= {path.stem for path in PATHS}
    assert {path.stem for path in PATHS} == {path.stem for path in build.sources(NOTEBOOKS)}


@each
def test_source_and_notebook_agree(path: Path) -> None:
    assert build.differences(NOTEBOOKS / "src" / f"{path.stem}.py", path) == []


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
def test_every_figure_that_is_described_is_shown(path: Path) -> None:
    for cell in code_cells(path):
        if "plots.describe(" in cell.source:
            assert any("image/png" in o.get("data", {}) for o in cell.outputs), cell.source


@each
def test_cells_are_short(path: Path) -> None:
    """A page is 12 to 35 cells of code, 60 with its prose; what asks and ends comes after it."""
    lengths = [len(c.source.splitlines()) for c in code_cells(path) if "claims" not in tags(c)]
    assert max(lengths) <= 15
    assert statistics.median(lengths) <= 5
    cells = read(path).cells
    page = cells[
        : next(i for i, c in enumerate(cells) if re.search(r"^## Exercise", c.source, re.M))
    ]
    assert 12 <= sum(cell.cell_type == "code" for cell in page) <= 35
    assert len(page) <= 60


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
