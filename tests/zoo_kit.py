"""Makers of small zoos in every layout that `load_zoo` reads."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from wskit.zoo import Zoo

EPOCHS = (0, 1, 2, 3, 20, 40, 60, 80, 86)
# The Small CNN Zoo's own layout.csv: bias, then kernel, of each layer.
LAYOUT = """varname,start_idx,end_idx,shape
sequential/conv2d/bias:0,0,16,"(16,)"
sequential/conv2d/kernel:0,16,160,"(3, 3, 1, 16)"
sequential/conv2d_1/bias:0,160,176,"(16,)"
sequential/conv2d_1/kernel:0,176,2480,"(3, 3, 16, 16)"
sequential/conv2d_2/bias:0,2480,2496,"(16,)"
sequential/conv2d_2/kernel:0,2496,4800,"(3, 3, 16, 16)"
sequential/dense/bias:0,4800,4810,"(10,)"
sequential/dense/kernel:0,4810,4970,"(16, 10)"
"""


def a_zoo(models: int = 5) -> Zoo:
    generator = torch.Generator().manual_seed(0)
    weights = {
        "b.weight": torch.randn(models, 4, 3, generator=generator),
        "a.weight": torch.randn(models, 2, 4, generator=generator).double(),
        "a.steps": torch.arange(models),
        "a.mask": torch.arange(models) % 2 == 0,
        "half": torch.randn(models, 3, generator=generator).bfloat16(),
    }
    records = pd.DataFrame(
        {
            "run": np.arange(models) // 2,
            "epoch": np.linspace(0, 1, models),
            "status": "trained",
            "test_accuracy": np.where(np.arange(models) == 1, np.nan, 0.5),
            "optimizer": "sgd",
        }
    )
    return Zoo(weights, records)


def same(one: Zoo, other: Zoo) -> bool:
    pd.testing.assert_frame_equal(one.records, other.records)
    return list(one.weights) == list(other.weights) and all(
        torch.equal(one.weights[name], other.weights[name])
        and one.weights[name].dtype == other.weights[name].dtype
        for name in one.weights
    )


def small_cnn_metrics(runs: int) -> pd.DataFrame:
    """Nine rows per run, in the order of the published tables."""
    rng = np.random.default_rng(1)
    rows = runs * len(EPOCHS)
    return pd.DataFrame(
        {
            "config.activation": "relu",
            "config.dropout": 0.1,
            "config.l2reg": 1e-4,
            "config.learning_rate": rng.uniform(1e-3, 1e-2, rows),
            "config.random_seed": 42,
            "config.w_init": "he_normal",
            "modeldir": [f"/zoo/{run:03d}" for run in range(runs) for _ in EPOCHS],
            "step": list(EPOCHS) * runs,
            "test_accuracy": rng.uniform(0, 1, rows),
            "test_loss": rng.uniform(0, 3, rows),
            "train_accuracy": rng.uniform(0, 1, rows),
            "train_loss": rng.uniform(0, 3, rows),
        }
    )


def small_cnn_zoo(folder: Path, runs: int = 4) -> tuple[Path, np.ndarray]:
    """The triple, and the matrix that is in weights.npy."""
    metrics = small_cnn_metrics(runs)
    matrix = np.random.default_rng(0).standard_normal((len(metrics), 4970)).astype(np.float32)
    folder.mkdir(exist_ok=True)
    np.save(folder / "weights.npy", matrix)
    metrics.to_csv(folder / "metrics.csv.gz", index=False)
    (folder / "layout.csv").write_text(LAYOUT)
    return folder, matrix


def sparse_zoo(folder: Path, models: int) -> Path:
    """The triple with a weights.npy that is made of holes."""
    folder.mkdir()
    shape = (models, 4970)
    np.lib.format.open_memmap(folder / "weights.npy", mode="w+", dtype=np.float32, shape=shape)
    table = pd.DataFrame({"modeldir": "m", "step": np.arange(models), "test_loss": 1.0})
    table.to_csv(folder / "metrics.csv.gz", index=False)
    (folder / "layout.csv").write_text(LAYOUT)
    return folder


def state_dict(seed: int) -> dict[str, torch.Tensor]:
    """One of the Model Zoos' networks, made small."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"0.weight": (8, 1, 5, 5), "0.bias": (8,), "9.weight": (10, 8), "9.bias": (10,)}
    return {
        f"module_list.{name}": torch.randn(*shape, generator=generator)
        for name, shape in shapes.items()
    }


def ray_trial(folder: Path, seed: int, *, epochs=(0, 1, 2), padded=False, numbered=True) -> Path:
    """A trial whose checkpoint of epoch e is ``state_dict(10 * seed + e)``, with test_acc e/10."""
    folder.mkdir(parents=True)
    config = {"model::nlin": "tanh", "optim::lr": 1e-3, "optim::wd": 1e-4, "seed": seed}
    config |= {"optim::optimizer": "adam", "training::idx_out": 500, "training::losses": [1, 2]}
    (folder / "params.json").write_text(json.dumps(config))
    lines = []
    for epoch in epochs:
        name = f"checkpoint_{epoch:06d}" if padded else f"checkpoint_{epoch}"
        (folder / name).mkdir()
        torch.save(state_dict(10 * seed + epoch), folder / name / "checkpoints")
        torch.save({"state": {}}, folder / name / "optimizer")
        train = -999 if epoch == 0 else 1.0
        line = {"train_loss": train, "train_acc": train, "test_loss": 2.0, "test_acc": epoch / 10}
        lines.append(json.dumps(line | ({"training_iteration": epoch} if numbered else {})))
    (folder / "result.json").write_text("\n".join(lines) + "\n")
    return folder


def checkpoint_files(folder: Path, models: int = 3, suffix: str = ".pt") -> list[str]:
    """Files m0, m1, ... in `models/`, of ``state_dict(0)``, ``state_dict(1)``, ..."""
    from safetensors.torch import save_file

    (folder / "models").mkdir(parents=True)
    names = []
    for i in range(models):
        path = folder / "models" / f"m{i}{suffix}"
        if suffix == ".safetensors":
            save_file(state_dict(i), path)
        elif suffix == ".npz":
            np.savez(path, **{name: value.numpy() for name, value in state_dict(i).items()})
        elif suffix == "":
            path.mkdir()
            (path / "config.json").write_text("{}")
            save_file(state_dict(i), path / "model.safetensors")
        else:
            torch.save(state_dict(i), path)
        names.append(f"models/m{i}{suffix}")
    return names
