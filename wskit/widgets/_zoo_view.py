"""What ZooExplorer shows beside its pictures: numbers of the chosen model, a list of models."""

import numpy as np
import pandas as pd

from wskit._texts import cell_text
from wskit.widgets._tables import html_table, list_lines, list_style
from wskit.widgets._zoo_table import TARGET

_ROWS = 200  # of the list: more would be slow in the browser
STYLE = f"<style>{list_style('wskit-models')}</style>"


def model_table(row: "pd.Series[float]", number: int, predicted: float | None) -> str:
    """Return what is known about a model as HTML; always the same rows."""
    known = {str(key): cell_text(value) for key, value in row.items()}
    if predicted is not None:
        known["predicted accuracy"] = cell_text(predicted)
    return html_table(f"Model {number}", [], {key: [value] for key, value in known.items()})


def score_table(evaluation: pd.DataFrame | None, n: int) -> str:
    """Return the scores of the latest evaluation as HTML; empty if there is none."""
    if evaluation is None:
        return ""
    names = {"r2": "R²", "tau": "Kendall's τ", "mae": "mean absolute error"}
    cells = {
        names[str(metric)]: [
            cell_text(row["value"]),
            f"{cell_text(row['low'])} to {cell_text(row['high'])}",
        ]
        for metric, row in evaluation.iterrows()
    }
    return html_table(f"Predicted on {n} models, held out by run", ["", "90 % interval"], cells)


def model_rows(table: pd.DataFrame, rows: np.ndarray) -> tuple[str, list[tuple[str, int]]]:
    """Return the heading and the options of the list of models, best accuracy first."""
    if TARGET in table:
        order = table[TARGET].iloc[rows].rank(ascending=False, method="first").fillna(np.inf)
        rows = rows[np.argsort(order.to_numpy(), kind="stable")]
    shown = rows[:_ROWS]
    names = [name for name in ("run", "epoch", TARGET) if name in table]
    columns = {"Model": [str(row) for row in shown]}
    columns |= {
        name.replace("_", " "): [cell_text(value) for value in table[name].iloc[shown]]
        for name in names
    }
    heading, lines = list_lines(columns)
    if len(shown) < len(rows):
        heading += f"  (first {len(shown)} of {len(rows)})".replace(" ", "\N{NO-BREAK SPACE}")
    return heading, list(zip(lines, (int(row) for row in shown), strict=True))
