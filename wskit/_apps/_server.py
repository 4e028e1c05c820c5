"""Voila for one page: by its own options, and what its token and this machine need."""

import html
import secrets
import signal
import webbrowser
from pathlib import Path
from typing import Any

from tornado.ioloop import IOLoop
from tornado.web import HTTPError
from traitlets import Bool, Unicode
from traitlets.config import Config
from voila.app import Voila
from voila.shutdown_kernel_handler import VoilaShutdownKernelHandler

_TEMPLATE = Path(__file__).with_name("template")
# What a page of ours needs of all that is installed for JupyterLab.
_EXTENSIONS = [
    "@jupyter-widgets/jupyterlab-manager",
    "@voila-dashboards/widgets-manager8",
    "anywidget",
]
# A browser asks nobody else, whatever the page says.
_POLICY = (
    "default-src 'self' 'unsafe-inline' data: blob:; "
    "object-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)


class _Shutdown(VoilaShutdownKernelHandler):
    """What a page calls as it closes: by a beacon, which cannot carry Tornado's own mark."""

    def check_xsrf_cookie(self) -> None:
        if not self.check_origin():
            raise HTTPError(403)


class _Server(Voila):
    """Voila, which says its token and ends on Ctrl-C."""

    page_title = Unicode()
    with_browser = Bool(True)

    def setup_template_dirs(self) -> None:
        super().setup_template_dirs()
        self.template_paths.insert(0, str(_TEMPLATE))

    def init_handlers(self) -> list[Any]:
        return [
            (pattern, _Shutdown if handler is VoilaShutdownKernelHandler else handler, *rest)
            for pattern, handler, *rest in super().init_handlers()
        ]

    def listen(self) -> None:
        self.ioloop = IOLoop.current()
        for name in ("SIGINT", "SIGHUP"):  # Ctrl-C; the terminal's window is closed
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self._handle_signal_stop)
        super().listen()

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
    voila: dict[str, Any] = {
        "ip": "127.0.0.1",
        "token": secrets.token_hex(24),
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
    # Of a page that was closed without a word; others end at once.
    kernels: dict[str, Any] = {
        "root_dir": str(Path.cwd()),
        "cull_idle_timeout": 300,
        "cull_interval": 60,
    }
    parts = {
        "Voila": voila,
        "VoilaConfiguration": rendering,
        "MappingKernelManager": kernels | {"root_dir": str(Path.cwd())},
        "KernelManager": {"transport_encryption": "auto"},
    }
    _Server.launch_instance(
        argv=[],
        config=Config(parts),
        notebook_path=str(notebook),
        page_title=title,
        with_browser=browser,
    )
