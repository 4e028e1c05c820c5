"""Claims: a GPU pays where work is large, and nothing is slower on it than on the CPU beside it.

    python benchmarks/gpu.py [--rows eigenvalues spectra zoo plane averages distances
    weightwatcher]

Wall seconds, the GPU waited for; all sides take turns, after one call each to warm up. The CPU has
all of its cores unless one thread is named. Without a CUDA device it says so and measures nothing.
"""

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import _record
import numpy as np
import pandas as pd
import torch
from _record import Benchmark, Page, spread
from geometry import MILLION, loop, random_weights
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_swa_multi_avg_fn
from zoo import MODELS, peer, table

import wskit.averaging as avg
import wskit.geometry as geo
from wskit.data import load_dataset
from wskit.features import spectral_table
from wskit.fits import fit_power_law
from wskit.landscape import loss_plane, module_metrics, plane_through, zoo_metrics
from wskit.spectra import spectra
from wskit.zoo import MLP, SmallCNN, train_zoo

# A block of each: BERT's small sibling, GPT-2, and a Llama of seven billion parameters.
TRANSFORMERS = {
    "MiniLM-L6, whole": [(384, 384)] * 24 + [(1536, 384)] * 12,
    "GPT-2, whole": [(2304, 768), (768, 768), (3072, 768), (3072, 768)] * 12,
    "7B, one block of 32": [(4096, 4096)] * 4 + [(11008, 4096)] * 3,
}


def waited() -> float:
    """Return wall seconds, once the GPU has done all that it was told."""
    torch.cuda.synchronize()
    return time.perf_counter()


in_turn = partial(_record.in_turn, clock=waited)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def difference(a: Any, b: Any) -> str:
    """Largest difference, over the largest value."""
    a, b = (np.concatenate([np.ravel(v) for v in values]) for values in (a, b))
    return f"{np.abs(a - b).max() / np.abs(b).max():.0e}"


def eigenvalues(page: Page, options: argparse.Namespace) -> None:
    """Time the eigensolver by itself: whether stacks of small matrices should go to the CPU."""
    page.text(
        "`torch.linalg.eigvalsh` in float64 by itself, ms; the Gram matrices lie on the GPU, and "
        "the CPU's time is that of taking them there and of one thread."
    )
    page.table("side", "matrices", "GPU, ms", "CPU, ms", "GPU's share of it")
    for M, counts in {
        8: (1, 64, 4096), 16: (1, 64, 4096), 32: (1, 64, 2048), 33: (64,), 64: (1, 64, 512),
        128: (1, 16, 128), 256: (1, 8, 32), 384: (1, 8), 512: (1, 8), 768: (1, 4), 1024: (1,),
        2048: (1,),
    }.items():  # fmt: skip
        for n in counts:
            W = normal(n, 2 * M, M).double().cuda()
            gram = W.mT @ W
            times, _ = in_turn(
                {
                    "GPU": lambda g=gram: torch.linalg.eigvalsh(g).cpu(),
                    "CPU": lambda g=gram: torch.linalg.eigvalsh(g.cpu()),
                },
                3,
            )
            share = np.median(times["GPU"]) / np.median(times["CPU"])
            page.row(M, n, spread(times["GPU"], 1e3), spread(times["CPU"], 1e3), f"{share:.2g}")


def spectra_(page: Page, options: argparse.Namespace) -> None:
    """Compare spectra on both, of single matrices and of whole networks."""
    torch.set_num_threads(os.cpu_count() or 1)
    page.text(
        "`spectrum` of n x n matrices in float32 and `spectra` of networks with random weights, "
        "which lie on the CPU, or for the GPU on the GPU; seconds. Goal: 5x for sides of 1 024 "
        'and more, and never slower. "Differ by" is over the largest eigenvalue.'
    )
    page.ratios("s", ours="GPU", peer="CPU")
    cases: dict[str, tuple[float, Mapping[str, Tensor]]] = {}
    for n in (64, 256, 512, 1024, 2048, 4096):
        cases[f"{n} x {n}"] = (5 if n >= 1024 else 1, {"W": normal(n, n)})
    cnn = {f"conv{i}.weight": normal(64, 64, 3, 3, seed=i) for i in range(18)}
    cases["18 convolutions 64 x 64 x 3 x 3"] = (1, cnn)
    for name, shapes in TRANSFORMERS.items():
        many = {f"layer{i}.weight": normal(*shape, seed=i) for i, shape in enumerate(shapes)}
        cases[name] = (5 if "7B" in name else 1, many)
    for name, (goal, weights) in cases.items():
        there = {key: W.cuda() for key, W in weights.items()}
        sides = {"CPU": partial(spectra, weights), "GPU": partial(spectra, there)}
        times, found = in_turn(sides, 2 if "7B" in name else 3)
        by = difference(*([s.eigenvalues for s in found[side]] for side in ("GPU", "CPU")))
        page.compare(name, times["CPU"], times["GPU"], goal=goal, by=by)


def zoo(page: Page, options: argparse.Namespace) -> None:
    """Train zoos in blocks of several sizes, beside a plain loop on the same GPU."""
    data = load_dataset("digits")
    names = ("train_x", "train_y", "test_x", "test_y")
    there = SimpleNamespace(**{name: getattr(data, name).cuda() for name in names})
    page.text(
        "300 updates of Adam on batches of 64 digits, as in `zoo.py`; seconds a model. The plain "
        "loop is an nn.Module and torch.optim on the same GPU, one model after the other (two "
        "models); the CPU trains 32 at a time on one thread."
    )
    page.table("model", "side", "block", "s a model", "plain loop, fused", "goal", "reached")
    for name, model in MODELS.items():
        loops = {
            "plain loop, Adam": lambda m=model: peer(lambda: m.module().cuda(), there, False),
            "plain loop, fused Adam": lambda m=model: peer(lambda: m.module().cuda(), there, True),
        }
        times, _ = in_turn(loops, 2)
        for side, seconds in times.items():
            page.row(name, side, 1, spread(seconds), "", "", "")
        best = np.median(times["plain loop, fused Adam"])
        rows = table(32, len(data.train_x))
        times, _ = in_turn({"CPU": partial(train_zoo, model, data, rows)}, 1)
        each = [s / 32 for s in times["CPU"]]
        page.row(name, "CPU, one thread", 32, spread(each), f"{best / np.median(each):.3g}", "", "")
        for size in (32, 512, 4096):
            rows = table(size, len(data.train_x))
            train = partial(train_zoo, model, data, rows, block_size=size, device="cuda")
            times, _ = in_turn({"GPU": train}, 1)
            each = [s / size for s in times["GPU"]]
            ratio = best / np.median(each)
            goal = (">= 100x", page.verdict(ratio >= 100)) if size == 4096 else ("", "")
            page.row(name, "GPU", size, spread(each), f"{ratio:.3g}x", *goal)


def plane(page: Page, options: argparse.Namespace) -> None:
    """Compare planes of losses with a loop on the same GPU."""
    data = load_dataset("digits")
    x = torch.cat([data.test_x, data.train_x])[:797].cuda()
    y = torch.cat([data.test_y, data.train_y])[:797].cuda()
    page.text(
        "`loss_plane` of 441 points and 797 digits, as in `geometry.py`, against a loop of "
        "`load_state_dict` and evaluation, all on the GPU; seconds."
    )
    page.ratios("s", peer="loop")
    for name, model in {"SmallCNN": SmallCNN(), "MLP": MLP((64, 64, 64, 10))}.items():
        trained = train_zoo(model, data, pd.DataFrame({"epochs": [3.0] * 3}))
        corners = [{k: W.cuda() for k, W in trained.model(row).items()} for row in range(3)]
        module = model.module().eval().cuda()
        through = plane_through(*corners)
        points = np.stack(np.meshgrid(*through.grid()), -1).reshape(-1, 2)
        mixes = through.coefficients(points)
        sides = {"the loop": partial(loop, module, corners, mixes, x, y)}
        for form, evaluate in {
            "zoo_metrics": zoo_metrics(model, x, y),
            "module_metrics": module_metrics(module, x, y),
        }.items():
            sides[form] = lambda e=evaluate, c=corners: loss_plane(e, *c).losses
        times, found = in_turn(sides)
        theirs = times.pop("the loop")
        for form, ours in times.items():
            by = difference([found[form]], [found["the loop"]])
            page.compare(f"{name}, {form}", theirs, ours, goal=10, by=by)


def averages(page: Page, options: argparse.Namespace) -> None:
    """Add a model to a mean on the GPU, beside torch's and beside a copy."""
    network = nn.Sequential(*(nn.Linear(2048, 2048) for _ in range(24))).cuda()
    weights = network.state_dict()
    vector = torch.cat([W.flatten() for W in weights.values()])
    target = torch.empty_like(vector)
    times, _ = in_turn({"copy": lambda: target.copy_(vector)}, 20)
    rate = 2 * vector.nbytes / min(times["copy"]) / 1e9
    page.text(
        f"A model of {len(vector) / 1e6:.0f} million float32 parameters added to a mean, ms. A "
        f"copy of it on the GPU moves {rate:.0f} GB/s; adding it reads the model and the mean and "
        f"writes the mean, {1.5 * min(times['copy']) * 1e3:.2g} ms at that rate."
    )
    page.ratios("ms")
    mean = avg.RunningMean()
    sides = {"ours": lambda: mean.add(network.state_dict())}
    kinds = {
        "AveragedModel": {},
        "with multi_avg_fn": {"multi_avg_fn": get_swa_multi_avg_fn()},
    }
    for kind, how in kinds.items():
        averaged = AveragedModel(network, **how)
        sides[kind] = partial(averaged.update_parameters, network)
    models = [{k: W + 0.01 * i for k, W in weights.items()} for i in range(8)]
    sides["stack and mean of 8"] = lambda: {
        k: torch.stack([m[k] for m in models]).mean(0) for k in models[0]
    }
    sides["average of 8"] = lambda: avg.average(models)
    times, _ = in_turn(sides, 10)
    ours = times.pop("ours")
    page.compare(
        "average of 8, stack and mean",
        times.pop("stack and mean of 8"), times.pop("average of 8"), goal=1, times=1e3,
    )  # fmt: skip
    for kind, theirs in times.items():
        page.compare(kind, theirs, ours, goal=1, times=1e3)


def distances(page: Page, options: argparse.Namespace) -> None:
    """Compare all distances of 200 models of a million parameters."""
    torch.set_num_threads(os.cpu_count() or 1)
    models = [random_weights(MILLION, seed) for seed in range(200)]
    there = [{k: W.cuda() for k, W in model.items()} for model in models]
    stack = torch.stack([torch.cat([W.flatten() for W in model.values()]) for model in there])
    page.text(
        "`weight_distances` of 200 models of 1 001 738 float32 parameters, seconds, on the CPU, "
        "by `torch.cdist` of vectors on the GPU, and ours on the GPU."
    )
    page.ratios("s", ours="GPU")
    sides = {
        "GPU": lambda: geo.weight_distances(there).euclidean(),
        "CPU": lambda: geo.weight_distances(models).euclidean(),
        "cdist, float32": lambda: torch.cdist(stack, stack).cpu(),
        "cdist, float64": lambda: torch.cdist(stack.double(), stack.double()).cpu(),
    }
    times, found = in_turn(sides, 3)
    ours = times.pop("GPU")
    for side, theirs in times.items():
        by = difference([found["GPU"]], [found[side]])
        page.compare(side, theirs, ours, goal=1, by=by)


def weightwatcher(page: Page, options: argparse.Namespace) -> None:
    """Compare what WeightWatcher and we find on the GPU with singular values in float64."""
    try:
        from weightwatcher import WeightWatcher
    except ImportError:
        page.text("WeightWatcher is not installed in this environment; nothing was compared.")
        return
    page.peers = ("weightwatcher",)
    shapes = [(1024, 256), (1024, 1024), (2048, 512), (3072, 768)]
    rng = np.random.default_rng(0)
    network = nn.Sequential(*(nn.Linear(*shape, bias=False) for shape in shapes)).cuda()
    with torch.no_grad():
        for layer in network:
            layer.weight.copy_(torch.as_tensor(0.02 * rng.standard_t(3, layer.weight.shape)))
    page.text(
        f"{len(shapes)} dense layers with Student-t entries, which lie on the GPU; the largest "
        "relative error of a layer's column, beside numpy's singular values in float64 and the "
        "power law of powerlaw's convention fitted to them. WeightWatcher takes the weights to "
        'float16 there, if told `svd_method="fast"`.'
    )
    weights = {name: W.detach() for name, W in network.state_dict().items()}

    def columns(each: Sequence[np.ndarray], alpha: pd.Series) -> pd.DataFrame:
        rows = [(e[-1], e.sum() / e[-1], e[0]) for e in each]
        table = pd.DataFrame(rows, columns=["lambda_max", "stable_rank", "sv_min"])
        return table.assign(sv_min=np.sqrt(table.sv_min), alpha=alpha.to_numpy())

    values = [W.cpu().double().numpy() for W in weights.values()]
    squares = [np.sort(np.linalg.svd(W, compute_uv=False)) ** 2 for W in values]
    exact = columns(squares, pd.Series([fit_power_law(e).alpha for e in squares]))
    own = [s.eigenvalues for s in spectra(weights)]
    page.table("side", "largest eigenvalue", "stable rank", "smallest singular value", "alpha")
    for side, found in {
        "ours": columns(own, spectral_table(weights)["alpha"]),
        "WeightWatcher": WeightWatcher(model=network).analyze(),
        'WeightWatcher, "fast"': WeightWatcher(model=network).analyze(svd_method="fast"),
    }.items():
        errors = [np.abs(found[c].to_numpy() / exact[c].to_numpy() - 1).max() for c in exact]
        page.row(side, *(f"{error:.0e}" for error in errors))


TITLE = "On a GPU"
PARTS = {
    "eigenvalues": eigenvalues,
    "spectra": spectra_,
    "zoo": zoo,
    "plane": plane,
    "averages": averages,
    "distances": distances,
    "weightwatcher": weightwatcher,
}
WHY = {
    "averages": "`average` starts a kernel for each model and tensor, from Python, where a stack "
    "of all models takes two for each tensor, and their memory once more. It and the running mean "
    "also look for NaN in every model, which the others do not.",
    "distances": "`torch.cdist` needs all models as one matrix on the GPU, which is not in its "
    "time; ours reads state dicts, and copies them there block by block.",
}
BENCHMARK = Benchmark(__file__, TITLE, PARTS, WHY)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = BENCHMARK.parser(__doc__)
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        parser.exit(message="torch finds no CUDA device here; nothing was measured.\n")
    BENCHMARK.run(options, arguments)


if __name__ == "__main__":
    main()
