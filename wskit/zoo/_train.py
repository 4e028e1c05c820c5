"""Zoos that are trained: a table of hyper-parameters in, a table of models out."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import joblib
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from wskit._checks import check_choice, check_tensor, check_whole, number
from wskit._parallel import run_tasks
from wskit.errors import ZooError
from wskit.zoo._architectures import Form, Model, Network, OwnModule, network_of
from wskit.zoo._block import Images, n_train, n_updates, train_block
from wskit.zoo._hyperparameters import complete
from wskit.zoo._outputs import widen
from wskit.zoo._save import RECORDS, read_saved, write_zoo, writing
from wskit.zoo._zoo import Zoo

_LOG = logging.getLogger("wskit")
_VERSION = 1  # of the training itself: models of another version are not reused
_BLOCK_SIZE, _BLOCK_SIZE_GPU = 32, 1024
_BLOCK = "block-"  # how the folder of a finished block is called


@runtime_checkable
class TrainingData(Protocol):
    """Images (n, ...) and their labels (n,), from 0, to train on and to test on."""

    @property
    def train_x(self) -> Tensor: ...
    @property
    def train_y(self) -> Tensor: ...
    @property
    def test_x(self) -> Tensor: ...
    @property
    def test_y(self) -> Tensor: ...


@dataclass(frozen=True)
class Compute:
    """How a zoo is computed. The models do not depend on it, but for rounding.

    Attributes
    ----------
    form : {"batched", "vmap", "loop"}, optional
        "batched" is written by hand for stacked weights: grouped convolutions and batched matrix
        products; "vmap" is `torch.vmap` over the network for one model; "loop" takes one model
        after the other. None means "batched" for `SmallCNN` and `MLP`, on which it is the
        fastest, and "vmap" for modules.
    block_size : int, optional
        Models that are trained together; it does not change what they become. None means 32, and
        1024 on a GPU, which has not enough to do with fewer (``benchmarks/gpu.py``).
    device : torch.device or str, optional
        None means where ``data.train_x`` is.
    n_jobs : int, optional
        Blocks that are trained at the same time, as for `joblib.Parallel`: None is 1, unless a
        ``joblib.parallel_config`` says otherwise, such as one that names a Dask cluster. Processes
        pay on many cores or machines; each begins by importing torch.
    """

    form: Form | None = None
    block_size: int | None = None
    device: torch.device | str | None = None
    n_jobs: int | None = None


def train_zoo(
    model: Model,
    data: TrainingData,
    hyperparameters: pd.DataFrame,
    *,
    seeds: Sequence[int] | np.ndarray | pd.Series | None = None,
    keep_epochs: Sequence[float | int] = (),
    compute: Compute = Compute(),
    folder: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Zoo:
    r"""Train many small models of one architecture on one data set.

    Each model depends on its own seed and row only, and not on what it is trained with. Its
    weights are drawn by its own generator on the CPU; its part of the training images and their
    order by another: permutations of its part follow each other, and batches are cut from this
    stream, so that all are full. Dropout is a hash of seed, update, layer and element. Updates
    are those of `torch.optim`, :math:`\mathrm{round}(\mathrm{epochs} \cdot n_i /
    \mathrm{batch\_size})` of them for a part of n_i images (one at least, unless epochs is 0).

    Parameters
    ----------
    model : SmallCNN, MLP or function that returns an nn.Module
        The architecture. A function without arguments makes a module of your own; it may hold no
        BatchNorm, no dropout and no buffers, as these cannot be kept for each model of a block.
    data : object with tensors train_x, train_y, test_x, test_y
        Such as ``wskit.data.load_dataset("digits")``. Images (n, ...), labels integers from 0.
        The models are trained in float32, or in float64 where `train_x` is: slower, and the same
        on every processor to many more digits.
    hyperparameters : DataFrame of a row a model
        With any of these columns; what is missing has the default in brackets. `optimizer`
        ("adam"; "sgd", "rmsprop"), `learning_rate` (0.01), `momentum` (0; of SGD and RMSprop),
        `weight_decay` (0; its product with the weights is added to the gradient of tensors of two
        or more dimensions, so that Keras's L2 factor is half of it), `dropout` (0), `activation`
        ("relu"; "tanh", "gelu", "sigmoid"), `init` ("glorot_normal"; "he_normal", "orthogonal",
        "normal", "truncated_normal"; of tensors of two or more dimensions, biases being 0; for a
        module of your own its own) and `init_std` (0.05; of the last two), `train_fraction` (1),
        `epochs` (10), `batch_size` (64). All else of an optimiser is as `torch.optim` has it.
    seeds : sequence of int, optional
        One a row, from 0. None means 0, 1, 2, ...
    keep_epochs : sequence of float, optional
        Epochs whose weights and metrics are kept as well, of the models that train beyond them. 0
        is the state before training. The last state is always kept.
    compute : Compute, optional
        Form, size of the blocks, device. The number of threads is that of
        `torch.set_num_threads`, and one is a good choice.
    folder : path, optional
        Where each finished block is saved, as `save_zoo` saves a zoo. Models that are found there,
        trained from the same row and seed on the same data, are not trained again, in whatever
        block they were. A module of your own is known by its repr and shapes: where you
        change its ``forward`` only, take another folder.
    progress : bool, default False
        Show a progress bar, with models a minute and the time left.

    Returns
    -------
    Zoo
        A row for each state that is kept, by run and epoch; `run` is the row in
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
    Two classes that differ in the sign of one pixel are learnt by every model:

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
    blocks: list[Zoo] = []
    finished = 0
    stream = _blocks(model, data, hyperparameters, seeds, keep_epochs, compute, folder)
    try:
        start = time.monotonic()
        with tqdm(total=len(hyperparameters), disable=not progress, unit="model") as bar:
            for zoo, is_new in stream:
                blocks.append(zoo)
                n = zoo.records.run.nunique()
                bar.update(n)
                if is_new:
                    finished += n
                    rate = 60 * finished / (time.monotonic() - start)
                    bar.set_postfix_str(f"{rate:.0f} models/min")
    except KeyboardInterrupt:
        if not blocks:
            raise
        _LOG.warning(
            "interrupted: the zoo has the %d of %d models whose blocks were finished",
            sum(zoo.records.run.nunique() for zoo in blocks),
            len(hyperparameters),
        )
    return _assemble(blocks)


def train_blocks(
    model: Model,
    data: TrainingData,
    hyperparameters: pd.DataFrame,
    *,
    seeds: Sequence[int] | np.ndarray | pd.Series | None = None,
    keep_epochs: Sequence[float | int] = (),
    compute: Compute = Compute(),
    folder: str | os.PathLike[str] | None = None,
) -> Iterator[Zoo]:
    """Train a zoo as `train_zoo` does, and give each block when it is finished.

    A caller can stop between blocks. Models that are found in `folder` come first.

    Parameters
    ----------
    model, data, hyperparameters, seeds, keep_epochs, compute, folder
        As for `train_zoo`.

    Yields
    ------
    Zoo
        Of a block's models; `run` is their row in `hyperparameters`. Models of one block share
        optimiser, activation and batch size, and need about as many updates, so that the blocks
        do not come in the order of the table.

    Raises
    ------
    ZooError
        As `train_zoo`, before the first block.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from wskit.zoo import MLP
    >>> x, y = torch.ones(4, 1), torch.tensor([0, 1, 0, 1])
    >>> data = SimpleNamespace(train_x=x, train_y=y, test_x=x, test_y=y)
    >>> table = pd.DataFrame({"activation": ["relu", "tanh", "relu"], "epochs": 1})
    >>> [zoo.records.run.tolist() for zoo in train_blocks(MLP((1, 2)), data, table)]
    [[0, 2], [1]]
    """
    for zoo, _ in _blocks(model, data, hyperparameters, seeds, keep_epochs, compute, folder):
        yield zoo


def _blocks(
    model: Model,
    data: TrainingData,
    hyperparameters: pd.DataFrame,
    seeds: Any,
    keep_epochs: Sequence[float | int],
    compute: Compute,
    folder: str | os.PathLike[str] | None,
) -> Iterator[tuple[Zoo, bool]]:
    """Yield blocks, and whether they were trained just now."""
    network = network_of(model)
    rows = complete(hyperparameters, seeds, network)
    rows.insert(0, "run", np.arange(len(rows)))
    epochs = sorted({number(epoch, ZooError, "an epoch of keep_epochs") for epoch in keep_epochs})
    if epochs and not (epochs[0] >= 0 and np.isfinite(epochs).all()):
        raise ZooError(f"keep_epochs must be finite and at least 0, got {list(keep_epochs)}.")
    form = _checked_form(compute, network)
    images = _images(data, network, compute.device)
    keys: list[str] = []
    place = None if folder is None else Path(folder)
    if place is not None:
        keys = _keys(network, data, rows, epochs)
        for zoo in _found(place, keys):
            yield zoo, False
            rows = rows[~rows.run.isin(zoo.records.run)]
    on_gpu = images.train[0].is_cuda
    size = compute.block_size or (_BLOCK_SIZE_GPU if on_gpu else _BLOCK_SIZE)
    tasks = (
        joblib.delayed(train_block)(network, images, block, epochs, form)
        for block in _plan(rows, len(images.train[0]), size)
    )
    for zoo in run_tasks(tasks, n_jobs=compute.n_jobs, error=ZooError, kept=place):
        if place is not None:
            _write(place, zoo, [keys[run] for run in zoo.records.run])
        yield zoo, True


def _checked_form(compute: Compute, network: Network) -> Form:
    if not isinstance(compute, Compute):
        raise ZooError(
            f"compute must be a Compute, got {compute!r}; give zoo.Compute(block_size=32), say."
        )
    if compute.block_size is not None:
        check_whole(compute.block_size, ZooError, "block_size")
    if compute.form is not None:
        check_choice(compute.form, Form, ZooError, "form")
    return compute.form or ("vmap" if isinstance(network, OwnModule) else "batched")


def _plan(rows: pd.DataFrame, n_images: int, block_size: int) -> Iterator[pd.DataFrame]:
    """Cut the table into blocks that share what must be shared, the longest runs first."""
    shared = [name for name in ("optimizer", "activation", "batch_size") if name in rows]
    for _, group in rows.groupby(shared, sort=False):
        columns = zip(group.epochs, group.train_fraction, group.batch_size, strict=True)
        updates = [n_updates(e, n_train(fraction, n_images), b) for e, fraction, b in columns]
        ordered = group.iloc[np.argsort(-np.array(updates), kind="stable")]
        for start in range(0, len(ordered), block_size):
            yield ordered.iloc[start : start + block_size].reset_index(drop=True)


def _images(data: TrainingData, network: Network, device: torch.device | str | None) -> Images:
    """Check a data set and bring it to the device."""
    for part in ("train_x", "train_y", "test_x", "test_y"):
        check_tensor(getattr(data, part), ZooError, f"data.{part}")
    parts = []
    where = torch.device(device) if device is not None else data.train_x.device
    for part in ("train", "test"):
        x, y = getattr(data, f"{part}_x"), getattr(data, f"{part}_y")
        if y.ndim != 1 or len(x) != len(y) or len(y) == 0 or y.is_floating_point():
            raise ZooError(
                f"data.{part}_y must hold one integer label for each image of data.{part}_x, got "
                f"{y.dtype} of shape {tuple(y.shape)} for {len(x)} images."
            )
        if not x.isfinite().all():
            raise ZooError(f"data.{part}_x holds NaN or inf; leave those images out.")
        dtype = widen(data.train_x[:0]).dtype
        parts.append((x.detach().to(where, dtype), y.detach().to(where, torch.int64)))
    x = parts[0][0]
    if isinstance(network, OwnModule):
        with torch.no_grad():
            first = {
                name: torch.zeros(shape, dtype=x.dtype) for name, shape in network.shapes.items()
            }
            logits = network.single(first, x[:2].cpu())
        if logits.ndim != 2 or len(logits) != len(x[:2]):
            raise ZooError(
                "your module must map (images, ...) to logits (images, classes), and made "
                f"{tuple(logits.shape)} of {tuple(x[:2].shape)}."
            )
        n_classes = logits.shape[1]
    else:
        network.check(x)
        n_classes = network.n_classes
    for name, (_, y) in zip(("train_y", "test_y"), parts, strict=True):
        if y.min() < 0 or y.max() >= n_classes:
            raise ZooError(
                f"data.{name} holds labels from {y.min().item()} to {y.max().item()}, and the "
                f"network has {n_classes} classes, counted from 0."
            )
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


def _keys(
    network: Network, data: TrainingData, rows: pd.DataFrame, epochs: Sequence[float]
) -> list[str]:
    """Hash all that decides what a model becomes, for each row."""
    content = hashlib.sha256(f"{_VERSION} {network!r} {epochs}".encode())
    for name in ("train_x", "train_y", "test_x", "test_y"):
        array = getattr(data, name).detach().cpu().contiguous().numpy()
        content.update(f"{name} {array.dtype} {array.shape}".encode())
        content.update(array.tobytes())
    return [
        hashlib.sha256(content.digest() + json.dumps(row, sort_keys=True).encode()).hexdigest()
        for row in rows.drop(columns="run").to_dict("records")
    ]


def _write(folder: Path, zoo: Zoo, keys: list[str]) -> None:
    """Save a block as a small zoo with a key a model, in a folder that its keys name."""
    name = hashlib.sha256("".join(keys).encode()).hexdigest()[:16]
    write_zoo(Zoo(zoo.weights, zoo.records.assign(key=keys)), folder / f"{_BLOCK}{name}")


def _found(folder: Path, keys: list[str]) -> Iterator[Zoo]:
    """Yield what the folder has of these models, block by block."""
    runs: dict[str, list[int]] = {}
    for run, key in enumerate(keys):
        runs.setdefault(key, []).append(run)
    with writing(folder):
        tables = sorted(folder.glob(f"{_BLOCK}*/{RECORDS}"))
    for table in tables:
        try:
            saved = read_saved(table.parent)
            # Rows of the table that are alike in all, seeds included, are one model.
            models: Any = saved.records.groupby(["key", "run"]).indices
        except (ZooError, KeyError) as error:
            raise ZooError(
                f"{table.parent}: this is not a whole block of a zoo; move the folder away, and "
                "its models are trained again."
            ) from error
        rows: list[int] = []
        own: list[int] = []
        for (key, _), places in models.items():
            for run in runs.pop(key, []):
                rows += list(places)
                own += [run] * len(places)
        if rows:
            zoo = saved.select(rows)
            yield Zoo(zoo.weights, zoo.records.drop(columns="key").assign(run=own))
