"""A report in a browser, from a file and without any server: read, printed, on a phone."""

import pytest
import torch

from wskit import report
from wskit.checkpoints import save_weights

HOSTILE = ["<img src=x onerror=alert(1)>", '"><script>alert(2)</script>', "javascript:alert(3)"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A report of weights whose names are those of an attacker, and one very long."""
    generator = torch.Generator().manual_seed(0)
    names = [*HOSTILE, f"model.{'layers.' * 20}weight", "fc.weight"]
    weights = {name: torch.randn(80, 60, generator=generator) for name in names}
    weights["nan.weight"] = torch.full((60, 60), torch.nan)
    folder = tmp_path_factory.mktemp("report")
    file = save_weights(
        weights, folder / "w.safetensors", metadata={HOSTILE[1] + "!": HOSTILE[0] + "!"}
    )
    other = {name: W + torch.randn(W.shape, generator=generator) for name, W in weights.items()}
    return report.write_report(report.examine(file, other=other), folder / "report.html")


@pytest.fixture
def page(tab, path):
    """The report; what it asked for, and what it opened."""
    tab.asked, tab.opened = [], []
    tab.problems.clear()
    tab.on("request", lambda request: tab.asked.append(request.url))
    tab.on("dialog", lambda dialog: (tab.opened.append(dialog.message), dialog.dismiss()))
    tab.goto(path.as_uri())
    return tab


def open_all(page):
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")


def test_nothing_runs_and_nothing_is_asked_for(page, path):
    open_all(page)
    page.wait_for_timeout(500)
    assert page.problems == []
    assert page.opened == []
    assert [url for url in page.asked if not url.startswith("data:image/png;")] == [path.as_uri()]
    assert page.locator("script").count() == 0
    text = page.locator("body").inner_text()
    assert all(name in text for name in HOSTILE)


def test_the_policy_would_stop_a_script(page):
    """Had a name become a tag, it would not have run."""
    page.evaluate(
        """() => {
            document.body.insertAdjacentHTML('beforeend', '<img src=x onerror="window.ran = 1">');
            const script = document.createElement('script');
            script.textContent = 'window.ran = 2';
            document.body.append(script);
        }"""
    )
    page.wait_for_timeout(500)
    assert page.evaluate("window.ran") is None
    assert any("Content Security Policy" in problem for problem in page.problems)


def test_pictures_are_whole_and_described(page):
    images = page.locator("img")
    assert images.count() > 4
    for image in images.all():
        assert image.evaluate("image => image.complete && image.naturalWidth > 0")
        assert len(image.get_attribute("alt")) > 40
    spectrum = page.get_by_role("img", name="Spectrum of fc.weight")
    assert spectrum.count() <= 1
    assert page.get_by_role("img", name="Alpha of each layer").count() == 1


def test_headings_and_tables_have_names(page):
    headings = page.get_by_role("heading", level=2).all_inner_texts()
    assert headings[0] == "In short"
    assert headings[-1] == "Where this comes from"
    assert page.get_by_role("heading", level=1).count() == 1
    summary = page.locator("summary", has_text="Remarks on 6 layers")
    summary.focus()
    page.keyboard.press("Enter")
    row = page.get_by_role("row", name="nan.weight").first
    assert "holds NaN or inf" in row.inner_text()
    assert page.get_by_role("region", name="What to say of each layer").is_visible()


@pytest.mark.parametrize("width", [400, 1300])
def test_nothing_is_cut_off(page, width):
    page.set_viewport_size({"width": width, "height": 1000})
    open_all(page)
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.evaluate(
        """width => [...document.querySelectorAll('body *')]
            .filter(part => !part.closest('.wide') || part.matches('.wide'))
            .filter(part => part.getBoundingClientRect().right > width + 1)
            .map(part => part.outerHTML.slice(0, 80))""",
        width,
    )
    page.set_viewport_size({"width": 1300, "height": 1000})
    assert outside == []


def test_dark_and_on_paper(page):
    """Text stands out from its ground in both; on paper, all tables are open."""
    for scheme, dark in (("light", False), ("dark", True)):
        page.emulate_media(color_scheme=scheme)
        ground, text = page.evaluate(
            """() => {
                const style = getComputedStyle(document.body);
                return [style.backgroundColor, style.color].map(
                    colour => colour.match(/\\d+/g).slice(0, 3).reduce((a, b) => +a + +b, 0));
            }"""
        )
        assert (ground < text) == dark
        assert abs(ground - text) > 500
    row = page.get_by_role("row", name="nan.weight").first
    assert not row.is_visible()
    page.emulate_media(color_scheme="dark", media="print")
    assert row.is_visible()
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colour == "rgb(255, 255, 255)"
    page.emulate_media(color_scheme="light", media="screen")
