"""A tutorial's slides: what is on them, what is not, and that they are one file."""

import re
import sys
from importlib import util
from pathlib import Path
from typing import Any

import nbformat
import pytest
from bs4 import BeautifulSoup
from slides_kit import DESCRIBED, write_tutorial

from wskit import WskitError, _slides, course, plots
from wskit import __main__ as cli


@pytest.fixture
def tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = write_tutorial(tmp_path)
    monkeypatch.setattr(course, "notebooks_folder", lambda: tmp_path)
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _slides.page(write_tutorial(tmp_path_factory.mktemp("slides")))


@pytest.fixture(scope="module")
def slides(page: str) -> list[Any]:
    return BeautifulSoup(page, "html.parser").select(".slides > section")


def test_the_command_writes_a_file_a_tutorial(tutorial: Path, tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["slides", "00", "-o", str(tmp_path / "deck")]) == 0
    target = tmp_path / "deck" / "00_small.slides.html"
    assert capsys.readouterr().out == f"{target}\n"
    assert target.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert list(target.parent.iterdir()) == [target]


def test_a_slide_a_tag(slides: list[Any]) -> None:
    assert [slide.find(["h1", "h2", "pre"]).get_text(strip=True) for slide in slides] == [
        "00. A tail",
        "Its exponent",
        "panel",
        "For discussion",
    ]


def test_what_is_not_on_a_slide(page: str, slides: list[Any]) -> None:
    shown = "\n".join(slide.get_text() for slide in slides)
    assert "hidden" not in shown, "what stands after the mark"
    for code in ("secret_set_up", "not_for_the_room", "fit_and_draw", "claims()"):
        assert code not in page
    assert "panel" in slides[2].select_one(".highlight").get_text(), "tagged show-input"
    assert [link for slide in slides for link in slide.select("a")] == [], "there is no such page"


def test_a_picture_s_description_is_its_text(slides: list[Any]) -> None:
    (figure,), (panel,) = slides[1].select("img"), slides[2].select("img")
    assert figure["alt"] == DESCRIBED
    assert "--natural: 400px" in figure["style"]
    assert panel["alt"] == "A panel: layer 'a'"
    assert slides[1].select_one("pre").get_text().strip() == "alpha 2.50"
    assert not slides[1].select("pre.large"), "a picture needs the room"
    assert slides[2].select_one("pre.large").get_text() == "alpha 3.00"
    assert slides[2].select_one("td").get_text() == "heavier"


def test_teacher_s_notes_are_the_speaker_s(slides: list[Any]) -> None:
    (notes,) = slides[3].select("aside.notes")
    assert notes.get_text(strip=True) == "Because of chance, $x^2$."
    assert not notes.select("details"), "a folded note cannot be read while speaking"
    assert not any(slide.select("aside") for slide in slides[:3])


def test_nothing_comes_from_elsewhere(page: str) -> None:
    soup = BeautifulSoup(page, "html.parser")
    assert not soup.select("script[src], link, iframe")
    assert all(image["src"].startswith("data:") for image in soup.select("img"))
    assert not any(re.search(r"@import|url\((?!data:)", css.get_text()) for css in soup("style"))
    assert len(soup("script")) == 4, "set-up, reveal.js, notes and MathJax, none cut short"
    assert "MathJax" in soup("script")[-1].get_text()
    assert soup("script")[-1].get_text().rstrip().endswith(";")


def test_a_script_cannot_end_its_page() -> None:
    assert _slides._within_a_page("a='</SCRIPT>'; b=/<!--x/") == r"a='\x3c/SCRIPT>'; b=/\x3c!--x/"


def test_the_notebook_stays_as_it_is(tutorial: Path) -> None:
    notebook = nbformat.read(tutorial, as_version=4)
    before = nbformat.writes(notebook)
    _slides.as_slides(notebook, tutorial.name)
    assert nbformat.writes(notebook) == before


def test_what_goes_wrong_is_said(
    tutorial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WskitError, match="a tutorial's name, got '07': there are 00_small"):
        _slides.write_slides(tmp_path / "deck", ["07"])
    (tmp_path / "file").touch()
    with pytest.raises(WskitError, match="cannot write the slides to"):
        _slides.write_slides(tmp_path / "file")
    notebook = nbformat.read(tutorial, as_version=4)
    del notebook.cells[0].metadata["tags"]
    for cell in notebook.cells:
        cell.metadata.pop("tags", None)
    with pytest.raises(WskitError, match=r"tagged 'slide' in x\.ipynb, found none"):
        _slides.as_slides(notebook, "x.ipynb")
    monkeypatch.setattr(util, "find_spec", lambda _: None)
    with pytest.raises(WskitError, match=r"sphinx_revealjs.*pip install 'wskit\[publish\]'"):
        _slides.page(tutorial)
    monkeypatch.setitem(sys.modules, "nbconvert", None)
    with pytest.raises(WskitError, match=r"nbconvert.*pip install 'wskit\[publish\]'"):
        _slides.page(tutorial)


def test_a_description_is_told_from_other_print(no_figure_stays_open: None) -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    left, right = figure.subplots(1, 2)
    left.plot([1, 2], [3, 4], label="a line")
    left.set(title="it's a title", xlabel="x of it")
    right.hist([1, 2, 2])
    text = f"before\n{plots.describe(figure)}\nafter"
    assert course.without_descriptions(text) == "before\nafter"
    stream = {"output_type": "stream", "text": text}
    picture = {"output_type": "display_data", "data": {"text/plain": "<Figure size 9x9>"}}
    assert course.picture_text({"outputs": [stream, picture]}, picture) == plots.describe(figure)
    stream["text"] = "The first image, a seven.\n"
    assert course.picture_text({"outputs": [stream, picture]}, picture) == stream["text"].strip()
    assert course.picture_text({"outputs": [picture]}, picture) == ""
