"""What the panels, the report and the command line take as weights."""

from pathlib import Path
from typing import Any

from wskit import checkpoints, data
from wskit.checkpoints import Checkpoint


def open_source(source: Any, **options: Any) -> Checkpoint:
    """Open weights from wherever they are.

    Parameters
    ----------
    source : str, path, nn.Module or mapping of str to Tensor
        A file, a folder, a ``hf://`` reference, a name of `wskit.data.catalog`, a module or a
        mapping. A file of the name goes before an entry of the catalogue.
    **options
        Passed to `wskit.checkpoints.open_checkpoint`.

    Returns
    -------
    Checkpoint
        `source` itself if it is one.
    """
    if isinstance(source, Checkpoint):
        return source
    if isinstance(source, str) and not Path(source).exists():
        catalog = data.catalog()
        if source in set(catalog["name"][catalog["kind"] == "weights"]):
            source = data.fetch(source)
    return checkpoints.open_checkpoint(source, **options)
