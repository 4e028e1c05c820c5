"""The static site of the tutorials, ``make site``: nothing is run, nothing comes from elsewhere."""

import json
import tomllib
from pathlib import Path

from wskit import __version__

NOTEBOOKS = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((NOTEBOOKS.parent / "pyproject.toml").read_text(encoding="utf-8"))
REPOSITORY = PROJECT["project"]["urls"]["Repository"]

project, author, release = "wskit", "The wskit developers", __version__
html_title = "Weight space learning, hands on"
include_patterns = ["index.md", "[0-9][0-9]_*.ipynb"]
extensions = ["myst_nb", "sphinx-mathjax-offline"]

nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # else two scripts of other places
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

html_theme = "sphinx_book_theme"
html_theme_options = {
    "repository_url": REPOSITORY,
    "path_to_docs": "notebooks",
    "launch_buttons": {  # links, asked only by who clicks
        "binderhub_url": "https://mybinder.org",
        "colab_url": "https://colab.research.google.com",
    },
    "use_repository_button": True,
    "use_download_button": True,
    "show_toc_level": 2,
    "navbar_persistent": [],  # the search is in the sidebar
}
html_context = {"default_mode": "auto"}
html_copy_source = True
html_use_index = False
html_sourcelink_suffix = ""


def public(notebook):
    """Return a notebook as everybody may read it, with pictures that have a text."""
    cells = [c for c in notebook["cells"] if "teacher" not in c["metadata"].get("tags", [])]
    return notebook | {"cells": cells}


def picture_text(cell, output):
    """Return what stands for a picture: a panel's own text, or what the cell prints of a figure."""
    own = "".join(output["data"].get("text/plain", ""))
    if own and not own.startswith("<"):  # <Figure size 640x400 with 1 Axes>
        return own
    streams = (o for o in cell["outputs"] if o["output_type"] == "stream")
    printed = "".join("".join(stream["text"]) for stream in streams)
    return printed[max(printed.find("Axes"), 0) :]  # the lines of `wskit.plots.describe`, or all


def as_page(notebook):
    """Say in MyST-NB's own words what is folded, and what stands for a picture."""
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        metadata, first = cell["metadata"], "".join(cell["source"]).partition("\n")[0]
        tags, words = metadata.setdefault("tags", []), metadata.setdefault("mystnb", {})
        if {"solution", "hide-input"} & set(tags):
            tags.append("hide-cell" if "solution" in tags else "hide-input")
            name = first.lstrip("# ").partition(" (")[0]
            words |= {f"code_prompt_{verb}": f"{name}: {verb}" for verb in ("show", "hide")}
        for output in cell["outputs"]:
            if "image/png" in output.get("data", {}):
                words["image"] = {"alt": " ".join(picture_text(cell, output).split())}
    return notebook


def read(app, docname, source):
    """Change a notebook before it is parsed."""
    if docname != "index":
        source[0] = json.dumps(as_page(public(json.loads(source[0]))))


def write_downloads(app, error):
    """Write the notebooks that the pages offer."""
    if error is None:
        for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"):
            text = json.dumps(public(json.loads(path.read_text(encoding="utf-8"))), indent=1)
            (Path(app.outdir) / "_sources" / path.name).write_text(text + "\n", encoding="utf-8")


def setup(app):
    """Tell Sphinx what is done when."""
    app.connect("source-read", read)
    app.connect("build-finished", write_downloads)
