"""``hf://org/name@revision`` through huggingface_hub's own client, its cache and its settings."""

import functools
import os
import re
from pathlib import Path

from wskit.checkpoints._folder import HUGGING_FACE_NAMES, INDEX_SUFFIX, read_index
from wskit.checkpoints._reading import first_line
from wskit.errors import CheckpointError

SCHEME = "hf://"
_REFERENCE = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def download(reference: str) -> Path:
    """Download the weights of ``hf://org/name@revision`` (``main`` without one).

    Returns the file, or the index beside its shards, in huggingface_hub's cache. Its environment
    variables hold here too: HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE.
    """
    match = _REFERENCE.fullmatch(reference.removeprefix(SCHEME))
    if match is None:
        raise CheckpointError(f"{reference}: expected hf://org/name or hf://org/name@revision")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        raise CheckpointError(
            f"{reference}: expected the package huggingface_hub, which is not installed;"
            " pip install 'wskit[hub]'"
        ) from error
    # The client reads its own environment variables when it is imported: too early in a notebook.
    fetch = functools.partial(
        hf_hub_download, match[1], revision=match[2], endpoint=os.environ.get("HF_ENDPOINT")
    )
    reason, offline = "the repository has no such file", False
    try:
        for name in HUGGING_FACE_NAMES:
            try:
                found = fetch(name, local_files_only=offline)
            except LocalEntryNotFoundError as error:
                if not offline:  # the cache may still have another name
                    reason, offline = first_line(error.__cause__ or error), True
            except EntryNotFoundError:
                continue
            else:
                break
        else:
            raise CheckpointError(
                f"{reference}: expected one of {', '.join(HUGGING_FACE_NAMES)}, got none ({reason})"
            )
        if name.endswith(INDEX_SUFFIX):
            for shard in sorted(set(read_index(Path(found)).values())):
                fetch(shard, local_files_only=offline)
        return Path(found)
    except CheckpointError:
        raise
    except Exception as error:  # the client raises its own, its HTTP library's and OSError
        raise CheckpointError(
            f"{reference}: expected to download it, but {first_line(error)}; check the name, the"
            " revision, the connection and, for a gated model, the token"
        ) from error
