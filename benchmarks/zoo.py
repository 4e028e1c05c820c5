"""Claim: small models are trained several times faster together than one by one.

    python benchmarks/zoo.py [--rows forms ratio throughput memory]

One thread, CPU seconds, the digits, batches of 64, 300 updates of Adam with weight decay, all with
the evaluation on the training and test images at the end. The peer is what one would write: an
nn.Module and torch.optim, one model after the other, on batches that were drawn beforehand; once
with Adam as it comes and once with ``fused=True``, which few know of and which is faster on a CPU.
All sides take turns, five rounds, and the ratio is of the medians; that of the fastest rounds
stands beside it.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial

import pandas as pd
import torch
from _record import Benchmark, Page, in_turn
from torch import nn
from torch.nn import functional

from wskit.data import load_dataset
from wskit.zoo import MLP, SmallCNN, train_zoo

UPDATES, BATCH = 300, 64
MODELS = {"SmallCNN": SmallCNN(), "MLP": MLP()}
GOALS = {"SmallCNN": (2.5, 200), "MLP": (5.5, 1300)}

MEMORY = """
import resource, sys
from types import SimpleNamespace
import pandas as pd, torch
from wskit.zoo import SmallCNN, train_zoo

torch.set_num_threads(1)
x, y = torch.rand(64, 1, 8, 8), torch.arange(64) % 10
data = SimpleNamespace(train_x=x, train_y=y, test_x=x, test_y=y)
zoo = train_zoo(SmallCNN(), data, pd.DataFrame({"epochs": [2.0] * int(sys.argv[1])}))
assert len(zoo) == int(sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def table(n: int, n_images: int, **columns: object) -> pd.DataFrame:
    epochs = UPDATES * BATCH / n_images
    found = pd.DataFrame({"epochs": [epochs] * n, "weight_decay": 1e-4, "learning_rate": 0.003})
    return found.assign(**columns)


def peer(make: Callable[[], nn.Module], data: object, fused: bool) -> list[float]:
    """Train one model as plain PyTorch does, and evaluate it."""
    module = make()
    kernels = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim == 1]
    groups = [{"params": kernels, "weight_decay": 1e-4}, {"params": others}]
    optimizer = torch.optim.Adam(groups, lr=0.003, fused=fused or None)
    images = data.train_x
    batches = torch.randint(0, len(images), (UPDATES, BATCH), device=images.device)
    for batch in batches:
        optimizer.zero_grad()
        functional.cross_entropy(module(data.train_x[batch]), data.train_y[batch]).backward()
        optimizer.step()
    found = []
    with torch.no_grad():
        for x, y in ((data.train_x, data.train_y), (data.test_x, data.test_y)):
            logits = module(x)
            found.append(functional.cross_entropy(logits, y).item())
            found.append((logits.argmax(1) == y).float().mean().item())
    return found


def forms(page: Page, options: argparse.Namespace) -> None:
    """Compare forms and sizes of blocks."""
    data = load_dataset("digits")
    page.text(
        "Models per CPU-minute, by how many are trained together; the default is 32. Stacked: the "
        f"network's own forward pass; vmap: its plain module under `torch.func.vmap`. {HOW}"
    )
    page.table("model", "form", "block", "models per CPU-minute")
    for name, model in MODELS.items():
        for size, n in ((1, 4), (8, 128), (16, 128), (32, 128), (64, 128), (128, 128)):
            rows = table(n, len(data.train_x))
            calls = {
                form: partial(train_zoo, made, data, rows, block_size=size)
                for form, made in (("vmap", model.module), ("stacked", model))
            }
            times, _ = in_turn(calls, 2)
            for form, seconds in times.items():
                page.row(name, form, size, rates(seconds, n))


def ratio(page: Page, options: argparse.Namespace) -> None:
    """Compare a zoo with plain PyTorch."""
    data = load_dataset("digits")
    page.text(f"Against nn.Module and torch.optim, one model after the other; s a model. {HOW}")
    page.ratios("s")
    for name, model in MODELS.items():
        rows, goal = table(64, len(data.train_x)), GOALS[name][0]
        calls = {
            "ours": partial(train_zoo, model, data, rows),
            "Adam": partial(peer, model.module, data, False),
            "fused Adam": partial(peer, model.module, data, True),
        }
        times, _ = in_turn(calls)
        ours = [seconds / len(rows) for seconds in times.pop("ours")]
        for side, theirs in times.items():
            page.compare(f"{name}, {side}", theirs, ours, goal=goal)


def throughput(page: Page, options: argparse.Namespace) -> None:
    """Count models a minute."""
    data = load_dataset("digits")
    page.text(f"Throughput at the default. {HOW}")
    page.table("model", "dropout", "models a CPU-minute", "goal", "reached")
    for name, model in MODELS.items():
        for dropout in (0.0, 0.3):
            rows = table(128, len(data.train_x), dropout=dropout)
            runs, _ = in_turn({"ours": partial(train_zoo, model, data, rows)}, 3)
            goal = GOALS[name][1]
            verdict = page.verdict(60 * len(rows) / statistics.median(runs["ours"]) >= goal)
            page.row(name, dropout, rates(runs["ours"], len(rows)), f">= {goal}", verdict)


def rates(seconds: list[float], n: int) -> str:
    """Return models a minute, the median with the slowest and the fastest."""
    middle, most, least = (60 * n / f(seconds) for f in (statistics.median, min, max))
    return f"{middle:.0f} ({least:.0f} to {most:.0f})"


def memory(page: Page, options: argparse.Namespace) -> None:
    """Measure a process that trains ten thousand models."""

    def peak(n: int) -> float:
        command = [sys.executable, "-c", MEMORY, str(n)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    small, large = peak(32), peak(10_000)
    page.text("Models of 4 970 parameters, two epochs of one batch, a process each:")
    page.table("models", "peak of the process, MiB", "goal", "reached")
    page.row(32, f"{small:.0f}", "", "")
    page.row("10 000", f"{large:.0f}", "under 1000 in all", page.verdict(large < 1000))


HOW = (
    f"The digits, batches of {BATCH}, {UPDATES} updates of Adam with weight decay, and evaluation."
)
TITLE = "Zoos against a loop"
PARTS = {"forms": forms, "ratio": ratio, "throughput": throughput, "memory": memory}
BENCHMARK = Benchmark(__file__, TITLE, PARTS)


def main(arguments: Sequence[str] | None = None) -> None:
    BENCHMARK.run(BENCHMARK.parser(__doc__).parse_args(arguments), arguments)


if __name__ == "__main__":
    main()
