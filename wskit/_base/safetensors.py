"""``.safetensors`` as it is written: the dtypes, the header, the bytes of a tensor."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from wskit.errors import WskitError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
METADATA = "__metadata__"
MAX_HEADER = 100_000_000  # bytes; the format's own limit
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Spec(NamedTuple):
    """Shape and dtype of a tensor to write."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's values."""
        return math.prod(self.shape) * self.dtype.itemsize


def lay_out(
    specs: Mapping[str, Spec],
    metadata: Mapping[str, str],
    where: str | Path,
    error: type[WskitError],
) -> tuple[bytes, dict[str, int]]:
    """Return a file's first bytes, and where each tensor begins, in the order of the data.

    The header names the tensors in the mapping's order. The data has wider dtypes first, which
    keeps every tensor aligned.
    """
    offsets, end = {}, 0
    for name in sorted(specs, key=lambda name: -specs[name].dtype.itemsize):
        start, end = end, end + specs[name].nbytes
        offsets[name] = [start, end]
    tensors = {
        name: {"dtype": NAMES[spec.dtype], "shape": spec.shape, "data_offsets": offsets[name]}
        for name, spec in specs.items()
    }
    header = json.dumps({METADATA: metadata, **tensors}, ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > MAX_HEADER:
        raise error(
            f"{where}: expected a header of at most {MAX_HEADER} bytes, got {len(header)};"
            " shorten the metadata"
        )
    head = len(header).to_bytes(8, "little") + header
    return head, {name: len(head) + start for name, (start, _) in offsets.items()}


def view_bytes(values: Tensor) -> memoryview:
    """Return a tensor's values as the format stores them: row by row, little-endian."""
    plain = values.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().data
