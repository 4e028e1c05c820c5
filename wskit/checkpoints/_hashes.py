"""What weights on disk are, byte for byte: the sha256 of each of their files."""

import hashlib
import os
from pathlib import Path

from wskit.checkpoints._contents import refusing
from wskit.checkpoints._folder import files_of
from wskit.checkpoints._hub import SCHEME, download
from wskit.errors import CheckpointError


def hash_files(source: str | os.PathLike[str]) -> dict[str, str]:
    """Return the sha256 of each file that `open_checkpoint` would read from.

    Parameters
    ----------
    source
        A file, a folder or an ``hf://`` reference, as for `open_checkpoint`.

    Returns
    -------
    dict of str to str
        Names of the files (an index among them, and its shards) and their sha256, in hexadecimal.

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
    if not isinstance(source, str | os.PathLike):
        raise CheckpointError(
            f"expected a path, got a {type(source).__name__}; name a file or folder"
        )
    label = os.fspath(source)
    path = download(label) if label.startswith(SCHEME) else Path(label).expanduser()
    found = {}
    for file in files_of(path):
        with refusing(file, "a readable file"), file.open("rb") as content:
            found[file.name] = hashlib.file_digest(content, "sha256").hexdigest()
    return found
