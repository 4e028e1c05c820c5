"""The cell of plain calls that draws what ZooExplorer shows."""

from typing import TYPE_CHECKING

from wskit.widgets._zoo_parts import ESD, PLACES, SIZE
from wskit.widgets._zoo_table import COMPONENTS, TARGET, Ranges
from wskit.widgets._zoo_work import SEED, Evaluated, Recipe

if TYPE_CHECKING:
    from wskit.widgets._zoo import ZooExplorer


def cell(panel: "ZooExplorer") -> str:
    """Return the cell, see `ZooExplorer.code`."""
    evaluated = panel._evaluated
    projected = COMPONENTS[0] in panel._table and _uses_components(panel)
    lines = ["import matplotlib.pyplot as plt"]
    if projected or evaluated:
        lines.append("import numpy as np")
    lines.append("import pandas as pd")
    if projected:
        lines.append("from sklearn.decomposition import PCA")
    if evaluated:
        lines.append("from sklearn.model_selection import GroupKFold, cross_val_predict")
    if projected:
        lines.append("from sklearn.pipeline import make_pipeline")
        lines.append("from sklearn.preprocessing import StandardScaler")
    modules = ["plots"]
    modules += [] if panel._own_features else ["features"]
    modules += ["predictors"] if evaluated else []
    modules += ["spectra"] if "spectrum" in panel._shown else []
    modules += ["zoo"] if panel._recipes else []
    lines += [f"from wskit import {', '.join(sorted(modules))}", ""]
    for recipe in panel._recipes:
        lines += _growth(recipe)
    lines.append(
        "X = X.reset_index(drop=True)"
        if panel._own_features
        else "X = features.weight_statistics(models.weights)"
    )
    lines.append("table = pd.concat([models.records.reset_index(drop=True), X], axis=1)")
    if projected or evaluated:
        lines.append("known = np.isfinite(X).all(axis=1)")
    if projected:
        lines += [
            'pca = make_pipeline(StandardScaler(), PCA(2, svd_solver="full"))',
            f"table.loc[known, {COMPONENTS!r}] = pca.fit_transform(X[known])",
        ]
    arguments = [f"x={panel.x!r}", f"y={panel.y!r}", f"colour={panel.colour!r}"]
    if inside := _inside(panel._ranges()):
        lines.append(f"selected = {inside[0]}")
        lines += [f"selected &= {each}" for each in inside[1:]]
        arguments.append("selected=selected")
    arguments.append(f"chosen={panel.model}")
    lines += ["ax = plots.plot_models(", "    table,", *(f"    {a}," for a in arguments), ")", ""]
    return "\n".join(
        [*lines, *_model(panel), *(_evaluation(panel, evaluated) if evaluated else [])]
    )


def _uses_components(panel: "ZooExplorer") -> bool:
    used = {panel.x, panel.y, panel.colour}
    if panel._evaluated:
        used |= {name for name, limits in panel._evaluated.ranges if limits is not None}
    return not used.isdisjoint(COMPONENTS)


def _inside(ranges: Ranges) -> list[str]:
    """Return the expressions for what is in each range; none where that is all."""
    return [
        f"table[{name!r}].between({limits[0]!r}, {limits[1]!r})"
        for name, limits in ranges
        if limits is not None
    ]


def _growth(recipe: Recipe) -> list[str]:
    table = f"zoo.sample_hyperparameters({recipe.n}, rng={recipe.seed})"
    if recipe.fixed:
        fixed = ", ".join(f"{name}={value!r}" for name, value in recipe.fixed.items())
        table += f".assign({fixed})"
    if recipe.dropped:
        table += f".drop(columns={recipe.dropped!r})"
    seeds = f"range({recipe.seed}, {recipe.seed + recipe.n})"
    options = f", keep_epochs={recipe.keep_epochs!r}" if recipe.keep_epochs else ""
    return [
        f"new = {table}",
        f"more = zoo.train_zoo(network, data, new.assign(seed={seeds}){options})",
        f'more.records["run"] += {recipe.run}',
        "models = zoo.concatenate([models, more])",
    ]


def _model(panel: "ZooExplorer") -> list[str]:
    """Return the lines that draw the chosen model."""
    shown = panel._shown
    places = ", ".join(str(PLACES[part]) for part in shown)
    if not shown:
        return []
    lines = [
        "with plt.rc_context(plots.STYLE):",
        f"    fig = plt.figure(figsize={SIZE})",
        f"    axs = {{i: fig.add_subplot(2, 2, i) for i in [{places}]}}",
    ]
    if "curve" in shown:
        lines += [
            f'run = table[table["run"] == table["run"][{panel.model}]]',
            f"plots.plot_training_curve(run, metric={shown['curve']!r}, ax=axs[1])",
        ]
    if "kernels" in shown or "spectrum" in shown:
        lines.append(f"weights = models.model({panel.model})")
    if "kernels" in shown:
        tensor = f"weights[{shown['kernels']!r}].float().cpu().numpy()"
        lines.append(f"plots.plot_kernels({tensor}, name={shown['kernels']!r}, ax=axs[2])")
    if "spectrum" in shown:
        lines += [
            f's = spectra.spectra(weights, names=[{shown["spectrum"]!r}], conv="unfold")[0]',
            f"plots.plot_esd(s, scale={ESD['scale']!r}, bins={ESD['bins']}, ax=axs[3])",
            "axs[3].get_legend().remove()",
        ]
    return lines


def _evaluation(panel: "ZooExplorer", evaluated: Evaluated) -> list[str]:
    """Return the lines that predict each model by an estimator that has not seen its run."""
    lines = ["", f"usable = known & table[{TARGET!r}].notna()"]
    lines += [f"usable &= {each}" for each in _inside(evaluated.ranges)]
    lines.append("rows = np.flatnonzero(usable)")
    if not panel._own_estimator:
        lines.append("estimator = predictors.boosted_trees(random_state=0)")
    lines += [
        f"y, groups = table[{TARGET!r}][rows], models.records.run.to_numpy()[rows]",
        f"folds = GroupKFold({evaluated.n_folds})",
        "predicted = cross_val_predict(estimator, X.iloc[rows], y, groups=groups, cv=folds)",
        f"scores = predictors.scores(y, predicted, groups=groups, rng={SEED})",
        'found = pd.DataFrame({"row": rows, "y": y.to_numpy(), "predicted": predicted})',
    ]
    options = f"chosen={panel.model}"
    if evaluated.n_bins:
        lines.append(f"bins = predictors.calibration(y, predicted, n_bins={evaluated.n_bins})")
        options = f"calibration=bins, {options}"
    lines.append(f"plots.plot_predictions(found, {options}, ax=axs[4])")
    return lines
