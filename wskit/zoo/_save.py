"""A zoo in a folder of our own layout: the weights' stacks, and the table beside them."""

import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from wskit._exchange import CAN_EXCHANGE, exchange
from wskit.errors import ZooError
from wskit.zoo._reading import reading
from wskit.zoo._zoo import Zoo

WEIGHTS, RECORDS = "weights.safetensors", "records.parquet"
_MARK = "wskit_zoo"  # the entry of the metadata that holds the tensors' names in their order
_BLOCK = 2**20  # numbers that are copied at a time
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def save_zoo(zoo: Zoo, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a zoo as a folder of two files, ``weights.safetensors`` and ``records.parquet``.

    The folder is written beside its target and moved into place when it is whole and on disk, so
    that a failure leaves the target as it was. The weights are copied block by block: a zoo that
    is memory-mapped may be larger than the memory.

    Parameters
    ----------
    zoo : Zoo
    folder : path
        The target; the folder that it lies in must exist.
    overwrite : bool, default False
        Whether to replace a zoo that is there. Nothing but a saved zoo is ever replaced.

    Returns
    -------
    pathlib.Path
        The target's path.

    Raises
    ------
    ZooError
        If there is something at the target, if a tensor or a column cannot be stored, or if the
        files cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> records = pd.DataFrame({"run": [0, 1], "epoch": [5.0, 5.0], "status": "trained"})
    >>> zoo = Zoo({"fc.weight": torch.arange(12.0).reshape(2, 3, 2)}, records)
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     path = save_zoo(zoo, f"{parent}/zoo")
    ...     sorted(file.name for file in path.iterdir())
    ['records.parquet', 'weights.safetensors']
    """
    target = Path(folder).expanduser()
    with writing(target):
        has_parent, is_taken = target.parent.is_dir(), target.exists() or target.is_symlink()
    if not has_parent:
        raise ZooError(f"{target}: expected the folder {target.parent} to exist; make it first.")
    if is_taken and not overwrite:
        raise ZooError(
            f"{target}: there is something already; choose another folder, or pass overwrite=True."
        )
    write_zoo(zoo, target)
    return target


def write_zoo(zoo: Zoo, target: Path) -> None:
    """Write a zoo, in the place of a zoo that is there; the folders above are made."""
    unique = uuid.uuid4().hex
    part, old = (target.with_name(f".{target.name}.{unique}.{end}") for end in ("part", "old"))
    try:
        with writing(target):
            if target.exists() or target.is_symlink():
                _check_is_zoo(target)
            part.mkdir(parents=True)
            _write_weights(part / WEIGHTS, zoo)
            _write_records(part / RECORDS, zoo.records, target)
            if not (CAN_EXCHANGE and target.exists() and exchange(part, target)):
                _move(part, target, old)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Say in one sentence that a zoo could not be written there."""
    try:
        yield
    except OSError as error:
        raise ZooError(
            f"{target}: the zoo could not be written, {error.strerror or error}; free some space "
            "or choose another folder."
        ) from error


def read_saved(folder: Path) -> Zoo:
    """Open what `save_zoo` wrote; the weights are mapped, not read."""
    for name in (WEIGHTS, RECORDS):
        if not (folder / name).is_file():
            raise ZooError(
                f"{folder}: a saved zoo is {WEIGHTS} and {RECORDS}, and {name} is missing; the "
                "folder is not whole, get or save it again."
            )
    path = folder / WEIGHTS
    with reading(path, "the weights of a saved zoo"):
        try:
            with safe_open(path, framework="pt") as file:
                names = json.loads((file.metadata() or {})[_MARK])
                weights = {name: file.get_tensor(name) for name in names}
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    path = folder / RECORDS
    with reading(path, "the table of a saved zoo"):
        records = pd.read_parquet(path, engine="pyarrow")
    try:
        return Zoo(weights, records)
    except ZooError as error:
        raise ZooError(
            f"{folder}: {WEIGHTS} and {RECORDS} are not of one zoo; {error} Get or save it again."
        ) from error


def _check_is_zoo(target: Path) -> None:
    plain = target.is_dir() and not target.is_symlink()
    if not plain or {path.name for path in target.iterdir()} - {WEIGHTS, RECORDS}:
        raise ZooError(
            f"{target}: only a saved zoo is overwritten, and there is something else; choose "
            "another folder."
        )


def _move(part: Path, target: Path, old: Path) -> None:
    if target.exists():
        target.rename(old)
    try:
        part.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise


def _write_weights(path: Path, zoo: Zoo) -> None:
    # Not safetensors' own writer: it holds all of a zoo in memory, strided stacks twice.
    entries, end = {}, 0
    # Wider numbers come first, which keeps every tensor aligned.
    names = sorted(zoo.weights, key=lambda name: -zoo.weights[name].element_size())
    for name in names:
        stack = zoo.weights[name]
        if stack.dtype not in _DTYPES:
            raise ZooError(
                f"a zoo's tensor {name!r} is {stack.dtype}, which cannot be stored; convert it."
            )
        start, end = end, end + math.prod(stack.shape) * stack.element_size()
        entries[name] = {
            "dtype": _DTYPES[stack.dtype],
            "shape": list(stack.shape),
            "data_offsets": [start, end],
        }
    metadata = {"format": "pt", _MARK: json.dumps(list(zoo.weights))}
    header = json.dumps({"__metadata__": metadata, **entries}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("xb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name in names:
            stack = zoo.weights[name]
            for block in stack.split(max(1, _BLOCK // max(1, stack[:1].numel()))):
                file.write(_bytes(block))
        file.flush()
        os.fsync(file.fileno())


def _bytes(block: Tensor) -> memoryview:
    return block.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _write_records(path: Path, records: pd.DataFrame, target: Path) -> None:
    try:
        records.to_parquet(path, engine="pyarrow", index=False)
    except (ValueError, TypeError) as error:
        raise ZooError(
            f"{target}: the zoo's table cannot be stored as Parquet ({error}); give its columns "
            "texts for names, and each of them values of one type."
        ) from error
    with path.open("rb") as file:
        os.fsync(file.fileno())
