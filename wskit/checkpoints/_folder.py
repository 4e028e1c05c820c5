"""Folders: sharded checkpoints with an index, and the Hugging Face layouts."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from wskit.checkpoints._reading import Contents, Entry, Source, explain_damage, shorten
from wskit.errors import CheckpointError

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".th")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES, ".npz")
INDEX_SUFFIX = ".index.json"
# The order in which a Hugging Face folder or repository is looked through.
HUGGING_FACE_NAMES = (
    "model.safetensors",
    "model.safetensors" + INDEX_SUFFIX,
    "pytorch_model.bin",
    "pytorch_model.bin" + INDEX_SUFFIX,
)
_MAX_INDEX = 64 * 2**20  # bytes


@dataclass(frozen=True)
class Shards:
    """The files of a checkpoint: one, or an index, what it says, and its shards."""

    files: tuple[Path, ...]
    weight_map: dict[str, str] | None = None


def locate(path: Path) -> Shards:
    """Find the files that a file, a folder or an index stands for."""
    with explain_damage(path, "a readable file or folder"):
        path = _find_in_folder(path) if path.is_dir() else path
    if not path.name.endswith(INDEX_SUFFIX):
        return Shards((path,))
    weight_map = read_index(path)
    shards = (_shard_path(path, shard) for shard in dict.fromkeys(weight_map.values()))
    return Shards((path, *shards), weight_map)


def read_index(path: Path) -> dict[str, str]:
    """Read an index's ``weight_map``: the shard's file name of each tensor."""
    source = Source(path, None, _MAX_INDEX)
    if source.size > _MAX_INDEX:
        raise CheckpointError(f"{path}: expected an index of at most {_MAX_INDEX} bytes, got more")
    with explain_damage(path, "an index in JSON"), source.open() as file:
        index = json.load(file)
        weight_map = index["weight_map"] if isinstance(index, dict) else None
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(shard, str) for shard in weight_map.values())
    ):
        raise CheckpointError(
            f'{path}: expected an index {{"weight_map": {{tensor: file}}}}, got something else'
        )
    for shard in set(weight_map.values()):
        parts = PurePosixPath(shard)
        if parts.is_absolute() or ".." in parts.parts or "\\" in shard or "\0" in shard:
            raise CheckpointError(
                f"{path}: expected shards inside the index's folder, got {shard!r};"
                " do not use this index"
            )
    return weight_map


def _find_in_folder(folder: Path) -> Path:
    """Choose a folder's file: a Hugging Face name, else the only index, else the only file."""
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for name in HUGGING_FACE_NAMES:
        if folder / name in files:
            return folder / name
    for kind in (INDEX_SUFFIX, ".safetensors", TORCH_SUFFIXES):
        found = [path for path in files if path.name.endswith(kind)]
        if len(found) > 1:
            raise CheckpointError(
                f"{folder}: expected one checkpoint in the folder, got"
                f" {shorten([path.name for path in found])}; open one of them by its path"
            )
        if found:
            return found[0]
    raise CheckpointError(
        f"{folder}: expected a folder of weights (one of {', '.join(SUFFIXES)} or a"
        f" *{INDEX_SUFFIX}), got {shorten([path.name for path in files]) or 'an empty one'}"
    )


def join_shards(found: Shards, read: Callable[[Path], Contents]) -> Contents:
    """Read the shards of an index, and join what they hold in the index's order."""
    index, *paths = found.files
    weight_map = found.weight_map or {}
    with ExitStack() as stack:
        shards: dict[str, Contents] = {}
        for shard, path in zip(dict.fromkeys(weight_map.values()), paths, strict=True):
            shards[shard] = read(path)
            stack.callback(shards[shard].close)
        entries: dict[str, Entry] = {}
        for name, shard in weight_map.items():
            if name not in shards[shard].entries:
                raise CheckpointError(
                    f"{index}: expected tensor {name!r} in {shard}, which does not hold it;"
                    " get the index and its shards again"
                )
            entries[name] = _in_shard(shards[shard].entries[name], shard)
        stored = {entry.identity for entry in entries.values()}
        left_out = []
        for shard, contents in shards.items():
            for name, entry in contents.entries.items():
                if name not in entries and _in_shard(entry, shard).identity in stored:
                    entries[name] = _in_shard(entry, shard)  # an index has no names of tied tensors
                elif name not in entries:
                    left_out.append(name)
        first, *others = (contents.metadata.items() for contents in shards.values())
        return Contents(
            entries,
            metadata=dict(item for item in first if all(item in other for other in others)),
            left_out=tuple(left_out),
            close=stack.pop_all().close,
            views=all(contents.views for contents in shards.values()),
        )
    raise AssertionError("unreachable: the stack swallows no exception")


def _in_shard(entry: Entry, shard: str) -> Entry:
    return replace(entry, identity=(shard, entry.identity))


def _shard_path(index: Path, shard: str) -> Path:
    """Return the shard's path, if links do not lead it out of the index's folder."""
    folder = index.parent.absolute()
    path = folder / shard
    if not path.is_file():
        raise CheckpointError(
            f"{index}: expected the shard {shard!r} beside it, found none; get all shards"
        )
    check_inside(path, folder, index)
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"{index}: expected shards of {', '.join(SUFFIXES)}, got {shard!r}")
    return path


def check_inside(path: Path, folder: Path, where: Path) -> None:
    """Refuse a file that is a link out of its folder.

    The Hugging Face cache is the one exception: its ``snapshots/REVISION`` holds links to the
    ``blobs`` beside ``snapshots``.
    """
    folder = folder.absolute()
    roots = [folder.resolve()]
    if folder.parent.name == "snapshots":
        roots.append((folder.parent.parent / "blobs").resolve())
    if not any(path.resolve().is_relative_to(root) for root in roots):
        raise CheckpointError(
            f"{where}: expected files inside the folder, but {path.name!r} is a link to"
            f" {path.resolve()}; do not use it"
        )
