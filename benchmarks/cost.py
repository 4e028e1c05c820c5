"""Claims: time and memory grow with the work as they should, and not faster.

    python benchmarks/cost.py [--rows layers side training statistics soup table many picture]

Each call is made on more and more work. Time is CPU time of one thread: rounds go through all sizes
in turn, in one process, and short calls are repeated until 20 ms have passed. Memory is the rise of
the peak of anonymous memory, which mapped files are not part of, seen every millisecond, in a fresh
process for each size and repeat that had made a call of the smallest size before; it includes
arguments that are no files. An exponent is the slope of a straight line through the logarithms of
the medians, by least squares, with its standard error; beside it is that of the last doubling
alone, as small work has costs of its own. Rises below 1 MiB are noise and left out of a fit. Linux
only, as memory is read from ``/proc``.

``--quick`` goes through small sizes only, to see that all comes through, and leaves RESULTS.md and
cost.png as they are.
"""

import argparse
import ctypes
import gc
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from _record import ONE_THREAD, RESULTS, ROUNDS, Benchmark, Page, spread
from safetensors.torch import save_file
from torch import Tensor

from wskit.checkpoints import open_checkpoint
from wskit.features import model_table, spectral_table, weight_statistics
from wskit.soups import uniform_soup
from wskit.spectra import spectrum
from wskit.zoo import SmallCNN, train_zoo

LEAST, MORE, MANY = 0.02, 0.1, 10_000  # seconds; how much above the expected exponent; checkpoints
REPEATS = 3  # of a memory's measurement
TITLE = "Cost as work grows"


@dataclass(frozen=True)
class Growth:
    """A call on growing work: `make` gives its argument, and `expected` both exponents."""

    what: str
    unit: str
    sizes: tuple[int, ...]
    make: Callable[[int, Path], Any]
    call: Callable[[Any], object]
    expected: tuple[int, int]
    quick: tuple[int, ...] = (2, 4, 8)


def layers(n: int, folder: Path) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(n)
    return {f"layer{i}.weight": torch.randn(256, 256, generator=draw) for i in range(n)}


def matrix(n: int, folder: Path) -> Tensor:
    return torch.randn(n, n, generator=torch.Generator().manual_seed(n))


def hyperparameters(n: int, folder: Path) -> pd.DataFrame:
    return pd.DataFrame({"epochs": [10.0] * n, "learning_rate": 0.003})  # 20 updates of 64 images


def training(table: pd.DataFrame) -> object:
    x = torch.rand(128, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(128) % 10
    return train_zoo(SmallCNN(), SimpleNamespace(train_x=x, train_y=y, test_x=x, test_y=y), table)


def stacked(n: int, folder: Path) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(n)
    return {k: torch.randn(n, *shape, generator=draw) for k, shape in SmallCNN().shapes.items()}


def large_files(n: int, folder: Path) -> list[Path]:
    """Write files of 16 MiB, 16 tensors each, where they are missing."""
    return _written(n, folder / "large", {f"layer{i}.weight": (512, 512) for i in range(16)})


def small_files(n: int, folder: Path) -> list[Path]:
    """Write checkpoints of 4 970 parameters, where they are missing."""
    return _written(n, folder / "small", SmallCNN().shapes)


def _written(n: int, folder: Path, shapes: Mapping[str, Sequence[int]]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{i}.safetensors" for i in range(n)]
    for i, path in enumerate(paths):
        if not path.exists():
            draw = torch.Generator().manual_seed(i)
            save_file({k: torch.randn(*s, generator=draw) for k, s in shapes.items()}, path)
    return paths


def soup(paths: list[Path]) -> object:
    return uniform_soup([open_checkpoint(path) for path in paths])


def row(path: str) -> pd.Series:
    """Return the statistics of one checkpoint's weights, a row of a table."""
    with open_checkpoint(path) as checkpoint:
        return weight_statistics({k: checkpoint[k][None] for k in checkpoint}).iloc[0]


TASKS = {
    "layers": Growth(
        "`spectral_table`, layers of 256 x 256",
        "layers",
        (4, 8, 16, 32, 64, 128, 256),
        layers,
        spectral_table,
        (1, 1),
    ),
    "side": Growth(
        "`spectrum` of a square matrix",
        "side",
        (64, 128, 256, 512, 1024, 2048, 4096),
        matrix,
        spectrum,
        (3, 2),
        (32, 64, 128),
    ),
    "training": Growth(
        "`train_zoo`, SmallCNN, 20 updates",
        "models",
        (16, 32, 64, 128, 256, 512),
        hyperparameters,
        training,
        (1, 1),
    ),
    "statistics": Growth(
        "`weight_statistics` of a zoo",
        "models",
        (16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
        stacked,
        weight_statistics,
        (1, 1),
    ),
    "soup": Growth(
        "`uniform_soup` of files of 16 MiB",
        "files",
        (2, 4, 8, 16, 32),
        large_files,
        soup,
        (1, 0),
        (2, 3, 4),
    ),
    "table": Growth(
        "`model_table` of files, 4 970 parameters each",
        "checkpoints",
        (10, 20, 50, 100, 200, 500, 1000),
        small_files,
        partial(model_table, row),
        (1, 1),  # no tensor stays, and a row does
    ),
}


def exponent(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Return the slope of log(values) over log(sizes) by least squares, and its standard error.

    Of fewer than three points the error is NaN, of fewer than two both are.
    """
    if len(sizes) < 2:
        return float("nan"), float("nan")
    x, y = np.log(sizes), np.log(values)
    x = x - x.mean()
    slope = x @ y / (x @ x)
    rest = y - y.mean() - slope * x
    freedom = len(x) - 2
    error = np.sqrt(rest @ rest / freedom / (x @ x)) if freedom else np.nan
    return float(slope), float(error)


def cpu_seconds(call: Callable[[], object]) -> float:
    """Return the CPU seconds of a call, the mean of as many as fill 20 ms."""
    start, n = time.process_time(), 0
    while n == 0 or time.process_time() - start < LEAST:
        call()
        n += 1
    return (time.process_time() - start) / n


def times(name: str, sizes: Sequence[int], rounds: int, folder: Path) -> dict[int, list[float]]:
    """Time a task at all sizes, in turn; runs in a fresh process."""
    torch.set_num_threads(1)
    task = TASKS[name]
    calls = {n: partial(task.call, task.make(n, folder)) for n in sizes}
    calls[sizes[0]]()
    found: dict[int, list[float]] = {n: [] for n in sizes}
    for _ in range(rounds):
        for n, call in calls.items():
            found[n].append(cpu_seconds(call))
    return found


def status(key: str) -> float:
    """Return an entry of this process's memory, in MiB."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{key}:")[1].split()[0]) / 1024


@contextmanager
def watched(peak: list[float]) -> Iterator[None]:
    """Append the largest anonymous memory that is seen meanwhile."""
    seen, over = [status("RssAnon")], threading.Event()

    def watch() -> None:
        while not over.wait(0.001):
            seen.append(status("RssAnon"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        seen.append(status("RssAnon"))
        over.set()
        thread.join()
        peak.append(max(seen))


def memory(name: str, size: int, folder: Path) -> tuple[float, float]:
    """Return the rise of the peak in MiB, and that of the whole process; runs in a fresh one."""
    torch.set_num_threads(1)
    task, peak = TASKS[name], []
    task.call(task.make(min(task.sizes[0], size), folder))  # pays for what is set up once
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free goes back: else small work finds room in it
    start = status("RssAnon")
    with watched(peak):
        kept = task.call(task.make(size, folder))
    del kept
    return peak[0] - start, status("VmHWM")


def measured(page: Page, options: argparse.Namespace, *, name: str) -> None:
    """Fill a part: time and memory at each size, and their exponents."""
    task = TASKS[name]
    sizes = task.quick if options.quick else task.sizes
    task.make(max(sizes), options.folder)  # files are written here
    seconds = options.fresh(times, name, sizes, options.rounds, options.folder)
    repeats = 1 if options.quick else REPEATS
    rises = {
        n: [max(options.fresh(memory, name, n, options.folder)[0], 0.0) for _ in range(repeats)]
        for n in sizes
    }
    options.found[name] = (seconds, rises)
    page.text(
        f"{task.what}: CPU time of one thread, {options.rounds} rounds through all sizes; memory "
        f"in {repeats} fresh process{'es' * (repeats > 1)} for each size."
    )
    page.table(task.unit, "CPU time, ms", "rise of the peak, MiB")
    for n in sizes:
        page.row(n, spread(seconds[n], 1000), spread(rises[n]))
    page.table("grows as", "exponent", "last doubling", "expected", "goal", "reached")
    for kind, expected, points in zip(
        ("time", "memory"), task.expected, fitted(seconds, rises), strict=True
    ):
        slope, error = exponent(*points)
        last = exponent(points[0][-2:], points[1][-2:])[0]
        known = len(points[0]) > 2
        shown = f"{slope:.2f} ± {error:.2f}" if known else "rises under 1 MiB"
        verdict = page.verdict(slope <= expected + MORE) if known else "yes"
        end = f"{last:.2f}" if known else "-"
        page.row(kind, shown, end, expected, f"<= {expected + MORE:g}", verdict)


def fitted(
    seconds: Mapping[int, list[float]], rises: Mapping[int, list[float]]
) -> list[tuple[list[int], list[float]]]:
    """Return the points (sizes, medians) of both fits."""
    medians = [{n: float(np.median(v)) for n, v in kind.items()} for kind in (seconds, rises)]
    above = {n: v for n, v in medians[1].items() if v >= 1}
    return [(list(kind), list(kind.values())) for kind in (medians[0], above)]


def many(page: Page, options: argparse.Namespace) -> None:
    """Go through ten thousand checkpoints in one process."""
    n = 20 if options.quick else MANY
    small_files(n, options.folder)
    start = time.perf_counter()
    rise, peak = options.fresh(memory, "table", n, options.folder)
    seconds = time.perf_counter() - start
    page.text("`model_table` of checkpoints of 4 970 parameters, all in one process, once:")
    page.table("checkpoints", "wall, s", "rise, MiB", "peak of the process, MiB", "goal", "reached")
    reached = page.verdict(peak < 1000)
    page.row(n, f"{seconds:.1f}", f"{rise:.1f}", f"{peak:.0f}", "under 1000 MiB in all", reached)


def picture(page: Page, options: argparse.Namespace) -> None:
    """Draw all exponents that were found in this run."""
    target = options.picture
    draw(options.found, target)
    page.text(
        f"![CPU time and memory as work grows; the exponents are in the tables]({target.name})"
    )


def draw(found: Mapping[str, tuple[dict, dict]], target: Path) -> None:
    """Write the picture: a panel for time and one for memory, a line a task."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from wskit import plots

    with mpl.rc_context(plots.STYLE):
        fig = Figure(figsize=(12, 6.4))
        axs = fig.subplots(1, 2)
        for (name, both), marker in zip(found.items(), "osD^vP", strict=False):
            task = TASKS[name]
            for ax, points, expected in zip(axs, fitted(*both), task.expected, strict=True):
                slope, error = exponent(*points)
                law = f"{slope:.2f} ± {error:.2f}, expected {expected}"
                if len(points[0]) < 3:
                    law = "rises under 1 MiB"
                label = f"{task.what.split(',')[0].replace('`', '')}, by {task.unit}:\n{law}"
                ax.plot(*points, marker=marker, markersize=5, label=label)
        for ax, ylabel, title in zip(
            axs,
            ("CPU time (s)", "rise of the peak (MiB)"),
            ("Time and its exponents", "Memory and its exponents"),
            strict=True,
        ):
            ax.set(xscale="log", yscale="log", xlabel="size of the work (unit in the legend)")
            ax.set(ylabel=ylabel, title=title)
            ax.legend(
                loc="upper center",
                bbox_to_anchor=(0.5, -0.14),
                ncols=2,
                fontsize=9,
                columnspacing=1,
                handlelength=1.5,
            )
        fig.savefig(target, dpi=110)


PARTS = {name: partial(measured, name=name) for name in TASKS} | {"many": many, "picture": picture}
BENCHMARK = Benchmark(__file__, TITLE, PARTS, versions=("safetensors",))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = BENCHMARK.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="small sizes; RESULTS.md stays")
    options = parser.parse_args(arguments)
    if "picture" in options.rows and not set(TASKS) <= set(options.rows):
        parser.error("the picture needs all other rows in the same run")
    os.environ.update(ONE_THREAD)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["wskit.features", "wskit.soups", "wskit.zoo", "pandas"])
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool,
    ):
        options.folder, options.found = Path(folder), {}
        options.fresh = lambda call, *given: pool.submit(call, *given).result()
        if options.quick:
            options.rounds = 2
            if options.results == RESULTS:
                options.results = Path(folder) / "RESULTS.md"
        options.picture = options.results.with_name("cost.png")
        BENCHMARK.run(options, arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
