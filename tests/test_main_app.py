"""``wskit app`` without a browser: arguments, messages, and the notebooks that are served."""

import ast
import json
import socket
import sys
import tempfile
import webbrowser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from wskit import __main__ as cli
from wskit._apps._notebook import notebook
from wskit.checkpoints import save_weights
from wskit.errors import CheckpointError
from wskit.widgets import EsdExplorer, ZooExplorer
from wskit.zoo import Zoo, save_zoo


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What would have been served: the notebook and the options."""
    server = pytest.importorskip("wskit._apps._server", reason="pip install -e '.[app]'")
    calls: list[dict[str, Any]] = []

    def serve(path: Path, **options: Any) -> None:
        calls.append(options | {"path": path, "notebook": json.loads(path.read_text("utf-8"))})

    monkeypatch.setattr(server, "serve", serve)
    return calls


def code(page: dict[str, Any]) -> list[str]:
    return [cell["source"] for cell in page["cells"] if cell["cell_type"] == "code"]


def panel_of(page: dict[str, Any]) -> Any:
    """Run the code of a page, and return what its last line shows."""
    *lines, last = ast.parse("\n".join(code(page))).body
    assert isinstance(last, ast.Expr)
    names: dict[str, Any] = {}
    exec(compile(ast.Module(lines, []), "page", "exec"), names)
    return eval(compile(ast.Expression(last.value), "page", "eval"), names)


def message(capsys: Any, *arguments: str) -> str:
    """Return the one sentence with which the command refuses these arguments."""
    assert cli.main(["app", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return str(err)


@pytest.mark.parametrize("name", cli.APPS)
def test_each_app_has_a_page(name: str, served: list[dict[str, Any]]) -> None:
    assert cli.main(["app", name]) == 0
    (call,) = served
    assert call["title"] == call["notebook"]["metadata"]["title"] != ""
    assert call["port"] is None
    assert call["browser"] is True
    assert not call["path"].parent.exists()  # the folder is gone with the server
    first, *_, last = call["notebook"]["cells"]
    assert first["source"].startswith(f"# {call['title']}\n\n")
    assert "**A goal:**" in first["source"]
    assert "`wskit lab` opens it" in last["source"]
    for source in code(call["notebook"]):
        assert source.startswith("# "), "what is shown while one waits"
        assert "SOURCE" not in source
        assert len(source.splitlines()) <= 35
        compile(source, name, "exec")


@pytest.mark.parametrize("name", cli.APPS)
def test_the_tutorial_of_a_page_exists(name: str) -> None:
    tutorial = notebook(name)["cells"][-1]["source"].split("**")[1]
    assert (Path(__file__).parents[1] / "notebooks" / f"{tutorial}.ipynb").exists()


def test_options(served: list[dict[str, Any]]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert cli.main(["app", "swa", "--no-browser", "--port", str(port)]) == 0
    assert (served[0]["port"], served[0]["browser"]) == (port, False)


def test_a_checkpoint_of_ones_own(tmp_path: Path, served: list[dict[str, Any]]) -> None:
    path = tmp_path / 'it\'s\n``` "mine" {0}.safetensors'
    save_weights({"fc.weight": torch.eye(30)[:, :20] + 0.1}, path)
    assert cli.main(["app", "esd", str(path)]) == 0
    assert repr(str(path)) in code(served[0]["notebook"])[-1]
    panel = panel_of(served[0]["notebook"])
    assert isinstance(panel, EsdExplorer)
    assert panel.layer == "fc.weight"
    panel.close()
    path.write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match="mine"):
        panel_of(served[0]["notebook"])


def test_a_path_is_known_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: list[dict[str, Any]]
) -> None:
    save_weights({"fc.weight": torch.eye(3)}, tmp_path / "net.safetensors")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["app", "esd", "net.safetensors"]) == 0
    assert repr(str(tmp_path / "net.safetensors")) in code(served[0]["notebook"])[-1]


def test_a_zoo_of_ones_own(tmp_path: Path, served: list[dict[str, Any]]) -> None:
    draw = torch.Generator().manual_seed(0)
    records = pd.DataFrame({"run": range(6), "epoch": 1.0, "status": "trained"})
    records["test_accuracy"] = [0.1, 0.3, 0.4, 0.5, 0.7, 0.9]
    weights = {"fc.weight": torch.randn(6, 4, 3, generator=draw)}
    save_zoo(Zoo(weights, records), tmp_path / "zoo")
    assert cli.main(["app", "zoo", str(tmp_path / "zoo")]) == 0
    panel = panel_of(served[0]["notebook"])
    assert isinstance(panel, ZooExplorer)
    assert len(panel.zoo) == 6
    panel.close()


def test_nothing_is_there(tmp_path: Path, capsys: Any) -> None:
    err = message(capsys, "esd", str(tmp_path / "net.pt"))
    assert err.startswith("wskit: the app esd takes a checkpoint, and there is nothing at ")
    assert err.endswith("net.pt'; check the path\n")


def test_an_app_that_takes_no_file(capsys: Any) -> None:
    assert message(capsys, "soups", "a.pt") == (
        "wskit: the app soups takes no file, got 'a.pt'; "
        "esd takes a checkpoint and zoo takes a zoo's folder\n"
    )


@pytest.mark.parametrize("port", ["0", "-1", "65536"])
def test_no_such_port(port: str, capsys: Any) -> None:
    err = message(capsys, "esd", f"--port={port}")
    assert err == f"wskit: --port takes a number from 1 to 65535, got {port}\n"


def test_a_port_that_is_taken(capsys: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        err = message(capsys, "esd", "--port", str(port))
    assert err.startswith(f"wskit: port {port} cannot be used (Address already in use); choose")


@pytest.mark.parametrize("arguments", [[], ["all"], ["esd", "a", "b"], ["esd", "--port", "x"]])
def test_wrong_usage(arguments: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["app", *arguments])
    assert stop.value.code == 2
    assert "usage: wskit" in capsys.readouterr().err


def test_the_browser_is_opened_by_a_file_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    server = pytest.importorskip("wskit._apps._server", reason="pip install -e '.[app]'")
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    place = {"ip": "127.0.0.1", "port": 8877, "root_dir": str(tmp_path)}
    server._Server(**place, token="secret", page_title="A title").launch_browser()
    address = "http://127.0.0.1:8877/?token=secret"
    assert capsys.readouterr().out.startswith(f"A title: {address}\n")
    (file,) = tmp_path.iterdir()
    assert opened == [file.as_uri()]
    assert address in file.read_text("utf-8")
    assert file.stat().st_mode & 0o077 == 0
    server._Server(**place, with_browser=False).launch_browser()
    assert len(opened) == 1


def test_without_voila(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delitem(sys.modules, "wskit._apps._server", raising=False)
    monkeypatch.setitem(sys.modules, "voila.app", None)
    err = message(capsys, "esd")
    assert err.startswith("wskit: expected Voila, which is not installed (")
    assert err.endswith("): pip install 'wskit[app]'\n")
    assert list(tmp_path.iterdir()) == []
