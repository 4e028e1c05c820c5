"""Claims: a soup of files costs about as much as reading them, in next to no memory.

    python benchmarks/soup_files.py [--rows soups sharded]

Makes eight files of 0.5 GB in float32, float16 and bfloat16, and a sharded checkpoint of 2 GB with
three fine-tuned ones, in a temporary folder. All sides take turns, each in a fresh process whose
imports are not timed, medians of `--rounds`; mergekit runs in its own environment (`make peers`).
The unit is ``cat`` of the eight files to /dev/null in the same round. Inputs are in the page cache;
what is made is written to ``--out``, by default in memory (/dev/shm), since a disk would be all
that is measured: `save_weights` waits until it has what was written. Memory is the anonymous part
of the resident set, seen every 5 ms, beyond what the import of torch takes. Linux only.

"Misrounded" counts the entries to which another number of the dtype is nearer than the one
written, seen from the mean in float64.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from _peers import MISSING, PEERS, python_of
from _record import Benchmark, Page, spread
from torch import Tensor

from wskit.checkpoints import open_checkpoint, save_weights

WORKER = Path(__file__).with_name("_soup_worker.py")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
N_FILES, BLOCK = 8, 2**20
OURS = ("wskit", "wskit, weighted")
UNIFORM = ("wskit", "mergekit", "stack and mean", "reference script", "AveragedModel")


def shapes_of(nbytes: int, dtype: torch.dtype) -> dict[str, tuple[int, ...]]:
    """Return a transformer's shapes, of about so many bytes in all."""
    n_layers = 12
    width = int(math.sqrt(nbytes / dtype.itemsize / (12 * n_layers + 50)) // 64 * 64)
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (50 * width, width)}
    for i in range(n_layers):
        for name, rows, columns in (("qkv", 3, 1), ("out", 1, 1), ("up", 4, 1), ("down", 1, 4)):
            shapes[f"layers.{i}.{name}.weight"] = (rows * width, columns * width)
            shapes[f"layers.{i}.{name}.bias"] = (rows * width,)
        for norm in ("norm1", "norm2"):
            shapes[f"layers.{i}.{norm}.weight"] = (width,)
            shapes[f"layers.{i}.{norm}.bias"] = (width,)
    return shapes


class Model(Mapping[str, Tensor]):
    """A base N(0, 0.02^2), or a model that moved N(0, 0.001^2) from it, made tensor by tensor."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, seed: int):
        self._shapes, self._dtype, self._seed = shapes, dtype, seed

    def __getitem__(self, name: str) -> Tensor:
        shape = self._shapes[name]
        place = list(self._shapes).index(name)
        value = 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(place))
        if self._seed:
            own = torch.Generator().manual_seed(1000 * self._seed + place)
            value += 0.001 * torch.randn(shape, generator=own)
        return value.to(self._dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:  # noqa: D102
        return self._shapes[name]

    def dtype(self, name: str) -> torch.dtype:  # noqa: D102
        return self._dtype


def run(side: str, python: str, out: Path, base: Path, ingredients: list[Path]) -> dict:
    """Run a side in a fresh process; return its seconds and the peak of its own memory in MiB."""
    if out.is_dir():
        shutil.rmtree(out)
    out.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(WORKER.parent.parent)}
    environment.pop("OMP_NUM_THREADS", None)
    command = [python, str(WORKER), side, str(out), str(base), *map(str, ingredients)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    peak, status = 0, Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        text = status.read_text()
        if "RssAnon:" in text:
            peak = max(peak, int(text.split("RssAnon:")[1].split()[0]))
        time.sleep(0.005)
    assert process.stdout is not None
    if process.returncode:
        raise SystemExit(f"{side} failed; run it by itself: {' '.join(command)}")
    found = json.loads(process.stdout.read().splitlines()[-1])
    return {**found, "MiB": peak / 1024 - found["torch"]}


def cat(paths: list[Path]) -> float:
    start = time.perf_counter()
    subprocess.run(["cat", *map(str, paths)], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def misrounded(out: Path, ingredients: list[Path]) -> float:
    """Return the share of misrounded entries of a uniform soup, in one block out of eight."""
    merged = open_checkpoint(out)
    models = [open_checkpoint(path) for path in ingredients]
    wrong = total = 0
    for name in models[0]:
        size = math.prod(merged.shape(name))
        for low in range(0, size, 8 * BLOCK):
            parts = [model[name].reshape(-1)[low : low + BLOCK].double() for model in models]
            mean = torch.stack(parts).mean(dim=0)
            got = merged[name].reshape(-1)[low : low + BLOCK].clone()
            bits = got.view(torch.int32 if got.dtype.itemsize == 4 else torch.int16)
            near = [(bits + step).view(got.dtype).double() for step in (-1, 1)]
            error = (got.double() - mean).abs()
            wrong += int(sum(((value - mean).abs() < error) for value in near).sum())
            total += len(got)
    return wrong / total


def rounds(
    sides: Mapping[str, str],
    out: Path,
    base: Path,
    ingredients: list[Path],
    options: argparse.Namespace,
) -> tuple[dict[str, list[dict]], list[float], dict[str, float]]:
    """Run all sides in turn; return what each took, the seconds of cat, and what was misrounded."""
    found: dict[str, list[dict]] = {side: [] for side in sides}
    unit, wrong = [], {}
    files = [
        f for path in ingredients for f in (path.glob("*.safetensors") if path.is_dir() else [path])
    ]
    cat(files)
    for number in range(options.rounds):
        unit.append(cat(files))
        for side, python in sides.items():
            found[side].append(run(side, python, out, base, ingredients))
            if number == 0 and side in UNIFORM and not base.is_dir():
                wrong[side] = misrounded(out, ingredients)
    return found, unit, wrong


def medians(results: list[dict]) -> dict[str, float]:
    return {key: statistics.median(r[key] for r in results) for key in ("seconds", "cpu", "MiB")}


def mergekit(page: Page, *sides: str) -> dict[str, str]:
    """Return the interpreter of mergekit's sides, of which there are none where it is missing."""
    python = python_of("mergekit")
    if python is None:
        page.text(f"mergekit: {MISSING}.")
        return {}
    page.peers = PEERS["mergekit"]
    return dict.fromkeys(sides, str(python))


def soups(page: Page, options: argparse.Namespace) -> None:
    """Merge eight files of one size, in each dtype."""
    ours = dict.fromkeys(("wskit", "wskit, weighted"), sys.executable)
    own_imports = ("stack and mean", "reference script", "AveragedModel")
    sides = ours | mergekit(page, "mergekit") | dict.fromkeys(own_imports, sys.executable)
    for name in options.dtypes:
        dtype = DTYPES[name]
        shapes = shapes_of(options.megabytes * 10**6, dtype)
        with places(options) as (folder, out):
            paths = [
                save_weights(Model(shapes, dtype, seed), folder / f"{seed}.safetensors")
                for seed in range(1, N_FILES + 1)
            ]
            size = paths[0].stat().st_size / 1e6
            target = out / "soup.safetensors"
            found, unit, wrong = rounds(sides, target, paths[0], paths, options)
        goal = 1.0 if name == "float32" else 1.8
        cat_seconds = statistics.median(unit)
        page.text(
            f"{name}, {N_FILES} files of {size:.0f} MB, {len(shapes)} tensors; cat "
            f"{cat_seconds:.2f} s, {options.rounds} rounds"
        )
        head = ("side", "s", "/ cat", "CPU / cat", "own memory, MiB", "misrounded", "goal")
        page.table(*head, "reached")
        for side, results in found.items():
            middle = medians(results)
            ratios = [r["seconds"] / u for r, u in zip(results, unit, strict=True)]
            share = f"{wrong[side]:.2%}" if side in wrong else ""
            cells = ["", ""]
            if side in OURS:
                exact = name == "float32" or wrong.get(side, 0) == 0
                good = statistics.median(ratios) <= goal and middle["MiB"] <= 16 and exact
                cells = [f"<= {goal}, 16 MiB", page.verdict(good)]
            seconds = spread([r["seconds"] for r in results])
            cpu, own = f"{middle['cpu'] / cat_seconds:.2f}", f"{middle['MiB']:.0f}"
            page.row(side, seconds, spread(ratios), cpu, own, share, *cells)


def sharded(page: Page, options: argparse.Namespace) -> None:
    """Merge a sharded checkpoint and three that were fine-tuned from it, at two sizes."""
    page.text(
        "A base and three models in bfloat16, in shards. Goals: not slower than mergekit, in a "
        "quarter of its memory and within 256 MiB."
    )
    ours = dict.fromkeys(("wskit", "wskit, ties", "wskit, dare"), sys.executable)
    sides = ours | mergekit(page, "mergekit", "mergekit, ties", "mergekit, dare")
    for megabytes in (options.sharded // 4, options.sharded):
        shapes = shapes_of(megabytes * 10**6, torch.bfloat16)
        with places(options) as (folder, out):
            base, *paths = [
                save_weights(
                    Model(shapes, torch.bfloat16, seed),
                    folder / f"model{seed}",
                    shard_size=megabytes * 10**6 // 4,
                )
                for seed in range(4)
            ]
            found, unit, _ = rounds(sides, out / "sharded", base, paths, options)
        page.text(f"Sharded, {megabytes} MB, 3 models; cat {statistics.median(unit):.2f} s")
        page.table("rule", "wskit, s", "mergekit, s", "wskit, MiB", "mergekit, MiB", "reached")
        for rule, ending in (("uniform", ""), ("TIES", ", ties"), ("DARE", ", dare")):
            both = [found.get(side + ending) for side in ("wskit", "mergekit")]
            seconds = ["" if r is None else spread([x["seconds"] for x in r]) for r in both]
            memory = ["" if r is None else f"{medians(r)['MiB']:.0f}" for r in both]
            verdict = ""
            if both[1] is not None:
                mine, theirs = medians(both[0]), medians(both[1])
                quicker = mine["seconds"] <= theirs["seconds"]
                verdict = page.verdict(quicker and mine["MiB"] <= min(theirs["MiB"] / 4, 256))
            page.row(rule, *seconds, *memory, verdict)


@contextmanager
def places(options: argparse.Namespace) -> Iterator[tuple[Path, Path]]:
    """Make a folder for the inputs and one for what is written."""
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory(dir=options.out or "/dev/shm") as out,
    ):
        yield Path(folder), Path(out)


TITLE = "Soups of files"
PARTS = {"soups": soups, "sharded": sharded}
WHY = {
    "soups": "The goal for memory is reached; that for time is not, though no other side is "
    "faster (2026-11-26). In one process that goes on, after a first soup, float32 takes 1.05 to "
    "1.2 times as long as `cat`: of a fresh process, the first look at each mapped page is part "
    "of the time. Smaller pieces made it slower (two threads take turns in Python between "
    "operations of 0.1 ms), and making the pages of the output takes 0.25 to 0.3 s of system "
    "time. In float32 a sum in float32 misrounds a third of the entries by one unit in the last "
    'place, whoever makes it; `precision="float64"` does not.',
    "sharded": "The memory does not grow with the size. What is missed is DARE's: 230 MiB on "
    "2026-11-26, 277 to 334 since its sums are those of all averages, whose arrays are smaller; "
    "where the C library puts them is suspected, and was not isolated.",
}
BENCHMARK = Benchmark(__file__, TITLE, PARTS, WHY, ("safetensors",))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = BENCHMARK.parser(__doc__)
    parser.add_argument("--megabytes", type=int, default=500, help="of each of the eight files")
    parser.add_argument("--sharded", type=int, default=2000, help="megabytes of the checkpoint")
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="where soups are written; default: /dev/shm")
    BENCHMARK.run(parser.parse_args(arguments), arguments)


if __name__ == "__main__":
    main()
