"""The self-checks of tutorial 01: spectra."""

from collections.abc import Callable
from typing import Any

import numpy as np

from wskit.exercises._verdict import AnswerError, Verdict, as_number, verdict_on


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
