"""What RegionExplorer shows beside its pictures: a table of numbers."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from wskit._texts import cell_text
from wskit.widgets._tables import html_table


def number_table(numbers: pd.DataFrame, shares: ArrayLike) -> str:
    """Return the measures at the point, at the three models and of the control as HTML."""
    columns = [str(name) for name in numbers.index]
    rest = [""] * (len(columns) - 1)
    rows = {
        f"share of the {which}": [cell_text(round(float(share), 4)), *rest]
        for which, share in zip(("first", "second", "third"), np.asarray(shares), strict=True)
    }
    rows |= {str(name): [cell_text(value) for value in numbers[name]] for name in numbers}
    return html_table("At the point and at the models", columns, rows)
