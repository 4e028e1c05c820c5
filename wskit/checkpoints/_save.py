"""Writing ``.safetensors``: one tensor in memory at a time, and never half a file."""

import io
import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from wskit.checkpoints._objects import Owners, check_plain
from wskit.checkpoints._safetensors import DTYPES, MAX_HEADER, METADATA
from wskit.errors import CheckpointError

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class _Spec(NamedTuple):
    shape: tuple[int, ...]
    dtype: torch.dtype


def save_weights(
    weights: Mapping[str, Tensor],
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write weights as a ``.safetensors`` file, atomically and one tensor at a time.

    The file is written beside its target and moved into place when it is whole and on disk, so
    that a failure leaves the target as it was. A mapping that tells ``shape(name)`` and
    ``dtype(name)`` (a `Checkpoint`, a lazy merge) is read once, and one of its tensors is in
    memory at a time; any other mapping is read twice.

    Tied tensors are stored once, under their first name. The other names are in the file's
    metadata, as `safetensors.torch.save_model` has it: `open_checkpoint` ties them again, and
    `safetensors.torch.load_model` reads such a file; a reader that knows nothing of it sees the
    first name only. Tensors that share memory in part are written apart, each in full.

    Parameters
    ----------
    weights
        Names and tensors, of any shape, on any device.
    path
        The target; its suffix must be ``.safetensors`` and its folder must exist.
    metadata
        Texts to keep in the file's header.

    Returns
    -------
    pathlib.Path
        The target's path.

    Raises
    ------
    CheckpointError
        If the suffix, a name, a dtype (complex128, say) or the metadata does not fit the format,
        or if the file cannot be written.
    """
    target = Path(path).expanduser()
    if target.suffix != ".safetensors":
        raise CheckpointError(
            f"{target}: expected the suffix .safetensors, got {target.suffix!r}; change the name"
        )
    if not target.parent.is_dir():
        raise CheckpointError(
            f"{target}: expected the folder {target.parent} to exist; make it first"
        )
    specs, ties = _describe(weights, str(target))
    stored = {name: spec for name, spec in specs.items() if name not in ties}
    header, order = _header(stored, _checked_metadata(metadata or {}, ties, specs, str(target)))
    if len(header) > MAX_HEADER:
        raise CheckpointError(
            f"{target}: expected a header of at most {MAX_HEADER} bytes, got {len(header)};"
            " shorten the metadata"
        )
    with _atomic(target) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name in order:
            _write_tensor(file, weights[name], stored[name], f"{target}, tensor {name!r}")
    return target


def _describe(weights: Mapping[str, Tensor], where: str) -> tuple[dict[str, _Spec], dict[str, str]]:
    """Return each name's shape and dtype, and the tied names with the name that is stored."""
    shape, dtype = getattr(weights, "shape", None), getattr(weights, "dtype", None)
    ties: dict[str, str] = {}
    if callable(shape) and callable(dtype):
        specs = {name: _Spec(tuple(shape(name)), dtype(name)) for name in weights}
        ties = dict(getattr(weights, "ties", {}))
    else:
        specs = {}
        owners = Owners()
        for name, value in weights.items():
            if not isinstance(value, Tensor):
                raise CheckpointError(
                    f"{where}: expected tensors, but {name!r} is a {type(value).__name__};"
                    " leave it out or pass it as metadata"
                )
            check_plain(value, where, name)
            specs[name] = _Spec(tuple(value.shape), value.dtype)
            first = owners.first(name, value)
            if first != name:
                ties[name] = first
    for name, spec in specs.items():
        if not isinstance(name, str) or name == METADATA:
            raise CheckpointError(f"{where}: expected names of tensors, got {name!r}; rename it")
        if spec.dtype not in _NAMES:
            raise CheckpointError(
                f"{where}: expected a dtype that safetensors can hold, but {name!r} is"
                f" {spec.dtype}; convert it first"
            )
    return specs, ties


def _checked_metadata(
    metadata: Mapping[str, str], ties: Mapping[str, str], specs: Mapping[str, _Spec], where: str
) -> dict[str, str]:
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise CheckpointError(
                f"{where}: expected metadata of texts, got {key!r}: {value!r};"
                " use str() or json.dumps()"
            )
        if key in ties or (key != "format" and value in specs):
            raise CheckpointError(
                f"{where}: expected metadata apart from the tensors' names, but {key!r}: {value!r}"
                " would read as a tied tensor; change it"
            )
    return {"format": "pt", **metadata, **ties}


def _header(stored: Mapping[str, _Spec], metadata: Mapping[str, str]) -> tuple[bytes, list[str]]:
    """Return the header, names in the mapping's order, and the order of the data.

    Wider dtypes come first in the data, which keeps every tensor aligned.
    """
    order = sorted(stored, key=lambda name: -stored[name].dtype.itemsize)
    offsets, end = {}, 0
    for name in order:
        start, end = end, end + math.prod(stored[name].shape) * stored[name].dtype.itemsize
        offsets[name] = [start, end]
    tensors = {
        name: {"dtype": _NAMES[spec.dtype], "shape": spec.shape, "data_offsets": offsets[name]}
        for name, spec in stored.items()
    }
    header = json.dumps({METADATA: metadata, **tensors}, ensure_ascii=False).encode()
    return header + b" " * (-len(header) % 8), order


def _write_tensor(file: io.BufferedIOBase, value: Tensor, spec: _Spec, where: str) -> None:
    if _Spec(tuple(value.shape), value.dtype) != spec:
        raise CheckpointError(
            f"{where}: expected {spec.dtype} of shape {spec.shape}, as the mapping told, got"
            f" {value.dtype} of shape {tuple(value.shape)}"
        )
    plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
    file.write(plain.reshape(-1).view(torch.uint8).numpy().data)


@contextmanager
def _atomic(target: Path) -> Iterator[io.BufferedIOBase]:
    """Give a file beside `target` that takes its place if all goes well, else vanishes."""
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        raise CheckpointError(
            f"{target}: expected to write it, but {error.strerror or error}; free some space or"
            " choose another folder"
        ) from error
    finally:
        part.unlink(missing_ok=True)
