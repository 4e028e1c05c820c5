"""Every public function against bad input: one table of what happens, and each row of it run.

`fault_table.tsv` is that table: the function (and the argument, where it is not the first), what
it is given, and what comes of it: an error in one sentence, or a value (after "="), whose numbers
are counted as finite, NaN or inf. Decimals in it are written as "#".
``python tests/test_faults.py`` writes it anew; read what `git diff` shows
of it before you commit it.
"""

import importlib
import inspect
import re
from pathlib import Path

import jaxtyping
import pytest
from fault_choices import CHOICE_ENTRIES
from fault_entries import ENTRIES
from fault_files import FILE_ENTRIES
from fault_kit import outcome
from fault_results import RESULT_ENTRIES

from wskit import errors

TABLE = Path(__file__).with_name("fault_table.tsv")
MODULES = (
    "spectra", "fits", "geometry", "averaging", "zoo", "features", "landscape", "soups",
    "predictors", "checkpoints", "data", "report", "course",
)  # fmt: skip

# Public, and in no row.
EXCEPTIONS = {
    "result types, made by the functions that are in the table": {
        "spectra.ApproximateDensity", "spectra.Spectrum", "fits.Laws", "fits.MPFit", "fits.Phase",
        "geometry.Layout", "geometry.Matching", "geometry.Run", "geometry.Slot",
        "geometry.UpdateProjection", "averaging.TrajectorySpectrum", "landscape.Evaluation",
        "landscape.HessianEigenvalue", "landscape.LossPath", "landscape.LossPlane",
        "landscape.Plane", "soups.Soup", "predictors.Evaluation", "checkpoints.Checkpoint",
        "data.Dataset", "data.Resource", "report.Comparison", "report.Provenance",
        "report.Report", "report.Specimen", "course.Claims", "course.Copies",
    },
    "no functions: numbers and types for annotations": {
        "spectra.MAX_SIDE", "spectra.ConvRule", "spectra.Method", "spectra.QkvRule",
        "fits.FEW_EIGENVALUES", "geometry.Axis", "geometry.By", "geometry.Symmetries",
        "features.Convention", "zoo.TrainingData", "course.CLAIM_COLUMNS",
        "course.NOT_FOR_STUDENTS", "course.TAGS",
    },
    "choices that are checked by the functions that take them": {
        "zoo.Compute", "landscape.Compute",
    },
    "what it is given is a function of the caller's, which is called later": {
        "spectra.LazyWeights",
    },
    "takes a fit, which its type has checked": {"fits.caveats"},
    "take nothing": {
        "data.cache_folder", "data.catalog", "data.manifest_folder", "course.notebooks_folder",
        "course.tutorials",
    },
    "take texts and cells of a notebook that nbformat has read": {
        "course.picture_text", "course.without_descriptions",
    },
    "an estimator of scikit-learn, whose checks ask for its own errors; a subclass of ValueError "
    "is not enough for them": {"predictors.neural_network", "predictors.LogitLinearRegressor"},
}  # fmt: skip

ROWS = [tuple(line.split("\t")) for line in TABLE.read_text(encoding="utf-8").splitlines()]
ALL = {**ENTRIES, **CHOICE_ENTRIES, **RESULT_ENTRIES, **FILE_ENTRIES}


@pytest.mark.parametrize(("entry", "fault", "expected"), ROWS, ids=[f"{r[0]}-{r[1]}" for r in ROWS])
def test_what_happens(tmp_path, monkeypatch, without_type_checks, entry, fault, expected):
    monkeypatch.chdir(tmp_path)
    assert outcome(ALL[entry], fault, str(tmp_path)) == expected


def test_the_table_has_every_public_function():
    public = {f"{m}.{n}" for m in MODULES for n in importlib.import_module(f"wskit.{m}").__all__}
    excepted = set().union(*EXCEPTIONS.values())
    tested = {re.split(r"[ ]", entry)[0] for entry in ALL}
    assert public - tested - excepted == set(), "add them to the table"
    assert excepted - public == set(), "these are gone"
    assert {name.split(" ")[0] for name in tested} <= public | {"geometry.WeightDistances"}


def test_the_table_has_every_fault_of_every_function_once():
    assert [row[:2] for row in ROWS] == [(e, f) for e, entry in ALL.items() for f in entry.faults]


def test_errors_are_one_sentence():
    own = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    for entry, fault, expected in ROWS:
        if not expected.startswith("="):
            kind, _, message = expected.partition(": ")
            assert kind in own, (entry, fault)
            assert len(message) > 20, (entry, fault)
            assert not re.search(r"Traceback|\\n| object at 0x", message), (entry, fault)


def _write_table() -> None:
    import tempfile

    jaxtyping.config.update("jaxtyping_disable", True)
    lines = []
    for entry, known in ALL.items():
        for fault in known.faults:
            with tempfile.TemporaryDirectory() as folder:
                import os

                os.chdir(folder)
                lines.append(f"{entry}\t{fault}\t{outcome(known, fault, folder)}")
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _write_table()
