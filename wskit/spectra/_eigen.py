"""Eigenvalues of W^T W: one matrix, a stack, a file that is larger than the memory."""

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from tqdm.auto import tqdm

from wskit._checks import check_choice, check_matrix
from wskit.errors import SpectrumError
from wskit.spectra._layers import (
    FFT_GRID,
    ConvRule,
    Layer,
    QkvRule,
    as_matrix,
    layer_of,
    layers,
)

Method = Literal["gram", "svd"]

MAX_SIDE = 16_384
"""The largest M whose eigenvalues are computed; beyond it, see `spectral_density`."""

_BLOCK = 2**25  # bytes of float64 that are converted, or batched, at a time
_SMALL = 256  # at this side and below, a second thread costs more time than it saves

# What a GPU is slower at than one CPU core (benchmarks/gpu.py): a stack of matrices of these sides,
# which it solves one after the other, and a few smaller ones, which it would solve all at once.
_ONE_BY_ONE, _FEW = range(33, 192), 16
_LITTLE = 2**18  # entries that are as soon taken to the CPU as their Gram matrices made on the GPU


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The eigenvalues of W^T W: the squared singular values of W. There is no factor 1/N.

    Attributes
    ----------
    name : str
        The weight's name.
    N, M : int
        The larger and the smaller side of each matrix.
    n_matrices : int
        How many matrices of that size share the weight (the slices of a convolution).
    eigenvalues : array of shape (n_matrices * M,)
        Pooled over the matrices, ascending, float64, read-only. Values that rounding made
        negative are 0.
    """

    name: str
    N: int
    M: int
    n_matrices: int
    eigenvalues: Float64[np.ndarray, " k"]

    @property
    def Q(self) -> float:  # noqa: N802 - the papers' letter
        """Aspect ratio N/M >= 1."""
        return self.N / self.M


def spectrum(
    W: Tensor,
    *,
    conv: ConvRule = "slices",
    method: Method = "gram",
    device: torch.device | str | None = None,
    name: str = "",
) -> Spectrum:
    """Eigenvalues of W^T W, in float64 whatever the dtype of `W`.

    Parameters
    ----------
    W : Tensor of shape (O, I) or (O, I, *kernel)
        float64, float32, float16 or bfloat16; converted to float64, by blocks of rows, before
        anything is computed.
    conv : {"slices", "unfold", "fft"}, default "slices"
        The rule for convolutions, see `ConvRule`.
    method : {"gram", "svd"}, default "gram"
        ``"gram"`` takes the eigenvalues of the Gram matrix of the smaller side. Their error is
        about 1e-14 of the largest one, which for weights stored in float32 is below what storing
        them has already done, and it is two to seven times faster. ``"svd"`` squares singular
        values: use it for float64 weights where eigenvalues below 1e-13 of the largest matter
        (ranks, inverses).
    device : torch.device or str, optional
        Where to compute. None means where `W` is.
    name : str, optional
        Kept in the result.

    Returns
    -------
    Spectrum

    Raises
    ------
    SpectrumError
        If `W` holds no matrix, or NaN or inf, or its smaller side is over `MAX_SIDE`.

    Examples
    --------
    >>> spectrum(torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]])).eigenvalues
    array([ 9., 16.])
    """
    check_choice(conv, ConvRule, SpectrumError, "conv")
    check_choice(method, Method, SpectrumError, "method")
    if conv == "per-slice":
        raise SpectrumError("conv='per-slice' gives one spectrum a slice; `spectra` returns them.")
    # Where nothing is known of the tensor but its shape, it is the weight of a layer.
    layer = layer_of(f"{name}.weight", W.shape, W.dtype, conv)
    label = f"tensor {name!r}" if name else "the tensor"
    if layer.reason:
        raise SpectrumError(f"{label} of shape {tuple(W.shape)} has no spectrum: {layer.reason}.")
    _check_side(layer.M, label)
    return replace(_solve(W, layer, conv, method, device, label), name=name)


def spectra(
    weights: Mapping[str, Tensor],
    *,
    names: Iterable[str] | None = None,
    conv: ConvRule = "slices",
    qkv: QkvRule = "fused",
    device: torch.device | str | None = None,
    failures: dict[str, str] | None = None,
    progress: bool = False,
) -> list[Spectrum]:
    """Spectra of all weights that hold a matrix, those of equal shape computed together.

    A tall matrix of a checkpoint file is read by blocks of rows, so that the memory that is
    needed depends on its smaller side only: about 3 M^2 float64 and 64 MiB.

    Parameters
    ----------
    weights : mapping of str to Tensor
        Read one tensor at a time.
    names : iterable of str, optional
        Of the `inventory`, which lists every tensor that has no matrix, one of integers or complex
        numbers say, with the reason. None means all that have one; any other raises.
    conv, qkv
        The rules, see `ConvRule` and `QkvRule`.
    device : torch.device or str, optional
        Where to compute. None means where each tensor is.
    failures : dict, optional
        Where given, a weight that has no spectrum adds its name and the reason to it, and the
        others are computed; without it the first such weight raises.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    list of Spectrum
        In the order of the inventory.

    Raises
    ------
    SpectrumError
        If a weight holds NaN or inf, or is too large; see `failures`.

    Examples
    --------
    >>> [s.name for s in spectra({"a": torch.eye(3), "bias": torch.ones(3), "b": torch.eye(2)})]
    ['a', 'b']
    """
    known = {layer.name: layer for layer in layers(weights, conv, qkv)}
    chosen = [layer.name for layer in known.values() if not layer.reason]
    if names is not None:
        chosen = list(names)
        for name in chosen:
            if name not in known or known[name].reason:
                reason = known[name].reason if name in known else "there is no such weight"
                raise SpectrumError(f"{name!r} has no spectrum: {reason}; see `inventory`.")
    found: dict[str, Spectrum] = {}
    errors: dict[str, str] = {} if failures is None else failures
    batches = _Batches(weights, found, errors)
    for name in tqdm(chosen, disable=not progress, unit="layer"):
        layer = known[name]
        try:
            if layer.factor:
                A, B = weights[layer.factor], weights[layer.tensor]
                found[name] = low_rank_spectrum(B, A, name=name)
                continue
            _check_side(layer.M, f"tensor {name!r}")
            if layer.M <= _SMALL and conv != "fft":
                W = as_matrix(weights[layer.tensor], layer, conv)
                batches.add(layer, W.to(_place(W, layer, device)))
            else:
                found[name] = _large(weights, layer, conv, device)
        except SpectrumError as error:
            errors[name] = str(error)
        if errors and failures is None:
            break
    batches.flush()
    if errors and failures is None:
        raise SpectrumError(next(iter(errors.values())))
    return [found[name] for name in chosen if name in found]


def low_rank_spectrum(
    B: Float[Tensor, "out r"], A: Float[Tensor, "r in"], *, name: str = ""
) -> Spectrum:
    """Spectrum of the product B A of a low-rank pair, from its factors.

    With B = Q_B R_B and A^T = Q_A R_A, the singular values of B A are those of the r x r matrix
    R_B R_A^T: the product of out x in entries is never formed (Hu et al. 2021, arXiv:2106.09685,
    for the pair).

    Parameters
    ----------
    B : Tensor of shape (out, r)
    A : Tensor of shape (r, in)
    name : str, optional
        Kept in the result.

    Returns
    -------
    Spectrum
        Of a matrix of out x in; all but r of its eigenvalues are exactly 0.

    Raises
    ------
    SpectrumError
        If the factors hold NaN or inf.

    Examples
    --------
    >>> low_rank_spectrum(torch.tensor([[1.0], [0.0]]), torch.tensor([[2.0, 0.0]])).eigenvalues
    array([0., 4.])
    """
    label = f"pair {name!r}" if name else "the pair"
    for factor, which in ((B, "B"), (A, "A")):
        check_matrix(factor, SpectrumError, f"{which} of {label}")
    if B.shape[1] != A.shape[0]:
        raise SpectrumError(
            f"{label} is of an (out x r) and an (r x in) matrix, got {tuple(B.shape)} and "
            f"{tuple(A.shape)}; give the factors B and A of one layer."
        )
    if not (torch.isfinite(A).all() and torch.isfinite(B).all()):
        raise _diverged(label, [A, B])
    N, M = max(B.shape[0], A.shape[1]), min(B.shape[0], A.shape[1])
    R_B, R_A = (torch.linalg.qr(F.detach().double(), mode="r").R for F in (B, A.mT))
    squares = torch.linalg.svdvals(R_B @ R_A.mT).square().cpu().numpy()[:M]
    return _spectrum(name, N, M, 1, np.concatenate([np.zeros(M - squares.size), squares]))


class _Batches:
    """Small matrices of many layers, gathered by shape and solved in few calls."""

    def __init__(
        self, weights: Mapping[str, Tensor], found: dict[str, Spectrum], errors: dict[str, str]
    ) -> None:
        self._weights, self._found, self._errors = weights, found, errors
        self._waiting: dict[tuple[int, torch.device], list[tuple[Layer, Tensor]]] = {}
        self._bytes = 0

    def add(self, layer: Layer, W: Tensor) -> None:
        """Keep a layer's Gram matrices, and solve all that wait when they become many."""
        stack = W if W.ndim == 3 else W[None]
        step = max(1, _BLOCK // (8 * layer.N * layer.M))
        with _threads_for(layer.M):
            gram = torch.cat([_gram(_contiguous(part)) for part in stack.split(step)])
        self._waiting.setdefault((layer.M, gram.device), []).append((layer, gram))
        self._bytes += gram.nbytes
        if self._bytes > _BLOCK:
            self.flush()

    def flush(self) -> None:
        for (M, _), waiting in self._waiting.items():
            grams = torch.cat([gram for _, gram in waiting])
            bad = ~torch.isfinite(grams.diagonal(dim1=-2, dim2=-1)).all(dim=-1)
            if bad.any():
                grams[bad] = 0
            with _threads_for(M):
                values = _eigvalsh(grams)
            values[bad] = torch.nan
            each = values.cpu().numpy()
            start = 0
            for layer, gram in waiting:
                own = each[start : start + len(gram)].ravel()
                start += len(gram)
                if np.isfinite(own).all():
                    s = _spectrum(layer.name, layer.N, layer.M, layer.n_matrices, own)
                    self._found[layer.name] = s
                else:
                    W = self._weights[layer.tensor]
                    self._errors[layer.name] = str(_diverged(f"tensor {layer.name!r}", [W]))
        self._waiting.clear()
        self._bytes = 0


def _large(weights: Mapping[str, Tensor], layer: Layer, conv: ConvRule, device: Any) -> Spectrum:
    """Solve a layer by itself; a tall matrix of a file is read by blocks of rows."""
    label = f"tensor {layer.name!r}"
    tall = layer.kind == "matrix" and layer.shape == (layer.N, layer.M)
    if not (tall and hasattr(weights, "rows")):
        return _solve(weights[layer.tensor], layer, conv, "gram", device, label)
    step = max(1, _BLOCK // (8 * layer.M))

    def rows() -> Iterator[Tensor]:
        for start in range(0, layer.N, step):
            yield weights.rows(layer.tensor, start, min(start + step, layer.N))

    values = _eigenvalues(_gram_of_rows(rows(), layer.M, device))
    if not np.isfinite(values).all():
        raise _diverged(label, rows())
    return _spectrum(layer.name, layer.N, layer.M, 1, values)


def _solve(
    W: Tensor, layer: Layer, conv: ConvRule, method: Method, device: Any, label: str
) -> Spectrum:
    with _threads_for(layer.M):
        blocks = _matrix_blocks(W, layer, conv, _place(W, layer, device))
        values = np.concatenate([_squares(block, method) for block in blocks])
    if not np.isfinite(values).all():
        raise _diverged(label, [W])
    return _spectrum(layer.name, layer.N, layer.M, layer.n_matrices, values)


def _matrix_blocks(
    W: Tensor, layer: Layer, conv: ConvRule, device: torch.device
) -> Iterator[Tensor]:
    """Cut a layer's stack into parts that fit a block; a single matrix is one part."""
    if layer.kind == "convolution" and conv == "fft":
        yield from _frequencies(W.to(device), layer)
        return
    matrix = as_matrix(W, layer, conv)
    stack = matrix if matrix.ndim == 3 else matrix[None]
    for part in stack.split(max(1, _BLOCK // (8 * layer.N * layer.M))):
        yield part.to(device)


def _frequencies(W: Tensor, layer: Layer) -> Iterator[Tensor]:
    """Yield the complex (N, M) matrices of a periodic convolution, by blocks of frequencies."""
    kernel = W.shape[2:]
    entries = W.detach().double().flatten(2).movedim(2, 0).flatten(1)  # (place, O*I)
    places = torch.cartesian_prod(*(torch.arange(k) for k in kernel)).reshape(-1, len(kernel))
    axes = [torch.arange(FFT_GRID)] * len(kernel)
    frequencies = torch.cartesian_prod(*axes).reshape(-1, len(kernel))
    for part in frequencies.split(max(1, _BLOCK // (16 * layer.N * layer.M))):
        turns = (part @ places.T).double().to(W.device) * (-2 * math.pi / FFT_GRID)
        real, imaginary = turns.cos() @ entries, turns.sin() @ entries
        matrix = torch.complex(real, imaginary).reshape(-1, *W.shape[:2])
        yield matrix if matrix.shape[-2] == layer.N else matrix.mT


def _squares(stack: Tensor, method: Method) -> Float64[np.ndarray, " k"]:
    """Squared singular values of a stack of (N, M) matrices."""
    if method == "svd":
        matrix = stack if stack.is_complex() else stack.double()
        if not torch.isfinite(matrix).all():
            return np.full(1, np.nan)
        return torch.linalg.svdvals(matrix).square().cpu().numpy().ravel()
    if len(stack) == 1 and not stack.is_complex():
        step = max(1, _BLOCK // (8 * stack.shape[-1]))
        return _eigenvalues(_gram_of_rows(stack[0].split(step), stack.shape[-1], stack.device))
    return _eigenvalues(_gram(stack if stack.is_complex() else _contiguous(stack)))


def _contiguous(stack: Tensor) -> Tensor:
    """Convert to float64, matrix by matrix: a product of strided slices would copy them twice."""
    return stack.to(torch.float64, memory_format=torch.contiguous_format)


def _gram(stack: Tensor) -> Tensor:
    return stack.mH @ stack


def _gram_of_rows(rows: Iterable[Tensor], M: int, device: Any) -> Tensor:
    """Add up the Gram matrix of blocks of rows."""
    gram = torch.zeros(M, M, dtype=torch.float64, device=device)
    for block in rows:
        exact = block.to(device=gram.device, dtype=torch.float64)
        gram.addmm_(exact.mT, exact)
        del block, exact  # before the next is read: two at a time are half as much memory again
    return gram


def _eigenvalues(gram: Tensor) -> Float64[np.ndarray, " k"]:
    if not torch.isfinite(gram.diagonal(dim1=-2, dim2=-1)).all():
        return np.full(1, np.nan)
    return _eigvalsh(gram).cpu().numpy().ravel()


def _place(W: Tensor, layer: Layer, device: Any) -> torch.device:
    """Return where to compute: where it was asked for, or on the CPU what is quicker there."""
    place = torch.device(device or W.device)
    return place if W.numel() > _LITTLE else _solver(layer.M, layer.n_matrices, place)


def _eigvalsh(gram: Tensor) -> Tensor:
    """Solve a matrix or a stack, wherever that is faster."""
    place = _solver(gram.shape[-1], math.prod(gram.shape[:-2]), gram.device)
    return torch.linalg.eigvalsh(gram.to(place))


def _solver(M: int, n: int, device: torch.device) -> torch.device:
    """Return where to solve n matrices of side M that were to be solved on `device`."""
    slower = M in _ONE_BY_ONE or (M <= 32 and n < _FEW)
    return torch.device("cpu") if device.type == "cuda" and slower else device


def _check_side(M: int, label: str) -> None:
    if M > MAX_SIDE:
        raise SpectrumError(
            f"{label} has a smaller side of {M}, over {MAX_SIDE}: its eigenvalues would take "
            "hours; `spectral_density` gives an approximate density."
        )


def _diverged(label: str, blocks: Iterable[Tensor]) -> SpectrumError:
    """Say what is wrong with a tensor whose eigenvalues are not finite; it is read once more."""
    sizes = [(int((~torch.isfinite(block)).sum()), block.numel()) for block in blocks]
    bad, total = map(sum, zip(*sizes, strict=True))
    if bad:
        return SpectrumError(
            f"{label} holds NaN or inf in {bad} of its {total} entries; the model diverged or "
            "the file is damaged."
        )
    return SpectrumError(f"{label} has entries whose squares overflow; scale it down.")


def _spectrum(name: str, N: int, M: int, n: int, values: Float64[np.ndarray, " k"]) -> Spectrum:
    values = np.sort(np.maximum(values, 0.0))
    values.flags.writeable = False
    return Spectrum(name=name, N=N, M=M, n_matrices=n, eigenvalues=values)


@contextlib.contextmanager
def _threads_for(M: int) -> Iterator[None]:
    """Let small problems run on one thread: ten times slower on many, where others compute."""
    before = torch.get_num_threads()
    if M > _SMALL or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
