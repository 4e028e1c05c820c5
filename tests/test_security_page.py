"""SECURITY.md: the tests that it names are there, and what it says is not met is so."""

import ast
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wskit.checkpoints import save_weights

TESTS = Path(__file__).parent
TEXT = (TESTS.parent / "SECURITY.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", TEXT)


def functions(file: Path) -> set[str]:
    """Names of a file's tests, without importing it."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef)}


def rows() -> dict[str, str]:
    """What is in the last column of the table, by threat."""
    lines = [line for line in TEXT.splitlines() if line.startswith("| ")][1:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert all(len(each) == 3 for each in cells)
    return {threat: shown for threat, _, shown in cells}


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_every_named_test_is_there(file: str) -> None:
    named = {name for each, name in NAMED if each == file}
    assert all(name.startswith("test_") for name in named)
    assert named <= functions(TESTS / file)


def test_every_threat_has_a_test() -> None:
    assert len(rows()) >= 15
    for threat, shown in rows().items():
        assert re.fullmatch(r"`[\w/]+\.py::\w+`(, `[\w/]+\.py::\w+`)*", shown), threat


def test_a_test_that_is_gone_would_be_missed() -> None:
    assert "test_there_is_no_such_test" not in functions(Path(__file__))
    assert "test_every_threat_has_a_test" in functions(Path(__file__))


READER = """
import os, sys
from wskit.checkpoints import open_checkpoint
from wskit.errors import CheckpointError

path, mapped = sys.argv[1], sys.argv[2] == "mapped"
with open_checkpoint(path, mapped=mapped) as weights:
    assert float(weights.rows("w", 3, 4).sum()) == 1024.0
    os.truncate(path, 4096)
    assert int(weights["n"]) == 3
    try:
        print(float(weights["w"].sum()))
    except CheckpointError as error:
        print(error)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="there is no such signal here")
@pytest.mark.parametrize("how", ["mapped", "unmapped"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_file_that_is_cut_short_while_it_is_read(how: str, suffix: str, tmp_path: Path) -> None:
    path, weights = tmp_path / f"x{suffix}", {"w": torch.ones(2**10, 2**10), "n": torch.tensor(3)}
    save_weights(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    command = [sys.executable, "-W", "ignore", "-c", READER, str(path), how]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if how == "mapped":
        assert found.returncode == -signal.SIGBUS
    else:
        assert found.returncode == 0, found.stderr
        assert found.stdout.startswith(f"{path}, tensor 'w'")
        assert "the file was changed or replaced after it was opened" in found.stdout
