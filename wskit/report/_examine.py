"""Everything that a report says, computed."""

import datetime
import math
import os
import platform
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from wskit import __version__
from wskit._base.files import hash_file
from wskit._base.weights import LazyWeights
from wskit._sources import open_source
from wskit.checkpoints import Checkpoint
from wskit.errors import ReportError
from wskit.features import correlation_table, spectral_table
from wskit.fits import Laws, fit_laws
from wskit.geometry import WeightDistances, weight_distances
from wskit.report import _words as words
from wskit.spectra import (
    ConvRule,
    Spectrum,
    difference,
    inventory,
    shuffled_weights,
    spectra,
)

MOST_NEURONS = 16_384
"""All pairs of neurons are compared: of more neurons than these, hours would go by."""

MOST_SHUFFLED = 2**26
"""Entries of a layer that are shuffled at the most: each takes eight bytes, and a copy."""

Source: TypeAlias = str | os.PathLike[str] | nn.Module | Mapping[str, Tensor]
MEASURES = ("norm", "other_norm", "distance", "relative", "angle")


@dataclass(frozen=True, eq=False)
class Specimen:
    """A layer that is worth a picture, why, its spectrum, and what could be fitted to it.

    `null` is the spectrum of the same entries in random order; None for a product of factors, and
    for too many entries.
    """

    name: str
    why: str
    spectrum: Spectrum
    laws: Laws
    null: Spectrum | None


@dataclass(frozen=True, eq=False)
class Origin:
    """Where weights come from.

    Attributes
    ----------
    source : str
        A path, a ``hf://`` reference or a type's name.
    files : DataFrame
        The columns are file, bytes and sha256; empty where the weights were in memory.
    facts : mapping of str to str
        Number of tensors by dtype, tied tensors, and plain values beside the tensors.
    """

    source: str
    files: pd.DataFrame
    facts: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Comparison:
    """How far one set of weights is from another, and what the difference looks like.

    Attributes
    ----------
    summary : tuple of str
        Sentences.
    distances : DataFrame
        One row per tensor of either: name, n_parameters, norm (of the first), other_norm,
        distance, relative (distance / other_norm), angle (in degrees), reason.
    spectral : DataFrame
        The `wskit.features.spectral_table` of the differences.
    specimens : tuple of Specimen
        Differences that are worth a picture.
    origin : Origin
        Of the other.
    """

    summary: tuple[str, ...]
    distances: pd.DataFrame
    spectral: pd.DataFrame
    specimens: tuple[Specimen, ...]
    origin: Origin


@dataclass(frozen=True, eq=False)
class Report:
    """What `examine` has found out about a set of weights; `write_report` makes a page of it.

    Attributes
    ----------
    n_parameters : int
        Tied tensors count once.
    summary : tuple of str
        What there is to say in a few sentences, and what cannot be said.
    remarks : DataFrame
        One row per layer: name, verdict ("trained", "random", "collapsed", "unclear") and remarks,
        in words.
    inventory : DataFrame
        See `wskit.spectra.inventory`.
    spectral : DataFrame
        See `wskit.features.spectral_table`.
    correlation : DataFrame
        See `wskit.features.correlation_table`.
    specimens : tuple of Specimen
        The layers that are worth a picture.
    origin : Origin
    facts : mapping of str to str
        When the report was made (in UTC), by what, and with which rule for convolutions.
    comparison : Comparison or None
        With the other weights, where there were any.
    """

    n_parameters: int
    summary: tuple[str, ...]
    remarks: pd.DataFrame
    inventory: pd.DataFrame
    spectral: pd.DataFrame
    correlation: pd.DataFrame
    specimens: tuple[Specimen, ...]
    origin: Origin
    facts: Mapping[str, str]
    comparison: Comparison | None

    def __repr__(self) -> str:
        return f"Report({self.origin.source!r}: {' '.join(self.summary[:-1])})"


def examine(
    weights: Source,
    *,
    other: Source | None = None,
    conv: ConvRule = "slices",
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Report:
    """Look at all layers of a model by all means that need nothing but its weights.

    Parameters
    ----------
    weights : str, path, nn.Module or mapping of str to Tensor
        A file, a folder, a ``hf://`` reference, a name of `wskit.data.catalog`, a module or a
        mapping; read one tensor at a time.
    other : the same, optional
        To compare with: an earlier step of training, say, or the model that it was fine-tuned
        from. Tensors of the same name and shape are compared.
    conv : {"slices", "unfold", "per-slice", "fft"}, default "slices"
        The rule for convolutions, see `wskit.spectra.inventory`.
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
    opened = _open(weights)
    own = Part(opened, [name for name in opened if name not in opened.ties])
    found = inventory(opened, conv=conv)
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
    remarks = words.remark(spectral, correlation)
    n_parameters = sum(math.prod(own.shape(name)) for name in own)
    comparison = None
    if other is not None:
        comparison = _compare(opened, _open(other), conv=conv, device=device, progress=progress)
    return Report(
        n_parameters=n_parameters,
        summary=words.summarise(n_parameters, len(opened), spectral, remarks, correlation),
        remarks=remarks,
        inventory=found,
        spectral=spectral,
        correlation=correlation,
        specimens=_collect(own, words.choose(spectral, remarks), conv=conv, device=device),
        origin=_trace(opened),
        facts={
            "Convolutions": f"conv={conv!r}",
            "Computed by": f"wskit {__version__}, torch {torch.__version__}, numpy "
            f"{np.__version__}, Python {platform.python_version()}",
            "Date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        },
        comparison=comparison,
    )


class Part(LazyWeights):
    """Some tensors of a checkpoint; of a mapped file, each is a copy.

    What is mapped stays in memory for as long as the system likes: two files of 1 GB would count
    as 2 GB.
    """

    block_reads = True

    def __init__(self, weights: Checkpoint, names: Collection[str]) -> None:
        self._weights, self._names = weights, dict.fromkeys(names)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._weights.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._weights.dtype(name)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        return self._weights.rows(name, start, stop)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        shape = self.shape(name)
        return self.rows(name, 0, shape[0]) if shape else self._weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _open(source: Source) -> Checkpoint:
    opened = open_source(source)
    if not opened:
        raise ReportError(f"expected weights to report on, but {opened.source} holds no tensor")
    for name in opened:
        try:
            name.encode()
        except UnicodeEncodeError as error:  # no table can hold it
            raise ReportError(
                f"{opened.source}: expected names of Unicode letters, got {name!r}; rename it."
            ) from error
    return opened


def _trace(weights: Checkpoint) -> Origin:
    files = weights.files
    rows = [(file.name, file.stat().st_size, hash_file(file)) for file in files]
    dtypes = Counter(str(weights.dtype(name)).removeprefix("torch.") for name in weights)
    facts = {
        "Source": weights.source,
        "dtypes (tensors)": ", ".join(f"{name} ({n})" for name, n in dtypes.most_common()),
        "Tied tensors": "; ".join(f"{name} to {to}" for name, to in weights.ties.items()) or "none",
        "Files": "listed below" if files else "none: the weights were in memory",
    }
    facts |= {f"Metadata: {key}": str(value)[:300] for key, value in weights.metadata.items()}
    return Origin(weights.source, pd.DataFrame(rows, columns=["file", "bytes", "sha256"]), facts)


def _collect(
    weights: Mapping[str, Tensor],
    reasons: Mapping[str, str],
    *,
    conv: ConvRule,
    device: torch.device | str | None,
) -> tuple[Specimen, ...]:
    """Return spectrum, laws and null model of the layers named in `reasons`, one by one."""
    table = inventory(weights, conv=conv).set_index("name")
    null_weights = shuffled_weights(weights, seed=0)
    made = []
    for name, why in reasons.items():
        (s,) = spectra(weights, names=[name], conv=conv, device=device)
        null = None
        row = table.loc[name]
        if row["kind"] != "low-rank" and row["n_parameters"] <= MOST_SHUFFLED:
            (null,) = spectra(null_weights, names=[name], conv=conv, device=device)
        laws = fit_laws(s.eigenvalues, N=s.N, M=s.M)
        made.append(Specimen(name, why, s, laws, null))
    return tuple(made)


def _compare(
    weights: Checkpoint,
    other: Checkpoint,
    *,
    conv: ConvRule,
    device: torch.device | str | None,
    progress: bool,
) -> Comparison:
    """Measure how far `weights` are from `other`, and take the spectra of their difference."""
    reasons = {name: _find_reason(weights, other, name) for name in {**weights, **other}}
    names = [name for name, reason in reasons.items() if not reason]
    if not names:
        raise ReportError(
            f"expected two sets of weights with a tensor of the same name and shape, but "
            f"{weights.source} and {other.source} have none; give two models of one network"
        )
    origin = {name: torch.zeros(()).expand(weights.shape(name)) for name in names}
    models = [Part(weights, names), Part(other, names)]
    measured = weight_distances(models, origin, by="tensor", device=device, progress=progress)
    rows = []
    for name, reason in reasons.items():
        shape = (weights if name in weights else other).shape(name)
        row = {"name": name, "n_parameters": math.prod(shape), "reason": reason}
        rows.append(row if reason else row | _measure(measured, name))
    distances = pd.DataFrame(rows, columns=["name", "n_parameters", *MEASURES, "reason"])
    # The factors of a low-rank pair are left out: their difference is not that of the products.
    whole = set(inventory(weights, conv="slices")["name"])
    layers = [name for name in names if name in whole and len(weights.shape(name)) >= 2]
    delta = difference(Part(weights, layers), Part(other, layers))
    spectral = spectral_table(delta, conv=conv, device=device, progress=progress)
    chosen = words.choose_moved(spectral, distances)
    return Comparison(
        summary=words.summarise_comparison(
            distances, spectral, _measure(measured, None), other.source
        ),
        distances=distances,
        spectral=spectral,
        specimens=_collect(delta, chosen, conv=conv, device=device),
        origin=_trace(other),
    )


def _find_reason(weights: Checkpoint, other: Checkpoint, name: str) -> str:
    """Return why a tensor is not compared; of most, nothing."""
    if name not in other:
        return "only the first has it"
    if name not in weights:
        return "only the other has it"
    if weights.shape(name) != other.shape(name):
        first, second = (" × ".join(map(str, w.shape(name))) for w in (weights, other))
        return f"the shapes differ: {first or 'scalar'} and {second or 'scalar'}"
    if name in weights.ties and name in other.ties:
        return f"it is tied to {weights.ties[name]}"
    for dtype in (weights.dtype(name), other.dtype(name)):
        if not dtype.is_floating_point:
            dtype_name = str(dtype).removeprefix("torch.")
            return f"its dtype is {dtype_name}, and a floating dtype is needed"
    if 0 in weights.shape(name):
        return "it is empty"
    if not all(_is_finite(Part(w, [name])[name]) for w in (weights, other)):
        return "one of the two holds NaN or inf"
    return ""


def _is_finite(W: Tensor) -> bool:
    """Look for NaN and inf without a copy; a dtype of one byte has no order."""
    low, high = torch.aminmax(W if W.dtype.itemsize > 1 else W.float())
    return bool(torch.isfinite(low) and torch.isfinite(high))


def _measure(measured: WeightDistances, group: str | None) -> dict[str, float]:
    norm, other_norm = measured.update_norms(group)
    distance = measured.euclidean(group)[0, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = distance / other_norm if distance else 0.0
    angle = float(np.degrees(measured.angle(group)[0, 1]))
    return dict(zip(MEASURES, (norm, other_norm, distance, relative, angle), strict=True))
