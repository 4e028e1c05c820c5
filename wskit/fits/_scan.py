"""The search for xmin: every value is tried, and nearly none is looked at in full."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

# Columns at which all candidates are looked at first; more of them lie in the upper tail.
_N_PROBES = 12


@dataclass(frozen=True, eq=False)
class Tails:
    """The tails of a sample that begin at each of its different values.

    Attributes
    ----------
    log_x : Float[ndarray, "m"]
        Logarithms of the different values, ascending.
    start : Int[ndarray, "m"]
        How many values of the sample are below each.
    n : int
        How many values there are.
    exponent : Float[ndarray, "c"]
        alpha - 1 of the tail that begins at each candidate for xmin, in closed form.
    """

    log_x: Float[np.ndarray, " m"]
    start: Int[np.ndarray, " m"]
    n: int
    exponent: Float[np.ndarray, " c"]

    def row(self, i: int) -> Float[np.ndarray, " k"]:
        """Distances between law and sample at every value of the i-th tail."""
        law = 1 - np.exp(self.exponent[i] * (self.log_x[i] - self.log_x[i:]))
        law -= (self.start[i:] - self.start[i]) / (self.n - self.start[i])
        return np.abs(law, out=law)

    def at(
        self, candidates: Int[np.ndarray, " c"], j: Int[np.ndarray, "*p 1"] | int
    ) -> Float[np.ndarray, "*p c"]:
        """Distances of some tails at the values `j`; 0 where a tail begins above `j`."""
        j = np.maximum(j, candidates)
        law = 1 - np.exp(self.exponent[candidates] * (self.log_x[candidates] - self.log_x[j]))
        start = self.start[candidates]
        law -= (self.start[j] - start) / (self.n - start)
        return np.abs(law, out=law)


def tails(
    log_x: Float[np.ndarray, " m"], start: Int[np.ndarray, " m"], n: int, min_tail: int
) -> Tails:
    """Fit all tails of at least `min_tail` values that are not all equal.

    The sums T_i = sum over the tail of ln(x_j/x_i) follow from T_i = T_{i+1} + n_{i+1} (ln x_{i+1}
    - ln x_i), in which all terms are positive, so that nothing cancels.
    """
    n_tail = n - start
    n_candidates = min(
        int(np.count_nonzero(n_tail >= min_tail)), int(np.searchsorted(log_x, log_x[-1]))
    )
    sums = np.cumsum((n_tail[1:] * np.diff(log_x))[::-1])[::-1][:n_candidates]
    return Tails(log_x, start, n, n_tail[:n_candidates] / sums)


def best_xmin(t: Tails) -> tuple[int, float]:
    """Find the candidate with the smallest KS distance; of equals, the smallest xmin.

    The naive search looks at all values of all tails: m^2/2 exponentials. Here the distance of
    every candidate is first bounded from below by looking at a few values. Then, again and again,
    the candidate with the smallest bound is looked at in full. If it is the best so far, all with
    a larger bound are out. And the value at which the law is farthest from its tail tends to be
    bad for its neighbours as well: looking there raises the bounds of all that remain. The search
    is exact, as no candidate goes whose bound is not above the distance of another.

    Returns
    -------
    tuple of int and float
        Index of the candidate, and its distance.
    """
    m, candidates = t.log_x.size, np.arange(t.exponent.size)
    fractions = np.linspace(0, 1, _N_PROBES + 1)[1:] ** 2
    columns = m - 1 - np.rint(fractions * (m - 1)).astype(np.intp)
    bounds = t.at(candidates, columns[:, None]).max(axis=0)
    best, best_ks = 0, np.inf
    while candidates.size:
        k = int(bounds.argmin())
        i = int(candidates[k])
        row = t.row(i)
        worst = int(row.argmax())
        ks = float(row[worst])
        if (ks, i) < (best_ks, best):
            best, best_ks = i, ks
        bounds[k] = np.inf
        keep = bounds <= best_ks
        candidates, bounds = candidates[keep], bounds[keep]
        bounds = np.maximum(bounds, t.at(candidates, i + worst))
        keep = bounds <= best_ks
        candidates, bounds = candidates[keep], bounds[keep]
    return best, best_ks
