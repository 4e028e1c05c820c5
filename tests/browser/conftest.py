"""Fixtures of the tests in a browser: JupyterLab, Debian's Chromium by Playwright, a page."""

import os
import shutil
from pathlib import Path

import pytest
from lab_kit import SCREENSHOTS, WAIT, run_all, running_lab, shut_down
from sheet_kit import make_sheet
from xdist.scheduler import LoadFileScheduling

CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser"])), None)

# Of Chromium and JupyterLab themselves, in a page that is as it should be.
_HARMLESS = ("favicon.ico", "Autofill", "third-party cookie")


class OnePagePerWorker(LoadFileScheduling):
    """Have the tests of a file, which share a page, run on one worker; a tutorial on any."""

    def _split_scope(self, nodeid):
        file = super()._split_scope(nodeid)
        return nodeid if file.endswith("test_notebooks.py") else file


def pytest_xdist_make_scheduler(config, log):
    return OnePagePerWorker(config, log)


def pytest_itemcollected(item):
    item.add_marker(pytest.mark.browser)


def pytest_collection_modifyitems(items):
    """Skip with the reason where there is no browser, unless one is required."""
    missing = _missing()
    if missing and os.environ.get("WSKIT_REQUIRE_BROWSER") != "1":
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=missing))


def pytest_sessionfinish(session):
    """Put what the workers have photographed on one sheet."""
    if not hasattr(session.config, "workerinput"):
        make_sheet(SCREENSHOTS / "pages.png")


def _missing():
    try:
        import jupyterlab
        import playwright
    except ImportError as error:
        return f"{error.name} is not installed: pip install -e '.[lab,browser]'"
    assert jupyterlab
    assert playwright
    return "" if CHROMIUM else "no Chromium is found: apt-get install chromium"


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    with running_lab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture(scope="session")
def chromium():
    if missing := _missing():
        pytest.fail(f"WSKIT_REQUIRE_BROWSER=1, and {missing}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def tab(chromium):
    """A page with a list of what went wrong in it."""
    page = chromium.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(WAIT)
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(f"page error: {error}"))

    def note(message):
        where = f"{message.text} {message.location.get('url', '')}"
        if message.type == "error" and not any(word in where for word in _HARMLESS):
            page.problems.append(f"console error: {where}")

    page.on("console", note)
    yield page
    page.close()


@pytest.fixture(scope="module")
def notebook(request, tab, lab):
    """The page of a notebook of the test file's CELLS, after they have run."""
    name = f"{request.module.__name__}.ipynb"
    lab.write(name, *request.module.CELLS)
    run_all(tab, lab, name)
    yield tab
    shut_down(lab)


@pytest.fixture
def page(request, notebook):
    """That page with the test file's PANEL; it must come through the test without an error."""
    notebook.panel = notebook.locator(request.module.PANEL).first
    notebook.panel.scroll_into_view_if_needed()
    yield notebook
    assert notebook.problems == []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Keep what the page shows when a test fails."""
    report = yield
    page = item.funcargs.get("page", item.funcargs.get("tab"))
    if report.when == "call" and report.failed and page is not None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{item.name}.png")
    return report
