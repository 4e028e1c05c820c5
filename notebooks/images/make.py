"""Make the pictures of README.md and of the site's start page, and fill in what was measured.

    python notebooks/images/make.py

``esd.png`` is drawn by the first snippet of README.md, which is kept in the file, if the public
ResNet-20 is in the cache, in a mirror folder or can be downloaded. The other pictures are taken,
byte for byte, from the executed tutorials. How long a tutorial takes to read is in its opening
table; how long to run, and in how much memory, in ``notebooks/timings.json``.
"""

from __future__ import annotations

import base64
import contextlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from notebooks.build import in_words, measured  # noqa: E402 - of this checkout, whatever is installed
from wskit import WskitError  # noqa: E402

# The tutorial, and what is in the cell that draws it.
TAKEN = {
    "accuracy.png": ("02_predicting_accuracy", "plots.plot_predictions("),
    "region.png": ("03_knowledge_regions", "widgets.RegionExplorer("),
    "swa.png": ("04_swa", "widgets.SwaExplorer("),
    "soups.png": ("05_model_soups", "plots.plot_soup_scores("),
}
DRAWN = "esd.png"
BADGES = {"binder.svg": ("Open in Binder", "#a64c00"), "colab.svg": ("Open in Colab", "#1f5fa8")}
README, TEACHING = ROOT / "README.md", ROOT / "notebooks" / "TEACHING.md"
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
# What, beside what, and where that stands in RESULTS.md: part, row, column.
FIGURES = [
    ("A power law fitted to 4 096 eigenvalues", "powerlaw 1.5",
     ("spectral: fits", "power law, n = 4096, powerlaw 1.5", "ratio")),
    ("The table of a ResNet-20's layers", "WeightWatcher 0.7.7",
     ("spectral: layers", "ResNet-20, spectral_table, analyze()", "ratio")),
    ("The same with a Marchenko-Pastur law and a shuffled null", "WeightWatcher 0.7.7",
     ("spectral: layers", "ResNet-20 with null, analyze(PL, mp_fit, randomize), once", "ratio")),
    ("A layer of 4 096 × 4 096", "WeightWatcher 0.7.7",
     ("spectral: large", "4096 x 4096, analyze(), once", "ratio")),
    ("A small CNN, trained with 31 others", "PyTorch, one by one, fused Adam",
     ("zoo: ratio", "SmallCNN, fused Adam", "ratio")),
    ("A small CNN, trained with 4 095 others on a GPU", "PyTorch on that GPU, one by one",
     ("gpu: zoo", "SmallCNN | GPU | 4096", "plain loop, fused")),
    ("Spectra of a transformer block of 4 096 on a GPU", "the same on 16 CPU cores",
     ("gpu: spectra", "7B, one block of 32", "ratio")),
    ("Distances between 200 models of a million parameters", "a loop over state dicts, float32",
     ("geometry: distances", "state dicts, float32", "ratio")),
    ("101 million parameters added to a running mean", "torch's AveragedModel",
     ("averaging: add", "24 x Linear(2048, 2048), AveragedModel", "ratio")),
    ("101 million parameters added to a running mean", "the same with its fast `multi_avg_fn`",
     ("averaging: add", "24 x Linear(2048, 2048), with multi_avg_fn", "ratio")),
]  # fmt: skip
ROW = re.compile(
    r"^(\| \[.*?\]\(notebooks/(\d\d_\w+)\.ipynb\) \| .*?) \| .*? \| .*? \|$", re.MULTILINE
)


def snippets() -> list[str]:
    """Return the Python of README.md."""
    text = README.read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def with_times(text: str) -> str:
    """Return README.md's text with the times that the tutorials take in its table."""
    timings = measured(ROOT / "notebooks")

    def row(match: re.Match[str]) -> str:
        head, name = match.groups()
        first = _read(name).cells[0].source
        reading = re.search(r"\*\*Time[^|]*\| (\d+ minutes)", first)
        assert reading is not None, f"{name} does not say how long it takes to read"
        return f"{head} | {reading[1]} | {in_words(timings[name]['seconds'])} |"

    return ROW.sub(row, text)


def figure(part: str, row: str, column: str) -> str:
    """Return a cell of RESULTS.md.

    Raises
    ------
    LookupError
        If it is not there.
    """
    text = RESULTS.read_text(encoding="utf-8")
    head: list[str] = []
    for line in text.partition(f"<!-- {part} -->")[2].partition("<!-- end of")[0].splitlines():
        cells = line.strip("| ").split(" | ")
        if column in cells:
            head = cells
        elif head and line.startswith(f"| {row} | "):
            return cells[head.index(column)]
    raise LookupError(f"RESULTS.md has no row {row!r} with {column!r} in its part {part!r}")


def with_figures(text: str) -> str:
    """Return README.md's text with what the benchmarks measured in its table."""
    rows = [f"| {what} | {beside} | {figure(*where)} |" for what, beside, where in FIGURES]
    table = "\n".join(["| what | beside | times as fast |", "|---|---|---|", *rows])
    return re.sub(
        r"(?<=<!-- figures -->\n).*?(?=<!-- end of the figures -->)",
        f"\n{table}\n\n",
        text,
        flags=re.DOTALL,
    )


def with_measures(text: str) -> str:
    """Return TEACHING.md's text with the time and the memory that each tutorial takes."""
    found = sorted(measured(ROOT / "notebooks").items())
    rows = [
        f"| [{name}]({name}.ipynb) | {page['seconds']:.0f} | {page['mib']:.0f} |"
        for name, page in found
    ]
    table = "\n".join(["| | seconds | MiB |", "|---|---|---|", *rows])
    text = re.sub(r"(?<=<!-- measured -->\n).*", f"\n{table}\n", text, flags=re.DOTALL)
    peak = max(page["mib"] for _, page in found)
    return re.sub(r"up to \S+ MiB", f"up to {peak:.0f} MiB", text)


def badge(name: str) -> bytes:
    """Return a small picture that says what a link does."""
    text, colour = BADGES[name]
    width = 16 + 7 * len(text)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="22" role="img" '
        f'aria-label="{text}"><rect width="{width}" height="22" rx="4" fill="{colour}"/>'
        f'<text x="{width / 2}" y="15.5" fill="#fff" font-family="Verdana,sans-serif" '
        f'font-size="12" text-anchor="middle">{text}</text></svg>\n'
    ).encode()


def _read(name: str) -> Any:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def taken(name: str) -> bytes:
    """Return a picture as the executed tutorial holds it.

    Raises
    ------
    LookupError
        If no cell of the tutorial draws it.
    """
    tutorial, code = TAKEN[name]
    for cell in _read(tutorial).cells:
        if cell.cell_type == "code" and code in cell.source:
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    return base64.b64decode(output.data["image/png"])
    raise LookupError(f"{name}: no cell of {tutorial}.ipynb has {code!r} and a picture")


def drawn() -> bytes:
    """Run the first snippet of README.md; return its picture, with the snippet in it.

    Raises
    ------
    WskitError
        If the ResNet-20 cannot be had.
    """
    from matplotlib import pyplot as plt

    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(snippets()[0], names)
    file = io.BytesIO()
    names["ax"].figure.savefig(file, dpi=100, metadata={"Source": snippets()[0]})
    plt.close(names["ax"].figure)
    return file.getvalue()


def make() -> Iterator[str]:
    """Write what has changed; yield what was done."""
    files = {HERE / name: taken(name) for name in TAKEN}
    files |= {HERE / name: badge(name) for name in BADGES}
    files[README] = with_figures(with_times(README.read_text(encoding="utf-8"))).encode()
    files[TEACHING] = with_measures(TEACHING.read_text(encoding="utf-8")).encode()
    for path, content in files.items():
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
            yield f"{path.name}: new"
    try:
        content = drawn()
    except WskitError as error:
        yield f"{DRAWN}: left as it was ({error})"
    else:
        (HERE / DRAWN).write_bytes(content)
        yield f"{DRAWN}: drawn"


if __name__ == "__main__":
    for line in make():
        print(line)
