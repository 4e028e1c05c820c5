"""Slides in a browser: they work from the disk alone, and nothing on them is cut off."""

import pytest
from lab_kit import poll
from slides_kit import write_tutorial

from wskit import _slides, course

# What reaches beyond a page of 960 x 700, or is too small to be read at the back of a room.
FAULTS = """() => {
    const page = Reveal.getCurrentSlide().querySelector('.page');
    const frame = page.getBoundingClientRect(), found = [];
    const parts = [...page.querySelectorAll('h1, h2, h3, p, li, pre, td, th, img, mjx-container')];
    for (const part of parts.filter(part => !part.closest('aside, mjx-assistive-mml'))) {
        const box = part.getBoundingClientRect(), what = `${part.tagName} ${
            (part.innerText || part.alt || '').slice(0, 40)}`;
        if (box.width === 0) continue;
        if (box.bottom > frame.bottom - 20) found.push(`${what}: ends at ${box.bottom} of 700`);
        if (box.right > frame.right - 15 || part.scrollWidth > part.clientWidth + 1 && part.tagName
            === 'PRE') found.push(`${what}: ${Math.max(box.right, part.scrollWidth)} of 960 wide`);
        if (parseFloat(getComputedStyle(part).fontSize) < 17.5 && !part.querySelector('*'))
            found.push(`${what}: ${getComputedStyle(part).fontSize}`);
    }
    return found;
}"""
DECKS = [p for p in course.tutorials() if '"slide"' in p.read_text(encoding="utf-8")]


def open_deck(tab, path):
    """Show a deck at its own size; return what it asked of other places."""
    asked = []
    tab.on("request", lambda r: None if r.url.startswith(("data:", "file:")) else asked.append(r))
    tab.set_viewport_size({"width": 960, "height": 700})
    tab.problems.clear()
    tab.goto(f"{path.as_uri()}?margin=0")
    tab.wait_for_function("window.Reveal && Reveal.isReady()")
    return asked


@pytest.fixture
def page(tab, tmp_path):
    path = tmp_path / "small.slides.html"
    path.write_text(_slides.page(write_tutorial(tmp_path)), encoding="utf-8")
    tab.asked = open_deck(tab, path)
    return tab


def test_keys_go_on_and_back(page):
    assert page.evaluate("Reveal.getTotalSlides()") == 4
    assert page.locator("section.present h1").inner_text() == "00. A tail"
    page.keyboard.press("ArrowRight")
    assert page.locator("section.present h2").inner_text() == "Its exponent"
    page.keyboard.press("End")
    assert page.locator("section.present h2").inner_text() == "For discussion"
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("Reveal.getIndices().h") == 2
    assert page.locator(".slide-number").inner_text().split() == ["3", "/", "4"]
    assert not page.problems


def test_equations_are_typeset(page):
    page.keyboard.press("ArrowRight")
    equation = page.locator("section.present mjx-container svg").first
    box = equation.bounding_box()
    assert box["height"] > 30
    assert box["width"] > 150
    assert "$" not in page.locator("section.present").inner_text()


def test_notes_are_in_the_speaker_s_window(page):
    page.keyboard.press("End")
    with page.context.expect_page() as opened:
        page.keyboard.press("s")
    speaker = opened.value
    notes = speaker.locator(".speaker-controls-notes")
    poll(speaker, lambda: "Because of chance" in notes.inner_text(), "the notes")
    assert notes.locator("svg").count() == 1
    assert notes.locator("math").count() == 0, "the equation a second time"
    assert "Because of chance" not in page.locator("section.present").inner_text()
    speaker.close()


def test_nothing_is_asked_of_another_place(page):
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert page.asked == []
    assert not page.problems


def test_a_slide_that_is_too_full_is_found(page):
    page.locator("section.present p").evaluate("p => { p.innerText = 'more '.repeat(600); }")
    assert page.evaluate(FAULTS)


@pytest.mark.parametrize("path", DECKS, ids=lambda path: path.stem)
def test_no_slide_of_the_tutorials_is_too_full(tab, tmp_path, path):
    deck = tmp_path / f"{path.stem}.html"
    deck.write_text(_slides.page(path), encoding="utf-8")
    asked = open_deck(tab, deck)
    faults = []
    for number in range(tab.evaluate("Reveal.getTotalSlides()")):
        faults += [f"slide {number + 1}: {fault}" for fault in tab.evaluate(FAULTS)]
        tab.keyboard.press("ArrowRight")
    assert not faults, "\n".join(faults)
    assert asked == []
    assert not tab.problems
