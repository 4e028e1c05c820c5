"""A folder of weights in Hugging Face's layout: shards, their index, what lies beside them.

The folder is made in a hidden one beside its target, and takes its place by renames. Finished
shards outlive a failure: beside them, a journal says what they were made of. A record in the folder
says which files wskit wrote; a folder that holds anything else is never replaced.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import filelock
from torch import Tensor

from wskit._base.files import explain_write_errors, write_atomically
from wskit._base.safetensors import Spec
from wskit.checkpoints._folder import INDEX_SUFFIX, check_inside
from wskit.checkpoints._reading import explain_damage, shorten
from wskit.checkpoints._save_file import Plan, Work, plan_file, write_file
from wskit.errors import CheckpointError

_STEM = "model"
_RECORD = ".wskit.json"
_SAMPLE = 2**20  # bytes at either end of a file that stand for its content
_COMPANIONS = (".json", ".txt", ".model", ".jinja")  # configurations, tokenizers


def plan_folder(
    specs: Mapping[str, Spec],
    ties: Mapping[str, str],
    metadata: Mapping[str, str],
    shard_size: int,
    where: str,
) -> dict[str, Plan]:
    """Return the files of weights; a shard takes tensors until the next would pass `shard_size`."""
    shards: list[dict[str, Spec]] = [{}]
    size = 0
    for name, spec in specs.items():
        if shards[-1] and size + spec.nbytes > shard_size:
            shards.append({})
            size = 0
        shards[-1][name] = spec
        size += spec.nbytes
    plans = {}
    for number, shard in enumerate(shards, start=1):
        part = f"-{number:05}-of-{len(shards):05}" if len(shards) > 1 else ""
        tied = {name: owner for name, owner in ties.items() if owner in shard}
        plans[f"{_STEM}{part}.safetensors"] = plan_file(shard, {**metadata, **tied}, where)
    return plans


def find_companions(folder: Path) -> list[Path]:
    """Return the files that belong to a folder's weights: configurations and the tokenizer's."""
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: expected a folder to copy configuration and tokenizer from, got"
            f" {'a file' if folder.exists() else 'nothing'}; leave copy_from out"
        )
    with explain_damage(folder, "a readable folder"):
        found = [path for path in sorted(folder.iterdir()) if _is_companion(path)]
    for path in found:
        check_inside(path, folder, folder)
    return found


def check_target(target: Path) -> None:
    """Refuse a target that is no folder, or that holds what wskit did not write."""
    if not target.exists():
        return
    if not target.is_dir():
        raise CheckpointError(f"{target}: expected a folder or nothing, got a file; move it away")
    with explain_write_errors(target, CheckpointError):
        found = sorted(path for path in target.iterdir() if path.name != _RECORD)
        written = _read_record(target / _RECORD)
        others = [path.name for path in found if written.get(path.name, "") != _fingerprint(path)]
    if others:
        raise CheckpointError(
            f"{target}: expected an empty folder or one that wskit wrote, which would be replaced,"
            f" but it holds {shorten(others)}; choose another folder"
        )


def _read_record(path: Path) -> dict[str, str]:
    """Return the fingerprints of the files that were written beside a record; none without it."""
    try:
        record = json.loads(path.read_bytes()) if path.is_file() else {}
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _fingerprint(path: Path) -> str | None:
    """Return the sha256 of a file's length and of its two ends; None where it is no file.

    A whole hash would take as long as to write the file.
    """
    if path.is_symlink() or not path.is_file():
        return None
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(_SAMPLE))
        file.seek(max(size - _SAMPLE, 0))
        digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


def write_folder(
    target: Path,
    weights: Mapping[str, Tensor],
    plans: Mapping[str, Plan],
    beside: list[Path],
    work: Work,
    *,
    made_of: Mapping[str, str],
) -> None:
    """Write a planned folder; go on with the shards of an earlier call that were made of the same.

    `made_of` and the headers say what they were made of. If `made_of` is empty, equal headers do
    not mean that the values are equal: everything is written anew.
    """

    def write(path: Path, content: bytes) -> None:
        with write_atomically(path, CheckpointError, named=target) as file:
            file.write(content)

    with _workshop(target, list(plans) if made_of else []) as folder:
        made, journal = folder / "made", folder / "journal.json"
        heads = hashlib.sha256(b"".join(plan.head for plan in plans.values())).hexdigest()
        content = json.dumps({"made_of": dict(made_of), "headers": heads}).encode()
        if not (made_of and journal.is_file() and journal.read_bytes() == content):
            shutil.rmtree(made, ignore_errors=True)
            write(journal, content)
        made.mkdir(exist_ok=True)
        for path in made.iterdir():
            if path.name not in plans or path.stat().st_size != plans[path.name].nbytes:
                path.unlink()
        left = {name: plan for name, plan in plans.items() if not (made / name).exists()}
        check_space(made, sum(plan.nbytes for plan in left.values()), target)
        for name, plan in plans.items():
            if name in left:
                with write_atomically(made / name, CheckpointError, named=target) as file:
                    write_file(file, weights, plan, work)
            else:
                work.advance(sum(spec.nbytes for spec in plan.specs.values()))
        for path in beside:
            write(made / path.name, path.read_bytes())
        if len(plans) > 1:
            write(made / f"{_STEM}.safetensors{INDEX_SUFFIX}", _index(weights, plans))
        record = {path.name: _fingerprint(path) for path in made.iterdir() if path.name != _RECORD}
        write(made / _RECORD, json.dumps(record, indent=2, sort_keys=True).encode())
        if target.exists():
            target.rename(folder / "old")
        made.rename(target)


def check_space(folder: Path, nbytes: int, target: Path) -> None:
    """Refuse at once what the disk cannot hold."""
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise CheckpointError(
            f"{target}: expected {nbytes} free bytes to write it, got {free}; free some space or"
            " choose another folder"
        )


@contextlib.contextmanager
def _workshop(target: Path, shards: list[str]) -> Iterator[Path]:
    """Yield the hidden folder beside the target; it stays if one of these shards is finished."""
    folder = target.with_name(f".{target.name}.part")
    lock = filelock.FileLock(folder / "lock", timeout=0)
    with explain_write_errors(target, CheckpointError):
        folder.mkdir(exist_ok=True)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise CheckpointError(
                f"{target}: expected to be alone to write it, but another process writes it; wait"
                " for it or choose another folder"
            ) from error
        old = folder / "old"
        _put_back(old, target)  # an earlier call was killed between them
        shutil.rmtree(old, ignore_errors=True)
        try:
            yield folder
        finally:
            _put_back(old, target)
            keep = any((folder / "made" / name).exists() for name in shards)
            lock.release()
            if not keep:
                shutil.rmtree(folder, ignore_errors=True)


def _put_back(old: Path, target: Path) -> None:
    """Undo the first of two renames, where there was no second one."""
    if old.exists() and not target.exists():
        old.rename(target)


def _index(weights: Mapping[str, Tensor], plans: Mapping[str, Plan]) -> bytes:
    total = sum(spec.nbytes for plan in plans.values() for spec in plan.specs.values())
    shards = {name: file for file, plan in plans.items() for name in plan.specs}
    weight_map = {name: shards[name] for name in weights if name in shards}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return json.dumps(index, indent=2, ensure_ascii=False).encode()


def _is_companion(path: Path) -> bool:
    hidden, index = path.name.startswith("."), path.name.endswith(INDEX_SUFFIX)
    return path.suffix in _COMPANIONS and path.is_file() and not hidden and not index
