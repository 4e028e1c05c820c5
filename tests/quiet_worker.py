"""Imports all of wskit and makes its quick calls; prints what was asked of the network."""

import doctest
import importlib
import pkgutil
import socket
import sys
import tempfile
from pathlib import Path

ASKING = ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo")
asked: list[str] = []


def note(event: str, arguments: tuple[object, ...]) -> None:
    # As it is imported, urllib3 tries whether this machine has IPv6: with itself.
    if event in ASKING and not (event == "socket.bind" and arguments[1] == ("::1", 0)):
        asked.append(f"{event} {arguments[1:] if event != 'socket.getaddrinfo' else arguments}")


def imported() -> list[str]:
    import wskit

    names = [each.name for each in pkgutil.walk_packages(wskit.__path__, "wskit.")]
    for name in names:
        if name != "wskit.__main__":
            try:
                importlib.import_module(name)
            except ImportError as error:  # an extra that is not installed
                print("left out:", name, error)
    return names


def examples(names: list[str]) -> int:
    """Run all examples of the docstrings; return how many there are."""
    tried = 0
    for name in names:
        if name in sys.modules:
            tried += doctest.testmod(sys.modules[name]).attempted  # what they give is tested apart
    return tried


def panels_and_pages() -> None:
    import torch

    from wskit import __main__ as cli
    from wskit import checkpoints, report, widgets

    weights = {"a.weight": torch.randn(12, 8), "b.weight": torch.randn(9, 7)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.safetensors")
        checkpoints.save_weights(weights, path)
        with checkpoints.open_checkpoint(path) as found:
            report.write_report(report.examine(found), Path(folder, "page.html"))
        for panel in (widgets.EsdExplorer(weights), widgets.CheckpointPicker(modules={})):
            panel.close()
        for command in (["doctor"], ["data", "list"], ["copy-notebooks", f"{folder}/copies"]):
            cli.main(command)


if __name__ == "__main__":
    sys.addaudithook(note)
    names = imported()
    n_examples = examples(names)
    panels_and_pages()
    print("modules:", len(names), "examples:", n_examples)
    quiet = list(asked)
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("127.0.0.1", 9))
    assert len(asked) == len(quiet) + 1, "what is asked is noted"
    print("asked:", quiet)
