"""An approximate density, for matrices that are too large for their eigenvalues."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy.typing import ArrayLike
from torch import Tensor

from wskit.spectra._eigen import BLOCK, nonfinite_error


@dataclass(frozen=True, eq=False)
class ApproximateDensity:
    """An approximation of the distribution of the eigenvalues of W^T W, as weighted points.

    The points are not eigenvalues, and no law should be fitted to them: stochastic Lanczos
    quadrature shows where the mass lies on a linear axis, and says little about a tail.

    Attributes
    ----------
    name : str
    N, M : int
        Sides of the matrix.
    nodes : array of shape (n_probes * n_steps,)
        Ascending, in the units of the eigenvalues. The last is close to the largest eigenvalue.
    weights : array of the same shape
        Share of the eigenvalues that each node represents; they sum to 1.
    """

    name: str
    N: int
    M: int
    nodes: Float64[np.ndarray, " k"]
    weights: Float64[np.ndarray, " k"]

    def cdf(self, x: ArrayLike) -> Float64[np.ndarray, " n"]:
        """Return the approximate share of the eigenvalues that are at most `x`."""
        total = np.concatenate([[0.0], np.cumsum(self.weights)])
        return total[np.searchsorted(self.nodes, np.atleast_1d(x), side="right")]


def spectral_density(
    W: Float[Tensor, "O I"],
    *,
    n_steps: int = 80,
    n_probes: int = 8,
    seed: int,
    device: torch.device | str | None = None,
    name: str = "",
) -> ApproximateDensity:
    """Approximate the distribution of the eigenvalues of W^T W by stochastic Lanczos quadrature.

    For each random unit vector v, `n_steps` of Lanczos give a quadrature rule of the measure that
    v sees. The mean of these rules approximates the spectral distribution to a Wasserstein
    distance of about 12/n_steps of the range (Chen, Trogdon and Ubaru 2021, arXiv:2105.06595). For
    a smaller side under 16 thousand, `spectrum` is exact and takes about as long.

    Parameters
    ----------
    W : Tensor of shape (O, I)
        Converted to float64 by blocks of rows.
    n_steps, n_probes : int
        Number of Lanczos steps and of random vectors.
    seed : int
        Seed of the random vectors.
    device : torch.device or str, optional
        Where to compute. None means where `W` is.
    name : str, optional
        Kept in the result.

    Returns
    -------
    ApproximateDensity

    Raises
    ------
    SpectrumError
        If `W` holds NaN or inf.

    Examples
    --------
    A matrix with two eigenvalues, 1 and 4, needs two steps:

    >>> W = torch.diag(torch.tensor([1.0, 1.0, 2.0, 2.0]))
    >>> density = spectral_density(W, n_steps=2, seed=0)
    >>> sorted(set(density.nodes.round(6).tolist()))
    [1.0, 4.0]
    """
    W = (W if W.shape[0] >= W.shape[1] else W.mT).detach()
    N, M = W.shape
    n_steps = min(n_steps, M)
    device = torch.device(device or W.device)
    step = max(1, BLOCK // (8 * M))

    def apply(V: Tensor) -> Tensor:
        """W^T W V, block by block."""
        out = torch.zeros_like(V)
        for rows in W.split(step):
            exact = rows.to(device=device, dtype=torch.float64)
            out.addmm_(exact.mT, exact @ V)
        return out

    generator = torch.Generator().manual_seed(seed)
    V = torch.randn(M, n_probes, generator=generator, dtype=torch.float64).to(device)
    basis = [V / V.norm(dim=0)]
    alphas, betas = [], []
    for _ in range(n_steps):
        U = apply(basis[-1])
        alphas.append((basis[-1] * U).sum(0))
        # Orthogonalise twice against all earlier vectors: else rounding brings back eigenvalues
        # that were found.
        for _again in range(2):
            for earlier in basis:
                U = U - earlier * (earlier * U).sum(0)
        beta = U.norm(dim=0)
        betas.append(beta)
        # Where the space is exhausted, beta is rounding, and the next vector is arbitrary.
        basis.append(U / beta.clamp_min(torch.finfo(torch.float64).tiny))
    a, b = torch.stack(alphas, 1), torch.stack(betas, 1)[:, :-1]
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise nonfinite_error(name, [W])
    T = torch.diag_embed(a) + torch.diag_embed(b, 1) + torch.diag_embed(b, -1)
    nodes, vectors = torch.linalg.eigh(T)
    weights = vectors[:, 0, :].square() / n_probes
    order = nodes.flatten().argsort()
    points = (t.flatten()[order].clamp_min(0).cpu().numpy() for t in (nodes, weights))
    return ApproximateDensity(name, N, M, *points)
