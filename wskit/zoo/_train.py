"""Zoos that are trained: a table of hyper-parameters in, a table of models out."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from wskit._parallel import run_tasks
from wskit.errors import ZooError
from wskit.zoo._block import Images, count_images, count_updates, train_block
from wskit.zoo._hyperparameters import complete_table
from wskit.zoo._networks import Model, Network, network_of
from wskit.zoo._outputs import widen
from wskit.zoo._save import find_blocks, write_block
from wskit.zoo._zoo import Zoo

_LOG = logging.getLogger("wskit")
_VERSION = 1  # of the training itself: models of another version are not reused
_BLOCK_SIZE, _BLOCK_SIZE_GPU = 32, 1024


def train_zoo(
    model: Model,
    data: Any,
    hyperparameters: pd.DataFrame,
    *,
    keep_epochs: Sequence[float | int] = (),
    device: torch.device | str | None = None,
    block_size: int | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: bool | Callable[[int, int], None] = False,
) -> Zoo:
    r"""Train many small models of one architecture on one data set.

    Each model depends only on its own row, and not on what it is trained with. One generator, on
    the CPU, draws its weights; another its part of the training images and their order:
    permutations of its part form a stream, and batches are cut from it, so that all are full.
    Dropout is a hash of seed, update, layer and element. Updates are those of `torch.optim`,
    :math:`\mathrm{round}(\mathrm{epochs} \cdot n_i / \mathrm{batch\_size})` of them for a part of
    n_i images (at least one, unless epochs is 0).

    Blocks of models are tasks of joblib: with ``joblib.parallel_config(n_jobs=2)`` around the
    call, two are trained at the same time, and with ``joblib.parallel_config("dask")`` a cluster
    trains them. The number of threads is that of `torch.set_num_threads`, and one is a good
    choice.

    Parameters
    ----------
    model : SmallCNN, MLP or function that returns an nn.Module
        The architecture. A function without arguments makes a module of your own; it may hold no
        BatchNorm, no dropout and no buffers, as these cannot be kept for each model of a block.
    data : object with tensors train_x, train_y, test_x, test_y
        Such as ``wskit.data.load_dataset("digits")``. Images (n, ...), labels integers from 0.
        The models are trained in float32, or in float64 where `train_x` is: slower, and the same
        on every processor to many more digits.
    hyperparameters : DataFrame with one row per model
        With any of these columns; the default is in brackets. `optimizer` ("adam"; "sgd",
        "rmsprop"), `learning_rate` (0.01), `momentum` (0; for SGD and RMSprop), `weight_decay`
        (0; its product with the weights is added to the gradient of tensors of two or more
        dimensions, so that Keras's L2 factor is half of it), `dropout` (0), `activation`
        ("relu"; "tanh", "gelu", "sigmoid"), `init` ("glorot_normal"; "he_normal", "orthogonal",
        "normal", "truncated_normal"; for tensors of two or more dimensions, while biases are 0;
        a module of your own keeps its own) and `init_std` (0.05; for the last two),
        `train_fraction` (1), `epochs` (10), `batch_size` (64), `seed` (the number of the row).
        All else of an optimiser is as `torch.optim` has it.
    keep_epochs : sequence of float, optional
        Epochs whose weights and metrics are kept as well, for models that train beyond them. 0
        is the state before training. The last state is always kept.
    device : torch.device or str, optional
        None means where ``data.train_x`` is.
    block_size : int, optional
        Models that are trained together; the models do not depend on it, but for rounding. None
        means 32, and 1024 on a GPU, which fewer do not keep busy (``benchmarks/gpu.py``).
    folder : path, optional
        Where each finished block is saved, to be opened by `load_zoo`. Models that are found
        there, trained from the same row on the same data, are not trained again, in whatever
        block they were. A module of your own is known by its repr and shapes: where you change
        its ``forward`` only, choose another folder.
    progress : bool or callable, default False
        Whether to show a progress bar, with models per minute and the time left; or a function
        of the numbers of finished models and of all models, called after each block. It can stop
        the training by an exception.

    Returns
    -------
    Zoo
        One row for each state that is kept, by run and epoch; `run` is the row in
        `hyperparameters`. Losses are mean cross-entropies in nats, without dropout; those of
        training on the model's own part of the images. A model whose weights or losses are not
        finite has the status "diverged" and NaN for its metrics. If you interrupt the training,
        the finished blocks.

    Raises
    ------
    ZooError
        If a column, a value, the data or the module is not as described.

    References
    ----------
    Unterthiner, Keysers, Gelly, Bousquet and Tolstikhin, "Predicting neural network accuracy from
    weights" (2020), arXiv:2002.11448, for the architecture and the hyper-parameters.

    Examples
    --------
    Every model learns two classes that differ in the sign of one pixel:

    >>> from types import SimpleNamespace
    >>> from wskit.zoo import MLP
    >>> x = torch.linspace(-2, 2, 100)[:, None]
    >>> data = SimpleNamespace(train_x=x, train_y=(x[:, 0] > 0).long(), test_x=x, test_y=None)
    >>> data.test_y = data.train_y
    >>> table = pd.DataFrame({"learning_rate": [0.05, 0.1], "epochs": 100})
    >>> zoo = train_zoo(MLP((1, 2)), data, table)
    >>> zoo.weights["fc1.weight"].shape, bool((zoo.records.test_accuracy > 0.95).all())
    (torch.Size([2, 2, 1]), True)
    """
    network = network_of(model)
    rows = complete_table(hyperparameters, network)
    rows.insert(0, "run", np.arange(len(rows)))
    epochs = sorted(float(epoch) for epoch in set(keep_epochs))
    if epochs and not (epochs[0] >= 0 and np.isfinite(epochs).all()):
        raise ZooError(f"keep_epochs must be finite and at least 0, got {list(keep_epochs)}.")
    images = _prepare_images(data, network, device)
    size = block_size or (_BLOCK_SIZE_GPU if images.train[0].is_cuda else _BLOCK_SIZE)
    n_models, done, new = len(rows), 0, 0
    blocks: list[Zoo] = []
    place = None if folder is None else Path(folder)
    keys: list[str] = []
    try:
        with tqdm(total=n_models, disable=progress is not True, unit="model") as bar:
            if place is not None:
                keys = _hash_rows(network, data, rows, epochs)
                for zoo in _reuse_blocks(place, keys):
                    blocks.append(zoo)
                    rows = rows[~rows.run.isin(zoo.records.run)]
                done = n_models - len(rows)
                bar.update(done)
            start = time.monotonic()
            for zoo in _train_blocks(network, images, rows, epochs, size, place):
                if place is not None:
                    _keep(place, zoo, keys)
                blocks.append(zoo)
                n = zoo.records.run.nunique()
                done, new = done + n, new + n
                bar.update(n)
                bar.set_postfix_str(f"{60 * new / (time.monotonic() - start):.0f} models/min")
                if callable(progress):
                    progress(done, n_models)
    except KeyboardInterrupt:
        if not blocks:
            raise
        _LOG.warning("interrupted: the zoo has %d of %d models", done, n_models)
    return _assemble(blocks)


def _train_blocks(
    network: Network,
    images: Images,
    rows: pd.DataFrame,
    epochs: Sequence[float],
    size: int,
    place: Path | None,
) -> Iterator[Zoo]:
    """Train blocks of rows that share what must be shared, the longest runs first."""
    n_images = len(images.train[0])
    shared = [name for name in ("optimizer", "activation", "batch_size") if name in rows]
    tasks = []
    for _, group in rows.groupby(shared, sort=False):
        columns = zip(group.epochs, group.train_fraction, group.batch_size, strict=True)
        updates = [count_updates(e, count_images(f, n_images), b) for e, f, b in columns]
        ordered = group.iloc[np.argsort(-np.array(updates), kind="stable")]
        for start in range(0, len(ordered), size):
            block = ordered.iloc[start : start + size].reset_index(drop=True)
            tasks.append(joblib.delayed(train_block)(network, images, block, epochs))
    yield from run_tasks(tasks, n_jobs=None, error=ZooError, kept=place)


def _prepare_images(data: Any, network: Network, device: torch.device | str | None) -> Images:
    """Check a data set and bring it to the device."""
    parts, dtype = [], widen(data.train_x[:0]).dtype
    where = torch.device(device) if device is not None else data.train_x.device
    network.check(data.train_x)
    for part in ("train", "test"):
        x, y = getattr(data, f"{part}_x"), getattr(data, f"{part}_y")
        if y.ndim != 1 or len(x) != len(y) or len(y) == 0 or y.is_floating_point():
            raise ZooError(
                f"data.{part}_y must hold one integer label for each image of data.{part}_x, got "
                f"{y.dtype} of shape {tuple(y.shape)} for {len(x)} images."
            )
        if not x.isfinite().all():
            raise ZooError(f"data.{part}_x holds NaN or inf; leave those images out.")
        if y.min() < 0 or y.max() >= network.n_classes:
            raise ZooError(
                f"data.{part}_y holds labels from {y.min().item()} to {y.max().item()}, and the "
                f"network has {network.n_classes} classes, counted from 0."
            )
        parts.append((x.detach().to(where, dtype), y.detach().to(where, torch.int64)))
    return Images(*parts)


def _assemble(blocks: list[Zoo]) -> Zoo:
    """Put blocks together in the order of run and epoch; empties the list, to save memory."""
    records = pd.concat([zoo.records for zoo in blocks], ignore_index=True)
    order = np.lexsort((records.epoch, records.run))
    place = torch.empty(len(order), dtype=torch.long)
    place[torch.as_tensor(order)] = torch.arange(len(order))
    first = blocks[0].weights
    weights = {name: stack.new_empty(len(order), *stack.shape[1:]) for name, stack in first.items()}
    start = 0
    while blocks:
        zoo = blocks.pop(0)
        rows = place[start : start + len(zoo)]
        for name, stack in zoo.weights.items():
            weights[name][rows] = stack
        start += len(zoo)
    return Zoo(weights, records.iloc[order].reset_index(drop=True))


def _hash_rows(
    network: Network, data: Any, rows: pd.DataFrame, epochs: Sequence[float]
) -> list[str]:
    """Hash everything that decides what a model becomes, for each row."""
    content = hashlib.sha256(f"{_VERSION} {network!r} {epochs}".encode())
    for name in ("train_x", "train_y", "test_x", "test_y"):
        array = getattr(data, name).detach().cpu().contiguous().numpy()
        content.update(f"{name} {array.dtype} {array.shape}".encode())
        content.update(array.tobytes())
    return [
        hashlib.sha256(content.digest() + json.dumps(row, sort_keys=True).encode()).hexdigest()
        for row in rows.drop(columns="run").to_dict("records")
    ]


def _keep(place: Path, zoo: Zoo, keys: Sequence[str]) -> None:
    """Save a finished block under a name that its keys decide."""
    own = [keys[run] for run in zoo.records.run]
    place.mkdir(parents=True, exist_ok=True)
    write_block(place, zoo, own, hashlib.sha256("".join(own).encode()).hexdigest()[:16])


def _reuse_blocks(folder: Path, keys: list[str]) -> Iterator[Zoo]:
    """Yield what the folder has of these models, block by block."""
    runs: dict[str, list[int]] = {}
    for run, key in enumerate(keys):
        runs.setdefault(key, []).append(run)
    for saved in find_blocks(folder):
        # Rows of the table that are alike in all, seeds included, are one model.
        models: Any = saved.records.groupby(["key", "run"]).indices
        rows: list[int] = []
        own: list[int] = []
        for (key, _), places in models.items():
            for run in runs.pop(key, []):
                rows += list(places)
                own += [run] * len(places)
        if rows:
            zoo = saved.select(rows)
            yield Zoo(zoo.weights, zoo.records.drop(columns="key").assign(run=own))
