"""One ``.safetensors`` file: where each tensor goes, and its bytes put there by a few threads."""

import json
import math
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from wskit.checkpoints._safetensors import DTYPES, MAX_HEADER, METADATA
from wskit.errors import CheckpointError

NAMES = {dtype: name for name, dtype in DTYPES.items()}

_BLOCK = 2**18  # entries at a time, where the mapping tells no other number


class Spec(NamedTuple):
    """Shape and dtype of a tensor that is to be written."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's values."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Plan:
    """A file that is to be written: its header, and where each tensor begins in the file."""

    head: bytes
    specs: Mapping[str, Spec]
    starts: Mapping[str, int]

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return len(self.head) + sum(spec.nbytes for spec in self.specs.values())


@dataclass(frozen=True, eq=False)
class Work:
    """How to write: with how many threads, whom to tell how many bytes, whom to ask for an end."""

    where: Path
    threads: int
    advance: Callable[[int], object]
    should_stop: Callable[[], bool] | None

    def done(self, nbytes: int) -> None:
        """Report some bytes; raise if it was asked to stop."""
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
    if getattr(weights, "block_reads", False):
        _write_blocks(file, weights, plan, work)
        return
    for name, start in plan.starts.items():
        value, spec = weights[name], plan.specs[name]
        _check(Spec(tuple(value.shape), value.dtype), spec, name, work)
        file.seek(start)
        file.write(_bytes(value))
        del value  # before the next one is made
        work.done(spec.nbytes)


def _write_blocks(file: BinaryIO, weights: Any, plan: Plan, work: Work) -> None:
    lock = threading.Lock()  # a file system lets one thread write to a file at a time anyway
    at_once = getattr(weights, "block_entries", _BLOCK)
    buffers = threading.local()  # by dtype: memory that is made anew for each block costs time

    def write(name: str, start: int) -> int:
        spec = plan.specs[name]
        stop = min(start + at_once, math.prod(spec.shape))
        if spec.dtype not in vars(buffers):
            vars(buffers)[spec.dtype] = torch.empty(at_once, dtype=spec.dtype)
        block = weights.read_block(name, start, stop, vars(buffers)[spec.dtype][: stop - start])
        _check(Spec(tuple(block.shape), block.dtype), Spec((stop - start,), spec.dtype), name, work)
        content = _bytes(block)
        with lock:
            file.seek(plan.starts[name] + start * spec.dtype.itemsize)
            file.write(content)
        return len(content)

    blocks = [
        (name, start)
        for name in plan.starts
        for start in range(0, math.prod(plan.specs[name].shape), at_once)
    ]
    with ThreadPoolExecutor(work.threads, initializer=_use_one_core) as pool:
        try:
            for nbytes in pool.map(write, *zip(*blocks, strict=True)) if blocks else ():
                work.done(nbytes)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _use_one_core() -> None:
    """Keep torch's operations in this thread from starting threads of their own.

    OpenMP's limit is each thread's own; `torch.set_num_threads` would change other threads too.
    """
    torch.get_num_threads()  # torch sets a thread up when it first works there: before the limit
    threadpool_limits(1, user_api="openmp")


def _check(got: Spec, expected: Spec, name: str, work: Work) -> None:
    if got != expected:
        raise CheckpointError(
            f"{work.where}, tensor {name!r}: expected {expected.dtype} of shape {expected.shape},"
            f" as the mapping told, got {got.dtype} of shape {got.shape}"
        )


def _bytes(value: Tensor) -> memoryview:
    plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().data
