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
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _record import Benchmark, Page, in_turn, spread
from spectral import resnet20
from torch import Tensor, nn

import wskit.geometry as geo
from wskit.data import load_dataset
from wskit.landscape import loss_plane, module_metrics, plane_through, zoo_metrics
from wskit.zoo import MLP, SmallCNN, train_zoo

N_MODELS, BLOCK = 200, 2**24  # the last is the default of weight_distances
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


def random_weights(model: MLP, seed: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=rng) for name, shape in model.shapes.items()}


def distances(page: Page, options: argparse.Namespace) -> None:
    """Compare all distances of 200 models with loops, and look at the memory."""
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
    page.text(
        f"`weight_distances` of {N_MODELS} models of 1 001 738 parameters in float32. The loops' "
        f'seconds are extrapolated: those of {len(pairs)} pairs, times {times_more:.1f}. "Differ '
        'by" is the largest relative difference.'
    )
    page.ratios("s", peer="loop")
    for side, sampled in times.items():
        by = f"{np.abs(found[side] / expected - 1).max():.0e}"
        page.compare(side, [s * times_more for s in sampled], ours, goal=20, by=by)
    page.text(
        f"Memory beyond the models, in blocks of {BLOCK / 2**20:.0f} MiB (the default), a fresh "
        'process each; "mapped" is with `MALLOC_MMAP_THRESHOLD_=65536`, so that the C library '
        "gives back at once what is freed."
    )
    page.table("C library", "rise of the peak, blocks")
    # The C library keeps freed blocks at will; below, it gives back all that is above 64 KiB.
    for kind, extra in {"as it is": {}, "mapped": {"MALLOC_MMAP_THRESHOLD_": "65536"}}.items():
        how = {"cwd": Path(__file__).parent, "env": os.environ | extra, "capture_output": True}
        run = subprocess.run([sys.executable, "-c", PEAK_PROBE], check=True, **how)
        page.row(kind, f"{float(run.stdout):.2f}")


def loop(module: nn.Module, corners: list, mixes: np.ndarray, x: Tensor, y: Tensor) -> np.ndarray:
    losses, accuracies, (w1, w2, w3) = [], [], corners
    with torch.no_grad():
        for a, b, c in mixes.tolist():
            module.load_state_dict({k: a * w1[k] + b * w2[k] + c * w3[k] for k in w1})
            logits = module(x)
            losses.append(nn.functional.cross_entropy(logits, y).item())
            accuracies.append((logits.argmax(1) == y).float().mean().item())
    return np.array(losses).reshape(21, 21)


def plane(page: Page, options: argparse.Namespace) -> None:
    """Compare planes of losses with a loop of `load_state_dict` and evaluation."""
    data = load_dataset("digits")
    x = torch.cat([data.test_x, data.train_x])[:797]
    y = torch.cat([data.test_y, data.train_y])[:797]
    page.text(
        "`loss_plane` of 441 points, 797 digits, three trained models, against a loop of "
        "`load_state_dict` and evaluation. The MLP is 64-64-64-10. Nothing is extrapolated."
    )
    page.ratios("s", peer="loop")
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
            by = f"{np.abs(found[form] / expected - 1).max():.0e}"
            page.compare(f"{name}, {form}", theirs, ours, goal=1, by=by)


def matching(page: Page, options: argparse.Namespace) -> None:
    """Recover planted permutations."""
    page.text(
        "Planted permutations of random weights, ten seeds. The ResNet-20 has Student-t weights "
        "and no batch norms, whose initial values would tell nothing; the MLP is "
        "784-512-512-512-10 with normal weights."
    )
    page.table("network", "recovered exactly", "one match, s", "goal", "reached")
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
        page.row(name, f"{exact} of 10", spread(times), "all", page.verdict(exact == 10))


TITLE = "Distances, planes and matching"
PARTS = {"distances": distances, "plane": plane, "matching": matching}
WHY = {
    "distances": "Against loops in float32, 20x is out of reach: BLAS's dsyrk in float64 alone "
    "took 1.0 s of our 1.7 s (2026-11-24). The loop over state dicts in float64 is not well "
    "known: it was 18 and 40 times as slow as ours on two days, and one whole loop in a process "
    "of its own took four times as long as extrapolated. The cause was not isolated (large "
    "temporaries that the C library maps anew each time are suspected).",
    "plane": "vmap depends on what ran before in the process (2026-11-24: without the distances "
    "before it, the SmallCNN took 0.4x and the MLP 1.1x of the loop's), and is not the "
    "default on a CPU. By default a SmallCNN is level with the loop (of the fastest rounds "
    "0.92x to 1.18x in three runs), as nearly all of the time is that of its convolutions; "
    "a GPU gives more (`gpu.py`).",
}
BENCHMARK = Benchmark(__file__, TITLE, PARTS, WHY)


def main(arguments: Sequence[str] | None = None) -> None:
    BENCHMARK.run(BENCHMARK.parser(__doc__).parse_args(arguments), arguments)


if __name__ == "__main__":
    main()
