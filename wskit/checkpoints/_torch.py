"""What `torch.save` wrote, as zip (mapped) or in the format before torch 1.6 (loaded).

`torch.load` with ``weights_only=True`` runs no code, but it is no guard of memory, and some of
the functions that it allows can be made to allocate without end. So the pickle's opcodes are
looked through first, and only what a state dict needs may pass.
"""

import io
import pickletools
import re
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import IO, cast

import torch

from wskit.checkpoints._mapping import check_plain, read_mapping, tensors_in
from wskit.checkpoints._reading import Contents, Source, explain_damage
from wskit.errors import CheckpointError

_ZIP = b"PK\x03\x04"
_OLD = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled magic number
_OLD_PICKLES = 5  # magic, protocol, system, the object, the keys of its storages

_ALLOWED = re.compile(
    r"collections OrderedDict"
    r"|(builtins|__builtin__) (set|complex)"
    r"|torch (Size|device|\w+Storage|(u?int|b?float|complex)\d\w*|bool)"
    r"|torch\.storage (Untyped|Typed)Storage"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state)"
)
_OTHER_WAYS_TO_NAME_CODE = {"STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"}


def read_torch(source: Source) -> Contents:
    """Describe the tensors of a ``.pt``, ``.pth``, ``.bin`` or ``.th`` file.

    The zip format is mapped: no tensor is read. The older format cannot be mapped: the file is
    loaded whole, unless it is larger than `max_bytes`.
    """
    path, is_zip = source.path, source.head.startswith(_ZIP)
    if not is_zip and not source.head.startswith(_OLD):
        raise CheckpointError(
            f"{path}: expected a file written by torch.save, but it begins with"
            f" {source.head[:4]!r}; if it is another format, give it that format's suffix"
        )
    with explain_damage(path, "a file written by torch.save"):
        if is_zip:
            _check_zip(source)
        else:
            _check_old(source)
        loaded = torch.load(str(path), map_location="cpu", weights_only=True, mmap=is_zip)
        _check_sizes(source, loaded)
    if not isinstance(loaded, dict):
        raise CheckpointError(
            f"{path}: expected a dict of tensors, got a {type(loaded).__name__};"
            " save model.state_dict() instead"
        )
    contents = read_mapping(loaded, str(path), source.within)
    return _with_rows(source, contents, loaded) if is_zip else contents


def _check_zip(source: Source) -> None:
    path = source.path
    with source.open() as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise CheckpointError(
                f"{path}: expected an uncompressed zip, as torch.save writes it, got a compressed"
                " one, which may take any amount of memory; save it again with torch.save"
            )
        total = sum(member.file_size for member in members)
        if total > source.size:
            raise CheckpointError(
                f"{path}: expected at most the file's {source.size} bytes inside, but the zip"
                f" claims {total}; get the file again"
            )
        names = [member.filename.partition("/")[2] for member in members]
        if "constants.pkl" in names:
            raise CheckpointError(
                f"{path}: expected weights, got a TorchScript program;"
                " load it where you trust it and save its state_dict()"
            )
        if names.count("data.pkl") != 1:
            raise CheckpointError(
                f"{path}: expected a file written by torch.save, got a zip with"
                f" {names.count('data.pkl')} data.pkl; save it again with torch.save"
            )
        _check_pickle(path, io.BytesIO(archive.read(members[names.index("data.pkl")])))


def _check_old(source: Source) -> None:
    if source.size > source.max_bytes:
        raise CheckpointError(
            f"{source.path}: expected at most max_bytes={source.max_bytes}, as torch's old format"
            f" is loaded whole, got {source.size} bytes; raise max_bytes or save it again with a"
            " newer torch"
        )
    with source.open() as file:
        for _ in range(_OLD_PICKLES):
            _check_pickle(source.path, file)


def _check_pickle(path: Path, pickled: io.BufferedIOBase) -> None:
    """Look through one pickle without running it; refuse what a state dict has no need of."""
    for opcode, argument, _ in pickletools.genops(cast("IO[bytes]", pickled)):
        if opcode.name in _OTHER_WAYS_TO_NAME_CODE:
            raise CheckpointError(
                f"{path}: expected a pickle of torch.save's default protocol 2, got the opcode"
                f" {opcode.name}, which can run code; save the state_dict() again"
            )
        if opcode.name == "GLOBAL" and not _ALLOWED.fullmatch(str(argument)):
            raise CheckpointError(
                f"{path}: expected tensors and plain values only, but it pickles"
                f" {str(argument).replace(' ', '.')!r}, and loading that can run code; if you trust"
                " the file, load it elsewhere and save only the model's state_dict()"
            )


def _check_sizes(source: Source, loaded: object) -> None:
    """Refuse tensors larger than the file: views that repeat one number, forged storages."""
    storages = {}
    for name, tensor in tensors_in(loaded):
        check_plain(tensor, str(source.path), name)
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        if tensor.numel() * tensor.element_size() > storage.nbytes():
            raise CheckpointError(
                f"{source.path}: expected tensors no larger than what the file stores, but"
                f" {name!r} of shape {tuple(tensor.shape)} spreads {storage.nbytes()} stored bytes"
                f" over {tensor.numel() * tensor.element_size()}; save it again after .contiguous()"
            )
    if sum(storages.values()) > source.size:
        raise CheckpointError(
            f"{source.path}: expected tensors no larger than the file's {source.size} bytes, but"
            f" it claims {sum(storages.values())}; get the file again"
        )


def _with_rows(source: Source, contents: Contents, loaded: object) -> Contents:
    """Have the rows of tensors read from the file, where it is sure which of its bytes they are.

    The first of the records is the first in the mapping; if then all storages are records, with
    their lengths, the mapping is the file.
    """
    found = [tensor.untyped_storage() for _, tensor in tensors_in(loaded)]
    storages = {storage.data_ptr(): storage.nbytes() for storage in found if storage.nbytes()}
    records = _records(source)
    begin = min(storages, default=0) - min(records, default=0)
    if not {at - begin: nbytes for at, nbytes in storages.items()}.items() <= records.items():
        return contents
    entries = {}
    for name, entry in contents.entries.items():
        tensor = entry.read()
        plain = tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()
        start = tensor.data_ptr() - begin
        rows = source.row_reader(start, entry.dtype, entry.shape) if plain else None
        entries[name] = replace(entry, read_rows=rows)
    return replace(contents, entries=entries)


def _records(source: Source) -> dict[int, int]:
    """Return where each storage begins in the file, and its bytes."""
    found = {}
    with source.open() as file, zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if "/data/" in member.filename and member.file_size:
                file.seek(member.header_offset + 26)  # there are the lengths of name and extra
                name, extra = struct.unpack("<HH", file.read(4))
                found[member.header_offset + 30 + name + extra] = member.file_size
    return found
