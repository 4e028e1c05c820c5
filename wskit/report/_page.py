"""A report as one page that needs nothing else, by the template beside this file."""

import base64
import io
import os
import warnings
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import jinja2
import matplotlib as mpl
import pandas as pd
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wskit import plots
from wskit._base.files import explain_write_errors, write_atomically
from wskit._texts import DASH, printable, shorten, size_text
from wskit.errors import ReportError
from wskit.report._examine import Report, Specimen

# Nothing is loaded and no script runs, whatever a tensor's name says.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"
MARK = '<meta name="generator" content="wskit report">'
_HEAD = 1000  # bytes of a page that hold its mark
_DPI = 144  # an inch is 100 points of the page: sharp on a dense screen, and still small

MOST_ROWS = 2000
"""Rows of a table that the page shows, at the most; the file beside it has all."""

# Of the columns that a table shows: the title, and the format. Files have all columns.
COLUMNS = {
    "verdict": ("Verdict", "{}"),
    "remarks": ("Remarks", "{}"),
    "kind": ("Kind", "{}"),
    "shape": ("Shape", "{}"),
    "dtype": ("dtype", "{}"),
    "size": ("Size", "{}"),
    "n_parameters": ("Parameters", "{:,}"),
    "n_eigenvalues": ("Eigenvalues", "{:,}"),
    "alpha": ("α", "{:.2f}"),
    "sigma": ("± error", "{:.2f}"),
    "n_tail": ("In the tail", "{:,}"),
    "ks": ("KS", "{:.3f}"),
    "n_spikes": ("Spikes", "{:,}"),
    "stable_rank": ("Stable rank", "{:.2f}"),
    "rank": ("Rank", "{:.0f}"),
    "log_norm": ("log₁₀ ‖W‖²", "{:.2f}"),
    "phase": ("Phase", "{}"),
    "n_neurons": ("Neurons", "{:,}"),
    "n_dead": ("Dead", "{:,}"),
    "d": ("Entries", "{:,}"),
    "correlation": ("Mean |cos|", "{:.4g}"),
    "chance": ("By chance", "{:.4g}"),
    "excess": ("Excess", "{:.4g}"),
    "distance": ("Distance", "{:.4g}"),
    "relative": ("Of its length", "{:.2%}"),
    "angle": ("Angle (°)", "{:.2f}"),
    "norm": ("Length", "{:.4g}"),
    "other_norm": ("Of the other", "{:.4g}"),
    "bytes": ("Bytes", "{:,}"),
    "sha256": ("sha256", "{}"),
    "reason": ("Why not", "{}"),
}


def write_report(report: Report, path: str | os.PathLike[str]) -> Path:
    """Write a report as one HTML file that loads nothing and runs nothing.

    It is written beside its target and moved into place when it is whole. A file that is there
    is replaced only if it is an earlier report.

    Parameters
    ----------
    report : Report
        Of `examine`.
    path : str or path
        The target, whose suffix is ``.html``, in a folder that exists.

    Returns
    -------
    Path
        The target's path.

    Raises
    ------
    ReportError
        If the suffix or the folder is not as said, another file is there, or it cannot be written.

    Examples
    --------
    >>> import tempfile, torch
    >>> from wskit.report import examine
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_report(examine({"fc.weight": torch.eye(4)}), f"{folder}/report.html")
    ...     path.read_text(encoding="utf-8")[:15]
    '<!DOCTYPE html>'
    """
    target = check_target(path)
    content = make_page(report).encode("utf-8")
    with write_atomically(target, ReportError) as file:
        file.write(content)
    return target


def check_target(path: str | os.PathLike[str]) -> Path:
    """Return where `write_report` would write; raise `ReportError` as it does."""
    target = Path(path).expanduser()
    if target.suffix.lower() not in (".html", ".htm"):
        raise ReportError(f"{target}: expected a name that ends in .html; a report is a web page")
    with explain_write_errors(target, ReportError):
        has_parent, is_taken = target.parent.is_dir(), target.exists() and not _is_report(target)
    if not has_parent:
        raise ReportError(f"{target}: expected the folder {target.parent} to exist; make it first")
    if is_taken:
        raise ReportError(
            f"{target}: expected a new name or an earlier report, found something else; choose "
            "another name"
        )
    return target


def _is_report(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return MARK.encode() in file.read(_HEAD)


def make_page(report: Report) -> str:
    """Return the page as text; whatever a name or a value holds is escaped by the template."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else printable(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    alpha = report.spectral["alpha"][report.spectral["warning"] == ""].median()
    source = report.origin.source
    return environment.get_template("page.html.j2").render(
        report=report,
        compared=report.comparison,
        policy=POLICY,
        mark=Markup(MARK),
        title=f"Weights in memory ({source})"
        if report.origin.files.empty
        else PurePath(source).name or source,
        alpha=DASH if pd.isna(alpha) else f"{alpha:.2f}",
        draw_depth=_draw_depth,
        draw_spectrum=_draw_spectrum,
        make_table=_make_table,
        save_link=_save_link,
        size_text=size_text,
    )


def _make_table(rows: pd.DataFrame, caption: str) -> Markup:
    """Return a table in HTML, whose first column names the rows."""
    if len(rows) > MOST_ROWS:
        caption += f" Of {len(rows)} rows, the first {MOST_ROWS}."
        rows = rows[:MOST_ROWS]
    if "n_matrices" in rows:
        sizes = [size_text(row) if row.M else "" for row in rows.itertuples()]
        rows = rows.assign(size=sizes)
    written = pd.DataFrame(
        {
            title: [_write(value, form) for value in rows[name]]
            for name, (title, form) in COLUMNS.items()
            if name in rows
        },
        index=[printable(name) for name in rows.iloc[:, 0]],
    )
    written.columns.name = str(rows.columns[0]).capitalize()
    with pd.option_context("display.max_colwidth", None):
        html = written.to_html(border=0, escape=True)
    return Markup(html.replace("<thead>", f"<caption>{escape(caption)}</caption><thead>", 1))


def _write(value: Any, form: str) -> str:
    if isinstance(value, tuple):  # a shape
        return " × ".join(map(str, value)) or "scalar"
    return DASH if pd.isna(value) or value == "" else printable(form.format(value))


def _save_link(data: pd.DataFrame) -> str:
    """Return an address under which all columns and rows are saved as CSV."""
    text = data.to_csv(index=False).encode("utf-8", "backslashreplace")
    return f"data:text/csv;base64,{base64.b64encode(text).decode()}"


def _draw_spectrum(specimen: Specimen) -> Mapping[str, Any]:
    """Draw a layer's spectrum with the laws that were fitted to it."""

    def draw(ax: Axes) -> None:
        # Of a spectrum whose rest is zero, no law says anything.
        collapsed = specimen.laws.phase == "rank-collapse"
        plots.plot_esd(
            specimen.spectrum,
            fit=None if collapsed else specimen.laws.tail,
            mp=None if collapsed else specimen.laws.mp,
            null=specimen.null,
            ax=ax,
        )
        ax.set_title("")  # the page has it
        ax.legend(ncols=2, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1)

    return _draw(draw, (5.6, 4.2), f"Spectrum of {specimen.name}.")


def _draw_depth(table: pd.DataFrame, metric: str, x: str, y: str, about: str) -> Mapping[str, Any]:
    """Draw a column of a table from the first row to the last; `x` and `y` name the axes."""

    def draw(ax: Axes) -> None:
        named = table.assign(name=[shorten(printable(name)) for name in table["name"]])
        plots.plot_metric_by_depth(named, metric=metric, ax=ax)
        ax.set(xlabel=x, ylabel=y)
        if len(ax.get_legend_handles_labels()[0]) == 1:
            ax.get_legend().remove()

    return _draw(draw, (9.0, 4.4 if len(table) <= 30 else 3.6), about)


def _draw(draw: Any, size: tuple[float, float], about: str) -> Mapping[str, Any]:
    """Return the attributes of an image: its PNG as an address, its size, and what it shows."""
    figure, png = Figure(figsize=size, layout="constrained"), io.BytesIO()
    with mpl.rc_context(plots.STYLE), warnings.catch_warnings():
        # A letter of a name that the font has not is a box; the page's text has it.
        warnings.filterwarnings("ignore", message="Glyph")
        draw(figure.subplots())
        figure.savefig(png, format="png", dpi=_DPI, metadata={"Software": None})
    lines = f"{about} {plots.describe(figure)}".split("\n")
    return {
        "src": f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}",
        "width": round(100 * size[0]),
        "height": round(100 * size[1]),
        "alt": Markup("&#10;").join(escape(printable(line)) for line in lines),
    }
