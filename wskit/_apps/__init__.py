"""``wskit app``: a panel as a page of its own, served by Voila to this machine alone.

The pages are ``pages/*.md``: what one sees, and the code. The code runs when the page is opened, in
a kernel that ends with it.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from wskit.errors import WskitError

APPS = ("esd", "zoo", "regions", "swa", "soups")
_TAKES = {"esd": "a checkpoint", "zoo": "a zoo's folder"}
_PAGES = Path(__file__).with_name("pages")
_CODE = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
_SOURCE = "SOURCE"  # stands in the code for the user's own file


def serve_app(
    name: str, source: str | None = None, *, port: int | None = None, browser: bool = True
) -> None:
    """Serve a page until it is interrupted."""
    if source is not None and name not in _TAKES:
        takers = " and ".join(f"{app} takes {what}" for app, what in _TAKES.items())
        raise WskitError(f"the app {name} takes no file, got {source!r}; {takers}")
    if source is not None and Path(source).exists():
        source = str(Path(source).resolve())  # else a name of the data, or on the hub
    try:
        from wskit._apps._server import serve
    except ImportError as error:
        raise WskitError(
            f"expected Voila, which is not installed ({error}): pip install 'wskit[app]'"
        ) from error
    page = make_page(name, source)
    with tempfile.TemporaryDirectory(prefix="wskit-app-") as folder:
        path = Path(folder, f"{name}.ipynb")
        path.write_text(json.dumps(page), encoding="utf-8")
        serve(path, title=page["metadata"]["title"], port=port, browser=browser)


def make_page(name: str, source: str | None = None) -> dict[str, Any]:
    """Return the notebook of the page `name`, or of the one for the user's own `source`."""
    text = (_PAGES / (f"{name}.md" if source is None else f"{name}_own.md")).read_text("utf-8")
    cells = []
    for place, part in enumerate(_CODE.split(text)):
        cell: dict[str, Any] = {"id": f"cell-{place}", "metadata": {}, "source": part.strip()}
        if place % 2 == 0:  # what is between two pieces of code
            cell["cell_type"] = "markdown"
        else:
            cell |= {"cell_type": "code", "execution_count": None, "outputs": []}
            cell["source"] = cell["source"].replace(_SOURCE, repr(source))
        if part.strip():
            cells.append(cell)
    title = cells[0]["source"].splitlines()[0].removeprefix("# ")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"title": title, "kernelspec": kernel}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
