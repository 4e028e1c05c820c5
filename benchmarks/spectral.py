"""Claim: spectra and their fits take a small part of the time that the peers take.

    python benchmarks/spectral.py [--weights resnet20.th] [--rows fits layers large memory]

The peers are weightwatcher 0.7.7 and powerlaw 1.5. They are installed in an environment of their
own, in a cache folder, which sees the packages of the running one for all else. Both sides run at
the same time, in a process each, on one thread, and take turns: five rounds, in each of which a
side repeats a short call and counts the fastest. Times are CPU seconds; the ratio is of the
medians of the rounds, and that of the fastest calls of all stands beside it, as CPU seconds of a
busy machine are not all of one length; a goal is reached if both reach it. A peer's call that
takes minutes is made once.

Without ``--weights`` the network is a ResNet-20 for CIFAR-10 with random heavy-tailed weights.
Memory is measured on Linux only, as it is read from ``/proc``.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
PEERS = ["weightwatcher==0.7.7", "powerlaw==1.5"]
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
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


def peers_python(folder: Path) -> Path:
    """Make the peers' environment, where it is missing, and return its interpreter."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ready = folder / "ready"
    if not ready.exists():
        venv.create(folder, with_pip=True, clear=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        site = folder / ("Lib" if os.name == "nt" else f"lib/{version}") / "site-packages"
        # Packages of the running environment come after those of this one.
        (site / "running.pth").write_text(sysconfig.get_path("purelib"))
        lines = (HERE.parent / "constraints.txt").read_text().splitlines()
        constraints = folder / "constraints.txt"
        constraints.write_text("\n".join(x for x in lines if not x.startswith("powerlaw")))
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-c", str(constraints), *PEERS], check=True)
        ready.touch()
    return python


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
    what: str, goal: float, ours: tuple[Side, str], theirs: tuple[Side, str], file: Path, **how: Any
) -> None:
    """Let both sides take turns, and print a row of the table.

    A negative goal is the most of the peer's time that ours is to take. `how` holds `rounds` and
    `peer_rounds`, the CPU `seconds` of a round, and whether a call goes before to `warm` up.
    """
    sides = {"ours": ours, "theirs": theirs}
    times: dict[str, list[float]] = {name: [] for name in sides}
    numbers: dict[str, Any] = {}
    rounds, peer_rounds = how.get("rounds", 5), how.get("peer_rounds", how.get("rounds", 5))
    for i in range(max(rounds, peer_rounds)):
        for name, (side, task) in sides.items():
            if i < (rounds if name == "ours" else peer_rounds):
                request = {"task": task, "file": str(file), "seconds": how.get("seconds", 0.3)}
                answer = side.ask(**request, warm=i == 0 and how.get("warm", True))
                times[name].append(answer["seconds"])
                numbers[name] = answer["numbers"]
    median = {name: statistics.median(values) for name, values in times.items()}
    ratio = median["theirs"] / median["ours"]
    least = min(times["theirs"]) / min(times["ours"])
    reached = all(1 / r <= -goal if goal < 0 else r >= goal for r in (ratio, least))
    aim = f"at most {-goal:g} times" if goal < 0 else f">= {goal:g}x"
    shown = [f"{1 / r:.2f} of it" if goal < 0 else f"{r:.3g}x" for r in (ratio, least)]
    agree = "-"
    if numbers["ours"].keys() & numbers["theirs"].keys():
        agree = f"{difference(numbers['ours'], numbers['theirs']):.0e}"
    cells = [what, f"{1e3 * median['ours']:.4g}", f"{1e3 * median['theirs']:.5g}"]
    cells += [*shown, agree, aim, "yes" if reached else "**no**", f"{rounds}/{peer_rounds}"]
    print("| " + " | ".join(cells) + " |", flush=True)


def fits(ours: Side, theirs: Side, folder: Path) -> None:
    """Compare single fits."""
    for n, goal, own_goal in ((512, 100, 15), (4096, 250, 30)):
        file = folder / f"esd{n}.npy"
        np.save(file, heavy_tailed(n, seed=0))
        fit, both = (ours, "power law"), {"file": file}
        compare(f"power law, n = {n}, powerlaw 1.5", goal, fit, (theirs, "powerlaw"), **both)
        slow = {"peer_rounds": 1, "warm": False} if n > 1000 else {"peer_rounds": 3}
        compare(f"power law, n = {n}, powerlaw 2.0", goal, fit, (ours, "powerlaw"), **both, **slow)
        compare(f"power law, n = {n}, WeightWatcher", own_goal, fit, (theirs, "power law"), **both)
    file = folder / "bulk.npy"
    np.save(file, np.linalg.svd(np.random.default_rng(0).normal(size=(128, 64)))[1] ** 2)
    task = "marchenko-pastur"
    compare("MP law, 128 x 64, WeightWatcher", 300, (ours, task), (theirs, task), file)
    file = folder / "esd1024.npy"
    np.save(file, heavy_tailed(1024, seed=0))
    what = "200 bootstrap refits, n = 1024, one WeightWatcher fit"
    compare(what, -10, (ours, "bootstrap"), (theirs, "power law"), file)


def layers(ours: Side, theirs: Side, file: Path) -> None:
    """Compare tables of a whole network."""
    for task, what in (("default", "spectral_table"), ("power laws", "spectra, power laws")):
        name = f"ResNet-20, {what}, analyze()"
        compare(name, 8, (ours, task), (theirs, "default"), file, seconds=3.0)
    name, once = "ResNet-20 with null, analyze(PL, mp_fit, randomize)", {"peer_rounds": 1}
    compare(name, 200, (ours, "full"), (theirs, "full"), file, **once, seconds=1.0, warm=False)


def large(ours: Side, theirs: Side, folder: Path) -> None:
    """Compare one layer of 4096 x 4096."""
    file = folder / "large.pt"
    W = torch.randn(4096, 4096, generator=torch.Generator().manual_seed(0)) / 64
    torch.save({"fc.weight": W}, file)
    how = {"file": file, "seconds": 0, "warm": False}
    bare = "4096 x 4096, bare Gram and eigvalsh"
    compare(bare, -1.15, (ours, "layer"), (ours, "bare"), rounds=3, **how)
    name = "4096 x 4096, analyze()"
    compare(name, 6, (ours, "layer"), (theirs, "default"), rounds=2, peer_rounds=1, **how)


def memory(folder: Path) -> None:
    """Measure the peak of memory while a tall matrix is read from a file."""
    from safetensors.torch import save_file

    save_file({"small": torch.randn(2048, 1024)}, folder / "small.safetensors")
    for rows in (40_000, 131_072):
        save_file({"tall": torch.randn(rows, 1024)}, folder / "large.safetensors")
        command = [sys.executable, "-c", PEAK_PROBE, str(folder)]
        run = subprocess.run(command, capture_output=True, check=True, env=os.environ | ONE_THREAD)
        rise, limit = float(run.stdout), 64 + 3 * 1024**2 * 8 / 2**20
        print(f"{rows} x 1024 float32 from a file: the peak rose by {rise:.1f} MiB, of {limit:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="a state dict, saved by torch")
    rows = ["fits", "layers", "large", "memory"]
    parser.add_argument("--rows", nargs="+", choices=rows, default=rows)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "wskit-benchmarks"
    parser.add_argument("--peers", type=Path, default=cache, help="folder of their environment")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.rows != ["memory"]:
            peers = Side(peers_python(options.peers), "peers")
            ours = Side(Path(sys.executable), "wskit")
            own = ours.ask(task="versions", names=["numpy", "scipy", "torch", "powerlaw"])
            other = peers.ask(task="versions", names=["weightwatcher", "powerlaw", "torch"])
            print(f"Python {platform.python_version()}; ours {own}; peers {other}\n")
            head = ["what", "ours, ms", "peer, ms", "ratio", "of fastest", "differ by", "goal"]
            head += ["reached", "rounds"]
            print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|", flush=True)
            if "fits" in options.rows:
                fits(ours, peers, folder)
            if "layers" in options.rows:
                file = folder / "resnet20.pt"
                torch.save(resnet20(seed=0), file)
                layers(ours, peers, options.weights or file)
            if "large" in options.rows:
                large(ours, peers, folder)
            peers.close()
            ours.close()
        if "memory" in options.rows:
            memory(folder)


if __name__ == "__main__":
    main()
