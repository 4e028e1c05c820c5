"""The cache of `wskit.data`: what is kept and recorded, mirrors, full disks, many processes."""

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

import http_server
import pytest
from data_site import CONTENT, OTHER, QUICK, cached, describe, net, part, prepare, resource, sha256
from http_server import Reply, Server

from wskit import data
from wskit.errors import DataError


@pytest.fixture
def server() -> Iterator[Server]:
    with http_server.running() as running:
        yield running


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return prepare(tmp_path, monkeypatch)


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
    assert cached(folders) == ["recorded.json"]


def test_what_is_known_of_a_hash_is_checked(folders: Path, server: Server) -> None:
    net(folders, server, Reply(OTHER), hash=None, **{"wskit:sha256Prefix": sha256(CONTENT)[:8]})
    with pytest.raises(DataError, match=f"expected {sha256(CONTENT)[:8]}"):
        data.fetch("net", **QUICK)


@pytest.mark.parametrize(
    "record",
    [
        "[]",
        "[" * 20_000,
        '{"a": 3}',
        '{"a": {"sha256": 3, "bytes": 3}}',
        f'{{"a": {{"sha256": "{"0" * 64}", "bytes": NaN}}}}',
        f'{{"a": {{"sha256": "{"0" * 64}", "bytes": "3"}}}}',
        '{"a": {"sha256": "../x", "bytes": 3}}',
        "\udcff",
    ],
    ids=range(8),
)
def test_an_unreadable_record_is_not_ignored(folders: Path, server: Server, record: str) -> None:
    net(folders, server, Reply(CONTENT), hash=None)
    (folders / "cache").mkdir()
    (folders / "cache" / "recorded.json").write_bytes(record.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match="cannot be read: delete it"):
        data.fetch("net", **QUICK)


def test_a_record_that_cannot_be_written_is_said_so(
    folders: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    net(folders, server, Reply(CONTENT), hash=None)
    fresh = folders / "cache" / "recorded.json.new"
    fresh.mkdir(parents=True)
    with pytest.raises(DataError, match=r"cannot write 'net' to .*recorded\.json: Is a directory"):
        data.fetch("net", **QUICK)
    fresh.rmdir()
    with pytest.warns(UserWarning, match="is recorded in"):
        data.fetch("net", **QUICK)
    assert len(server.requests) == 1


def test_a_folder_in_a_files_place_is_said_so(folders: Path, server: Server) -> None:
    net(folders, server, Reply(CONTENT))
    (folders / "cache" / "nets" / "net.bin").mkdir(parents=True)
    with pytest.raises(DataError, match=r"to .*nets/net\.bin: Is a directory; choose"):
        data.fetch("net", **QUICK)


def test_a_mirrors_folder_comes_first(
    folders: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    net(folders, server, Reply(CONTENT))
    (folders / "mirror" / "nets").mkdir(parents=True)
    (folders / "mirror" / "nets" / "net.bin").write_bytes(CONTENT)
    monkeypatch.setenv("WSKIT_MIRROR", str(folders / "mirror"))
    assert data.fetch("net", **QUICK).read_bytes() == CONTENT
    assert server.requests == []


@pytest.mark.parametrize("wrong", [OTHER, OTHER[:1000]], ids=["content", "length"])
def test_another_packages_file_in_a_flat_mirror_is_passed_over(
    folders: Path, server: Server, monkeypatch: pytest.MonkeyPatch, wrong: bytes
) -> None:
    net(folders, server, Reply(CONTENT), Reply(status=404))
    (folders / "mirror").mkdir()
    (folders / "mirror" / "net.bin").write_bytes(wrong)
    monkeypatch.setenv("WSKIT_MIRROR", str(folders / "mirror"))
    path = data.fetch("net", **QUICK)
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 1
    path.unlink()
    expected = r"mirror/net\.bin: (it is not the file|the file has 1000 bytes).*404"
    with pytest.raises(DataError, match=expected):
        data.fetch("net", **QUICK)
    assert cached(folders) == []


def test_without_a_hash_a_flat_mirror_is_not_trusted(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(folders, resource(hash=None))
    (folders / "mirror").mkdir()
    (folders / "mirror" / "net.bin").write_bytes(OTHER)
    monkeypatch.setenv("WSKIT_MIRROR", str(folders / "mirror"))
    with pytest.raises(DataError, match=r"mirror/nets/net\.bin: there is no such file"):
        data.fetch("net", **QUICK | {"retries": 0})
    assert cached(folders) == []


def test_a_mirrors_address_comes_first(
    folders: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(folders, resource())
    server.serve("/course/net.bin", Reply(CONTENT))
    monkeypatch.setenv("WSKIT_MIRROR", server.url + "/course/")
    assert data.fetch("net", **QUICK).read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == ["/course/nets/net.bin", "/course/net.bin"]


def test_a_mirror_of_another_scheme_is_refused(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(folders, resource())
    monkeypatch.setenv("WSKIT_MIRROR", "ftp://example.org")
    with pytest.raises(DataError, match="neither a folder nor an http"):
        data.fetch("net", **QUICK)


def test_offline_nothing_is_asked_for(
    folders: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    net(folders, server, Reply(CONTENT))
    monkeypatch.setenv("WSKIT_OFFLINE", "1")
    with pytest.raises(DataError, match="WSKIT_OFFLINE is set: unset it to download, or set"):
        data.fetch("net", **QUICK)
    monkeypatch.setenv("WSKIT_MIRROR", server.url)
    with pytest.raises(DataError, match="WSKIT_OFFLINE is set"):
        data.fetch("net", **QUICK)
    assert server.requests == []
    monkeypatch.setenv("WSKIT_OFFLINE", "0")
    path = data.fetch("net", **QUICK)
    monkeypatch.setenv("WSKIT_OFFLINE", "1")
    assert data.fetch("net", **QUICK) == path


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
    monkeypatch.setenv("WSKIT_CACHE", str(folders / "student"))
    monkeypatch.setenv("WSKIT_MIRROR", str(folders / "mirror"))
    monkeypatch.setenv("WSKIT_OFFLINE", "1")
    assert data.fetch("net", **QUICK).read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_a_mirror_that_cannot_be_written_is_said_so(folders: Path, server: Server) -> None:
    net(folders, server, Reply(CONTENT))
    (folders / "mirror").write_bytes(b"a file, not a folder")
    with pytest.raises(DataError, match=r"cannot write .*choose another folder"):
        data.mirror(folders / "mirror", "net", progress=False)


def test_a_disk_without_room_is_found_before_the_download(folders: Path, server: Server) -> None:
    net(folders, server, Reply(CONTENT, length=10**18), bytes=10**18)
    expected = r"needs 10+ bytes more, but the disk of \S*/cache/nets/net\.bin has only \d+ free"
    with pytest.raises(DataError, match=expected):
        data.fetch("net", **QUICK)
    assert cached(folders) == []


def test_a_mirror_without_room_is_named(
    folders: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    net(folders, server, Reply(CONTENT))
    data.fetch("net", **QUICK)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match=r"disk of \S*/mirror/nets/net\.bin has only 1000 free"):
        data.mirror(folders / "mirror", "net", progress=False)
    assert list((folders / "mirror").iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_disk_that_fills_up_is_said_so(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    describe(folders, resource())
    (folders / "mirror" / "nets").mkdir(parents=True)
    (folders / "mirror" / "nets" / "net.bin").write_bytes(CONTENT)
    monkeypatch.setenv("WSKIT_MIRROR", str(folders / "mirror"))
    part(folders).parent.mkdir(parents=True)
    part(folders).with_name("net.bin.part.copy").symlink_to("/dev/full")  # no room for a byte
    with pytest.raises(DataError, match="No space left on device; make room, or choose another"):
        data.fetch("net", **QUICK)
    assert cached(folders) == []


def test_a_cache_that_cannot_be_written_is_said_so(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(folders, resource())
    (folders / "file").write_bytes(b"")
    monkeypatch.setenv("WSKIT_CACHE", str(folders / "file"))
    with pytest.raises(
        DataError, match=r"cannot be written .*set WSKIT_CACHE to a folder of yours"
    ):
        data.fetch("net", **QUICK)


def test_a_bar_is_drawn_for_large_files_only(
    folders: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    net(folders, server, Reply(CONTENT))
    data.fetch("net", **QUICK | {"progress": True}).unlink()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("wskit.data._cache._BAR_FROM", 1000)
    data.fetch("net", **QUICK | {"progress": True})
    assert "net: 100%" in capsys.readouterr().err


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


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


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
    assert not part(folders).exists()


def test_two_processes_download_once(folders: Path, server: Server) -> None:
    net(folders, server, Reply(CONTENT, pause=0.1))
    with another_process(folders) as process:
        wait_for(lambda: server.requests, "the first request")
        assert not (folders / "cache" / "nets").exists()
        assert data.fetch("net", **QUICK).read_bytes() == CONTENT
        assert process.wait() == 0
    assert len(server.requests) == 1


def test_a_wait_for_another_download_can_be_cancelled(folders: Path, server: Server) -> None:
    net(folders, server, Reply(CONTENT, pause=0.05))
    first = threading.Thread(target=lambda: data.fetch("net", **QUICK))
    first.start()
    wait_for(lambda: server.requests, "the first request")
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(DataError, match="was cancelled"):
        data.fetch("net", **QUICK | {"cancel": cancel})
    first.join()
    assert cached(folders) == ["nets/net.bin"]
    assert len(server.requests) == 1
