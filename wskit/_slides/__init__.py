"""``wskit slides``: a tutorial's slides as one file, which asks nothing of any other place.

nbconvert makes them, with the template beside this file; reveal.js and MathJax are put into the
page, from the packages that bring them.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib import util
from pathlib import Path
from typing import Any

from wskit import course
from wskit.errors import WskitError

NOT_ON_THE_SLIDE = "<!-- not on the slide -->"
REVEAL, MATHJAX = "sphinx_revealjs", "sphinx-mathjax-offline"
_REMEDY = "pip install 'wskit[publish]'"
_FOLD = re.compile(r"</?details>|<summary>.*?</summary>", re.DOTALL)
_LINK_TO_TUTORIAL = re.compile(r"\[([^\]]+)\]\(\d\d_\w+\.ipynb[^)]*\)")


def write_slides(destination: str | os.PathLike[str], names: Sequence[str] = ()) -> list[Path]:
    """Write the slides of tutorials, each as ``NN_name.slides.html``.

    Parameters
    ----------
    destination
        The folder; it is made if there is none. Slides that are there are replaced.
    names
        Of the tutorials, or how they begin (``01``); without any, all.

    Returns
    -------
    list of Path

    Raises
    ------
    WskitError
        If a name is unknown, a tutorial has no slides, something is not installed, or the folder
        cannot be written.
    """
    pages = {path.stem: page(path) for path in _chosen(names)}
    folder, written = Path(destination), []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stem, text in pages.items():
            target = folder / f"{stem}.slides.html"
            temporary = target.with_name(f".{target.name}.part")
            temporary.write_text(text, encoding="utf-8")
            written.append(temporary.replace(target))
    except OSError as error:
        raise WskitError(f"cannot write the slides to {folder}: {error}") from error
    return written


def page(path: Path) -> str:
    """Return the slides of an executed notebook as one HTML page.

    Raises
    ------
    WskitError
        If no cell begins a slide, or something is not installed.
    """
    try:
        import nbformat
        from nbconvert import SlidesExporter
        from traitlets.config import Config
    except ImportError as error:
        raise WskitError(f"expected nbconvert, found none ({error}): {_REMEDY}") from error
    reveal = _installed(REVEAL) / "_static" / "revealjs"
    mathjax = _installed(MATHJAX) / "static" / "mathjax"
    notebook = as_slides(nbformat.read(path, as_version=4), path.name)
    exporter = SlidesExporter(
        config=Config({"CSSHTMLHeaderPreprocessor": {"style": "friendly"}}),
        template_name="template",
        extra_template_basedirs=[str(Path(__file__).parent)],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
        embed_images=True,
    )
    scripts = reveal / "dist/reveal.js", reveal / "plugin/notes/notes.js", mathjax / "tex-svg.js"
    deck = {
        "title": _title(notebook, path.stem),
        "reveal_css": _text(reveal / "dist/reveal.css"),
        "scripts": [_within_a_page(_text(script)) for script in scripts],
    }
    where = {"name": path.stem, "path": str(path.parent)}
    html: str = exporter.from_notebook_node(notebook, {"metadata": where, "deck": deck})[0]
    return html


def as_slides(notebook: Any, name: str) -> Any:
    """Return a notebook whose tags are nbconvert's own, and of which only what is shown is left.

    Parameters
    ----------
    notebook
        As nbformat reads it; it stays as it is.
    name
        What an error calls it.

    Raises
    ------
    WskitError
        If no cell begins a slide.
    """
    shown = deepcopy(notebook)
    begun = False
    for cell, whole in zip(shown.cells, notebook.cells, strict=True):
        tags = set(cell.metadata.get("tags", []))
        kind = "skip"
        if "slide" in tags:
            kind, begun = "slide", True
        elif begun and "slide-more" in tags:
            kind = "-"
        elif begun and "teacher" in tags:
            kind = "notes"
        cell.metadata.slideshow = {"slide_type": kind}
        if cell.cell_type == "markdown":
            cell.source = _FOLD.sub("", cell.source.partition(NOT_ON_THE_SLIDE)[0]).strip()
            cell.source = _LINK_TO_TUTORIAL.sub(r"\1", cell.source)
        elif cell.cell_type == "code":
            cell.metadata.transient = {"remove_source": "show-input" not in tags}
            cell.outputs = [o for o in cell.outputs if _fit_for_a_slide(o, whole)]
    if not begun:
        raise WskitError(f"expected cells tagged 'slide' in {name}, found none: it has no slides")
    return shown


def _fit_for_a_slide(output: Any, cell: Any) -> bool:
    """Give a picture its text, take that text out of what is printed, and tell if any is left."""
    data: Mapping[str, str] = output.get("data", {})
    if "image/png" in data:
        head = base64.b64decode(data["image/png"])[:24]
        output.metadata.height = int.from_bytes(head[20:24], "big")
        output.metadata.alt = course.picture_text(cell, output)
    elif output.output_type == "stream":
        output.text = course.without_descriptions(output.text).strip("\n")
        lines, alone = output.text.splitlines(), len(cell.outputs) == 1
        output.large = alone and len(lines) <= 10 and max(map(len, lines), default=0) <= 66
        return bool(output.text)
    return True


def _chosen(names: Sequence[str]) -> list[Path]:
    tutorials = course.tutorials()
    for name in names:
        if not any(path.stem.startswith(name) for path in tutorials):
            known = ", ".join(path.stem for path in tutorials)
            raise WskitError(f"expected a tutorial's name, got {name!r}: there are {known}")
    return [path for path in tutorials if not names or path.stem.startswith(tuple(names))]


def _installed(package: str) -> Path:
    """Return the folder of a package that is there for its files and is not imported."""
    spec = util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise WskitError(f"expected {package}, which is not installed: {_REMEDY}")
    return Path(spec.submodule_search_locations[0])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise WskitError(f"expected {path.name} in {path.parent} ({error}): {_REMEDY}") from error


def _within_a_page(script: str) -> str:
    """Write a script so that nothing in it ends, or seems to nest, a page's <script>."""
    return re.sub(r"<(?=/script|!--)", r"\\x3c", script, flags=re.IGNORECASE)


def _title(notebook: Any, default: str) -> str:
    found = re.search(r"^# (.+)$", notebook.cells[0].source, re.MULTILINE)
    return found[1] if found else default
