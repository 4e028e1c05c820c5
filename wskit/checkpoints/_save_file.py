"""One ``.safetensors`` file: where each tensor goes, and its bytes put there by a few threads."""

import math
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from wskit._base.safetensors import Spec, lay_out, view_bytes
from wskit._base.weights import LazyWeights
from wskit.errors import CheckpointError


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
    """Plan a file: its header, and where each tensor begins in it."""
    head, starts = lay_out(specs, metadata, where, CheckpointError)
    return Plan(head, specs, starts)


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
        content = view_bytes(values)
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
