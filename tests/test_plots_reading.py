"""Pictures can be read: colours differ for every eye and in grey, and no text is small or pale."""

from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from wskit import plots
from wskit.features import spectral_table
from wskit.fits import fit_marchenko_pastur, fit_power_law, ks_curve
from wskit.landscape import LossPath, LossPlane
from wskit.plots._style import COLORBLIND, readable_on
from wskit.spectra import spectrum

SMALLEST = 9.0  # points
pytestmark = pytest.mark.usefixtures("no_figure_stays_open")

# How red, green and blue, in linear light, are seen by those who lack one kind of cones: Machado,
# Oliveira and Fernandes 2009 (IEEE TVCG 15, 1291), table 1, severity 1.0.
VISIONS = {
    "all cones": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
# sRGB's primaries and its white (IEC 61966-2-1).
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(color):
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIELAB of linear sRGB: lightness, and two axes of hue."""
    t = TO_XYZ @ np.clip(rgb, 0, 1) / TO_XYZ.sum(axis=1)
    x, y, z = np.where(t > (6 / 29) ** 3, np.cbrt(t), t * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(color, other="white"):
    """The ratio of WCAG 2.2, of 1 to 21."""
    high, low = sorted((TO_XYZ[1] @ linear(c) for c in (color, other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def closest(colors, vision):
    seen = [lab(np.asarray(vision) @ linear(color)) for color in colors]
    return min(np.linalg.norm(a - b) for a, b in combinations(seen, 2))


def test_these_formulas_know_what_is_known():
    assert lab(linear("white")) == pytest.approx([100, 0, 0], abs=0.02)
    assert lab(linear("red")) == pytest.approx([53.24, 80.09, 67.20], abs=0.05)
    assert contrast("black") == pytest.approx(21)
    assert contrast("#767676") == pytest.approx(4.54, abs=0.01)
    for vision in VISIONS.values():  # white and grey look the same to everyone
        assert np.asarray(vision) @ np.ones(3) == pytest.approx(np.ones(3), abs=1e-5)
    # A red and a green that are far apart, but not without the cones for green.
    pair = ["#c00000", "#6d5c00"]
    assert closest(pair, VISIONS["all cones"]) > 50
    assert closest(pair, VISIONS["deuteranopia"]) < 12


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_differ_for_every_kind_of_colour_vision(vision):
    assert closest(plots.PALETTE.values(), VISIONS[vision]) > 15
    assert closest(COLORBLIND, VISIONS[vision]) > 15


def test_the_colours_of_the_palette_differ_in_grey():
    lightness = [lab(linear(color))[0] for color in plots.PALETTE.values()]
    assert np.diff(sorted(lightness)).min() > 8


def test_lines_and_points_stand_out_from_the_page():
    assert min(contrast(color) for color in [*plots.PALETTE.values(), *COLORBLIND]) >= 3
    with plt.rc_context(plots.STYLE):
        assert plt.rcParams["axes.prop_cycle"].by_key()["color"] == COLORBLIND
        assert contrast(plt.rcParams["axes.edgecolor"]) >= 3


@pytest.mark.parametrize("color", ["white", "black", "#767676", *COLORBLIND])
def test_what_is_written_on_a_colour_can_be_read(color):
    assert contrast(readable_on(color), color) >= 4.5


def layers():
    draw = torch.Generator().manual_seed(0)
    return {f"layer.{i}.weight": torch.randn(120, 80, generator=draw) for i in range(24)}


def esd():
    s = spectrum(layers()["layer.0.weight"], name="layer.0.weight")
    laws = {
        "fit": fit_power_law(s.eigenvalues),
        "mp": fit_marchenko_pastur(s.eigenvalues, N=s.N, M=s.M),
    }
    return plots.plot_esd(s, **laws, null=s, others={"later": s})


def plane():
    x, corners = np.linspace(-1, 3, 5), np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 2.0]])
    losses = np.linspace(1, 200, 25).reshape(5, 5)
    found = LossPlane(x, x, {"loss": losses}, corners, ("a", "b", "c"))
    return plots.plot_loss_plane(found, point=[1, 1])


def trajectory():
    path = np.random.default_rng(0).normal(size=(6, 2))
    return plots.plot_trajectory(path, range(6), shares=[0.7, 0.2], marks={"mean": [0, 0]})


def soup_history(n=24):
    scores = np.linspace(0.5, 0.9, n)
    columns = {"ingredient": [f"ingredient {i}" for i in range(n)], "own_score": scores}
    return pd.DataFrame(columns | {"held_out_score": scores, "accepted": np.arange(n) % 2 == 0})


RNG = np.random.default_rng(0)
CURVES = pd.DataFrame({"epoch": [0, 1] * 20, "by": np.repeat(range(10), 4), "loss": RNG.random(40)})
MODELS = pd.DataFrame({"x": RNG.random(9), "y": RNG.random(9), "kind": list("abcabcabc")})
RECORDS = pd.DataFrame({"epoch": [0, 1], "train_accuracy": [0.1, 0.9], "test_accuracy": [0.1, 0.8]})
PREDICTED = pd.DataFrame({"y": [0.1, 0.9], "predicted": [0.2, 0.8], "row": [0, 1]})
DROPS = pd.DataFrame({"layer": ["conv", "fc"], "r2_drop": [0.1, 0.2], "r2_drop_std": [0.1, 0.1]})
SIZES = pd.DataFrame({"n_models": [24, 48, 96], "r2": [0.1, 0.2, 0.3], "tau": [0.1, 0.2, 0.3]})
SIZES = SIZES.assign(r2_std=0.1, tau_std=0.1)
SCORES = pd.DataFrame(RNG.random((3, 3)), index=list("abc"), columns=list("abc"))
TRANSFER = pd.concat({"tau": SCORES, "r2": SCORES}, axis=1)
MIXES = pd.DataFrame({"kind": ["ingredient", "ingredient", "soup"], "x": [1, 2, 3], "y": [3, 2, 1]})
ALPHAS = np.linspace(0, 1, 5)


def spectra(n):
    return [spectrum(W, name=name) for name, W in list(layers().items())[:n]]


PICTURES = {
    "plot_distance_matrix": lambda: plots.plot_distance_matrix(np.eye(9), labels=list("abcdefghi")),
    "plot_esd": esd,
    "plot_esd_evolution": lambda: plots.plot_esd_evolution(spectra(3), [0, 1, 2]),
    "plot_greedy_path": lambda: plots.plot_greedy_path(soup_history()),
    "plot_importance": lambda: plots.plot_importance(DROPS),
    "plot_kernels": lambda: plots.plot_kernels(RNG.random((8, 16)), name="fc"),
    "plot_layers_grid": lambda: plots.plot_layers_grid(spectra(5))[1][0, 0],
    "plot_learning_curve": lambda: plots.plot_learning_curve(SIZES),
    "plot_loss_path": lambda: plots.plot_loss_path(
        LossPath(ALPHAS, {"loss": ALPHAS**2}, ("a", "b"), 1.0)
    ),
    "plot_loss_plane": plane,
    "plot_mean_curves": lambda: plots.plot_mean_curves(CURVES, x="epoch", y="loss", by="by"),
    "plot_metric_by_depth": lambda: plots.plot_metric_by_depth(spectral_table(layers())),
    "plot_model_map": lambda: plots.plot_model_map(
        MODELS[["x", "y"]], groups=MODELS.kind, markers=MODELS.kind, chosen={"mine": 3}
    ),
    "plot_models": lambda: plots.plot_models(MODELS, x="x", y="y", colour="kind", chosen=1),
    "plot_predictions": lambda: plots.plot_predictions(PREDICTED, chosen=1),
    "plot_soup_scores": lambda: plots.plot_soup_scores(MIXES, x="x", y="y"),
    "plot_training_curve": lambda: plots.plot_training_curve(RECORDS),
    "plot_trajectory": trajectory,
    "plot_transfer": lambda: plots.plot_transfer(TRANSFER),
    "plot_xmin_scan": lambda: plots.plot_xmin_scan(
        ks_curve(spectra(1)[0].eigenvalues), fit=fit_power_law(spectra(1)[0].eigenvalues)
    ),
}


def test_every_public_picture_is_looked_at():
    assert sorted(PICTURES) == [name for name in plots.__all__ if name.startswith("plot_")]


@pytest.mark.parametrize("name", PICTURES)
def test_no_text_is_small_or_pale(name):
    ax = PICTURES[name]()
    try:
        texts = written(ax.figure)
        assert len(texts) > 3
        small = {text.get_text(): text.get_fontsize() for text in texts}
        assert {text: size for text, size in small.items() if size < SMALLEST} == {}
        on_white = [text for text in texts if text not in ax.texts or not ax.images]
        pale = {text.get_text() for text in on_white if contrast(text.get_color()) < 4.5}
        assert pale == set()
        outside = [text.get_text() for text in texts if not is_inside(text)]
        assert outside == []
    finally:
        plt.close(ax.figure)


def written(figure):
    """Draw the figure, and return all texts that are in it."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        draw = Text.draw
        patch.setattr(Text, "draw", lambda text, to: (found.append(text), draw(text, to))[1])
        figure.draw_without_rendering()
    return [text for text in dict.fromkeys(found) if text.get_visible() and text.get_text().strip()]


def is_inside(text):
    box, page = text.get_window_extent(), text.get_figure(root=True).bbox
    return box.x0 >= -1 and box.x1 <= page.x1 + 1 and box.y0 >= -1 and box.y1 <= page.y1 + 1


def test_the_style_itself_has_no_small_text():
    with plt.rc_context(plots.STYLE):
        figure = Figure()
        ax = figure.subplots()
        ax.plot([1, 2], [1, 2], label="line")
        ax.set(title="title", xlabel="x", ylabel="y")
        ax.legend(title="legend")
        ax.annotate("note", (1, 1))
        assert min(text.get_fontsize() for text in written(figure)) >= SMALLEST
