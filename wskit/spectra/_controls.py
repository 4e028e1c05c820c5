"""What a spectrum is held against: shuffled weights, another checkpoint, windows of one shape."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wskit._checks import check_matrix, check_tensor, check_weights, check_whole, number
from wskit._weights import header
from wskit.errors import SpectrumError
from wskit.spectra._eigen import Spectrum, spectrum


def shuffled(W: Tensor, *, seed: int) -> Tensor:
    """Return `W` with its entries in a random order: the null model of an ESD.

    The entries keep their distribution and lose every correlation, so that what a spectrum shows
    beyond that of ``shuffled(W)`` was not due to the sizes of single weights.

    Parameters
    ----------
    W : Tensor of any shape
    seed : int
        Of a generator of its own, on the CPU, so that the order is the same on every device.

    Returns
    -------
    Tensor
        Of the same shape, dtype and device.

    Examples
    --------
    >>> shuffled(torch.arange(4), seed=0).sort().values
    tensor([0, 1, 2, 3])
    """
    check_tensor(W, SpectrumError, "what is shuffled")
    order = torch.randperm(W.numel(), generator=torch.Generator().manual_seed(seed))
    return W.detach().flatten()[order.to(W.device)].reshape(W.shape)


def shuffled_weights(weights: Mapping[str, Tensor], *, seed: int) -> Mapping[str, Tensor]:
    """Shuffle every tensor by itself, when it is read.

    Parameters
    ----------
    weights : mapping of str to Tensor
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
    check_weights(weights, SpectrumError)
    return LazyWeights(weights, lambda name: shuffled(weights[name], seed=seed))


def difference(weights: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Subtract `base` from `weights`, tensor by tensor, when it is read: what training has added.

    Parameters
    ----------
    weights, base : mapping of str to Tensor
        With the same names and shapes; two steps of a training run, say, or a fine-tuned model
        and its base.

    Returns
    -------
    mapping of str to Tensor
        Lazy. Floating tensors are subtracted in float64 and keep the dtype of `weights` only in
        their header's word; other tensors are those of `weights`. Where both can read rows, as
        checkpoints can, so can it.

    Raises
    ------
    SpectrumError
        If a name is in one of them only, or the shapes differ.

    Examples
    --------
    >>> difference({"w": torch.ones(2)}, {"w": torch.zeros(2)})["w"]
    tensor([1., 1.], dtype=torch.float64)
    """
    check_weights(weights, SpectrumError)
    check_weights(base, SpectrumError, "the base")
    only = sorted(set(weights) ^ set(base))
    if only:
        raise SpectrumError(
            f"two checkpoints of one network are needed, and {only[0]!r} is in one of them only "
            f"({len(only)} such names)."
        )
    for name in weights:
        shapes = header(weights, name)[0], header(base, name)[0]
        if shapes[0] != shapes[1]:
            raise SpectrumError(
                f"two checkpoints of one network are needed, and {name!r} has the shapes "
                f"{shapes[0]} and {shapes[1]}."
            )

    def subtract(W: Tensor, W0: Tensor) -> Tensor:
        if not W.is_floating_point():
            return W.detach()
        return W.detach().double() - W0.detach().to(W.device).double()

    def read(name: str) -> Tensor:
        return subtract(weights[name], base[name])

    ours, theirs = getattr(weights, "rows", None), getattr(base, "rows", None)
    if ours is None or theirs is None:
        return LazyWeights(weights, read)
    return LazyWeights(weights, read, lambda *rows: subtract(ours(*rows), theirs(*rows)))


def aspect_spectrum(
    W: Float[Tensor, "O I"],
    *,
    M: int = 100,
    Q: float = 2.0,
    n_windows: int = 10,
    device: torch.device | str | None = None,
    name: str = "",
) -> Spectrum:
    """Eigenvalues of sub-matrices of one shape, pooled: alpha without the bias of aspect ratio.

    Alpha of a random matrix depends on its shape. Windows of Q M x M that slide over `W` make
    layers of different shapes comparable (FARMS; Hu et al. 2025, arXiv:2506.06280, section 3.2).

    Parameters
    ----------
    W : Tensor of shape (O, I)
    M : int, default 100
        The windows' smaller side; less where `W` is smaller.
    Q : float, default 2.0
        Their aspect ratio.
    n_windows : int, default 10
        Along each axis, evenly spread from edge to edge; fewer where the axis has not so many.
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
    check_matrix(W, SpectrumError, f"tensor {name!r}" if name else "W")
    Q = number(Q, SpectrumError, "Q")
    check_whole(n_windows, SpectrumError, "n_windows")
    if Q < 1:
        raise SpectrumError(
            f"Q is N/M of a window with N >= M, so at least 1, got {Q:g}; raise it."
        )
    tall = W if W.shape[0] >= W.shape[1] else W.mT
    M = min(M, tall.shape[1], int(tall.shape[0] / Q))
    N = int(M * Q)
    if M < 2:
        raise SpectrumError(
            f"a window of aspect ratio {Q:g} needs two columns, and a matrix of "
            f"{W.shape[0]} × {W.shape[1]} holds none; lower Q."
        )

    def places(length: int, window: int) -> Tensor:
        starts = np.unique(np.linspace(0, length - window, n_windows).round().astype(int))
        return torch.as_tensor(starts)[:, None] + torch.arange(window)

    rows, columns = places(tall.shape[0], N), places(tall.shape[1], M)
    windows = tall.detach()[rows[:, None, :, None], columns[None, :, None, :]]  # (n, n, N, M)
    stack = windows.flatten(0, 1)
    # As the slices of a convolution (N, M, n), which is how a stack is told to `spectrum`.
    return spectrum(stack.movedim(0, 2), device=device, name=name)


class LazyWeights(Mapping[str, Tensor]):
    """A mapping with the names, shapes and dtypes of another, whose tensors are made when read.

    Parameters
    ----------
    like : mapping of str to Tensor
        Whose header this has; of a checkpoint file only the header is read.
    read : callable
        Returns the tensor of a name.
    read_rows : callable, optional
        Returns rows `start` to `stop` of the tensor of a name, for matrices that are larger than
        the memory.

    Examples
    --------
    >>> doubled = LazyWeights({"w": torch.ones(2)}, lambda name: torch.full((2,), 2.0))
    >>> doubled["w"], doubled.shape("w")
    (tensor([2., 2.]), (2,))
    """

    def __init__(
        self,
        like: Mapping[str, Tensor],
        read: Callable[[str], Tensor],
        read_rows: Callable[[str, int, int], Tensor] | None = None,
    ) -> None:
        self._like, self._read = like, read
        if read_rows is not None:
            self.rows = read_rows  # `spectra` streams from whatever has it

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._like:
            raise KeyError(name)
        return self._read(name)

    def __contains__(self, name: object) -> bool:
        return name in self._like

    def __iter__(self) -> Iterator[str]:
        return iter(self._like)

    def __len__(self) -> int:
        return len(self._like)

    def shape(self, name: str) -> tuple[int, ...]:
        return header(self._like, name)[0]

    def dtype(self, name: str) -> torch.dtype:
        return header(self._like, name)[1]
