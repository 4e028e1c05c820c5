"""`wskit.data.fetch` against a server that fails in every way that servers do."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import http_server
import pytest
from data_site import CONTENT, OTHER, QUICK, cached, describe, net, part, prepare, resource, sha256
from http_server import Reply, Server

from wskit import data
from wskit.data import _transfer
from wskit.errors import DataError


@pytest.fixture
def server() -> Iterator[Server]:
    with http_server.running() as running:
        yield running


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return prepare(tmp_path, monkeypatch)


def test_a_file_is_downloaded_once(folders: Path, server: Server) -> None:
    net(folders, server, Reply(CONTENT))
    path = data.fetch("net", **QUICK)
    assert path == folders / "cache" / "nets" / "net.bin"
    assert path.read_bytes() == CONTENT
    assert data.fetch("net", **QUICK) == path
    assert server.requests == [("/net.bin", None)]
    assert cached(folders) == ["nets/net.bin"]
    assert not part(folders).exists()


def test_a_package_is_a_folder_with_all_its_files(folders: Path, server: Server) -> None:
    first = server.serve("/1", Reply(CONTENT))
    second = server.serve("/2", Reply(OTHER))
    entries = [
        resource("net", **{"wskit:urls": [first]}),
        resource("other", OTHER, **{"wskit:urls": [second]}),
    ]
    describe(folders, *entries)
    seen: list[tuple[int, int | None]] = []
    keep = QUICK | {"progress": lambda done, total: seen.append((done, total))}
    folder = data.fetch("nets", **keep)
    assert folder == folders / "cache" / "nets"
    assert (folder / "other.bin").read_bytes() == OTHER
    assert [total for _, total in seen] == [600_000] * len(seen)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (600_000, 600_000)


def test_a_slow_server_is_waited_for_and_progress_is_told(folders: Path, server: Server) -> None:
    net(folders, server, Reply(CONTENT, pause=0.02))
    seen: list[int] = []
    data.fetch("net", **QUICK | {"progress": lambda done, total: seen.append(done)})
    assert seen[0] == 0
    assert seen[-1] == len(CONTENT)
    assert len(seen) > 5


def test_a_silent_server_is_given_up(folders: Path, server: Server) -> None:
    net(folders, server, Reply(CONTENT, pause=1.0))
    with pytest.raises(DataError, match="the server does not answer in time"):
        data.fetch("net", **QUICK | {"timeout": 0.1, "retries": 1})
    assert len(server.requests) == 2
    assert cached(folders) == []


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_broken_connection_is_resumed(folders: Path, server: Server, reset: bool) -> None:
    net(folders, server, Reply(CONTENT, cut=100_000, reset=reset), Reply(CONTENT))
    assert data.fetch("net", **QUICK).read_bytes() == CONTENT
    assert server.requests == [("/net.bin", None), ("/net.bin", "bytes=100000-")]


def test_a_truncated_file_is_never_kept(folders: Path, server: Server) -> None:
    # Without a length the end of the connection is the end of the file.
    net(folders, server, Reply(CONTENT[:1000], bare=True, ranges=False))
    with pytest.raises(DataError, match="only 1000 of 300000 bytes arrived"):
        data.fetch("net", **QUICK)
    assert len(server.requests) == 3
    assert cached(folders) == []


def test_a_file_whose_end_cannot_be_told_is_refused(folders: Path, server: Server) -> None:
    unknown = {"hash": None, "bytes": None, "wskit:maxBytes": 10**6}
    net(folders, server, Reply(CONTENT, bare=True), **unknown)
    with pytest.raises(DataError, match="does not say how long the file is"):
        data.fetch("net", **QUICK)


def test_a_wrong_file_is_never_kept(folders: Path, server: Server) -> None:
    net(folders, server, Reply(OTHER))
    message = f"its sha256 is {sha256(OTHER)}, expected {sha256(CONTENT)}"
    with pytest.raises(DataError, match=message):
        data.fetch("net", **QUICK)
    assert len(server.requests) == 1  # it would be as wrong a second time
    assert cached(folders) == []
    assert not part(folders).exists()


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_a_wrong_length_is_refused_before_the_download(
    folders: Path, server: Server, size: int
) -> None:
    net(folders, server, Reply(CONTENT), bytes=size)
    message = f"the file has 300000 bytes, the manifest says {size}"
    with pytest.raises(DataError, match=message):
        data.fetch("net", **QUICK)
    assert not part(folders).exists()


def test_more_bytes_than_the_manifest_allows_stop_the_download(
    folders: Path, server: Server
) -> None:
    net(folders, server, Reply(CONTENT, chunked=True), bytes=100_000)
    with pytest.raises(DataError, match="more than the 100000 bytes of the manifest come"):
        data.fetch("net", **QUICK)
    assert part(folders).stat().st_size <= 100_000
    assert cached(folders) == []


def test_a_file_of_unknown_size_has_a_cap(folders: Path, server: Server) -> None:
    net(folders, server, Reply(CONTENT), bytes=None, **{"wskit:maxBytes": 200_000})
    with pytest.raises(DataError, match="the manifest allows 200000"):
        data.fetch("net", **QUICK)


def test_a_missing_file_is_not_asked_for_twice(folders: Path, server: Server) -> None:
    net(folders, server, Reply(status=404))
    with pytest.raises(DataError, match=r"404 Not Found\. Check the connection"):
        data.fetch("net", **QUICK)
    assert len(server.requests) == 1


def test_a_passing_failure_is_tried_again(folders: Path, server: Server) -> None:
    net(folders, server, Reply(status=500), Reply(status=503), Reply(CONTENT))
    assert data.fetch("net", **QUICK).read_bytes() == CONTENT


def test_retries_end(folders: Path, server: Server) -> None:
    net(folders, server, Reply(status=500))
    with pytest.raises(DataError, match="500 Internal Server Error"):
        data.fetch("net", **QUICK)
    assert len(server.requests) == 3


def test_the_next_address_is_tried(folders: Path, server: Server) -> None:
    addresses = [
        "http://127.0.0.1:9/net.bin",  # nobody listens
        server.serve("/wrong", Reply(OTHER)),
        server.serve("/right", Reply(CONTENT)),
    ]
    describe(folders, resource(**{"wskit:urls": addresses}))
    assert data.fetch("net", **QUICK).read_bytes() == CONTENT


def test_no_connection_is_said_so(folders: Path) -> None:
    describe(folders, resource())
    with pytest.raises(DataError, match="no connection to the server"):
        data.fetch("net", **QUICK | {"retries": 0})


def test_a_redirect_is_followed(folders: Path, server: Server) -> None:
    server.serve("/elsewhere", Reply(CONTENT))
    net(folders, server, Reply(status=302, location="/elsewhere"))
    assert data.fetch("net", **QUICK).read_bytes() == CONTENT


def test_a_redirect_loop_ends(folders: Path, server: Server) -> None:
    net(folders, server, Reply(status=302, location="/net.bin"))
    with pytest.raises(DataError, match="redirects more than 5 times"):
        data.fetch("net", **QUICK)
    assert len(server.requests) == 6


@pytest.mark.parametrize("scheme", ["file", "ftp", "data"])
def test_a_redirect_leads_only_to_http(folders: Path, server: Server, scheme: str) -> None:
    bait = folders / "bait.bin"
    bait.write_bytes(CONTENT)
    net(folders, server, Reply(status=302, location=f"{scheme}://{bait}"))
    with pytest.raises(DataError, match=f"redirects to '{scheme}:.*which is refused"):
        data.fetch("net", **QUICK)
    assert cached(folders) == []


def test_a_redirect_never_leaves_https() -> None:
    assert _transfer._next_url("https://a.org/x", "/y") == "https://a.org/y"
    with pytest.raises(_transfer.SourceError, match=r"'http://a\.org/y', which is refused"):
        _transfer._next_url("https://a.org/x", "http://a.org/y")


def test_a_server_without_ranges_starts_again(folders: Path, server: Server) -> None:
    net(folders, server, Reply(CONTENT, cut=100_000), Reply(CONTENT, ranges=False))
    assert data.fetch("net", **QUICK).read_bytes() == CONTENT
    assert server.requests[1] == ("/net.bin", "bytes=100000-")


def test_a_file_that_changed_meanwhile_starts_again(folders: Path, server: Server) -> None:
    old = Reply(OTHER, etag='"old"', cut=100_000)
    net(folders, server, old, Reply(CONTENT, etag='"new"'))
    assert data.fetch("net", **QUICK).read_bytes() == CONTENT
    assert server.requests[1] == ("/net.bin", "bytes=100000-")


def test_without_a_hash_two_versions_are_never_mixed(folders: Path, server: Server) -> None:
    old = Reply(OTHER, etag='"old"', cut=100_000)
    net(folders, server, old, Reply(CONTENT, etag='"new"'), hash=None)
    with pytest.warns(UserWarning, match=sha256(CONTENT)):
        assert data.fetch("net", **QUICK).read_bytes() == CONTENT
    assert server.requests[1] == ("/net.bin", "bytes=100000-")


def test_a_wrong_beginning_from_an_earlier_run_is_thrown_away(
    folders: Path, server: Server
) -> None:
    net(folders, server, Reply(CONTENT))
    part(folders).parent.mkdir(parents=True)
    part(folders).write_bytes(OTHER[:1000])
    assert data.fetch("net", **QUICK).read_bytes() == CONTENT
    assert server.requests == [("/net.bin", "bytes=1000-"), ("/net.bin", None)]


def test_without_a_hash_a_beginning_of_unknown_origin_is_not_used(
    folders: Path, server: Server
) -> None:
    net(folders, server, Reply(CONTENT), hash=None)
    part(folders).parent.mkdir(parents=True)
    part(folders).write_bytes(CONTENT[:1000])
    with pytest.warns(UserWarning, match="nobody published a hash of 'net'"):
        data.fetch("net", **QUICK)
    assert server.requests == [("/net.bin", None)]


@pytest.mark.parametrize("origin", ['"a\\nb"', "3", '"\u00e9"', '[["x"]]', "[" * 20_000])
def test_a_damaged_note_of_the_origin_does_no_harm(
    folders: Path, server: Server, origin: str
) -> None:
    net(folders, server, Reply(CONTENT))
    part(folders).parent.mkdir(parents=True)
    part(folders).write_bytes(CONTENT[:1000])
    note = f'{{"url": "{server.url}/net.bin", "validator": {origin}}}'
    part(folders).with_name("net.bin.part.origin").write_text(note, encoding="utf-8")
    assert data.fetch("net", **QUICK).read_bytes() == CONTENT
    assert server.requests == [("/net.bin", "bytes=1000-")]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"retries": -1}, "retries must be a whole number of at least 0, got -1"),
        ({"backoff": -1.0}, "backoff must not be negative"),
        ({"timeout": 0.0}, "timeout must be positive"),
        ({"timeout": float("nan")}, "timeout must be a finite number"),
    ],
)
def test_patience_has_bounds(folders: Path, choice: dict[str, float], message: str) -> None:
    describe(folders, resource())
    with pytest.raises(DataError, match=message):
        data.fetch("net", **QUICK | choice)


def test_a_range_that_the_server_refuses_starts_again(folders: Path, server: Server) -> None:
    unknown = {"hash": None, "bytes": None, "wskit:maxBytes": 10**6}
    net(folders, server, Reply(CONTENT), **unknown)
    part(folders).parent.mkdir(parents=True)
    part(folders).write_bytes(CONTENT)  # all there, but nobody knows
    origin = {"url": server.url + "/net.bin", "validator": '"v1"'}
    part(folders).with_name("net.bin.part.origin").write_text(json.dumps(origin))
    with pytest.warns(UserWarning, match="recorded"):
        assert data.fetch("net", **QUICK).read_bytes() == CONTENT
    assert server.requests == [("/net.bin", "bytes=300000-"), ("/net.bin", None)]


def test_cancel_stops_and_the_next_fetch_goes_on(folders: Path, server: Server) -> None:
    net(folders, server, Reply(CONTENT, pause=0.02))
    cancel = threading.Event()

    def progress(done: int, total: int | None) -> None:
        if done > 100_000:
            cancel.set()

    with pytest.raises(DataError, match="was cancelled; what arrived is kept"):
        data.fetch("net", **QUICK | {"progress": progress, "cancel": cancel})
    assert cached(folders) == []
    kept = part(folders).stat().st_size
    assert 100_000 < kept < len(CONTENT)
    assert data.fetch("net", **QUICK).read_bytes() == CONTENT
    assert server.requests[1] == ("/net.bin", f"bytes={kept}-")


def test_cancel_ends_the_wait_between_tries(folders: Path, server: Server) -> None:
    net(folders, server, Reply(status=500))
    cancel = threading.Event()
    timer = threading.Timer(0.2, cancel.set)
    timer.start()
    began = time.monotonic()
    with pytest.raises(DataError, match="was cancelled"):
        data.fetch("net", **QUICK | {"backoff": 30.0, "cancel": cancel})
    timer.join()
    assert time.monotonic() - began < 10


def test_what_progress_raises_reaches_the_caller(folders: Path, server: Server) -> None:
    net(folders, server, Reply(CONTENT))

    def progress(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.fetch("net", **QUICK | {"progress": progress})
    assert cached(folders) == []
