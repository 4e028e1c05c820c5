"""Arbitrary bytes and JSON into the loaders: data, or one sentence; `make fuzz` runs it longer."""

import copy
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from checkpoint_kit import forged_safetensors, write
from data_site import cached, prepare
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wskit import data
from wskit.checkpoints import open_checkpoint
from wskit.data import _manifests
from wskit.errors import DataError, WskitError
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


MANIFESTS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(_manifests.manifest_folder().glob("*.json"))
}
ODD = st.sampled_from([
    *("", "..", "../x", "a/../../x", "/etc/passwd", "C:\\x", "a\\..\\b", ".incoming/x", "a//b"),
    *("a" * 300, "a/" * 99 + "b", "mnist", "cifar-resnet20", "a\nb", "\x1b[2J", "\ud800", "A"),
    *("file:///etc/passwd", "http://[", "https://a b", "http://a:x/", "sha256:" + "A" * 64),
    *(0, -1, 2**63, 10**400, float("nan"), float("inf"), True, None),
    *([], {}, [{}], [[]], {"a": [3]}),
])  # fmt: skip


def places(node: object, *here: str | int) -> list[tuple[str | int, ...]]:
    """Return the ways to every value within an object or a list."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    inner = [(key, value) for key, value in pairs]
    below = [places(value, *here, key) for key, value in inner if isinstance(value, dict | list)]
    return [(*here, key) for key, _ in inner] + [way for ways in below for way in ways]


@st.composite
def changed_manifests(draw: st.DrawFn) -> tuple[str, str]:
    """Draw a manifest of the kit with a few values that are odd, gone, or there twice."""
    stem = draw(st.sampled_from(sorted(MANIFESTS)))
    manifest = copy.deepcopy(MANIFESTS[stem])
    for _ in range(draw(st.integers(1, 3))):
        *way, key = draw(st.sampled_from(places(manifest)))
        parent = manifest
        for step in way:
            parent = parent[step]
        change = draw(st.sampled_from(["odd", "odd", "odd", "deep", "gone", "twice"]))
        if change == "gone":
            del parent[key]
        elif change == "twice" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        else:
            parent[key] = "@deep" if change == "deep" else draw(ODD | values)
        if not places(manifest):
            break
    depth = draw(st.sampled_from([3, 900, 20_000]))
    return stem, json.dumps(manifest).replace('"@deep"', "[" * depth + "]" * depth)


def use_manifests(folders: Path, stem: str, content: bytes) -> None:
    """Ask everything of a folder of one manifest: it works, or one sentence names the manifest."""
    shutil.rmtree(folders / "manifests")
    (folders / "manifests").mkdir()
    (folders / "manifests" / f"{stem}.json").write_bytes(content)
    try:
        table = data.catalog()
    except DataError as error:
        assert re.search(rf"manifest \S*{stem}\.json .*(mend|rename)", str(error)), error
        assert str(error).isprintable()
        return
    assert len(table)
    for found in table.itertuples():
        (row,) = data.verify(found.name).itertuples()
        assert Path(row.path).resolve().is_relative_to(folders / "cache" / stem)
        assert found.max_bytes > 0
        assert all(re.match(r"https?://[^/]", url) for url in found.urls)
        with pytest.raises(DataError, match="WSKIT_OFFLINE") as caught:
            data.fetch(found.name)
        assert str(caught.value).isprintable()
    assert cached(folders) == []
    assert {path.name for path in folders.iterdir()} == {"manifests", "cache"}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    prepare(tmp_path, monkeypatch)
    monkeypatch.setenv("WSKIT_OFFLINE", "1")
    return tmp_path


@bounded
@given(changed=changed_manifests())
def test_manifests_with_odd_values(folders, changed):
    stem, text = changed
    use_manifests(folders, stem, text.encode())


@bounded
@given(content=st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode()))
def test_manifests_that_are_none(folders, content):
    use_manifests(folders, "nets", content)


@pytest.mark.parametrize("stem", sorted(MANIFESTS))
def test_the_kits_own_manifests(folders, stem):
    use_manifests(folders, stem, json.dumps(MANIFESTS[stem]).encode())
    assert len(data.catalog()) == len(MANIFESTS[stem]["resources"])
