"""The cell of plain calls that gives what SwaExplorer shows."""

from typing import TYPE_CHECKING, Any

from wskit.widgets._plane import MARGIN

if TYPE_CHECKING:
    from wskit.widgets._swa import SwaExplorer

CURVE_SIZE, PLANE_SIZE = (6.4, 4.0), (5.2, 4.2)
ROOM = 0.25  # of the curve's picture, around the values in the window
SPAN: dict[str, Any] = {"color": "0.92", "zorder": 0, "label": "averaged"}


def cell(panel: "SwaExplorer") -> str:
    """Return the cell, see `SwaExplorer.code`."""
    window, evaluate = panel._window, "recalibrated" if panel.recalibrate else "evaluate"
    unit = f", unit={panel._unit!r}" if panel._unit else ""
    step = f", {window.every}" if window.every > 1 else ""
    lines = [
        "import matplotlib.pyplot as plt",
        "import pandas as pd",
        "from wskit import averaging, landscape, plots",
        "",
    ]
    if panel.run in panel._trained:
        settings = ", ".join(map(repr, panel._trained[panel.run]))
        lines += [
            "run = averaging.Trajectory()",
            f"for epoch, weights in enumerate(train({settings}), start=1):",
            "    run.append(epoch, weights)",
        ]
    else:
        lines.append(f"run = runs[{panel.run!r}]")
    lines += [
        f"rows = range({window.start}, {window.stop}{step})",
        "epochs = run.steps.tolist()",
        "first, last = epochs[rows[0]], epochs[rows[-1]]",
        'models = {"iterate": {}, "average": {}, "EMA": {}}',
        "for row, epoch in enumerate(epochs):",
        '    models["iterate"][epoch] = run.model(row)',
        f"ema = averaging.ExponentialMean({window.decay!r})",
        "for row in rows:",
        "    ema.add(run.model(row))",
        f'    models["average"][epochs[row]] = run.window_mean({window.start}, row + 1{step})',
        '    models["EMA"][epochs[row]] = ema.weights',
        "parts = {",
        f"    name: landscape.evaluate_models({evaluate}, each) for name, each in models.items()",
        "}",
        'curve = pd.concat(parts, names=["model", "epoch"]).reset_index()',
        'numbers = curve[curve["epoch"] == last].drop(columns=["model", "epoch"])',
        'numbers.index = ["last iterate", "average", "EMA"]',
        "with plt.rc_context(plots.STYLE):",
        f"    fig, ax = plt.subplots(figsize={CURVE_SIZE})",
        f"ax.axvspan(first - 0.5, last + 0.5, {', '.join(f'{k}={v!r}' for k, v in SPAN.items())})",
        "plots.plot_mean_curves(",
        f'    curve, x="epoch", y={panel.measure!r}, by="model"{unit}, ax=ax',
        ")",
    ]
    if panel._scaled:
        lines += [
            f'inside = curve.loc[curve["epoch"].between(first, last), {panel.measure!r}]',
            f"room = {ROOM} * (inside.max() - inside.min())",
            "ax.set_ylim(inside.min() - room, inside.max() + room)",
        ]
    if panel.landscape is not None:
        lines += [
            'corners = [models["iterate"][first], models["iterate"][last]]',
            'corners.append(models["average"][last])',
            "plane = landscape.plane_through(*corners)",
            f"x, y = plane.grid({len(panel.landscape.x)}, margin={MARGIN}, square=True)",
            'names = f"epoch {first}", f"epoch {last}", "average"',
            f"found = landscape.loss_plane({evaluate}, *corners, x=x, y=y, names=names)",
            f"for measure in {panel._plane_measures!r}:",
            "    with plt.rc_context(plots.STYLE):",
            f"        fig, ax = plt.subplots(figsize={PLANE_SIZE})",
            f"    plots.plot_loss_plane(found, measure=measure{unit}, ax=ax)",
        ]
    lines.append("numbers")
    return "\n".join(lines) + "\n"
