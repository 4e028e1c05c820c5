"""The cache of verified files: fetch, verify, mirror, catalog.

The cache holds ``<package>/<file>``, verified files only. Partial files and locks live in
``.incoming``, which may be deleted at any time when nothing is being downloaded.
``recorded.json`` keeps the hashes of files whose hash nobody published, by their first address.
"""

import contextlib
import dataclasses
import json
import logging
import os
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import filelock
import pandas as pd
import pooch

from wskit._checks import check_whole, number
from wskit.data import _transfer
from wskit.data._manifests import Resource, resources, select
from wskit.data._transfer import Manner, Progress, SourceError, disk_errors, file_size
from wskit.errors import DataError

_log = logging.getLogger("wskit")

_BAR_FROM = 4_000_000  # bytes; anything smaller is there before a bar is drawn


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
    backoff: float = 0.5,
    timeout: float = 30.0,
) -> Path:
    """Return the local path of a file of the manifests, downloading it if needed.

    The file's size and sha256 are checked each time. A download goes on where an earlier one
    stopped; two processes that want the same file download it once. ``WSKIT_MIRROR`` (a folder
    or an address) is asked first, for ``<package>/<file>`` and then for ``<file>``; with
    ``WSKIT_OFFLINE=1`` only the cache and a mirror's folder are used.

    Parameters
    ----------
    name : str
        A resource (one file) or a package (all its files); see `catalog`.
    progress : bool or callable, default True
        True draws a `tqdm.auto` bar for downloads over 4 MB. A callable gets the bytes that are
        there and the bytes that there will be (None: unknown); what it raises stops the download.
    cancel : threading.Event, optional
        Once set, the download stops with a `DataError`; what arrived is kept for the next time.
    retries : int, default 3
        How many times an address is tried again after a passing failure.
    backoff : float, default 0.5
        Seconds before the first of those tries; they double each time.
    timeout : float, default 30.0
        Seconds to wait for a silent server.

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
        The first time that a file without a published hash is downloaded: its hash is recorded
        in the cache, and checked from then on.
    """
    chosen = select(name)
    check_whole(retries, DataError, "retries", least=0)
    if number(backoff, DataError, "backoff") < 0 or number(timeout, DataError, "timeout") <= 0:
        raise DataError(
            f"backoff must not be negative and timeout must be positive, got {backoff!r} and "
            f"{timeout!r} seconds; change them"
        )
    manner = Manner(cancel=cancel, retries=retries, backoff=backoff, timeout=timeout)
    with _reporting(progress, name) as report:
        paths = _fetch_all(chosen, manner, report)
    return paths[0] if chosen[0].name == name else cache_folder() / name


def catalog() -> pd.DataFrame:
    """Return what can be fetched: a row a file.

    Returns
    -------
    DataFrame
        The columns are the fields of `Resource`, and ``cached``: whether the cache holds a file
        of the right size (`verify` checks the content). ``bytes`` is NA where it is not known.
    """
    rows = [dataclasses.asdict(r) | {"cached": _looks_cached(r)} for r in resources()]
    return pd.DataFrame(rows).astype({"bytes": "Int64"})


def verify(*names: str) -> pd.DataFrame:
    """Check the content of files in the cache against their hashes; nothing is downloaded.

    Parameters
    ----------
    *names : str
        Resources or packages; with none, every file that the cache holds.

    Returns
    -------
    DataFrame
        A row a file: ``name``, ``package``, ``path``, ``state`` ("ok", "missing", "wrong",
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
    """Fill a folder that can serve as ``WSKIT_MIRROR``: a classroom without internet.

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
        If there is nothing to mirror, or a file cannot be had or written.
    """
    chosen = _distinct(names) if names else [r for r in resources() if _looks_cached(r)]
    if not chosen:
        raise DataError(f"the cache {cache_folder()} is empty: name what the mirror shall hold")
    manner = Manner(cancel=cancel)
    with _reporting(progress, "mirror") as report:
        paths = _fetch_all(chosen, manner, report)
    place = Path(folder).expanduser()
    return [_put(path, place, r, manner) for path, r in zip(paths, chosen, strict=True)]


def _distinct(names: tuple[str, ...]) -> list[Resource]:
    """Return the resources that names of resources and packages stand for, each once."""
    return list({r.name: r for name in names for r in select(name)}.values())


def _fetch_all(chosen: Sequence[Resource], manner: Manner, report: Progress) -> list[Path]:
    """Have every chosen file in the cache, reporting on all of them together."""
    sizes = [r.bytes for r in chosen if r.bytes is not None]
    total = sum(sizes) if len(sizes) == len(chosen) else None
    paths: list[Path] = []
    done = 0
    for r in chosen:

        def report_one(here: int, size: int | None, before: int = done) -> None:
            report(before + here, size if len(chosen) == 1 else total)

        paths.append(_have(r, dataclasses.replace(manner, progress=report_one)))
        done += paths[-1].stat().st_size
        report(done, done if len(chosen) == 1 else total)
    return paths


def _have(resource: Resource, manner: Manner) -> Path:
    """Return the path of one verified file in the cache."""
    target, known = _target(resource), _with_record(resource)
    if known.sha256 is not None and _fault(target, known) is None:
        return target  # needs no lock, nor the right to write
    manner = dataclasses.replace(manner, target=target)
    with _lock(resource, manner):
        known = _with_record(resource)
        fault = _fault(target, known)
        if fault is not None:
            if target.exists():
                _log.warning("%s is damaged (%s) and is fetched again", target, fault)
                with disk_errors(target, resource):
                    target.unlink()
            _obtain(known, target, manner)
        if known.sha256 is None:
            _record(resource, target)
    return target


def _obtain(resource: Resource, target: Path, manner: Manner) -> None:
    """Move the file into the cache from the first source that gives it."""
    part = _incoming(resource, ".part")
    problems = []
    for place in _places(resource):
        try:
            _bring(place, part, resource, manner)
        except SourceError as error:
            problems.append(f"{place}: {error}")
        else:
            with disk_errors(target, resource):
                target.parent.mkdir(parents=True, exist_ok=True)
                part.replace(target)
                _transfer.forget(part)
            return
    where = "; ".join(problems) or f"it is not in the cache {cache_folder()}"
    raise DataError(f"{resource.name!r} cannot be had: {where}. {_advice()}")


def _advice() -> str:
    mirror_help = "set WSKIT_MIRROR to a folder made by `wskit data mirror`"
    if _offline():
        return f"WSKIT_OFFLINE is set: unset it to download, or {mirror_help}"
    return f"Check the connection and run it again, or {mirror_help}"


def _bring(place: str | Path, part: Path, resource: Resource, manner: Manner) -> None:
    """Make `part` the whole, verified file, from one source."""
    if isinstance(place, Path):
        # Not into `part` at once: if this copy is wrong, what was downloaded is still of use.
        copied = part.with_name(part.name + ".copy")
        try:
            _transfer.copy(place, copied, resource, manner)
            _check(copied, resource)
            with disk_errors(manner.target or part, resource):
                copied.replace(part)
        finally:
            copied.unlink(missing_ok=True)
        return
    resumed = part.exists()
    _transfer.download(place, part, resource, manner)
    try:
        _check(part, resource)
    except SourceError:
        _transfer.forget(part)
        if not resumed:
            raise
        # The beginning, from an earlier run, may have been what was wrong.
        _bring(place, part, resource, manner)


def _check(path: Path, resource: Resource) -> None:
    fault = _fault(path, resource)
    if fault is not None:
        raise SourceError(f"it is not the file that the manifest describes: {fault}")


def _fault(path: Path, resource: Resource) -> str | None:
    """Say what is wrong with a file, or return None."""
    size = file_size(path)
    if size is None:
        return "there is no such file"
    expected = resource.sha256 or resource.sha256_prefix
    try:
        _transfer.check_size(size, resource)
        found = str(pooch.file_hash(str(path), alg="sha256")) if expected else ""
    except SourceError as error:
        return str(error)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    if not found.startswith(expected):
        return f"its sha256 is {found}, expected {expected}"
    return None


def _put(path: Path, folder: Path, resource: Resource, manner: Manner) -> Path:
    """Copy a verified file into a mirror's folder."""
    target = folder / resource.package / resource.file
    known = _with_record(resource)
    if _fault(target, known) is None:
        return target
    part = target.with_name(target.name + ".part")
    try:
        with disk_errors(target, resource):
            target.parent.mkdir(parents=True, exist_ok=True)
        _bring(path, part, known, dataclasses.replace(manner, target=target))
        with disk_errors(target, resource):
            part.replace(target)
    except SourceError as error:
        raise DataError(f"cannot copy {path} to {target}: {error}; run it again") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
            target.parent.rmdir()  # if nothing is in it
    return target


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
    size = file_size(_target(resource))
    return size is not None and resource.bytes in (None, size)


def _incoming(resource: Resource, suffix: str) -> Path:
    path = cache_folder() / ".incoming" / resource.package / (resource.file + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _verdict(resource: Resource) -> dict[str, str]:
    """Return a row of `verify`."""
    target, known = _target(resource), _with_record(resource)
    fault = _fault(target, known)
    if fault is not None:
        state = "missing" if file_size(target) is None else "wrong"
    else:
        state = "unrecorded" if known.sha256 is None else "ok"
    return {
        "name": resource.name,
        "package": resource.package,
        "path": str(target),
        "state": state,
        "reason": fault or "",
    }


@contextlib.contextmanager
def _lock(resource: Resource, manner: Manner) -> Iterator[None]:
    """Hold a file's lock, so that it is downloaded once.

    The operating system lets go of it when the process ends, however it ends.
    """
    try:
        lock = filelock.FileLock(_incoming(resource, ".lock"))
        while True:
            try:
                lock.acquire(timeout=0.2)
                break
            except filelock.Timeout:
                manner.check_cancelled(resource)
    except DataError:
        raise
    except OSError as error:
        raise DataError(
            f"the cache {cache_folder()} cannot be written ({error.strerror}): "
            "set WSKIT_CACHE to a folder of yours"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _records_file() -> Path:
    return cache_folder() / "recorded.json"


def _records() -> dict[str, dict[str, Any]]:
    """Return the hashes and sizes that were recorded on first downloads, by address."""
    path = _records_file()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        records = {url: {"sha256": r["sha256"], "bytes": r["bytes"]} for url, r in found.items()}
        for r in records.values():
            if not re.fullmatch("[0-9a-f]{64}", r["sha256"]) or type(r["bytes"]) is not int:
                raise ValueError(f"{r} is no record")
        return records
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError) as error:
        raise DataError(
            f"{path}, the list of recorded hashes, cannot be read: delete it, and the files "
            "without a published hash are recorded anew"
        ) from error


def _with_record(resource: Resource) -> Resource:
    """Complete a resource whose hash nobody published with what was recorded."""
    if resource.sha256 is not None:
        return resource
    record = _records().get(resource.urls[0])
    if record is None:
        return resource
    return dataclasses.replace(resource, **record, max_bytes=record["bytes"])


def _record(resource: Resource, path: Path) -> None:
    """Note the hash of a file whose hash nobody published, and say so."""
    sha256 = str(pooch.file_hash(str(path), alg="sha256"))
    target = _records_file()
    with filelock.FileLock(cache_folder() / ".incoming" / "recorded.lock"):
        records = _records()
        records[resource.urls[0]] = {"sha256": sha256, "bytes": path.stat().st_size}
        fresh = target.with_name(target.name + ".new")
        try:
            with disk_errors(target, resource):
                fresh.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
                fresh.replace(target)
        finally:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
    warnings.warn(
        f"nobody published a hash of {resource.name!r}, so this first copy is trusted: its sha256 "
        f"{sha256} is recorded in {target}, and checked from now on",
        UserWarning,
        stacklevel=5,  # the caller of fetch or mirror
    )


@contextlib.contextmanager
def _reporting(progress: bool | Progress, title: str) -> Iterator[Progress]:
    """Turn the argument `progress` into a callable: the caller's, a bar, or nothing."""
    if not isinstance(progress, bool):
        yield progress
        return
    bar: Any = None

    def draw(done: int, total: int | None) -> None:
        nonlocal bar
        if bar is None and done != total and (total is None or total > _BAR_FROM):
            from tqdm.auto import tqdm

            bar = tqdm(desc=title, total=total, initial=done, unit="B", unit_scale=True)
        elif bar is not None:
            bar.update(done - bar.n)

    try:
        yield draw if progress else _transfer.silent
    finally:
        if bar is not None:
            bar.close()
