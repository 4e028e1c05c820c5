"""Files and data sets: manifests, checksummed downloads, mirrors, images as tensors.

The files that can be fetched are described in ``data_manifests/*.json``. `catalog` lists them,
`fetch` returns the verified local path of one, `verify` checks the cache, `mirror` fills a folder
for a room without internet, and `load_dataset` returns images as tensors, split into train,
validation and test.

Three environment variables are read at each call:

=================  ==========================================================================
``WSKIT_CACHE``    folder of the files (default: the platform's cache folder)
``WSKIT_MIRROR``   folder or address to ask before the internet
``WSKIT_OFFLINE``  ``1``: use the cache and a mirror's folder only
=================  ==========================================================================
"""

from typing import TYPE_CHECKING, Any

from wskit.data._cache import cache_folder, catalog, fetch, mirror, verify

if TYPE_CHECKING:
    from wskit.data._datasets import Dataset, load_dataset

__all__ = ["Dataset", "cache_folder", "catalog", "fetch", "load_dataset", "mirror", "verify"]


def __getattr__(name: str) -> Any:
    """Import what needs torch on first use only, since listing and fetching files is quick."""
    if name in ("Dataset", "load_dataset"):
        from wskit.data import _datasets

        return getattr(_datasets, name)
    raise AttributeError(f"module 'wskit.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
