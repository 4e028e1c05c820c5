"""Arbitrary bytes and JSON into the loaders: data, or one sentence; `make fuzz` runs it longer."""

import json
import os
from pathlib import Path

import pytest
from checkpoint_kit import forged_safetensors, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wskit import course
from wskit.checkpoints import open_checkpoint
from wskit.errors import WskitError
from wskit.zoo import load_zoo

EXAMPLES = int(os.environ.get("WSKIT_FUZZ_EXAMPLES", "25"))
bounded = settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars, lambda c: st.lists(c, max_size=3) | st.dictionaries(st.text(max_size=8), c, max_size=3)
)


def answers(call, *given_):
    """Return what a loader makes of this, or None where it refuses it in one line."""
    try:
        return call(*given_)
    except WskitError as error:
        assert "\n" not in str(error)
        return None


def read_all(path: Path) -> None:
    with open_checkpoint(path, max_bytes=2**20) as found:
        for name in found:
            assert found[name].shape == found.shape(name)


@bounded
@given(header=values | st.dictionaries(st.text(max_size=3), values, max_size=3))
def test_headers_of_safetensors(tmp_path, header):
    path = forged_safetensors(tmp_path / "w.safetensors", json.dumps(header).encode(), bytes(16))
    answers(read_all, path)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "old", "npz"])
@bounded
@given(place=st.floats(0, 1, exclude_max=True), part=st.binary(min_size=1, max_size=6))
def test_files_with_other_bytes_in_them(tmp_path, kind, place, part):
    path = write(tmp_path, kind)
    content = bytearray(path.read_bytes())
    start = int(place * len(content))
    content[start : start + len(part)] = part
    path.write_bytes(content)
    answers(read_all, path)


@bounded
@given(index=values, shards=values)
def test_indexes(tmp_path, index, shards):
    path = tmp_path / "m.safetensors.index.json"
    for content in (index, {"weight_map": shards}):
        path.write_text(json.dumps(content))
        answers(read_all, path)


@bounded
@given(text=st.text(max_size=60) | st.binary(max_size=60))
def test_tables_of_zoos(tmp_path, text):
    path = tmp_path / "zoo.csv"
    path.write_bytes(text if isinstance(text, bytes) else f"path,{text}\nw.pt,1".encode())
    answers(lambda: load_zoo(path, progress=False))


def cell(source: object, *tags: str) -> dict[str, object]:
    return {"cells": [{"cell_type": "code", "metadata": {"tags": list(tags)}, "source": source}]}


@pytest.mark.parametrize(
    "notebook",
    [
        {},
        {"cells": None},
        {"cells": [{}]},
        cell(3),
        cell("# Exercise 1.1", "exercise"),
        cell("print(f(", "check"),
        cell("", "check"),
    ],
)
def test_notebooks_that_are_none(notebook):
    with pytest.raises(WskitError, match="nbformat 4"):
        course.for_grading(notebook)


@bounded
@given(notebook=values | st.fixed_dictionaries({"cells": st.lists(values, max_size=3)}))
def test_notebooks(notebook):
    answers(course.for_students, notebook)
    answers(course.for_grading, notebook)
