"""Claims: a soup of files costs about as much as reading them, in next to no memory.

    pip install mergekit==0.1.5      # in an environment of its own
    python benchmarks/soup_files.py --mergekit-python /path/to/that/bin/python

Makes eight files of 0.5 GB in float32, float16 and bfloat16, and a sharded checkpoint of 2 GB with
three fine-tuned ones, in a temporary folder. All sides take turns, each in a fresh process whose
imports are not timed, medians of `--rounds`. The unit is ``cat`` of the eight files to /dev/null in
the same round. Inputs are in the page cache; what is made is written to ``--out``, by default in
memory (/dev/shm), since a disk would be all that is measured: `save_weights` waits until it has
what was written. Memory is the anonymous part of the resident set, seen every 5 ms, beyond what the
import of torch takes. Linux only.

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
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
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


def medians(results: list[dict]) -> tuple[float, float, float]:
    return tuple(statistics.median(r[key] for r in results) for key in ("seconds", "cpu", "MiB"))


def soups(folder: Path, options: argparse.Namespace) -> None:
    """Merge eight files of one size, in each dtype."""
    for name in options.dtypes:
        dtype = DTYPES[name]
        shapes = shapes_of(options.megabytes * 10**6, dtype)
        paths = [
            save_weights(Model(shapes, dtype, seed), folder / f"{seed}.safetensors")
            for seed in range(1, N_FILES + 1)
        ]
        sides = dict.fromkeys(("wskit", "wskit, weighted"), sys.executable)
        if options.mergekit_python:
            sides["mergekit"] = options.mergekit_python
        sides |= dict.fromkeys(
            ("stack and mean", "reference script", "AveragedModel"), sys.executable
        )
        out = options.out / "soup.safetensors"
        found, unit, wrong = rounds(sides, out, paths[0], paths, options)
        goal = 1.0 if name == "float32" else 1.8
        size = paths[0].stat().st_size / 1e6
        cat_seconds = statistics.median(unit)
        print(
            f"\n{name}, {N_FILES} files of {size:.0f} MB, {len(shapes)} tensors; cat"
            f" {cat_seconds:.2f} s\n"
        )
        print("| side | s | / cat | CPU / cat | own memory, MiB | misrounded | goal | reached |")
        print("|---|---|---|---|---|---|---|---|")
        for side, results in found.items():
            seconds, cpu, mebibytes = medians(results)
            ratio = statistics.median(r["seconds"] / u for r, u in zip(results, unit, strict=True))
            share = f"{wrong[side]:.2%}" if side in wrong else ""
            verdict = ""
            if side in OURS:
                exact = name == "float32" or wrong.get(side, 0) == 0
                good = ratio <= goal and mebibytes <= 16 and exact
                verdict = f"<= {goal}, 16 MiB | {'yes' if good else '**no**'}"
            else:
                verdict = " | "
            print(
                f"| {side} | {seconds:.2f} | {ratio:.2f} | {cpu / cat_seconds:.2f} |"
                f" {mebibytes:.0f} | {share} | {verdict} |",
                flush=True,
            )
        for path in paths:
            path.unlink()


def sharded(folder: Path, options: argparse.Namespace) -> None:
    """Merge a sharded checkpoint and three that were fine-tuned from it, at two sizes."""
    for megabytes in (options.sharded // 4, options.sharded):
        shapes = shapes_of(megabytes * 10**6, torch.bfloat16)
        base, *paths = [
            save_weights(
                Model(shapes, torch.bfloat16, seed),
                folder / f"model{seed}",
                shard_size=megabytes * 10**6 // 4,
            )
            for seed in range(4)
        ]
        sides = dict.fromkeys(("wskit", "wskit, ties", "wskit, dare"), sys.executable)
        if options.mergekit_python:
            sides |= dict.fromkeys(
                ("mergekit", "mergekit, ties", "mergekit, dare"), options.mergekit_python
            )
        found, unit, _ = rounds(sides, options.out / "sharded", base, paths, options)
        print(
            f"\nsharded, {megabytes} MB in bfloat16, 3 models; cat"
            f" {statistics.median(unit):.2f} s\n"
        )
        print("| rule | wskit, s | mergekit, s | wskit, MiB | mergekit, MiB | reached |")
        print("|---|---|---|---|---|---|")
        for rule, ending in (("uniform", ""), ("TIES", ", ties"), ("DARE", ", dare")):
            ours, _, memory = medians(found["wskit" + ending])
            theirs, _, much = (
                medians(found["mergekit" + ending]) if options.mergekit_python else [math.nan] * 3
            )
            good = ours <= theirs and memory <= much / 4 and memory <= 256
            print(
                f"| {rule} | {ours:.2f} | {theirs:.2f} | {memory:.0f} | {much:.0f} |"
                f" {'yes' if good else '**no**'} |",
                flush=True,
            )
        for path in (base, *paths):
            shutil.rmtree(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mergekit-python", help="of an environment with mergekit 0.1.5")
    parser.add_argument("--megabytes", type=int, default=500, help="of each of the eight files")
    parser.add_argument("--sharded", type=int, default=2000, help="megabytes of the checkpoint")
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="where soups are written; default: /dev/shm")
    parser.add_argument(
        "--rows", nargs="+", default=["soups", "sharded"], choices=["soups", "sharded"]
    )
    options = parser.parse_args()
    print(f"torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory(dir=options.out or "/dev/shm") as out,
    ):
        options.out = Path(out)
        for rows in options.rows:
            {"soups": soups, "sharded": sharded}[rows](Path(folder), options)
    print(f"\nload {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
