"""One way in for every layout of a zoo on disk."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from torch import Tensor

from wskit.errors import ZooError
from wskit.zoo._load_ray import read_ray, trials
from wskit.zoo._load_small_cnn import LAYOUT, MATRICES, read_small_cnn_zoo
from wskit.zoo._load_tables import (
    Reader,
    add_runs,
    check_all_listed,
    complete,
    files_of_table,
    stack_files,
)
from wskit.zoo._reading import load_json, read_csv, reading
from wskit.zoo._save import RECORDS, WEIGHTS, read_saved
from wskit.zoo._zoo import Zoo

FILE_COLUMNS = ("file", "path", "checkpoint", "name")
_TABLE_SUFFIXES = (".csv", ".csv.gz", ".json", ".jsonl")


def load_zoo(
    path: str | os.PathLike[str],
    *,
    open_checkpoint: Callable[..., Mapping[str, Tensor]] | None = None,
    epochs: Literal["last", "all"] | Sequence[int] = "last",
    splits: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Zoo:
    """Open a zoo; its layout is recognised by what is in the folder.

    Of the first two layouts the weights are memory-mapped: nothing is read before it is used, and
    what is written into the tensors never reaches the file. The others hold a file a model, which
    are read into stacks. No object is unpickled, and no file outside the folder is read.

    - What `save_zoo` wrote: ``weights.safetensors`` and ``records.parquet``.
    - The Small CNN Zoo (Unterthiner et al. 2020, arXiv:2002.11448): ``weights.npy``,
      ``metrics.csv.gz``, ``layout.csv`` (also under the old names ``all_weights.npy`` and
      ``all_metrics.csv``). Kernels are turned to torch's axes, as views, and named conv1.weight,
      ..., fc.weight. In the table, the prefix ``config.`` is dropped, and `step` (the number of
      epochs that were trained; 0 is the initialisation) becomes `epoch`, `random_seed` `seed`,
      `w_init` `init`, and `l2reg` `weight_decay`, with twice its value: Keras's penalty l2reg |w|^2
      has the gradient of torch's ``weight_decay = 2 l2reg``. The recorded losses hold the penalty.
      `run` numbers the values of `modeldir`.
    - Ray Tune's trees, as the Model Zoos (Schürholt et al. 2022): a folder a trial with
      ``params.json`` or ``config.json``, ``result.json`` (an object a line), and
      ``checkpoint_50/checkpoints`` or ``checkpoint_000050/checkpoints``. A line is matched by its
      `training_iteration`; without it, line 0 is of epoch 0 if that has a checkpoint, else of 1.
    - ``splits.json`` (or ``*_splits.json``): ``{split: {"path": [...], "score": [...]}}``, as of
      the CNN Wild Park, and a file a model. `score` becomes `test_accuracy`, and `step` `epoch`.
    - A table (``.csv``, ``.csv.gz``, ``.json``, ``.jsonl``) with a row a model whose column
      `file`, `path`, `checkpoint` or `name` tells its file or Hugging Face folder. Its other
      columns are kept. Files of the same suffixes that have no row are refused. Keras's ``.h5``
      files are named and turned as above; they need h5py.

    Where a table has no `run`, models are of one run whose paths are ``TRIAL/checkpoint_N/file``
    with the same TRIAL, and every other model is of its own; N is the `epoch`. Where it has no
    `status`, a model is "trained" if all of its recorded losses and accuracies are finite.

    Parameters
    ----------
    path : path
        The folder; or the table or the splits file in it, where the folder has several.
    open_checkpoint : callable, optional
        Reads a model's file (not ``.h5``): ``wskit.checkpoints.open_checkpoint``.
    epochs : "last", "all" or sequence of int, default "last"
        Of a Ray Tune tree: which of each trial's checkpoints to read.
    splits : path, optional
        Of the Small CNN Zoo: a file of which the column `split` is made. Either the NFN splits
        (Zhou et al. 2023), a ``.csv`` with a row's number on each line, of which the models of
        the last epoch are taken in this order: the second half is "test", and the first is split
        4 : 1 into "train" and "val" by ``random.Random(0)``. Or a ``.json`` of
        ``{split: [row, ...]}``. Rows in no part have none.
    progress : bool, default True
        Show a progress bar where a file a model is read.

    Returns
    -------
    Zoo

    Raises
    ------
    ZooError
        If no layout is recognised, if files are missing, damaged or do not fit each other, if a
        path leads out of the folder, or if models differ in their tensors.

    Examples
    --------
    >>> import tempfile, torch
    >>> from wskit.zoo import save_zoo
    >>> records = pd.DataFrame({"run": [0, 1], "epoch": [5.0, 5.0], "status": "trained"})
    >>> zoo = Zoo({"fc.weight": torch.arange(12.0).reshape(2, 3, 2)}, records)
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     load_zoo(save_zoo(zoo, f"{parent}/zoo")).weights["fc.weight"].sum()
    tensor(66.)
    """
    place = Path(path).expanduser()
    kind, file = _recognise(place)
    for keyword, given, meant in (
        ("splits", splits is not None, "the Small CNN Zoo"),
        ("epochs", not isinstance(epochs, str) or epochs != "last", "a Ray Tune tree"),
    ):
        if given and kind != meant:
            raise ZooError(f"{place}: {keyword}= is for {meant}, and this is {kind}; leave it out.")
    if kind == "a saved zoo":
        return read_saved(place)
    if kind == "the Small CNN Zoo":
        return read_small_cnn_zoo(place, None if splits is None else Path(splits).expanduser())
    if kind == "a Ray Tune tree":
        return read_ray(place, epochs, progress=progress)
    if kind == "a splits file":
        return _read_splits(file, open_checkpoint, progress)
    return _read_table(file, open_checkpoint, progress)


def _recognise(place: Path) -> tuple[str, Path]:
    """Return the layout's name, and the file that lists the models where there is one."""
    if not place.is_dir():
        return _kind(place), place
    names = {path.name for path in place.iterdir()}
    if RECORDS in names:
        return "a saved zoo", place
    if names & {*MATRICES, *LAYOUT}:
        return "the Small CNN Zoo", place
    if trials(place):
        return "a Ray Tune tree", place
    tables = [place / name for name in sorted(names) if name.endswith(_TABLE_SUFFIXES)]
    found = [table for table in tables if _kind(table) == "a splits file"]
    problems = []
    for table in [] if found else tables:
        try:
            _file_column(_table(table), table)
            found.append(table)
        except ZooError as error:
            problems.append(error)
    if len(found) > 1:
        raise ZooError(
            f"{place}: {found[0].name} and {found[1].name} both list models; pass the path of one."
        )
    if found:
        return _kind(found[0]), found[0]
    for name in sorted(names):
        if name.startswith("dataset") and name.endswith(".pt"):
            return _kind(place / name), place
    if WEIGHTS in names:
        return "a saved zoo", place  # half of one, and refused as such
    if len(problems) == 1:
        raise problems[0]
    raise ZooError(
        f"{place}: no layout of a zoo was recognised in {sorted(names)[:8]}; expected {RECORDS}, "
        "weights.npy, folders with result.json, splits.json, or a table with a column "
        f"{', '.join(FILE_COLUMNS)} that tells each model's file."
    )


def _kind(path: Path) -> str:
    if path.suffix in (".pt", ".pth"):
        raise ZooError(
            f"{path}: a preprocessed dataset.pt holds pickled objects of its authors' classes, and "
            "unpickling runs code, so it is not read; load the raw Ray Tune tree of the same zoo."
        )
    if not path.name.endswith(_TABLE_SUFFIXES) or not path.is_file():
        raise ZooError(
            f"{path}: expected a zoo's folder, or the table in it; check the path, and unpack an "
            "archive first."
        )
    splits = path.name == "splits.json" or path.name.endswith("_splits.json")
    return "a splits file" if splits else "a table"


def _table(path: Path) -> pd.DataFrame:
    if path.name.endswith((".csv", ".csv.gz")):
        return read_csv(path, dtype=dict.fromkeys(FILE_COLUMNS, str))
    value = load_json(path, lines=path.suffix == ".jsonl")
    with reading(path, "a list of rows"):
        frame = pd.DataFrame(value)
    return frame


def _file_column(frame: pd.DataFrame, path: Path) -> str:
    column = next((name for name in FILE_COLUMNS if name in frame), None)
    if column is None:
        raise ZooError(
            f"{path}: no column tells each model's file; name it one of {', '.join(FILE_COLUMNS)}."
        )
    return column


def _read_table(path: Path, reader: Reader | None, progress: bool) -> Zoo:
    frame = _table(path)
    rows = [f"{path}, row {row} (counted from 0)" for row in range(len(frame))]
    paths = files_of_table(path.parent, frame[_file_column(frame, path)].tolist(), rows)
    check_all_listed(path.parent, paths, path)
    add_runs(frame, paths)
    records = complete(frame, path)
    return Zoo(stack_files(paths, reader, progress=progress), records)


def _read_splits(path: Path, reader: Reader | None, progress: bool) -> Zoo:
    value: Any = load_json(path)
    frames, rows = [], []
    for split, columns in value.items() if isinstance(value, dict) else ():
        lengths = {
            name: len(column) if isinstance(column, list) else -1
            for name, column in (columns.items() if isinstance(columns, dict) else ())
        }
        if "path" not in lengths or len(set(lengths.values())) != 1 or -1 in lengths.values():
            raise ZooError(
                f"{path}: the split {split!r} must be lists of one length, one of them 'path', "
                f"got {lengths or type(columns).__name__}."
            )
        frames.append(pd.DataFrame(columns).assign(split=split))
        rows += [f"{path}, entry {i} of {split!r}" for i in range(lengths["path"])]
    if not rows:
        raise ZooError(f'{path}: expected {{split: {{"path": [...], ...}}}}, with some models.')
    frame = pd.concat(frames, ignore_index=True)
    frame = frame.rename(columns={"score": "test_accuracy", "step": "epoch"})
    paths = files_of_table(path.parent, frame["path"].tolist(), rows)
    add_runs(frame, paths)
    records = complete(frame, path)
    return Zoo(stack_files(paths, reader, progress=progress), records)
