"""Everything that a report says, computed."""

import datetime
import platform
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from wskit import __version__
from wskit.checkpoints import Checkpoint, hash_files, open_checkpoint
from wskit.errors import ReportError
from wskit.features import correlation_table, spectral_table
from wskit.report._compare import compare
from wskit.report._part import Part
from wskit.report._report import Provenance, Report
from wskit.report._specimens import choose, specimens
from wskit.report._words import remarks, summary
from wskit.spectra import ConvRule, inventory

# All pairs of neurons are compared: of more neurons than these, hours would go by.
MOST_NEURONS = 16_384


def examine(
    weights: Mapping[str, Tensor],
    *,
    other: Mapping[str, Tensor] | None = None,
    conv: ConvRule = "slices",
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Report:
    """Look at all layers of a model by all means that need nothing but its weights.

    Parameters
    ----------
    weights : mapping of str to Tensor
        Read one tensor at a time.
    other : mapping of str to Tensor, optional
        To compare with: an earlier step of training, say, or the model that it was fine-tuned
        from. Tensors of the same name and shape are compared.
    conv : {"slices", "unfold", "per-slice", "fft"}, default "slices"
        The rule for convolutions, see `wskit.spectra.ConvRule`.
    device : torch.device or str, optional
        Where to compute. None means where each tensor is.
    progress : bool, default False
        Show progress bars.

    Returns
    -------
    Report

    Raises
    ------
    ReportError
        If there is no tensor, or `other` has none of the same name and shape.
    CheckpointError
        If a tensor or a file cannot be read.

    Examples
    --------
    >>> found = examine({"fc.weight": torch.eye(60), "fc.bias": torch.zeros(60)})
    >>> found.remarks[["name", "verdict"]].values.tolist()
    [['fc.weight', 'unclear']]
    """
    opened = _opened(weights)
    found = inventory(opened, conv=conv)
    own = Part(opened, [name for name in opened if name not in opened.ties])
    spectral = spectral_table(own, conv=conv, device=device, progress=progress)
    # As the definition has it, whatever the rule for the spectra is.
    kinds = inventory(own, conv="unfold").set_index("name")["kind"]
    correlation = correlation_table(
        own,
        names=kinds.index[kinds.isin(["matrix", "convolution"])],
        most_neurons=MOST_NEURONS,
        device=device,
        progress=progress,
    )
    remarked = remarks(spectral, correlation)
    provenance = _provenance(opened)
    comparison = None
    if other is not None:
        beside = _opened(other)
        origin = _provenance(beside)
        comparison = compare(opened, beside, origin, conv=conv, device=device, progress=progress)
    return Report(
        summary=summary(found, spectral, remarked, correlation, provenance),
        remarks=remarked,
        inventory=found,
        spectral=spectral,
        correlation=correlation,
        specimens=specimens(own, choose(spectral, remarked), conv=conv, device=device),
        conv=conv,
        provenance=provenance,
        comparison=comparison,
    )


def _opened(weights: Mapping[str, Tensor]) -> Checkpoint:
    """Return weights that tell their headers, ties and origin."""
    opened = (
        weights if isinstance(weights, Checkpoint) else open_checkpoint(weights, strip_prefixes=())
    )
    if not opened:
        raise ReportError(
            f"a report needs weights, and {opened.source} holds no tensor; give a state dict or "
            "an opened checkpoint."
        )
    for name in opened:
        try:
            name.encode()
        except UnicodeEncodeError as error:  # no table can hold it
            raise ReportError(
                f"{opened.source}: expected names of Unicode letters, got {name!r}; rename it."
            ) from error
    return opened


def _provenance(weights: Checkpoint) -> Provenance:
    files = weights.files
    hashes = hash_files(files[0]) if files else {}
    sizes = [file.stat().st_size for file in files]
    own = [name for name in weights if name not in weights.ties]
    dtypes = Counter(str(weights.dtype(name)).removeprefix("torch.") for name in weights)
    return Provenance(
        source=weights.source,
        files=pd.DataFrame(
            {
                "file": [file.name for file in files],
                "bytes": sizes,
                "sha256": [hashes[file.name] for file in files],
            }
        ),
        n_parameters=sum(int(np.prod(weights.shape(name), dtype=np.int64)) for name in own),
        dtypes=dict(dtypes.most_common()),
        ties=dict(weights.ties),
        metadata=dict(weights.metadata),
        versions={
            "wskit": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "Python": platform.python_version(),
        },
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
