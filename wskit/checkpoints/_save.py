"""Writing ``.safetensors``, one file or a folder of shards: little memory, never half of it."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn
from tqdm.auto import tqdm

from wskit._base.files import explain_write_errors, write_atomically
from wskit._base.safetensors import METADATA, NAMES, Spec
from wskit._base.weights import LazyWeights, as_weights, header, ties
from wskit.checkpoints._mapping import check_plain
from wskit.checkpoints._save_file import Work, plan_file, write_file
from wskit.checkpoints._save_folder import (
    check_space,
    check_target,
    find_companions,
    plan_folder,
    write_folder,
)
from wskit.errors import CheckpointError


def save_weights(
    weights: Mapping[str, Tensor] | nn.Module,
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    shard_size: int = 5 * 10**9,
    copy_from: str | os.PathLike[str] | None = None,
    threads: int = 2,
    progress: bool = False,
    should_stop: Callable[[], bool] | None = None,
) -> Path:
    """Write weights as a ``.safetensors`` file or as a folder of shards, whole or not at all.

    Files are written beside their target and moved into place when they are whole and on disk, so
    that a failure leaves the target as it was. Lazy weights that read blocks, such as a lazy
    merge or a `Checkpoint`, are read and written block by block; of other lazy weights one tensor
    is in memory at a time.

    A folder has Hugging Face's layout: ``model-00001-of-00003.safetensors`` and so on with
    ``model.safetensors.index.json``, or one ``model.safetensors``. If writing it fails or is
    killed, the finished shards stay in a hidden folder beside it, ``.NAME.part``, and the same
    call goes on from there. It trusts the metadata to say what the weights are: without any, and
    with other ones, it begins anew. The old folder gives way to the new one by two renames. A
    kill between them leaves the old one as ``.NAME.part/old``, and the next call puts it back.

    Tied tensors are stored once, under their first name. The other names are in the metadata of
    the file, as `safetensors.torch.save_model` has it: `open_checkpoint` ties them again, and
    `safetensors.torch.load_model` reads such a file. A reader that knows nothing of it sees the
    first name only. Tensors that share memory in part are written apart, each in full.

    Parameters
    ----------
    weights
        Names and tensors, of any shape, on any device; or a module.
    path
        The target: a file whose suffix is ``.safetensors``, or a folder: one that exists, or a
        name without a suffix. The folder around it must exist. A folder is replaced as a whole,
        and only if it holds nothing but files that wskit wrote and nobody changed: their
        fingerprints are in its file ``.wskit.json``.
    metadata
        Strings to keep in the header of every file, such as what the weights were made of.
    shard_size
        Bytes of tensors in a shard of a folder; a larger tensor gets a shard of its own.
    copy_from
        A folder whose configurations and tokenizer (``.json``, ``.txt``, ``.model``, ``.jinja``)
        are copied beside the shards; never code, never weights.
    threads
        Number of threads that make and write blocks; torch works with one core in each. The
        result does not depend on it.
    progress
        Show a progress bar.
    should_stop
        Called after each block or tensor. Once it returns True, writing ends with an error.

    Returns
    -------
    pathlib.Path
        The target's path.

    Raises
    ------
    CheckpointError
        If the suffix, a name, a dtype (complex128, say) or the metadata does not fit the format,
        if the target holds other things, if it cannot be written, or if it was stopped.

    Examples
    --------
    >>> import tempfile, torch
    >>> from wskit.checkpoints import open_checkpoint
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     saved = save_weights({"a": torch.ones(3), "b": torch.ones(2)}, folder, shard_size=12)
    ...     print(*sorted(path.name for path in saved.glob("model*")))
    ...     open_checkpoint(saved)["b"]
    model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json
    tensor([1., 1.])
    """
    target = Path(path).expanduser()
    weights = as_weights(weights, CheckpointError, f"{target}: the weights")
    if not isinstance(weights, LazyWeights):  # held: an address that is used again is no tie
        weights = {name: weights[name] for name in weights}
    with explain_write_errors(target, CheckpointError):  # a folder above may not be searched
        to_folder, has_parent = _is_folder(target), target.parent.is_dir()
    if copy_from is not None and not to_folder:
        raise CheckpointError(
            f"{target}: expected a folder as the target of copy_from, got a file; drop the suffix"
        )
    if not has_parent:
        raise CheckpointError(
            f"{target}: expected the folder {target.parent} to exist; make it first"
        )
    specs, tied = _describe(weights, str(target))
    stored = {name: spec for name, spec in specs.items() if name not in tied}
    made_of = dict(metadata or {})
    notes = {"format": "pt", **made_of}
    _check_metadata(notes, tied, specs, str(target))
    total = sum(spec.nbytes for spec in stored.values())
    with tqdm(total=total, disable=not progress, unit="B", unit_scale=True) as bar:
        work = Work(target, threads, bar.update, should_stop)
        if to_folder:
            beside = [] if copy_from is None else find_companions(Path(copy_from).expanduser())
            check_target(target)
            plans = plan_folder(stored, tied, notes, shard_size, str(target))
            write_folder(target.resolve(), weights, plans, beside, work, made_of=made_of)
        else:
            plan = plan_file(stored, {**notes, **tied}, str(target))
            check_space(target.parent, plan.nbytes, target)
            with write_atomically(target, CheckpointError) as file:
                write_file(file, weights, plan, work)
    return target


def _is_folder(target: Path) -> bool:
    """Return whether the target is a folder; many names of models have dots (``llama-3.1``)."""
    if target.suffix == ".safetensors":
        return False
    if target.is_dir() or not re.fullmatch(r"\.[A-Za-z]\w*", target.suffix):
        return True
    raise CheckpointError(
        f"{target}: expected the suffix .safetensors, got {target.suffix!r}; change the name, or"
        " make the folder first"
    )


def _describe(weights: Mapping[str, Tensor], where: str) -> tuple[dict[str, Spec], dict[str, str]]:
    """Return the shape and dtype of each name, and the tied names with the name that is stored."""
    if not isinstance(weights, LazyWeights):
        for name, value in weights.items():
            check_plain(value, where, name)
    specs = {name: Spec(*header(weights, name)) for name in weights}
    for name, spec in specs.items():
        if not isinstance(name, str) or name == METADATA:
            raise CheckpointError(f"{where}: expected names of tensors, got {name!r}; rename it")
        if spec.dtype not in NAMES:
            raise CheckpointError(
                f"{where}: expected a dtype that safetensors can hold, but {name!r} is"
                f" {spec.dtype}; convert it first"
            )
    return specs, ties(weights)


def _check_metadata(
    metadata: Mapping[str, str], tied: Mapping[str, str], specs: Mapping[str, Spec], where: str
) -> None:
    """Refuse metadata that the header cannot hold, or that would be read as a tied tensor."""
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise CheckpointError(
                f"{where}: expected metadata of strings, got {key!r}: {value!r};"
                " use str() or json.dumps()"
            )
        if key in tied or (key != "format" and value in specs):
            raise CheckpointError(
                f"{where}: expected metadata apart from the tensors' names, but {key!r}: {value!r}"
                " would read as a tied tensor; change it"
            )
