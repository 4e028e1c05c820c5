"""Eigenvalues of W^T W: one matrix, a stack, a file that is larger than the memory."""

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from tqdm.auto import tqdm

from wskit._base.checks import check_choice
from wskit._base.weights import LazyWeights, as_weights
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

MAX_SIDE = 16_384  # the largest M whose eigenvalues are computed; `spectral_density` goes beyond
BLOCK = 2**25  # bytes of float64 that are converted, or batched, at a time
_SMALL = 256  # at this side and below, a second thread costs more time than it saves

# Where a GPU is slower than one CPU core (benchmarks/gpu.py): it solves a stack of matrices of
# these sides one after the other, and needs many smaller ones to solve at once.
_ONE_BY_ONE, _FEW = range(33, 192), 16
_LITTLE = 2**18  # entries that move to the CPU as fast as the GPU computes their Gram matrices


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
        Number of matrices of that size in the weight (the slices of a convolution).
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
        """Return the aspect ratio N/M >= 1."""
        return self.N / self.M


def spectrum(
    W: Tensor | nn.Module,
    *,
    conv: ConvRule = "slices",
    device: torch.device | str | None = None,
    name: str = "",
) -> Spectrum:
    """Compute the eigenvalues of W^T W, in float64 whatever the dtype of `W`.

    The Gram matrix of the smaller side is solved, which is two to seven times faster than singular
    values. Its error is about 1e-14 of the largest eigenvalue, less than the error of storing
    weights in float32. Where smaller eigenvalues of float64 weights matter (ranks, inverses), use
    `torch.linalg.svdvals`.

    Parameters
    ----------
    W : Tensor of shape (O, I) or (O, I, *kernel), or nn.Module
        float64, float32, float16 or bfloat16; converted to float64, by blocks of rows, before
        anything is computed. A module must hold exactly one weight with a matrix.
    conv : {"slices", "unfold", "fft"}, default "slices"
        The rule for convolutions, see `inventory`.
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
    if conv == "per-slice":
        raise SpectrumError("conv='per-slice' gives one spectrum per slice; use `spectra`.")
    if isinstance(W, nn.Module):
        W = _only_weight(W)
    # Only the shape is known of the tensor, which is taken for the weight of a layer.
    layer = replace(layer_of(f"{name}.weight", W.shape, W.dtype, conv), name=name)
    if layer.reason:
        shape = tuple(W.shape)
        raise SpectrumError(f"{_label(name)} of shape {shape} has no spectrum: {layer.reason}.")
    _check_side(layer)
    return _solve(W, layer, conv, device)


def spectra(
    weights: Mapping[str, Tensor] | nn.Module,
    *,
    names: Iterable[str] | None = None,
    conv: ConvRule = "slices",
    qkv: QkvRule = "fused",
    device: torch.device | str | None = None,
    failures: dict[str, str] | None = None,
    progress: bool = False,
) -> list[Spectrum]:
    """Compute the spectra of all weights that hold a matrix, those of equal shape together.

    A tall matrix of a checkpoint file is read by blocks of rows, so that the memory depends on its
    smaller side only: about 3 M^2 float64 and 64 MiB.

    Parameters
    ----------
    weights : mapping of str to Tensor, or nn.Module
        Read one tensor at a time.
    names : iterable of str, optional
        Names of the `inventory` that have a matrix. None means all of them.
    conv, qkv
        The rules, see `inventory`.
    device : torch.device or str, optional
        Where to compute. None means where each tensor is.
    failures : dict, optional
        If given, it collects the name and the reason of each weight whose spectrum fails, and the
        others are computed. Without it the first failure raises.
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
    weights = as_weights(weights, SpectrumError)
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
                found[name] = _low_rank(weights[layer.tensor], weights[layer.factor], layer)
                continue
            _check_side(layer)
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


def _low_rank(B: Float[Tensor, "out r"], A: Float[Tensor, "r in"], layer: Layer) -> Spectrum:
    """Compute the spectrum of the product B A from its factors.

    With B = Q_B R_B and A^T = Q_A R_A, the singular values of B A are those of the r x r matrix
    R_B R_A^T: the product, of out x in entries, is never formed (Hu et al. 2021,
    arXiv:2106.09685, for the pair). All but r of the eigenvalues are exactly 0.
    """
    if not (torch.isfinite(A).all() and torch.isfinite(B).all()):
        raise nonfinite_error(layer.name, [A, B])
    R_B, R_A = (torch.linalg.qr(F.detach().double(), mode="r").R for F in (B, A.mT))
    squares = torch.linalg.svdvals(R_B @ R_A.mT).square().cpu().numpy()[: layer.M]
    return _spectrum(layer, np.concatenate([np.zeros(layer.M - squares.size), squares]))


def _only_weight(module: nn.Module) -> Tensor:
    """Return the weight of a module that has one matrix."""
    weights = as_weights(module, SpectrumError)
    found = [layer.tensor for layer in layers(weights, "unfold", "fused") if not layer.reason]
    if len(found) != 1:
        raise SpectrumError(
            f"a module with one weight is needed, got a {type(module).__name__} with {len(found)}; "
            "use `spectra`."
        )
    return weights[found[0]]


class _Batches:
    """Small matrices of many layers, collected by shape and solved in few calls."""

    def __init__(
        self, weights: Mapping[str, Tensor], found: dict[str, Spectrum], errors: dict[str, str]
    ) -> None:
        self._weights, self._found, self._errors = weights, found, errors
        self._waiting: dict[tuple[int, torch.device], list[tuple[Layer, Tensor]]] = {}
        self._bytes = 0

    def add(self, layer: Layer, W: Tensor) -> None:
        """Keep a layer's Gram matrices, and solve all that are kept when they become many."""
        stack = W if W.ndim == 3 else W[None]
        step = max(1, BLOCK // (8 * layer.N * layer.M))
        with _threads_for(layer.M):
            gram = torch.cat([_gram(part) for part in stack.split(step)])
        self._waiting.setdefault((layer.M, gram.device), []).append((layer, gram))
        self._bytes += gram.nbytes
        if self._bytes > BLOCK:
            self.flush()

    def flush(self) -> None:
        for (M, _), waiting in self._waiting.items():
            with _threads_for(M):
                values = _eigenvalues(torch.cat([gram for _, gram in waiting]))
            ends = np.cumsum([layer.n_matrices for layer, _ in waiting])
            for (layer, _), own in zip(waiting, np.split(values, ends[:-1]), strict=True):
                if np.isfinite(own).all():
                    self._found[layer.name] = _spectrum(layer, own)
                else:
                    W = self._weights[layer.tensor]
                    self._errors[layer.name] = str(nonfinite_error(layer.name, [W]))
        self._waiting.clear()
        self._bytes = 0


def _large(weights: Mapping[str, Tensor], layer: Layer, conv: ConvRule, device: Any) -> Spectrum:
    """Solve a single layer; read a tall matrix of a file by blocks of rows."""
    tall = layer.kind == "matrix" and layer.shape == (layer.N, layer.M)
    if not (tall and isinstance(weights, LazyWeights) and weights.block_reads):
        return _solve(weights[layer.tensor], layer, conv, device)
    step = max(1, BLOCK // (8 * layer.M))

    def rows() -> Iterator[Tensor]:
        for start in range(0, layer.N, step):
            yield weights.rows(layer.tensor, start, min(start + step, layer.N))

    values = _eigenvalues(_gram_of_rows(rows(), layer.M, device))
    if not np.isfinite(values).all():
        raise nonfinite_error(layer.name, rows())
    return _spectrum(layer, values)


def _solve(W: Tensor, layer: Layer, conv: ConvRule, device: Any) -> Spectrum:
    with _threads_for(layer.M):
        blocks = _matrix_blocks(W, layer, conv, _place(W, layer, device))
        values = np.concatenate([_squares(block).ravel() for block in blocks])
    if not np.isfinite(values).all():
        raise nonfinite_error(layer.name, [W])
    return _spectrum(layer, values)


def _matrix_blocks(
    W: Tensor, layer: Layer, conv: ConvRule, device: torch.device
) -> Iterator[Tensor]:
    """Cut a layer's stack into parts that fit in a block; a single matrix is one part."""
    if layer.kind == "convolution" and conv == "fft":
        yield from _frequencies(W.to(device), layer)
        return
    matrix = as_matrix(W, layer, conv)
    stack = matrix if matrix.ndim == 3 else matrix[None]
    for part in stack.split(max(1, BLOCK // (8 * layer.N * layer.M))):
        yield part.to(device)


def _frequencies(W: Tensor, layer: Layer) -> Iterator[Tensor]:
    """Yield the complex (N, M) matrices of a periodic convolution, by blocks of frequencies."""
    kernel = W.shape[2:]
    entries = W.detach().double().flatten(2).movedim(2, 0).flatten(1)  # (place, O*I)
    places = torch.cartesian_prod(*(torch.arange(k) for k in kernel)).reshape(-1, len(kernel))
    axes = [torch.arange(FFT_GRID)] * len(kernel)
    frequencies = torch.cartesian_prod(*axes).reshape(-1, len(kernel))
    for part in frequencies.split(max(1, BLOCK // (16 * layer.N * layer.M))):
        turns = (part @ places.T).double().to(W.device) * (-2 * math.pi / FFT_GRID)
        real, imaginary = turns.cos() @ entries, turns.sin() @ entries
        matrix = torch.complex(real, imaginary).reshape(-1, *W.shape[:2])
        yield matrix if matrix.shape[-2] == layer.N else matrix.mT


def _squares(stack: Tensor) -> Float64[np.ndarray, "..."]:
    """Return the squared singular values of a stack of (N, M) matrices."""
    if len(stack) == 1 and not stack.is_complex():
        step = max(1, BLOCK // (8 * stack.shape[-1]))
        rows = stack[0].split(step)
        return _eigenvalues(_gram_of_rows(rows, stack.shape[-1], stack.device))
    return _eigenvalues(_gram(stack))


def _gram(stack: Tensor) -> Tensor:
    if not stack.is_complex():
        # A product of strided slices would copy them twice.
        stack = stack.to(torch.float64, memory_format=torch.contiguous_format)
    return stack.mH @ stack


def _gram_of_rows(rows: Iterable[Tensor], M: int, device: Any) -> Tensor:
    """Add up the Gram matrix of blocks of rows."""
    gram = torch.zeros(M, M, dtype=torch.float64, device=device)
    for block in rows:
        exact = block.to(device=gram.device, dtype=torch.float64)
        gram.addmm_(exact.mT, exact)
        del block, exact  # before the next is read: two at a time would need more memory
    return gram


def _eigenvalues(gram: Tensor) -> Float64[np.ndarray, "*n M"]:
    """Solve a matrix or a stack on the faster device; NaN where a matrix is not finite."""
    bad = ~torch.isfinite(gram.diagonal(dim1=-2, dim2=-1)).all(dim=-1)
    if bad.all():
        return np.full(gram.shape[:-1], np.nan)
    gram[bad] = 0
    place = _solver(gram.shape[-1], math.prod(gram.shape[:-2]), gram.device)
    values = torch.linalg.eigvalsh(gram.to(place))
    values[bad.to(place)] = torch.nan
    return values.cpu().numpy()


def _place(W: Tensor, layer: Layer, device: Any) -> torch.device:
    """Return the device to compute on: the requested one, or the CPU where that is faster."""
    place = torch.device(device or W.device)
    return place if W.numel() > _LITTLE else _solver(layer.M, layer.n_matrices, place)


def _solver(M: int, n: int, device: torch.device) -> torch.device:
    """Return the faster of `device` and the CPU for n matrices of side M."""
    slower = M in _ONE_BY_ONE or (M <= 32 and n < _FEW)
    return torch.device("cpu") if device.type == "cuda" and slower else device


def _label(name: str) -> str:
    return f"tensor {name!r}" if name else "the tensor"


def _check_side(layer: Layer) -> None:
    if layer.M > MAX_SIDE:
        raise SpectrumError(
            f"{_label(layer.name)} has a smaller side of {layer.M}, over {MAX_SIDE}: its "
            "eigenvalues would take hours; `spectral_density` gives an approximate density."
        )


def nonfinite_error(name: str, blocks: Iterable[Tensor]) -> SpectrumError:
    """Make the error for a tensor whose eigenvalues are not finite, which is read once more."""
    sizes = [(int((~torch.isfinite(block)).sum()), block.numel()) for block in blocks]
    bad, total = map(sum, zip(*sizes, strict=True))
    if bad:
        return SpectrumError(
            f"{_label(name)} holds NaN or inf in {bad} of its {total} entries; the model "
            "diverged or the file is damaged."
        )
    return SpectrumError(f"{_label(name)} has entries whose squares overflow; scale it down.")


def _spectrum(layer: Layer, values: Float64[np.ndarray, "..."]) -> Spectrum:
    values = np.sort(np.maximum(values, 0.0), axis=None)
    values.flags.writeable = False
    return Spectrum(layer.name, layer.N, layer.M, layer.n_matrices, values)


@contextlib.contextmanager
def _threads_for(M: int) -> Iterator[None]:
    """Run small problems on one thread: many are ten times slower on a busy machine."""
    before = torch.get_num_threads()
    if M > _SMALL or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
