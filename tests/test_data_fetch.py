"""`wskit.data.fetch` and its cache, against servers, mirrors and disks that fail as they do."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import http_server
import pytest
from data_site import CONTENT, OTHER, QUICK, cached, describe, net, part, prepare, resource, sha256
from http_server import Reply, Server

from wskit import data
from wskit.data import _download
from wskit.errors import DataError


@pytest.fixture
def server() -> Iterator[Server]:
    with http_server.running() as running:
        yield running


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return prepare(tmp_path, monkeypatch)


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


# --- one file from one server ------------------------------------------------------------------


def test_a_file_is_downloaded_once(folders: Path, server: Server) -> None:
    net(folders, server, Reply(CONTENT))

    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # what progress raises reaches the caller
        data.fetch("net", **QUICK | {"progress": interrupt})
    server.requests.clear()
    seen: list[tuple[int, int | None]] = []
    path = data.fetch("net", **QUICK | {"progress": lambda *now: seen.append(now)})
    assert path == folders / "cache" / "nets" / "net.bin"
    assert path.read_bytes() == CONTENT
    assert (seen[0], seen[-1]) == ((0, 300_000), (300_000, 300_000))
    assert data.fetch("net", **QUICK) == path
    assert server.requests == [("/net.bin", None)]
    assert cached(folders) == ["nets/net.bin"]
    assert not part(folders).exists()


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_is_resumed(
    folders: Path, server: Server, reset: bool, ranges: bool
) -> None:
    net(folders, server, Reply(CONTENT, cut=100_000, reset=reset), Reply(CONTENT, ranges=ranges))
    assert data.fetch("net", **QUICK).read_bytes() == CONTENT
    assert server.requests == [("/net.bin", None), ("/net.bin", "bytes=100000-")]


UNKNOWN = {"hash": None, "bytes": None, "wskit:maxBytes": 10**6}
PREFIX = {"hash": None, "wskit:sha256Prefix": sha256(CONTENT)[:8]}
REFUSED = {
    "missing": (Reply(status=404), {}, "the server answers 404 Not Found; check the", 1),
    "failing": (Reply(status=500), {}, "500 Internal Server Error", 3),
    "cut": (Reply(CONTENT[:99], bare=True, ranges=False), {}, "only 99 of 300000 bytes", 3),
    "no length": (Reply(CONTENT, bare=True), UNKNOWN, "does not say how long the file is", 1),
    "other": (Reply(OTHER), {}, f"its sha256 is {sha256(OTHER)}, expected", 1),
    "shorter": (Reply(CONTENT), {"bytes": 300_001}, "300000 bytes, the manifest says 300001", 1),
    "longer": (Reply(CONTENT), {"bytes": 299_999}, "300000 bytes, the manifest says 299999", 1),
    "capped": (Reply(CONTENT), {"bytes": None, "wskit:maxBytes": 9}, "the manifest allows 9", 1),
    "endless": (Reply(CONTENT, chunked=True), {"bytes": 99}, "more than the 99 bytes of the", 1),
    "prefix": (Reply(OTHER), PREFIX, f"expected {sha256(CONTENT)[:8]}", 1),
    "loop": (Reply(status=302, location="/net.bin"), {}, "redirects more than 5 times", 6),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_the_file_is_never_kept(folders: Path, server: Server, case: str) -> None:
    reply, changes, message, requests = REFUSED[case]
    net(folders, server, reply, **changes)
    with pytest.raises(DataError, match=message):
        data.fetch("net", **QUICK)
    assert len(server.requests) == requests
    assert cached(folders) == []
    assert not part(folders).exists() or part(folders).stat().st_size <= 99


MALFORMED = {
    "nobody": None,
    "wrong": Reply(OTHER),
    "status": Reply(raw=b"HTTP/1.1 twohundred\r\n\r\n"),
    "no http": Reply(raw=b"\x1b[2J\x00\xff\r\n" * 9),
    "header": Reply(raw=b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 500 + b"\r\n"),
    "length": Reply(CONTENT, length="many"),
    "lengths": Reply(CONTENT, length="3, 4"),
    "a long length": Reply(CONTENT, length="9" * 5000),
    "location": Reply(status=302, location="http://[::1/net.bin"),
    "port": Reply(status=302, location="http://127.0.0.1:port/"),
    "host": Reply(status=302, location="http://" + "a" * 300),
    "empty": Reply(status=302, location="http:///"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_the_next_address_is_tried(folders: Path, server: Server, case: str) -> None:
    reply = MALFORMED[case]
    first = "http://127.0.0.1:9/" if reply is None else server.serve("/first", reply)
    urls = [first, server.serve("/second", Reply(CONTENT))]
    describe(folders, resource(**{"wskit:urls": urls}))
    assert data.fetch("net", **QUICK).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "reply",
    [
        Reply(raw=b"HTTP/1.1 404 \x1b]0;owned\x07\r\nContent-Length: 0\r\n\r\n"),
        Reply(raw=b"HTTP/1.1 302 Found\r\nLocation: ftp://\x1b[2J\xc2\x9b\r\n\r\n"),
        Reply(CONTENT, length="\x1b[2J"),
        Reply(raw=b"\x1b[2J\r\n"),
    ],
)
def test_nothing_that_a_server_says_reaches_the_terminal_as_it_is(
    folders: Path, server: Server, reply: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    net(folders, server, reply)
    with pytest.raises(DataError) as caught:
        data.fetch("net", **QUICK)
    assert str(caught.value).isprintable()
    assert caplog.text.replace("\n", "").isprintable()


@pytest.mark.parametrize("scheme", ["file", "ftp", "data"])
def test_a_redirect_leads_only_to_http_and_never_leaves_https(
    folders: Path, server: Server, scheme: str
) -> None:
    bait = folders / "bait.bin"
    bait.write_bytes(CONTENT)
    server.serve("/right", Reply(CONTENT))
    refused = Reply(status=302, location=f"{scheme}://{bait}")
    net(folders, server, refused, Reply(status=302, location="/right"))
    with pytest.raises(DataError, match=f"redirects to '{scheme}:.*which is refused"):
        data.fetch("net", **QUICK)
    assert cached(folders) == []
    assert data.fetch("net", **QUICK).read_bytes() == CONTENT
    assert _download.next_url("https://a.org/x", "/y") == "https://a.org/y"
    with pytest.raises(_download.SourceError, match=r"'http://a\.org/y', which is refused"):
        _download.next_url("https://a.org/x", "http://a.org/y")


# --- time --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [Reply(CONTENT, pause=60.0), Reply(CONTENT, pause=0.05, chunk=1)],
    ids=["silent", "slow"],
)
def test_a_server_that_is_silent_or_too_slow_is_given_up(
    folders: Path, server: Server, reply: Reply
) -> None:
    net(folders, server, reply)
    with pytest.raises(DataError, match=r"less than 1000 bytes a second|no proper answer"):
        data.fetch("net", **QUICK | {"timeout": 0.5, "retries": 1})
    assert len(server.requests) == 2
    assert cached(folders) == []


def test_a_download_has_a_deadline(folders: Path, server: Server) -> None:
    net(folders, server, Reply(CONTENT, pause=1.0, chunk=9_000), Reply(CONTENT))
    with pytest.raises(DataError, match="took longer than its deadline; what arrived is kept"):
        data.fetch("net", **QUICK | {"deadline": 2.5})
    assert data.fetch("net", **QUICK).read_bytes() == CONTENT


def test_cancel_stops_and_the_next_fetch_goes_on(folders: Path, server: Server) -> None:
    net(folders, server, Reply(CONTENT, pause=0.02), Reply(CONTENT))
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


@pytest.mark.parametrize(
    "reply", [Reply(CONTENT, pause=600.0), Reply(status=500)], ids=["silent", "between tries"]
)
def test_cancel_ends_a_wait_at_once(
    folders: Path, server: Server, monkeypatch: pytest.MonkeyPatch, reply: Reply
) -> None:
    """A silent server's socket is closed; nobody waits for it to time out."""
    monkeypatch.setattr(_download, "BACKOFF", 600.0)
    net(folders, server, reply)
    cancel = threading.Event()
    errors: list[Exception] = []

    def fetch() -> None:
        try:
            data.fetch("net", **QUICK | {"timeout": 600.0, "cancel": cancel})
        except DataError as error:
            errors.append(error)

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    wait_for(lambda: server.requests, "the request")
    cancel.set()
    thread.join(timeout=120)
    assert "was cancelled" in str(errors[0])


# --- what is there already ---------------------------------------------------------------------


def leave_part(folders: Path, content: bytes, origin: str = "") -> None:
    part(folders).parent.mkdir(parents=True)
    part(folders).write_bytes(content)
    if origin:
        part(folders).with_suffix(".origin").write_text(origin, encoding="utf-8")


@pytest.mark.parametrize("known", [True, False])
def test_two_versions_of_a_file_are_never_mixed(
    folders: Path, server: Server, known: bool, recwarn: pytest.WarningsRecorder
) -> None:
    old = Reply(OTHER, etag='"old"', cut=100_000)
    changes = {} if known else {"hash": None}
    net(folders, server, old, Reply(CONTENT, etag='"new"'), **changes)
    assert data.fetch("net", **QUICK).read_bytes() == CONTENT
    assert server.requests[1] == ("/net.bin", "bytes=100000-")
    assert [sha256(CONTENT) in str(w.message) for w in recwarn] == ([] if known else [True])


def test_a_wrong_beginning_from_an_earlier_run_is_thrown_away(
    folders: Path, server: Server
) -> None:
    net(folders, server, Reply(CONTENT))
    leave_part(folders, OTHER[:1000])
    assert data.fetch("net", **QUICK).read_bytes() == CONTENT
    assert server.requests == [("/net.bin", "bytes=1000-"), ("/net.bin", None)]


@pytest.mark.parametrize("start", [CONTENT[:1000], CONTENT], ids=["unknown origin", "all there"])
def test_without_a_hash_a_beginning_must_be_vouched_for(
    folders: Path, server: Server, start: bytes
) -> None:
    net(folders, server, Reply(CONTENT), **UNKNOWN)
    leave_part(folders, start, f'["{server.url}/net.bin", "\\"v1\\""]' if start == CONTENT else "")
    with pytest.warns(UserWarning, match="nobody published a hash of 'net'"):
        assert data.fetch("net", **QUICK).read_bytes() == CONTENT
    asked = [("/net.bin", None)]
    assert server.requests == ([("/net.bin", "bytes=300000-")] if start == CONTENT else []) + asked


@pytest.mark.parametrize("validator", ['"a\\nb"', "3", '"\u00e9"', "[" * 20_000])
def test_a_damaged_note_of_the_origin_does_no_harm(
    folders: Path, server: Server, validator: str
) -> None:
    net(folders, server, Reply(CONTENT))
    leave_part(folders, CONTENT[:1000], f'["{server.url}/net.bin", {validator}]')
    assert data.fetch("net", **QUICK).read_bytes() == CONTENT
    assert server.requests == [("/net.bin", "bytes=1000-")]


def test_a_damaged_file_in_the_cache_is_fetched_again(
    folders: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    net(folders, server, Reply(CONTENT))
    path = data.fetch("net", **QUICK)
    path.write_bytes(OTHER)
    assert list(data.verify()["state"]) == ["wrong"]
    assert data.fetch("net", **QUICK).read_bytes() == CONTENT
    assert "is damaged" in caplog.text
    assert list(data.verify()["state"]) == ["ok"]


def test_a_first_copy_is_recorded_and_checked_ever_after(folders: Path, server: Server) -> None:
    net(folders, server, Reply(CONTENT), Reply(OTHER), hash=None)
    with pytest.warns(UserWarning, match=f"its sha256 {sha256(CONTENT)} is recorded in"):
        path = data.fetch("net", **QUICK)
    assert data.fetch("net", **QUICK) == path  # no second warning: warnings are errors here
    assert list(data.verify("net")["state"]) == ["ok"]
    path.unlink()
    with pytest.raises(DataError, match=f"its sha256 is {sha256(OTHER)}"):
        data.fetch("net", **QUICK)
    record = folders / "cache" / ".recorded" / "nets" / "net.bin.sha256"
    for damaged in (b"", b"\xff" * 64, b"../x"):
        record.write_bytes(damaged)
        with pytest.raises(DataError, match="is not the sha256 that was recorded: delete it"):
            data.fetch("net", **QUICK)


def test_a_bar_is_drawn_for_what_takes_long(
    folders: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    net(folders, server, Reply(CONTENT))
    data.fetch("net", **QUICK | {"progress": True}).unlink()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("wskit.data._cache._BAR_AFTER", 0.0)
    data.fetch("net", **QUICK | {"progress": True})
    assert "net: 100%" in capsys.readouterr().err


# --- mirrors -----------------------------------------------------------------------------------


def use_mirror(folders: Path, monkeypatch: pytest.MonkeyPatch, path: str, content: bytes) -> None:
    (folders / "mirror" / path).parent.mkdir(parents=True)
    (folders / "mirror" / path).write_bytes(content)
    monkeypatch.setenv("WSKIT_MIRROR", str(folders / "mirror"))


@pytest.mark.parametrize("wrong", [OTHER, OTHER[:1000]], ids=["content", "length"])
def test_another_packages_file_in_a_flat_mirror_is_passed_over(
    folders: Path, server: Server, monkeypatch: pytest.MonkeyPatch, wrong: bytes
) -> None:
    net(folders, server, Reply(CONTENT), Reply(status=404))
    use_mirror(folders, monkeypatch, "net.bin", wrong)
    path = data.fetch("net", **QUICK)
    assert path.read_bytes() == CONTENT
    path.unlink()
    expected = r"mirror/net\.bin: (it is not the file|the file has 1000 bytes).*404"
    with pytest.raises(DataError, match=expected):
        data.fetch("net", **QUICK)
    describe(folders, resource(hash=None))
    monkeypatch.setenv("WSKIT_OFFLINE", "1")
    with pytest.raises(DataError, match=r"mirror/nets/net\.bin: there is no such file; WSKIT_OFF"):
        data.fetch("net", **QUICK)  # without a hash, no flat mirror is trusted
    assert cached(folders) == []


def test_a_mirrors_address_comes_first(
    folders: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(folders, resource())
    server.serve("/course/net.bin", Reply(CONTENT))
    monkeypatch.setenv("WSKIT_MIRROR", server.url + "/course/")
    path = data.fetch("net", **QUICK)
    assert [path for path, _ in server.requests] == ["/course/nets/net.bin", "/course/net.bin"]
    path.unlink()
    monkeypatch.setenv("WSKIT_MIRROR", "ftp://example.org")
    with pytest.raises(DataError, match="neither a folder nor an http"):
        data.fetch("net", **QUICK)


def test_offline_nothing_is_asked_for(
    folders: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    net(folders, server, Reply(CONTENT))
    monkeypatch.setenv("WSKIT_OFFLINE", "1")
    monkeypatch.setenv("WSKIT_MIRROR", server.url)
    with pytest.raises(DataError, match="WSKIT_OFFLINE is set: unset it to download, or set"):
        data.fetch("net", **QUICK)
    assert server.requests == []


def test_mirror_fills_a_folder_for_a_room_without_internet(
    folders: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    net(folders, server, Reply(CONTENT))
    with pytest.raises(DataError, match="is empty: name what the mirror shall hold"):
        data.mirror(folders / "mirror")
    written = data.mirror(folders / "mirror", "nets", "net", progress=False)
    assert written == [folders / "mirror" / "nets" / "net.bin"]
    assert sorted(p.name for p in (folders / "mirror").rglob("*")) == ["net.bin", "nets"]
    written[0].write_bytes(OTHER)
    assert data.mirror(folders / "mirror")[0].read_bytes() == CONTENT  # what the cache holds
    (folders / "cache" / "nets" / "net.bin").unlink()
    monkeypatch.setenv("WSKIT_MIRROR", str(folders / "mirror"))
    data.fetch("net", **QUICK)  # the mirror comes before the server
    monkeypatch.setenv("WSKIT_CACHE", str(folders / "student"))
    monkeypatch.setenv("WSKIT_MIRROR", str(folders / "mirror"))
    monkeypatch.setenv("WSKIT_OFFLINE", "1")
    assert data.fetch("net", **QUICK).read_bytes() == CONTENT
    assert len(server.requests) == 1


# --- disks -------------------------------------------------------------------------------------


def test_a_disk_without_room_is_found_before_the_download(
    folders: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    net(folders, server, Reply(CONTENT))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    expected = r"needs 300000 bytes more, but the disk of \S*/nets/net\.bin has only 1000 free"
    with pytest.raises(DataError, match=expected):
        data.fetch("net", **QUICK)
    assert cached(folders) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_disk_that_fills_up_is_said_so(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    describe(folders, resource())
    use_mirror(folders, monkeypatch, "nets/net.bin", CONTENT)
    part(folders).parent.mkdir(parents=True)
    part(folders).with_suffix(".copy").symlink_to("/dev/full")  # no room for a byte
    with pytest.raises(DataError, match=r"net\.bin: cannot be written \(No space left on device\)"):
        data.fetch("net", **QUICK)
    assert cached(folders) == []


def test_what_is_in_the_way_is_named(
    folders: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    net(folders, server, Reply(CONTENT))
    (folders / "cache" / "nets" / "net.bin").mkdir(parents=True)
    with pytest.raises(DataError, match=r"nets/net\.bin: cannot be written \(Is a directory\)"):
        data.fetch("net", **QUICK)
    (folders / "file").write_bytes(b"")
    monkeypatch.setenv("WSKIT_CACHE", str(folders / "file"))
    with pytest.raises(DataError, match=r"file: cannot be written \(Not a directory\)"):
        data.fetch("net", **QUICK)
    monkeypatch.setenv("WSKIT_CACHE", str(folders / "other"))
    with pytest.raises(DataError, match=r"file/nets/net\.bin: cannot be written"):
        data.mirror(folders / "file", "net", progress=False)


# --- several processes -------------------------------------------------------------------------

ANOTHER_PROCESS = """
import sys
from pathlib import Path
from wskit import data
from wskit.data import _manifests

_manifests.manifest_folder = lambda: Path(sys.argv[1])
data.fetch("net", progress=False)
"""


def another_process(folders: Path) -> "subprocess.Popen[bytes]":
    """Start fetching the net in another process."""
    command = [sys.executable, "-c", ANOTHER_PROCESS, str(folders / "manifests")]
    return subprocess.Popen(command, cwd=Path(data.__file__).parents[2])


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no kill -9")
def test_after_a_kill_the_next_fetch_goes_on(folders: Path, server: Server) -> None:
    net(folders, server, Reply(CONTENT, pause=0.5), Reply(CONTENT))
    with another_process(folders) as process:
        wait_for(lambda: part(folders).exists() and part(folders).stat().st_size, "a first part")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    kept = part(folders).stat().st_size
    assert 0 < kept < len(CONTENT)
    assert cached(folders) == []
    assert data.fetch("net", **QUICK).read_bytes() == CONTENT
    assert server.requests == [("/net.bin", None), ("/net.bin", f"bytes={kept}-")]


def test_interrupted_before_the_last_step_the_next_fetch_downloads_nothing(
    folders: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    net(folders, server, Reply(CONTENT))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            data.fetch("net", **QUICK)
    assert cached(folders) == []
    assert data.fetch("net", **QUICK).read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_two_processes_download_once_and_waiting_can_be_cancelled(
    folders: Path, server: Server
) -> None:
    net(folders, server, Reply(CONTENT, pause=0.2))
    with another_process(folders) as process:
        wait_for(lambda: server.requests, "the first request")
        cancel = threading.Event()
        cancel.set()
        with pytest.raises(DataError, match=r"the wait for .* net\.bin was cancelled"):
            data.fetch("net", **QUICK | {"cancel": cancel})
        assert data.fetch("net", **QUICK).read_bytes() == CONTENT
        assert process.wait() == 0
    assert len(server.requests) == 1
