"""What nbval leaves open: load with ``-p tests.nbval_plugin --nbval`` from the repository's root.

nbval 0.11 runs a notebook and compares its outputs with the stored ones. On top of that, here

- numbers with decimals may differ by a relative 1e-3 (another processor's sums), or by one in the
  last decimal that is printed (a tie that is rounded the other way); integers and text may not;
- in a cell whose source says ``tolerance=0.2``, they may differ by as much: what it prints hangs
  on a training that is chaotic even in float64, and varies more than this from seed to seed;
- runs of spaces count as one, since a table's padding follows its numbers;
- a cell that was never run fails: nbval would compare nothing and pass;
- a kernel that died is reported within a second or two, not after the cell's time-out;
- anything on stderr fails;
- pictures count as pictures: how many there are is compared, and that each is a PNG. What is in
  them is compared through the description that the cell prints;
- HTML, SVG and JavaScript are not compared: the text beside them is, and holds no random ids;
- the notebooks that take longest begin first, so that two workers end at about the same time.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell, IPyNbFile

RELATIVE_TOLERANCE = 1e-3
NOT_COMPARED = ("text/html", "image/svg+xml", "application/javascript")
PNG_IN_BASE64 = "iVBORw0KGgo"  # the first eight bytes of every PNG
# A number by itself: not the 20 of resnet20, nor any part of a version like 2.13.0.
NUMBER = re.compile(r"(?<![\w.])([-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)(?!\w|\.\d)", re.IGNORECASE)


class Close(str):
    """Text that equals another if its words are the same and its decimal numbers are close."""

    tolerance: float = 0.0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str):
            return NotImplemented
        # With one group in the pattern, split() puts the numbers at the odd places.
        mine, theirs = (NUMBER.split(re.sub(" +", " ", text)) for text in (self, other))
        return len(mine) == len(theirs) and all(
            a == b or (place % 2 == 1 and _close(a, b, self.tolerance))
            for place, (a, b) in enumerate(zip(mine, theirs, strict=True))
        )

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


def _close(one: str, other: str, tolerance: float) -> bool:
    """Compare two numbers as printed; both must have decimals or an exponent."""
    if not all(set(text.lower()) & set(".e") for text in (one, other)):
        return False
    steps = [10.0 ** Decimal(text).as_tuple().exponent for text in (one, other)]
    absolute = 1.001 * max(tolerance, *steps)
    return math.isclose(float(one), float(other), rel_tol=RELATIVE_TOLERANCE, abs_tol=absolute)


class Notebook(IPyNbFile):
    """A notebook whose kernel is watched and whose cells are `Cell`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.skip_compare = (*(set(self.skip_compare) - {"image/png"}), *NOT_COMPARED)

    def setup(self) -> None:
        super().setup()
        self.kernel.await_reply = partial(await_reply, self.kernel)

    def collect(self) -> Iterator[Cell]:
        for cell in super().collect():
            yield Cell.from_parent(
                self, name=cell.name, cell_num=cell.cell_num, cell=cell.cell, options=cell.options
            )


class Cell(IPyNbCell):
    """A code cell with the checks of this module."""

    def runtest(self) -> None:
        if self.cell.source.strip() and self.cell.execution_count is None:
            self.raise_cell_error("This cell was never run: there is nothing to compare with")
        super().runtest()
        for output in (*self.cell.outputs, *self.test_outputs):
            if output.get("name") == "stderr":
                self.raise_cell_error("This cell writes to stderr", output.text)

    def sanitize(self, s: Any) -> Any:
        if isinstance(s, str) and s.startswith(PNG_IN_BASE64):
            return "a PNG picture"
        clean = super().sanitize(s)
        if not isinstance(clean, str):
            return clean
        text = Close(clean)
        text.tolerance = self.cell.metadata.get("tolerance", 0.0)
        return text


def await_reply(kernel: RunningKernel, msg_id: str, timeout: float | None = None) -> None:
    """Wait for the reply to a cell; unlike nbval's own, notice that the kernel has died."""
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    while time.monotonic() < deadline:
        alive = kernel.is_alive()  # asked first: a last reply may still be on its way
        try:
            message = kernel.get_message(stream="shell", timeout=1)
        except Empty:
            if not alive:
                raise RuntimeError("the kernel died while it ran this cell") from None
            continue
        if message["parent_header"].get("msg_id") == msg_id:
            if message["content"]["status"] == "aborted":
                raise RuntimeError("the kernel refused to run this cell")
            return
    raise Empty


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Any, parent: Any) -> Any:
    """Put a `Notebook` in the place of each that nbval collects."""
    return [
        Notebook.from_parent(parent, path=file_path) if isinstance(found, IPyNbFile) else found
        for found in (yield)
    ]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the cells of the longest notebooks first."""
    path = Path(__file__).parents[1] / "notebooks" / "timings.json"
    times = json.loads(path.read_text(encoding="utf-8"))
    items.sort(key=lambda item: -times.get(item.path.stem, {"seconds": 0.0})["seconds"])
