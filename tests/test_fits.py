import numpy as np
import powerlaw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wskit.errors import FitError, WskitError
from wskit.fits import PowerLawFit, fit_clipped, fit_power_law, ks_curve


def naive_fit(x):
    """Clauset's search as written in the paper: every value as xmin, one after the other."""
    best = (np.inf,)
    for xmin in np.unique(x)[:-1]:
        tail = np.sort(x[x >= xmin])
        alpha = 1 + tail.size / np.log(tail / xmin).sum()
        below = np.searchsorted(tail, tail) / tail.size
        ks = np.abs(1 - (tail / xmin) ** (1 - alpha) - below).max()
        best = min(best, (ks, xmin, alpha, tail.size))
    return best


def samples(kind, n, seed):
    rng = np.random.default_rng(seed)
    if kind == "pareto":
        return 1 + rng.pareto(1.5, n)
    if kind == "lognormal":
        return rng.lognormal(size=n)
    if kind == "ties":
        return np.ceil(10 * rng.pareto(2, n)) + 1
    A = rng.standard_normal((2 * n, n))
    return np.linalg.eigvalsh(A.T @ A)


KINDS = ["pareto", "lognormal", "ties", "marchenko-pastur"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [3, 20, 150, 400])
@pytest.mark.parametrize("seed", range(3))
def test_scan_equals_the_naive_search(kind, n, seed):
    x = samples(kind, n, seed)
    ks, xmin, alpha, n_tail = naive_fit(x)
    fit = fit_power_law(x)
    assert (fit.xmin, fit.n_tail) == (xmin, n_tail)
    assert [fit.alpha, fit.ks] == pytest.approx([alpha, ks], rel=1e-10)


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=40))
def test_scan_equals_the_naive_search_on_anything(values):
    x = np.array(values)
    if np.unique(x).size < 2 or np.log(x.max() / x.min()) < 1e-9:
        return
    # Of two xmin with the same distance up to rounding, either may win.
    assert fit_power_law(x).ks == pytest.approx(naive_fit(x)[0], rel=1e-7, abs=1e-12)


@pytest.mark.filterwarnings("ignore:Standard error for the MLE:DeprecationWarning")
@pytest.mark.parametrize("kind", ["pareto", "lognormal", "marchenko-pastur"])
def test_agrees_with_powerlaw(kind):
    """powerlaw 2 keeps alpha within [0, 3] unless it is told otherwise."""
    x = samples(kind, 150, seed=7)
    peer = powerlaw.Fit(x, parameter_ranges={"alpha": [1.0, 1000.0]}, verbose=False)
    fit = fit_power_law(x)
    assert fit.xmin == pytest.approx(peer.power_law.xmin, rel=1e-9)
    assert fit.alpha == pytest.approx(peer.power_law.alpha, rel=1e-9)
    assert fit.ks == pytest.approx(peer.power_law.D, rel=1e-9)


@pytest.mark.parametrize("alpha", [1.8, 2.5, 4.0])
def test_recovers_a_planted_exponent(alpha):
    """A Pareto tail above 1 under a flat body: alpha within 4 standard errors, xmin near 1."""
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.uniform(0.01, 1, 2000), 1 + rng.pareto(alpha - 1, 3000)])
    fit = fit_power_law(x)
    assert fit.alpha == pytest.approx(alpha, abs=4 * fit.sigma)
    assert 0.8 < fit.xmin < 1.6
    assert fit.ks < 0.03


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e12])
@pytest.mark.parametrize("method", ["ks", "hill"])
def test_alpha_does_not_depend_on_the_scale(scale, method):
    x = samples("marchenko-pastur", 200, seed=0)
    fit, scaled = fit_power_law(x, method=method), fit_power_law(scale * x, method=method)
    assert scaled.alpha == pytest.approx(fit.alpha, rel=1e-9)
    assert scaled.xmin == pytest.approx(scale * fit.xmin, rel=1e-9)
    assert (scaled.n_tail, scaled.n) == (fit.n_tail, fit.n)


@pytest.mark.parametrize("size", [1, 2, 5])
@given(values=st.lists(st.integers(1, 6), min_size=3, max_size=60))
def test_scan_equals_the_naive_search_with_many_ties(size, values):
    x = np.array(values + values[:size], dtype=float)
    if np.unique(x).size > 1:
        assert fit_power_law(x).ks == pytest.approx(naive_fit(x)[0], rel=1e-9)


def test_values_of_which_the_logarithms_are_equal():
    fit = fit_power_law([1.0, 1e3, np.nextafter(1e3, 2e3)])
    assert fit.xmin == 1
    assert fit.alpha == pytest.approx(1 + 3 / np.log(1e6))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [2, 3, 200, 201])
def test_hill_is_the_closed_form(kind, n):
    x = np.sort(samples(kind, n, seed=2))
    k = n // 2
    log_ratios = np.log(x[n - k :] / x[n - k - 1])
    if log_ratios.sum() == 0:
        pytest.skip("a tail of ties")
    fit = fit_power_law(x, method="hill", min_tail=1)
    assert fit.alpha == pytest.approx(1 + k / log_ratios.sum())
    assert (fit.n_tail, fit.xmin) == (k, x[n - k - 1])


def test_curve_holds_the_naive_fit_of_every_tail():
    x = samples("ties", 150, seed=1)
    curve = ks_curve(x)
    assert curve["xmin"].tolist() == np.unique(x)[:-1].tolist()
    for row in curve.itertuples():
        tail = np.sort(x[x >= row.xmin])
        assert row.n_tail == tail.size
        assert row.alpha == pytest.approx(1 + tail.size / np.log(tail / row.xmin).sum())
        law = 1 - (tail / row.xmin) ** (1 - row.alpha)
        assert row.ks == pytest.approx(np.abs(law - np.searchsorted(tail, tail) / tail.size).max())


@pytest.mark.parametrize("min_tail", [2, 40])
def test_fit_is_the_lowest_point_of_the_curve(min_tail):
    x = samples("lognormal", 120, seed=4)
    fit = fit_power_law(x, min_tail=min_tail)
    lowest = ks_curve(x, min_tail=min_tail).nsmallest(1, "ks").iloc[0]
    assert (fit.xmin, fit.n_tail) == (lowest["xmin"], lowest["n_tail"])
    assert [fit.alpha, fit.ks] == pytest.approx([lowest["alpha"], lowest["ks"]])


def fingers():
    """A tail of alpha = 2 in its quantiles, and eight values far above it and close together."""
    return np.concatenate([1 / np.linspace(1, 0.02, 50), 1e6 * np.linspace(1, 1.1, 8)])


def test_clipping_leaves_out_the_fewest_values_that_help():
    x = fingers()
    fit = fit_clipped(x)
    alphas = [fit_power_law(np.sort(x)[: x.size - c]).alpha for c in range(fit.n_clipped + 1)]
    assert alphas[-1] < alphas[0] - 1 <= min(alphas[:-1])
    assert (fit.alpha, fit.n) == (alphas[-1], x.size)


@pytest.mark.parametrize("options", [{"min_drop": 1e3}, {"max_clipped": 1}])
def test_nothing_is_clipped_where_it_does_not_help(options):
    assert fit_clipped(fingers(), **options) == fit_power_law(fingers())


def test_nothing_is_clipped_from_a_power_law():
    """In most of 20 samples: alpha of a short tail may fall by 1 by chance."""
    clean = [fit_clipped(samples("pareto", 300, seed)).n_clipped == 0 for seed in range(20)]
    assert np.mean(clean) >= 0.8


def test_clipping_stops_at_half_and_at_ties():
    assert fit_clipped([1.0, 2.0, 3.0], min_drop=-1e9, max_clipped=10).n_clipped == 1
    assert fit_clipped([1.0, 1.0, 1.0, 2.0], min_drop=1.0) == fit_power_law([1.0, 1.0, 1.0, 2.0])


def test_order_and_noise_do_not_matter():
    x = samples("lognormal", 200, seed=0)
    noise = np.full(50, 1e-14 * x.max())
    shuffled = np.random.default_rng(0).permutation(np.concatenate([x, noise, -noise]))
    assert fit_power_law(shuffled.reshape(3, -1)) == fit_power_law(x)


def test_a_fixed_xmin_gives_the_fit_of_the_scan():
    x = samples("lognormal", 300, seed=3)
    fit = fit_power_law(x)
    assert fit_power_law(x, xmin=fit.xmin) == fit


def test_a_fixed_xmin_need_not_be_a_value():
    x = np.exp(np.arange(6.0))
    fit = fit_power_law(x, xmin=np.exp(1.5))
    assert fit.n_tail == 4
    assert fit.alpha == pytest.approx(1 + 4 / (0.5 + 1.5 + 2.5 + 3.5))


def test_min_tail_is_kept():
    x = samples("lognormal", 100, seed=5)
    assert fit_power_law(x).n_tail < 90 <= fit_power_law(x, min_tail=90).n_tail


def test_pdf_integrates_to_one():
    fit = PowerLawFit(alpha=2.5, xmin=0.3, ks=0.0, sigma=0.0, n_tail=1, n=1)
    x = np.geomspace(0.3, 3e6, 20001)
    assert np.trapezoid(fit.pdf(x), x) == pytest.approx(1, abs=1e-4)
    assert fit.pdf([0.1, 0.29]).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        ([], {}, "needs values to fit, got an empty array"),
        ([1.0, np.nan, np.inf], {}, "got 2 NaN or inf of 3; drop them"),
        ([-1.0, 2.0], {}, "non-negative values, got -1; give the eigenvalues of W"),
        ([2.0, 2.0, 2.0], {}, "not all equal, got 3 values, 1 of them different"),
        ([0.0, 0.0], {}, "got 0 values"),
        ([5.0], {}, "got 1 values"),
        ([1.0, 2.0, 3.0], {"min_tail": 4}, "at least 4 positive values"),
        ([1.0, 2.0], {"xmin": 5.0}, "from xmin=5 holds 0 values.*below the largest value, 2"),
        ([0.0, 0.0], {"xmin": 1.0}, "from xmin=1 holds 0 values"),
        ([1.0, 2.0], {"xmin": 1.0, "method": "hill"}, "own xmin, got xmin=1.0 as well; leave one"),
        ([1.0], {"method": "hill"}, "Hill's estimator needs at least 2 values, got 1"),
        ([1.0, 2.0, 2.0], {"method": "hill", "min_tail": 1}, "from xmin=2 holds 1 values"),
        ([1.0, 2.0], {"xmin": -1.0}, "xmin must be a positive number, got -1"),
        ([1.0, 2.0], {"xmin": np.nan}, "xmin must be a positive number, got nan"),
    ],
)
def test_bad_input_is_one_sentence(x, options, message):
    with pytest.raises(FitError, match=message) as caught:
        fit_power_law(x, **options)
    assert isinstance(caught.value, (WskitError, ValueError))
    assert "\n" not in str(caught.value)
