import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from wskit import plots
from wskit.features import spectral_table
from wskit.fits import fit_marchenko_pastur, fit_power_law, ks_curve
from wskit.spectra import shuffled, spectrum


@pytest.fixture
def W():
    return torch.randn(120, 80, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def ax():
    return Figure().subplots()


def histogram(ax, index=0):
    return ax.patches[index].get_data()


@pytest.mark.parametrize("scale", ["log-log", "log-linear", "linear"])
def test_the_histogram_is_a_density(W, ax, scale):
    s = spectrum(W)
    assert plots.plot_esd(s, scale=scale, bins=30, ax=ax) is ax
    density, edges, _ = histogram(ax)
    assert density.size == 30
    widths = np.diff(np.log10(edges) if scale == "log-linear" else edges)
    assert (density * widths).sum() == pytest.approx(1)
    assert edges[0] <= s.eigenvalues[0]
    assert edges[-1] >= s.eigenvalues[-1]
    scales = {"log-log": ("log", "log"), "log-linear": ("log", "linear")}
    assert (ax.get_xscale(), ax.get_yscale()) == scales.get(scale, ("linear", "linear"))


def test_fit_and_null_are_drawn_where_they_should_be(W, ax):
    s = spectrum(W)
    fit = fit_power_law(s.eigenvalues)
    null = spectrum(shuffled(W, seed=0))
    plots.plot_esd(s, fit=fit, null=null, ax=ax)
    tail, xmin = ax.get_lines()
    x, y = tail.get_data()
    assert (x[0], x[-1]) == pytest.approx((fit.xmin, s.eigenvalues[-1]))
    # The tail's density holds the tail's share of all eigenvalues, less what lies beyond them.
    beyond = (x[-1] / fit.xmin) ** (1 - fit.alpha)
    assert np.trapezoid(y, x) == pytest.approx(fit.n_tail / 80 * (1 - beyond), rel=1e-3)
    assert xmin.get_xdata() == [fit.xmin, fit.xmin]
    density, edges, _ = histogram(ax, 1)
    assert (density * np.diff(edges)).sum() == pytest.approx(1)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[:2] == ["eigenvalues", "shuffled weights"]
    assert labels[2] == rf"power law, $\alpha$ = {fit.alpha:.2f}"


def test_kwargs_go_to_the_histogram(W, ax):
    plots.plot_esd(spectrum(W), ax=ax, color="red", label="mine")
    assert ax.patches[0].get_facecolor()[:3] == (1, 0, 0)
    assert ax.get_legend().get_texts()[0].get_text() == "mine"


@pytest.mark.parametrize("scale", ["log-log", "log-linear"])
def test_the_legend_says_what_a_logarithmic_axis_leaves_out(ax, scale):
    W = torch.zeros(10, 8)
    W[:, :6] = torch.randn(10, 6, generator=torch.Generator().manual_seed(0))
    plots.plot_esd(spectrum(W), scale=scale, ax=ax)
    density, edges, _ = histogram(ax)
    widths = np.diff(np.log10(edges) if scale == "log-linear" else edges)
    assert (density * widths).sum() == pytest.approx(6 / 8)
    assert ax.get_legend().get_texts()[0].get_text() == "eigenvalues (25% left of the axis)"


@pytest.mark.parametrize("scale", ["log-log", "log-linear", "linear"])
def test_a_matrix_of_zeros_can_be_drawn(ax, scale):
    plots.plot_esd(spectrum(torch.zeros(4, 3)), scale=scale, ax=ax)
    assert ax.get_legend() is not None


def test_the_tail_is_a_density_of_the_logarithm_too(W, ax):
    s = spectrum(W)
    fit = fit_power_law(s.eigenvalues, xmin=s.eigenvalues[40])
    plots.plot_esd(s, fit=fit, scale="log-linear", ax=ax)
    x, y = ax.get_lines()[0].get_data()
    beyond = (x[-1] / fit.xmin) ** (1 - fit.alpha)
    assert np.trapezoid(y, np.log10(x)) == pytest.approx(0.5 * (1 - beyond), rel=1e-3)


def test_no_axes_make_a_new_figure_and_no_style_stays(W):
    before = dict(mpl.rcParams)
    ax = plots.plot_esd(spectrum(W))
    try:
        assert plt.fignum_exists(ax.figure.number)
        assert ax.get_xlabel() == r"eigenvalue $\lambda$ of $W^\top W$"
        assert ax.get_title(loc="left") == "120 × 80"
    finally:
        plt.close(ax.figure)
    assert dict(mpl.rcParams) == before


def test_describe_names_what_is_seen(W, ax):
    s = spectrum(W, name="fc")
    plots.plot_esd(s, fit=fit_power_law(s.eigenvalues, xmin=100.0), bins=20, ax=ax)
    heading, line, xmin, hist = plots.describe(ax).split("\n")
    assert heading == ("Axes 'fc  (120 × 80)': x 'eigenvalue lambda of W^T W' log, y 'density' log")
    assert line.startswith("  line 'power law, alpha = ")
    assert f"x 100 to {s.eigenvalues[-1]:.3g}" in line
    assert xmin == "  line 'xmin = 100': 2 points, x 100, y 0 to 1"
    assert hist.startswith("  histogram 'eigenvalues': 20 bins, x ")


def test_describe_covers_points_images_and_whole_figures():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    left.scatter([1, 2, 3], [4, 5, 6], label="models")
    right.imshow(np.eye(3), label="_hidden")
    text = plots.describe(figure)
    assert "  points 'models': 3, x 1 to 3, y 4 to 6" in text
    assert "  image: 3 × 3, values 0 to 1" in text


def test_describe_reads_ticks_and_places_that_are_no_texts_and_no_numbers(ax):
    ax.set_xticks([1, 2], labels=[1, 2])
    ax.set_yticks([1, 2, 3], labels=[0.5, None, "third"])
    text = plots.describe(ax)
    assert "x ticks: 1, 2" in text
    assert "y ticks: 0.5, , third" in text
    named = Figure().subplots()
    named.plot(["a", "b", "c"], [1.0, 2.0, 4.0])
    assert "line: 3 points, x 0 to 2, y 1 to 4" in plots.describe(named)


def test_others_are_outlines_on_the_same_bins_with_their_labels(W, ax):
    s, twice = spectrum(W), spectrum(2 * W)
    plots.plot_esd(s, others={"later": twice, "again": s}, label="now", ax=ax)
    patches = {patch.get_label(): patch for patch in ax.patches}
    assert list(patches) == ["now", "later", "again"]
    edges = patches["now"].get_data().edges
    assert edges[-1] == pytest.approx(twice.eigenvalues[-1])
    for name, expected in [("later", twice), ("again", s)]:
        values, own, _ = patches[name].get_data()
        assert own.tolist() == edges.tolist()
        shown = expected.eigenvalues[expected.eigenvalues >= edges[0]].size
        assert values @ np.diff(own) == pytest.approx(shown / expected.eigenvalues.size)
        assert to_hex(patches[name].get_edgecolor()) == plots.PALETTE["other"]
    assert patches["later"].get_linestyle() != patches["again"].get_linestyle()


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_the_marchenko_pastur_law_is_drawn_over_the_bulk_with_its_spikes(W, ax):
    W[:, 0] += 3
    s = spectrum(W)
    mp = fit_marchenko_pastur(s.eigenvalues, N=s.N, M=s.M)
    plots.plot_esd(s, mp=mp, scale="linear", ax=ax)
    law, spikes = ax.get_lines()
    x, y = law.get_data()
    assert mp.lambda_minus <= x[0] < x[-1] <= mp.lambda_plus
    assert np.trapezoid(y, x) == pytest.approx(1 - mp.n_spikes / 80, rel=1e-3)
    assert mp.n_spikes == 1
    assert spikes.get_xdata() == s.eigenvalues[-1:]
    assert labels(ax)[1:] == ["Marchenko-Pastur", "1 beyond its edge"]


def test_the_scan_shows_both_curves_and_the_best(W, ax):
    s = spectrum(W)
    curve, fit = ks_curve(s.eigenvalues), fit_power_law(s.eigenvalues)
    assert plots.plot_xmin_scan(curve, fit=fit, ax=ax) is ax
    distance, best = ax.get_lines()
    x, y = distance.get_data()
    assert x[y.argmin()] == fit.xmin
    assert best.get_xdata() == [fit.xmin, fit.xmin]
    right = ax.figure.axes[1]
    assert right.get_lines()[0].get_ydata()[y.argmin()] == pytest.approx(fit.alpha)
    assert right.get_ylabel() == r"$\alpha$"


def test_a_grid_has_a_picture_for_each_layer(W):
    layers = [spectrum(W[:, : 20 + i], name=f"l$_{i}$") for i in range(5)]
    fits = [fit_power_law(layers[0].eigenvalues), None, None, None, None]
    fig, axs = plots.plot_layers_grid(layers, fits=fits, columns=3)
    assert axs.shape == (2, 3)
    assert [ax.get_visible() for ax in axs.flat] == [True] * 5 + [False]
    assert "alpha" in axs[0, 0].get_title(loc="left")
    assert axs[0, 1].get_title(loc="left") == "l$_1$"
    assert axs[0, 0].get_xlim() == axs[1, 1].get_xlim()
    fig.canvas.draw()
    plt.close(fig)
    with pytest.raises(ValueError, match="zip"):
        plots.plot_layers_grid(layers, fits=fits[:2])
    plt.close()


def test_a_metric_by_depth_marks_doubt(ax):
    weights = {f"layer{i}.$w$": torch.randn(80, 60) for i in range(3)}
    weights["few"] = torch.randn(8, 6)
    table = spectral_table(weights)
    plots.plot_metric_by_depth(table, ax=ax)
    hollow = [line for line in ax.get_lines() if line.get_label() == "with a warning"]
    assert 3 in hollow[0].get_xdata()
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list(weights)
    ax.figure.canvas.draw()
    other = Figure().subplots()
    plots.plot_metric_by_depth(table, metric="log_norm", ax=other)
    assert other.get_ylabel() == "log norm"
    assert not other.collections


def test_an_evolution_has_one_outline_a_step(W, ax):
    steps = [spectrum((1 + i) * W) for i in range(3)]
    plots.plot_esd_evolution(steps, [0, 1, 10], ax=ax)
    assert labels(ax) == ["epoch 0", "epoch 1", "epoch 10"]
    for i in range(3):
        density, edges, _ = histogram(ax, i)
        assert (density * np.diff(edges)).sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="zip"):
        plots.plot_esd_evolution(steps, [0, 1], ax=ax)
