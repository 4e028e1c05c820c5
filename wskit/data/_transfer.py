"""Bring one file from one place (an address or a mirror's folder) into a partial file.

A download goes on where an earlier one stopped. Nothing here judges the content: the caller
checks size and hash before a partial file is moved into the cache.
"""

import errno
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from wskit.data._manifests import Resource
from wskit.errors import DataError

Progress = Callable[[int, int | None], object]
"""Called with the bytes that are there and the bytes that there will be (None: unknown)."""

_CHUNK = 1 << 16
_REDIRECTS = 5
# Worth another try: the server is overloaded, or a proxy before it is.
_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


def silent(done: int, total: int | None) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Manner:
    """How to download: who is told of the progress, who may cancel, and how patiently.

    An error of the disk names the `target`: the caller knows nothing of partial files.
    """

    progress: Progress = silent
    cancel: threading.Event | None = None
    retries: int = 3
    backoff: float = 0.5
    timeout: float = 30.0
    target: Path | None = None

    def check_cancelled(self, resource: Resource) -> None:
        """Raise `DataError` if the caller asked to stop."""
        if self.cancel is not None and self.cancel.is_set():
            raise DataError(
                f"the download of {resource.name!r} was cancelled; "
                "what arrived is kept, and the next fetch goes on from there"
            )

    def sleep(self, seconds: float, resource: Resource) -> None:
        """Wait, but no longer than until the caller asks to stop."""
        if self.cancel is None:
            time.sleep(seconds)
        else:
            self.cancel.wait(seconds)
            self.check_cancelled(resource)


class SourceError(Exception):
    """The source cannot give the file; `passing` if a later try may succeed."""

    def __init__(self, reason: str, *, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing


def copy(source: Path, part: Path, resource: Resource, manner: Manner) -> None:
    """Copy a file of a mirror's folder to `part`."""
    size = file_size(source)
    if size is None:
        raise SourceError("there is no such file")
    check_size(size, resource)
    _append(part, 0, _blocks(source), resource, manner, size)


def download(url: str, part: Path, resource: Resource, manner: Manner) -> None:
    """Download `url` to `part`, going on where an earlier attempt stopped, and try again.

    Raises
    ------
    SourceError
        If this address does not give the file.
    DataError
        If the caller cancelled, or the disk is full: no other address would help.
    """
    tries = 0
    while True:
        try:
            _attempt(url, part, resource, manner)
            return
        except SourceError as error:
            if not error.passing or tries == manner.retries:
                raise
        manner.sleep(manner.backoff * 2**tries, resource)
        tries += 1


def file_size(path: Path) -> int | None:
    """Return the bytes of a file; None where there is none, or none that may be looked at."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


def check_size(size: int, resource: Resource) -> None:
    """Raise `SourceError` unless a file of `size` bytes can be the resource."""
    if resource.bytes is not None and size != resource.bytes:
        raise SourceError(f"the file has {size} bytes, the manifest says {resource.bytes}")
    if size > resource.max_bytes:
        raise SourceError(f"the file has {size} bytes, the manifest allows {resource.max_bytes}")


def forget(part: Path) -> None:
    """Remove a partial file and what is known of it."""
    part.unlink(missing_ok=True)
    _origin_file(part).unlink(missing_ok=True)


def _attempt(url: str, part: Path, resource: Resource, manner: Manner) -> None:
    """Ask once for what is missing of the file."""
    manner.check_cancelled(resource)
    have, headers = _resumable(url, part, resource)
    if have == resource.bytes:
        return
    try:
        with _open(url, headers, manner.timeout) as response:
            offset, size = _offered(response, have)
            if offset is None:
                forget(part)
                raise SourceError(f"the server cannot go on from byte {have}", passing=True)
            if size is not None:
                check_size(size, resource)
            elif resource.sha256 is None and not response.raw.chunked:
                # Nothing would tell a file that is cut short from a whole one.
                raise SourceError("the server does not say how long the file is")
            if offset == 0:
                forget(part)
            with disk_errors(manner.target or part, resource):
                _remember_origin(part, url, response)
            arrived = _append(part, offset, _chunks(response), resource, manner, size)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise SourceError(_plain(error), passing=True) from error
    expected = size if size is not None else resource.bytes
    if expected is not None and arrived < expected:
        raise SourceError(f"only {arrived} of {expected} bytes arrived", passing=True)


def _resumable(url: str, part: Path, resource: Resource) -> tuple[int, dict[str, str]]:
    """Return how many bytes of `part` may be kept, and the headers that ask for the rest.

    With a known hash, a wrong beginning is found out at the end. Without one, the server must
    promise that it is still the same file (If-Range with the validator of the first answer).
    """
    have = part.stat().st_size if part.exists() else 0
    if have == 0 or have > resource.max_bytes:
        return 0, {}
    origin = _origin(part)
    headers = {"Range": f"bytes={have}-"}
    if origin.get("url") == url and _is_validator(origin.get("validator")):
        headers["If-Range"] = origin["validator"]
    elif resource.sha256 is None:
        return 0, {}
    return have, headers


@contextmanager
def _open(url: str, headers: dict[str, str], timeout: float) -> Iterator[requests.Response]:
    """Open an address, following few redirects, and only to http(s), never from https to http."""
    # The file as it is stored: no compression on the way that would be undone here.
    headers = {"Accept-Encoding": "identity", **headers}
    with requests.Session() as session:
        for _ in range(_REDIRECTS + 1):
            response = session.get(
                url, headers=headers, timeout=timeout, stream=True, allow_redirects=False
            )
            with response:
                if not response.is_redirect:
                    _check_status(response)
                    yield response
                    return
                url = _next_url(url, response.headers["location"])
    raise SourceError(f"the server redirects more than {_REDIRECTS} times")


def _next_url(url: str, location: str) -> str:
    target = urljoin(url, location)
    allowed = {"https"} if urlsplit(url).scheme == "https" else {"http", "https"}
    if urlsplit(target).scheme not in allowed:
        raise SourceError(f"the server redirects to {target!r}, which is refused")
    return target


def _check_status(response: requests.Response) -> None:
    if response.status_code not in (200, 206, 416):
        raise SourceError(
            f"the server answers {response.status_code} {response.reason}",
            passing=response.status_code in _PASSING_STATUS,
        )


def _offered(response: requests.Response, have: int) -> tuple[int | None, int | None]:
    """Return where in the file the answer begins, and how long the whole file is.

    The beginning is None if the answer is not what follows the `have` bytes that are there, the
    length is None if the server does not tell it.
    """
    if response.status_code == 200:  # the whole file, whether or not a part was asked for
        length = response.headers.get("content-length", "")
        return 0, int(length) if length.isdigit() else None
    span, _, size = response.headers.get("content-range", "").removeprefix("bytes ").partition("/")
    if response.status_code == 206 and span.startswith(f"{have}-"):
        return have, int(size) if size.isdigit() else None
    return None, None


def _blocks(source: Path) -> Iterator[bytes]:
    try:
        with source.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    except OSError as error:
        raise SourceError(f"it cannot be read: {error.strerror}") from error


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """Yield what has arrived, as soon as it has: a slow server must not delay a cancel."""
    while chunk := response.raw.read1(_CHUNK, decode_content=False):
        yield chunk


def _append(
    part: Path,
    offset: int,
    chunks: Iterable[bytes],
    resource: Resource,
    manner: Manner,
    size: int | None,
) -> int:
    """Write the chunks from `offset` on; return how long the file is now."""
    total = resource.bytes if size is None else size
    arrived = offset
    check_space(manner.target or part, part.parent, (total or 0) - offset, resource)
    manner.progress(arrived, total)
    with disk_errors(manner.target or part, resource):
        file = part.open("ab" if offset else "wb")
    with file:
        for chunk in chunks:
            manner.check_cancelled(resource)
            arrived += len(chunk)
            if arrived > resource.max_bytes:
                raise SourceError(f"more than the {resource.max_bytes} bytes of the manifest come")
            with disk_errors(manner.target or part, resource):
                file.write(chunk)
                file.flush()
            manner.progress(arrived, total)
    return arrived


def check_space(target: Path, folder: Path, needed: int, resource: Resource) -> None:
    """Raise `DataError` if the disk of `folder` has no room for `needed` more bytes."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{resource.name!r} needs {needed} bytes more, but the disk of {target} has only "
            f"{free} free: make room, or choose a folder on a larger disk (for the cache: "
            "WSKIT_CACHE)"
        )


@contextmanager
def disk_errors(target: Path, resource: Resource) -> Iterator[None]:
    """Say what to do about a full or read-only disk."""
    try:
        yield
    except OSError as error:
        remedy = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            remedy = "make room, or "
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "make the folder writable, or "
        raise DataError(
            f"cannot write {resource.name!r} to {target}: {error.strerror}; {remedy}choose "
            "another folder (for the cache: WSKIT_CACHE)"
        ) from error


def _origin_file(part: Path) -> Path:
    return part.with_name(part.name + ".origin")


def _remember_origin(part: Path, url: str, response: requests.Response) -> None:
    """Note where a partial file came from, and the server's word for this very version of it."""
    etag = response.headers.get("etag", "")
    # A weak ETag does not promise equal bytes, so If-Range must not use it (RFC 9110, 13.1.5).
    validator = etag if etag.startswith('"') else response.headers.get("last-modified", "")
    _origin_file(part).write_text(json.dumps({"url": url, "validator": validator}), "utf-8")


def _is_validator(value: object) -> bool:
    """Tell whether this can be sent as a header: it comes from a server, by way of a file."""
    return isinstance(value, str) and value != "" and value.isascii() and value.isprintable()


def _origin(part: Path) -> dict[str, Any]:
    try:
        origin = json.loads(_origin_file(part).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return origin if isinstance(origin, dict) else {}


def _plain(error: Exception) -> str:
    """Say in a few words what a network library's exception means."""
    if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError)):
        return "the server does not answer in time"
    if isinstance(error, requests.ConnectionError):
        return "no connection to the server"
    return f"the connection broke ({type(error).__name__})"
