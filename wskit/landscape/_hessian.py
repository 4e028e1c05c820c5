"""The largest eigenvalue of the Hessian, without the Hessian."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from wskit._checks import calling, check_whole
from wskit.errors import LandscapeError
from wskit.landscape._mix import checked, weight_names

_Vector = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class HessianEigenvalue:
    """An eigenvalue of the Hessian of the loss, and how well it is known.

    Attributes
    ----------
    value : float
        The estimate, in the units of the loss over those of the weights squared.
    vector : mapping of str to Tensor
        The eigenvector, of length 1 in all.
    residual : float
        |H v - value v|. The Hessian has an eigenvalue no farther from `value` than this.
    n_iterations : int
    converged : bool
        Whether the residual fell below the tolerance.
    """

    value: float
    vector: Mapping[str, Tensor]
    residual: float
    n_iterations: int
    converged: bool


def top_hessian_eigenvalue(
    loss: Callable[[Mapping[str, Tensor]], Tensor],
    weights: Mapping[str, Tensor],
    *,
    n_iterations: int = 200,
    rtol: float = 0.01,
    seed: int,
) -> HessianEigenvalue:
    """Find the largest eigenvalue of the Hessian by power iteration.

    v is multiplied by H again and again, by `torch.func.vjp` of the gradient, which costs about a
    gradient each time. That leads to the eigenvalue of the largest size; where it is negative,
    the iteration is done again with H shifted by it, which leads to the largest one.

    Parameters
    ----------
    loss : callable
        Maps the weights of one model to the loss, a tensor of one value that can be
        differentiated twice, such as
        ``lambda w: cross_entropy(torch.func.functional_call(module, w, (x,)), y)``.
    weights : mapping of str to Tensor
        Where. Tensors of integers and a batch norm's running statistics are held fixed.
    n_iterations : int, default 200
        The most multiplications with H, in each of the two iterations.
    rtol : float, default 0.01
        It ends when the residual is at most this part of the eigenvalue (of H as it is shifted).
    seed : int
        Of the first vector.

    Returns
    -------
    HessianEigenvalue
        Where it did not converge the value is still within its residual of an eigenvalue.

    Raises
    ------
    LandscapeError
        If the weights hold NaN or inf, or a product with the Hessian does.

    Examples
    --------
    >>> scale = torch.tensor([1.0, 2.0, 5.0])
    >>> found = top_hessian_eigenvalue(
    ...     lambda weights: (scale * weights["w"].square()).sum() / 2,
    ...     {"w": torch.ones(3)}, rtol=1e-3, seed=0)
    >>> round(found.value, 3), found.converged
    (5.0, True)
    """
    check_whole(n_iterations, LandscapeError, "n_iterations")
    start = checked([weights])[0]
    free = {name: start[name] for name in weight_names(start)}
    fixed = {name: tensor for name, tensor in start.items() if name not in free}
    with calling(
        LandscapeError, "the loss", "return a tensor of one value that torch.func can differentiate"
    ):
        _, product = torch.func.vjp(torch.func.grad(lambda w: loss({**fixed, **w})), free)

    def apply(v: _Vector) -> _Vector:
        return product(v)[0]

    found = _dominant(apply, _random_like(free, seed), n_iterations, rtol)
    if found.value >= 0:
        return found
    shift = found.value

    def apply_shifted(v: _Vector) -> _Vector:
        return _plus(apply(v), v, -shift)

    second = _dominant(apply_shifted, _random_like(free, seed), n_iterations, rtol)
    return HessianEigenvalue(
        second.value + shift,
        second.vector,
        second.residual,
        found.n_iterations + second.n_iterations,
        second.converged,
    )


def _dominant(
    apply: Callable[[_Vector], _Vector], v: _Vector, n_iterations: int, rtol: float
) -> HessianEigenvalue:
    """Iterate v -> H v / |H v|, with the Rayleigh quotient v H v for the eigenvalue."""
    for iteration in range(1, n_iterations + 1):
        Hv = apply(v)
        value = _dot(v, Hv)
        difference = _plus(Hv, v, -value)
        residual, length = _dot(difference, difference) ** 0.5, _dot(Hv, Hv) ** 0.5
        if not length < float("inf"):
            raise LandscapeError(
                "a product with the Hessian is NaN or inf; the loss cannot be differentiated "
                "twice at these weights."
            )
        converged = residual <= rtol * abs(value)
        if converged or iteration == n_iterations:
            break
        v = {name: part / length for name, part in Hv.items()}
    return HessianEigenvalue(value, v, residual, iteration, converged)


def _random_like(free: _Vector, seed: int) -> _Vector:
    rng = torch.Generator().manual_seed(seed)
    v = {name: torch.randn(w.shape, generator=rng).to(w) for name, w in free.items()}
    length = _dot(v, v) ** 0.5
    return {name: part / length for name, part in v.items()}


def _dot(a: _Vector, b: _Vector) -> float:
    return float(sum((a[name].double() * b[name].double()).sum() for name in a))


def _plus(a: _Vector, b: _Vector, factor: float) -> _Vector:
    return {name: a[name] + factor * b[name] for name in a}
