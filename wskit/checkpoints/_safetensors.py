"""``.safetensors``: the safetensors library maps the file and checks every offset."""

import json
from functools import partial
from typing import Any

from safetensors import safe_open

from wskit._base.safetensors import DTYPES, MAX_HEADER, METADATA
from wskit.checkpoints._reading import Contents, Entry, Source, explain_damage
from wskit.errors import CheckpointError


def read_safetensors(source: Source) -> Contents:
    """Describe the tensors of a ``.safetensors`` file; nothing but its header is read.

    The header is parsed here too, as the library keeps neither the order of the names nor a
    word about names that come twice.
    """
    header, start = _header(source)
    with explain_damage(source.path, "a safetensors file"):
        file: Any = safe_open(source.path, framework="pt")
        names = set(file.keys())
    metadata = header.pop(METADATA, {})
    entries = {}
    for name, info in header.items():
        if info["dtype"] not in DTYPES or name not in names:
            raise CheckpointError(
                f"{source.path}: expected one of the dtypes {', '.join(DTYPES)}, but tensor"
                f" {name!r} is {info['dtype']}; convert it and save it again"
            )
        shape, dtype = tuple(info["shape"]), DTYPES[info["dtype"]]
        read_rows = source.row_reader(start + info["data_offsets"][0], dtype, shape)
        entries[name] = Entry(shape, dtype, partial(file.get_tensor, name), name, read_rows)
    # safetensors.torch.save_model records a tied tensor as {its name: the name that was stored}.
    ties = {alias: kept for alias, kept in metadata.items() if kept in names}
    ties = {alias: kept for alias, kept in ties.items() if alias not in names | {"format"}}
    entries |= {alias: entries[kept] for alias, kept in ties.items()}
    plain = {key: value for key, value in metadata.items() if key not in ties}
    if not entries:
        raise CheckpointError(
            f"{source.path}: expected tensors, got a safetensors file that holds none"
        )
    return Contents(entries, plain, close=lambda: file.__exit__(None, None, None))


def _header(source: Source) -> tuple[dict[str, Any], int]:
    """Return the header, and where the tensors begin in the file."""
    length = int.from_bytes(source.head[:8], "little")
    if length > min(MAX_HEADER, source.size - 8):
        raise CheckpointError(
            f"{source.path}: expected a safetensors file, but its header claims {length} bytes of"
            f" a file of {source.size}: it is cut short, or another format; get it again"
        )
    with explain_damage(source.path, "a safetensors file"), source.open() as file:
        file.seek(8)
        header = json.loads(file.read(length), object_pairs_hook=_unique)
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
        return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {name!r} comes twice in the header")
        found[name] = value
    return found
