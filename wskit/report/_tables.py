"""Tables of a report as HTML; every text in them is escaped."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from wskit._texts import DASH, printable, size_text

MOST_ROWS = 2000
"""Rows of a table that the page shows, at the most; the file beside it has all."""

TEXTS = {"Layer", "Tensor", "Verdict", "Remarks", "Phase", "Kind", "dtype", "Why not", "File"}
"""Columns that are set to the left; all others are numbers."""


def safe(text: object) -> str:
    """Escape a text for HTML."""
    return html.escape(printable(str(text)))


def table(caption: str, columns: Mapping[str, Sequence[str]]) -> str:
    """Return a table in a box that can be scrolled; the first column names the rows."""
    titles, rows = list(columns), list(zip(*columns.values(), strict=True))
    if len(rows) > MOST_ROWS:
        caption += f" Of {len(rows)} rows, the first {MOST_ROWS}."
    head = "".join(f'<th scope="col"{_kind(title)}>{safe(title)}</th>' for title in titles)
    body = "".join(_row(titles, row) for row in rows[:MOST_ROWS])
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{safe(caption)}"><table>'
        f"<caption>{safe(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _row(titles: Iterable[str], cells: Sequence[str]) -> str:
    name, *rest = cells
    first, *others = titles
    row = "".join(
        f"<td{_kind(title, cell)}>{safe(cell)}</td>"
        for title, cell in zip(others, rest, strict=True)
    )
    title = safe(name).replace(".", ".<wbr>")  # where a long name may go on in the next line
    return f'<tr><th scope="row"{_kind(first)}>{title}</th>{row}</tr>'


def _kind(title: str, cell: str = "") -> str:
    if title not in TEXTS:
        return ' class="number"'
    known = {"Layer": "name", "Tensor": "name", "Remarks": "text", "Why not": "text"}
    if title == "Verdict":
        return f' class="verdict {cell}"' if cell else ""
    return f' class="{known[title]}"' if title in known else ""


def save_link(data: pd.DataFrame, file: str) -> str:
    """Return a link that saves all columns and rows as CSV."""
    text = data.to_csv(index=False).encode("utf-8", "backslashreplace")
    address = f"data:text/csv;base64,{base64.b64encode(text).decode()}"
    return f'<p class="save"><a download="{file}" href="{address}">Save as {file}</a></p>'


def remark_columns(remarks: pd.DataFrame) -> dict[str, list[str]]:
    return {
        "Layer": list(remarks["name"]),
        "Verdict": list(remarks["verdict"]),
        "Remarks": list(remarks["remarks"]),
    }


def spectral_columns(spectral: pd.DataFrame) -> dict[str, list[str]]:
    """Choose what is read most often; the file has all columns."""
    return {
        "Layer": list(spectral["name"]),
        "Size": _sizes(spectral),
        "Eigenvalues": _texts(spectral["n_eigenvalues"], ","),
        "α": _texts(spectral["alpha"], ".2f"),
        "± error": _texts(spectral["sigma"], ".2f"),
        "In the tail": _texts(spectral["n_tail"], ","),
        "KS": _texts(spectral["ks"], ".3f"),
        "Spikes": _texts(spectral["n_spikes"], ","),
        "Stable rank": _texts(spectral["stable_rank"], ".2f"),
        "Rank": _texts(spectral["rank"], ".0f"),
        "log₁₀ ‖W‖²": _texts(spectral["log_norm"], ".2f"),
        "Phase": [text or DASH for text in spectral["phase"]],
    }


def correlation_columns(correlation: pd.DataFrame) -> dict[str, list[str]]:
    return {
        "Layer": list(correlation["name"]),
        "Neurons": _texts(correlation["n_neurons"], ","),
        "Dead": _texts(correlation["n_dead"], ","),
        "Entries": _texts(correlation["d"], ","),
        "Mean |cos|": _texts(correlation["correlation"], ".4g"),
        "By chance": _texts(correlation["chance"], ".4g"),
        "Excess": _texts(correlation["excess"], ".4g"),
        "Why not": list(correlation["reason"]),
    }


def inventory_columns(inventory: pd.DataFrame, ties: Mapping[str, str]) -> dict[str, list[str]]:
    reasons = [
        "; ".join(filter(None, [reason, f"tied to {ties[name]}" if name in ties else ""]))
        for name, reason in zip(inventory["name"], inventory["reason"], strict=True)
    ]
    return {
        "Tensor": list(inventory["name"]),
        "Kind": [kind or DASH for kind in inventory["kind"]],
        "Shape": [" × ".join(map(str, shape)) or "scalar" for shape in inventory["shape"]],
        "dtype": list(inventory["dtype"]),
        "Parameters": _texts(inventory["n_parameters"], ","),
        "Matrices": _sizes(inventory),
        "Why not": reasons,
    }


def distance_columns(distances: pd.DataFrame) -> dict[str, list[str]]:
    """Sort by what has moved most; what was not compared comes last."""
    by = distances.sort_values("relative", ascending=False, kind="stable", na_position="last")
    return {
        "Tensor": list(by["name"]),
        "Parameters": _texts(by["n_parameters"], ","),
        "Distance": _texts(by["distance"], ".4g"),
        "Of its length": _texts(by["relative"], ".2%"),
        "Angle (°)": _texts(by["angle"], ".2f"),
        "Length": _texts(by["norm"], ".4g"),
        "Of the other": _texts(by["other_norm"], ".4g"),
        "Why not": list(by["reason"]),
    }


def file_columns(files: pd.DataFrame) -> dict[str, list[str]]:
    return {
        "File": list(files["file"]),
        "Bytes": _texts(files["bytes"], ","),
        "sha256": list(files["sha256"]),
    }


def _texts(numbers: pd.Series, form: str) -> list[str]:
    return [DASH if pd.isna(x) else format(x, form) for x in numbers]


def _sizes(rows: pd.DataFrame) -> list[str]:
    return [size_text(row) if row.M else DASH for row in rows.itertuples()]
