"""Pictures of whole pages, and one sheet of them all: a row a page."""

import io
import math
from pathlib import Path

import matplotlib
from lab_kit import SCREENSHOTS
from PIL import Image, ImageDraw, ImageFont

PARTS = SCREENSHOTS / "pages"
_PART = {"width": 1300, "height": 2600}  # of a page, in points of the screen
_THUMB = 260  # wide, on the sheet
_GAP, _LETTERS = 12, 24


def photograph(page, name):
    """Keep what a notebook's page shows from top to bottom, in several parts."""
    PARTS.mkdir(parents=True, exist_ok=True)
    for old in PARTS.glob(f"{name}-*.jpg"):
        old.unlink()
    before = page.viewport_size
    page.set_viewport_size(_PART)
    scroller = page.locator(".jp-WindowedPanel-outer").first
    whole, seen = scroller.evaluate(  # below the last cell JupyterLab leaves a blank screen
        """e => {
            const last = [...e.querySelectorAll('.jp-Cell')].at(-1).getBoundingClientRect();
            const top = e.getBoundingClientRect().top - e.scrollTop;
            return [last.bottom - top, e.clientHeight];
        }"""
    )
    for i in range(math.ceil(whole / seen)):
        scroller.evaluate(
            """(e, top) => new Promise(done => {
                e.scrollTop = top;
                requestAnimationFrame(() => requestAnimationFrame(done));
            })""",
            i * seen,
        )
        image = scroller.screenshot(type="jpeg", quality=70)
        (PARTS / f"{name}-{i:02}.jpg").write_bytes(image)
    page.set_viewport_size(before)


def make_sheet(target):
    """Put the parts of all pages on one sheet, with a name over each row."""
    rows = {}
    for path in sorted(PARTS.glob("*.jpg")):
        rows.setdefault(path.stem.rpartition("-")[0], []).append(_thumb(path))
    if not rows:
        return
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    font = ImageFont.truetype(str(fonts / "DejaVuSans.ttf"), _LETTERS)
    heights = {name: max(part.height for part in parts) for name, parts in rows.items()}
    most = max(map(len, rows.values()))
    label = _LETTERS + _GAP
    size = (
        _GAP + most * (_THUMB + _GAP),
        _GAP + sum(height + label + _GAP for height in heights.values()),
    )
    sheet = Image.new("RGB", size, "white")
    draw, y = ImageDraw.Draw(sheet), _GAP
    for name, parts in rows.items():
        draw.text((_GAP, y), f"{name}, {len(parts)} parts", font=font, fill="black")
        y += label
        for i, part in enumerate(parts):
            x = _GAP + i * (_THUMB + _GAP)
            draw.rectangle((x - 1, y - 1, x + part.width, y + part.height), outline="grey")
            sheet.paste(part, (x, y))
        y += heights[name] + _GAP
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    target.write_bytes(buffer.getvalue())


def _thumb(path):
    with Image.open(path) as part:
        height = round(part.height * _THUMB / part.width)
        return part.convert("RGB").resize((_THUMB, height), Image.Resampling.LANCZOS)
