"""One ``.safetensors`` file: where each tensor goes, and its bytes put there by a few threads."""

import json
import math
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from wskit._base.weights import LazyWeights
from wskit.checkpoints._safetensors import DTYPES, MAX_HEADER, METADATA
from wskit.errors import CheckpointError

NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Spec(NamedTuple):
    """Shape and dtype of a tensor to write."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's values."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Plan:
    """A file to write: its header, and where each tensor begins in the file."""

    head: bytes
    specs: Mapping[str, Spec]
    starts: Mapping[str, int]

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return len(self.head) + sum(spec.nbytes for spec in self.specs.values())


@dataclass(frozen=True, eq=False)
class Work:
    """How to write: the target, the threads, whom to tell of bytes, and whom to ask for an end."""

    where: Path
    threads: int
    advance: Callable[[int], object]
    should_stop: Callable[[], bool] | None

    def report(self, nbytes: int) -> None:
        """Report some bytes; raise if the caller asks to stop."""
        self.advance(nbytes)
        if self.should_stop is not None and self.should_stop():
            raise CheckpointError(
                f"{self.where}: expected to write it whole, but was asked to stop; call it again"
            )


def plan_file(specs: Mapping[str, Spec], metadata: Mapping[str, str], where: str) -> Plan:
    """Lay a file out: the header's names in the mapping's order, wider dtypes first in the data.

    That order of the data keeps every tensor aligned.
    """
    offsets, end = {}, 0
    for name in sorted(specs, key=lambda name: -specs[name].dtype.itemsize):
        start, end = end, end + specs[name].nbytes
        offsets[name] = [start, end]
    tensors = {
        name: {"dtype": NAMES[spec.dtype], "shape": spec.shape, "data_offsets": offsets[name]}
        for name, spec in specs.items()
    }
    header = json.dumps({METADATA: metadata, **tensors}, ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > MAX_HEADER:
        raise CheckpointError(
            f"{where}: expected a header of at most {MAX_HEADER} bytes, got {len(header)};"
            " shorten the metadata"
        )
    head = len(header).to_bytes(8, "little") + header
    return Plan(head, specs, {name: len(head) + start for name, (start, _) in offsets.items()})


def write_file(file: BinaryIO, weights: Mapping[str, Tensor], plan: Plan, work: Work) -> None:
    """Fill an empty file, block by block where the mapping reads blocks, else tensor by tensor."""
    file.write(plan.head)
    lazy = weights if isinstance(weights, LazyWeights) and weights.block_reads else None
    lock = threading.Lock()  # a file system lets one thread write to a file at a time anyway
    buffers = threading.local()  # by dtype: memory that is made anew for each block costs time

    def read(name: str, start: int, stop: int) -> Tensor:
        if lazy is None:
            return weights[name]
        if lazy.views:
            return lazy.read_block(name, start, stop)
        dtype = plan.specs[name].dtype
        if dtype not in vars(buffers):
            vars(buffers)[dtype] = torch.empty(lazy.block_entries, dtype=dtype)
        return lazy.read_block(name, start, stop, vars(buffers)[dtype][: stop - start])

    def write(name: str, start: int, stop: int) -> int:
        values, spec = read(name, start, stop), plan.specs[name]
        expected = spec.shape if lazy is None else (stop - start,)
        if tuple(values.shape) != expected or values.dtype != spec.dtype:
            raise CheckpointError(
                f"{work.where}, tensor {name!r}: expected {spec.dtype} of shape {expected}, as the"
                f" mapping said, got {values.dtype} of shape {tuple(values.shape)}"
            )
        plain = values.detach().cpu().resolve_conj().resolve_neg().contiguous()
        content = plain.reshape(-1).view(torch.uint8).numpy().data
        with lock:
            file.seek(plan.starts[name] + start * spec.dtype.itemsize)
            file.write(content)
        return len(content)

    pieces = []
    for name in plan.starts:
        n_entries = math.prod(plan.specs[name].shape)
        step = max(1, n_entries if lazy is None else lazy.block_entries)
        pieces += [(name, at, min(at + step, n_entries)) for at in range(0, n_entries, step)]
    if lazy is None:  # one tensor is in memory at a time
        for piece in pieces:
            work.report(write(*piece))
        return
    with ThreadPoolExecutor(work.threads, initializer=_use_one_core) as pool:
        try:
            for nbytes in pool.map(write, *zip(*pieces, strict=True)) if pieces else ():
                work.report(nbytes)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _use_one_core() -> None:
    """Keep torch's operations in this thread from starting threads of their own.

    OpenMP's limit is each thread's own; `torch.set_num_threads` would change other threads too.
    """
    torch.get_num_threads()  # torch sets a thread up when it first works there: before the limit
    threadpool_limits(1, user_api="openmp")
