"""What `wskit doctor` prints: versions, device, folders, and what to do about what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import wskit
from wskit import course
from wskit.errors import WskitError

VARIABLES = ("WSKIT_CACHE", "WSKIT_MIRROR", "WSKIT_OFFLINE", "OMP_NUM_THREADS")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def examine() -> tuple[list[str], bool]:
    """Look at this installation.

    Returns
    -------
    lines : list of str
        The report.
    sound : bool
        Whether every core dependency is there, and new enough.

    Raises
    ------
    WskitError
        If wskit itself is not installed, as when it is run from an unpacked folder.
    """
    lines = [
        f"wskit {wskit.__version__} in {Path(__file__).parent}",
        f"Python {platform.python_version()} in {sys.prefix}, {platform.platform()}",
    ]
    to_do = []
    lacking = {}
    for extra, requirements in _requirements().items():
        lines += ["", f"Extra {extra}" if extra else "Needed"]
        states = {name: _state(name, needed) for name, needed in requirements.items()}
        lines += _rows((name, state) for name, (state, _) in states.items())
        lacking[extra] = ", ".join(name for name, (_, fits) in states.items() if not fits)
        if lacking[extra] and extra:
            lines.append(f"  to have it: pip install 'wskit[{extra}]'")
    if lacking[""]:
        to_do.append(f"pip install --upgrade wskit  (for {lacking['']})")
    if lacking.get("lab"):
        to_do.append(f"pip install 'wskit[lab]'  (for {lacking['lab']})")
    kernel = _version("ipykernel")
    if kernel and _satisfies(kernel, ">=7.0,<7.4"):
        to_do.append(
            f"pip install 'ipykernel>=7.4'  (ipykernel {kernel} runs widgets in a second thread, "
            "which corrupts figures)"
        )
    lines += ["", "Machine", *_rows(_machine())]
    lines += ["", "Files", *_rows(_files())]
    lines += ["", "Settings"]
    lines += _rows((name, os.environ.get(name, "not set")) for name in VARIABLES)
    lines += ["", "To do", *(f"  {line}" for line in to_do or ["nothing"])]
    return lines, not lacking[""]


def _rows(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [f"  {name:18} {value}" for name, value in pairs]


def _requirements() -> dict[str, dict[str, str]]:
    """Return what wskit needs, by extra ('' for always): a version specifier a distribution."""
    from packaging.requirements import Requirement

    try:
        declared = metadata.requires("wskit") or []
    except metadata.PackageNotFoundError as error:
        raise WskitError(
            f"expected wskit to be installed, found only its files in {Path(__file__).parent}: "
            "run pip install -e '.[lab]' in the checkout"
        ) from error
    found: dict[str, dict[str, str]] = {"": {}}
    for requirement in map(Requirement, declared):
        marker = str(requirement.marker or "")
        extra = marker.partition("extra == ")[2].strip("\"'")
        found.setdefault(extra, {})[requirement.name] = str(requirement.specifier)
    return found


def _state(name: str, needed: str) -> tuple[str, bool]:
    """Return the installed version in words, and whether it will do."""
    version = _version(name)
    if version is None:
        return "missing", False
    fits = _satisfies(version, needed)
    return (version if fits else f"{version}, but {needed} is needed"), fits


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _satisfies(version: str, specifier: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(specifier).contains(version, prereleases=True)


def _machine() -> Iterator[tuple[str, str]]:
    yield "cores", str(os.cpu_count())
    try:
        import torch
    except ImportError:
        yield "device", "unknown, without torch"
        return
    yield "torch threads", str(torch.get_num_threads())
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    else:
        yield "device", "cpu (torch finds no CUDA device)"


def _files() -> Iterator[tuple[str, str]]:
    try:
        folder = course.notebooks_folder()
        yield "tutorials", f"{len(course.tutorials())} in {folder}"
    except WskitError as error:
        yield "tutorials", str(error)
    try:
        from wskit.data import cache_folder
    except ImportError as error:
        yield "cache", f"unknown: {error}"
    else:
        cache = cache_folder()
        present = next(folder for folder in (cache, *cache.parents) if folder.exists())
        free = shutil.disk_usage(present).free / 1e9
        yield "cache", f"{cache}, {free:.1f} GB free"
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    yield "browser for tests", found or "none (the browser tests need Chromium)"
