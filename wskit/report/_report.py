"""What a report holds."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from wskit.fits import Laws
from wskit.spectra import ConvRule, Spectrum


@dataclass(frozen=True, eq=False)
class Specimen:
    """A layer that is worth a picture.

    Attributes
    ----------
    name : str
    why : str
        What is remarkable about it, in a few words.
    spectrum : Spectrum
    laws : Laws
        What could be fitted to it.
    null : Spectrum or None
        Of the same entries in random order; None where there are too many, or none to shuffle.
    """

    name: str
    why: str
    spectrum: Spectrum
    laws: Laws
    null: Spectrum | None


@dataclass(frozen=True, eq=False)
class Provenance:
    """Where weights come from, and what computed their report.

    Attributes
    ----------
    source : str
        A path, a ``hf://`` reference or a type's name.
    files : DataFrame
        The columns are file, bytes and sha256; empty where the weights were in memory.
    n_parameters : int
        Tied tensors count once.
    dtypes : mapping of str to int
        How many tensors have each dtype.
    ties : mapping of str to str
        Names of tied tensors, each with the first name of the same memory.
    metadata : mapping of str to object
        Plain values beside the tensors.
    versions : mapping of str to str
        Of wskit, torch, numpy and Python.
    date : str
        When the report was made, in UTC.
    """

    source: str
    files: pd.DataFrame
    n_parameters: int
    dtypes: Mapping[str, int]
    ties: Mapping[str, str]
    metadata: Mapping[str, object]
    versions: Mapping[str, str]
    date: str


@dataclass(frozen=True, eq=False)
class Comparison:
    """How far one set of weights is from another, and what the difference looks like.

    Attributes
    ----------
    summary : tuple of str
        Sentences.
    distances : DataFrame
        A row a tensor of either: name, n_parameters, norm (of the first), other_norm, distance,
        relative (distance / other_norm), angle (in degrees), reason.
    spectral : DataFrame
        The `wskit.features.spectral_table` of the differences.
    specimens : tuple of Specimen
        Differences that are worth a picture.
    provenance : Provenance
        Of the other.
    """

    summary: tuple[str, ...]
    distances: pd.DataFrame
    spectral: pd.DataFrame
    specimens: tuple[Specimen, ...]
    provenance: Provenance


@dataclass(frozen=True, eq=False)
class Report:
    """What `examine` has found out about a set of weights; `write_report` makes a page of it.

    Attributes
    ----------
    summary : tuple of str
        What there is to say in a few sentences, and what cannot be said.
    remarks : DataFrame
        A row a layer: name, verdict ("trained", "random", "collapsed", "unclear") and remarks, in
        words.
    inventory : DataFrame
        See `wskit.spectra.inventory`.
    spectral : DataFrame
        See `wskit.features.spectral_table`.
    correlation : DataFrame
        See `wskit.features.correlation_table`.
    specimens : tuple of Specimen
        The layers that are worth a picture.
    conv : str
        The rule for convolutions.
    provenance : Provenance
    comparison : Comparison or None
        With the other weights, where there were any.
    """

    summary: tuple[str, ...]
    remarks: pd.DataFrame
    inventory: pd.DataFrame
    spectral: pd.DataFrame
    correlation: pd.DataFrame
    specimens: tuple[Specimen, ...]
    conv: ConvRule
    provenance: Provenance
    comparison: Comparison | None

    def __repr__(self) -> str:
        return f"Report({self.provenance.source!r}: {' '.join(self.summary[:-1])})"
