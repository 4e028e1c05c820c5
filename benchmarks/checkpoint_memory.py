"""Claim: opening a large checkpoint takes next to no memory, and reading a tensor only its size.

    python benchmarks/checkpoint_memory.py [--mebibytes 512] [--tensors 16]

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
from pathlib import Path

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
from wskit.checkpoints import save_weights

class Lazy(dict):
    def __init__(self, tensors, numel):
        super().__init__({f"layer{i}": (numel,) for i in range(tensors)})
    def shape(self, name):
        return super().__getitem__(name)
    def dtype(self, name):
        return torch.float32
    def __getitem__(self, name):
        return torch.ones(self.shape(name))

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mebibytes", type=int, default=512)
    parser.add_argument("--tensors", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stem = make_files(Path(folder), options.mebibytes, options.tensors)
        print(f"{options.mebibytes} MiB in {options.tensors} tensors; growth in MiB, RSS / RssAnon")
        print(f"{'file':<14}{'process':>9}{'opened':>14}{'one tensor read':>18}{'its size':>10}")
        for suffix in (".safetensors", ".pt"):
            for warm in (True, False):
                grown = measure(stem, suffix, warm=warm)
                opened, read = ("{:.1f} / {:.1f}".format(*grown[key]) for key in ("open", "read"))
                state = "warm" if warm else "cold"
                print(f"{suffix:<14}{state:>9}{opened:>14}{read:>18}{grown['tensor']:>10.1f}")
        saved = measure_save(Path(folder) / "saved.safetensors", options.mebibytes, options.tensors)
        print("save_weights from tensors made on request: peak RSS grew by", end=" ")
        print(f"{saved['save']:.1f} MiB, a tensor is {saved['tensor']:.1f}")


if __name__ == "__main__":
    main()
