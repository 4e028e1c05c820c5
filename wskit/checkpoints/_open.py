"""From any source of weights to a `Checkpoint`."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from wskit._base.files import hash_file
from wskit.checkpoints._checkpoint import Checkpoint
from wskit.checkpoints._folder import SUFFIXES, TORCH_SUFFIXES, Shards, join_shards, locate
from wskit.checkpoints._hub import SCHEME, download
from wskit.checkpoints._mapping import read_mapping
from wskit.checkpoints._npz import read_npz
from wskit.checkpoints._reading import Contents, Entry, Source, explain_damage
from wskit.checkpoints._safetensors import read_safetensors
from wskit.checkpoints._torch import read_torch
from wskit.errors import CheckpointError

# A format is one file with one function, which takes an open source.
_READERS: Mapping[str, Callable[[Source], Contents]] = {
    ".safetensors": read_safetensors,
    ".npz": read_npz,
    **dict.fromkeys((*TORCH_SUFFIXES, ""), read_torch),  # no suffix: as in zoos of Ray Tune
}


def open_checkpoint(
    source: str | os.PathLike[str] | nn.Module | Mapping[str, Any],
    *,
    strip_prefixes: Sequence[str] = ("module.", "_orig_mod."),
    within: str | None = None,
    max_bytes: int = 8 * 2**30,
    mapped: bool = True,
) -> Checkpoint:
    """Open weights as a lazy, read-only ``Mapping[str, Tensor]``; only headers are read.

    Parameters
    ----------
    source
        - a ``.safetensors`` file;
        - a ``.pt``, ``.pth``, ``.bin`` or ``.th`` file of `torch.save`: a state dict, or one
          under ``state_dict``, ``model_state_dict``, ``model`` or ``params``. The zip format is
          mapped; the format before torch 1.6 cannot be, and is loaded whole;
        - an ``.npz`` file, whose arrays are read one by one;
        - a ``*.index.json``, or a folder with one, or a Hugging Face folder;
        - ``hf://org/name@revision`` (needs the extra ``hub``);
        - an `nn.Module` or any mapping of tensors: a view of the tensors that it has now.
    strip_prefixes
        Prefixes to take off the names, as often as they come: those that data-parallel training
        and `torch.compile` put there.
    within
        The entry that holds the weights where it has another name, or where there are several.
    max_bytes
        The most bytes that a source which cannot be mapped may hold: a file in torch's old
        format, or all arrays of an ``.npz`` together.
    mapped
        Whether the tensors of files are views of the mapped files. What was looked at of a mapping
        counts as the process's memory until the file is closed, and nobody may cut the file short.
        With False each tensor is read, whole, into memory of its own, which is free again when
        nothing uses it. Tensors that `torch.save` wrote with other strides stay mapped.

    Returns
    -------
    Checkpoint
        Plain values beside the tensors are its ``metadata``; the names of all else that is no
        tensor are in ``left_out``.

    Raises
    ------
    CheckpointError
        If the source is missing, damaged, unsafe, ambiguous or holds no tensors, or if two
        names become one when their prefixes are stripped. Code in a file is never run.

    Examples
    --------
    >>> import torch
    >>> ckpt = open_checkpoint({"epoch": 3, "state_dict": {"module.w": torch.ones(2, 3)}})
    >>> ckpt.shape("w"), ckpt["w"].sum().item(), dict(ckpt.metadata)
    ((2, 3), 6.0, {'epoch': 3})
    """
    files: tuple[Path, ...] = ()
    if isinstance(source, str | os.PathLike):
        label = os.fspath(source)
        found = _locate(source)
        files = found.files
        contents = _read(found, within, max_bytes)
        contents = contents if mapped else _unmap(contents)
    elif isinstance(source, nn.Module):
        label = type(source).__name__
        contents = read_mapping(source.state_dict(), label)
    elif isinstance(source, Mapping):
        label = type(source).__name__
        if isinstance(source, Checkpoint):
            label, files = source.source, source.files
        contents = read_mapping(source, label, within)
    else:
        raise CheckpointError(
            f"expected a path, a module or a mapping of names to tensors, got a"
            f" {type(source).__name__}; pass a state_dict()"
        )
    try:
        return Checkpoint(_strip(contents, tuple(strip_prefixes), label), label, files)
    except BaseException:
        contents.close()
        raise


def hash_files(source: str | os.PathLike[str]) -> dict[str, str]:
    """Return the sha256 of each file that `open_checkpoint` would read from.

    Parameters
    ----------
    source
        A file, a folder or an ``hf://`` reference, as for `open_checkpoint`.

    Returns
    -------
    dict of str to str
        Names of the files, as seen from their folder (an index among them, and its shards), and
        their sha256, in hexadecimal.

    Raises
    ------
    CheckpointError
        If there are no weights, or a file cannot be read.

    Examples
    --------
    >>> import tempfile, torch
    >>> from wskit.checkpoints import save_weights
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save_weights({"w": torch.zeros(2)}, folder)
    ...     {name: text[:8] for name, text in hash_files(path).items()}
    {'model.safetensors': 'cf38fe5a'}
    """
    found = {}
    located = _locate(source)
    shards = dict.fromkeys((located.weight_map or {}).values())
    names = [located.files[0].name, *shards]
    for name, file in zip(names, located.files, strict=True):
        with explain_damage(file, "a readable file"):
            found[name] = hash_file(Source(file, None, 0).path)
    return found


def _locate(source: str | os.PathLike[str]) -> Shards:
    """Return the files of a path or of an ``hf://`` reference."""
    label = os.fspath(source)
    return locate(download(label) if label.startswith(SCHEME) else Path(label).expanduser())


def _read(found: Shards, within: str | None, max_bytes: int) -> Contents:
    """Read each file by its format, and join the shards of an index."""

    def read(path: Path) -> Contents:
        opened = Source(path, within, max_bytes)
        if path.suffix not in _READERS:
            raise CheckpointError(
                f"{path}: expected a suffix of {', '.join(SUFFIXES)} or .index.json, got"
                f" {path.suffix!r}; rename the file to what it is"
            )
        return _READERS[path.suffix](opened)

    if found.weight_map is None:
        return read(found.files[0])
    return join_shards(found, read)


def _unmap(contents: Contents) -> Contents:
    """Have each tensor read into memory of its own, where the format allows it."""

    def unmap(entry: Entry) -> Entry:
        if entry.read_rows is not None:
            return replace(entry, read=partial(entry.read_rows, 0, entry.shape[0]))
        if contents.views and not entry.shape:
            return replace(entry, read=entry.read().clone().clone)
        return entry

    entries = {name: unmap(entry) for name, entry in contents.entries.items()}
    views = all(entry.read_rows is None for entry in entries.values())
    return replace(contents, entries=entries, views=contents.views and views)


def _strip(contents: Contents, prefixes: tuple[str, ...], where: str) -> Contents:
    entries: dict[str, Entry] = {}
    origin: dict[str, str] = {}
    for name, entry in contents.entries.items():
        short = name
        while prefix := next((p for p in prefixes if p and short.startswith(p)), ""):
            short = short[len(prefix) :]
        short = short or name
        if short in entries:
            raise CheckpointError(
                f"{where}: expected names that stay apart, but {origin[short]!r} and {name!r} both"
                f" become {short!r} without their prefixes; pass strip_prefixes=()"
            )
        entries[short] = entry
        origin[short] = name
    return replace(contents, entries=entries)
