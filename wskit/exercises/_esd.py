"""The self-checks of tutorial 01: spectra."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wskit.exercises._verdict import AnswerError, Verdict, as_number, verdict_on
from wskit.spectra import shuffled

_ALPHA_OFF = 0.25  # how far a forged alpha may be off
_EARLY = 30  # updates


def check_power_law_exponent(exponent: object) -> Verdict:
    """Check exercise 1.1: ``exponent(eigenvalues, xmin)`` is the maximum-likelihood alpha.

    Parameters
    ----------
    exponent : callable
        Takes an array of shape (n,) and a number; returns alpha of the tail from `xmin` on.

    Returns
    -------
    Verdict
    """
    return verdict_on(_power_law_exponent, exponent, "alpha is the maximum-likelihood estimate.")


def _power_law_exponent(exponent: Callable[..., Any]) -> None:
    # A tail whose logarithms ln(x/xmin) are known, above a body that must not count.
    logs = np.array([0.0, 0.2, 0.5, 0.7, 1.6])
    body, xmin = np.array([0.01, 0.1, 0.5]), 2.0
    eigenvalues = np.concatenate([body, xmin * np.exp(logs)])
    wanted = as_number(exponent(xmin * np.exp(logs), xmin))
    right = 1 + logs.size / logs.sum()
    if np.isclose(wanted, right - 1):
        raise AnswerError("this is the exponent of the survival function; the density's is larger.")
    if np.isclose(wanted, 1 + logs.size * np.log(10) / logs.sum()):
        raise AnswerError("the likelihood has natural logarithms.")
    if np.isclose(wanted, 1 + logs.size / np.log(xmin * np.exp(logs)).sum()):
        raise AnswerError(
            "the logarithms are of x/xmin: the tail is measured from where it begins."
        )
    if not np.isclose(wanted, right):
        raise AnswerError(
            f"five values with a mean ln(x/xmin) of {logs.mean():.2f} gave {wanted:.3g}."
        )
    if not np.isclose(as_number(exponent(eigenvalues, xmin)), right):
        raise AnswerError("values below xmin belong to the bulk; they must change nothing.")
    if not np.isclose(as_number(exponent(3 * eigenvalues, 3 * xmin)), right):
        raise AnswerError(
            "alpha must not depend on the units: scale the values and xmin by 3 and look."
        )


def check_marchenko_pastur_edge(edge: object) -> Verdict:
    """Check exercise 1.2: ``edge(N, M, sigma)`` is the upper edge of the eigenvalues of W^T W.

    Parameters
    ----------
    edge : callable
        Takes the sides N >= M of a matrix and the standard deviation of its entries; returns one
        number.

    Returns
    -------
    Verdict
    """
    return verdict_on(_marchenko_pastur_edge, edge, "that is where chance ends.")


def _marchenko_pastur_edge(edge: Callable[..., Any]) -> None:
    N, M, sigma = 1600, 400, 0.5
    found = as_number(edge(N, M, sigma))
    right = (sigma * (np.sqrt(N) + np.sqrt(M))) ** 2
    if np.isclose(found, right / N):
        raise AnswerError("this is the edge of W^T W / N; the eigenvalues here have no 1/N.")
    if np.isclose(found, (sigma * (np.sqrt(N) - np.sqrt(M))) ** 2):
        raise AnswerError("this is the lower edge.")
    if np.isclose(found, right / sigma):
        raise AnswerError("eigenvalues scale with the variance of the entries, not with sigma.")
    if np.isclose(found, np.sqrt(right)):
        raise AnswerError("this is a singular value; an eigenvalue of W^T W is its square.")
    if np.isclose(found, sigma**2 * N * (1 + np.sqrt(N / M)) ** 2):
        raise AnswerError("Q = N/M is in the denominator under the root.")
    if not np.isclose(found, right):
        raise AnswerError(f"N = {N}, M = {M} and sigma = {sigma} gave {found:.4g}.")
    if not np.isclose(as_number(edge(N, N, 1.0)), 4 * N):
        raise AnswerError("a square matrix, Q = 1, comes out wrong.")


def check_p_value(p_value: object) -> Verdict:
    """Check exercise 1.3: ``p_value(W, n, seed)`` sets an eigenvalue beside those of shuffled W.

    Parameters
    ----------
    p_value : callable
        Takes a matrix, a number of shuffled copies and a seed; returns the share of the n + 1
        matrices, W among them, whose largest eigenvalue is at least that of W.

    Returns
    -------
    Verdict
    """
    return verdict_on(_p_value, p_value, "small for structure, and of noise anything.")


def _p_value(p_value: Callable[..., Any]) -> None:
    draw = torch.Generator().manual_seed(0)

    def noise() -> Tensor:
        return torch.randn(20, 10, generator=draw, dtype=torch.float64)

    found = []
    for seed in range(5):
        W = noise() + 2 * torch.outer(torch.ones(20), torch.linspace(-1, 1, 10)).to(torch.float64)
        before = W.clone()
        found.append(as_number(p_value(W, 19, 1000 * seed)))
        if not torch.equal(W, before):
            raise AnswerError("the matrix that was given has changed; shuffle a copy.")
    p = float(np.mean(found))
    if p == 0:
        raise AnswerError(
            "p is 0 for a matrix with a planted direction; but of 20 matrices W itself is one, and "
            "19 copies cannot show that something never happens."
        )
    if p == 1:
        raise AnswerError("p is 1 for a matrix with a planted direction: which ones are counted?")
    if p > 0.1:
        raise AnswerError(
            f"a matrix with a planted direction got a p of {p:.2f}. Does each entry go to a place "
            "of its own? Rows or columns that move as a whole change no eigenvalue."
        )
    if not np.allclose(found, 1 / 20):
        raise AnswerError(f"a planted direction beats 19 shuffled copies, and p was {p:.3g}.")
    chance = [as_number(p_value(noise(), 19, 1000 * seed)) for seed in range(60)]
    if not 0.4 < np.mean(chance) < 0.65:
        raise AnswerError(
            f"of noise p must be anything between 0 and 1, 0.5 on average; it was "
            f"{np.mean(chance):.2f} over 60 matrices."
        )
    if not np.allclose(20 * np.array(chance), np.round(20 * np.array(chance))):
        raise AnswerError("with 19 copies and W, p is a number of twentieths.")
    large = []
    for seed in range(20):
        W = noise()
        W[seed, seed % 10] = 40.0
        large.append(as_number(p_value(W, 19, 1000 * seed)))
    if np.mean(large) < 0.3:
        raise AnswerError(
            "one entry of a matrix was made huge, and p says that this is structure; a shuffled "
            "copy has the same entries, and so the same huge one."
        )


def check_forge(forge: object) -> Verdict:
    """Check exercise 1.4: ``forge(N, M, alpha, seed)`` makes a matrix with that alpha.

    Parameters
    ----------
    forge : callable
        Takes the sides N >= M, the exponent and a seed; returns an array or tensor of shape
        (N, M).

    Returns
    -------
    Verdict
        Passed if the alpha that is fitted, on average over ten seeds, is that which was asked for,
        to within 0.25.
    """
    return verdict_on(_forge, forge, "")


def _forge(forge: Callable[..., Any]) -> str:
    N, M, wanted = 400, 200, (2.0, 3.0)
    if np.array_equal(_matrix(forge(N, M, 2.0, 0), N, M), _matrix(forge(N, M, 2.0, 1), N, M)):
        raise AnswerError("two seeds gave the same matrix.")
    measured = []
    for alpha in wanted:
        fitted = [_alpha(_matrix(forge(N, M, alpha, seed), N, M)) for seed in range(10)]
        measured.append(float(np.mean(fitted)))
    words = f"asked for 2 and 3, the fit found {measured[0]:.2f} and {measured[1]:.2f}"
    off = np.array(measured) - wanted
    if (abs(off) < _ALPHA_OFF).all():
        return f"{words}, in matrices that no one has trained."
    if (abs(off - 1) < 2 * _ALPHA_OFF).all():
        raise AnswerError(
            f"{words}: one too many. Is alpha that of the density, or of what is drawn from?"
        )
    if (abs(np.array(measured) - (np.array(wanted) + 1) / 2) < _ALPHA_OFF).all():
        raise AnswerError(f"{words}. Of which numbers is alpha: singular values or eigenvalues?")
    raise AnswerError(f"{words}.")


def _matrix(answer: Any, N: int, M: int) -> np.ndarray:
    if isinstance(answer, Tensor):
        answer = answer.detach()
    W = np.asarray(answer, dtype=float)
    if W.shape != (N, M):
        raise AnswerError(f"a matrix of shape ({N}, {M}) is asked for, not {W.shape}.")
    if not np.isfinite(W).all():
        raise AnswerError("the matrix has entries that are not finite.")
    return W


def _alpha(W: np.ndarray) -> float:
    # Here, as it loads pandas and scipy: a check of another exercise needs neither.
    from wskit.errors import FitError
    from wskit.fits import fit_power_law

    try:
        return fit_power_law(np.linalg.svd(W, compute_uv=False) ** 2).alpha
    except FitError as error:
        raise AnswerError(f"no power law can be fitted to this matrix: {error}") from None


def check_tell_trained(tell: object, runs: Sequence[Mapping[int, Tensor]]) -> Verdict:
    """Check exercise 1.5: ``tell(W)`` tells from one matrix that it was trained, and early.

    Parameters
    ----------
    tell : callable
        Takes a matrix; returns True if it was trained.
    runs : sequence of mapping of int to Tensor
        Of each seed: a layer before training, 0, and after so many updates.

    Returns
    -------
    Verdict
        Passed if no layer of chance is called trained, no answer hangs on the units of the
        weights, and training is told in every run from update 30 on.
    """
    return verdict_on(lambda answer: _tell_trained(answer, runs), tell, "")


def _tell_trained(tell: Callable[..., Any], runs: Sequence[Mapping[int, Tensor]]) -> str:
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
    alarms = {kind: sum(_yes(tell(W)) for W in found) for kind, found in chance.items()}
    n_chance = sum(map(len, chance.values()))
    if any(alarms.values()):
        parts = (f"{alarms[kind]} of {len(found)} {kind}" for kind, found in chance.items())
        raise AnswerError(f"what chance has made was called trained: {', '.join(parts)}.")
    told = [{update: _yes(tell(W)) for update, W in run.items()} for run in runs]
    for run, answers in zip(runs, told, strict=True):
        if any(_yes(tell(100 * W)) != answers[update] for update, W in run.items()):
            raise AnswerError("a layer and 100 times that layer got different answers.")
    updates = sorted(set.intersection(*map(set, told)) - {0})
    late = [u for u in updates if not all(answers[u] for answers in told)]
    words = f"no false alarm in {n_chance} layers of chance, and training is told"
    first = next((u for u in updates if u > max(late, default=0)), None)
    if first is None:
        raise AnswerError(f"{words} too late: not in all {len(runs)} runs at update {updates[-1]}.")
    words = f"{words} from update {first} on in all {len(runs)} runs"
    if first > _EARLY:
        raise AnswerError(f"{words}; the goal is {_EARLY}.")
    return f"{words}."


def _yes(answer: Any) -> bool:
    if isinstance(answer, Tensor) and answer.numel() == 1:
        answer = answer.item()
    if not isinstance(answer, bool | np.bool_):
        raise AnswerError(f"return True or False, not {type(answer).__name__}.")
    return bool(answer)
