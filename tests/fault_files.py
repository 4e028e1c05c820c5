"""The public functions that read or write files, and disks on which that does not work."""

import contextlib
import json
import os
import re
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import http_server
import numpy as np
from data_site import CONTENT
from data_site import resource as described
from fault_entries import a_zoo, data, mlp, table
from fault_kit import Entry, net, scalars

from wskit import checkpoints, course, features, report, zoo
from wskit import data as wskit_data
from wskit.data import _manifests

NOBODY = 65534


def touched(name: str, content: bytes = b"") -> Callable[[], Path]:
    """Write a file into the current folder."""

    def make() -> Path:
        Path(name).write_bytes(content)
        return Path(name)

    return make


def folder_with(name: str, content: bytes) -> Callable[[], Path]:
    def make() -> Path:
        Path("in").mkdir()
        Path("in", name).write_bytes(content)
        return Path("in")

    return make


SOURCES = {
    "nothing there": lambda: Path("none.safetensors"),
    "empty": touched("w.safetensors"),
    "damaged": touched("w.safetensors", b"\x08\0\0\0\0\0\0\0{]      "),
    "empty .pt": touched("w.pt"),
    "damaged .pt": touched("w.pt", b"PK\x03\x04 and no more"),
    "empty .npz": touched("w.npz"),
    "damaged .npz": touched("w.npz", b"PK\x03\x04 and no more"),
    "damaged index": touched("model.safetensors.index.json", b"{"),
    "wrong suffix": touched("w.txt", b"hello"),
    "empty folder": lambda: Path("in").mkdir() or Path("in"),
    "folder of other files": folder_with("readme.md", b""),
    "wrong type": lambda: 3,
}
ZOOS = {
    "nothing there": lambda: Path("none"),
    "empty folder": lambda: Path("in").mkdir() or Path("in"),
    "folder of other files": folder_with("readme.md", b""),
    "half a zoo": folder_with("records.parquet", b""),
    "half the other zoo": folder_with("weights.safetensors", b""),
    "empty table": folder_with("metrics.csv", b""),
    "damaged table": folder_with("metrics.csv", b"\x00\xff,\n1,2,3,4\n"),
    "empty file": touched("zoo.csv"),
    "table without columns": touched("zoo.csv", b"a,b\n1,2\n"),
    "no such checkpoint": touched("zoo.csv", b"path,test_accuracy\nnone.pt,0.5\n"),
}


@contextlib.contextmanager
def read_only(mode: int = 0o555) -> Iterator[Path]:
    """A folder that may be read only, also by the superuser's tests."""
    with tempfile.TemporaryDirectory() as outer:
        folder = Path(outer, "locked")
        folder.mkdir()
        Path(outer).chmod(0o755)
        folder.chmod(mode)
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            if is_root:
                os.seteuid(0)
            folder.chmod(0o755)


@contextlib.contextmanager
def closed() -> Iterator[Path]:
    """A folder in one that may not be searched."""
    with read_only(0o600) as folder:
        yield folder / "in"


@contextlib.contextmanager
def full_disk() -> Iterator[Path]:
    """A folder in which no file may pass 64 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with tempfile.TemporaryDirectory() as folder:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
        try:
            yield Path(folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)


@contextlib.contextmanager
def interrupted() -> Iterator[Path]:
    """A folder into which nothing can be moved: Ctrl-C comes first."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    replace, rename = Path.replace, Path.rename
    with tempfile.TemporaryDirectory() as folder:
        Path.replace = Path.rename = stop
        try:
            yield Path(folder)
        finally:
            Path.replace, Path.rename = replace, rename


DISKS = {"read-only": lambda: read_only, "closed": lambda: closed,
         "full disk": lambda: full_disk, "interrupted": lambda: interrupted}  # fmt: skip


def on_disk(write: Callable[[Path], object]) -> Callable[[object], object]:
    """Write on a bad disk, and say what is left there."""

    def call(disk: Callable[[], contextlib.AbstractContextManager[Path]]) -> object:
        with disk() as folder:
            try:
                write(folder)
                result: object = "written"
            except KeyboardInterrupt:
                result = "interrupted"
            except Exception as error:
                # The folder's name differs from run to run, a block's with what is in it.
                message = str(error).replace(str(folder), "FOLDER")
                error.args = (re.sub(r"block-\w+", "BLOCK", message),)
                assert left(folder) == [], "something is left behind"
                raise
            return result, left(folder)

    return call


def left(folder: Path) -> list[str]:
    """Name what is in a folder, but for what a cache keeps of downloads to go on from there."""
    found: list[str] = []
    with contextlib.suppress(PermissionError):  # of a closed folder nothing can be told
        found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    return [name for name in found if not name.startswith(".incoming")]


@contextlib.contextmanager
def site(disk: Callable[[], contextlib.AbstractContextManager[Path]]) -> Iterator[Path]:
    """A bad disk, and elsewhere a manifest of one file, which a cache and a server have."""
    with tempfile.TemporaryDirectory() as outer, http_server.running() as server:
        Path(outer).chmod(0o755)
        (Path(outer) / "cache" / "nets").mkdir(parents=True)
        (Path(outer) / "cache" / "nets" / "net.bin").write_bytes(CONTENT)
        url = server.serve("/net.bin", http_server.Reply(CONTENT))
        manifest = {
            "name": "nets", "sources": [], "wskit:kind": "weights", "wskit:citation": "",
            "resources": [described(**{"wskit:urls": [url]})],
        }  # fmt: skip
        (Path(outer) / "nets.json").write_text(json.dumps(manifest))
        places = {"WSKIT_CACHE": str(Path(outer, "cache")), "NO_PROXY": "127.0.0.1"}
        with (
            mock.patch.dict(os.environ, places | {"WSKIT_MIRROR": "", "WSKIT_OFFLINE": ""}),
            mock.patch.object(_manifests, "manifest_folder", lambda: Path(outer)),
            disk() as folder,
        ):
            yield folder


SITES = {name: lambda make=make: lambda: site(make()) for name, make in DISKS.items()}


def downloaded(cache: Path, mirror: str = "") -> object:
    os.environ.update({"WSKIT_CACHE": str(cache), "WSKIT_MIRROR": mirror})
    return wskit_data.fetch("net", progress=False)


def copied(cache: Path) -> object:
    return downloaded(cache, mirror=os.environ["WSKIT_CACHE"])


def mirrored(folder: Path) -> object:
    """Mirror what the cache of a site holds."""
    with site(lambda: contextlib.nullcontext(folder)):
        return wskit_data.mirror(folder, "net", progress=False)


@contextlib.contextmanager
def classroom(disk: Callable[[], contextlib.AbstractContextManager[Path]]) -> Iterator[Path]:
    """A bad disk, and elsewhere a tutorial of one exercise."""
    with tempfile.TemporaryDirectory() as outer:
        Path(outer).chmod(0o755)
        (Path(outer) / "01_tail.ipynb").write_text(json.dumps(EXERCISE))
        with mock.patch.object(course, "notebooks_folder", lambda: Path(outer)), disk() as folder:
            yield folder


CLASSROOMS = {name: lambda make=make: lambda: classroom(make()) for name, make in DISKS.items()}


def of_a_class(
    copy: Callable[..., object], destination: object, **choices: object
) -> course.Copies:
    with classroom(lambda: contextlib.nullcontext(Path())):
        return copy(destination, **choices)


def code(*lines: str, tags: object = None) -> dict[str, object]:
    text, metadata = "\n".join(lines), {} if tags is None else {"tags": tags}
    return {"cell_type": "code", "metadata": metadata, "source": text, "outputs": []}


def notebook(*cells: object) -> Callable[[], object]:
    return lambda: {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


CHECK = code("print(exercises.check_tail(alpha))", tags=["check"])
EXERCISE = notebook(
    code("# Exercise 1.1", "alpha = ...", tags=["exercise"]),
    CHECK,
    code("# Solution 1.1", "alpha = 2", "print(exercises.check_tail(alpha))", tags=["solution"]),
)()
NOTEBOOKS = {
    "empty": dict,
    "no cells": notebook(),
    "wrong type": lambda: 3,
    "wrong cells": lambda: {"cells": 3},
    "wrong cell": notebook([]),
    "empty cell": notebook({}),
    "wrong source": notebook(code() | {"source": 3}),
    "wrong tags": notebook(code(tags=3)),
}
EXERCISES = {
    **NOTEBOOKS,
    "no solution": notebook(EXERCISE["cells"][0], CHECK),
    "solution like the stub": notebook(
        EXERCISE["cells"][0],
        code("# Solution 1.1", "alpha = ...", "print(exercises.check_tail(alpha))"),
    ),
    "check of nothing": notebook(code(tags=["check"])),
    "check is no code": notebook(code("print(", tags=["check"])),
}


def size(path: str) -> dict[str, int]:
    return {"bytes": Path(path).stat().st_size}


def stored(folder: Path) -> object:
    return features.model_table(size, [__file__], store=folder)


def shown(folder: Path) -> object:
    return report.write_report(_REPORT, folder / "report.html")


_REPORT = report.examine({"fc.weight": net()["0.weight"]})

NAMES = scalars(wrong_name="cifar-resnet", empty="", wrong_type=3)

FILE_ENTRIES = {
    "checkpoints.open_checkpoint files": Entry(SOURCES, checkpoints.open_checkpoint),
    "checkpoints.hash_files": Entry(SOURCES, checkpoints.hash_files),
    "checkpoints.save_weights": Entry(
        DISKS, on_disk(lambda f: checkpoints.save_weights(net(), f / "w.safetensors"))
    ),
    "checkpoints.save_weights folder": Entry(
        DISKS, on_disk(lambda f: checkpoints.save_weights(net(), f / "w"))
    ),
    "checkpoints.save_weights weights": Entry(
        {
            "empty": dict,
            "no tensor": lambda: {"w": np.ones(2)},
            "no mapping": lambda: [1],
            "wrong name": lambda: {1: net()["0.bias"]},
        },
        lambda w: checkpoints.save_weights(w, "w.safetensors"),
    ),
    "checkpoints.save_weights path": Entry(
        scalars(no_such_folder="none/w.safetensors", wrong_suffix="w.pt", empty=""),
        lambda p: checkpoints.save_weights(net(), p),
    ),
    "zoo.load_zoo": Entry(ZOOS, lambda p: zoo.load_zoo(p, progress=False)),
    "zoo.save_zoo": Entry(DISKS, on_disk(lambda f: zoo.save_zoo(a_zoo(), f / "zoo"))),
    "zoo.save_zoo folder": Entry(
        {"no such folder": lambda: "none/zoo", "a file": touched("zoo"), "empty": lambda: ""},
        lambda p: zoo.save_zoo(a_zoo(), p),
    ),
    "zoo.train_zoo folder": Entry(
        DISKS, on_disk(lambda f: zoo.train_zoo(mlp, data(), table(), folder=f))
    ),
    "zoo.train_blocks folder": Entry(
        DISKS, on_disk(lambda f: list(zoo.train_blocks(mlp, data(), table(), folder=f)))
    ),
    "features.model_table store": Entry(DISKS, on_disk(stored)),
    "features.model_table rows": Entry(
        {
            "damaged": folder_with("a.parquet", b"no"),
            "empty": folder_with("a.parquet", b""),
            "a file": touched("store"),
        },
        lambda store: features.model_table(size, [__file__], store=store),
    ),
    "report.write_report": Entry(DISKS, on_disk(shown)),
    "report.write_report path": Entry(
        {
            "no such folder": lambda: "none/a.html",
            "wrong suffix": lambda: "a.txt",
            "another file": touched("a.html", b"hello"),
        },
        lambda p: report.write_report(_REPORT, p),
    ),
    "report.check_target": Entry(
        {
            "no such folder": lambda: "none/a.html",
            "wrong suffix": lambda: "a.txt",
            "another file": touched("a.html", b"hello"),
        },
        report.check_target,
    ),
    "course.copy_notebooks": Entry(CLASSROOMS, on_disk(course.copy_notebooks)),
    "course.copy_notebooks destination": Entry(
        {"a file": touched("copies"), "wrong type": lambda: 3},
        lambda d: of_a_class(course.copy_notebooks, d),
    ),
    "course.copy_notebooks changed": Entry(
        scalars(wrong_choice="x"), lambda c: of_a_class(course.copy_notebooks, "a", changed=c)
    ),
    "course.student_copies": Entry(CLASSROOMS, on_disk(course.student_copies)),
    "course.grading_sources": Entry(CLASSROOMS, on_disk(course.grading_sources)),
    "course.for_students": Entry(NOTEBOOKS, course.for_students),
    "course.for_grading": Entry(EXERCISES, course.for_grading),
    "course.claims": Entry(
        scalars(
            empty=(),
            wrong_type=3,
            wrong_length=("a", "b"),
            empty_text=("a", "", 1, "b"),
            a_bar=("a", "b", 1, "c|d"),
        ),
        course.claims,
    ),
    "data.describe": Entry(NAMES, wskit_data.describe),
    "data.fetch": Entry(NAMES, wskit_data.fetch),
    "data.fetch download": Entry(SITES, on_disk(downloaded)),
    "data.fetch mirror": Entry(SITES, on_disk(copied)),
    "data.fetch retries": Entry(
        scalars(negative=-1, wrong_dtype="x"), lambda n: wskit_data.fetch("gpt2-small", retries=n)
    ),
    "data.fetch timeout": Entry(
        scalars(zero=0.0, negative=-1.0, NaN=float("nan"), wrong_dtype="x"),
        lambda s: wskit_data.fetch("gpt2-small", timeout=s),
    ),
    "data.verify": Entry(NAMES, wskit_data.verify),
    "data.mirror": Entry(SITES, on_disk(lambda f: wskit_data.mirror(f, "net", progress=False))),
    "data.mirror folder": Entry({"a file": touched("mirror")}, mirrored),
    "data.mirror names": Entry(NAMES, lambda name: wskit_data.mirror("mirror", name)),
    "data.load_dataset": Entry(
        scalars(wrong_name="x", empty="", wrong_type=[]), wskit_data.load_dataset
    ),
    "data.load_dataset validation_fraction": Entry(
        scalars(zero=0.0, negative=-1.0, huge=1.0, NaN=float("nan"), wrong_dtype="x"),
        lambda v: wskit_data.load_dataset("digits", validation_fraction=v),
    ),
    "data.load_dataset seed": Entry(
        scalars(negative=-1, wrong_dtype="x"),
        lambda seed: wskit_data.load_dataset("digits", seed=seed),
    ),
}
