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
import time
from collections.abc import Callable

import pandas as pd
import torch
from torch import nn
from torch.nn import functional

from wskit.data import load_dataset
from wskit.zoo import MLP, Compute, SmallCNN, train_zoo

UPDATES, BATCH, ROUNDS = 300, 64, 5
MODELS = {"SmallCNN": SmallCNN(), "MLP": MLP()}
GOALS = {"SmallCNN": (2.5, 200), "MLP": (5.5, 1300)}

MEMORY = """
import resource, sys
from types import SimpleNamespace
import pandas as pd, torch
from wskit.zoo import Compute, SmallCNN, train_zoo

torch.set_num_threads(1)
x, y = torch.rand(64, 1, 8, 8), torch.arange(64) % 10
data = SimpleNamespace(train_x=x, train_y=y, test_x=x, test_y=y)
zoo = train_zoo(SmallCNN(), data, pd.DataFrame({"epochs": [2.0] * int(sys.argv[1])}))
assert len(zoo) == int(sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def cpu_seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


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
    batches = torch.randint(0, len(data.train_x), (UPDATES, BATCH))
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


def forms(data: object) -> None:
    print("\n| model | form | block | models a CPU-minute |\n|---|---|---|---|")
    for name, model in MODELS.items():
        cases = [("loop", 1, 4)]
        cases += [
            (form, size, 128) for form in ("vmap", "batched") for size in (8, 16, 32, 64, 128)
        ]
        for form, size, n in cases:
            compute = Compute(form, size)
            rows = table(n, len(data.train_x))
            seconds = min(
                cpu_seconds(lambda c=compute, r=rows, m=model: train_zoo(m, data, r, compute=c))
                for _ in range(2)
            )
            print(f"| {name} | {form} | {size} | {60 * n / seconds:.0f} |", flush=True)


def ratio(data: object) -> None:
    print("\n| model | peer | peer, s | ours, s | ratio | of fastest | goal | reached |")
    print("|---|---|---|---|---|---|---|---|")
    for name, model in MODELS.items():
        rows, goal = table(64, len(data.train_x)), GOALS[name][0]
        calls = {
            "ours": lambda r=rows, m=model: train_zoo(m, data, r),
            "Adam": lambda m=model: peer(m.module, data, False),
            "fused Adam": lambda m=model: peer(m.module, data, True),
        }
        times = {side: [] for side in calls}
        for _ in range(ROUNDS):
            for side, call in calls.items():
                share = len(rows) if side == "ours" else 1
                times[side].append(cpu_seconds(call) / share)
        ours = times.pop("ours")
        for side, theirs in times.items():
            found = statistics.median(theirs) / statistics.median(ours)
            fastest = min(theirs) / min(ours)
            reached = "yes" if min(found, fastest) >= goal else "no"
            print(
                f"| {name} | {side} | {statistics.median(theirs):.3f} | "
                f"{statistics.median(ours):.4f} | {found:.1f}x | {fastest:.1f}x | >= {goal}x | "
                f"{reached} |",
                flush=True,
            )


def throughput(data: object) -> None:
    print("\n| model | dropout | models a CPU-minute | goal | reached |\n|---|---|---|---|---|")
    for name, model in MODELS.items():
        for dropout in (0.0, 0.3):
            rows = table(128, len(data.train_x), dropout=dropout)
            runs = [cpu_seconds(lambda r=rows, m=model: train_zoo(m, data, r)) for _ in range(3)]
            rate = 60 * len(rows) / statistics.median(runs)
            goal = GOALS[name][1]
            reached = "yes" if rate >= goal else "no"
            print(f"| {name} | {dropout} | {rate:.0f} | >= {goal} | {reached} |", flush=True)


def memory(data: object) -> None:
    def peak(n: int) -> float:
        command = [sys.executable, "-c", MEMORY, str(n)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    small, large = peak(32), peak(10_000)
    print(
        f"\nMemory: the process peaked at {large:.0f} MiB for 10 000 models of 4 970 parameters "
        f"and at {small:.0f} MiB for 32 (goal: under 1000 MiB in all)."
    )


def main() -> None:
    rows = {"forms": forms, "ratio": ratio, "throughput": throughput, "memory": memory}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=rows, default=list(rows))
    chosen = parser.parse_args().rows
    torch.set_num_threads(1)
    data = load_dataset("digits")
    for name in chosen:
        rows[name](data)


if __name__ == "__main__":
    main()
