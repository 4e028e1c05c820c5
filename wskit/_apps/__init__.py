"""``wskit app``: a panel as a page of its own, by Voila, on this machine alone.

The pages are ``pages/*.md``: what one sees, and the code. The code runs when the page is opened, in
a kernel that ends with it.
"""

from __future__ import annotations

import argparse
import json
import socket
import tempfile
from pathlib import Path

from wskit._apps._notebook import notebook
from wskit.errors import WskitError

TAKES = {"esd": "a checkpoint", "zoo": "a zoo's folder"}


def run(options: argparse.Namespace) -> int:
    """Serve a page until it is interrupted."""
    source = _found(options.name, options.source) if options.source is not None else None
    if options.port is not None:
        _check_port(options.port)
    try:
        from wskit._apps._server import serve
    except ImportError as error:
        raise WskitError(
            f"expected Voila, which is not installed ({error}): pip install 'wskit[app]'"
        ) from error
    page = notebook(options.name, source)
    with tempfile.TemporaryDirectory(prefix="wskit-app-") as folder:
        path = Path(folder, f"{options.name}.ipynb")
        path.write_text(json.dumps(page), encoding="utf-8")
        title = page["metadata"]["title"]
        serve(path, title=title, port=options.port, browser=not options.no_browser)
    return 0


def _found(name: str, source: Path) -> str:
    """Return the absolute path of the user's own file or folder."""
    if name not in TAKES:
        takers = " and ".join(f"{app} takes {what}" for app, what in TAKES.items())
        raise WskitError(f"the app {name} takes no file, got {str(source)!r}; {takers}")
    if not source.exists():
        raise WskitError(
            f"the app {name} takes {TAKES[name]}, and there is nothing at {str(source)!r}; "
            "check the path"
        )
    return str(source.resolve())


def _check_port(port: int) -> None:
    if not 1 <= port <= 65535:
        raise WskitError(f"--port takes a number from 1 to 65535, got {port}")
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except OSError as error:
        raise WskitError(
            f"port {port} cannot be used ({error.strerror}); choose another, or leave out --port"
        ) from error
