import numpy as np
import pytest

from wskit.errors import FitError
from wskit.fits import alpha_interval, fit_power_law, goodness_of_fit


def pareto(alpha, n, seed):
    return 1 + np.random.default_rng(seed).pareto(alpha - 1, n)


@pytest.mark.parametrize("ties", [False, True])
def test_interval_is_the_percentile_bootstrap(ties):
    """The same draws, resampled and fitted the plain way."""
    x = np.sort(pareto(2.5, 120, seed=0))
    x = np.ceil(4 * x) if ties else x
    rng = np.random.default_rng(1)
    alphas = [fit_power_law(x[rng.integers(x.size, size=x.size)]).alpha for _ in range(50)]
    interval = alpha_interval(x, n_resamples=50, level=0.8, rng=1)
    assert interval == pytest.approx(tuple(np.quantile(alphas, [0.1, 0.9])))


def test_interval_covers_the_planted_exponent():
    """A 90 % interval over 40 samples: within 3 standard deviations of the rate, at the least."""
    found = []
    for seed in range(40):
        low, high = alpha_interval(pareto(2.5, 150, seed), n_resamples=40, rng=seed)
        found.append(low < 2.5 < high)
    assert np.mean(found) > 0.9 - 3 * np.sqrt(0.09 / 40)


def test_interval_narrows_with_more_values_and_does_not_depend_on_scale():
    few = np.diff(alpha_interval(pareto(2.5, 100, 0), rng=0))
    x = pareto(2.5, 2000, 0)
    many = alpha_interval(x, rng=0)
    assert np.diff(many) < few / 2
    assert alpha_interval(1e-12 * x, rng=0) == pytest.approx(many)


def test_two_values_are_drawn_until_they_differ():
    assert alpha_interval([1.0, np.e], n_resamples=20, rng=0) == pytest.approx((3.0, 3.0))


def test_a_generator_moves_on_and_a_seed_repeats():
    x = pareto(2.0, 100, 0)
    rng = np.random.default_rng(3)
    first, second = alpha_interval(x, rng=rng), alpha_interval(x, rng=rng)
    assert first == alpha_interval(x, rng=3) != second
    assert goodness_of_fit(x, n_resamples=40, rng=3) == goodness_of_fit(x, n_resamples=40, rng=3)


def test_p_values_of_power_laws_are_uniform():
    """p of true power laws is spread over [0, 1]: a tenth of them below 0.1, half below 0.5."""
    p = [goodness_of_fit(pareto(2.5, 80, s), n_resamples=40, rng=s) for s in range(40)]
    assert np.mean(np.array(p) < 0.1) < 0.1 + 3 * np.sqrt(0.09 / 40)
    assert 0.5 - 3 * np.sqrt(0.25 / 40) < np.mean(np.array(p) < 0.5) < 0.5 + 3 * np.sqrt(0.25 / 40)


def test_what_is_no_power_law_is_found_out():
    """All values of a uniform law have to be the tail: it has no power-law tail to find."""
    x = np.random.default_rng(0).uniform(1, 2, 500)
    assert goodness_of_fit(x, n_resamples=100, rng=0, min_tail=400) < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 1.0}, "level must be between 0 and 1, got 1.0"),
        ({"n_resamples": 0}, "n_resamples must be at least 1, got 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(FitError, match=message):
        alpha_interval([1.0, 2.0, 3.0], rng=0, **options)


def test_p_needs_resamples_and_a_tail():
    with pytest.raises(FitError, match="n_resamples must be at least 1, got 0"):
        goodness_of_fit([1.0, 2.0, 3.0], n_resamples=0, rng=0)
    with pytest.raises(FitError, match="not all equal, got 2 values"):
        goodness_of_fit([1.0, 1.0], rng=0)
