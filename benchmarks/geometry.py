"""Claims: distances, landscapes and matchings cost less than the loops that one would write.

    OMP_NUM_THREADS=1 python benchmarks/geometry.py [--rows distances plane matching]

One thread, CPU seconds. All sides take turns, five rounds after one to warm up, and the ratio is of
the medians; that of the fastest rounds stands beside it, and a goal is reached if both reach it. A
loop over all pairs of 200 models is extrapolated from three rows of the triangle of pairs, gone
through in the loop's order. Memory is measured on Linux only, as it is read from ``/proc``.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from spectral import resnet20
from torch import Tensor, nn

import wskit.geometry as geo
from wskit.data import load_dataset
from wskit.landscape import loss_plane, module_metrics, plane_through, zoo_metrics
from wskit.zoo import MLP, SmallCNN, train_zoo

HEAD = "\n| what | loop, s | ours, s | ratio | of fastest | goal | reached | differ by |\n"
ROUNDS, N_MODELS, BLOCK = 5, 200, 2**24  # the last is the default of weight_distances
MILLION = MLP((784, 768, 512, 10))  # 1 001 738 parameters

PEAK_PROBE = """
import torch
from geometry import BLOCK, MILLION, N_MODELS, geo, random_weights

def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024

torch.set_num_threads(1)
models = [random_weights(MILLION, seed) for seed in range(N_MODELS)]
geo.weight_distances([{"w": torch.rand(300)} for _ in models])  # pays for what is set up once
open("/proc/self/clear_refs", "w").write("5")  # the peak begins at what is held now
start, _ = peak(), geo.weight_distances(models, block_bytes=BLOCK)
print((peak() - start) / BLOCK)
"""


def in_turn(calls: Mapping[str, Callable]) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    """Return each side's CPU seconds, round by round, and what it found."""
    times: dict[str, list[float]] = {side: [] for side in calls}
    found = {side: call() for side, call in calls.items()}
    for side, call in list(calls.items()) * ROUNDS:
        start = time.process_time()
        call()
        times[side].append(time.process_time() - start)
    return times, found


def row(what: str, theirs: list[float], ours: list[float], goal: float, by: np.ndarray) -> None:
    medians = np.median(theirs), np.median(ours)
    both = medians[0] / medians[1], min(theirs) / min(ours)
    shown = f"{medians[0]:.2f} | {medians[1]:.2f} | {both[0]:.2f}x | {both[1]:.2f}x | >= {goal}x"
    reached = "yes" if min(both) >= goal else "**no**"
    print(f"| {what} | {shown} | {reached} | {np.abs(by - 1).max():.0e} |", flush=True)


def random_weights(model: MLP, seed: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=rng) for name, shape in model.shapes.items()}


def distances() -> None:
    models = [random_weights(MILLION, seed) for seed in range(N_MODELS)]
    vectors = [torch.cat([t.flatten() for t in model.values()]) for model in models]
    pairs = [(i, j) for i in (0, 66, 133) for j in range(i + 1, N_MODELS)]
    times_more = N_MODELS * (N_MODELS - 1) / 2 / len(pairs)

    def norm(i: int, j: int, dtype: torch.dtype) -> float:
        both = zip(models[i].values(), models[j].values(), strict=True)
        return float(sum((a.to(dtype) - b.to(dtype)).square().sum() for a, b in both)) ** 0.5

    sides = {
        "ours": lambda: geo.weight_distances(models).euclidean(),
        "state dicts, float64 as ours": lambda: np.array([norm(*p, torch.float64) for p in pairs]),
        "state dicts, float32": lambda: np.array([norm(*p, torch.float32) for p in pairs]),
        "vectors, float32": lambda: np.array([(vectors[i] - vectors[j]).norm() for i, j in pairs]),
    }
    times, found = in_turn(sides)
    ours, expected = times.pop("ours"), found["ours"][tuple(zip(*pairs, strict=True))]
    print(f"\nThe loop's seconds are those of {len(pairs)} pairs, times {times_more:.1f}.")
    print(HEAD + "|---" * 8 + "|")
    for side, sampled in times.items():
        row(side, [s * times_more for s in sampled], ours, 20, found[side] / expected)
    # The C library keeps freed blocks at will; below, it gives back all that is above 64 KiB.
    for kind, extra in {"as it is": {}, "mapped": {"MALLOC_MMAP_THRESHOLD_": "65536"}}.items():
        how = {"cwd": Path(__file__).parent, "env": os.environ | extra, "capture_output": True}
        run = subprocess.run([sys.executable, "-c", PEAK_PROBE], check=True, **how)
        print(f"\nMemory, {kind}: the peak rose by {float(run.stdout):.2f} blocks.", flush=True)


def loop(module: nn.Module, corners: list, mixes: np.ndarray, x: Tensor, y: Tensor) -> np.ndarray:
    losses, accuracies, (w1, w2, w3) = [], [], corners
    with torch.no_grad():
        for a, b, c in mixes.tolist():
            module.load_state_dict({k: a * w1[k] + b * w2[k] + c * w3[k] for k in w1})
            logits = module(x)
            losses.append(nn.functional.cross_entropy(logits, y).item())
            accuracies.append((logits.argmax(1) == y).float().mean().item())
    return np.array(losses).reshape(21, 21)


def plane() -> None:
    data = load_dataset("digits")
    x = torch.cat([data.test_x, data.train_x])[:797]
    y = torch.cat([data.test_y, data.train_y])[:797]
    print(HEAD + "|---" * 8 + "|")
    for name, model in {"SmallCNN": SmallCNN(), "MLP": MLP((64, 64, 64, 10))}.items():
        zoo = train_zoo(model, data, pd.DataFrame({"epochs": [10.0] * 3, "learning_rate": 0.003}))
        corners, module = [zoo.model(row) for row in range(3)], model.module().eval()
        through = plane_through(*corners)
        points = np.stack(np.meshgrid(*through.grid()), -1).reshape(-1, 2)
        sides = {"the loop": partial(loop, module, corners, through.coefficients(points), x, y)}
        for form, evaluate in {
            "zoo_metrics": zoo_metrics(model, x, y),
            "module_metrics": module_metrics(module, x, y),
            "module_metrics, vmap": module_metrics(module, x, y, form="vmap"),
        }.items():
            sides[form] = lambda e=evaluate, c=corners: loss_plane(e, *c).losses
        times, found = in_turn(sides)
        theirs, expected = times.pop("the loop"), found["the loop"]
        for form, ours in times.items():
            row(f"{name}, {form}", theirs, ours, 1, found[form] / expected)


def matching() -> None:
    print("\n| network | recovered exactly | one match, s | slowest, s |\n" + "|---" * 4 + "|")
    mlp = partial(random_weights, MLP((784, 512, 512, 512, 10)))
    symmetries_of = {"ResNet-20": geo.resnet_symmetries, "MLP, h = 512": geo.sequential_symmetries}
    for name, make in {"ResNet-20": resnet20, "MLP, h = 512": mlp}.items():
        times, exact = [], 0
        for seed in range(10):
            reference = make(seed=seed)
            symmetries = symmetries_of[name](reference)
            planted = geo.random_permutations(reference, symmetries, seed=seed + 10)
            permuted = geo.apply_permutation(reference, planted, symmetries)
            start = time.process_time()
            found = geo.match_weights(permuted, reference, symmetries, seed=seed).weights
            times.append(time.process_time() - start)
            exact += all(torch.equal(found[k], reference[k]) for k in reference)
        print(f"| {name} | {exact} of 10 | {np.median(times):.3f} | {max(times):.3f} |")


def main() -> None:
    rows = {"distances": distances, "plane": plane, "matching": matching}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=rows, default=list(rows))
    torch.set_num_threads(1)
    for name in parser.parse_args().rows:
        rows[name]()


if __name__ == "__main__":
    main()
