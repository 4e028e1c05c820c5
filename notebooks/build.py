"""Build the executed tutorials from their sources, or check that they agree.

    python notebooks/build.py [--check | --text | --time] [NAME ...]

``src/NN_name.py`` (py:percent, with the tags of `wskit.course.TAGS`, say
``# %% tags=["solution"]``) becomes ``NN_name.ipynb``: run top to bottom in a new kernel, outputs
kept, and everything dropped that would differ in a rebuild on the same machine or that only a
running kernel could show. ``# %% tolerance=0.2`` tells the tests by how much its numbers may differ
on another processor, where 0.1 % is not enough. A NAME is the whole of a name or its beginning
(``01``). With
``--check`` nothing is run: the cells of each source and notebook must be the same. With ``--text``
nothing is run either: prose, tags and order of markdown are taken over, outputs stay, and a
notebook whose code has changed is refused. With ``--time`` the seconds that each took and the
memory that its kernel had at most are written to ``timings.json``; use it on a quiet machine.

Two words in prose are filled in: ``{{run_time}}`` from ``timings.json``, and ``{{claims}}`` from
the outputs of all cells tagged ``claims``, so that no figure is copied by hand.

What a source says beyond its text comes from its tags. ``solution`` and ``hide-input`` cells are
folded; the first line, which still shows, must say what is behind it (``# Solution 1.2 (click to
open)``). The build stops, and leaves the old notebook as it was, on an unknown tag, a solution
without its tag, an error, anything on stderr, an absolute path or a memory address in an output,
a picture over 100 dpi, or a notebook over 1 MB.

The kernel runs this checkout's wskit with OMP_NUM_THREADS=1 and PYTHONHASHSEED=0. WSKIT_MIRROR,
WSKIT_CACHE and WSKIT_OFFLINE are passed on as the caller has set them.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import os
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from PIL import Image

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from wskit.course import CLAIM_COLUMNS, TAGS  # noqa: E402 - of this checkout, whatever else is installed

MAX_BYTES = 1_000_000
MAX_DPI = 100
CELL_TIMEOUT = 300  # seconds
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
SOLUTION_CODE = re.compile(r"# Solution \d+\.\d+ \(click to open\)\n.")
SOLUTION_TEXT = re.compile(r"<details>\s*<summary>Solution \d+\.\d+")
LOOKS_LIKE_SOLUTION = re.compile(r"(# |<summary>)\s*solution\b", re.IGNORECASE)
# The look-behinds keep URLs and base64 data apart from paths.
MACHINE_BOUND = {
    "an absolute path": re.compile(
        r"(?<![\w+/=.:])/(?:work|root|home|tmp|Users|private|var|opt|usr)/|(?<!\w)[A-Z]:\\"
    ),
    "a memory address": re.compile(r"\b0x[0-9a-f]{7,}\b"),
}


PEAK = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
RUN_TIME, CLAIMS = "{{run_time}}", "{{claims}}"


class BuildError(Exception):
    """A notebook that cannot be built as it stands: where, and why."""


def sources(folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """Return the sources in ``folder/src`` that begin with one of `names`; without any, all."""
    found = sorted((folder / "src").glob("[0-9][0-9]_*.py"))
    for name in names:
        if not any(path.stem.startswith(name) for path in found):
            raise BuildError(f"no source named {name}* in {folder / 'src'}")
    return [path for path in found if not names or path.stem.startswith(tuple(names))]


def read_source(path: Path) -> Any:
    """Read a source as a notebook that has not been run, checked, folded and with stable ids."""
    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {
                "display_name": "Python 3 (ipykernel)",
                "language": "python",
                "name": "python3",
            },
            "language_info": {"name": "python"},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells):
        _check_tags(cell, f"{path.name}, cell {number}")
        for key in cell.metadata.keys() - {"tags", "tolerance"}:
            del cell.metadata[key]  # jupytext's notes on blank lines
        if cell.cell_type == "code" and {"solution", "hide-input"} & _tags(cell):
            cell.metadata["jupyter"] = {"source_hidden": True}
    for cell, name in zip(notebook.cells, _cell_ids(notebook.cells), strict=True):
        cell.id = name
    for cell in notebook.cells:  # afterwards: an id hangs on what was written, not on a figure
        if cell.cell_type == "markdown":
            cell.source = _filled_in(cell.source, path)
    return notebook


def _filled_in(text: str, source: Path) -> str:
    """Put the measured time and the gathered claims where a source asks for them."""
    folder = source.parent.parent
    if RUN_TIME in text:
        text = text.replace(RUN_TIME, in_words(measured(folder)[source.stem]["seconds"]))
    if CLAIMS in text:
        text = text.replace(CLAIMS, gathered_claims(folder))
    return text


def measured(folder: Path) -> defaultdict[str, dict[str, float]]:
    """Return seconds and MiB of each page, as they were recorded; 0 of one that never was."""
    path = folder / "timings.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return defaultdict(lambda: {"seconds": 0.0, "mib": 0.0}, found)


def in_words(seconds: float) -> str:
    """Say how long a page takes, no finer than it can be told."""
    if seconds < 55:
        return f"{max(10, 10 * round(seconds / 10))} seconds"
    minutes = max(1, round(seconds / 60))
    return "1 minute" if minutes == 1 else f"{minutes} minutes"


def gathered_claims(folder: Path) -> str:
    """Return one table of the claims of all notebooks in a folder, as they were printed."""
    rows = [f"| | {' | '.join(CLAIM_COLUMNS)} |", "|---" * (1 + len(CLAIM_COLUMNS)) + "|"]
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if "claims" in _tags(cell) and cell.cell_type == "code":
                tables = [o.data["text/markdown"] for o in cell.outputs if "data" in o]
                lines = [line for table in tables for line in table.splitlines()[2:]]
                rows += [f"| [{path.name[:2]}]({path.name}) {line}" for line in lines]
    return "\n".join(rows)


def build(source: Path, target: Path) -> float:
    """Execute a source and write it as a notebook, atomically.

    Parameters
    ----------
    source
        A py:percent file.
    target
        The notebook; its folder is where the kernel runs.

    Returns
    -------
    float
        The memory that the kernel had at most, in MiB.

    Raises
    ------
    BuildError
        If the result is not fit to be kept; `target` is then left as it was.
    """
    notebook = read_source(source)
    peak = _execute(notebook, source.name, target.parent)
    _normalise(notebook, source.name)
    nbformat.validate(notebook)
    text = as_text(notebook)
    if len(text.encode()) > MAX_BYTES:
        raise BuildError(
            f"{source.name}: the notebook has {len(text.encode()):,} bytes, at most "
            f"{MAX_BYTES:,} are allowed: draw fewer or smaller figures"
        )
    _replace(target, text)
    return peak


def take_over_text(source: Path, target: Path) -> None:
    """Bring a notebook's prose and tags up to date; its code has not changed, its outputs stay.

    Raises
    ------
    BuildError
        If a cell of code differs, other than in its tags.
    """
    notebook = read_source(source)
    old = nbformat.read(target, as_version=4)
    new_code, old_code = ([c for c in n.cells if c.cell_type == "code"] for n in (notebook, old))
    if [c.source for c in new_code] != [c.source for c in old_code]:
        raise BuildError(f"{source.name}: code has changed, so it must be run: build it")
    for new, before in zip(new_code, old_code, strict=True):
        new.outputs, new.execution_count = before.outputs, before.execution_count
    nbformat.validate(notebook)
    _replace(target, as_text(notebook))


def _replace(target: Path, text: str) -> None:
    temporary = target.with_name(f".{target.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(target)


def differences(source: Path, target: Path) -> list[str]:
    """Return where a source and its notebook differ, in words; code, prose, ids and tags count."""
    if not target.exists():
        return [f"{target.name} does not exist"]
    wanted = read_source(source).cells
    found = nbformat.read(target, as_version=4).cells
    differing = [
        f"{target.name}, cell {number}: differs from {source.name}"
        for number, (one, other) in enumerate(zip(wanted, found, strict=False))
        if _essence(one) != _essence(other)
    ]
    if len(wanted) != len(found):
        differing.append(f"{target.name} has {len(found)} cells, {source.name} {len(wanted)}")
    return differing


def as_text(notebook: Any) -> str:
    """Return the bytes-for-bytes form in which a notebook is stored."""
    return str(nbformat.writes(notebook)).rstrip("\n") + "\n"


def _tags(cell: Any) -> set[str]:
    return set(cell.metadata.get("tags", []))


def _essence(cell: Any) -> tuple[object, ...]:
    return cell.cell_type, cell.source, cell.metadata, cell.id


def _check_tags(cell: Any, where: str) -> None:
    """Refuse what would let a solution reach a student, or a cell escape the tests."""
    unknown = _tags(cell) - TAGS.keys()
    if unknown:
        raise BuildError(
            f"{where}: unknown tag {', '.join(sorted(unknown))}; there are {', '.join(TAGS)}"
        )
    tolerance = cell.metadata.get("tolerance", 1.0)
    if type(tolerance) not in (int, float) or not tolerance > 0:
        raise BuildError(f"{where}: a tolerance is a number above 0, got {tolerance!r}")
    if "NBVAL_" in cell.source:
        raise BuildError(f"{where}: use a tag instead of an NBVAL_ comment")
    if "solution" not in _tags(cell):
        if LOOKS_LIKE_SOLUTION.match(cell.source) or SOLUTION_TEXT.search(cell.source):
            raise BuildError(f"{where}: looks like a solution, but is not tagged so")
    elif cell.cell_type == "code" and not SOLUTION_CODE.match(cell.source):
        raise BuildError(f"{where}: a solution begins '# Solution 1.2 (click to open)'")
    elif cell.cell_type != "code" and not SOLUTION_TEXT.match(cell.source):
        raise BuildError(f"{where}: a solution in words begins <details><summary>Solution 1.2")
    if "hide-input" in _tags(cell) and not cell.source.startswith("# "):
        raise BuildError(f"{where}: a folded cell begins with a comment that says what it does")


def _cell_ids(cells: Iterable[Any]) -> Iterator[str]:
    """Yield an id a cell from its content, so that an edit changes no other cell's id."""
    seen: Counter[str] = Counter()
    for cell in cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[digest] += 1
        yield digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"


def _execute(notebook: Any, name: str, folder: Path) -> float:
    """Run all cells; return the memory that the kernel had at most, in MiB."""
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONHASHSEED="0")
    environment.pop("MPLBACKEND", None)  # the kernel's own, which draws into the notebook
    paths = [str(ROOT), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
        store_widget_state=False,
    )
    notebook.cells.append(nbformat.v4.new_code_cell(PEAK))
    try:
        client.execute(env=environment)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise BuildError(f"{name}: {error}") from error
    return int(notebook.cells.pop().outputs[0].text) / 2**10  # of KiB, as Linux has it


def _normalise(notebook: Any, name: str) -> None:
    """Drop what a rebuild would change; refuse what does not belong into a stored output."""
    notebook.metadata.language_info = nbformat.from_dict({"name": "python"})
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        where = f"{name}, cell {number}"
        for output in cell.outputs:
            if output.get("name") == "stderr":
                raise BuildError(f"{where} writes to stderr: {output.text.strip()[:500]}")
            data = output.get("data", {})
            # The model's id is random, and without a kernel there is no such model: the static
            # picture beside it is what a reader of the stored page can see.
            data.pop(WIDGET_VIEW, None)
            if "image/png" in data:
                data["image/png"] = _plain_png(data["image/png"], where)
            _check_machine_bound(output, where)


def _plain_png(encoded: str, where: str) -> str:
    """Encode a picture anew, without the program's version, the date and the like."""
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        dpi = max(image.info.get("dpi", (0, 0)))
        if round(dpi) > MAX_DPI:
            raise BuildError(f"{where}: a picture of {dpi:.0f} dpi, at most {MAX_DPI} are allowed")
        plain = io.BytesIO()
        pixels = image.convert("RGBA")
        pixels.info.clear()
        pixels.save(plain, "PNG", optimize=True)
    return base64.b64encode(plain.getvalue()).decode()


def _check_machine_bound(output: Any, where: str) -> None:
    texts = [output.get("text", ""), *output.get("data", {}).values()]
    for text in texts:
        for what, pattern in MACHINE_BOUND.items():
            if isinstance(text, str) and (match := pattern.search(text)):
                line = text[max(0, match.start() - 40) : match.end() + 40].strip()
                raise BuildError(f"{where} shows {what}: {line!r}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Build or check the notebooks named on the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Build the tutorials from their sources.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="01_esd, or 01; default: all")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--check", action="store_true", help="compare only; nothing is run")
    how.add_argument("--text", action="store_true", help="take over prose; nothing is run")
    how.add_argument("--time", action="store_true", help="record how long each takes")
    options = parser.parse_args(arguments)
    try:
        differing = []
        # What gathers from the others comes after them.
        for source in sorted(sources(HERE, options.names), key=_gathers):
            target = HERE / f"{source.stem}.ipynb"
            if options.check:
                differing += differences(source, target)
            elif options.text:
                take_over_text(source, target)
            else:
                _build_and_tell(source, target, record=options.time)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    if differing:
        print(*differing, "run `make notebooks`", sep="\n", file=sys.stderr)
    return 1 if differing else 0


def _gathers(source: Path) -> bool:
    return CLAIMS in source.read_text(encoding="utf-8")


def _build_and_tell(source: Path, target: Path, *, record: bool) -> None:
    start = time.monotonic()
    peak = build(source, target)
    seconds = time.monotonic() - start
    size = f"{target.stat().st_size:,} bytes"
    print(f"{target.name}: {seconds:.1f} s, {peak:.0f} MiB of memory, {size}")
    if record:
        found = {source.stem: {"seconds": round(seconds, 1), "mib": round(peak)}}
        text = json.dumps(measured(target.parent) | found, indent=1, sort_keys=True)
        _replace(target.parent / "timings.json", f"{text}\n")
        take_over_text(source, target)  # which says how long it took


if __name__ == "__main__":
    sys.exit(main())
