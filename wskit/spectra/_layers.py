"""The matrices in a set of weights: the rules, and what they leave out."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from wskit._base.checks import check_choice
from wskit._base.weights import as_weights, header
from wskit.errors import SpectrumError

ConvRule = Literal["slices", "unfold", "per-slice", "fft"]
QkvRule = Literal["fused", "split"]

FFT_GRID = 32
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_QKV = re.compile(r"(in_proj_weight|(?<![a-z])qkv\.weight|c_attn\.weight|Wqkv\.weight)$")
_LORA = re.compile(r"(?P<layer>.+)\.lora_(?P<factor>[AB])(?P<adapter>(\.[^.]+)?)\.weight$")


@dataclass(frozen=True)
class Layer:
    """A row of the inventory: a tensor, a part of one, or a pair of factors.

    `N` x `M` is the size of each of `n_matrices` matrices, all 0 where `reason` says why there
    is none. `part` picks a part of the tensor: a place in the kernel, or 0, 1, 2 for q, k, v.
    """

    name: str
    tensor: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: str = ""
    N: int = 0
    M: int = 0
    n_matrices: int = 0
    reason: str = ""
    part: tuple[int, ...] = ()
    factor: str = ""  # the name of A, where the tensor is B of a pair


def matrices(
    weights: Mapping[str, Tensor] | nn.Module, *, conv: ConvRule = "slices", qkv: QkvRule = "fused"
) -> Iterator[tuple[str, Float[Tensor, "*stack N M"]]]:
    """Yield the name and the matrix of every weight that has one, transposed so that N >= M.

    Parameters
    ----------
    weights : mapping of str to Tensor, or nn.Module
        Read one tensor at a time; a lazily opened checkpoint is never held whole.
    conv : {"slices", "unfold", "per-slice"}, default "slices"
        The rule for convolutions, see `inventory`. The matrices of ``"fft"`` are too many to hold
        in memory; `spectrum` computes them in blocks.
    qkv : {"fused", "split"}, default "fused"
        The rule for fused attention projections, see `inventory`.

    Yields
    ------
    name : str
        The tensor's name, or ``name[q]`` or ``name[0,2]`` for a part of it.
    W : Tensor of shape (N, M), or (n_matrices, N, M)
        A view of the tensor where possible, in its own dtype and on its own device. Low-rank pairs
        are left out, as their product is never formed, and so is everything to which `inventory`
        gives a reason.

    Examples
    --------
    >>> weights = {"conv.weight": torch.zeros(8, 4, 3, 3), "conv.bias": torch.zeros(8)}
    >>> [(name, tuple(W.shape)) for name, W in matrices(weights)]
    [('conv.weight', (9, 8, 4))]
    >>> [(name, tuple(W.shape)) for name, W in matrices(weights, conv="unfold")]
    [('conv.weight', (36, 8))]
    """
    if conv == "fft":
        raise SpectrumError(
            "the matrices of conv='fft' are too many to hold in memory; use spectrum or spectra."
        )
    weights = as_weights(weights, SpectrumError)
    for layer in layers(weights, conv, qkv):
        if not layer.reason and not layer.factor:
            yield layer.name, as_matrix(weights[layer.tensor], layer, conv)


def inventory(
    weights: Mapping[str, Tensor] | nn.Module, *, conv: ConvRule = "slices", qkv: QkvRule = "fused"
) -> pd.DataFrame:
    """List every tensor with the matrix it holds, or the reason why it holds none.

    ============= =============================================================================
    kind          which tensors
    ============= =============================================================================
    matrix        two dimensions: dense layers, embeddings, recurrent layers, bare parameters;
                  dimensions of size 1 in front of two others are ignored
    convolution   three to five dimensions and a name that ends in ``weight`` or ``kernel``;
                  the weight of a transposed convolution is that of its adjoint, which has the
                  same singular values
    experts       three dimensions and a name with ``expert`` in it: one matrix per expert
    stack         any other tensor of three dimensions: a matrix for each index of the first
    q, k, v       the parts of a fused projection, with ``qkv="split"``
    low-rank      a pair ``x.lora_A.weight``, ``x.lora_B.weight``: the product B A, in one row
                  (without the factor alpha/r, which is not in the weights)
    ============= =============================================================================

    Parameters
    ----------
    weights : mapping of str to Tensor, or nn.Module
        Only the header of a lazily opened checkpoint is read.
    conv : {"slices", "unfold", "per-slice", "fft"}, default "slices"
        How the weight (O, I, *kernel) of a convolution becomes matrices: an O x I matrix for each
        place in the kernel, with pooled eigenvalues (Martin and Mahoney 2021, section 2); one
        matrix of O x (I * kernel), which acts on an unfolded patch; as "slices", with one row per
        place; or the operator itself on a periodic grid of 32 points per side, a complex O x I
        matrix for each frequency (Sedghi, Gupta and Long 2019, arXiv:1805.10408, theorem 6).
    qkv : {"fused", "split"}, default "fused"
        Whether a fused projection of query, key and value is one matrix or three.

    Returns
    -------
    DataFrame
        One row per tensor, in their order, except for the parts and pairs above: name, kind,
        shape, dtype, n_parameters, N, M, n_matrices, reason. `reason` is empty where there is a
        matrix; N, M and n_matrices are 0 where there is none.

    Examples
    --------
    >>> inventory({"fc.weight": torch.zeros(3, 5), "fc.bias": torch.zeros(3)})[["name", "N", "M"]]
            name  N  M
    0  fc.weight  5  3
    1    fc.bias  0  0
    """
    weights = as_weights(weights, SpectrumError)
    rows = []
    for layer in layers(weights, conv, qkv):
        n_parameters = layer.N * layer.M * layer.n_matrices if layer.part else 0
        if layer.factor:
            n_parameters = math.prod(layer.shape) + math.prod(header(weights, layer.factor)[0])
        dtype = str(layer.dtype).removeprefix("torch.")
        sizes = n_parameters or math.prod(layer.shape), layer.N, layer.M, layer.n_matrices
        rows.append((layer.name, layer.kind, layer.shape, dtype, *sizes, layer.reason))
    columns = ["name", "kind", "shape", "dtype", "n_parameters", "N", "M", "n_matrices", "reason"]
    return pd.DataFrame(rows, columns=columns)


def layers(weights: Mapping[str, Tensor], conv: ConvRule, qkv: QkvRule) -> list[Layer]:
    """Apply the rules to the header of every tensor."""
    check_choice(conv, ConvRule, SpectrumError, "conv")
    check_choice(qkv, QkvRule, SpectrumError, "qkv")
    pairs = _low_rank_pairs(weights)
    found: list[Layer] = []
    for name in weights:
        if name in pairs:
            if (pair := pairs[name]) is not None:
                found.append(pair)
            continue
        shape, dtype = header(weights, name)
        found += _split(layer_of(name, shape, dtype, conv), conv, qkv)
    return found


def layer_of(name: str, shape: Sequence[int], dtype: torch.dtype, conv: ConvRule) -> Layer:
    """Apply the rules to one tensor."""
    shape = tuple(shape)
    layer = Layer(name, name, shape, dtype)
    if len(shape) < 2:
        return replace(layer, reason="a vector" if shape else "a scalar")
    if dtype not in _DTYPES:
        dtype_name = str(dtype).removeprefix("torch.")
        return replace(layer, reason=f"its dtype is {dtype_name}, and a floating dtype is needed")
    if 0 in shape:
        return replace(layer, reason="it is empty")
    kind = _kind(name, shape)
    if not kind:
        return replace(layer, reason=f"it has {len(shape)} dimensions, and no rule is known for it")
    if kind == "matrix":
        *_, rows, columns = shape
        n_matrices = 1
    elif kind == "convolution":
        rows, columns, *kernel = shape
        n_matrices = math.prod(kernel)
        if conv == "unfold":
            columns, n_matrices = columns * n_matrices, 1
        elif conv == "fft":
            n_matrices = FFT_GRID ** len(kernel)
    else:
        n_matrices, rows, columns = shape
    if min(rows, columns) == 1:
        hint = "; conv='unfold' takes its kernel as columns" if kind == "convolution" else ""
        return replace(layer, reason=f"it has one row or column, so one eigenvalue{hint}")
    N, M = max(rows, columns), min(rows, columns)
    return replace(layer, kind=kind, N=N, M=M, n_matrices=n_matrices)


def as_matrix(W: Tensor, layer: Layer, conv: ConvRule) -> Float[Tensor, "*stack N M"]:
    """Return the layer's matrix, (N, M) or (n_matrices, N, M), of a tensor."""
    W = W.detach()
    if layer.kind == "convolution":
        if conv == "unfold":
            W = W.flatten(1)
        elif layer.part:
            W = W[(slice(None), slice(None), *layer.part)]
        else:
            W = W.flatten(2).movedim(2, 0)
    elif layer.kind in ("matrix", "q", "k", "v"):
        W = W.reshape(W.shape[-2:])
        if layer.part:
            axis = 0 if W.shape[0] == 3 * W.shape[1] else 1
            W = W.chunk(3, axis)[layer.part[0]]
    return W if W.shape[-2] == layer.N else W.mT


def _kind(name: str, shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return "matrix"
    if len(shape) == 3 and "expert" in name:
        return "experts"
    if len(shape) <= 5 and name.endswith(("weight", "kernel")):
        return "convolution"
    if set(shape[:-2]) == {1}:
        return "matrix"
    return "stack" if len(shape) == 3 else ""


def _split(layer: Layer, conv: ConvRule, qkv: QkvRule) -> list[Layer]:
    """Cut a layer into the rows that the rules require."""
    if layer.kind == "convolution" and conv == "per-slice":
        places = product(*map(range, layer.shape[2:]))
        parts = {",".join(map(str, place)): (layer.kind, place) for place in places}
        N, M = layer.N, layer.M
    elif qkv == "split" and (3 * layer.M == layer.N) and _QKV.search(layer.name):
        parts = {letter: (letter, (i,)) for i, letter in enumerate("qkv")}
        N, M = layer.M, layer.M
    else:
        return [layer]
    return [
        replace(layer, name=f"{layer.name}[{label}]", kind=kind, N=N, M=M, n_matrices=1, part=part)
        for label, (kind, part) in parts.items()
    ]


def _low_rank_pairs(weights: Mapping[str, Tensor]) -> dict[str, Layer | None]:
    """Find the pairs of factors; return the pair's row under the name of B, and None under A's."""
    factors: dict[tuple[str, str], dict[str, str]] = {}
    for name in weights:
        if match := _LORA.match(name):
            key = match["layer"], match["adapter"]
            factors.setdefault(key, {})[match["factor"]] = name
    pairs: dict[str, Layer | None] = {}
    for (layer, adapter), names in factors.items():
        if len(names) < 2:
            continue
        shape, dtype = header(weights, names["B"])
        a_shape, a_dtype = header(weights, names["A"])
        fits = len(shape) == len(a_shape) == 2 and shape[1] == a_shape[0]
        if not fits or dtype not in _DTYPES or a_dtype not in _DTYPES:
            continue  # then each is a tensor like any other
        N, M = max(shape[0], a_shape[1]), min(shape[0], a_shape[1])
        if M < 2:
            continue
        pairs[names["A"]] = None
        pairs[names["B"]] = Layer(
            f"{layer}.lora_BA{adapter}", names["B"], shape, dtype, "low-rank", N, M, 1,
            factor=names["A"],
        )  # fmt: skip
    return pairs
