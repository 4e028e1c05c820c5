"""Bring one file from one place, an address or a mirror's folder, into a partial file.

A download goes on where an earlier one stopped. The content is judged by the caller, who checks
size and hash before the partial file is moved into the cache.
"""

import http.client
import itertools
import json
import math
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from wskit._base.files import explain_write_errors, hash_file
from wskit.data._manifests import Resource
from wskit.errors import DataError

Progress = Callable[[int, int | None], object]
"""Called with the bytes that are there and the bytes that there will be (None: unknown)."""

LEAST_RATE = 1_000  # bytes a second that a server must send, on average over the timeout
BACKOFF = 0.5  # seconds before the first new try; they double each time
_CHUNK = 2**16
_REDIRECTS = 5
# Worth another try: the server is overloaded, or a proxy before it is.
_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class SourceError(Exception):
    """The source does not give the file; `passing` if a later try may succeed."""

    def __init__(self, reason: str, *, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing


@dataclass(frozen=True)
class Transfer:
    """One file on its way to `target`, and how patiently to ask for it.

    Partial files lie at `incoming`, with a suffix. `ends` is the time of `time.monotonic` at which
    all tries end.
    """

    resource: Resource
    incoming: Path
    target: Path
    progress: Progress
    cancel: threading.Event | None
    retries: int = 3
    timeout: float = 30.0
    ends: float = math.inf

    def wait(self, seconds: float = 0.0) -> None:
        """Wait; raise `DataError` as soon as the caller asks to stop, or time is up."""
        stop = self.cancel or threading.Event()
        cancelled = stop.wait(max(0.0, min(seconds, self.ends - time.monotonic())))
        if cancelled or time.monotonic() >= self.ends:
            raise DataError(
                f"the download of {self.resource.name!r} "
                f"{'was cancelled' if cancelled else 'took longer than its deadline'}; what "
                "arrived is kept, and the next fetch goes on from there"
            )

    def write(self, part: Path, chunks: Iterable[bytes], offset: int, size: int | None) -> None:
        """Append what comes to a partial file, from `offset` on, within bounds."""
        if size is not None and (fault := self.resource.explain_size(size)):
            raise SourceError(fault)
        total = self.resource.bytes if size is None else size
        needed, free = (total or 0) - offset, shutil.disk_usage(part.parent).free
        if needed > free:
            raise DataError(
                f"{self.resource.name!r} needs {needed} bytes more, but the disk of {self.target} "
                f"has only {free} free: make room, or choose a folder on a larger disk (for the "
                "cache: WSKIT_CACHE)"
            )
        arrived = offset
        self.progress(arrived, total)
        with explain_write_errors(self.target, DataError):
            file = part.open("ab" if offset else "wb", buffering=0)
        with file:
            for chunk in chunks:
                self.wait()
                arrived += len(chunk)
                if arrived > self.resource.max_bytes:
                    raise SourceError(
                        f"more than the {self.resource.max_bytes} bytes of the manifest come"
                    )
                with explain_write_errors(self.target, DataError):
                    file.write(chunk)
                self.progress(arrived, total)
        if total is not None and arrived < total:
            raise SourceError(f"only {arrived} of {total} bytes arrived", passing=True)

    @property
    def part(self) -> Path:
        """What has been downloaded."""
        return Path(f"{self.incoming}.part")

    @property
    def origin(self) -> Path:
        """Notes on where that comes from."""
        return Path(f"{self.incoming}.origin")


def find_fault(path: Path, resource: Resource) -> str:
    """Say what is wrong with a file, or return an empty string."""
    try:
        if not path.is_file():
            return "there is no such file"
        if fault := resource.explain_size(path.stat().st_size):
            return fault
        expected = resource.sha256 or resource.sha256_prefix
        found = hash_file(path) if expected else ""
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return "" if found.startswith(expected) else f"its sha256 is {found}, expected {expected}"


def bring(place: str | Path, transfer: Transfer) -> Path:
    """Return a verified copy of a file, from a mirror's folder or from an address.

    Raises
    ------
    SourceError
        If this place does not give the file that the manifest describes.
    DataError
        If the caller cancelled, time is up or the disk is full, so that no place would help.
    """
    resumed = isinstance(place, str) and transfer.part.exists()
    if isinstance(place, Path):
        part = Path(f"{transfer.incoming}.copy")  # what was downloaded may still be of use
        _copy(place, part, transfer)
    else:
        part = transfer.part
        _download(place, transfer)
    fault = find_fault(part, transfer.resource)
    if not fault:
        return part
    part.unlink(missing_ok=True)
    if resumed:  # the beginning, from an earlier run, may have been what was wrong
        return bring(place, transfer)
    raise SourceError(f"it is not the file that the manifest describes: {fault}")


def _copy(source: Path, part: Path, transfer: Transfer) -> None:
    if not source.is_file():
        raise SourceError("there is no such file")
    try:
        file = source.open("rb")
    except OSError as error:
        raise SourceError(f"it cannot be read: {error.strerror}") from error
    with file:
        chunks = iter(lambda: file.read(_CHUNK), b"")
        transfer.write(part, chunks, 0, os.fstat(file.fileno()).st_size)


def _download(url: str, transfer: Transfer) -> None:
    """Download a file from where an earlier attempt stopped, and try again after failures."""
    for tries in itertools.count():
        transfer.wait(BACKOFF * 2 ** (tries - 1) if tries else 0.0)
        try:
            _attempt(url, transfer)
            return
        except SourceError as error:
            if not error.passing or tries >= transfer.retries:
                raise


def _attempt(url: str, transfer: Transfer) -> None:
    """Ask once for what is missing of the file."""
    have, headers = _resumable(url, transfer)
    if have == transfer.resource.bytes:
        return
    with _Connection(transfer) as connection:
        response = connection.ask(url, headers)
        offset, size = _offered(response, have)
        if offset is None:
            transfer.part.unlink(missing_ok=True)
            raise SourceError(f"the server cannot go on from byte {have}", passing=True)
        if size is None and transfer.resource.sha256 is None and not response.raw.chunked:
            # Nothing would tell a file that is cut short from a whole one.
            raise SourceError("the server does not say how long the file is")
        etag = response.headers.get("etag", "")
        # A weak ETag does not promise equal bytes, so If-Range must not use it (RFC 9110, 13.1.5).
        validator = etag if etag.startswith('"') else response.headers.get("last-modified", "")
        with explain_write_errors(transfer.target, DataError):
            transfer.origin.write_text(json.dumps([url, validator]), "utf-8")
        transfer.write(transfer.part, connection.chunks(response), offset, size)


class _Connection(requests.adapters.HTTPAdapter):
    """The sockets of one attempt, closed at once when it is cancelled, late or too slow."""

    def __init__(self, transfer: Transfer) -> None:
        super().__init__()
        self._transfer = transfer
        self._arrived = 0
        self._too_slow = ""
        self._sockets: list[socket.socket] = []
        self._stack = ExitStack()
        self._session = self._stack.enter_context(requests.Session())
        self._session.mount("http://", self)
        self._session.mount("https://", self)
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_Connection":
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watcher.join()
        self._stack.close()

    def ask(self, url: str, headers: dict[str, str]) -> requests.Response:
        """Open an address after few redirects: to http(s) only, and never from https to http."""
        # The file as it is stored: no compression on the way that would be undone here.
        headers = {"Accept-Encoding": "identity", **headers}
        for _ in range(_REDIRECTS + 1):
            with self._explain_errors():
                response = self._session.get(
                    url,
                    headers=headers,
                    timeout=self._transfer.timeout,
                    stream=True,
                    allow_redirects=False,
                )
                self._stack.callback(response.close)
                if response.is_redirect:
                    url = next_url(url, response.headers["location"])
                    continue
            if response.status_code in (200, 206, 416):
                return response
            # Not in the server's own words: they would go to the terminal.
            phrase = http.client.responses.get(response.status_code, "")
            passing = response.status_code in _PASSING_STATUS
            raise SourceError(
                f"the server answers {response.status_code} {phrase}", passing=passing
            )
        raise SourceError(f"the server redirects more than {_REDIRECTS} times")

    def chunks(self, response: requests.Response) -> Iterator[bytes]:
        """Yield what has arrived as soon as it has, since a slow server must not delay a cancel."""
        chunk = b"any"
        while chunk:
            with self._explain_errors():
                chunk = response.raw.read1(_CHUNK, decode_content=False)
            self._arrived += len(chunk)
            yield chunk
        self._transfer.wait()
        if self._too_slow:
            raise SourceError(self._too_slow, passing=True)

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
        """Note the sockets that requests opens."""
        pool: Any = super().get_connection_with_tls_context(*args, **options)
        sockets = self._sockets

        class Noted(pool.ConnectionCls):  # type: ignore[misc]
            def connect(self) -> None:
                super().connect()
                sockets.append(self.sock)

        pool.ConnectionCls = Noted
        return pool

    def _watch(self) -> None:
        """Shut the sockets once the attempt must end; what waits for them then goes on."""
        timeout = self._transfer.timeout
        since, before = time.monotonic(), 0
        while not self._done.wait(0.05):
            now = time.monotonic()
            if now - since > timeout:
                if self._arrived - before < LEAST_RATE * timeout:
                    self._too_slow = f"the server sends less than {LEAST_RATE} bytes a second"
                since, before = now, self._arrived
            cancelled = self._transfer.cancel is not None and self._transfer.cancel.is_set()
            if cancelled or self._too_slow or now >= self._transfer.ends:
                for each in self._sockets:
                    with suppress(OSError):  # it is shut already
                        each.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        """Turn what the libraries of the network raise into a `SourceError` of a few words."""
        try:
            yield
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            ValueError,  # of an address, a number or a header that is none
        ) as error:
            self._transfer.wait()
            reason = f"there is no connection, or no proper answer ({type(error).__name__})"
            passing = not isinstance(error, ValueError)
            raise SourceError(self._too_slow or reason, passing=passing) from error


def next_url(url: str, location: str) -> str:
    """Return the address that a redirect leads to."""
    target = urljoin(url, location)
    allowed = {"https"} if urlsplit(url).scheme == "https" else {"http", "https"}
    if urlsplit(target).scheme not in allowed:
        raise SourceError(f"the server redirects to {target!r:.200}, which is refused")
    return target


def _offered(response: requests.Response, have: int) -> tuple[int | None, int | None]:
    """Return where in the file the answer begins, and how long the whole file is.

    The beginning is None if the answer is not what follows the `have` bytes that are there. The
    length is None if the server does not state it.
    """
    if response.status_code == 200:  # the whole file, whether or not a part was asked for
        length = response.headers.get("content-length")
        if length is not None and not re.fullmatch("[0-9]{1,19}", length):
            raise SourceError(f"the server states a length of {length!r:.80}")
        return 0, None if length is None else int(length)
    span = response.headers.get("content-range", "")
    found = re.fullmatch(r"bytes ([0-9]{1,19})-[0-9]*/(?:([0-9]{1,19})|\*)", span)
    if response.status_code == 206 and found and int(found[1]) == have:
        return have, int(found[2]) if found[2] else None
    return None, None


def _resumable(url: str, transfer: Transfer) -> tuple[int, dict[str, str]]:
    """Return how many bytes of the partial file to keep, and the headers that ask for the rest.

    With a known hash, a wrong beginning is found out at the end. Without one, the server must
    promise that it is still the same file (If-Range with the validator of the first answer).
    """
    have = transfer.part.stat().st_size if transfer.part.exists() else 0
    if have == 0 or have > transfer.resource.max_bytes:
        return 0, {}
    try:
        origin, validator = json.loads(transfer.origin.read_text("utf-8"))
        # It comes from a server, by way of a file, and becomes a header.
        known = origin == url and re.fullmatch("[ -~]+", validator)
    except (OSError, ValueError, TypeError, RecursionError):
        known = None
    if known:
        return have, {"Range": f"bytes={have}-", "If-Range": validator}
    if transfer.resource.sha256 is None:
        return 0, {}
    return have, {"Range": f"bytes={have}-"}
