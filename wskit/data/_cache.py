"""The cache of verified files: fetch, verify, mirror, catalog.

The cache holds ``<package>/<file>``, verified files only. Partial files and locks lie in
``.incoming``, which may be deleted whenever nothing is being downloaded. ``.recorded`` keeps the
hashes of files whose hash nobody published.
"""

import dataclasses
import logging
import os
import re
import shutil
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import filelock
import pandas as pd
import pooch
from tqdm.auto import tqdm

from wskit._base.files import explain_write_errors, hash_file, write_atomically
from wskit.data._download import Progress, SourceError, Transfer, bring, find_fault
from wskit.data._manifests import Resource, resources, select
from wskit.errors import DataError

_log = logging.getLogger("wskit")

_BAR_AFTER = 1.0  # seconds; what is there sooner needs no bar


def cache_folder() -> Path:
    """Return the folder of downloaded files: ``WSKIT_CACHE``, or the platform's usual place."""
    chosen = os.environ.get("WSKIT_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else Path(pooch.os_cache("wskit"))


def fetch(
    name: str,
    *,
    progress: bool | Progress = True,
    cancel: threading.Event | None = None,
    retries: int = 3,
    timeout: float = 30.0,
    deadline: float = 6 * 3600.0,
) -> Path:
    """Return the local path of a file of the manifests, and download it if needed.

    The size and sha256 of the file are checked each time. A download goes on where an earlier one
    stopped, and two processes that want the same file download it once. ``WSKIT_MIRROR`` (a
    folder or an address) is asked first, for ``<package>/<file>`` and then for ``<file>``. With
    ``WSKIT_OFFLINE=1`` only the cache and a mirror's folder are used.

    Parameters
    ----------
    name : str
        A resource (one file) or a package (all its files); see `catalog`.
    progress : bool or callable, default True
        True draws a bar for what takes longer than a second. A callable gets the bytes that are
        there and the bytes that there will be (None: unknown). What it raises stops the download.
    cancel : threading.Event, optional
        Stops the download with a `DataError` once it is set. What arrived is kept.
    retries : int, default 3
        Number of new tries of an address after a failure that may pass.
    timeout : float, default 30.0
        Seconds to wait for a server that is silent, or sends less than 1000 bytes a second.
    deadline : float, default 21600.0
        Seconds that all of the download may take. What arrived is kept.

    Returns
    -------
    Path
        The file, or the package's folder.

    Raises
    ------
    DataError
        If the name is unknown, or no source gives the file that the manifest describes.

    Warns
    -----
    UserWarning
        At the first download of a file without a published hash. Its hash is recorded in the
        cache, and checked from then on.
    """
    chosen = select(name)
    patience = {"retries": retries, "timeout": timeout, "ends": time.monotonic() + deadline}
    paths = [_have(r, progress, cancel, **patience) for r in chosen]
    return paths[0] if chosen[0].name == name else cache_folder() / name


def catalog() -> pd.DataFrame:
    """Return a table of what can be fetched, one row per file.

    Returns
    -------
    DataFrame
        - ``name``: what `fetch` takes; ``package``: the manifest, and the folder in the cache;
          ``file``: the path in that folder; ``title``: one line on what it is;
        - ``kind``: "weights" of one model, "dataset" of images with labels, or "zoo", the weights
          of many models;
        - ``bytes`` (NA if not known), ``max_bytes``: the most that a download may have;
        - ``sha256`` (NA if nobody published it), ``sha256_prefix``: what is known of it then;
        - ``licence`` ("unknown" where the authors state none), ``source``, ``citation``, ``urls``,
          ``unknown``: the fields that are declared unknown, ``note``;
        - ``cached``: whether the cache holds a file of the right size; `verify` checks the content.
    """
    rows = [dataclasses.asdict(r) | {"cached": _looks_cached(r)} for r in resources()]
    return pd.DataFrame(rows).astype({"bytes": "Int64"})


def verify(*names: str) -> pd.DataFrame:
    """Check files in the cache against their hashes; nothing is downloaded.

    Parameters
    ----------
    *names : str
        Resources or packages; with none, every file that the cache holds.

    Returns
    -------
    DataFrame
        One row per file: ``name``, ``package``, ``path``, ``state`` ("ok", "missing", "wrong",
        "unrecorded": no hash is known to check it against) and ``reason``.
    """
    chosen = _distinct(names) if names else [r for r in resources() if _target(r).exists()]
    rows = [_verdict(r) for r in chosen]
    return pd.DataFrame(rows, columns=["name", "package", "path", "state", "reason"])


def mirror(
    folder: str | os.PathLike[str],
    *names: str,
    progress: bool | Progress = True,
    cancel: threading.Event | None = None,
) -> list[Path]:
    """Fill a folder that can serve as ``WSKIT_MIRROR``, for a classroom without internet.

    Parameters
    ----------
    folder : path
        Made if needed; gets ``<package>/<file>``.
    *names : str
        Resources or packages, fetched if needed; with none, every file that the cache holds.
    progress, cancel
        As in `fetch`.

    Returns
    -------
    list of Path
        The files in the mirror, each verified after it was written.

    Raises
    ------
    DataError
        If there is nothing to mirror, or a file cannot be fetched or written.
    """
    chosen = _distinct(names) if names else [r for r in resources() if _looks_cached(r)]
    if not chosen:
        raise DataError(f"the cache {cache_folder()} is empty: name what the mirror shall hold")
    paths = [_have(r, progress, cancel) for r in chosen]
    copies = [Path(folder).expanduser() / r.package / r.file for r in chosen]
    for path, copy, r in zip(paths, copies, chosen, strict=True):
        known = _with_record(r)
        if find_fault(copy, known):
            with explain_write_errors(copy, DataError):
                copy.parent.mkdir(parents=True, exist_ok=True)
            with write_atomically(copy, DataError) as file, path.open("rb") as source:
                shutil.copyfileobj(source, file)
            if fault := find_fault(copy, known):
                raise DataError(f"{copy} was not copied whole ({fault}); run it again")
    return copies


def _distinct(names: tuple[str, ...]) -> list[Resource]:
    """Return the resources that names of resources and packages stand for, each once."""
    return list({r.name: r for name in names for r in select(name)}.values())


def _have(
    resource: Resource, progress: bool | Progress, cancel: threading.Event | None, **patience: Any
) -> Path:
    """Return the path of one verified file in the cache."""
    target, known = _target(resource), _with_record(resource)
    if known.sha256 is not None and not find_fault(target, known):
        return target  # needs no lock, nor the right to write
    incoming = cache_folder() / ".incoming" / resource.package / resource.file
    with _lock(incoming, cancel), _report(progress, resource) as report:
        known = _with_record(resource)
        if fault := find_fault(target, known):
            with explain_write_errors(target, DataError):
                if target.exists():
                    _log.warning("%s is damaged (%s) and is fetched again", target, fault)
                    target.unlink()
            _obtain(Transfer(known, incoming, target, report, cancel, **patience))
        if known.sha256 is None:
            _record(resource, target)
    return target


def _obtain(transfer: Transfer) -> None:
    """Move the file into the cache from the first source that gives it."""
    resource, target, problems = transfer.resource, transfer.target, []
    for place in _places(resource):
        try:
            part = bring(place, transfer)
        except SourceError as error:
            problems.append(f"{place}: {error}")
        else:
            with explain_write_errors(target, DataError):
                target.parent.mkdir(parents=True, exist_ok=True)
                part.replace(target)
            return
    where = "; ".join(problems) or f"it is not in the cache {cache_folder()}"
    remedy = "check the connection and run it again"
    if _offline():
        remedy = "WSKIT_OFFLINE is set: unset it to download"
    raise DataError(
        f"{resource.name!r} cannot be fetched: {where}; {remedy}, or set WSKIT_MIRROR to a folder "
        "made by `wskit data mirror`"
    )


def _places(resource: Resource) -> list[str | Path]:
    """Return where to look for a file, in order."""
    places: list[str | Path] = []
    chosen = os.environ.get("WSKIT_MIRROR", "")
    if chosen:
        names = [f"{resource.package}/{resource.file}"]
        if resource.sha256 is not None:  # else another package's file of the same name would do
            names.append(resource.file)
        if chosen.startswith(("http://", "https://")):
            places += [f"{chosen.rstrip('/')}/{quote(name)}" for name in names]
        elif "://" in chosen:
            raise DataError(f"WSKIT_MIRROR={chosen!r} is neither a folder nor an http(s) address")
        else:
            places += [Path(chosen).expanduser() / name for name in names]
    places += resource.urls
    return [p for p in places if isinstance(p, Path)] if _offline() else places


def _offline() -> bool:
    return os.environ.get("WSKIT_OFFLINE", "").lower() not in ("", "0", "false", "no", "off")


def _target(resource: Resource) -> Path:
    return cache_folder() / resource.package / resource.file


def _looks_cached(resource: Resource) -> bool:
    target = _target(resource)
    return target.is_file() and resource.bytes in (None, target.stat().st_size)


def _verdict(resource: Resource) -> dict[str, str]:
    """Return one row of `verify`."""
    target, known = _target(resource), _with_record(resource)
    fault = find_fault(target, known)
    if fault:
        state = "wrong" if target.is_file() else "missing"
    else:
        state = "unrecorded" if known.sha256 is None else "ok"
    names = {"name": resource.name, "package": resource.package, "path": str(target)}
    return {**names, "state": state, "reason": fault}


@contextmanager
def _lock(incoming: Path, cancel: threading.Event | None) -> Iterator[None]:
    """Hold a file's lock, so that it is downloaded once.

    The operating system lets go of it when the process ends, however it ends.
    """
    lock = filelock.FileLock(f"{incoming}.lock")
    while not lock.is_locked:
        with explain_write_errors(cache_folder(), DataError), suppress(filelock.Timeout):
            incoming.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0.2)
        if cancel is not None and cancel.is_set():
            lock.release()
            raise DataError(f"the wait for another download of {incoming.name} was cancelled")
    try:
        yield
    finally:
        lock.release()


def _record_file(resource: Resource) -> Path:
    return cache_folder() / ".recorded" / resource.package / f"{resource.file}.sha256"


def _with_record(resource: Resource) -> Resource:
    """Complete a resource whose hash nobody published with what was recorded."""
    path = _record_file(resource)
    if resource.sha256 is not None or not path.is_file():
        return resource
    with path.open("rb") as file:
        sha256 = file.read(100).decode("ascii", "replace").strip()
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise DataError(f"{path} is not the sha256 that was recorded: delete it to record it anew")
    return dataclasses.replace(resource, sha256=sha256)


def _record(resource: Resource, path: Path) -> None:
    """Note the hash of a file whose hash nobody published, and say so."""
    sha256, target = hash_file(path), _record_file(resource)
    with explain_write_errors(target, DataError):
        target.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(target, DataError) as file:
        file.write(f"{sha256}\n".encode())
    warnings.warn(
        f"nobody published a hash of {resource.name!r}, so this first copy is trusted: its sha256 "
        f"{sha256} is recorded in {target}, and checked from now on",
        UserWarning,
        stacklevel=5,  # the caller of fetch or mirror
    )


@contextmanager
def _report(progress: bool | Progress, resource: Resource) -> Iterator[Progress]:
    """Give the callable that is told of the progress: the caller's, or one that draws a bar."""
    if not isinstance(progress, bool):
        yield progress
        return
    hide, name = not progress, resource.name
    with tqdm(desc=name, unit="B", unit_scale=True, delay=_BAR_AFTER, disable=hide) as bar:

        def draw(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield draw
