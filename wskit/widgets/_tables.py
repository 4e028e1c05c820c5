"""Tables of the panels: of HTML, and lists whose rows can be chosen."""

import html
from collections.abc import Collection, Mapping, Sequence

_CELL = 'style="text-align:left;font-weight:normal;padding-right:1.2em;white-space:nowrap"'


def html_table(caption: str, head: list[str], rows: dict[str, list[str]]) -> str:
    """Return a table with a caption, a heading where there is one, and a name before each row."""
    titles = "".join(f'<th scope="col" {_CELL}>{html.escape(text)}</th>' for text in head)
    body = "".join(
        f'<tr><th scope="row" {_CELL}>{html.escape(key.replace("_", " "))}</th>'
        + "".join(f"<td {_CELL}>{html.escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for key, cells in rows.items()
    )
    return (
        '<div style="overflow-x:auto"><table style="margin-left:1em;line-height:1.5">'
        f'<caption style="text-align:left"><b>{html.escape(caption)}</b></caption>'
        + (f"<thead><tr><td></td>{titles}</tr></thead>" if head else "")
        + f"<tbody>{body}</tbody></table></div>"
    )


def list_style(name: str) -> str:
    """Return the style of a `Select` of that class whose rows are those of a table."""
    return f"""
.{name} {{ flex-direction: column; align-items: stretch; }}
.{name} > label.widget-label {{ text-align: left; width: auto; max-width: none; }}
.{name} > label.widget-label, .{name} select {{
  font-family: var(--jp-code-font-family, monospace); font-size: 13px; padding: 0 6px; }}
.{name} select {{ flex: none; overflow-x: auto; padding: 2px 0; }}
.{name} option {{ padding: 1px 5px; }}
"""


def list_lines(
    columns: Mapping[str, Sequence[str]], left: Collection[str] = ()
) -> tuple[str, list[str]]:
    """Return the heading and the rows of a list, in columns of equal width.

    Texts are set to the right, but for the columns named by `left`.
    """
    padded = []
    for title, values in columns.items():
        width = max(map(len, [title, *values]))
        align = str.ljust if title in left else str.rjust
        padded.append([align(text, width) for text in [title, *values]])
    # Browsers would draw several spaces as one.
    heading, *rows = (
        "  ".join(parts).rstrip().replace(" ", "\N{NO-BREAK SPACE}")
        for parts in zip(*padded, strict=True)
    )
    return heading, rows
