"""What nbval leaves open: load with ``-p tests.nbval_plugin --nbval`` from the repository's root.

nbval 0.11 runs a notebook and compares its outputs with the stored ones. On top of that, here

- numbers with decimals may differ by a relative 1e-3 (another BLAS); integers and text may not;
- in a cell tagged ``approximate``, they may differ by 0.15, or by 15 % of
  themselves: training in float32 goes another way on another processor;
- runs of spaces count as one, since a table's padding follows its numbers;
- a cell that was never run fails: nbval would compare nothing and pass;
- a kernel that died is reported within a second or two, not after the cell's time-out;
- anything on stderr fails;
- pictures count as pictures: how many there are is compared, and that each is a PNG. What is in
  them is compared through the description that the cell prints;
- HTML, SVG and JavaScript are not compared: the text beside them is, and holds no random ids.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from functools import partial
from queue import Empty
from typing import Any

import pytest
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell, IPyNbFile

RELATIVE_TOLERANCE = 1e-3
APPROXIMATE = {"rel_tol": 0.15, "abs_tol": 0.15}
NOT_COMPARED = ("text/html", "image/svg+xml", "application/javascript")
PNG_IN_BASE64 = "iVBORw0KGgo"  # the first eight bytes of every PNG
# A number by itself: not the 20 of resnet20, nor any part of a version like 2.13.0.
NUMBER = re.compile(r"(?<![\w.])([-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)(?!\w|\.\d)", re.IGNORECASE)


class Close(str):
    """Text that equals another if its words are the same and its decimal numbers are close."""

    tolerance: Mapping[str, float] = {"rel_tol": RELATIVE_TOLERANCE}

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


def _close(one: str, other: str, tolerance: Mapping[str, float]) -> bool:
    """Compare two numbers as printed; both must have decimals or an exponent."""
    if not all(set(text.lower()) & set(".e") for text in (one, other)):
        return False
    return math.isclose(float(one), float(other), **tolerance)


class Approximate(Close):
    """Text of a cell whose numbers are another sample on another processor."""

    tolerance = APPROXIMATE


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
        return (Approximate if "approximate" in self.cell.metadata.get("tags", []) else Close)(
            clean
        )


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
