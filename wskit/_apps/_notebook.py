"""A page's text as the notebook that is served."""

import re
from pathlib import Path
from typing import Any

_PAGES = Path(__file__).with_name("pages")
_CODE = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
_SOURCE = "SOURCE"  # stands in the code for the user's own file


def notebook(name: str, source: str | None = None) -> dict[str, Any]:
    """Return the notebook of the page `name`, or of the one for the user's own `source`."""
    page = _PAGES / (f"{name}.md" if source is None else f"{name}_own.md")
    cells = []
    for place, text in enumerate(_CODE.split(page.read_text("utf-8"))):
        cell: dict[str, Any] = {"id": f"cell-{place}", "metadata": {}, "source": text.strip()}
        if place % 2 == 0:  # what is between two pieces of code
            cell["cell_type"] = "markdown"
        else:
            cell |= {"cell_type": "code", "execution_count": None, "outputs": []}
            cell["source"] = cell["source"].replace(_SOURCE, repr(source))
        if text.strip():
            cells.append(cell)
    title = cells[0]["source"].splitlines()[0].removeprefix("# ")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"title": title, "kernelspec": kernel}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
