"""What a spectrum is compared with: shuffled weights, another checkpoint, windows of one shape."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from wskit._base.weights import DerivedWeights, LazyWeights, as_weights, header, read_rows
from wskit.errors import SpectrumError
from wskit.spectra._eigen import Spectrum, spectrum


def shuffled(W: Tensor, *, seed: int) -> Tensor:
    """Return `W` with its entries in a random order: the null model of an ESD.

    The entries keep their distribution and lose every correlation. What a spectrum shows beyond
    that of ``shuffled(W)`` is not due to the sizes of single weights.

    Parameters
    ----------
    W : Tensor of any shape
    seed : int
        Seed of the permutation, which is drawn on the CPU and so is the same on every device.

    Returns
    -------
    Tensor
        Same shape, dtype and device.

    Examples
    --------
    >>> shuffled(torch.arange(4), seed=0).sort().values
    tensor([0, 1, 2, 3])
    """
    order = torch.randperm(W.numel(), generator=torch.Generator().manual_seed(seed))
    return W.detach().flatten()[order.to(W.device)].reshape(W.shape)


def shuffled_weights(
    weights: Mapping[str, Tensor] | nn.Module, *, seed: int
) -> Mapping[str, Tensor]:
    """Shuffle each tensor separately, when it is read.

    Parameters
    ----------
    weights : mapping of str to Tensor, or nn.Module
    seed : int
        The same for every tensor, as in ``shuffled(weights[name], seed=seed)``.

    Returns
    -------
    mapping of str to Tensor
        Lazy, with the same names.

    Examples
    --------
    >>> null = shuffled_weights({"fc.weight": torch.eye(2)}, seed=0)
    >>> null["fc.weight"].sum()
    tensor(2.)
    """
    return _Shuffled(as_weights(weights, SpectrumError), seed)


def difference(
    weights: Mapping[str, Tensor] | nn.Module, base: Mapping[str, Tensor] | nn.Module
) -> Mapping[str, Tensor]:
    """Subtract `base` from `weights`, each tensor when it is read: what training has added.

    Parameters
    ----------
    weights, base : mapping of str to Tensor, or nn.Module
        Same names and shapes: two steps of a training run, or a fine-tuned model and its base.

    Returns
    -------
    mapping of str to Tensor
        Lazy. Floating-point tensors are subtracted in float64, whatever their `dtype`; the others
        are those of `weights`. Rows are read by rows where both can do so, as checkpoints can.

    Raises
    ------
    SpectrumError
        If a name is in one of them only, or the shapes differ.

    Examples
    --------
    >>> difference({"w": torch.ones(2)}, {"w": torch.zeros(2)})["w"]
    tensor([1., 1.], dtype=torch.float64)
    """
    weights = as_weights(weights, SpectrumError)
    base = as_weights(base, SpectrumError, "the base")
    for name in sorted(set(weights) | set(base)):
        shapes = [header(m, name)[0] if name in m else None for m in (weights, base)]
        if shapes[0] != shapes[1]:
            raise SpectrumError(
                f"tensor {name!r} has the shape {shapes[0]} in the weights and {shapes[1]} in the "
                "base; two checkpoints of one network are needed."
            )
    return _Difference(weights, base)


def aspect_spectrum(
    W: Float[Tensor, "O I"],
    *,
    M: int = 100,
    Q: float = 2.0,
    n_windows: int = 10,
    device: torch.device | str | None = None,
    name: str = "",
) -> Spectrum:
    """Pool the eigenvalues of sub-matrices of one shape: alpha without the bias of aspect ratio.

    Alpha of a random matrix depends on its shape. Windows of Q M x M that slide over `W` make
    layers of different shapes comparable (FARMS; Hu et al. 2025, arXiv:2506.06280, section 3.2).

    Parameters
    ----------
    W : Tensor of shape (O, I)
    M : int, default 100
        The windows' smaller side; less where `W` is smaller.
    Q : float, default 2.0
        Their aspect ratio, at least 1.
    n_windows : int, default 10
        Number along each axis, evenly spread from edge to edge; fewer on a short axis.
    device : torch.device or str, optional
        Where to compute. None means where `W` is.
    name : str, optional
        Kept in the result.

    Returns
    -------
    Spectrum
        Of ``n_matrices`` windows.

    Raises
    ------
    SpectrumError
        If `W` is too small to hold a window with two columns, or holds NaN or inf.

    Examples
    --------
    >>> s = aspect_spectrum(torch.eye(300, 250), M=50, n_windows=3)
    >>> s.N, s.M, s.n_matrices
    (100, 50, 9)
    """
    tall = W if W.shape[0] >= W.shape[1] else W.mT
    M = min(M, tall.shape[1], int(tall.shape[0] / Q))
    N = int(M * Q)
    if M < 2 or Q < 1:
        raise SpectrumError(
            "a window needs an aspect ratio of at least 1 and two columns, and a matrix of "
            f"{W.shape[0]} × {W.shape[1]} holds none with Q={Q:g}."
        )

    def places(length: int, window: int) -> Tensor:
        starts = np.unique(np.linspace(0, length - window, n_windows).round().astype(int))
        return torch.as_tensor(starts)[:, None] + torch.arange(window)

    rows, columns = places(tall.shape[0], N), places(tall.shape[1], M)
    windows = tall.detach()[rows[:, None, :, None], columns[None, :, None, :]]  # (n, n, N, M)
    # `spectrum` takes a stack as the slices of a convolution, (N, M, n).
    return spectrum(windows.flatten(0, 1).movedim(0, 2), device=device, name=name)


class _Shuffled(DerivedWeights):
    def __init__(self, weights: Mapping[str, Tensor], seed: int) -> None:
        super().__init__(weights)
        self._seed = seed

    def __getitem__(self, name: str) -> Tensor:
        return shuffled(self._like[name], seed=self._seed)


class _Difference(DerivedWeights):
    def __init__(self, weights: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> None:
        super().__init__(weights)
        self._base = base

    def __getitem__(self, name: str) -> Tensor:
        return _subtract(self._like[name], self._base[name])

    @property
    def block_reads(self) -> bool:
        both = (self._like, self._base)
        return all(m.block_reads for m in both if isinstance(m, LazyWeights))

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        return _subtract(*(read_rows(m, name, start, stop) for m in (self._like, self._base)))


def _subtract(W: Tensor, W0: Tensor) -> Tensor:
    if not W.is_floating_point():
        return W.detach()
    return W.detach().double() - W0.detach().to(W.device).double()
