"""What `wskit doctor` prints: what `pip check` and `pip list` do not say."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import wskit
from wskit import course

# A module of each extra that can be missing without harm to the rest.
EXTRAS = {
    "lab": "jupyterlab",
    "app": "voila",
    "hub": "huggingface_hub",
    "keras": "h5py",
    "scale": "dask",
}
VARIABLES = ("WSKIT_CACHE", "WSKIT_MIRROR", "WSKIT_OFFLINE", "OMP_NUM_THREADS")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def examine() -> Iterator[str]:
    """Yield a line each on versions, the device, folders, settings and extras.

    Raises
    ------
    WskitError
        If there are no tutorials.
    """
    import torch

    from wskit.data import cache_folder

    yield f"wskit {wskit.__version__} in {Path(__file__).parent}"
    yield f"Python {platform.python_version()} in {sys.prefix}, {platform.platform()}"
    yield f"torch {torch.__version__}, {torch.get_num_threads()} threads of {os.cpu_count()} cores"
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        yield f"cuda:{index}: {found.name}, {found.total_memory / 2**30:.0f} GiB"
    yield f"tutorials: {len(course.tutorials())} in {course.notebooks_folder()}"
    cache = cache_folder()
    present = next(folder for folder in (cache, *cache.parents) if folder.exists())
    yield f"cache: {cache}, {shutil.disk_usage(present).free / 1e9:.1f} GB free"
    for name in VARIABLES:
        yield f"{name}: {os.environ.get(name, 'not set')}"
    for extra, distribution in EXTRAS.items():
        missing = f"none; pip install 'wskit[{extra}]'"
        yield f"{distribution}: {_find_version(distribution) or missing}"
    yield f"browser for the tests: {next(filter(None, map(shutil.which, BROWSERS)), 'none')}"
    kernel = _find_version("ipykernel")
    if kernel and (7, 0) <= tuple(map(int, kernel.split(".")[:2])) < (7, 4):
        yield f"ipykernel {kernel} draws panels in a second thread: pip install 'ipykernel>=7.4'"


def _find_version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
