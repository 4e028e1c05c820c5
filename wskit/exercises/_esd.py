"""The self-checks of tutorial 01: spectra."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from wskit.exercises._verdict import (
    Answer,
    AnswerError,
    as_array,
    as_number,
    as_truth,
    diagnose,
    require,
    self_check,
    unchanged,
)
from wskit.spectra import shuffled

_ALPHA_OFF = 0.25  # how far a forged alpha may be off
_EARLY = 30  # updates


@self_check("alpha is the maximum-likelihood estimate.")
def check_power_law_exponent(exponent: Answer) -> None:
    """Check exercise 1.1: ``exponent(eigenvalues, xmin)`` is the maximum-likelihood alpha.

    It takes an array of shape (n,) and a number, and returns alpha of the tail from `xmin` on.
    """
    # A tail whose logarithms ln(x/xmin) are known, above a body that must not count.
    logs = np.array([0.0, 0.2, 0.5, 0.7, 1.6])
    body, xmin = np.array([0.01, 0.1, 0.5]), 2.0
    tail = xmin * np.exp(logs)
    found, right = as_number(exponent(tail.copy(), xmin)), 1 + logs.size / logs.sum()
    hints = {
        right - 1: "this is the exponent of the survival function; the density's is larger.",
        1 + logs.size * np.log(10) / logs.sum(): "the likelihood has natural logarithms.",
        1 + logs.size / np.log(tail).sum(): "take the logarithms of x/xmin: the tail is measured "
        "from where it begins.",
    }
    otherwise = f"five values with a mean ln(x/xmin) of {logs.mean():.2f} gave {found:.3g}."
    diagnose(found, right, hints, otherwise)
    eigenvalues = np.concatenate([body, tail])
    found = as_number(exponent(eigenvalues.copy(), xmin))
    require(np.isclose(found, right), "values below xmin belong to the bulk; they must not count.")
    found = as_number(exponent(3 * eigenvalues, 3 * xmin))
    require(
        np.isclose(found, right),
        "alpha must not depend on the units: scale the values and xmin by 3 and look.",
    )


@self_check("that is where chance ends.")
def check_marchenko_pastur_edge(edge: Answer) -> None:
    """Check exercise 1.2: ``edge(N, M, sigma)`` is the upper edge of the eigenvalues of W^T W.

    It takes the sides N >= M of a matrix and the standard deviation of its entries, and returns
    one number.
    """
    N, M, sigma = 1600, 400, 0.5
    found, right = as_number(edge(N, M, sigma)), (sigma * (np.sqrt(N) + np.sqrt(M))) ** 2
    hints = {
        right / N: "this is the edge of W^T W / N; the eigenvalues here have no 1/N.",
        (sigma * (np.sqrt(N) - np.sqrt(M))) ** 2: "this is the lower edge.",
        right / sigma: "eigenvalues scale with the variance of the entries, not with sigma.",
        np.sqrt(right): "this is a singular value; an eigenvalue of W^T W is its square.",
        sigma**2 * N * (1 + np.sqrt(N / M)) ** 2: "Q = N/M is in the denominator under the root.",
    }
    otherwise = f"N = {N}, M = {M} and sigma = {sigma} gave {found:.4g}."
    diagnose(found, right, hints, otherwise)
    square = as_number(edge(N, N, 1.0))
    require(np.isclose(square, 4 * N), "the edge of a square matrix, Q = 1, is wrong.")


@self_check("small where there is structure, and anything between 0 and 1 for noise.")
def check_p_value(p_value: Answer) -> None:
    """Check exercise 1.3: ``p_value(W, n, seed)`` compares W with shuffled copies of itself.

    It takes a matrix, a number of copies and a seed, and returns the share of the n + 1 matrices,
    W among them, whose largest eigenvalue is at least that of W.
    """
    draw = torch.Generator().manual_seed(0)

    def noise() -> Tensor:
        return torch.randn(20, 10, generator=draw, dtype=torch.float64)

    found = []
    for seed in range(5):
        W = noise() + 2 * torch.outer(torch.ones(20), torch.linspace(-1, 1, 10)).to(torch.float64)
        with unchanged({"W": W}):
            found.append(as_number(p_value(W, 19, 1000 * seed)))
    p = float(np.mean(found))
    hints = {
        0: "p is 0 for a matrix with a planted direction; but of 20 matrices W itself is one, and "
        "19 copies cannot show that something never happens.",
        1: "p is 1 for a matrix with a planted direction: which matrices are counted?",
    }
    otherwise = f"a planted direction beats 19 shuffled copies, and p was {p:.3g}."
    if p > 0.1:
        otherwise = (
            f"a matrix with a planted direction got a p of {p:.2f}. Does each entry move to a "
            "place of its own? Moving whole rows or columns changes no eigenvalue."
        )
    diagnose(p, 1 / 20, hints, otherwise)
    chance = np.array([as_number(p_value(noise(), 19, 1000 * seed)) for seed in range(60)])
    require(
        0.4 < chance.mean() < 0.65,
        "for noise p must be anything between 0 and 1, 0.5 on average; it was "
        f"{chance.mean():.2f} over 60 matrices.",
    )
    twentieths = np.allclose(20 * chance, np.round(20 * chance))
    require(twentieths, "with 19 copies and W, p is a whole number of twentieths.")
    large = []
    for seed in range(20):
        W = noise()
        W[seed, seed % 10] = 40.0
        large.append(as_number(p_value(W, 19, 1000 * seed)))
    require(
        np.mean(large) >= 0.3,
        "one entry of a matrix was made huge, and p calls that structure; a shuffled copy has the "
        "same entries, and so the same huge one.",
    )


@self_check()
def check_forge(forge: Answer) -> str:
    """Check exercise 1.4: ``forge(N, M, alpha, seed)`` makes a matrix with that alpha.

    It takes the sides N >= M, the exponent and a seed, and returns an array or tensor of shape
    (N, M). Over ten seeds, the mean of the fitted alphas must be within 0.25 of the one asked for.
    """
    N, M, wanted = 400, 200, np.array([2.0, 3.0])
    first, second = (as_array(forge(N, M, 2.0, seed), N, M) for seed in (0, 1))
    require(not np.array_equal(first, second), "two seeds gave the same matrix.")
    measured = np.array(
        [
            np.mean([_alpha(as_array(forge(N, M, alpha, seed), N, M)) for seed in range(10)])
            for alpha in wanted.tolist()
        ]
    )
    words = f"asked for 2 and 3, the fit found {measured[0]:.2f} and {measured[1]:.2f}"
    if (abs(measured - wanted) < _ALPHA_OFF).all():
        return f"{words}, in matrices that no one has trained."
    require(
        not (abs(measured - wanted - 1) < 2 * _ALPHA_OFF).all(),
        f"{words}: one too many. Is alpha the exponent of the density, or of what you draw from?",
    )
    require(
        not (abs(measured - (wanted + 1) / 2) < _ALPHA_OFF).all(),
        f"{words}. Which numbers have the exponent alpha: singular values or eigenvalues?",
    )
    raise AnswerError(f"{words}.")


def _alpha(W: np.ndarray) -> float:
    # Imported here because they load pandas and scipy, which other exercises do not need.
    from wskit.errors import FitError
    from wskit.fits import fit_power_law

    try:
        return fit_power_law(np.linalg.svd(W, compute_uv=False) ** 2).alpha
    except FitError as error:
        raise AnswerError(f"no power law can be fitted to this matrix: {error}") from None


@self_check()
def check_tell_trained(tell: Answer, runs: Sequence[Mapping[int, Tensor]]) -> str:
    """Check exercise 1.5: ``tell(W)`` tells from one matrix that it was trained, and early.

    It takes a matrix and returns True if it was trained. Each of `runs` maps numbers of updates, 0
    among them, to a layer. No matrix made by chance may be called trained, no answer may depend on
    the units of the weights, and every run must be told from update 30 on.
    """
    draw = torch.Generator().manual_seed(0)
    chance = {
        "untrained layers": [run[0] for run in runs],
        "shuffled layers": [shuffled(run[max(run)], seed=i) for i, run in enumerate(runs)],
        "matrices of noise": [
            torch.randn(*shape, generator=draw, dtype=runs[0][0].dtype)
            for shape in ((256, 128), (64, 64), (256, 32), (32, 16))
            for _ in range(10)
        ],
    }
    alarms = {kind: sum(as_truth(tell(W)) for W in found) for kind, found in chance.items()}
    parts = (f"{alarms[kind]} of {len(found)} {kind}" for kind, found in chance.items())
    require(not any(alarms.values()), f"you called chance trained: {', '.join(parts)}.")
    told = [{update: as_truth(tell(W)) for update, W in run.items()} for run in runs]
    for run, answers in zip(runs, told, strict=True):
        same = all(as_truth(tell(100 * W)) == answers[update] for update, W in run.items())
        require(same, "a layer and 100 times that layer got different answers.")
    updates = sorted(set.intersection(*map(set, told)) - {0})
    late = [u for u in updates if not all(answers[u] for answers in told)]
    first = next((u for u in updates if u > max(late, default=0)), None)
    n_chance = sum(map(len, chance.values()))
    words = f"no false alarm in {n_chance} layers of chance, and training is told"
    if first is None:
        raise AnswerError(f"{words} too late: not in all {len(runs)} runs at update {updates[-1]}.")
    words = f"{words} from update {first} on in all {len(runs)} runs"
    require(first <= _EARLY, f"{words}; the goal is {_EARLY}.")
    return f"{words}."
