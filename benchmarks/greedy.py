"""Claim: a greedy soup reads each candidate once after sorting, and costs little beside its scores.

    OMP_NUM_THREADS=1 python benchmarks/greedy.py

32 fine-tunes (random steps from one base) of a few networks, scored on 360 held-out
digits, by `soups.greedy_soup` and by a loop that keeps the state dicts of the soup and averages
them anew for each candidate. One thread, wall seconds, medians of `--rounds`.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from wskit import data, soups
from wskit.zoo import MLP, SmallCNN

N, GOAL = 32, 0.05


class Counted(Mapping[str, Tensor]):
    """Weights that count how often a tensor of theirs is read."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights, self.reads = weights, 0

    def __getitem__(self, name: str) -> Tensor:
        self.reads += 1
        return self.weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, without reading it."""
        return tuple(self.weights[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        """Of a tensor, without reading it."""
        return self.weights[name].dtype


class Timed:
    """A score that adds up how long it takes."""

    def __init__(self, score: Callable[[Mapping[str, Tensor]], float]) -> None:
        self.score, self.seconds = score, 0.0

    def __call__(self, weights: Mapping[str, Tensor]) -> float:
        """Score, and count the seconds."""
        start = time.perf_counter()
        found = self.score(weights)
        self.seconds += time.perf_counter() - start
        return found


def loop(models: list[dict[str, Tensor]], score: Callable[..., float], scores: list[float]) -> int:
    """Return how many ingredients the plain loop keeps."""
    order = sorted(range(len(models)), key=lambda i: -scores[i])
    kept, best = [models[order[0]]], scores[order[0]]
    for i in order[1:]:
        trial = [*kept, models[i]]
        found = score({name: sum(m[name] for m in trial) / len(trial) for name in models[0]})
        if found >= best:
            kept, best = trial, found
    return len(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    digits = data.load_dataset("digits", seed=0)
    x, y = digits.validation_x, digits.validation_y
    head = "network", "whole, s", "scores, s", "own share", "loop, s", "reads a tensor"
    print(f"| {' | '.join(head)} | own share under {GOAL:.0%} |")
    print("|---|---|---|---|---|---|---|")
    for network in (MLP(), SmallCNN(), SmallCNN(width=64), SmallCNN(width=128)):
        draw = torch.Generator().manual_seed(0)
        base = {k: 0.2 * torch.randn(s, generator=draw) for k, s in network.shapes.items()}
        models = [
            {k: W + 0.02 * torch.randn(W.shape, generator=draw) for k, W in base.items()}
            for _ in range(N)
        ]
        held_out = soups.held_out_score(network.module(), x, y)
        scores = [held_out(model) for model in models]
        whole, inside, peer, reads = [], [], [], 0
        for _ in range(rounds):
            score = Timed(held_out)
            counted = [Counted(model) for model in models]
            start = time.perf_counter()
            soup = soups.greedy_soup(counted, score, scores=scores)
            whole.append(time.perf_counter() - start)
            inside.append(score.seconds)
            reads = max(model.reads for model in counted) // len(base)
            start = time.perf_counter()
            kept = loop(models, held_out, scores)
            peer.append(time.perf_counter() - start)
            assert kept == len(soup.ingredients)
        share = statistics.median(1 - i / w for i, w in zip(inside, whole, strict=True))
        row = [
            type(network).__name__,
            *map("{:.4f}".format, map(statistics.median, (whole, inside))),
        ]
        row += [f"{share:.1%}", f"{statistics.median(peer):.4f}", str(reads)]
        print(f"| {' | '.join(row)} | {'reached' if share < GOAL else '**missed**'} |")


if __name__ == "__main__":
    main()
