"""Checkpoints: one lazy, read-only ``Mapping[str, Tensor]`` from every common source of weights.

>>> import torch
>>> from wskit.checkpoints import open_checkpoint
>>> with open_checkpoint(torch.nn.Linear(3, 2)) as ckpt:
...     {name: ckpt.shape(name) for name in ckpt}
{'weight': (2, 3), 'bias': (2,)}

Only headers are read when a file is opened; a tensor is read when it is asked for. Files are
taken to be hostile: code in a pickle never runs, sizes are checked against the file before any
memory is taken, and whatever is wrong is one `wskit.errors.CheckpointError`.
"""

from wskit.checkpoints._checkpoint import Checkpoint
from wskit.checkpoints._open import hash_files, open_checkpoint
from wskit.checkpoints._save import save_weights

__all__ = ["Checkpoint", "hash_files", "open_checkpoint", "save_weights"]


def __dir__() -> list[str]:
    return __all__
