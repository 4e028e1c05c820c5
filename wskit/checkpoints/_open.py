"""From any source of weights to a `Checkpoint`."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from wskit.checkpoints._checkpoint import Checkpoint
from wskit.checkpoints._contents import Contents, Entry
from wskit.checkpoints._folder import files_of, read_path
from wskit.checkpoints._hub import SCHEME, download
from wskit.checkpoints._objects import contents_of
from wskit.errors import CheckpointError


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
        Prefixes taken off the names, as often as they come: those that data-parallel training
        and `torch.compile` put there.
    within
        The entry that holds the weights where it has another name, or where there are several.
    max_bytes
        The most bytes that a source which cannot be mapped may hold: a file in torch's old
        format, or all arrays of an ``.npz`` together.
    mapped
        Whether the tensors of files are views of the mapped files. What was looked at of a mapping
        counts as the process's memory until the file is closed, and nobody may cut the file short;
        with False each tensor is read, whole, into memory of its own, which is free again when
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
    files: Sequence[Path] = ()
    if isinstance(source, nn.Module):
        label = type(source).__name__
        contents = contents_of(source.state_dict(), label)
    elif isinstance(source, Mapping):
        label = type(source).__name__
        if isinstance(source, Checkpoint):
            label, files = source.source, source.files
        contents = contents_of(source, label, within)
    elif not isinstance(source, str | os.PathLike):
        raise CheckpointError(
            f"expected a path, a module or a mapping of names to tensors, got a"
            f" {type(source).__name__}; pass a state_dict()"
        )
    else:
        label = os.fspath(source)
        path = download(label) if label.startswith(SCHEME) else Path(label).expanduser()
        contents = read_path(path, within, max_bytes)
        contents = contents if mapped else _unmapped(contents)
        files = files_of(path)
    try:
        return Checkpoint(_strip(contents, tuple(strip_prefixes), label), label, files)
    except BaseException:
        contents.close()
        raise


def _unmapped(contents: Contents) -> Contents:
    entries = {name: _read_whole(entry, contents.views) for name, entry in contents.entries.items()}
    views = all(entry.read_rows is None for entry in entries.values())
    return replace(contents, entries=entries, views=contents.views and views)


def _read_whole(entry: Entry, views: bool) -> Entry:
    if entry.read_rows is not None:
        return replace(entry, read=partial(entry.read_rows, 0, entry.shape[0]))
    if views and not entry.shape:
        number = entry.read().clone()
        return replace(entry, read=number.clone)
    return entry


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
