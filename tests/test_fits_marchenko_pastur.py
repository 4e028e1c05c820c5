import numpy as np
import pytest
from scipy.integrate import quad

from wskit.errors import FitError
from wskit.fits import MarchenkoPastur, fit_marchenko_pastur

SHAPES = [(200, 200), (400, 200), (800, 100)]


def planted(N, M, *, sigma=0.3, strengths=(), seed=0):
    """Eigenvalues of noise plus orthogonal directions.

    `strengths` are singular values over the threshold sigma (N M)^(1/4), below which a direction
    cannot be seen (Baik, Ben Arous and Peche 2005).
    """
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((N, M))
    U = np.linalg.qr(rng.standard_normal((N, len(strengths))))[0]
    V = np.linalg.qr(rng.standard_normal((M, len(strengths))))[0]
    W += (U * np.array(strengths) * (N * M) ** 0.25) @ V.T
    return np.linalg.svd(sigma * W, compute_uv=False) ** 2


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


def test_the_density_of_a_square_matrix_has_its_pole_at_zero():
    assert MarchenkoPastur(1.0, 10, 10).pdf([0.0, -1.0]).tolist() == [np.inf, 0]


@pytest.mark.parametrize(("N", "M"), SHAPES)
def test_the_law_is_that_of_random_matrices(N, M):
    values = np.sort(planted(N, M))
    share = MarchenkoPastur(0.3, N, M).cdf(values)
    assert np.abs(share - (np.arange(M) + 0.5) / M).max() < 0.02


def test_tracy_widom_scale_is_the_spread_of_the_largest_eigenvalue():
    """Mean -1.2065 and standard deviation 1.2680 of the Tracy-Widom law of real matrices."""
    law = MarchenkoPastur(0.3, 120, 60)
    largest = np.array([planted(120, 60, seed=seed).max() for seed in range(300)])
    t = (largest - law.lambda_plus) / law.tw_scale
    assert t.mean() == pytest.approx(-1.2065, abs=0.35)  # 0.07 by chance, the rest is finite size
    assert t.std() == pytest.approx(1.268, rel=0.15)


@pytest.mark.parametrize(("N", "M"), SHAPES)
@pytest.mark.parametrize("n_spikes", [0, 1, 5])
def test_planted_sigma_and_spikes_are_recovered(N, M, n_spikes):
    strengths = np.linspace(2, 5, n_spikes)
    for seed in range(5):
        fit = fit_marchenko_pastur(planted(N, M, strengths=strengths, seed=seed), N=N, M=M)
        assert fit.sigma == pytest.approx(0.3, rel=0.01)
        assert fit.n_spikes == n_spikes
        assert fit.ks < 0.04


def test_directions_below_the_threshold_are_not_seen():
    seen = [
        fit_marchenko_pastur(planted(300, 150, strengths=[0.7], seed=s), N=300, M=150).n_spikes
        for s in range(20)
    ]
    assert np.mean(seen) <= 0.1


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


@pytest.mark.parametrize("method", ["quantiles", "weightwatcher"])
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_nothing_depends_on_the_scale(method, scale):
    e = planted(90, 60, strengths=[3.0])
    fit = fit_marchenko_pastur(e, N=90, M=60, method=method)
    scaled = fit_marchenko_pastur(scale * e[::-1], N=90, M=60, method=method)
    assert scaled.sigma == pytest.approx(np.sqrt(scale) * fit.sigma)
    assert scaled.edge == pytest.approx(scale * fit.edge)
    assert (scaled.n_spikes, scaled.soft_rank) == (fit.n_spikes, pytest.approx(fit.soft_rank))


def test_soft_rank_and_ks_are_what_they_say():
    e = planted(100, 80, strengths=[4.0])
    fit = fit_marchenko_pastur(e, N=100, M=80)
    assert fit.soft_rank == pytest.approx(fit.lambda_plus / e.max())
    bulk = np.sort(e[e <= fit.edge])
    steps = [np.searchsorted(bulk, bulk, side=side) / bulk.size for side in ("left", "right")]
    assert fit.ks == pytest.approx(np.abs(fit.cdf(bulk) - steps).max())


# sigma_mp, bulk_min, bulk_max, mp_softrank, num_spikes and W_scale by the functions of
# WeightWatcher 0.7.7, for N x M matrices of normal entries of 0.2, `offset` on the first column.
WEIGHTWATCHER = {
    (60, 60, 1, 0, 0.0): (1.00977145952, 0, 9.77722896898, 1.05118361916, 0, 0.645870121585),
    (40, 20, 1, 1, 0.5): (
        0.90403857456,
        0.1442052505,
        4.8987335108,
        0.39713259266,
        1,
        0.69727764541,
    ),
    (90, 30, 2, 2, 0.3): (
        0.96259033242,
        0.6426781461,
        8.951351831,
        0.58977750092,
        2,
        0.50748747272,
    ),
    (16, 16, 9, 3, 0.4): (1.01002225661, 0, 3.18987720051, 0.708773247208, 3, 1.13102956452),
}


@pytest.mark.parametrize(("case", "expected"), WEIGHTWATCHER.items())
def test_weightwatcher_is_reproduced(case, expected):
    N, M, n_matrices, seed, offset = case
    W = 0.2 * np.random.default_rng(seed).standard_normal((n_matrices, N, M))
    W[:, :, 0] += offset
    e = np.concatenate([np.linalg.eigvalsh(w.T @ w) for w in W])
    fit = fit_marchenko_pastur(e, N=N, M=M, method="weightwatcher")
    scale = np.sqrt(e.size / e.sum())
    found = (fit.sigma * scale * np.sqrt(N), fit.lambda_minus, fit.lambda_plus, fit.soft_rank)
    assert (*found, fit.n_spikes, scale) == pytest.approx(expected, rel=1e-9)


def test_square_matrices_with_spikes_are_where_the_methods_differ():
    """Noise of 0.3 below a strong signal: WeightWatcher's fit of square matrices is off."""
    e = planted(200, 200, strengths=np.linspace(3, 8, 10))
    sigma = {
        method: fit_marchenko_pastur(e, N=200, M=200, method=method).sigma
        for method in ["quantiles", "weightwatcher"]
    }
    assert abs(sigma["quantiles"] / 0.3 - 1) < 0.01
    assert abs(sigma["weightwatcher"] / 0.3 - 1) > 0.1


@pytest.mark.parametrize(
    ("e", "N", "M", "message"),
    [
        ([1.0, 2.0], 2, 3, "N >= M >= 1, got N=2, M=3; transpose"),
        ([1.0, 2.0, 3.0], 4, 2, "a multiple of M=2, got 3; give all of them, zeros as well"),
        ([], 4, 2, "a multiple of M=2, got 0"),
        ([1.0, np.nan], 4, 2, "got 1 NaN or inf of 2"),
        ([0.0, 0.0], 4, 2, "needs a positive eigenvalue, got zeros only"),
        ([-1.0, 2.0], 4, 2, "are not negative, got -1; give those, not W's"),
        ([0.0, 0.0, 0.0, 2.0], 4, 4, "at least half of 4 eigenvalues are 0; the matrix has lost"),
    ],
)
def test_bad_input_is_one_sentence(e, N, M, message):
    with pytest.raises(FitError, match=message):
        fit_marchenko_pastur(e, N=N, M=M)


def test_where_weightwatcher_fails_the_reason_is_said():
    e = np.append(np.linspace(0.4, 0.6, 4999), 2500)
    with pytest.raises(FitError, match=r"misses all of the bulk.*2500 times the mean"):
        fit_marchenko_pastur(e, N=10000, M=5000, method="weightwatcher")


@pytest.mark.parametrize(
    ("sigma", "N", "M", "message"),
    [(0.0, 3, 2, "sigma > 0, got 0.0"), (1.0, 2, 3, "got N=2, M=3; transpose the matrix")],
)
def test_there_is_no_such_law(sigma, N, M, message):
    with pytest.raises(FitError, match=message):
        MarchenkoPastur(sigma, N, M)
