"""What all benchmarks share: rounds in turn, rows with medians and spread, and RESULTS.md.

A script is a `Benchmark`: named parts, each a function that fills a `Page`. What a part prints is
also written into RESULTS.md, between the markers of that part, with the date, the machine, its load
and the versions. So a run replaces what it measured anew, and leaves all else with its older date.
"""

import argparse
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
ROUNDS = 5
RATIO = ("ratio", "of fastest", "goal", "reached", "differ by")
START = """# Results

Figures as measured. Each part was written by the script named above it, on the day and the machine
under its name (`make bench` runs all scripts, and a script writes what it measured and nothing
else). Times are medians of rounds in which all sides take turns, with the fastest and the slowest
round in brackets; "of fastest" is the ratio of the fastest rounds, and a goal for a ratio is
reached only if both ratios reach it. Parts that are older than this form have no brackets.
"""


@dataclass
class Page:
    """What a part found: printed at once, kept until it is written."""

    lines: list[str] = field(default_factory=list)
    missed: bool = False
    peers: tuple[str, ...] = ()

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self._add("" if self.lines else None, text)

    def table(self, *head: str) -> None:
        """Begin a table; rows follow."""
        self._add("" if self.lines else None, _row(head), "|---" * len(head) + "|")

    def row(self, *cells: object) -> None:
        """Add a row to the table."""
        self._add(_row(map(str, cells)))

    def verdict(self, reached: bool) -> str:
        """Return the cell for a goal; one that is missed is remembered."""
        self.missed |= not reached
        return "yes" if reached else "**no**"

    def ratios(self, unit: str, *, ours: str = "ours", peer: str = "peer") -> None:
        """Begin a table for `compare`."""
        self.table("what", f"{peer}, {unit}", f"{ours}, {unit}", *RATIO)

    def compare(
        self,
        what: str,
        theirs: Sequence[float],
        ours: Sequence[float],
        *,
        goal: float,
        by: str = "-",
        times: float = 1,
    ) -> None:
        """Add a row for two sides' seconds. A negative goal: how much of the peer's time at most.

        Seconds are shown multiplied by `times`.
        """
        both = [np.median(theirs) / np.median(ours), min(theirs) / min(ours)]
        reached = all(1 / r <= -goal if goal < 0 else r >= goal for r in both)
        shown = [f"{1 / r:.2f} of it" if goal < 0 else f"{short(r, 3)}x" for r in both]
        aim = f"at most {-goal:g} times" if goal < 0 else f">= {goal:g}x"
        cells = (spread(theirs, times), spread(ours, times), *shown)
        self.row(what, *cells, aim, self.verdict(reached), by)

    def _add(self, *lines: str | None) -> None:
        for line in lines:
            if line is not None:
                self.lines.append(line)
                print(line, flush=True)


@dataclass(frozen=True)
class Benchmark:
    """A script: what it claims, its parts, and why a goal of a part is missed, where one is."""

    file: str
    title: str
    parts: Mapping[str, Callable[[Page, argparse.Namespace], None]]
    why: Mapping[str, str] = field(default_factory=dict)
    versions: tuple[str, ...] = ()

    def parser(self, doc: str | None) -> argparse.ArgumentParser:
        """Return a parser with the options that all scripts have."""
        parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
        names = list(self.parts)
        parser.add_argument("--rows", nargs="+", choices=names, default=names, help="parts to run")
        parser.add_argument(
            "--results", type=Path, default=RESULTS, help="the file to write into (RESULTS.md)"
        )
        return parser

    def run(self, options: argparse.Namespace, arguments: Sequence[str] | None = None) -> None:
        """Run the chosen parts, and write each as soon as it is there."""
        name = Path(self.file).stem
        said = sys.argv[1:] if arguments is None else arguments
        for part in options.rows:
            torch.set_num_threads(1)
            page, load = Page(), os.getloadavg()[0]
            self.parts[part](page, options)
            if page.missed and part in self.why:
                page.text(self.why[part])
            machine = describe(load, (*self.versions, *page.peers))
            self.write(name, part, [command(name, said), machine, "", *page.lines], options.results)

    def write(self, name: str, part: str, lines: Sequence[str], results: Path) -> None:
        """Replace one part of this script's section, or add it."""
        text = results.read_text(encoding="utf-8") if results.exists() else START
        head = f"## {self.title}: `python benchmarks/{name}.py`\n"
        section = between(text, name) or head
        section = re.sub(r"\A## .*\n", lambda _: head, section)
        order = [f"{name}: {key}" for key in self.parts]
        section = replaced(section, f"{name}: {part}", "\n".join(lines), order)
        whole = replaced(text, name, section, scripts())
        temporary = results.with_name(f".{results.name}.{os.getpid()}")
        temporary.write_text(whole, encoding="utf-8")
        temporary.replace(results)


def scripts() -> list[str]:
    """Return the names of the benchmarks: all scripts here but those with an underscore."""
    return sorted(path.stem for path in HERE.glob("[!_]*.py"))


def between(text: str, name: str) -> str | None:
    """Return what stands between the markers of that name, or None."""
    found = re.search(_pattern(name), text, re.DOTALL)
    return None if found is None else found[1]


def replaced(text: str, name: str, body: str, order: Sequence[str]) -> str:
    """Put `body` between the markers of that name, which come in the given order."""
    block = f"<!-- {name} -->\n{body.strip()}\n<!-- end of {name} -->\n"
    if between(text, name) is not None:
        return re.sub(_pattern(name), lambda _: block, text, flags=re.DOTALL)
    for later in order[order.index(name) + 1 :]:
        if (place := text.find(f"<!-- {later} -->")) >= 0:
            return f"{text[:place]}{block}\n{text[place:]}"
    return f"{text.rstrip()}\n\n{block}"


def _pattern(name: str) -> str:
    return f"<!-- {re.escape(name)} -->\n(.*?)<!-- end of {re.escape(name)} -->\n"


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def command(name: str, arguments: Sequence[str]) -> str:
    """Return the command line of a run whose options are not the defaults, or nothing.

    Of a path only the name is told, and nothing of where the results went.
    """
    pairs = zip(["", *arguments], arguments, strict=False)
    told = [word for before, word in pairs if "--results" not in (before, word)]
    said = " ".join(shlex.quote(Path(word).name) for word in told)
    return f"`python benchmarks/{name}.py {said}`  " if said else ""


def describe(load: float, versions: Sequence[str]) -> str:
    """Return a line on day, machine, load and versions; what has no version is given as it is."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists() and (found := re.search(r"model name\s*: (.*)", info.read_text())):
        cpu = found[1]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    named = [v if "==" in v else f"{v}=={metadata.version(v)}" for v in ("numpy", *versions)]
    kinds = (platform.system(), platform.release().split("-")[0])
    gpu = ""
    if torch.cuda.is_available():
        gpu = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, "
    return (
        f"{date.today().isoformat()}; {os.cpu_count()} cores ({cpu}), load {load:.1f} to "
        f"{os.getloadavg()[0]:.1f}, {memory:.0f} GiB, {gpu}{' '.join(kinds)}, Python "
        f"{platform.python_version()}, torch {torch.__version__}, "
        f"{', '.join(v.replace('==', ' ') for v in named)}."
    )


def spread(values: Sequence[float], times: float = 1) -> str:
    """Return the median, and the least and the largest in brackets, of values multiplied."""
    middle, least, most = (times * float(f(values)) for f in (np.median, min, max))
    return f"{short(middle, 4)} ({short(least, 3)} to {short(most, 3)})"


def short(value: float, digits: int) -> str:
    """Return so many digits, and all of those before the point."""
    return f"{value:.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def in_turn(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.process_time,
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Return each side's seconds, round by round after one to warm up, and what it found.

    The `clock` is that of CPU time unless another is given.
    """
    times: dict[str, list[float]] = {side: [] for side in calls}
    found = {side: call() for side, call in calls.items()}
    for side, call in list(calls.items()) * rounds:
        start = clock()
        call()
        times[side].append(clock() - start)
    return times, found
