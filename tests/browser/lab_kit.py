"""JupyterLab on 127.0.0.1, and what a test does with a notebook in it."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import nbformat

ROOT = Path(__file__).resolve().parents[2]
# What CI keeps.
SCREENSHOTS = Path(os.environ.get("CI_OUTPUT") or Path(__file__).with_name("screenshots"))
WAIT = 180_000  # milliseconds, for anything: a busy machine is no reason to fail


_SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    # Else cells that are off the screen are not in the page.
    "notebook-extension/tracker": {"windowingMode": "none"},
}


@dataclass
class Lab:
    """A running JupyterLab."""

    url: str
    token: str
    folder: Path  # what it serves

    def ask(self, path, method="GET"):
        request = urllib.request.Request(
            f"{self.url}/api/{path}",
            headers={"Authorization": f"token {self.token}"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def write(self, name, *cells):
        """Write a notebook of these code cells."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(notebook, self.folder / name)


@contextmanager
def running_lab(home):
    """Run JupyterLab with settings, kernels and files of its own in the folder `home`."""
    folder = home / "work"
    folder.mkdir()
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        shutil.copy(notebook, folder)
    for plugin, settings in _SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings))
    lab = Lab(f"http://127.0.0.1:{_free_port()}", secrets.token_hex(16), folder)
    log = (home / "lab.log").open("w+")
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
            "--ServerApp.ip=127.0.0.1",
            f"--ServerApp.port={lab.url.rpartition(':')[2]}",
            "--ServerApp.port_retries=0",
            f"--IdentityProvider.token={lab.token}",
            f"--ServerApp.root_dir={folder}",
            "--LabApp.extension_manager=readonly",
        ],
        env=_environment(home),
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        _wait_for(lab, server, log)
        yield lab
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log.close()


def _environment(home):
    environment = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}
    folders = {
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython",
        "WSKIT_CACHE": "cache",
    }
    environment |= {key: str(home / name) for key, name in folders.items()}
    return environment | {"OMP_NUM_THREADS": "1", "WSKIT_OFFLINE": "1"}


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(lab, server, log):
    end = time.monotonic() + 180
    while True:
        try:
            lab.ask("status")
            return
        except (urllib.error.URLError, OSError):
            log.seek(0)
            assert server.poll() is None, f"JupyterLab ended: {log.read()[-2000:]}"
            assert time.monotonic() < end, f"JupyterLab does not answer: {log.read()[-2000:]}"
            time.sleep(0.2)


def run_all(page, lab, name):
    """Open a notebook, run all its cells, and return when the kernel has done them."""
    page.goto(f"{lab.url}/doc/tree/{quote(name)}?token={lab.token}&reset")
    page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for()
    # The page says "idle" before there is a kernel; running then would ask for one.
    poll(page, lambda: kernel_state(lab, name) == "idle", "the kernel to start")
    page.locator('.jp-KernelName:has-text("Python 3")').wait_for()
    page.locator(".jp-Cell").first.click()
    page.locator('li.lm-MenuBar-item:has-text("Run")').click()
    page.locator('li.lm-Menu-item[data-command="runmenu:run-all"]').click()
    busy = page.locator('.jp-InputPrompt:has-text("[*]")')
    poll(page, lambda: kernel_state(lab, name) == "busy" or busy.count(), "the run to begin")
    still = 0

    def done():
        nonlocal still
        still = 0 if kernel_state(lab, name) != "idle" or busy.count() else still + 1
        return still > 2  # between two cells, too, the kernel is idle

    poll(page, done, "all cells to have run", timeout=10 * WAIT, every=500)


def kernel_state(lab, name):
    sessions = [s for s in lab.ask("sessions") if s["path"] == name]
    return sessions[0]["kernel"]["execution_state"] if sessions else None


def shut_down(lab):
    """End all kernels."""
    for session in lab.ask("sessions"):
        lab.ask(f"sessions/{session['id']}", "DELETE")


def poll(page, condition, what, *, timeout=WAIT, every=100):
    """Return the condition's value once it holds; times are in milliseconds."""
    end = time.monotonic() + timeout / 1000
    while not (value := condition()):
        assert time.monotonic() < end, f"waited in vain for {what}"
        page.wait_for_timeout(every)
    return value


def control(panel, role, name):
    """A control of a panel."""
    return panel.get_by_role(role, name=name, exact=True)


def says(page, panel, text):
    """Wait until the panel's status says so, in one sentence."""
    status = panel.get_by_role("status")
    poll(page, lambda: text in status.inner_text(), f"{text!r}")
    assert "\n" not in status.inner_text().strip()


def shows(page, panel, place, *words):
    """Wait until the description of the panel's picture number `place` has these words in it."""

    def found():
        described = panel.locator("img").nth(place).get_attribute("alt")
        return all(word in described for word in words)

    poll(page, found, " and ".join(words))


def cut_off(page, panel, width):
    """Return what reaches beyond the panel's right edge in a window of that width."""
    before = page.viewport_size
    page.set_viewport_size({"width": width, "height": 1000})
    page.wait_for_timeout(500)
    outside = panel.evaluate(
        """panel => {
            const right = panel.getBoundingClientRect().right + 1;
            return [...panel.querySelectorAll('img, select, button, input, .widget-box')]
                .filter(part => part.getBoundingClientRect().right > right)
                .map(part => part.outerHTML.slice(0, 80));
        }"""
    )
    page.set_viewport_size(before)
    return outside
