import warnings

import numpy as np
import powerlaw
import pytest

from wskit.errors import FitError
from wskit.fits import compare_tails, fit_clipped, fit_power_law


def verdicts(x, xmin=None):
    table = compare_tails(x, fit_power_law(x, xmin=xmin))
    return dict(zip(table["alternative"], table["preferred"], strict=True))


def test_exponential_values_are_told_from_a_power_law():
    x = np.random.default_rng(0).exponential(size=400)
    assert verdicts(x, xmin=0.2)["exponential"] == "exponential"


def test_a_power_law_is_told_from_an_exponential_and_needs_no_cutoff():
    x = 1 + np.random.default_rng(1).pareto(1.5, 600)
    found = verdicts(x, xmin=1.0)
    assert found["exponential"] == "power_law"
    assert found["truncated_power_law"] == "neither"


def test_a_cutoff_is_found():
    rng = np.random.default_rng(2)
    x = 1 + rng.pareto(1.0, 4000)
    x = x[rng.random(x.size) < np.exp(-0.1 * x)]
    assert verdicts(x, xmin=1.0)["truncated_power_law"] == "truncated_power_law"


@pytest.mark.filterwarnings("ignore")
def test_agrees_with_powerlaw_and_does_not_depend_on_scale():
    x = np.random.default_rng(3).lognormal(sigma=0.8, size=300)
    fit = fit_power_law(x)
    peer = powerlaw.Fit(x, xmin=fit.xmin, parameter_ranges={"alpha": [1.0, 1000.0]}, verbose=False)
    table = compare_tails(x, fit)
    for row in table.itertuples():
        ratio, p = peer.distribution_compare("power_law", row.alternative, normalized_ratio=True)
        assert [row.R, row.p] == pytest.approx([ratio, p], rel=1e-2, abs=1e-3)
    scaled = compare_tails(1e-12 * x, fit_power_law(1e-12 * x))
    assert scaled["R"].tolist() == pytest.approx(table["R"].tolist(), rel=1e-6, abs=1e-6)


def test_steep_tails_are_not_cut_at_three():
    """powerlaw 2 keeps the exponent of a truncated power law below 3 by default."""
    x = 1 + np.random.default_rng(4).pareto(7.0, 500)
    table = compare_tails(x, fit_power_law(x, xmin=1.0), alternatives=["truncated_power_law"])
    assert table["R"][0] < 0.01  # it includes the power law
    assert table["p"][0] > 0.1


def test_whole_numbers_warn_no_one_and_nothing_global_changes(capsys):
    before = (np.geterr(), list(warnings.filters))
    compare_tails(np.arange(1.0, 60.0), fit_power_law(np.arange(1.0, 60.0), xmin=1.0))
    assert (np.geterr(), list(warnings.filters)) == before
    assert capsys.readouterr() == ("", "")


def test_clipped_values_stay_out():
    x = np.concatenate([1 / np.linspace(1, 0.02, 50), 1e6 * np.linspace(1, 1.1, 8)])
    fit = fit_clipped(x)
    assert fit.n_clipped == 2
    clipped = np.sort(x)[:-2]
    same = compare_tails(clipped, fit_power_law(clipped), alternatives=["lognormal"])
    assert compare_tails(x, fit, alternatives=["lognormal"]).equals(same)


def test_bad_input_is_one_sentence():
    fit = fit_power_law([1.0, 2.0, 4.0])
    with pytest.raises(FitError, match="has 3 values in its tail, got 2 from xmin=1; give the"):
        compare_tails([1.0, 3.0], fit)
    with pytest.raises(FitError, match="3 different values or more, got 2"):
        compare_tails([1.0, 2.0, 2.0], fit_power_law([1.0, 2.0, 2.0]))
