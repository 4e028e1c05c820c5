"""Tutorial 06 with checkpoints of one's own: every form of them, and larger than what it may take.

The cells of the source run one after the other in a process of its own, as they do in a kernel.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from notebook_kit import NOTEBOOKS, ROOT
from torch import nn

from wskit._base.weights import DerivedWeights
from wskit.checkpoints import save_weights

SOURCE = NOTEBOOKS / "src" / "06_your_own_model.py"

# Runs the cells for each of several settings of the first lines; those that do not hang on these
# run once. Asked to be brief, it leaves out the controls and exercises, which do not either.
RUNNER = """
import io, json, resource, sys
from contextlib import redirect_stdout
import jupytext, torch

source, settings, brief = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3] == "brief"
cells = [c for c in jupytext.read(source, fmt="py:percent").cells if c.cell_type == "code"]
stop = next(i for i, c in enumerate(cells) if c.source.startswith('kinds = {"before"'))
lines = next(i for i, c in enumerate(cells) if c.source.startswith("CHECKPOINT = None"))
yours = next(i for i, c in enumerate(cells) if "if CHECKPOINT is None:" in c.source)

def run(cells, space):
    for cell in cells:
        exec(compile(cell.source, cell.source.splitlines()[0], "exec"), space)
        space["plt"].close("all")

start = {}
run([cells[0]], start)
exec("N_SEEDS = 2", start)
run(cells[lines + 1 : yours], start)
found = {}
for label, setting in settings.items():
    space, said = dict(start), io.StringIO()
    run([cells[lines]], space)
    exec("N_SEEDS = 2\\n" + setting, space)
    with redirect_stdout(said):
        run(cells[yours : stop if brief else None], space)
    found[label] = said.getvalue()
peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"said": found, "peak": peak}))
"""


def pages(settings: dict[str, str], folder: Path, *, brief: bool, timeout: int) -> dict:
    """Run the page with each of some first lines; return what each said, and the peak memory."""
    environment = {"MPLBACKEND": "agg", "WSKIT_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", RUNNER, str(SOURCE), json.dumps(settings), "brief" if brief else ""],
        cwd=folder,
        env={**os.environ, **environment, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def tiny() -> nn.Sequential:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Flatten(), nn.Linear(600, 60), nn.ReLU(), nn.Linear(60, 4))
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), *dense)


MODULE = """
import torch
from torch import nn
CHECKPOINT = nn.Sequential(nn.Linear(70, 60).float(), nn.Linear(60, 4).half())
"""


def test_every_form_of_a_checkpoint_comes_through(tmp_path):
    weights = tiny().state_dict()
    other = {name: W + 0.01 if W.is_floating_point() else W for name, W in weights.items()}
    save_weights(weights, tmp_path / "own.safetensors")
    save_weights(other, tmp_path / "other", shard_size=20_000)
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "own.pt")
    said = pages(
        {
            "file": 'CHECKPOINT = "own.safetensors"',
            "torch": 'CHECKPOINT = "own.pt"',
            "folder": 'CHECKPOINT = "other"',
            "module": MODULE,
            "mapping": "import torch\nCHECKPOINT = {'only': torch.randn(8, 90).float()}",
            "two": 'CHECKPOINT, OTHER = "own.safetensors", "other"\n'
            "def evaluate(weights):\n    return float(weights['3.weight'].square().sum())",
        },
        tmp_path,
        brief=True,
        timeout=300,
    )["said"]
    for label, text in said.items():
        alone = label != "two"
        for words in (
            "There is no second checkpoint",
            "No barrier: it takes",
            "No greedy soup:",
            "Nothing to merge",
        ):
            assert (words in text) is alone, (label, words)
        assert ("in the greedy soup:" in text) is not alone
        assert "equal to the helper: False" not in text
        assert "report.html: " in text
    assert "metadata: {'epoch': 3}" in said["torch"]
    assert "4 files" in said["folder"]  # three shards, and their index
    assert "0 files" in said["module"]
    assert re.search(r"half|float16", said["module"])
    assert re.search(r"^only matrix +\(8, 90\) float32", said["mapping"], re.MULTILINE)
    assert "int64" in said["two"]
    assert said["two"].count("equal to the helper: True") == said["file"].count("True") + 2


def test_the_first_lines_are_what_a_reader_changes():
    text = SOURCE.read_text(encoding="utf-8")
    for name in ("CHECKPOINT", "OTHER", "evaluate"):
        assert len(re.findall(rf"^{name} = None", text, re.MULTILINE)) == 1


N_LAYERS, SHAPE = 16, (32_768, 512)


class Large(DerivedWeights):
    """A gigabyte of float32, made layer by layer; with another step it differs a little."""

    def __init__(self, step: float) -> None:
        names = (f"layer.{i}.weight" for i in range(N_LAYERS))
        super().__init__({name: torch.empty(SHAPE, device="meta") for name in names})
        self.step = step

    def __getitem__(self, name: str) -> torch.Tensor:
        draw = torch.Generator().manual_seed(int(name.split(".")[1]))
        W = torch.randn(SHAPE, generator=draw)
        return W + self.step * torch.outer(W[:, 0], W[0])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units")
def test_two_gigabytes_in_less_than_two(tmp_path):
    for name, step in (("own", 0.0), ("other", 0.05)):
        path = save_weights(Large(step), tmp_path / name, shard_size=300 * 10**6)
        assert sum(file.stat().st_size for file in path.iterdir()) > 2**30
    settings = (
        'CHECKPOINT, OTHER = "own", "other"\n'
        "def evaluate(weights):\n"
        '    return float(weights["layer.3.weight"].square().mean())'
    )
    found = pages({"large": settings}, tmp_path, brief=False, timeout=1800)
    said, peak = found["said"]["large"], found["peak"]
    assert peak < 2 * 10**9, f"{peak / 1e9:.2f} GB"
    assert "16 tensors, 1073.74 MB" in said
    for merge in ("uniform", "task-vectors", "greedy"):
        assert re.search(rf"{merge} +16 1073\.74 MB", said), said
