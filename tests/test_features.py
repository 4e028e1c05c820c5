import numpy as np
import pandas as pd
import pytest
import torch

from wskit.errors import SpectrumError
from wskit.features import _weightwatcher, spectral_table, summary
from wskit.fits import classify_phase, fit_marchenko_pastur, fit_power_law
from wskit.spectra import shuffled, spectrum


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


WEIGHTS = {
    "conv.weight": randn(16, 8, 3, 3),
    "conv.bias": randn(16),
    "fc.weight": randn(30, 50, seed=1),
}


def test_rows_are_the_formulae():
    table = spectral_table(WEIGHTS).set_index("name")
    assert list(table.index) == ["conv.weight", "fc.weight"]
    for name, row in table.iterrows():
        s = spectrum(WEIGHTS[name])
        fit = fit_power_law(s.eigenvalues)
        assert (row["N"], row["M"], row["Q"]) == (s.N, s.M, s.Q)
        for column in ("alpha", "xmin", "ks", "sigma", "n_tail"):
            assert row[column] == pytest.approx(getattr(fit, column), rel=1e-9), column
        assert 10 ** row["log_norm"] == pytest.approx((WEIGHTS[name].double() ** 2).sum().item())
        assert 10 ** row["log_spectral_norm"] == pytest.approx(s.eigenvalues[-1])
        assert row["alpha_weighted"] == pytest.approx(fit.alpha * np.log10(s.eigenvalues[-1]))
        assert row["log_alpha_norm"] == pytest.approx(np.log10((s.eigenvalues**fit.alpha).sum()))
        assert row["stable_rank"] == pytest.approx(
            s.eigenvalues.sum() / s.eigenvalues[-1] / s.n_matrices
        )
        assert row["rank"] == s.M
        p = s.eigenvalues / s.eigenvalues.sum()
        assert row["entropy"] == pytest.approx(-(p @ np.log(p)) / np.log(p.size))
        mp = fit_marchenko_pastur(s.eigenvalues, N=s.N, M=s.M)
        expected = (mp.sigma, mp.n_spikes, mp.soft_rank, mp.ks)
        found = tuple(row[["mp_sigma", "n_spikes", "soft_rank", "mp_ks"]])
        assert found == pytest.approx(expected, rel=1e-9)
        assert row["phase"] == classify_phase(s.eigenvalues, N=s.N, M=s.M).name
        assert row["reason"] == ""
    assert table["null_distance"].isna().all()


def test_the_erg_condition_counts_the_tail_whose_product_is_one():
    """Eigenvalues 8, 2, 1/16 of a mean that makes the products 8, 16 and 1, then under 1."""
    e = np.array([8.0, 2.0, 1 / 16, 0.5])
    e *= 1 / e.mean()
    W = torch.diag(torch.as_tensor(e).sqrt())
    product = np.cumprod(np.sort(e)[::-1])
    expected = np.flatnonzero(product >= 1)[-1] + 1
    assert spectral_table({"w": W})["n_erg"].tolist() == [expected]
    # A product of thousands of eigenvalues overflows; a sum of logarithms does not.
    noise = randn(3000, 1500)
    values = np.sort(spectrum(noise).eigenvalues)[::-1]
    sums = np.cumsum(np.log(values / values.mean()))
    assert spectral_table({"w": noise})["n_erg"][0] == np.flatnonzero(sums >= 0)[-1] + 1


def test_the_distance_from_the_shuffled_weights():
    structured = randn(60, 40) + 2 * torch.outer(randn(60, seed=1), randn(40, seed=2))
    weights = {"noise": randn(60, 40, seed=3), "structured": structured}
    table = spectral_table(weights, null_seed=5).set_index("name")
    distance = table["null_distance"]
    assert distance["noise"] < 0.1 < distance["structured"]
    left, right = (spectrum(W).eigenvalues for W in (structured, shuffled(structured, seed=5)))
    expected = np.abs(left / left.mean() - right / right.mean()).mean()
    assert distance["structured"] == pytest.approx(expected)


# What WeightWatcher 0.7.7 printed for this network: analyze(fit="PL", mp_fit=True), on a CPU.
OTHER = {
    "0.weight": randn(16, 24, 3, 3),
    "1.weight": randn(30, 50, seed=1) + 2 * torch.outer(randn(30, seed=2), randn(50, seed=3)),
}
WEIGHTWATCHER = {
    "D": [0.14079517847832845, 0.1198977165042458],
    "M": [16, 30],
    "N": [24, 50],
    "Q": [1.5, 1.6666666666666667],
    "W_scale": [0.2884507791756753, 0.06880329579652361],
    "alpha": [5.75086798893107, 1.9879279817605973],
    "alpha_weighted": [9.140772191030226, 7.327918674094238],
    "bulk_max": [39.41295177454065, 232.38402310728023],
    "bulk_min": [0.4022148615842584, 3.74910497228015],
    "entropy": [0.929286679110549, 0.37057750549449797],
    "lambda_max": [38.856132843213224, 4855.224658697045],
    "log_alpha_norm": [10.019116694278981, 7.330267766189695],
    "log_norm": [3.2382190592338183, 3.8019027703427923],
    "log_spectral_norm": [1.5894595752543519, 3.686209330181221],
    "matrix_rank": [144, 30],
    "mp_softrank": [1.0143302714548106, 0.04786267154312137],
    "norm": [1730.6891030452696, 6337.278166695691],
    "num_evals": [144, 30],
    "num_pl_spikes": [29, 19],
    "num_spikes": [0, 1],
    "rank_loss": [0, 0],
    "rf": [9, 1],
    "sigma": [0.8822140378390854, 0.22664622294687037],
    "sigma_mp": [0.996911515495985, 0.5910343378068348],
    "spectral_norm": [38.856132843213224, 4855.224658697045],
    "stable_rank": [44.54095084625899, 1.3052492134105225],
    "sv_max": [6.233468764918392, 69.67944215259652],
    "sv_min": [1.0149415828749868, 1.7539065194003698],
    "weak_rank_loss": [0, 0],
    "xmax": [38.856132843213224, 4855.224658697045],
    "xmin": [22.879011535752095, 29.957044273306884],
}


def test_weightwatchers_convention_gives_weightwatchers_numbers():
    table = spectral_table(OTHER | {"0.bias": randn(16)}, convention="weightwatcher")
    assert table["longname"].tolist() == ["0", "1"]
    assert table["status"].tolist() == ["success", "success"]
    assert table["warning"].tolist() == ["", "over-trained"]
    for column, expected in WEIGHTWATCHER.items():
        np.testing.assert_allclose(
            table[column].to_numpy(float), expected, rtol=1e-9, err_msg=column
        )


# sigma_mp, bulk_min, bulk_max, mp_softrank, num_spikes and W_scale by the functions of
# WeightWatcher 0.7.7, for N x M matrices of normal entries of 0.2, `offset` on the first column.
BULKS = {
    (60, 60, 1, 0, 0.0): "1.00977145952 0 9.77722896898 1.05118361916 0 0.645870121585",
    (40, 20, 1, 1, 0.5): "0.90403857456 0.1442052505 4.8987335108 0.39713259266 1 0.69727764541",
    (90, 30, 2, 2, 0.3): "0.96259033242 0.6426781461 8.951351831 0.58977750092 2 0.50748747272",
    (16, 16, 9, 3, 0.4): "1.01002225661 0 3.18987720051 0.708773247208 3 1.13102956452",
}


@pytest.mark.parametrize(("case", "expected"), BULKS.items())
def test_weightwatchers_bulk_is_reproduced(case, expected):
    N, M, n_matrices, seed, offset = case
    W = 0.2 * np.random.default_rng(seed).standard_normal((n_matrices, N, M))
    W[:, :, 0] += offset
    e = np.concatenate([np.linalg.eigvalsh(w.T @ w) for w in W])
    row = _weightwatcher._row(np.sqrt(np.maximum(e, 0)).reshape(n_matrices, M), N, M)
    columns = ("sigma_mp", "bulk_min", "bulk_max", "mp_softrank", "num_spikes", "W_scale")
    found = [row[column] for column in columns]
    assert found == pytest.approx([float(x) for x in expected.split()])


def test_where_weightwatcher_fails_the_reason_is_given():
    e = np.append(np.linspace(0.4, 0.6, 4999), 2500)
    row = _weightwatcher._row(np.sqrt(e)[None], 10_000, 5000)
    assert "misses the whole bulk, as the largest eigenvalue is 2500 times" in row["reason"]


def test_where_the_two_conventions_differ():
    ours, theirs = spectral_table(OTHER), spectral_table(OTHER, convention="weightwatcher")
    np.testing.assert_allclose(ours["alpha"], theirs["alpha"], rtol=1e-9)
    np.testing.assert_allclose(
        10 ** (ours["log_norm"] - theirs["log_norm"]).to_numpy(float), [2, 1], rtol=1e-9
    )
    assert (ours["stable_rank"] <= ours["M"]).all()
    assert theirs["stable_rank"][0] > theirs["M"][0]
    small = {name: 1e-5 * W for name, W in OTHER.items()}
    scaled = spectral_table(small, convention="weightwatcher")
    assert scaled["status"].tolist() == ["failed", "failed"]
    np.testing.assert_allclose(spectral_table(small)["alpha"], ours["alpha"], rtol=1e-4)


def test_weightwatchers_convention_says_what_it_cannot(without_type_checks):
    bad = torch.full((4, 3), torch.nan)
    table = spectral_table({"a.weight": bad, "b.weight": torch.eye(4)}, convention="weightwatcher")
    assert "holds NaN or inf" in table["reason"][0]
    assert table["status"][1] == "failed"
    assert table["alpha"].isna().all()
    with pytest.raises(SpectrumError, match="pools the slices"):
        spectral_table(OTHER, convention="weightwatcher", conv="unfold")
    with pytest.raises(SpectrumError, match="convention must be one of"):
        spectral_table(OTHER, convention="ours")


def test_a_summary_counts_no_failed_fit():
    table = spectral_table(OTHER | {"eye.weight": torch.eye(5)})
    means = summary(table)
    assert (means["n_layers"], means["n_fitted"]) == (3, 2)
    assert means["alpha"] == pytest.approx(table["alpha"][:2].mean())
    assert means["log_norm"] == pytest.approx(table["log_norm"].mean())
    assert "M" not in means
    theirs = summary(spectral_table(OTHER, convention="weightwatcher"))
    assert theirs["alpha"] == pytest.approx(means["alpha"])


def test_a_low_rank_pair_has_a_row_and_no_null():
    pair = {"q.lora_A.weight": randn(6, 80), "q.lora_B.weight": randn(70, 6, seed=1)}
    row = spectral_table(pair, null_seed=0).iloc[0]
    assert (row["name"], row["kind"], row["rank"]) == ("q.lora_BA", "low-rank", 6)
    assert row["phase"] == "rank-collapse"
    assert np.isnan(row["null_distance"])


def test_a_module_has_the_table_of_its_weights():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    assert spectral_table(net).equals(spectral_table(net.state_dict()))


def test_scaling_moves_the_norms_and_not_alpha():
    table = spectral_table(WEIGHTS)
    scaled = spectral_table({name: 1e-4 * W for name, W in WEIGHTS.items()})
    np.testing.assert_allclose(scaled["alpha"], table["alpha"], rtol=1e-4)
    np.testing.assert_allclose(scaled["log_norm"], table["log_norm"] - 8, rtol=1e-5)


@pytest.mark.parametrize(
    ("W", "reason"),
    [
        (
            torch.full((3, 3), float("nan")),
            "'bad' holds NaN or inf in 9 of its 9 entries",
        ),
        (torch.zeros(3, 3, dtype=torch.int8), "its dtype is int8"),
        (torch.zeros(3, 3), "not all zero"),
        (torch.eye(3), "3 values, 1 of them different"),
        (torch.ones(1, 7), "one row or column"),
        (torch.ones(1, 2, 3, 2, 2, 2), "6 dimensions"),
    ],
)
def test_what_cannot_be_computed_is_nan_with_a_reason(W, reason):
    table = spectral_table({"bad": W, **WEIGHTS})
    row = table.iloc[0]
    assert reason in row["reason"]
    assert np.isnan(row["alpha"])
    assert row["n_tail"] is pd.NA
    assert table["alpha"].notna().tolist() == [False, True, True]


def test_where_one_law_fails_the_other_stands():
    row = spectral_table({"eye": torch.eye(9)}).iloc[0]
    assert "1 of them different" in row["reason"]
    assert (row["n_spikes"], row["phase"]) == (0, "")
    assert row["mp_sigma"] > 0


def test_a_zero_matrix_has_norms_of_minus_infinity():
    row = spectral_table({"zero": torch.zeros(3, 3)}).iloc[0]
    assert row["log_norm"] == row["log_spectral_norm"] == -np.inf


@pytest.mark.parametrize("convention", ["wskit", "weightwatcher"])
def test_the_reasons_have_one_dtype(convention):
    whole, failed, none = (
        spectral_table({"a": W}, convention=convention)
        for W in (randn(60, 50), torch.full((3, 3), torch.nan), torch.zeros(3))
    )
    assert whole["reason"].tolist() == [""]
    assert failed["reason"][0]
    assert len(none) == 0
    assert whole["reason"].dtype == failed["reason"].dtype == none["reason"].dtype
