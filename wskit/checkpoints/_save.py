"""Writing ``.safetensors``, one file or a folder of shards: little memory, never half of it."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor
from tqdm.auto import tqdm

from wskit._checks import check_mapping
from wskit._exchange import atomic, writing
from wskit.checkpoints._objects import Owners, check_plain
from wskit.checkpoints._safetensors import METADATA
from wskit.checkpoints._save_file import (
    NAMES,
    Spec,
    Work,
    plan_file,
    write_file,
)
from wskit.checkpoints._save_folder import (
    check_space,
    check_target,
    companions,
    plan_folder,
    write_folder,
)
from wskit.errors import CheckpointError


def save_weights(
    weights: Mapping[str, Tensor],
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

    What is written lies beside its target and is moved into place when it is whole and on disk,
    so that a failure leaves the target as it was. A lazy merge that reads blocks is made and
    written block by block; of another mapping that tells ``shape(name)`` and ``dtype(name)`` (a
    `Checkpoint`) one tensor is in memory at a time; any other mapping is read twice.

    A folder has Hugging Face's layout: ``model-00001-of-00003.safetensors`` and so on with
    ``model.safetensors.index.json``, or one ``model.safetensors``. If writing it fails or is
    killed, the shards that were finished stay in a hidden folder beside it, and the same call
    goes on from there. It trusts the metadata to say what the weights are: without any, and with
    other ones, it begins anew.

    Tied tensors are stored once, under their first name. The other names are in the file's
    metadata, as `safetensors.torch.save_model` has it: `open_checkpoint` ties them again, and
    `safetensors.torch.load_model` reads such a file; a reader that knows nothing of it sees the
    first name only. Tensors that share memory in part are written apart, each in full.

    Parameters
    ----------
    weights
        Names and tensors, of any shape, on any device.
    path
        The target: a file whose suffix is ``.safetensors``, or a folder: one that exists, or a
        name without a suffix. The folder around it must exist. A folder is replaced as a whole,
        and only if it holds nothing but weights, configurations and a tokenizer.
    metadata
        Texts to keep in the header of every file, as what the weights were made of.
    shard_size
        Bytes of tensors in a shard of a folder; a larger tensor gets a shard of its own.
    copy_from
        A folder whose configurations and tokenizer (``.json``, ``.txt``, ``.model``, ``.jinja``)
        are copied beside the shards; never code, never weights.
    threads
        How many threads make and write blocks; torch works with one core in each. The result does
        not depend on it.
    progress
        Show a progress bar.
    should_stop
        Asked after each block or tensor. Once it says True, writing ends with an error.

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
    ...     print(*sorted(path.name for path in saved.iterdir()))
    ...     open_checkpoint(saved)["b"]
    model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json
    tensor([1., 1.])
    """
    target = Path(path).expanduser()
    check_mapping(weights, CheckpointError, f"{target}: the weights")
    with writing(target):  # a folder above may not be searched
        to_folder, has_parent = _is_folder(target), target.parent.is_dir()
    if shard_size < 1 or threads < 1:
        raise CheckpointError(
            f"{target}: expected a shard_size and threads of at least 1, got {shard_size} and"
            f" {threads}"
        )
    if copy_from is not None and not to_folder:
        raise CheckpointError(
            f"{target}: expected a folder as the target of copy_from, got a file; drop the suffix"
        )
    if not has_parent:
        raise CheckpointError(
            f"{target}: expected the folder {target.parent} to exist; make it first"
        )
    specs, ties = _describe(weights, str(target))
    stored = {name: spec for name, spec in specs.items() if name not in ties}
    made_of = dict(metadata or {})
    texts = _checked_metadata(made_of, ties, specs, str(target))
    total = sum(spec.nbytes for spec in stored.values())
    with tqdm(total=total, disable=not progress, unit="B", unit_scale=True) as bar:
        work = Work(target, threads, bar.update, should_stop)
        if to_folder:
            beside = [] if copy_from is None else companions(Path(copy_from).expanduser())
            check_target(target)
            plans = plan_folder(stored, ties, texts, shard_size, str(target))
            write_folder(target.resolve(), weights, plans, beside, work, made_of=made_of)
        else:
            plan = plan_file(stored, {**texts, **ties}, str(target))
            check_space(target.parent, plan.nbytes, target)
            with atomic(target) as file:
                write_file(file, weights, plan, work)
    return target


def _is_folder(target: Path) -> bool:
    """Tell a folder from a file; dots belong to many a model's name (``llama-3.1-soup``)."""
    if target.suffix == ".safetensors":
        return False
    if target.is_dir() or not re.fullmatch(r"\.[A-Za-z]\w*", target.suffix):
        return True
    raise CheckpointError(
        f"{target}: expected the suffix .safetensors, got {target.suffix!r}; change the name, or"
        " make the folder first"
    )


def _describe(weights: Mapping[str, Tensor], where: str) -> tuple[dict[str, Spec], dict[str, str]]:
    """Return each name's shape and dtype, and the tied names with the name that is stored."""
    shape, dtype = getattr(weights, "shape", None), getattr(weights, "dtype", None)
    ties: dict[str, str] = {}
    if callable(shape) and callable(dtype):
        specs = {name: Spec(tuple(shape(name)), dtype(name)) for name in weights}
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
            specs[name] = Spec(tuple(value.shape), value.dtype)
            first = owners.first(name, value)
            if first != name:
                ties[name] = first
    for name, spec in specs.items():
        if not isinstance(name, str) or name == METADATA:
            raise CheckpointError(f"{where}: expected names of tensors, got {name!r}; rename it")
        if spec.dtype not in NAMES:
            raise CheckpointError(
                f"{where}: expected a dtype that safetensors can hold, but {name!r} is"
                f" {spec.dtype}; convert it first"
            )
    return specs, ties


def _checked_metadata(
    metadata: Mapping[str, str], ties: Mapping[str, str], specs: Mapping[str, Spec], where: str
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
    return {"format": "pt", **metadata}
