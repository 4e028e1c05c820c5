"""One way in for every layout of a zoo on disk."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor

from wskit.errors import ZooError
from wskit.zoo._load_files import (
    FILE_COLUMNS,
    TABLE_SUFFIXES,
    find_trials,
    read_files_of_table,
    read_ray,
    read_table,
)
from wskit.zoo._load_small_cnn import SMALL_CNN_FILES, read_small_cnn_zoo
from wskit.zoo._save import SUFFIX, find_blocks, read_saved
from wskit.zoo._zoo import Zoo, concatenate


def load_zoo(
    path: str | os.PathLike[str],
    *,
    open_checkpoint: Callable[..., Mapping[str, Tensor]] | None = None,
    epochs: Literal["last", "all"] | Sequence[int] = "last",
    progress: bool = True,
) -> Zoo:
    r"""Open a zoo; its layout is recognised by what is there.

    A saved zoo and the Small CNN Zoo are memory-mapped: nothing is read before it is used, and
    what is written into the tensors never reaches the file. The others hold one file per model,
    read into stacks. No object is unpickled, and no file outside the folder is read.

    - What `save_zoo` wrote: one ``.safetensors`` file.
    - The folder of `train_zoo`. `run` numbers the models in the order of the files.
    - The Small CNN Zoo (Unterthiner et al. 2020, arXiv:2002.11448): ``weights.npy``,
      ``metrics.csv.gz``, ``layout.csv``. Kernels are turned to torch's axes, as views, and named
      conv1.weight, ..., fc.weight. In the table, the prefix ``config.`` is dropped, and `step`
      (the number of epochs trained; 0 is the initialisation) becomes `epoch`, `random_seed`
      `seed`, `w_init` `init`, and `l2reg` `weight_decay`, with twice its value: Keras's penalty
      l2reg |w|^2 has the gradient of torch's ``weight_decay = 2 l2reg``. The recorded losses hold
      the penalty. `run` numbers the values of `modeldir`.
    - Ray Tune's trees, as the Model Zoos (Schürholt et al. 2022): one folder per trial with
      ``params.json`` or ``config.json``, ``result.json`` (one object per line), and
      ``checkpoint_50/checkpoints`` or ``checkpoint_000050/checkpoints``. A line is matched by its
      `training_iteration`; without it, line 0 is of epoch 0 if that has a checkpoint, else of 1.
    - A table (``.csv``, ``.csv.gz``) with one row per model, whose column `file`, `path`,
      `checkpoint` or `name` holds its file or Hugging Face folder. The other columns are kept;
      without a column `run`, each model is of its own run. Files of the same suffixes that have
      no row are refused.

    Where a table has no `status`, a model is "trained" if all of its recorded losses and
    accuracies are finite.

    Parameters
    ----------
    path : path
        The file or folder; or the table in it, where the folder has several.
    open_checkpoint : callable, optional
        Reads a model's file: ``wskit.checkpoints.open_checkpoint``. Needed where each model has
        a file.
    epochs : "last", "all" or sequence of int, default "last"
        Which of each trial's checkpoints to read, in a Ray Tune tree.
    progress : bool, default True
        Show a progress bar while the models' files are read.

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
    >>> from safetensors.torch import save_file
    >>> from wskit.checkpoints import open_checkpoint
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file({"w": torch.arange(3.0)}, f"{folder}/a.safetensors")
    ...     _ = Path(f"{folder}/table.csv").write_text("file\na.safetensors")
    ...     load_zoo(folder, open_checkpoint=open_checkpoint, progress=False).model(0)
    {'w': tensor([0., 1., 2.])}
    """
    place = Path(path).expanduser()
    if place.is_dir() and find_trials(place):
        return read_ray(place, epochs, open_checkpoint, progress=progress)
    if epochs != "last":
        raise ZooError(f"{place}: epochs= is for a Ray Tune tree, and this is none; omit it.")
    if not place.is_dir():
        if place.suffix == SUFFIX:
            return read_saved(place)
        if place.name.endswith(TABLE_SUFFIXES) and place.is_file():
            return read_files_of_table(place, open_checkpoint, progress=progress)
        raise ZooError(
            f"{place}: expected a zoo's file or folder, or the table in it; check the path, and "
            "unpack an archive first."
        )
    if any((place / name).exists() for name in SMALL_CNN_FILES):
        return read_small_cnn_zoo(place)
    if blocks := list(find_blocks(place)):
        zoo = concatenate(blocks)
        runs = [zoo.records.key, zoo.records.run]
        records = zoo.records.assign(run=zoo.records.groupby(runs, sort=False).ngroup())
        return Zoo(zoo.weights, records.drop(columns="key"))
    return read_files_of_table(_find_table(place), open_checkpoint, progress=progress)


def _find_table(folder: Path) -> Path:
    """Return the one table of a folder that names models' files."""
    names = sorted(path.name for path in folder.iterdir())
    tables, problems = [], []
    for name in names:
        if name.endswith(TABLE_SUFFIXES):
            try:
                read_table(folder / name)
                tables.append(folder / name)
            except ZooError as error:
                problems.append(error)
    if len(tables) == 1:
        return tables[0]
    if tables:
        raise ZooError(
            f"{folder}: {tables[0].name} and {tables[1].name} both list models; pass the path of "
            "one."
        )
    if len(problems) == 1:
        raise problems[0]
    raise ZooError(
        f"{folder}: no layout of a zoo was recognised in {names[:8]}; expected a saved zoo "
        f"(*{SUFFIX}), weights.npy, folders with result.json, or a table with a column "
        f"{', '.join(FILE_COLUMNS)} that holds each model's file."
    )
