"""notebooks/build.py: what it makes, what it refuses."""

import base64
import io
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from notebook_kit import TUTORIAL, load_build
from PIL import Image

build = load_build()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A notebooks folder with the small tutorial, built."""
    folder = tmp_path_factory.mktemp("notebooks")
    (folder / "src").mkdir()
    (folder / "src" / "01_tail.py").write_text(TUTORIAL, encoding="utf-8")
    build.build(folder / "src" / "01_tail.py", folder / "01_tail.ipynb")
    return folder


@pytest.fixture(scope="module")
def built(folder: Path) -> Any:
    return nbformat.read(folder / "01_tail.ipynb", as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_rebuild_is_byte_identical(folder: Path) -> None:
    build.build(folder / "src" / "01_tail.py", folder / "again.ipynb")
    assert (folder / "again.ipynb").read_bytes() == (folder / "01_tail.ipynb").read_bytes()


def test_outputs_are_kept(built: Any) -> None:
    assert [cell.execution_count for cell in code_cells(built)] == list(range(1, 8))
    assert "alpha " in code_cells(built)[1].outputs[0].text
    assert "not yet" in code_cells(built)[5].outputs[0].text
    assert code_cells(built)[6].outputs[0].text == "right\n"


def test_nothing_of_the_kernel_or_the_day_is_stored(built: Any) -> None:
    assert set(built.metadata) == {"kernelspec", "language_info"}
    assert built.metadata.language_info == {"name": "python"}
    for cell in built.cells:
        assert set(cell.metadata) <= {"tags", "jupyter"}
    slider = code_cells(built)[3].outputs[0].data
    assert set(slider) == {"text/plain"}
    ids = [cell.id for cell in built.cells]
    assert len(set(ids)) == len(ids)


def test_pictures_carry_no_metadata(built: Any) -> None:
    pictures = [
        output.data["image/png"]
        for cell in code_cells(built)
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 1
    with Image.open(io.BytesIO(base64.b64decode(pictures[0]))) as image:
        assert image.info == {}
        assert image.size[0] > 200


def test_solutions_are_folded(built: Any) -> None:
    folded = [cell for cell in code_cells(built) if cell.metadata.get("jupyter")]
    assert len(folded) == 1
    assert folded[0].metadata.jupyter == {"source_hidden": True}
    assert folded[0].source.startswith("# Solution 1.1 (click to open)\n")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('# %% tags=["soluton"]\n1', r"bad.py, cell 0: unknown tag soluton; there are setup, "),
        ("# %%\n# Solution 1.1 (click to open)\n1", r"looks like a solution, but is not tagged"),
        (
            "# %% [markdown]\n# <details><summary>Solution 1.1</summary>x</details>",
            r"looks like a solution, but is not tagged",
        ),
        ('# %% tags=["solution"]\nx = 1', r"a solution begins '# Solution 1.2 \(click to open\)'"),
        ('# %% [markdown] tags=["solution"]\n# Use logs.', r"begins <details><summary>Solution"),
        ('# %% tags=["hide-input"]\nx = 1', r"a folded cell begins with a comment"),
        ("# %%\n# NBVAL_SKIP\nx = 1", r"use a tag instead of an NBVAL_ comment"),
        ("# %% tolerance=0\nx = 1", r"cell 0: a tolerance is a number above 0, got 0"),
        ('# %% tolerance="0.2"\nx = 1', r"a tolerance is a number above 0, got '0.2'"),
    ],
)
def test_sources_that_are_refused(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "bad.py").write_text(source, encoding="utf-8")
    with pytest.raises(build.BuildError, match=message):
        build.read_source(tmp_path / "bad.py")


def png(dpi: int) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG", dpi=(dpi, dpi))
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (new_output("stream", name="stderr", text="look out"), "cell 0 writes to stderr: look out"),
        (new_output("stream", text="see /home/me/x.pt"), "cell 0 shows an absolute path: 'see /ho"),
        (new_output("stream", text="C:\\x"), "an absolute path"),
        (new_output("stream", text="<f at 0x7f0123456789>"), "cell 0 shows a memory address"),
        (new_output("display_data", {"text/html": "<b>/tmp/x</b>"}), "an absolute path"),
        (new_output("display_data", {"image/png": png(200)}), "200 dpi, at most 100 are allowed"),
    ],
)
def test_outputs_that_are_refused(output: Any, message: str) -> None:
    notebook = new_notebook(cells=[new_code_cell("x", outputs=[output])])
    with pytest.raises(build.BuildError, match=message):
        build._normalise(notebook, "bad.py")


def test_a_tolerance_is_kept(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text('# %% tags=["setup"] tolerance=0.2\nx = 1', encoding="utf-8")
    (cell,) = build.read_source(tmp_path / "x.py").cells
    assert cell.metadata == {"tags": ["setup"], "tolerance": 0.2}


def test_a_failure_leaves_the_old_notebook(tmp_path: Path) -> None:
    (tmp_path / "01_bad.py").write_text("# %%\n1 / 0\n", encoding="utf-8")
    (tmp_path / "01_bad.ipynb").write_text("old", encoding="utf-8")
    with pytest.raises(build.BuildError, match=r"(?s)01_bad.py: .*ZeroDivisionError"):
        build.build(tmp_path / "01_bad.py", tmp_path / "01_bad.ipynb")
    assert (tmp_path / "01_bad.ipynb").read_text(encoding="utf-8") == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_large_notebook_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "MAX_BYTES", 100)
    monkeypatch.setattr(build, "_execute", lambda *_: None)
    (tmp_path / "01_big.py").write_text("# %%\n1\n", encoding="utf-8")
    with pytest.raises(build.BuildError, match=r"bytes, at most 100 are allowed: draw fewer"):
        build.build(tmp_path / "01_big.py", tmp_path / "01_big.ipynb")
    assert not (tmp_path / "01_big.ipynb").exists()


def test_check_finds_every_difference(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(build, "HERE", tmp_path)
    source = tmp_path / "src" / "01_tail.py"
    source.parent.mkdir()
    source.write_text(TUTORIAL, encoding="utf-8")
    assert build.main(["--check"]) == 1
    assert "01_tail.ipynb does not exist" in capsys.readouterr().err

    (tmp_path / "01_tail.ipynb").write_bytes((folder / "01_tail.ipynb").read_bytes())
    assert build.main(["--check", "01"]) == 0

    for old, new in [
        ("bins=20)", "bins=21)"),
        ("How heavy", "How light"),
        (' tags=["check"]', ""),
        ("# %% [markdown]\n# # A tail\n# How heavy is the tail of a sample?\n", ""),
    ]:
        assert old in TUTORIAL
        source.write_text(TUTORIAL.replace(old, new), encoding="utf-8")
        assert build.main(["--check"]) == 1
        assert "01_tail.ipynb" in capsys.readouterr().err

    assert build.main(["--check", "02"]) == 1
    assert "no source named 02* in" in capsys.readouterr().err


CLAIMING = """\
# %% [markdown]
# # A claim

# %% tags=["claims"]
from wskit.course import claims

claims(("tails are heavy", f"alpha {2 + 1}", 5, "in noise"))
"""
GATHERING = """\
# %% [markdown]
# # Start
# It takes {{run_time}}.
#
# {{claims}}

# %%
print("one")
"""


def test_figures_are_filled_in(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "timings.json").write_text('{"00_start": {"seconds": 171.0}}', encoding="utf-8")
    for name, text in (("00_start", GATHERING), ("01_claim", CLAIMING)):
        (tmp_path / "src" / f"{name}.py").write_text(text, encoding="utf-8")
    start, claim = (tmp_path / "src" / f"{name}.py" for name in ("00_start", "01_claim"))
    build.build(start, tmp_path / "00_start.ipynb")
    build.build(claim, tmp_path / "01_claim.ipynb")
    target = tmp_path / "00_start.ipynb"
    assert build.differences(start, target) == [
        "00_start.ipynb, cell 0: differs from 00_start.py"
    ], "another page's claims have changed since"
    before = code_cells(nbformat.read(target, as_version=4))

    build.take_over_text(start, target)
    assert build.differences(start, target) == []
    notebook = nbformat.read(target, as_version=4)
    assert code_cells(notebook) == before
    assert "It takes 3 minutes." in notebook.cells[0].source
    assert (
        "| [01](01_claim.ipynb) | tails are heavy | alpha 3 | 5 | in noise |"
        in notebook.cells[0].source.splitlines()
    )

    start.write_text(GATHERING.replace('"one"', '"two"'), encoding="utf-8")
    whole = target.read_bytes()
    with pytest.raises(build.BuildError, match=r"00_start.py: code has changed, so it must be run"):
        build.take_over_text(start, target)
    assert target.read_bytes() == whole
