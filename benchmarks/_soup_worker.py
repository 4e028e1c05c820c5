"""One side of `soup_files.py`, in a process of its own: merges files, prints seconds as JSON.

    python _soup_worker.py SIDE OUT BASE INGREDIENT...

What a side imports is imported before the clock starts. mergekit's side runs in mergekit's Python,
so that nothing of wskit is imported outside its own.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

Side = Callable[[list[str], str, str], None]
DENSITY, SEED = 0.2, 0


def wskit(rule: str, coefficients: list[float] | None = None) -> Side:
    """Merge lazily, save; rule is uniform, ties or dare."""
    import threadpoolctl  # noqa: F401

    from wskit import averaging, checkpoints

    open_checkpoint, merge = (
        checkpoints.open_checkpoint,
        {
            "uniform": lambda models, _: averaging.average(models, coefficients, lazy=True),
            "ties": partial(averaging.merge_ties, density=DENSITY, lazy=True),
            "dare": partial(averaging.merge_dare, density=DENSITY, seed=SEED, lazy=True),
        }[rule],
    )

    def run(ingredients: list[str], base: str, out: str) -> None:
        models = [open_checkpoint(path) for path in ingredients]
        opened = open_checkpoint(base) if rule != "uniform" else None
        checkpoints.save_weights(merge(models, opened), out)

    return run


def stack() -> Side:
    from safetensors.torch import load_file, save_file

    def run(ingredients: list[str], base: str, out: str) -> None:
        models = [load_file(path) for path in ingredients]
        names = models[0]
        save_file({k: torch.stack([m[k] for m in models]).mean(dim=0) for k in names}, out)

    return run


def script() -> Side:
    """Return the arithmetic of the model soups' reference script: v * (1 / n) + u."""
    from safetensors.torch import load_file, save_file

    def run(ingredients: list[str], base: str, out: str) -> None:
        n, soup = len(ingredients), {}
        for path in ingredients:
            model = load_file(path)
            if soup:
                soup = {k: v.clone() * (1.0 / n) + soup[k] for k, v in model.items()}
            else:
                soup = {k: v.clone() * (1.0 / n) for k, v in model.items()}
        save_file(soup, out)

    return run


def averaged_model() -> Side:
    from safetensors.torch import load_file, save_file
    from torch import nn
    from torch.optim.swa_utils import AveragedModel

    def run(ingredients: list[str], base: str, out: str) -> None:
        names = list(load_file(ingredients[0]))
        soup = None
        for path in ingredients:
            model = nn.Module()
            values = load_file(path)
            model.weights = nn.ParameterList([nn.Parameter(values[k]) for k in names])
            soup = AveragedModel(model) if soup is None else soup
            soup.update_parameters(model)
        save_file({k: p.data for k, p in zip(names, soup.module.weights, strict=True)}, out)

    return run


def mergekit(rule: str) -> Side:
    from mergekit.graph import Executor
    from mergekit.io import LazyTensorLoader, ShardedTensorIndex
    from mergekit.options import MergeOptions
    from mergekit.scripts import merge_raw_pytorch as raw

    def run(ingredients: list[str], base: str, out: str) -> None:
        parameters = {"density": DENSITY, "weight": 1.0} if rule != "uniform" else {"weight": 1.0}
        config = raw.RawPyTorchMergeConfig(
            merge_method={"uniform": "linear", "ties": "ties", "dare": "dare_linear"}[rule],
            models=[raw.InputModelDefinition(model=path) for path in ingredients],
            parameters=parameters,
            base_model=None if rule == "uniform" else base,
        )
        for path in [*ingredients, base]:
            if Path(path).is_dir():  # its command takes files only, its loader folders too
                index = ShardedTensorIndex.from_disk(path)
                raw.SimpleLoaderCache().loaders[path] = LazyTensorLoader(index)
        options = MergeOptions(random_seed=SEED, quiet=True)
        options.apply_global_options()
        tasks = raw.plan_flat_merge(config, out, False, False, options)
        Executor(tasks, math_device="cpu", storage_device="cpu").execute()

    return run


SIDES: dict[str, Callable[[], Side]] = {
    "wskit": partial(wskit, "uniform"),
    "wskit, weighted": partial(wskit, "uniform", [0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]),
    "wskit, ties": partial(wskit, "ties"),
    "wskit, dare": partial(wskit, "dare"),
    "mergekit": partial(mergekit, "uniform"),
    "mergekit, ties": partial(mergekit, "ties"),
    "mergekit, dare": partial(mergekit, "dare"),
    "stack and mean": stack,
    "reference script": script,
    "AveragedModel": averaged_model,
}


def anonymous() -> float:
    """Return the MiB of memory that are the process's own; mapped files are not among them."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def main() -> None:
    side, out, base, *ingredients = sys.argv[1:]
    imported = anonymous()  # of torch alone
    merge = SIDES[side]()
    start, cpu = time.perf_counter(), sum(os.times()[:2])
    merge(ingredients, base, out)
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - start,
                "cpu": sum(os.times()[:2]) - cpu,
                "torch": imported,
            }
        )
    )


if __name__ == "__main__":
    main()
