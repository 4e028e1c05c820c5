"""The cell of plain calls that gives what SoupKitchen shows."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wskit.widgets._soup import SoupKitchen

FIGSIZE = (5.4, 4.2)


def cell(panel: "SoupKitchen") -> str:
    """Return the cell, see `SoupKitchen.code`."""
    tried, score = len(panel.history), panel.score
    coefficients = panel.coefficients
    lines = ["from itertools import islice", ""] if tried else []
    lines += [
        "import matplotlib.pyplot as plt",
        "import pandas as pd",
        f"from wskit import averaging, landscape, plots{', soups' if tried else ''}",
        "",
        "singles = landscape.evaluate_models(evaluate, ingredients)",
        "models = {}",
    ]
    if coefficients:
        values = list(coefficients.values())
        mixed = "" if len(set(values)) == 1 else ", coefficients"
        lines.append(f"chosen = {list(coefficients)!r}")
        lines += [f"coefficients = {values!r}"] if mixed else []
        lines += [
            f"soup = averaging.average([ingredients[name] for name in chosen]{mixed})",
            'models["soup"] = soup',
        ]
    if score:
        lines.append(f'models["best single"] = ingredients[singles[{score!r}].idxmax()]')
    lines.append('models["uniform soup"] = averaging.average(list(ingredients.values()))')
    if panel.base is not None:
        lines.append('models["base"] = base')
    lines += [
        "numbers = landscape.evaluate_models(evaluate, models)",
        'numbers.loc["mean of singles"] = singles.mean()',
        *([] if coefficients else ['numbers = numbers.reindex(["soup", *numbers.index])']),
        "kinds = numbers.assign(kind=numbers.index)",
        'table = pd.concat([singles.assign(kind="ingredient"), kinds])',
        "with plt.rc_context(plots.STYLE):",
        f"    fig, ax = plt.subplots(figsize={FIGSIZE})",
        f"plots.plot_soup_scores(table, x={panel.x!r}, y={panel.y!r}, ax=ax)",
    ]
    if tried:
        lines += [
            "def score(weights):",
            '    found = landscape.evaluate_models(evaluate, {"soup": weights})',
            f"    return found[{score!r}].iloc[0]",
            f"steps = soups.greedy_steps(ingredients, score, singles[{score!r}])",
            f"*_, greedy = islice(steps, {tried})",
            "with plt.rc_context(plots.STYLE):",
            f"    path_fig, path_ax = plt.subplots(figsize={FIGSIZE})",
            "plots.plot_greedy_path(greedy.history, ax=path_ax)",
        ]
    lines.append("numbers")
    return "\n".join(lines) + "\n"
