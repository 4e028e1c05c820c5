"""A block of models, trained together: one buffer of weights, one update for all of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from wskit.zoo._hyperparameters import OWN_INIT
from wskit.zoo._networks import Dropout, Network, OwnModule
from wskit.zoo._outputs import score_models, view_stacks
from wskit.zoo._zoo import Zoo

_UPDATES_AT_ONCE = 64  # whose batches are drawn, and sent to the device, together
_HALF = 2**15
_METRICS = ["train_loss", "train_accuracy", "test_loss", "test_accuracy"]


@dataclass(frozen=True, eq=False)
class Images:
    """A data set on the device."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def count_updates(epochs: float, n_images: int, batch_size: int) -> int:
    """Return the number of updates in these epochs: at least 1, unless `epochs` is 0."""
    return max(1, round(epochs * n_images / batch_size)) if epochs > 0 else 0


def count_images(fraction: float, n_images: int) -> int:
    """Return the size of a model's own part of the training images."""
    return max(1, round(fraction * n_images))


class _Order:
    """The images that a model is trained on, and their order, from its own generator.

    Permutations of the subset form a stream, and batches are cut from it: all are full, and one
    may hold the end of an epoch and the beginning of the next.
    """

    def __init__(self, seed: int, fraction: float, n_images: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.subset = self._rng.permutation(n_images)[: count_images(fraction, n_images)]
        self._left = self.subset[:0]

    def take(self, n: int) -> Int64[np.ndarray, " n"]:
        parts, have = [self._left], len(self._left)
        while have < n:
            parts.append(self._rng.permutation(self.subset))
            have += len(self.subset)
        stream = np.concatenate(parts)
        self._left = stream[n:]
        return stream[:n]


class _Masks:
    """Dropout from a hash of (seed, update, layer, element): no generator, no order.

    The host mixes seed, update and layer to a key of 64 bits (the finaliser of splitmix64); the
    device mixes the key with the element's number, in 32-bit integers that wrap around, which
    are the same on every device. Each hash serves two elements, with 16 bits: the rate of dropout
    is a multiple of 2^-16.
    """

    def __init__(self, seeds: np.ndarray, rates: np.ndarray, n_layers: int, like: Tensor) -> None:
        device = like.device
        self._seeds, self._n_layers, self._device = seeds.astype(np.uint64), n_layers, device
        dropped = np.rint(rates * 2 * _HALF).clip(0, 2 * _HALF - 1)
        self._threshold = torch.as_tensor(dropped - _HALF, dtype=torch.int16, device=device)
        scale = 2 * _HALF / (2 * _HALF - dropped)
        self._scale = torch.as_tensor(scale, dtype=like.dtype, device=device)
        self._counters: dict[int, Tensor] = {}

    def keys(self, updates: range) -> Tensor:
        """Return int32 keys (updates, models, layers, 2)."""
        key = _splitmix(self._seeds[None, :, None])
        key = _splitmix(key ^ np.array(updates, dtype=np.uint64)[:, None, None])
        key = _splitmix(key ^ np.arange(self._n_layers, dtype=np.uint64))
        return torch.as_tensor(key[..., None].view(np.int32), device=self._device)

    def at(self, keys: Tensor) -> Dropout:
        """Return the masks of one update, for models with these keys (models, layers, 2)."""

        def dropout(layer: int, shape: tuple[int, ...]) -> Tensor:
            n = math.prod(shape)
            bits = self._counter(n) ^ keys[:, layer, :1]
            bits.mul_(0x7FEB352D)
            bits ^= (bits >> 15).bitwise_and_(0x1FFFF)
            bits.add_(keys[:, layer, 1:]).mul_(0x5F356495)
            bits ^= (bits >> 16).bitwise_and_(0xFFFF)
            models = len(keys)
            kept = bits.view(torch.int16)[:, :n] >= self._threshold[:models, None]
            # Faster by far than torch.where, whose other side would be broadcast.
            scale = kept.to(self._scale.dtype).mul_(self._scale[:models, None])
            return scale.unflatten(1, shape)

        return dropout

    def _counter(self, n: int) -> Tensor:
        if n not in self._counters:
            key = _splitmix(np.arange((n + 1) // 2, dtype=np.uint64)).astype(np.uint32)
            self._counters[n] = torch.as_tensor(key.view(np.int32), device=self._device)
        return self._counters[n]


def _splitmix(z: np.ndarray) -> np.ndarray:
    """Mix 64-bit integers (Steele, Lea and Flood 2014, "Fast splittable pseudorandom ...")."""
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class _Optimizer:
    """torch.optim's SGD, Adam and RMSprop on rows of a buffer, each with its learning rate."""

    def __init__(self, rows: pd.DataFrame, network: Network, like: Tensor) -> None:
        def column(name: str) -> Tensor:
            values = rows[name].to_numpy(copy=True)
            return torch.as_tensor(values, dtype=like.dtype, device=like.device)[:, None]

        self._name = rows.optimizer.iloc[0]
        self._lr, self._momentum = column("learning_rate"), column("momentum")
        # Weight decay is for kernels, the tensors of two or more axes.
        is_kernel = torch.cat(
            [torch.full((math.prod(s),), len(s) >= 2) for s in network.shapes.values()]
        )
        self._decay = None
        if (rows.weight_decay > 0).any():
            self._decay = column("weight_decay") * is_kernel.to(like)
        shape = (len(rows), len(is_kernel))
        self._has_momentum = bool((rows.momentum > 0).any())
        needed = {"sgd": 0, "adam": 2, "rmsprop": 1}[self._name] + self._has_momentum
        self._state = [like.new_zeros(shape) for _ in range(needed)]

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, w: Tensor, grad: Tensor, update: int) -> None:
        """Update the first rows in place; `update` counts from 1, `grad` is overwritten."""
        n = len(w)
        state = [part[:n] for part in self._state]
        if self._decay is not None:
            grad.addcmul_(w, self._decay[:n])
        rate = -1.0
        if self._name == "adam":
            mean, square = state
            mean.lerp_(grad, 0.1)
            square.mul_(0.999).addcmul_(grad, grad, value=0.001)
            torch.sqrt(square, out=grad).div_(math.sqrt(1 - 0.999**update)).add_(1e-8)
            torch.div(mean, grad, out=grad)
            rate = -1 / (1 - 0.9**update)
        elif self._name == "rmsprop":
            square = state[0]
            square.mul_(0.99).addcmul_(grad, grad, value=0.01)
            grad.div_(square.sqrt().add_(1e-8))
        if self._has_momentum:
            grad = state[-1].mul_(self._momentum[:n]).add_(grad)
        w.addcmul_(grad, self._lr[:n], value=rate)


def train_block(
    network: Network, images: Images, rows: pd.DataFrame, keep_epochs: Sequence[float]
) -> Zoo:
    """Train models that share optimiser, activation and batch size, the longest run first.

    Parameters
    ----------
    network, images
        What to train, and on what.
    rows : DataFrame
        As `complete_table` returns it, with a column `run`, by descending number of updates.
    keep_epochs : sequence of float
        Ascending.

    Returns
    -------
    Zoo
        One row for each state that is kept, by model and epoch.
    """
    n_images, batch_size = len(images.train[0]), int(rows.batch_size.iloc[0])
    activation: Any = "relu" if isinstance(network, OwnModule) else rows.activation.iloc[0]
    orders = [
        _Order(seed, fraction, n_images)
        for seed, fraction in zip(rows.seed, rows.train_fraction, strict=True)
    ]
    # What is kept: (model, epoch), and when.
    kept = [
        (i, epoch)
        for i, last in enumerate(rows.epochs)
        for epoch in [*(e for e in keep_epochs if e < last), last]
    ]
    when = np.array([count_updates(epoch, len(orders[i].subset), batch_size) for i, epoch in kept])
    model = np.array([i for i, _ in kept])
    total = np.zeros(len(rows), dtype=int)
    np.maximum.at(total, model, when)

    x, y = images.train
    flat = draw_weights(network, rows, x.dtype).to(x.device)
    states = x.new_empty(len(kept), flat.shape[1])

    def keep(update: int) -> None:
        due = np.flatnonzero(when == update)
        if due.size:
            states[due] = flat[model[due]]

    optimizer = _Optimizer(rows, network, x)
    masks = None
    if "dropout" in rows and (rows.dropout > 0).any():
        seeds, rates = rows.seed.to_numpy(), rows.dropout.to_numpy()
        masks = _Masks(seeds, rates, network.n_hidden, x)
    keep(0)
    for start in range(0, total[0], _UPDATES_AT_ONCE):
        updates = range(start, min(start + _UPDATES_AT_ONCE, total[0]))
        drawn = [order.take(len(updates) * batch_size) for order in orders[: (total > start).sum()]]
        index = np.stack(drawn).reshape(len(drawn), len(updates), batch_size).swapaxes(0, 1)
        batches = torch.as_tensor(np.ascontiguousarray(index), device=x.device)
        keys = None if masks is None else masks.keys(updates)
        for place, update in enumerate(updates):
            active = int((total > update).sum())  # the first: the others have finished
            at = batches[place, :active]
            dropout = None
            if masks is not None and keys is not None:
                dropout = masks.at(keys[place, :active])
            with torch.enable_grad():
                leaf = flat[:active].detach().requires_grad_()
                stacks = view_stacks(leaf, network.shapes)
                logits = network.forward(stacks, x[at], activation, dropout)
                labels = y[at]
                # Classes before images, in which log_softmax is three times as fast.
                loss = functional.cross_entropy(logits.mT, labels, reduction="sum")
                (grad,) = torch.autograd.grad(loss / batch_size, leaf)
            optimizer.step(flat[:active], grad, update + 1)
            keep(update + 1)

    own = [orders[i].subset for i in model]
    every = [np.arange(len(images.test[0]))] * len(model)
    on_train = score_models(network, activation, states, images.train, own)
    on_test = score_models(network, activation, states, images.test, every)
    metrics = np.hstack([on_train, on_test])
    fine = np.isfinite(metrics).all(1) & torch.isfinite(states).all(1).cpu().numpy()
    stacks = view_stacks(states, network.shapes)
    weights = {name: stack.cpu().contiguous() for name, stack in stacks.items()}
    return Zoo(weights, _records(rows.iloc[model], [epoch for _, epoch in kept], metrics, fine))


def _records(
    rows: pd.DataFrame, epochs: Sequence[float], metrics: np.ndarray, fine: np.ndarray
) -> pd.DataFrame:
    """Make the table of a block: what was measured, then the hyper-parameters."""
    rows = rows.reset_index(drop=True)
    head = pd.DataFrame(
        {
            "run": rows.run,
            "epoch": np.array(epochs, dtype=float),
            "status": np.where(fine, "trained", "diverged"),
        }
    )
    measured = pd.DataFrame(np.where(fine[:, None], metrics, np.nan), columns=_METRICS)
    return pd.concat([head, measured, rows.drop(columns="run")], axis=1)


def draw_weights(
    network: Network, rows: pd.DataFrame, dtype: torch.dtype
) -> Float[Tensor, "models parameters"]:
    """Draw each model's weights from a generator of its own, on the CPU; biases are 0.

    The normal laws are torch's: their standard deviation is sqrt(2/(fan_in + fan_out)) for
    "glorot_normal", sqrt(2/fan_in) for "he_normal" and `init_std` for "normal"; for
    "truncated_normal" it is `init_std` before it is cut at twice that.
    """
    n_parameters = sum(math.prod(shape) for shape in network.shapes.values())
    flat = torch.zeros(len(rows), n_parameters, dtype=dtype)
    stacks = view_stacks(flat, network.shapes)
    columns = zip(rows.seed, rows.init, rows.init_std, strict=True)
    for i, (seed, init, std) in enumerate(columns):
        if isinstance(network, OwnModule):
            for name, value in network.initial(int(seed)).items():
                stacks[name][i] = value
        if init == OWN_INIT:
            continue
        rng = torch.Generator().manual_seed(int(seed))
        for stack in stacks.values():
            kernel = stack[i]
            if kernel.ndim < 2:
                continue
            if init == "glorot_normal":
                nn.init.xavier_normal_(kernel, generator=rng)
            elif init == "he_normal":
                nn.init.kaiming_normal_(kernel, nonlinearity="relu", generator=rng)
            elif init == "orthogonal":
                nn.init.orthogonal_(kernel, generator=rng)
            elif init == "normal":
                nn.init.normal_(kernel, std=std, generator=rng)
            else:
                nn.init.trunc_normal_(kernel, std=std, a=-2 * std, b=2 * std, generator=rng)
    return flat
