"""Voila, with one page and nothing else."""

import html
import secrets
import signal
import webbrowser
from pathlib import Path
from typing import Any

from jupyter_core.utils import run_sync
from jupyter_server.auth.identity import IdentityProvider
from tornado.ioloop import IOLoop
from tornado.web import HTTPError
from traitlets import Bool, Unicode
from traitlets.config import Config
from voila.app import Voila
from voila.shutdown_kernel_handler import VoilaShutdownKernelHandler
from voila.static_file_handler import AllowListFileHandler
from voila.tornado.handler import TornadoVoilaHandler

_TEMPLATE = Path(__file__).with_name("template")
_HOST = "127.0.0.1"
# What a page of ours needs of all that is installed for JupyterLab.
_EXTENSIONS = [
    "@jupyter-widgets/jupyterlab-manager",
    "@voila-dashboards/widgets-manager8",
    "anywidget",
]
# A browser asks nobody else, whatever the page says.
_POLICY = (
    "default-src 'self' 'unsafe-inline' data: blob:; "
    "object-src 'none'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)


class _TokenOnly(IdentityProvider):
    """The token is in the address; there is no page to log in."""

    def get_handlers(self) -> list[Any]:
        return []


class _Page(TornadoVoilaHandler):
    """The page: 403 without its token, 404 at every other address."""

    def get_login_url(self) -> str:
        raise HTTPError(403)

    def redirect_to_file(self, path: str) -> None:
        raise HTTPError(404)


class _Shutdown(VoilaShutdownKernelHandler):
    """What a page calls as it closes: by a beacon, which cannot carry Tornado's own mark."""

    def check_xsrf_cookie(self) -> None:
        if not self.check_origin():
            raise HTTPError(403)


_OURS = {TornadoVoilaHandler: _Page, VoilaShutdownKernelHandler: _Shutdown}


class _Server(Voila):
    """Voila for one notebook."""

    page_title = Unicode()
    with_browser = Bool(True)

    def setup_template_dirs(self) -> None:
        super().setup_template_dirs()
        self.template_paths.insert(0, str(_TEMPLATE))

    def init_handlers(self) -> list[Any]:
        return [
            (pattern, _OURS.get(handler, handler), *rest)
            for pattern, handler, *rest in super().init_handlers()
            if handler is not AllowListFileHandler  # files beside the notebook
        ]

    def listen(self) -> None:
        self.ioloop = IOLoop.current()
        for name in ("SIGINT", "SIGHUP"):  # Ctrl-C; the terminal's window is closed
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self._handle_signal_stop)
        super().listen()

    def stop(self) -> None:
        run_sync(self.kernel_manager.shutdown_all)(now=True)

    def launch_browser(self) -> None:
        """Say where the page is, and open it; called once the port is taken."""
        address = f"{self.connection_url}?token={self.token}"
        print(f"{self.page_title}: {address}\nIt is there until you press Ctrl-C.", flush=True)
        if self.with_browser:
            # By way of a file that only its owner can read: who sees the list of processes sees
            # what a browser is started with.
            opener = Path(self.root_dir, "open.html")
            opener.touch(mode=0o600)
            opener.write_text(
                f'<meta http-equiv="refresh" content="0;url={html.escape(address)}">', "utf-8"
            )
            webbrowser.open(opener.as_uri())


def serve(notebook: Path, *, title: str, port: int | None, browser: bool) -> None:
    """Serve the notebook until an interruption.

    Its kernels run in the folder where this process does, so that what is saved stays. Without a
    port, it is Voila's own, or another that is free.
    """
    voila = {
        "ip": _HOST,
        "token": secrets.token_hex(24),
        "identity_provider_class": _TokenOnly,
        "root_dir": str(notebook.parent),
        "connection_dir_root": str(notebook.parent),
        "config_file_paths": [],
        "tornado_settings": {
            "headers": {"Content-Security-Policy": _POLICY, "Referrer-Policy": "same-origin"},
            "allow_remote_access": False,  # under no other name than this machine's
            "allow_unauthenticated_access": False,
            "ws_ping_timeout": 30_000,  # Jupyter's own is longer than Tornado allows
        },
        "log_level": "ERROR",
    }
    if port is not None:
        voila |= {"port": port, "port_retries": 0}
    rendering = {
        "allow_template_override": "NO",
        "allow_theme_override": "NO",
        "extension_allowlist": _EXTENSIONS,
        "extension_denylist": [],
        "show_tracebacks": True,  # of which the template shows the sentence at the end
    }
    kernels = {
        "root_dir": str(Path.cwd()),
        "cull_idle_timeout": 300,  # of a page that was closed without a word; others end at once
        "cull_interval": 60,
    }
    parts = {
        "Voila": voila,
        "VoilaConfiguration": rendering,
        "MappingKernelManager": kernels,
        "KernelManager": {"transport_encryption": "auto"},
    }
    _Server.launch_instance(
        argv=[],
        config=Config(parts),
        notebook_path=str(notebook),
        page_title=title,
        with_browser=browser,
    )
