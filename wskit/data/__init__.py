"""Files and data sets: manifests, checksummed downloads, mirrors; images as tensors.

What can be fetched is described in ``data_manifests/*.json``; `catalog` lists it, `describe`
tells of one file before it is downloaded, `fetch` returns its verified local path, `verify`
checks the cache, `mirror` fills a folder for a room without internet, and `load_dataset`
returns a data set as tensors, split into train, validation and test.

Three environment variables are read at each call:

=================  ==========================================================================
``WSKIT_CACHE``    where files are kept (default: the platform's cache folder)
``WSKIT_MIRROR``   a folder or address that is asked before the internet
``WSKIT_OFFLINE``  ``1``: use the cache and a mirror's folder only
=================  ==========================================================================
"""

from typing import TYPE_CHECKING, Any

from wskit.data._cache import cache_folder, catalog, fetch, mirror, verify
from wskit.data._manifests import Resource, describe, manifest_folder

if TYPE_CHECKING:
    from wskit.data._datasets import Dataset, load_dataset

__all__ = [
    "Dataset",
    "Resource",
    "cache_folder",
    "catalog",
    "describe",
    "fetch",
    "load_dataset",
    "manifest_folder",
    "mirror",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import what needs torch on first use only: listing and fetching files is quick."""
    if name in ("Dataset", "load_dataset"):
        from wskit.data import _datasets

        return getattr(_datasets, name)
    raise AttributeError(f"module 'wskit.data' has no attribute {name!r}")
