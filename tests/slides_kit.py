"""A small tutorial with every kind of slide, for the tests of the slides and of the site."""

import base64
import io
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image

DESCRIBED = "Axes 'a tail': x 'value' log, y 'density' linear\n  line 'fit': 9 points, x 1 to 9"
LAW = "## Its exponent\n\n$$ \\alpha = 1 + n / \\sum_i \\ln \\lambda_i $$"
ANSWER = "<details><summary>For the teacher</summary>\n\n1. Because of chance, $x^2$.\n\n</details>"


def write_tutorial(folder: Path, name: str = "00_small") -> Path:
    """Write an executed notebook of four slides."""
    path = folder / f"{name}.ipynb"
    about = {"language_info": {"name": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=_cells(), metadata=about), path)
    return path


def _cells() -> list[Any]:
    text, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    printed = nbformat.v4.new_output("stream", name="stdout", text=f"alpha 2.50\n{DESCRIBED}\n")
    figure = nbformat.v4.new_output(
        "display_data", {"image/png": png(640, 400), "text/plain": "<Figure size 640x400>"}
    )
    alone = nbformat.v4.new_output("stream", name="stdout", text="alpha 3.00\n")
    panel = nbformat.v4.new_output(
        "execute_result", {"image/png": png(300, 200), "text/plain": "A panel: layer 'a'"}
    )
    table = nbformat.v4.new_output(
        "display_data", {"text/markdown": "| claim | seen |\n|---|---|\n| heavier | 2.5 ± 0.1 |"}
    )
    return [
        _tagged(
            text(
                "# 00. A tail\n\n**It is heavy.** See [the next](01_esd.ipynb).\n\n"
                "<!-- not on the slide -->\n\n| hidden | table |\n|---|---|"
            ),
            "slide",
        ),
        _tagged(code("import secret_set_up"), "setup"),
        _tagged(text(LAW), "slide"),
        _tagged(code("fit_and_draw()", outputs=[printed, figure]), "slide-more"),
        _tagged(code("panel", outputs=[panel]), "slide", "show-input"),
        _tagged(code("# Solution 1.1 (click to open)\nnot_for_the_room()"), "solution"),
        _tagged(code("claims()", outputs=[table]), "slide-more", "claims"),
        _tagged(code("print(alpha)", outputs=[alone]), "slide-more"),
        _tagged(text("## For discussion\n\n1. Why?"), "slide"),
        _tagged(text(ANSWER), "teacher"),
    ]


def _tagged(cell: Any, *tags: str) -> Any:
    cell.metadata.tags = list(tags)
    return cell


def png(width: int, height: int) -> str:
    """Return a grey picture of this size, as a notebook holds it."""
    file = io.BytesIO()
    Image.new("L", (width, height), 200).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
