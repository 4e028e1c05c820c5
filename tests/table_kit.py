"""Functions on a checkpoint that other processes can import, and checkpoints to call them on."""

import os
import signal
import time
from pathlib import Path

import torch

from wskit import features
from wskit.checkpoints import open_checkpoint, save_weights


def write_checkpoints(folder: Path, n: int, *, side: int = 40) -> list[Path]:
    """Write `n` small checkpoints that differ."""
    paths = []
    for seed in range(n):
        draw = torch.Generator().manual_seed(seed)
        weights = {
            "fc1.weight": torch.randn(side, side // 2, generator=draw),
            "fc1.bias": torch.randn(side, generator=draw),
            "fc2.weight": torch.randn(10, side, generator=draw),
        }
        paths.append(save_weights(weights, folder / f"{seed:05}.safetensors"))
    return paths


def spectral_row(path: str) -> dict[str, object]:
    """Return a row a model."""
    with open_checkpoint(path) as weights:
        table = features.spectral_table(weights)
    return {"n": len(table), "worst": table.name[table.ks.argmax()], **features.summary(table)}


def layer_rows(path: str):
    """Return a row a layer."""
    with open_checkpoint(path) as weights:
        return features.spectral_table(weights)[["name", "N", "M", "log_spectral_norm"]]


def norm(path: str) -> dict[str, float]:
    """Return one number of a checkpoint, quickly."""
    with open_checkpoint(path) as weights:
        return {"norm": sum(float(W.square().sum()) for W in weights.values()) ** 0.5}


def scaled_norm(path: str, *, scale: float) -> dict[str, float]:
    return {"norm": scale * norm(path)["norm"]}


def counted_norm(path: str, *, log: str) -> dict[str, float]:
    """As `norm`, and note each call in a file."""
    with Path(log).open("a") as file:
        file.write(f"{Path(path).name} {os.getpid()}\n")
    return norm(path)


def deadly_norm(path: str, *, flag: str) -> dict[str, float]:
    """As `norm`, but the first process that comes to checkpoint 7 is killed."""
    if Path(path).stem == "00007" and not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return norm(path)


def slow_norm(path: str, *, log: str) -> dict[str, float]:
    time.sleep(0.1)
    return counted_norm(path, log=log)
