"""What EsdExplorer shows beside its picture: numbers, links, the rows of the layer table."""

import base64
import html
import re
from collections.abc import Mapping

import pandas as pd

from wskit._texts import DASH, shorten, size_text
from wskit.fits import PowerLawFit
from wskit.widgets._esd_weights import Reading
from wskit.widgets._tables import list_lines, list_style

STYLE = f"""<style>{list_style("wskit-layers")}
.wskit-esd-explorer a {{
  color: var(--jp-content-link-color, #0366d6); text-decoration: underline; }}
</style>"""


def number_table(columns: Mapping[str, tuple[Reading, PowerLawFit | None]]) -> str:
    """Return the numbers as HTML; always the same rows, so that nothing jumps.

    A column for each reading, with its heading where there are several.
    """
    s = next(iter(columns.values()))[0].spectrum
    numbers = [_numbers(reading, fit) for reading, fit in columns.values()]
    style = 'style="text-align:left;font-weight:normal;padding-right:1.5em"'
    rows = "".join(
        f'<tr><th scope="row" {style}>{key}</th>'
        + "".join(f"<td {style}>{column[key] or DASH}</td>" for column in numbers)
        + "</tr>"
        for key in numbers[0]
    )
    head = ""
    if len(columns) > 1:
        titles = "".join(f'<th scope="col" {style}>{html.escape(text)}</th>' for text in columns)
        head = f"<thead><tr><td></td>{titles}</tr></thead>"
    caption = f"<b>{html.escape(s.name)}</b><br>{size_text(s)}"
    return (
        '<table class="wskit-numbers" style="margin-left:1em;line-height:1.6">'
        f'<caption style="text-align:left;overflow-wrap:anywhere">{caption}</caption>'
        f"{head}<tbody>{rows}</tbody></table>"
    )


def _numbers(reading: Reading, fit: PowerLawFit | None) -> dict[str, str]:
    s, best, mp = reading.spectrum, reading.best, reading.mp
    return {
        "eigenvalues": f"{s.eigenvalues.size}",
        "largest": f"{s.eigenvalues[-1]:.4g}",
        "&alpha;": f"{fit.alpha:.3f} &plusmn; {fit.sigma:.3f}" if fit else "",
        "xmin": f"{fit.xmin:.4g}" if fit else "",
        "KS distance": f"{fit.ks:.4f}" if fit else "",
        "in the tail": f"{fit.n_tail} of {fit.n}" if fit else "",
        "best xmin": f"{best.xmin:.4g}" if best else "",
        "&alpha; there": f"{best.alpha:.3f}" if best else "",
        "MP &sigma;": f"{mp.sigma:.4g}" if mp else "",
        "MP spikes": f"{mp.n_spikes}" if mp else "",
        "phase": reading.phase,
    }


def save_links(png: bytes, table: pd.DataFrame | None, name: str, at: str) -> str:
    """Return links that save the picture of layer `name`, and the table; `at` is the checkpoint."""
    links = []
    if png:
        links.append(_link("Save picture", file_name(name, at, ".png"), "image/png", png))
    if table is not None:
        csv = table.to_csv(index=False).encode()
        links.append(_link("Save table", file_name("layers", at, ".csv"), "text/csv", csv))
    return "".join(links)


def _link(text: str, file: str, mime: str, content: bytes) -> str:
    source = f"data:{mime};base64,{base64.b64encode(content).decode()}"
    return f'<a download="{file}" href="{source}" style="margin:0 1em 0 0.5em">{text}</a>'


def file_name(name: str, at: str, suffix: str) -> str:
    """Return a file's name of letters, digits, points, dashes and underscores."""
    safe = re.sub(r"[^A-Za-z0-9._]+", "-", f"{name}-{at}").strip("-.")
    return (safe[:80] or "layer") + suffix


def layer_rows(table: pd.DataFrame) -> tuple[str, list[str]]:
    """Return the heading and the rows of the list of layers, in columns of equal width."""
    columns = {
        "Layer": [shorten(name) for name in table["name"]],
        "N × M": [size_text(row) for row in table.itertuples()],
        "α": [DASH if pd.isna(alpha) else f"{alpha:.2f}" for alpha in table["alpha"]],
        "spikes": [DASH if pd.isna(n) else f"{n}" for n in table["n_spikes"]],
        "phase": [phase or DASH for phase in table["phase"]],
    }
    return list_lines(columns, left=("Layer", "phase"))
