import re
from dataclasses import replace

import numpy as np
import pytest

from wskit.errors import FitError
from wskit.fits import PowerLawFit, caveats, classify_phase, fit_marchenko_pastur, fit_power_law


def with_directions(rng, N, M, strengths):
    """Noise and orthogonal directions; a strength of 1 is the least that can be seen."""
    U = np.linalg.qr(rng.standard_normal((N, len(strengths))))[0]
    V = np.linalg.qr(rng.standard_normal((M, len(strengths))))[0]
    return rng.standard_normal((N, M)) + (U * np.array(strengths) * (N * M) ** 0.25) @ V.T


def pareto_entries(rng, N, M, mu):
    return rng.choice([-1, 1], (N, M)) * (1 + rng.pareto(mu, (N, M)))


PLANTED = {
    "normal": ("random-like", lambda r, N, M: r.standard_normal((N, M))),
    "uniform": ("random-like", lambda r, N, M: r.uniform(-1, 1, (N, M))),
    "weakly heavy": ("random-like", lambda r, N, M: pareto_entries(r, N, M, 6)),
    "faint": ("bleeding-out", lambda r, N, M: with_directions(r, N, M, [1.5, 1.6])),
    "strong": ("bulk+spikes", lambda r, N, M: with_directions(r, N, M, [3, 4, 5])),
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
        found.append(classify_phase(np.linalg.svd(W, compute_uv=False) ** 2, N=N, M=M).name)
    assert found.count(name) >= 7, found


def test_phase_does_not_depend_on_scale_and_shows_its_evidence():
    W = pareto_entries(np.random.default_rng(0), 200, 100, 1.5)
    e = np.linalg.svd(W, compute_uv=False) ** 2
    phase = classify_phase(e, N=200, M=100)
    assert phase.evidence["alpha"] == pytest.approx(fit_power_law(e).alpha)
    assert phase.evidence["mp_ks"] == pytest.approx(fit_marchenko_pastur(e, N=200, M=100).ks)
    assert "power law with alpha at most 4" in phase.rule
    scaled = classify_phase(1e-12 * e, N=200, M=100)
    assert (scaled.name, scaled.rule) == (phase.name, phase.rule)
    assert scaled.evidence == pytest.approx(phase.evidence)


def test_a_fifth_of_zeros_is_a_collapse_and_one_is_not():
    e = np.linalg.svd(np.random.default_rng(0).standard_normal((80, 50)), compute_uv=False) ** 2
    assert classify_phase(np.append(np.zeros(10), e[:40]), N=80, M=50).name == "rank-collapse"
    assert classify_phase(np.append(np.zeros(1), e[:49]), N=80, M=50).name != "rank-collapse"


@pytest.mark.parametrize(
    ("e", "message"),
    [([], "a multiple of M=2, got 0"), ([0.0, 0.0], "got zeros only")],
)
def test_bad_input_is_one_sentence(e, message):
    with pytest.raises(FitError, match=message):
        classify_phase(e, N=2, M=2)


def test_fits_that_are_given_are_not_computed_again(monkeypatch):
    e = np.linalg.svd(with_directions(np.random.default_rng(0), 90, 60, [4.0]), compute_uv=False)
    e = np.concatenate([e**2, 1 + np.random.default_rng(1).pareto(1.0, 60) ** 2])
    mp, tail = fit_marchenko_pastur(e, N=90, M=60), fit_power_law(e)
    expected = classify_phase(e, N=90, M=60)
    assert "alpha" in expected.evidence  # both laws were looked at
    for name in ("fit_marchenko_pastur", "fit_power_law"):
        monkeypatch.delattr(f"wskit.fits._phases.{name}")
    assert classify_phase(e, N=90, M=60, mp=mp, tail=tail) == expected


GOOD = PowerLawFit(alpha=3.0, xmin=1.0, ks=0.05, sigma=0.2, n_tail=100, n=200)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 49}, "Only 49 eigenvalues: below 50"),
        ({"n_tail": 7, "sigma": 0.76}, "only 7 of 200 eigenvalues.*error of 0.76 in alpha = 3.00"),
        ({"ks": 0.2}, r"no power law: KS distance 0.200 \* sqrt\(100\) = 2.00"),
        ({"alpha": 9.5}, "alpha = 9.50 is outside of 1.5 to 6"),
        ({"alpha": 1.2}, "alpha = 1.20 is outside"),
    ],
)
def test_each_caveat_is_one_sentence_with_its_numbers(changes, message):
    (sentence,) = caveats(replace(GOOD, **changes))
    assert re.search(message, sentence)


def test_no_caveat_for_a_good_fit():
    assert caveats(GOOD) == []


def test_noise_is_called_chance_and_signal_is_not():
    rng = np.random.default_rng(0)
    for strengths, n_caveats in [([], 1), ([4.0], 0)]:
        e = np.linalg.svd(with_directions(rng, 200, 100, strengths), compute_uv=False) ** 2
        found = caveats(GOOD, mp=fit_marchenko_pastur(e, N=200, M=100))
        assert len(found) == n_caveats
        assert all("times the Marchenko-Pastur edge, as by chance" in text for text in found)
