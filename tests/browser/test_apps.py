"""``wskit app``: each page started, drawn, moved by keyboard, closed; nothing asked elsewhere."""

import re

import pytest
from app_kit import elsewhere, running_app, watch
from lab_kit import WAIT, cut_off, poll, says

pytest.importorskip("voila", reason="pip install -e '.[app]'")

# Of each app: its panel, the key that moves its first slider, and the number that follows.
APPS = {
    "esd": (".wskit-esd-explorer", "ArrowLeft", "α"),
    "zoo": (".wskit-zoo-explorer", "ArrowRight", "status"),
    "regions": (".wskit-region-explorer", "ArrowRight", "loss"),
    "swa": (".wskit-swa-explorer", "ArrowRight", "average"),
    # To 0: a little less of an ingredient may leave both accuracies of the picture as they are.
    "soups": (".wskit-soup-kitchen", "Home", "held out loss"),
}


@pytest.fixture(scope="module", params=APPS)
def app(request, tab, tmp_path_factory):
    """A running app with its page opened; in the end nothing of it is left."""
    with running_app(tmp_path_factory.mktemp(request.param), request.param) as app:
        app.name = request.param
        watch(tab, app)
        answer = tab.goto(app.address, wait_until="commit")
        app.policy = answer.headers["content-security-policy"]
        tab.locator(f"{APPS[app.name][0]} img").first.wait_for()
        yield app
        assert len(app.kernels()) == 1
        tab.goto("about:blank")
        poll(tab, lambda: app.kernels() == [], "the kernel to end with its page")
        assert app.interrupt() == (0, [])
        assert list(app.temporary.iterdir()) == []
        assert list(app.folder.iterdir()) == []


@pytest.fixture
def page(app, tab):
    """The page, which must have come through the test without an error."""
    yield tab
    assert tab.problems == []
    assert elsewhere(app) == []


def panel(page, app):
    return page.locator(APPS[app.name][0])


def number(page, app):
    """What the kernel says, not the browser."""
    name = APPS[app.name][2]
    if name == "status":
        return panel(page, app).get_by_role("status").inner_text()
    row = panel(page, app).get_by_role("row").filter(has_text=re.compile(f"^{name}"))
    return row.first.locator("td").first.inner_text()


def test_a_key_moves_number_and_picture(page, app):
    picture = panel(page, app).locator("img").first
    before, drawn = number(page, app), picture.get_attribute("src")
    assert before
    assert picture.get_attribute("alt")
    panel(page, app).get_by_role("slider").first.focus()
    for _ in range(3):
        page.keyboard.press(APPS[app.name][1])
    poll(page, lambda: number(page, app) != before, "the number to move")
    poll(page, lambda: picture.get_attribute("src") != drawn, "the picture to move")


@pytest.mark.parametrize("width", [700, 1300])
def test_nothing_is_cut_off(page, app, width):
    assert cut_off(page, page.locator("#rendered_cells"), width) == []


def test_what_one_reads(page, app):
    title = page.locator("h1").inner_text()
    assert page.title() == title
    assert page.get_by_text("A goal:").is_visible()
    assert page.locator("pre", has_text="from wskit import").is_hidden()
    page.get_by_text("Show code").click()
    assert "widgets." in page.locator("pre", has_text="from wskit import").inner_text()
    page.get_by_text("Show code").click()


def test_it_is_for_whoever_has_the_token(page, app):
    assert len(app.requests) > 10, "the requests are watched"
    for path in ("/", "/?token=wrong", f"/{app.name}.ipynb"):
        assert app.ask(path) == (200, "/login")
    assert app.ask("/", Host="elsewhere.example")[0] == 403
    for path in (f"/{app.name}.ipynb", f"/voila/files/{app.name}.ipynb", "/voila/files/open.html"):
        assert page.request.get(app.origin + path).status in (403, 404), "with the token"
    assert app.policy.startswith("default-src 'self'")


def test_it_is_dark_where_the_browser_is(page, app):
    def background():
        return page.locator("#rendered_cells").evaluate("e => getComputedStyle(e).backgroundColor")

    light = background()
    page.emulate_media(color_scheme="dark")
    assert background() != light
    page.emulate_media(color_scheme="light")
    assert background() == light


@pytest.mark.parametrize("app", ["soups"], indirect=True)
def test_what_is_saved_is_where_the_command_was_given(page, app):
    box = panel(page, app).get_by_role("textbox", name="File", exact=True)
    assert box.input_value() == "soup.safetensors"
    panel(page, app).get_by_role("button", name="Save…").click()
    says(page, panel(page, app), " is written to ")
    (app.folder / "soup.safetensors").unlink()


def test_a_file_that_is_damaged_is_one_sentence(chromium, tmp_path):
    damaged = tmp_path / "<b>net.safetensors"
    damaged.write_bytes(b"not weights")
    page = chromium.new_page()
    with running_app(tmp_path, "esd", damaged) as app:
        page.goto(app.address, wait_until="commit")
        problem = page.get_by_role("alert")
        problem.wait_for(timeout=WAIT)
        assert str(damaged) in problem.inner_text()
        assert "\n" not in problem.inner_text().strip()
        assert "Traceback" not in page.content()
        assert len(app.kernels()) == 1
        assert app.interrupt() == (0, []), "with the page open"
        assert list(app.temporary.iterdir()) == []
    page.close()
