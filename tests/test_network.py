"""Nothing leaves the machine: who is asked for what, and who may ask."""

import argparse
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import http_server
import pytest
from data_site import CONTENT, QUICK, describe, prepare, resource
from http_server import Reply, Server

from wskit import __main__ as cli
from wskit import data
from wskit.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
WAIT = 300.0  # seconds: a busy machine is no reason to fail


def environment(home: Path) -> dict[str, str]:
    """No settings and no files of the user's, and nothing of a proxy."""
    folders = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    kept = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    chosen = {f"JUPYTER_{name}": str(home / "jupyter") for name in folders}
    own = {"IPYTHONDIR": str(home / "ipython"), "WSKIT_CACHE": str(home / "cache")}
    return kept | chosen | own | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}


# -- what is asked for ------------------------------------------------------------------------


def test_the_package_asks_nobody(tmp_path: Path) -> None:
    """To import all, to run all examples, to show panels and to write a page: no connection."""
    found = subprocess.run(
        [sys.executable, "-W", "ignore", str(ROOT / "tests" / "quiet_worker.py")],
        env=environment(tmp_path) | {"OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    counts = re.search(r"modules: (\d+) examples: (\d+)\n", found.stdout)
    assert counts is not None
    assert int(counts[1]) > 40
    assert int(counts[2]) > 100
    assert found.stdout.endswith("asked: []\n")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whom this process connects to, and the names that it looks up, from now on."""
    seen: list[str] = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def connecting(self: socket.socket, address: tuple[str, int]) -> None:
        seen.append(f"{address[0]}:{address[1]}")
        connect(self, address)

    def looking_up(host: str, *arguments: object, **options: object) -> object:
        if not re.fullmatch(r"[\d.]+", host):
            seen.append(host)
        return look_up(host, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", connecting)
    monkeypatch.setattr(socket, "getaddrinfo", looking_up)
    return seen


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    with http_server.running() as one, http_server.running() as other:
        yield [one, other]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return prepare(tmp_path, monkeypatch)


def place(server: Server) -> str:
    return urlsplit(server.url).netloc


def test_a_fetch_asks_the_addresses_of_its_manifest_in_their_order(
    folders: Path, servers: list[Server], asked: list[str]
) -> None:
    one, other = servers
    urls = [one.serve("/net.bin", Reply(status=404)), other.serve("/net.bin", Reply(CONTENT))]
    describe(folders, resource(**{"wskit:urls": urls}))
    data.catalog()
    assert asked == []
    assert data.fetch("net", **QUICK).read_bytes() == CONTENT
    assert asked == [place(one), place(other)]
    data.fetch("net", **QUICK)
    data.verify()
    assert asked == [place(one), place(other)], "what is there is not asked for again"


def test_a_mirror_that_has_the_file_is_asked_alone(
    folders: Path, servers: list[Server], asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, mirror = servers
    describe(folders, resource(**{"wskit:urls": [one.serve("/net.bin", Reply(CONTENT))]}))
    mirror.serve("/nets/net.bin", Reply(CONTENT))
    monkeypatch.setenv("WSKIT_MIRROR", mirror.url)
    assert data.fetch("net", **QUICK).read_bytes() == CONTENT
    assert asked == [place(mirror)]


def test_offline_nobody_is_asked(
    folders: Path, servers: list[Server], asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, mirror = servers
    urls = [one.serve("/net.bin", Reply(CONTENT)), "http://elsewhere.example/net.bin"]
    describe(folders, resource(**{"wskit:urls": urls}))
    mirror.serve("/nets/net.bin", Reply(CONTENT))
    monkeypatch.setenv("WSKIT_MIRROR", mirror.url)
    monkeypatch.setenv("WSKIT_OFFLINE", "1")
    for call in (data.fetch, lambda name, **_: data.mirror(folders / "out", name)):
        with pytest.raises(DataError, match="WSKIT_OFFLINE is set"):
            call("net", **QUICK)
    assert asked == []
    assert one.requests == mirror.requests == []


# -- who may ask ------------------------------------------------------------------------------


class Command:
    """A running ``wskit lab`` or ``wskit app``."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log
        end, found = time.monotonic() + WAIT, None
        while found is None:
            said = log.read_text("utf-8", "replace")
            assert process.poll() is None, f"it ended: {said[-2000:]}"
            assert time.monotonic() < end, f"it does not say its address: {said[-2000:]}"
            found = re.search(r"http://(?:localhost|127\.0\.0\.1):(\d+)/\S*\?token=(\w+)", said)
            time.sleep(0.2)
        self.origin, self.token = f"http://127.0.0.1:{found[1]}", found[2]

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str, str]:
        """Return status, address and content of an answer."""
        request = urllib.request.Request(self.origin + path, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=WAIT) as answer:
                return answer.status, answer.geturl(), answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.url, ""

    def status(self, path: str, method: str = "GET", **headers: str) -> int:
        return self.ask(path, method, **headers)[0]

    def listens_at(self) -> set[tuple[str, int]]:
        """Return the addresses at which it and its kernels listen, and for UDP are bound."""
        psutil = pytest.importorskip("psutil")
        found, us = set(), psutil.Process(self.process.pid)
        for process in [us, *us.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):  # it ended since
                for each in process.net_connections("inet"):
                    if each.laddr and (each.status == "LISTEN" or each.type == socket.SOCK_DGRAM):
                        found.add((each.laddr.ip, each.laddr.port))
        return found

    def listens_with_a_kernel(self) -> set[str]:
        """Wait until a kernel listens, at several ports; return the addresses of all."""
        end, ports = time.monotonic() + WAIT, self.listens_at()
        while len(ports) < 5:
            assert time.monotonic() < end, f"a kernel has several ports, found {ports}"
            time.sleep(0.5)
            ports = self.listens_at()
        return {address for address, _ in ports}


@contextmanager
def running(home: Path, *arguments: str) -> Iterator[Command]:
    log = home / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "wskit", *arguments, "--no-browser"],
            env=environment(home) | {"WSKIT_OFFLINE": "1"},
            cwd=home,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
        )
    try:
        yield Command(process, log)
    finally:
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    psutil = pytest.importorskip("psutil")
    with suppress(psutil.NoSuchProcess):  # it ended by itself
        for each in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                each.kill()
    process.kill()
    process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


FOREIGN = {"Host": "elsewhere.example"}


def test_lab_is_for_this_machine_and_its_token(tmp_path: Path) -> None:
    pytest.importorskip("jupyterlab")
    pytest.importorskip("psutil")
    with running(tmp_path, "lab", "--dir", "work", "--port", str(free_port())) as lab:
        key = {"Authorization": f"token {lab.token}"}
        assert len(lab.token) >= 32
        # Without the token: nothing but the page that asks for it.
        for path in ("/api/contents", "/api/kernels", "/api/terminals"):
            assert lab.status(path) == 403
            assert lab.status(path + "?token=wrong") == 403
        for path in ("/lab", "/files/00_start_here.ipynb"):
            assert urlsplit(lab.ask(path)[1]).path == "/login"
        assert lab.status("/api/kernels", "POST") == 403
        # A page of elsewhere, by a name that leads here, or by the reader's own browser.
        assert lab.status("/api/contents", **key, **FOREIGN) == 403
        cross = {"Origin": "http://elsewhere.example", "Cookie": "_xsrf=1"}
        assert lab.status("/api/kernels", "POST", **cross) in (403, 404)
        # With it, a kernel: which listens on this machine too.
        assert lab.status("/api/contents", **key) == 200
        assert lab.status("/api/kernels", "POST", **key) == 201
        assert lab.listens_with_a_kernel() <= {"127.0.0.1", "::1"}


def test_lab_asks_for_no_newer_version(tmp_path: Path) -> None:
    labapp = pytest.importorskip("jupyterlab.labapp")
    from jupyterlab import NeverCheckForUpdate

    app = labapp.LabApp()
    options = argparse.Namespace(no_browser=True, port=None, jupyter=[])
    app.parse_command_line(cli._lab_arguments(tmp_path, options))
    assert app.check_for_updates_class is NeverCheckForUpdate
    assert app.extension_manager == "readonly"  # else it asks for what could be installed


def test_app_is_for_this_machine_and_its_token(tmp_path: Path) -> None:
    pytest.importorskip("voila")
    pytest.importorskip("psutil")
    with running(tmp_path, "app", "esd", "--port", str(free_port())) as app:
        assert len(app.token) >= 32
        for path in ("/", "/?token=wrong"):
            assert urlsplit(app.ask(path)[1]).path == "/login"
        assert app.status(f"/?token={app.token}", **FOREIGN) == 403
        assert app.status("/", **FOREIGN) == 403
        status, _, page = app.ask(f"/?token={app.token}")
        assert status == 200
        assert re.search(r'"kernelId":\s*"[\w-]+"', page), "it has a kernel"
        assert app.listens_with_a_kernel() == {"127.0.0.1"}
