"""The static site: it builds without a warning, works without the internet, and keeps secrets."""

import functools
import json
import re
import shutil
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import nbformat
import pytest
from bs4 import BeautifulSoup
from lab_kit import ROOT, poll

PLANTED = "90_small"  # with notes for the teacher, a solution and two pictures
DESCRIBED = "Axes 'a tail': x 'value' log, y 'density' linear\n  line 'fit': 9 points, x 1 to 9"
ANSWER = "<details><summary>For the teacher</summary>\n\n1. Because of chance, $x^2$.\n\n</details>"
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGM4AQAAygDJmcpdfgAAAABJRU5ErkJggg=="


def write_tutorial(folder):
    """Write an executed notebook of a few cells."""
    text, code, output = (
        getattr(nbformat.v4, f"new_{n}") for n in ("markdown_cell", "code_cell", "output")
    )
    printed = output("stream", name="stdout", text=f"alpha 2.50\n{DESCRIBED}\n")
    figure = output("display_data", {"image/png": DOT, "text/plain": "<Figure size 640x400>"})
    panel = output("execute_result", {"image/png": DOT, "text/plain": "A panel: layer 'a'"})
    solution = "# Solution 1.1 (click to open)\nnot_for_the_room()"
    cells = [
        text("# 00. A tail\n\n**It is heavy.** See [the next](01_esd.ipynb)."),
        text("## Its exponent\n\n$$ \\alpha = 1 + n / \\sum_i \\ln \\lambda_i $$"),
        code("fit_and_draw()", outputs=[printed, figure]),
        code("panel", outputs=[panel]),
        code(solution, metadata={"tags": ["solution"]}),
        text("## For discussion\n\n1. Why?"),
        text(ANSWER, metadata={"tags": ["teacher"]}),
    ]
    about = {"language_info": {"name": "python"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=about)
    nbformat.write(notebook, folder / f"{PLANTED}.ipynb")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site of a copy of the tutorials, with one more."""
    home = tmp_path_factory.mktemp("site")
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, home)
    source = home / "notebooks"
    shutil.copytree(ROOT / "notebooks", source, ignore=shutil.ignore_patterns("src", ".*"))
    write_tutorial(source)
    options = ["-q", "-W", "--keep-going", "-E", "-d", home / "doctrees", "-c", source / "site"]
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *map(str, options), str(source), str(home / "html")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return home / "html"


@pytest.fixture(scope="module")
def pages(site):
    return {
        path.stem: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for path in site.glob("*.html")
    }


@pytest.fixture
def page(tab, site):
    """A page of a local server, with a list of what was asked of other places."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    tab.home, tab.asked = f"http://127.0.0.1:{server.server_port}", []

    def note(request):
        if not request.url.startswith((tab.home, "data:", "blob:")):
            tab.asked.append(request.url)

    tab.on("request", note)
    tab.problems.clear()
    yield tab
    tab.remove_listener("request", note)
    server.shutdown()
    server.server_close()


def test_a_page_a_tutorial(pages):
    tutorials = {path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    assert tutorials | {PLANTED, "index", "search"} == pages.keys()
    linked = {a["href"] for a in pages["index"].select("article a[href]")}
    assert {f"{name}.html" for name in tutorials} <= linked


def test_every_picture_has_a_text(pages):
    for name, page in pages.items():
        for image in page.select("article img"):
            text = image.get("alt", "")
            assert len(text) > 15, f"{name}: {image}"
            assert not text.startswith("_images"), f"{name}: {image}"
    figure, panel = pages[PLANTED].select("article img")
    assert figure["alt"] == " ".join(DESCRIBED.split())
    assert panel["alt"] == "A panel: layer 'a'"


def test_notes_for_the_teacher_are_nowhere(site):
    texts = [p for p in site.rglob("*") if p.suffix in {".html", ".ipynb", ".js", ".md", ".txt"}]
    assert any("For discussion" in path.read_text(encoding="utf-8") for path in texts)
    for path in texts:
        text = path.read_text(encoding="utf-8")
        assert "Because of chance" not in text, path
        assert "For the teacher" not in text, path


def test_solutions_are_folded(pages):
    (folded,) = pages[PLANTED].select("details")
    assert "not_for_the_room" in folded.get_text()
    assert folded.select_one("summary").get_text(" ", strip=True).startswith("Solution 1.1: show")
    for name, page in pages.items():
        for details in page.select("details"):
            assert not details.has_attr("open"), name
        for cell in page.select("div.cell.tag_solution"):
            assert cell.select("details") or cell.find_parent("details"), name


def test_notebooks_can_be_had(site, pages):
    for name in pages.keys() - {"index", "search"}:
        links = {a["href"] for a in pages[name].select("a[href$='.ipynb']")}
        assert f"_sources/{name}.ipynb" in links
        notebook = json.loads((site / "_sources" / f"{name}.ipynb").read_text(encoding="utf-8"))
        nbformat.validate(notebook)
        assert any(cell.get("outputs") for cell in notebook["cells"])


def test_nothing_is_asked_of_another_place(page):
    for name in ("index", "01_esd", "04_swa", "search"):
        page.goto(f"{page.home}/{name}.html")
        page.wait_for_load_state("networkidle")
    assert page.asked == []
    assert not page.problems


def test_it_works_from_the_disk(tab, site):
    asked = []
    tab.on("request", lambda r: asked.append(r.url))
    tab.goto((site / f"{PLANTED}.html").as_uri())
    tab.locator("mjx-container mjx-math").first.wait_for()
    assert all(re.match("file:|data:", url) for url in asked), asked


def test_equations_are_typeset(page):
    page.goto(f"{page.home}/01_esd.html")
    first = page.locator("mjx-container[display] mjx-math").first
    first.wait_for()
    assert first.bounding_box()["height"] > 25
    assert r"\lambda" not in page.locator("article").inner_text()


def test_a_word_is_found(page):
    page.goto(f"{page.home}/index.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("Marchenko")
    page.keyboard.press("Enter")
    found = page.locator("#search-results li a")
    poll(page, lambda: found.count() > 0, "a page with that word")
    assert any(text.startswith("01.") for text in found.all_inner_texts())
    found.first.click()
    page.wait_for_load_state()
    assert "Marchenko" in page.locator("article").inner_text()


def test_it_fits_a_telephone(page):
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"{page.home}/index.html")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_viewport_size({"width": 1300, "height": 1000})
