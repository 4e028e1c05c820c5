"""Self-checks of tutorial 01: right answers, typical wrong ones, and nonsense."""

import numpy as np
import pytest
import torch
from exercise_kit import try_answers

from wskit.exercises import (
    check_forge,
    check_marchenko_pastur_edge,
    check_p_value,
    check_power_law_exponent,
    check_tell_trained,
)
from wskit.fits import MarchenkoPastur, fit_marchenko_pastur, fit_power_law
from wskit.spectra import shuffled, spectrum


def right_exponent(x, xmin):
    tail = x[x >= xmin]
    return 1 + tail.size / np.log(tail / xmin).sum()


test_power_law_exponent = try_answers(
    check_power_law_exponent,
    right=[
        right_exponent,
        lambda x, xmin: 1 + 1 / np.mean([np.log(v) - np.log(xmin) for v in x if v >= xmin]),
    ],
    wrong=[
        (lambda x, xmin: right_exponent(x, xmin) - 1, "of the survival function"),
        (lambda x, xmin: 1 + x.size / np.log(x / xmin).sum(), "below xmin belong to the"),
        (lambda x, xmin: 1 + x.size / np.log10(x / xmin).sum(), "natural logarithms"),
        (lambda x, xmin: 1 + x.size / np.log(x).sum(), "the logarithms of x/xmin"),
        (lambda x, xmin: 2.0, "gave 2"),
        (lambda x, xmin: right_exponent(x, 2.0), "must not depend on the units"),
    ],
)


def right_edge(N, M, sigma):
    return sigma**2 * N * (1 + np.sqrt(M / N)) ** 2


test_marchenko_pastur_edge = try_answers(
    check_marchenko_pastur_edge,
    right=[right_edge, lambda *a: torch.tensor(right_edge(*a))],
    wrong=[
        (lambda N, M, sigma: right_edge(N, M, sigma) / N, "have no 1/N"),
        (lambda N, M, sigma: sigma**2 * (N**0.5 - M**0.5) ** 2, "the lower edge"),
        (lambda N, M, sigma: right_edge(N, M, sigma) / sigma, "not with sigma"),
        (lambda N, M, sigma: right_edge(N, M, sigma) ** 0.5, "its square"),
        (lambda N, M, sigma: right_edge(N, M, sigma) + 1, "gave 901"),
        (lambda N, M, sigma: right_edge(1600, 400, 0.5), "a square matrix"),
        (lambda N, M, sigma: sigma**2 * N * (1 + (N / M) ** 0.5) ** 2, "in the denominator"),
        (lambda N, M, sigma: np.inf, "finite"),
    ],
)


def largest(W):
    return np.linalg.norm(np.asarray(W), 2)


def share(W, copies):
    return np.mean([largest(V) >= largest(W) for V in [W, *copies]])


def by_helper(W, n, seed):
    return share(W, [shuffled(W, seed=seed + i) for i in range(n)])


def by_hand(W, n, seed):
    draw = np.random.default_rng(seed)
    copies = [draw.permuted(W.numpy().ravel()).reshape(W.shape) for _ in range(n)]
    return (1 + sum(largest(V) >= largest(W) for V in copies)) / (1 + n)


def of_rows(W, n, seed):
    draw = torch.Generator().manual_seed(seed)
    return share(W, [W[torch.randperm(len(W), generator=draw)] * (1 + 1e-9) for _ in range(n)])


def of_gaussians(W, n, seed):
    draw = np.random.default_rng(seed)
    return share(W, [draw.normal(0, W.std(), W.shape) for _ in range(n)])


def itself_left_out(W, n, seed):
    return np.mean([largest(shuffled(W, seed=seed + i)) >= largest(W) for i in range(n)])


def in_place(W, n, seed):
    np.random.default_rng(seed).shuffle(W.numpy())
    return 0.05


test_p_value = try_answers(
    check_p_value,
    right=[by_helper, by_hand],
    wrong=[
        (itself_left_out, "of 20 matrices W itself is one"),
        (of_rows, "p is 1 for a matrix with a planted direction"),
        (lambda W, n, seed: of_rows(W, n, seed) / 2, "Moving whole rows or columns"),
        (of_gaussians, "one entry of a matrix was made huge"),
        (lambda W, n, seed: by_helper(W, 100, seed), "and p was 0.0099"),
        (lambda W, n, seed: 0.05, "0.5 on average; it was 0.05"),
        (
            lambda W, n, seed: p if (p := by_helper(W, n, seed)) < 0.06 else 0.53,
            "p is a whole number of twentieths",
        ),
        (in_place, "you were given have changed"),
    ],
)


def forged(power, root=True):
    def forge(N, M, alpha, seed):
        draw = np.random.default_rng(seed)
        values = (1 - draw.random(M)) ** power(alpha)
        U = np.linalg.qr(draw.normal(size=(N, M)))[0]
        V = np.linalg.qr(draw.normal(size=(M, M)))[0]
        return U * (np.sqrt(values) if root else values) @ V.T

    return forge


right_forgery = forged(lambda alpha: -1 / (alpha - 1))


def diagonal(N, M, alpha, seed):
    W = torch.zeros(N, M, dtype=torch.float64, requires_grad=True)
    values = 1 + np.random.default_rng(seed).pareto(alpha - 1, M)
    return W + torch.eye(N, M) * torch.tensor(values).sqrt()


test_forge = try_answers(
    check_forge,
    right=[right_forgery, diagonal],
    wrong=[
        (forged(lambda alpha: -1 / alpha), "one too many"),
        (forged(lambda alpha: -1 / (alpha - 1), root=False), "singular values or eigenvalues"),
        (forged(lambda alpha: -1 / 3), "the fit found 3.9"),
        (lambda N, M, alpha, seed: right_forgery(N, M, alpha, 0), "two seeds gave the same"),
        (lambda N, M, alpha, seed: right_forgery(N, M, alpha, seed).T, "of shape (200, 400)"),
        (lambda N, M, alpha, seed: np.full((N, M), np.nan), "not finite"),
        (lambda N, M, alpha, seed: np.eye(N, M) * (1 + seed), "no power law can be fitted"),
    ],
)


@pytest.fixture(scope="module")
def runs():
    """Noise, in which a direction grows: seen from update 30 on at the latest."""
    found = []
    for seed in range(3):
        draw = torch.Generator().manual_seed(100 + seed)
        noise = torch.randn(128, 64, generator=draw, dtype=torch.float64) / 10
        u, v = (torch.randn(n, generator=draw, dtype=torch.float64) for n in (128, 64))
        grown = torch.outer(u / u.norm(), v / v.norm())
        found.append({t: noise + s * grown for t, s in ((0, 0), (20, 0.5), (30, 4), (60, 20))})
    return found


def beyond_edge(factor):
    def tell(W):
        M, N = sorted(W.shape)
        edge = MarchenkoPastur(float(W.std()), N, M).lambda_plus
        return bool(spectrum(W).eigenvalues[-1] > factor * edge)

    return tell


def by_shuffling(W):
    return largest(W) > 1.1 * np.mean([largest(shuffled(W, seed=seed)) for seed in range(5)])


def by_spikes(W):
    M, N = sorted(W.shape)
    mp = fit_marchenko_pastur(spectrum(W).eigenvalues, N=N, M=M)
    return torch.tensor(1 / mp.soft_rank > 1.2)


test_tell_trained = try_answers(
    check_tell_trained,
    right=[beyond_edge(1.2), by_shuffling, by_spikes],
    wrong=[
        (lambda W: True, "3 of 3 untrained layers, 3 of 3 shuffled layers, 40 of 40 matrices of"),
        (lambda W: False, "too late: not in all 3 runs at update 60"),
        (beyond_edge(4), "from update 60 on in all 3 runs; the goal is 30"),
        (beyond_edge(1e3), "too late"),
        (
            lambda W: bool(fit_power_law(spectrum(W).eigenvalues).alpha < 4),
            "called chance trained: ",
        ),
        (lambda W: bool(W.abs().max() > 0.7), "trained: 0 of 3 untrained layers, 3 of 3"),
        (lambda W: beyond_edge(1.2)(W) and bool(W.abs().max() < 5), "100 times that layer"),
        (lambda W: W, "return True or False, not Tensor"),
    ],
    beside="runs",
)
