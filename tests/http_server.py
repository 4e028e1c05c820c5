"""A server on 127.0.0.1 that misbehaves as it is told, and remembers what it was asked."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHUNK = 1 << 15


@dataclass(frozen=True)
class Reply:
    """How one request is answered."""

    content: bytes = b""
    status: int = 200
    location: str = ""  # of a redirect
    etag: str = '"v1"'
    raw: bytes = b""  # send just this, instead of an answer
    ranges: bool = True  # answers Range requests
    length: int | str | None = None  # Content-Length to state instead of the true one
    chunked: bool = False  # states no length
    bare: bool = False  # states no length, and ends by closing the connection
    cut: int | None = None  # bytes of this answer after which the connection is closed
    reset: bool = False  # ... is reset, rather than closed in order
    pause: float = 0.0  # seconds before each chunk
    chunk: int = CHUNK


class Server:
    """The replies by path, used up one by one (the last one stays), and the requests."""

    def __init__(self) -> None:
        self.replies: dict[str, list[Reply]] = {}
        self.requests: list[tuple[str, str | None]] = []  # path, Range header
        self.url = ""
        self._lock = threading.Lock()

    def serve(self, path: str, *replies: Reply) -> str:
        """Answer requests for `path` with these replies; return its address."""
        self.replies[path] = list(replies)
        return self.url + path

    def take(self, path: str, span: str | None) -> Reply:
        with self._lock:
            self.requests.append((path, span))
            replies = self.replies.get(path, [Reply(status=404)])
            return replies.pop(0) if len(replies) > 1 else replies[0]


@contextmanager
def running() -> Iterator[Server]:
    """Run a server until the end of the block."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            span = self.headers.get("Range")
            _answer(self, server.take(self.path, span), span)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # clients that go away are part of the tests

    with Quiet(("127.0.0.1", 0), Handler) as listening:
        server.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()


def _answer(handler: BaseHTTPRequestHandler, reply: Reply, span: str | None) -> None:
    handler.close_connection = True
    if reply.raw:
        handler.wfile.write(reply.raw)
        return
    body, status = reply.content, reply.status
    handler_headers = {"Connection": "close", "ETag": reply.etag}
    if reply.location:
        handler_headers["Location"] = reply.location
    changed = handler.headers.get("If-Range", reply.etag) != reply.etag
    if span and reply.ranges and status == 200 and not changed:
        start, size = int(span.removeprefix("bytes=").removesuffix("-")), len(body)
        status = 206 if start < size else 416
        handler_headers["Content-Range"] = (
            f"bytes {start}-{size - 1}/{size}" if status == 206 else f"bytes */{size}"
        )
        body = body[start:]
    if reply.chunked:
        handler_headers["Transfer-Encoding"] = "chunked"
    elif not reply.bare:
        handler_headers["Content-Length"] = str(len(body) if reply.length is None else reply.length)
    handler.send_response(status)
    for key, value in handler_headers.items():
        handler.send_header(key, value)
    handler.end_headers()
    _send(handler, reply, body if reply.cut is None else body[: reply.cut])


def _send(handler: BaseHTTPRequestHandler, reply: Reply, body: bytes) -> None:
    for start in range(0, len(body), reply.chunk):
        time.sleep(reply.pause)
        piece = body[start : start + reply.chunk]
        if reply.chunked:
            piece = f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
        handler.wfile.write(piece)
    if reply.chunked and reply.cut is None:
        handler.wfile.write(b"0\r\n\r\n")
    if reply.reset:
        # The client must have read what was sent: a reset discards what is under way.
        time.sleep(0.2)
        linger = struct.pack("ii", 1, 0)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.connection.close()
