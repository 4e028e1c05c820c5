"""``wskit app`` as a user starts it, and what it leaves behind when it is interrupted."""

import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from lab_kit import ROOT, WAIT, _environment


@dataclass
class App:
    """A running page."""

    address: str  # with the token
    server: subprocess.Popen
    folder: Path  # where it was started
    temporary: Path  # where it may make temporary files, and nobody else does
    requests: list = field(default_factory=list)  # addresses that the page asked for

    @property
    def origin(self):
        return "{0.scheme}://{0.netloc}".format(urlsplit(self.address))

    def ask(self, path="/", **headers):
        """The HTTP status of a request without the token, and the path to which it leads."""
        request = urllib.request.Request(self.origin + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=WAIT / 1000) as answer:
                return answer.status, urlsplit(answer.geturl()).path
        except urllib.error.HTTPError as error:
            return error.code, urlsplit(error.url).path

    def kernels(self):
        """Process numbers of its kernels."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            state, parent = _state(folder.name)
            if parent == self.server.pid and state != "Z":
                command = (folder / "cmdline").read_bytes().split(b"\0")
                found += [int(folder.name)] if b"ipykernel_launcher" in command else []
        return found

    def interrupt(self):
        """Press Ctrl-C; return the exit status, and the kernels that outlive it."""
        kernels = self.kernels()
        self.server.send_signal(signal.SIGINT)
        status = self.server.wait(WAIT / 1000)
        return status, [pid for pid in kernels if _state(pid)[0] not in ("", "Z")]


def _state(pid):
    """The state and the parent of a process; empty and 0 if there is none."""
    try:
        after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0
    return after[0], int(after[1])


@contextmanager
def running_app(home, *arguments):
    """Run ``wskit app`` with settings and temporary files of its own in the folder `home`."""
    folder, temporary = home / "work", home / "tmp"
    folder.mkdir()
    temporary.mkdir()
    log = (home / "app.log").open("w+")
    server = subprocess.Popen(
        [sys.executable, "-m", "wskit", "app", *map(str, arguments), "--no-browser"],
        env=_environment(home) | {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)},
        cwd=folder,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        end, address = time.monotonic() + WAIT / 1000, None
        while address is None:
            log.seek(0)
            said = log.read()
            assert server.poll() is None, f"it ended: {said[-2000:]}"
            assert time.monotonic() < end, f"it does not say its address: {said[-2000:]}"
            address = re.search(r"http://\S+", said)
            time.sleep(0.1)
        yield App(address[0], server, folder, temporary)
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()
        log.close()


def watch(page, app):
    """Note what the page asks for, by HTTP and by websocket."""
    page.on("request", lambda request: app.requests.append(request.url))
    page.on("websocket", lambda socket: app.requests.append(socket.url))


def elsewhere(app):
    """What was asked of anyone but the app."""
    ours = (app.origin + "/", app.origin.replace("http:", "ws:") + "/", "data:", "blob:")
    return [url for url in app.requests if not url.startswith(ours) and url != "about:blank"]
