"""Reading ``.safetensors``: the safetensors library maps the file and checks every offset."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from wskit.checkpoints._contents import Contents, Entry, refusing, row_reader
from wskit.errors import CheckpointError

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


def read_safetensors(path: Path) -> Contents:
    """Describe the tensors of a ``.safetensors`` file; nothing but its header is read.

    The header is parsed here too, as the library keeps neither the order of the names nor a
    word about names that come twice.
    """
    header, start = _header(path)
    with refusing(path, "a safetensors file"):
        file: Any = safe_open(path, framework="pt")
        names = set(file.keys())
    metadata = header.pop(METADATA, {})
    entries = {}
    for name, info in header.items():
        if info["dtype"] not in DTYPES or name not in names:
            raise CheckpointError(
                f"{path}: expected one of the dtypes {', '.join(DTYPES)}, but tensor {name!r}"
                f" is {info['dtype']}; convert it and save it again"
            )
        entries[name] = Entry(
            tuple(info["shape"]),
            DTYPES[info["dtype"]],
            _reader(file, name),
            name,
            row_reader(path, start + info["data_offsets"][0], DTYPES[info["dtype"]], info["shape"]),
        )
    # safetensors.torch.save_model records a tied tensor as {its name: the name that was stored}.
    ties = {alias: kept for alias, kept in metadata.items() if kept in names}
    ties = {alias: kept for alias, kept in ties.items() if alias not in names | {"format"}}
    entries |= {alias: entries[kept] for alias, kept in ties.items()}
    plain = {key: value for key, value in metadata.items() if key not in ties}
    if not entries:
        raise CheckpointError(f"{path}: expected tensors, got a safetensors file that holds none")
    return Contents(entries, plain, close=lambda: file.__exit__(None, None, None))


def _reader(file: Any, name: str) -> Any:
    def read() -> Tensor:
        tensor: Tensor = file.get_tensor(name)
        return tensor

    return read


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header, and where the tensors begin in the file."""
    size = path.stat().st_size
    with refusing(path, "a safetensors file"), path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MAX_HEADER, size - 8):
            raise CheckpointError(
                f"{path}: expected a safetensors file, but its header claims {length} bytes of a"
                f" file of {size}: it is cut short, or another format; get it again"
            )
        header = json.loads(file.read(length), object_pairs_hook=_unique)
        if not isinstance(header, dict):
            raise CheckpointError(
                f"{path}: expected a safetensors file, but its header is no JSON object"
            )
        return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1)
        raise ValueError(f"the name {twice!r} comes twice in the header")
    return found
