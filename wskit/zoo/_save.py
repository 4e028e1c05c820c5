"""A zoo in one file of our own: the weights' stacks, and the table beside them."""

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open

from wskit._base.files import write_atomically
from wskit._base.safetensors import NAMES, Spec, lay_out, view_bytes
from wskit.errors import ZooError
from wskit.zoo._reading import explain_read_errors
from wskit.zoo._zoo import Zoo

SUFFIX = ".safetensors"
_RECORDS = "records.parquet"  # the tensor that holds the table's bytes
_MARK = "wskit_zoo"  # the entry of the metadata that holds the tensors' names in their order
_BLOCK = 2**20  # numbers that are copied at a time


def save_zoo(zoo: Zoo, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a zoo as one ``.safetensors`` file, with its table as Parquet inside.

    The file is written beside its target and moved into place when it is whole and on disk, so
    that a failure leaves the target as it was. The weights are copied block by block: a zoo that
    is memory-mapped may be larger than the memory.

    Parameters
    ----------
    zoo : Zoo
    path : path
        The target, whose name ends in ``.safetensors``. Its folder must exist.
    overwrite : bool, default False
        Whether to replace a zoo that is there. Only a saved zoo is ever replaced.

    Returns
    -------
    pathlib.Path
        The target's path.

    Raises
    ------
    ZooError
        If something is at the target, if a tensor or a column cannot be stored, or if the file
        cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from wskit.zoo import load_zoo
    >>> records = pd.DataFrame({"run": [0, 1], "epoch": [5.0, 5.0], "status": "trained"})
    >>> zoo = Zoo({"fc.weight": torch.arange(12.0).reshape(2, 3, 2)}, records)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     load_zoo(save_zoo(zoo, f"{folder}/zoo.safetensors")).weights["fc.weight"].sum()
    tensor(66.)
    """
    target = Path(path).expanduser()
    if target.suffix != SUFFIX:
        raise ZooError(f"{target}: a saved zoo is a file whose name ends in {SUFFIX}; rename it.")
    if target.exists() or target.is_symlink():
        if not overwrite:
            raise ZooError(
                f"{target}: something is there already; choose another name, or pass "
                "overwrite=True."
            )
        if target.is_symlink() or not _is_zoo(target):
            raise ZooError(
                f"{target}: only a saved zoo is overwritten, and this is something else; choose "
                "another name."
            )
    write_zoo(zoo, target)
    return target


def write_zoo(zoo: Zoo, target: Path) -> None:
    """Write a zoo in the place of what is there.

    Not with safetensors' own writer, which holds all of a zoo in memory.
    """
    for name, stack in zoo.weights.items():
        if stack.dtype not in NAMES or stack.is_complex() or name == _RECORDS:
            raise ZooError(
                f"a zoo's tensor {name!r} of {stack.dtype} cannot be stored; convert or rename it."
            )
    table = torch.frombuffer(bytearray(_to_parquet(zoo.records, target)), dtype=torch.uint8)
    stacks = {**zoo.weights, _RECORDS: table}
    specs = {name: Spec(tuple(stack.shape), stack.dtype) for name, stack in stacks.items()}
    metadata = {"format": "pt", _MARK: json.dumps(list(zoo.weights))}
    head, starts = lay_out(specs, metadata, target, ZooError)
    with write_atomically(target, ZooError) as file:
        file.write(head)
        for name in starts:
            stack = stacks[name]
            for block in stack.split(max(1, _BLOCK // max(1, stack[:1].numel()))):
                file.write(view_bytes(block))


def _to_parquet(records: pd.DataFrame, target: Path) -> bytes:
    buffer = io.BytesIO()
    try:
        records.to_parquet(buffer, engine="pyarrow", index=False)
    except (ValueError, TypeError) as error:
        raise ZooError(
            f"{target}: the zoo's table cannot be stored as Parquet ({error}); give its columns "
            "strings for names, and each of them values of one type."
        ) from error
    return buffer.getvalue()


def read_saved(path: Path) -> Zoo:
    """Open what `save_zoo` wrote; the weights are mapped, not read."""
    with explain_read_errors(path, "a saved zoo"):
        try:
            with safe_open(path, framework="pt") as file:
                names = json.loads((file.metadata() or {})[_MARK])
                weights = {name: file.get_tensor(name) for name in names}
                table = file.get_tensor(_RECORDS).numpy().tobytes()
        except SafetensorError as error:
            raise ValueError(str(error)) from error
        return Zoo(weights, pd.read_parquet(io.BytesIO(table), engine="pyarrow"))


def _is_zoo(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            return _MARK in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


# The folder of `train_zoo`: a small saved zoo per block, whose column `key` says what was trained.
_BLOCKS = "block-*" + SUFFIX


def write_block(folder: Path, zoo: Zoo, keys: list[str], name: str) -> None:
    """Save a finished block, with one key per row."""
    write_zoo(Zoo(zoo.weights, zoo.records.assign(key=keys)), folder / f"block-{name}{SUFFIX}")


def find_blocks(folder: Path) -> Iterator[Zoo]:
    """Open the blocks of a folder, one by one; what else is there is left alone."""
    for path in sorted(folder.glob(_BLOCKS)):
        try:
            zoo = read_saved(path)
            if not {"key", "run"} <= set(zoo.records):
                raise ZooError(f"{path}: the columns 'key' and 'run' are missing.")
        except ZooError as error:
            raise ZooError(
                f"{path}: this is not a whole block of a zoo ({error}); move the file away, and "
                "its models are trained again."
            ) from error
        yield zoo
