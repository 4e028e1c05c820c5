"""Claim: spectra and their fits take a small part of the time that the peers take.

    python benchmarks/spectral.py [--weights resnet20.th] [--rows fits layers large memory]

The peers are weightwatcher 0.7.7 and powerlaw 1.5, in an environment of their own (`make peers`),
and powerlaw 2.0. Both sides run at the same time, in a process each, on one thread, and take turns:
five rounds, in each of which a side repeats a short call and counts the fastest. Times are CPU
seconds; the ratio is of the medians of the rounds, and that of the fastest calls of all stands
beside it, as CPU seconds of a busy machine are not all of one length; a goal is reached if both
reach it. A peer's call that takes minutes is made once.

Without ``--weights`` the network is a ResNet-20 for CIFAR-10 with random heavy-tailed weights.
Memory is measured on Linux only, as it is read from ``/proc``.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _peers import MISSING, PEERS, python_of
from _record import HERE, ONE_THREAD, Benchmark, Page, spread

LEAST = 20  # eigenvalues; WeightWatcher fits fewer by another rule

PEAK_PROBE = """
import sys, torch
torch.set_num_threads(1)
from wskit.checkpoints import open_checkpoint
from wskit.spectra import spectra

def peak():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines["VmHWM"].split()[0]) / 1024

for stem in ("small", "large"):  # the small one pays for what is imported and set up on first use
    with open_checkpoint(f"{sys.argv[1]}/{stem}.safetensors") as ckpt:
        open("/proc/self/clear_refs", "w").write("5")  # the peak begins at what is held now
        start = peak()
        spectra(ckpt)
print(peak() - start)
"""


class Side:
    """A process that answers requests, see ``_spectral_worker.py``."""

    def __init__(self, python: Path, name: str) -> None:
        command = [str(python), str(HERE / "_spectral_worker.py"), name]
        environment = os.environ | ONE_THREAD
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, text=True, env=environment, **pipes)

    def ask(self, **request: Any) -> Any:
        """Send a request and wait for its answer."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the worker ended on {request}; run it by itself to see why")
        return json.loads(line)

    def close(self) -> None:
        """Let the process end."""
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def both_sides(page: Page) -> Iterator[tuple[Side, Side | None]]:
    """Start ours and the peers'; the latter is None where its environment is missing."""
    python = python_of("weightwatcher")
    ours = Side(Path(sys.executable), "wskit")
    theirs = None if python is None else Side(python, "peers")
    if theirs is not None:
        page.peers = (*PEERS["weightwatcher"], f"powerlaw=={metadata.version('powerlaw')}")
    try:
        yield ours, theirs
    finally:
        ours.close()
        if theirs is not None:
            theirs.close()


def heavy_tailed(n: int, *, seed: int) -> np.ndarray:
    """Pooled eigenvalues of 1024 x 512 matrices, or of one smaller, with Student-t entries."""
    rng = np.random.default_rng(seed)
    M = min(n, 512)
    W = rng.standard_t(3, (n // M, 2 * M, M))
    return np.sort(np.linalg.svd(W, compute_uv=False).ravel() ** 2)


def resnet20(*, seed: int) -> dict[str, torch.Tensor]:
    """Make the weights of a ResNet-20 for CIFAR-10: a convolution, nine blocks, a dense layer."""
    rng = np.random.default_rng(seed)
    shapes = {"conv1.weight": (16, 3, 3, 3)}
    width = 16
    for stage in range(3):
        for block in range(3):
            before, width = width, 16 * 2**stage
            stem = f"layer{stage + 1}.{block}"
            shapes[f"{stem}.conv1.weight"] = (width, before, 3, 3)
            shapes[f"{stem}.conv2.weight"] = (width, width, 3, 3)
    shapes["linear.weight"] = (10, 64)
    return {
        name: torch.as_tensor(0.05 * rng.standard_t(3, shape), dtype=torch.float32)
        for name, shape in shapes.items()
    }


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """Largest relative difference of the numbers that both sides gave."""
    sizes = theirs.get("n")
    worst = 0.0
    for key in (ours.keys() & theirs.keys()) - {"n"}:
        a, b = np.atleast_1d(ours[key]), np.atleast_1d(theirs[key])
        if sizes is not None:
            a, b = (np.asarray(v)[np.asarray(sizes) >= LEAST] for v in (a, b))
        worst = max(worst, float(np.max(np.abs(a - b) / np.abs(b))))
    return worst


def compare(
    page: Page,
    what: str,
    goal: float,
    ours: tuple[Side, str],
    theirs: tuple[Side | None, str],
    **how: Any,
) -> None:
    """Let both sides take turns, and add a row.

    `how` holds the `file`, `rounds` and `peer_rounds`, the CPU `seconds` of a round, and whether a
    call goes before to `warm` up.
    """
    if theirs[0] is None:
        page.row(what, MISSING, *[""] * 6)
        return
    sides = {"ours": ours, "theirs": theirs}
    times: dict[str, list[float]] = {name: [] for name in sides}
    numbers: dict[str, Any] = {}
    rounds, peer_rounds = how.get("rounds", 5), how.get("peer_rounds", how.get("rounds", 5))
    for i in range(max(rounds, peer_rounds)):
        for name, (side, task) in sides.items():
            if i < (rounds if name == "ours" else peer_rounds):
                request = {"task": task, "file": str(how["file"])}
                request |= {"seconds": how.get("seconds", 0.3)}
                answer = side.ask(**request, warm=i == 0 and how.get("warm", True))
                times[name].append(answer["seconds"])
                numbers[name] = answer["numbers"]
    by = "-"
    if numbers["ours"].keys() & numbers["theirs"].keys():
        by = f"{difference(numbers['ours'], numbers['theirs']):.0e}"
    once = ", once" if peer_rounds == 1 else ""
    page.compare(f"{what}{once}", times["theirs"], times["ours"], goal=goal, by=by, times=1000)


def fits(page: Page, options: argparse.Namespace) -> None:
    """Compare single fits."""
    page.ratios("ms")
    with tempfile.TemporaryDirectory() as name, both_sides(page) as (ours, theirs):
        folder, fit = Path(name), (ours, "power law")
        for n, goal, own_goal in ((512, 100, 15), (4096, 250, 30)):
            file = folder / f"esd{n}.npy"
            np.save(file, heavy_tailed(n, seed=0))
            law = f"power law, n = {n}"
            slow = {"peer_rounds": 1, "warm": False} if n > 1000 else {"peer_rounds": 3}
            compare(page, f"{law}, powerlaw 1.5", goal, fit, (theirs, "powerlaw"), file=file)
            compare(page, f"{law}, powerlaw 2.0", goal, fit, (ours, "powerlaw"), file=file, **slow)
            compare(page, f"{law}, WeightWatcher", own_goal, fit, (theirs, "power law"), file=file)
        file = folder / "bulk.npy"
        np.save(file, np.linalg.svd(np.random.default_rng(0).normal(size=(128, 64)))[1] ** 2)
        what, task = "MP law, 128 x 64, WeightWatcher", "marchenko-pastur"
        compare(page, what, 300, (ours, task), (theirs, task), file=file)
        file = folder / "esd1024.npy"
        np.save(file, heavy_tailed(1024, seed=0))
        what = "200 bootstrap refits, n = 1024, one WeightWatcher fit"
        compare(page, what, -10, (ours, "bootstrap"), (theirs, "power law"), file=file)


def layers(page: Page, options: argparse.Namespace) -> None:
    """Compare tables of a whole network."""
    page.text(
        f"ResNet-20 of 0.27 million parameters, {'published' if options.weights else 'random'} "
        f'weights. "Differ by" is the largest relative difference in alpha, over its layers of '
        f"{LEAST} eigenvalues or more."
    )
    page.ratios("ms")
    with tempfile.TemporaryDirectory() as name, both_sides(page) as (ours, theirs):
        file = options.weights or Path(name) / "resnet20.pt"
        if not options.weights:
            torch.save(resnet20(seed=0), file)
        for task, what in (("default", "spectral_table"), ("power laws", "spectra, power laws")):
            row, default = f"ResNet-20, {what}, analyze()", (theirs, "default")
            compare(page, row, 8, (ours, task), default, file=file, seconds=3.0)
        row = "ResNet-20 with null, analyze(PL, mp_fit, randomize)"
        once = {"peer_rounds": 1, "seconds": 1.0, "warm": False}
        compare(page, row, 200, (ours, "full"), (theirs, "full"), file=file, **once)


def large(page: Page, options: argparse.Namespace) -> None:
    """Compare one layer of 4096 x 4096."""
    page.ratios("ms")
    with tempfile.TemporaryDirectory() as name, both_sides(page) as (ours, theirs):
        file = Path(name) / "large.pt"
        W = torch.randn(4096, 4096, generator=torch.Generator().manual_seed(0)) / 64
        torch.save({"fc.weight": W}, file)
        how = {"file": file, "seconds": 0, "warm": False}
        row = "4096 x 4096, bare Gram and eigvalsh"
        compare(page, row, -1.15, (ours, "layer"), (ours, "bare"), rounds=3, **how)
        rounds = {"rounds": 2, "peer_rounds": 1}
        row = "4096 x 4096, analyze()"
        compare(page, row, 6, (ours, "layer"), (theirs, "default"), **rounds, **how)


def memory(page: Page, options: argparse.Namespace) -> None:
    """Measure the peak of memory while a tall matrix is read from a file."""
    from safetensors.torch import save_file

    page.table("float32, from a file", "rise of the peak, MiB", "goal", "reached")
    with tempfile.TemporaryDirectory() as folder:
        save_file({"small": torch.randn(2048, 1024)}, f"{folder}/small.safetensors")
        for rows in (40_000, 131_072):
            save_file({"tall": torch.randn(rows, 1024)}, f"{folder}/large.safetensors")
            how = {"capture_output": True, "env": os.environ | ONE_THREAD}
            command = [sys.executable, "-c", PEAK_PROBE, folder]
            runs = [subprocess.run(command, check=True, **how) for _ in range(3)]
            rises = [float(run.stdout) for run in runs]
            limit = 64 + 3 * 1024**2 * 8 / 2**20
            verdict = page.verdict(max(rises) <= limit)
            page.row(f"{rows} x 1024", spread(rises), f"<= {limit:.0f}", verdict)


TITLE = "Spectra against the peers"
PARTS = {"fits": fits, "layers": layers, "large": large, "memory": memory}
WHY = {
    "large": "The Gram matrix and LAPACK's eigvalsh alone take all but a few per cent of our time "
    "(the first row), so that the goal would need a faster eigensolver; numpy's and all of scipy's "
    "drivers took 0.55 to 0.61 s at 2048 where torch took 0.57 (2026-11-24).",
}
BENCHMARK = Benchmark(__file__, TITLE, PARTS, WHY, ("scipy",))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = BENCHMARK.parser(__doc__)
    parser.add_argument("--weights", type=Path, help="a state dict, saved by torch")
    BENCHMARK.run(parser.parse_args(arguments), arguments)


if __name__ == "__main__":
    main()
