"""Claim: opening a large checkpoint takes next to no memory, and reading a tensor only its size.

    python benchmarks/checkpoint_memory.py [--rows opening saving]

Makes a ``.safetensors`` and a zip ``.pt`` file in a temporary folder and opens each in a fresh
process. RSS counts the pages of a mapped file that were touched (they are the page cache's, and
the system may take them back at any time); RssAnon counts memory that is the process's own.
Linux only, as it reads ``/proc/self/status``.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from _record import Benchmark, Page, spread

PROBE = """
import json, sys
import torch
from wskit.checkpoints import open_checkpoint

stem, suffix, warm = sys.argv[1:]
if warm == "warm":  # a tiny file pays for what torch imports and allocates on first use
    with open_checkpoint(stem + ".warm" + suffix) as ckpt:
        ckpt["layer0"].sum().item()

def memory():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return [int(lines[key].split()[0]) / 1024 for key in ("VmRSS", "RssAnon")]

start = memory()
ckpt = open_checkpoint(stem + suffix)
opened = memory()
total = ckpt["layer0"].sum().item()
read = memory()
after = [[b - a for a, b in zip(start, now)] for now in (opened, read)]
print(json.dumps({"open": after[0], "read": after[1], "tensor": ckpt["layer0"].nbytes / 2**20}))
"""

SAVE_PROBE = """
import json, sys
import torch
from wskit._base.weights import LazyWeights
from wskit.checkpoints import save_weights

class Lazy(LazyWeights):
    def __init__(self, tensors, numel):
        self.names, self.numel = [f"layer{i}" for i in range(tensors)], numel
    def __iter__(self):
        return iter(self.names)
    def __len__(self):
        return len(self.names)
    def shape(self, name):
        return (self.numel,)
    def dtype(self, name):
        return torch.float32
    def __getitem__(self, name):
        return torch.ones(self.numel)

target, tensors, numel = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
save_weights(Lazy(tensors, 4), target)

def peak():  # not getrusage: its maximum is handed down from the parent process
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines["VmHWM"].split()[0]) / 1024

start = peak()
save_weights(Lazy(tensors, numel), target)
print(json.dumps({"save": peak() - start, "tensor": numel * 4 / 2**20}))
"""


def make_files(folder: Path, mebibytes: int, tensors: int) -> Path:
    """Write ``big`` and ``big.warm`` in both formats; return the path without suffix."""
    import torch

    from wskit.checkpoints import save_weights

    stem = folder / "big"
    size = mebibytes * 2**20 // 4 // tensors
    for name, numel in (("big.warm", 4), ("big", size)):
        weights = {f"layer{i}": torch.full((numel,), float(i + 1)) for i in range(tensors)}
        save_weights(weights, folder / f"{name}.safetensors")
        torch.save(weights, folder / f"{name}.pt")
    return stem


def measure(stem: Path, suffix: str, *, warm: bool) -> dict[str, list[float]]:
    """Open one file in a fresh process; return growths in MiB as [RSS, RssAnon]."""
    return _run(PROBE, str(stem), suffix, "warm" if warm else "cold")


def measure_save(target: Path, mebibytes: int, tensors: int) -> dict[str, float]:
    """Save tensors that are made on request; return the growth of the peak RSS in MiB."""
    return _run(SAVE_PROBE, str(target), str(tensors), str(mebibytes * 2**20 // 4 // tensors))


def _run(probe: str, *arguments: str) -> dict:
    command = [sys.executable, "-c", probe, *arguments]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def opening(page: Page, options: argparse.Namespace) -> None:
    """Open both formats in fresh processes, in which such a file was opened before or not."""
    page.text(
        f"Files of {options.mebibytes} MiB in {options.tensors} tensors; growth in MiB, medians of "
        f"{REPEATS} processes. Warm: a tiny file of the same format was opened before; cold: "
        "torch's imports on first use are counted. RSS counts mapped pages that were touched."
    )
    head = [f"{what}, {kind}" for what in ("opened", "a tensor read") for kind in ("RSS", "own")]
    page.table("file", "process", *head, "a tensor", "goal", "reached")
    with tempfile.TemporaryDirectory() as folder:
        stem = make_files(Path(folder), options.mebibytes, options.tensors)
        for suffix in (".safetensors", ".pt"):
            for warm in (True, False):
                runs = [measure(stem, suffix, warm=warm) for _ in range(REPEATS)]
                cells = [spread([run[key][i] for run in runs]) for key, i in GROWN]
                size = runs[0]["tensor"]
                opened, read = (max(max(run[key]) for run in runs) for key in ("open", "read"))
                aim = "opened 1, read a tensor and 1" if warm else ""
                verdict = page.verdict(opened <= 1 and read <= size + 1) if warm else ""
                state = "warm" if warm else "cold"
                page.row(suffix, state, *cells, f"{size:.1f}", aim, verdict)


def saving(page: Page, options: argparse.Namespace) -> None:
    """Save a mapping whose tensors are made when they are asked for."""
    page.table("call", "rise of the peak RSS, MiB", "a tensor", "goal", "reached")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "saved.safetensors"
        runs = [measure_save(target, options.mebibytes, options.tensors) for _ in range(REPEATS)]
    size, rises = runs[0]["tensor"], [run["save"] for run in runs]
    verdict = page.verdict(max(rises) <= 2 * size)
    what = f"`save_weights` of {options.mebibytes} MiB"
    page.row(what, spread(rises), f"{size:.1f}", "two tensors", verdict)


GROWN = [("open", 0), ("open", 1), ("read", 0), ("read", 1)]
REPEATS = 3
TITLE = "Opening a checkpoint"
PARTS = {"opening": opening, "saving": saving}
BENCHMARK = Benchmark(__file__, TITLE, PARTS, versions=("safetensors",))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = BENCHMARK.parser(__doc__)
    parser.add_argument("--mebibytes", type=int, default=512)
    parser.add_argument("--tensors", type=int, default=16)
    BENCHMARK.run(parser.parse_args(arguments), arguments)


if __name__ == "__main__":
    main()
