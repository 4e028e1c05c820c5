import re
import warnings
from dataclasses import replace

import numpy as np
import powerlaw
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from wskit.errors import FitError
from wskit.fits import (
    MarchenkoPastur,
    PowerLawFit,
    alpha_interval,
    caveats,
    classify_phase,
    compare_tails,
    fit_laws,
    fit_marchenko_pastur,
    fit_power_law,
    goodness_of_fit,
    ks_curve,
)


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


def pareto(alpha, n, seed):
    return 1 + np.random.default_rng(seed).pareto(alpha - 1, n)


def sample(kind, n, seed):
    rng = np.random.default_rng(seed)
    if kind == "pareto":
        return pareto(2.5, n, seed)
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
    x = sample(kind, n, seed)
    ks, xmin, alpha, n_tail = naive_fit(x)
    fit = fit_power_law(x)
    assert (fit.xmin, fit.n_tail) == (xmin, n_tail)
    assert [fit.alpha, fit.ks] == pytest.approx([alpha, ks], rel=1e-10)
    assert fit_power_law(x, xmin=fit.xmin) == fit


@given(st.lists(st.floats(1e-3, 1e3) | st.integers(1, 6), min_size=2, max_size=60))
def test_scan_equals_the_naive_search_on_anything(values):
    x = np.array(values, dtype=float)
    if np.unique(x).size < 2 or np.log(x.max() / x.min()) < 1e-9:
        return
    # Of two xmin with the same distance up to rounding, either may win.
    assert fit_power_law(x).ks == pytest.approx(naive_fit(x)[0], rel=1e-7, abs=1e-12)


@pytest.mark.filterwarnings("ignore:Standard error for the MLE:DeprecationWarning")
@pytest.mark.parametrize("kind", ["pareto", "lognormal", "marchenko-pastur"])
def test_agrees_with_powerlaw(kind):
    """powerlaw 2 keeps alpha within [0, 3] by default."""
    x = sample(kind, 150, seed=7)
    peer = powerlaw.Fit(x, parameter_ranges={"alpha": [1.0, 1000.0]}, verbose=False)
    fit = fit_power_law(x)
    assert fit.xmin == pytest.approx(peer.power_law.xmin, rel=1e-9)
    assert fit.alpha == pytest.approx(peer.power_law.alpha, rel=1e-9)
    assert fit.ks == pytest.approx(peer.power_law.D, rel=1e-9)


@pytest.mark.parametrize("alpha", [1.8, 2.5, 4.0])
def test_recovers_a_planted_exponent(alpha):
    """A Pareto tail above 1 over a flat body: alpha within 4 standard errors, xmin near 1."""
    body = np.random.default_rng(1).uniform(0.01, 1, 2000)
    fit = fit_power_law(np.concatenate([body, pareto(alpha, 3000, seed=2)]))
    assert fit.alpha == pytest.approx(alpha, abs=4 * fit.sigma)
    assert 0.8 < fit.xmin < 1.6
    assert fit.ks < 0.03


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("method", ["ks", "hill"])
def test_alpha_does_not_depend_on_the_scale(scale, method):
    x = sample("marchenko-pastur", 200, seed=0)
    fit, scaled = fit_power_law(x, method=method), fit_power_law(scale * x, method=method)
    assert scaled.alpha == pytest.approx(fit.alpha, rel=1e-9)
    assert scaled.xmin == pytest.approx(scale * fit.xmin, rel=1e-9)
    assert (scaled.n_tail, scaled.n) == (fit.n_tail, fit.n)


def test_values_whose_logarithms_are_equal():
    fit = fit_power_law([1.0, 1e3, np.nextafter(1e3, 2e3)])
    assert (fit.xmin, fit.alpha) == (1, pytest.approx(1 + 3 / np.log(1e6)))


@pytest.mark.parametrize("kind", ["pareto", "marchenko-pastur"])
@pytest.mark.parametrize("n", [4, 5, 200, 201])
def test_hill_is_the_closed_form(kind, n):
    x = np.sort(sample(kind, n, seed=2))
    k = n // 2
    fit = fit_power_law(x, method="hill")
    assert fit.alpha == pytest.approx(1 + k / np.log(x[n - k :] / x[n - k - 1]).sum())
    assert (fit.n_tail, fit.xmin) == (k, x[n - k - 1])


def test_curve_holds_the_naive_fit_of_every_tail():
    x = sample("ties", 150, seed=1)
    curve = ks_curve(x)
    assert curve["xmin"].tolist() == np.unique(x)[:-1].tolist()
    for row in curve.itertuples():
        tail = np.sort(x[x >= row.xmin])
        assert row.n_tail == tail.size
        assert row.alpha == pytest.approx(1 + tail.size / np.log(tail / row.xmin).sum())
        law = 1 - (tail / row.xmin) ** (1 - row.alpha)
        assert row.ks == pytest.approx(np.abs(law - np.searchsorted(tail, tail) / tail.size).max())
    assert curve.loc[curve["ks"].idxmin(), "xmin"] == fit_power_law(x).xmin


def test_order_and_noise_do_not_matter():
    x = sample("lognormal", 200, seed=0)
    noise = np.full(50, 1e-14 * x.max())
    shuffled = np.random.default_rng(0).permutation(np.concatenate([x, noise, -noise]))
    assert fit_power_law(shuffled.reshape(3, -1)) == fit_power_law(x)


def test_pdf_integrates_to_one():
    fit = PowerLawFit(alpha=2.5, xmin=0.3, ks=0.0, sigma=0.0, n_tail=1, n=1)
    x = np.geomspace(0.3, 3e6, 20001)
    assert np.trapezoid(fit.pdf(x), x) == pytest.approx(1, abs=1e-4)
    assert fit.pdf([0.1, 0.29]).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        ([1.0, np.nan, np.inf], {}, "got 2 NaN or inf among 3"),
        ([-1.0, 2.0], {}, "non-negative values, got -1; pass the eigenvalues of W"),
        ([2.0, 2.0, 2.0], {}, "not all equal, got 3 values, 1 of them different"),
        ([1.0, 2.0], {"xmin": 5.0}, "got 0 from xmin=5 on; .* largest value, 2"),
        ([1.0, 2.0], {"xmin": 1.0, "method": "hill"}, "finds xmin itself, .* xmin=1.0"),
        ([1.0, 2.0], {"xmin": np.nan}, "xmin must be positive and finite, got nan"),
    ],
)
def test_what_has_no_tail_is_refused(x, options, message):
    with pytest.raises(FitError, match=message):
        fit_power_law(x, **options)


# Evidence: the bootstrap, goodness of fit, other laws.


@pytest.mark.parametrize("ties", [False, True])
def test_interval_is_the_percentile_bootstrap(ties):
    """The same draws, resampled and fitted the plain way."""
    x = np.sort(pareto(2.5, 120, seed=0))
    x = np.ceil(4 * x) if ties else x
    rng = np.random.default_rng(1)
    alphas = [fit_power_law(x[rng.integers(x.size, size=x.size)]).alpha for _ in range(50)]
    interval = alpha_interval(x, n_resamples=50, level=0.8, rng=1)
    assert interval == pytest.approx(tuple(np.quantile(alphas, [0.1, 0.9])))
    assert alpha_interval(1e-12 * x, n_resamples=50, level=0.8, rng=1) == pytest.approx(interval)


def test_p_values_of_power_laws_are_uniform():
    """p of true power laws is spread over [0, 1]: a tenth of them below 0.1, half below 0.5."""
    p = [goodness_of_fit(pareto(2.5, 80, s), n_resamples=40, rng=s) for s in range(40)]
    assert np.mean(np.array(p) < 0.1) < 0.1 + 3 * np.sqrt(0.09 / 40)
    assert 0.5 - 3 * np.sqrt(0.25 / 40) < np.mean(np.array(p) < 0.5) < 0.5 + 3 * np.sqrt(0.25 / 40)


def verdicts(x, xmin=None):
    table = compare_tails(x, fit_power_law(x, xmin=xmin))
    return dict(zip(table["alternative"], table["preferred"], strict=True))


def test_planted_laws_are_told_apart():
    rng = np.random.default_rng(2)
    assert verdicts(rng.exponential(size=400), xmin=0.2)["exponential"] == "exponential"
    found = verdicts(pareto(2.5, 600, seed=1), xmin=1.0)
    assert found["exponential"] == "power_law"
    assert found["truncated_power_law"] == "neither"
    cut = pareto(2.0, 4000, seed=2)
    cut = cut[rng.random(cut.size) < np.exp(-0.1 * cut)]
    assert verdicts(cut, xmin=1.0)["truncated_power_law"] == "truncated_power_law"


@pytest.mark.filterwarnings("ignore")
def test_comparison_agrees_with_powerlaw_and_does_not_depend_on_scale():
    x = np.random.default_rng(3).lognormal(sigma=0.8, size=300)
    fit = fit_power_law(x)
    peer = powerlaw.Fit(x, xmin=fit.xmin, parameter_ranges={"alpha": [1.0, 1000.0]}, verbose=False)
    table = compare_tails(x, fit)
    for row in table.itertuples():
        ratio, p = peer.distribution_compare("power_law", row.alternative, normalized_ratio=True)
        assert [row.R, row.p] == pytest.approx([ratio, p], rel=1e-2, abs=1e-3)
    scaled = compare_tails(1e-12 * x, fit_power_law(1e-12 * x))
    assert scaled["R"].tolist() == pytest.approx(table["R"].tolist(), rel=1e-6, abs=1e-6)


def test_comparison_is_quiet_and_changes_nothing_global(capsys):
    before = (np.geterr(), list(warnings.filters))
    compare_tails(np.arange(1.0, 60.0), fit_power_law(np.arange(1.0, 60.0), xmin=1.0))
    assert (np.geterr(), list(warnings.filters)) == before
    assert capsys.readouterr() == ("", "")


def test_comparison_needs_the_fitted_values_and_three_of_them():
    with pytest.raises(FitError, match=r"the 3 values of the fit's tail.*got 2 values"):
        compare_tails([1.0, 3.0], fit_power_law([1.0, 2.0, 4.0]))
    with pytest.raises(FitError, match="2 of them different"):
        compare_tails([1.0, 2.0, 2.0], fit_power_law([1.0, 2.0, 2.0]))


# The Marchenko-Pastur law.

SHAPES = [(200, 200), (400, 200), (800, 100)]


def noise_and_directions(N, M, strengths=(), seed=0):
    """Normal entries plus orthogonal directions.

    `strengths` are singular values over the threshold (N M)^(1/4), below which a direction cannot
    be seen (Baik, Ben Arous and Peche 2005).
    """
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((N, M))
    U = np.linalg.qr(rng.standard_normal((N, len(strengths))))[0]
    V = np.linalg.qr(rng.standard_normal((M, len(strengths))))[0]
    return W + (U * np.array(strengths) * (N * M) ** 0.25) @ V.T


def eigenvalues(W):
    return np.linalg.eigvalsh(W.T @ W)


def planted(N, M, strengths=(), seed=0):
    return eigenvalues(0.3 * noise_and_directions(N, M, strengths, seed))


@pytest.mark.parametrize(("N", "M"), [(100, 100), (101, 100), (300, 100), (50, 1)])
def test_density_and_distribution_are_those_of_the_law(N, M):
    law = MarchenkoPastur(0.7, N, M)
    a, b = law.lambda_minus, law.lambda_plus

    # With x = a + (b - a) sin(t)^2 the density's square roots are smooth, and its pole at 0 gone.
    def mass(t):
        x = a + (b - a) * np.sin(t) ** 2
        return law.pdf([x])[0] * (b - a) * np.sin(2 * t)

    assert quad(mass, 1e-9, np.pi / 2 - 1e-9)[0] == pytest.approx(1, abs=1e-6)
    for t in [0.05, 0.4, 1.0, 1.5]:
        x = a + (b - a) * np.sin(t) ** 2
        assert law.cdf([x])[0] == pytest.approx(quad(mass, 1e-9, t)[0], abs=1e-6)
        assert law.quantile(law.cdf([x]))[0] == pytest.approx(x, rel=1e-4)
    assert law.cdf([a - 1, a, b, b + 1]) == pytest.approx([0, 0, 1, 1], abs=1e-12)
    assert law.pdf([a - 0.1, b + 0.1, -1.0]).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("N", "M"), SHAPES)
@pytest.mark.parametrize("n_spikes", [0, 1, 5])
def test_planted_sigma_and_spikes_are_recovered(N, M, n_spikes):
    for seed in range(5):
        e = planted(N, M, np.linspace(2, 5, n_spikes), seed)
        fit = fit_marchenko_pastur(e, N=N, M=M)
        assert fit.sigma == pytest.approx(0.3, rel=0.01)
        assert fit.n_spikes == n_spikes
        assert fit.ks < 0.04


@pytest.mark.parametrize(("N", "M", "n_matrices"), [(64, 64, 1), (100, 50, 1), (32, 16, 9)])
def test_noise_raises_few_alarms(N, M, n_matrices):
    """1 % is the aim; 6 in 100 is what 1 % would pass with a probability below 1e-3."""
    alarms = 0
    for seed in range(100):
        e = [planted(N, M, seed=n_matrices * seed + i) for i in range(n_matrices)]
        fit = fit_marchenko_pastur(np.concatenate(e), N=N, M=M)
        assert fit.n_matrices == n_matrices
        alarms += fit.n_spikes > 0
    assert alarms < 6


def test_tracy_widom_scale_is_the_spread_of_the_largest_eigenvalue():
    """Mean -1.2065 and standard deviation 1.2680 of the Tracy-Widom law of real matrices."""
    law = MarchenkoPastur(0.3, 120, 60)
    largest = np.array([planted(120, 60, seed=seed).max() for seed in range(300)])
    t = (largest - law.lambda_plus) / law.tw_scale
    assert t.mean() == pytest.approx(-1.2065, abs=0.35)  # 0.07 by chance, the rest is finite size
    assert t.std() == pytest.approx(1.268, rel=0.15)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_nothing_depends_on_the_scale(scale):
    e = planted(90, 60, [3.0])
    fit = fit_marchenko_pastur(e, N=90, M=60)
    scaled = fit_marchenko_pastur(scale * e[::-1], N=90, M=60)
    assert scaled.sigma == pytest.approx(np.sqrt(scale) * fit.sigma)
    assert scaled.edge == pytest.approx(scale * fit.edge)
    assert (scaled.n_spikes, scaled.soft_rank) == (fit.n_spikes, pytest.approx(fit.soft_rank))


@pytest.mark.parametrize("n_spikes", [0, 7])
def test_ks_is_the_distance_from_the_law_that_was_fitted(n_spikes):
    """Each spike takes a dimension from the noise: the bulk is that of a smaller matrix."""
    e = planted(100, 80, np.linspace(3, 6, n_spikes))
    fit = fit_marchenko_pastur(e, N=100, M=80)
    assert fit.n_spikes == n_spikes
    assert fit.soft_rank == pytest.approx(fit.lambda_plus / e.max())
    bulk = np.sort(e[e <= fit.edge])
    steps = [np.searchsorted(bulk, bulk, side=side) / bulk.size for side in ("left", "right")]
    law = MarchenkoPastur(fit.sigma, 100 - n_spikes, 80 - n_spikes)
    assert fit.ks == pytest.approx(np.abs(law.cdf(bulk) - steps).max())


@pytest.mark.parametrize(
    ("e", "N", "M", "message"),
    [
        ([1.0, 2.0], 2, 3, "N >= M >= 1, got N=2, M=3; transpose"),
        ([1.0, 2.0, 3.0], 4, 2, "a multiple of M=2, got 3; pass all of them, zeros included"),
        ([0.0, 0.0], 4, 2, "not all zero"),
        ([-1.0, 2.0], 4, 2, "non-negative .* got values from -1 to 2"),
        ([0.0, 0.0, 0.0, 2.0], 4, 4, "at least half of 4 eigenvalues are 0: the matrix has lost"),
    ],
)
def test_what_has_no_bulk_is_refused(e, N, M, message):
    with pytest.raises(FitError, match=message):
        fit_marchenko_pastur(e, N=N, M=M)


# The phases.


def pareto_entries(rng, N, M, mu):
    return rng.choice([-1, 1], (N, M)) * (1 + rng.pareto(mu, (N, M)))


PLANTED = {
    "normal": ("random-like", lambda r, N, M: r.standard_normal((N, M))),
    "faint": ("bleeding-out", lambda r, N, M: noise_and_directions(N, M, [1.5, 1.6], r)),
    "strong": ("bulk+spikes", lambda r, N, M: noise_and_directions(N, M, [3, 4, 5], r)),
    "uneven": ("bulk-decay", lambda r, N, M: r.standard_normal((N, M)) * np.geomspace(1, 2.5, M)),
    "very heavy": ("heavy-tailed", lambda r, N, M: pareto_entries(r, N, M, 1.5)),
    "1/k": ("heavy-tailed", lambda r, N, M: r.standard_normal((N, M)) / np.arange(1, M + 1) ** 0.5),
    "low rank": (
        "rank-collapse",
        lambda r, N, M: r.standard_normal((N, M // 2)) @ r.standard_normal((M // 2, M)),
    ),
}


@pytest.mark.parametrize(("N", "M"), [(200, 200), (500, 250)])
@pytest.mark.parametrize("kind", PLANTED)
def test_planted_phases_are_named(kind, N, M):
    name, make = PLANTED[kind]
    found = []
    for seed in range(8):
        W = make(np.random.default_rng(seed), N, M)
        found.append(classify_phase(eigenvalues(W), N=N, M=M).name)
    assert found.count(name) >= 7, found


@pytest.mark.parametrize(("N", "M", "n_spikes"), [(256, 128, 10), (300, 200, 15), (1000, 500, 10)])
def test_noise_with_many_spikes_is_bulk_and_spikes(N, M, n_spikes):
    strengths = np.linspace(2, 6, n_spikes)
    names = [classify_phase(planted(N, M, strengths, s), N=N, M=M).name for s in range(20)]
    assert names.count("bulk+spikes") >= 19
    heavy = (pareto_entries(np.random.default_rng(s), N, M, 1.5) for s in range(3))
    assert {classify_phase(eigenvalues(W), N=N, M=M).name for W in heavy} == {"heavy-tailed"}


def test_phase_does_not_depend_on_scale_and_shows_its_evidence():
    e = eigenvalues(pareto_entries(np.random.default_rng(0), 200, 100, 1.5))
    phase = classify_phase(e, N=200, M=100)
    assert phase.evidence["alpha"] == pytest.approx(fit_power_law(e).alpha)
    assert phase.evidence["mp_ks"] == pytest.approx(fit_marchenko_pastur(e, N=200, M=100).ks)
    scaled = classify_phase(1e-12 * e, N=200, M=100)
    assert scaled.name == phase.name == "heavy-tailed"
    assert scaled.evidence == pytest.approx(phase.evidence)


def test_a_fifth_of_zeros_is_a_collapse_and_one_is_not():
    e = eigenvalues(np.random.default_rng(0).standard_normal((80, 50)))
    assert classify_phase(np.append(np.zeros(10), e[:40]), N=80, M=50).name == "rank-collapse"
    assert classify_phase(np.append(np.zeros(1), e[:49]), N=80, M=50).name != "rank-collapse"


def test_laws_are_the_single_fits_and_one_that_fails_spoils_no_other():
    e = planted(90, 60, [4.0])
    laws = fit_laws(e, N=90, M=60)
    assert (laws.mp, laws.tail) == (fit_marchenko_pastur(e, N=90, M=60), fit_power_law(e))
    assert laws.phase == classify_phase(e, N=90, M=60).name
    zeros = fit_laws(np.append(np.zeros(3), [1.0]), N=4, M=4)
    assert (zeros.tail, zeros.mp, zeros.phase) == (None, None, "rank-collapse")
    assert set(zeros.reasons) == {"tail", "mp"}


GOOD = PowerLawFit(alpha=3.0, xmin=1.0, ks=0.05, sigma=0.2, n_tail=100, n=200)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 49}, "Only 49 eigenvalues: below 50"),
        ({"n_tail": 7, "sigma": 0.76}, "only 7 of 200 eigenvalues.*error of 0.76 in alpha = 3.00"),
        ({"ks": 0.2}, r"no power law: KS distance 0.200 \* sqrt\(100\) = 2.00"),
        ({"alpha": 9.5}, "alpha = 9.50 is outside of 1.5 to 6"),
    ],
)
def test_each_caveat_is_one_sentence_with_its_numbers(changes, message):
    (sentence,) = caveats(replace(GOOD, **changes))
    assert re.search(message, sentence)
    assert caveats(GOOD) == []


@pytest.mark.parametrize(("strengths", "n_caveats"), [([], 1), ([4.0], 0)])
def test_noise_is_called_chance_and_signal_is_not(strengths, n_caveats):
    found = caveats(GOOD, mp=fit_marchenko_pastur(planted(200, 100, strengths), N=200, M=100))
    assert len(found) == n_caveats
    assert all("times the Marchenko-Pastur edge, as by chance" in text for text in found)
