"""The command line, as a user and as a shell script see it."""

import ast
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import webbrowser
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pandas as pd
import pytest
import torch
from notebook_kit import ROOT

import wskit
from wskit import __main__ as cli
from wskit import course, data
from wskit._apps import APPS, make_page
from wskit.checkpoints import save_weights
from wskit.errors import CheckpointError
from wskit.widgets import EsdExplorer, ZooExplorer
from wskit.zoo import Zoo, save_zoo


def refuse(capsys: Any, *arguments: str) -> str:
    """Return the one sentence with which the command refuses these arguments."""
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"wskit: [^\n]*\n", err)
    return str(err)


def test_version(capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"wskit {wskit.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        *([], ["labs"], ["data"], ["lab", "--port", "many"], ["app"], ["app", "all"]),
        *(["app", "esd", "a", "b"], ["app", "esd", "--port", "70000"]),
        *(["report", "a", "-o", "b", "--device", "abacus"],),
        *(["report", "a", "-o", "b", "--conv", "none"], ["soup", "a", "-o", "b", "--method", "no"]),
    ],
)
def test_wrong_usage(arguments: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert "usage: wskit" in capsys.readouterr().err


def test_an_interruption_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(course, "copy_notebooks", interrupt)
    assert cli.main(["copy-notebooks", "x"]) == 130


def test_the_parser_loads_nothing_heavy() -> None:
    """What a command needs is loaded when it is chosen: ``wskit --help`` is there at once."""
    code = (
        "import sys; from wskit import __main__; __main__.make_parser('lab')\n"
        "print([name for name in ('torch', 'pandas', 'jupyterlab') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


# -- lab and copies --------------------------------------------------------------------------


@pytest.fixture
def tutorials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout's notebooks folder with an empty first tutorial."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    empty = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (folder / "00_start_here.ipynb").write_text(json.dumps(empty), encoding="utf-8")
    (folder / "build.py").write_text("not for a learner", encoding="utf-8")
    monkeypatch.setattr(course, "notebooks_folder", lambda: folder)
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "/mine")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The arguments with which JupyterLab would have been started."""
    from jupyterlab.labapp import LabApp

    calls: list[Sequence[str]] = []
    monkeypatch.setattr(LabApp, "launch_instance", lambda *, argv: calls.append(argv))
    return calls


def test_copies(tutorials: Path, tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["student-copies", "class"]) == 0
    assert cli.main(["copy-notebooks", "mine"]) == 0
    assert capsys.readouterr().out == (
        "class: 1 new, 0 brought up to date\nmine: 1 new, 0 brought up to date\n"
    )
    (tmp_path / "mine" / "00_start_here.ipynb").write_text("mine", encoding="utf-8")
    (tutorials / "00_start_here.ipynb").write_text('{"cells": [], "newer": 1}', encoding="utf-8")
    assert cli.main(["copy-notebooks", "mine"]) == 0
    assert "left as you edited them: 00_start_here.ipynb\n" in capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["--dir", "elsewhere"]])
def test_lab_opens_copies(
    tutorials: Path, launched: list[Sequence[str]], options: list[str], capsys: Any
) -> None:
    before = {path: path.read_bytes() for path in tutorials.iterdir()}
    copies = tutorials.parent / (options[-1] if options else "my-notebooks")
    assert cli.main(["lab", *options, "--no-browser", "--port", "9999", "--", "--debug"]) == 0
    assert [p.name for p in copies.glob("[!.]*")] == ["00_start_here.ipynb"], "and no build.py"
    (copies / "00_start_here.ipynb").write_text("my answers", encoding="utf-8")
    assert cli.main(["lab", *options]) == 0
    assert (copies / "00_start_here.ipynb").read_text(encoding="utf-8") == "my answers"
    assert before == {path: path.read_bytes() for path in tutorials.iterdir()}
    first, second = launched
    assert f"--ServerApp.root_dir={copies}" in first
    assert "--LabApp.default_url=/lab/tree/00_start_here.ipynb" in first
    assert {"--ServerApp.port=9999", "--no-browser"} <= set(first)
    assert first[-1] == "--debug"
    assert "--no-browser" not in second


def test_lab_asks_about_no_news(tutorials: Path, launched: list[Sequence[str]]) -> None:
    from jupyterlab_server.config import get_page_config

    assert cli.main(["lab"]) == 0
    assert os.environ["JUPYTER_CONFIG_PATH"].endswith(f"{os.pathsep}/mine")
    disabled = get_page_config([])["disabledExtensions"]
    assert "@jupyterlab/apputils-extension:announcements" in disabled


@pytest.mark.parametrize(("user", "allowed"), [(0, True), (1000, False)])
def test_root_is_allowed(
    tutorials: Path, launched: list[Sequence[str]], user: int, allowed: bool, monkeypatch: Any
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert cli.main(["lab"]) == 0
    assert ("--allow-root" in launched[0]) is allowed


@pytest.mark.parametrize(
    ("command", "module", "extra"),
    [("lab", "jupyterlab.labapp", "lab"), ("app esd", "voila.app", "app")],
)
def test_what_is_not_installed(
    command: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.delitem(sys.modules, "wskit._apps._server", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    assert refuse(capsys, *command.split()).endswith(f"pip install 'wskit[{extra}]'\n")


def test_lab_really_starts(tutorials: Path, tmp_path: Path) -> None:
    """From a wheel: on the first screen are the tutorials alone."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    site = tmp_path / "site"
    shutil.copytree(ROOT / "wskit", site / "wskit", ignore=shutil.ignore_patterns("__pycache__"))
    tutorials.rename(site / "wskit" / "_notebooks")
    folders = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    environment = {f"JUPYTER_{name}": str(tmp_path / "jupyter") for name in folders}
    command = [sys.executable, "-m", "wskit", "lab", "--no-browser", "--port", str(port)]
    with (tmp_path / "log").open("w+") as log:
        server = subprocess.Popen(
            [*command, "--", "--IdentityProvider.token=secret"],
            cwd=tmp_path,
            env={**os.environ, **environment, "PYTHONPATH": str(site)},
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
        try:
            page = _wait_for(f"http://127.0.0.1:{port}/?token=secret", server)
            assert page.split("?")[0].endswith("/lab/tree/00_start_here.ipynb")
            url = f"http://127.0.0.1:{port}/api/contents?token=secret"
            with urllib.request.urlopen(url, timeout=180) as answer:
                names = [entry["name"] for entry in json.load(answer)["content"]]
            assert names == ["00_start_here.ipynb"]
            assert (tmp_path / "my-notebooks" / "00_start_here.ipynb").exists()
        except BaseException:
            log.seek(0)
            print(log.read())
            raise
        finally:
            server.kill()  # it has no kernels, and a busy machine may be slow to say goodbye
            server.wait()


def _wait_for(url: str, server: subprocess.Popen[bytes], seconds: float = 300) -> str:
    """Return the address that `url` leads to, once the server answers."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return str(answer.geturl())
        except (URLError, OSError):
            time.sleep(0.3)
    raise AssertionError(f"no answer from {url}")


# -- app -------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("name", APPS)
def test_each_app_has_a_page(name: str, served: list[dict[str, Any]]) -> None:
    assert cli.main(["app", name, "--no-browser", "--port", "8999"]) == 0
    (call,) = served
    page = call["notebook"]
    assert call["title"] == page["metadata"]["title"] != ""
    assert (call["port"], call["browser"]) == (8999, False)
    assert not call["path"].parent.exists()  # the folder is gone with the server
    first, *_, last = page["cells"]
    assert first["source"].startswith(f"# {call['title']}\n\n")
    assert "**A goal:**" in first["source"]
    assert "`wskit lab` opens it" in last["source"]
    assert (ROOT / "notebooks" / f"{last['source'].split('**')[1]}.ipynb").exists()
    for source in code(page):
        assert source.startswith("# "), "what is shown while one waits"
        assert "SOURCE" not in source
        assert len(source.splitlines()) <= 35
        compile(source, name, "exec")


def test_a_checkpoint_of_ones_own(
    tmp_path: Path, served: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'it\'s\n``` "mine" {0}.safetensors'
    save_weights({"fc.weight": torch.eye(30)[:, :20] + 0.1}, path)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["app", "esd", path.name]) == 0
    assert repr(str(path)) in code(served[0]["notebook"])[-1], "it is known from any folder"
    panel = panel_of(served[0]["notebook"])
    assert isinstance(panel, EsdExplorer)
    assert panel.layer == "fc.weight"
    panel.close()
    path.write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match="mine"):
        panel_of(served[0]["notebook"])


def test_a_zoo_of_ones_own(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    records = pd.DataFrame({"run": range(6), "epoch": 1.0, "status": "trained"})
    records["test_accuracy"] = [0.1, 0.3, 0.4, 0.5, 0.7, 0.9]
    weights = {"fc.weight": torch.randn(6, 4, 3, generator=draw)}
    save_zoo(Zoo(weights, records), tmp_path / "zoo.safetensors")
    panel = panel_of(make_page("zoo", str(tmp_path / "zoo.safetensors")))
    assert isinstance(panel, ZooExplorer)
    assert len(panel.zoo) == 6
    panel.close()


def test_an_app_that_takes_no_file(capsys: Any) -> None:
    assert refuse(capsys, "app", "soups", "a.pt") == (
        "wskit: the app soups takes no file, got 'a.pt'; "
        "esd takes a checkpoint and zoo takes a zoo's folder\n"
    )


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


# -- report ----------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of weights in the current folder."""
    monkeypatch.chdir(tmp_path)
    weights = {"fc.weight": torch.randn(70, 60, generator=torch.Generator().manual_seed(0))}
    return save_weights(weights, tmp_path / "model.safetensors")


def test_report_of_a_file_with_a_folder(model: Path, capsys: Any) -> None:
    folder = save_weights({"fc.weight": torch.ones(70, 60)}, "folder")
    for conv in ("slices", "unfold"):  # the second time, the first page is replaced
        arguments = [model.name, "-o", "r.html", "--with", str(folder), "--conv", conv]
        assert cli.main(["report", *arguments]) == 0
        assert capsys.readouterr() == ("r.html\n", "")
        text = Path("r.html").read_text(encoding="utf-8")
        assert "<h1>model.safetensors</h1>" in text
        assert f"conv=&#39;{conv}&#39;" in text
        assert "1 of 1 tensor can be compared with folder." in text


def test_report_of_a_name_of_the_data(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(data, "fetch", lambda name, **_: asked.append(name) or model)
    assert cli.main(["report", "cifar-resnet20", "-o", "r.html"]) == 0
    assert asked == ["cifar-resnet20"]
    capsys.readouterr()
    Path("cifar-resnet20").mkdir()  # what lies here comes first
    assert "expected a folder of weights" in refuse(
        capsys, "report", "cifar-resnet20", "-o", "r.html"
    )
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("none -o r.html", "none: expected weights"),
        ("mnist-test-images -o r.html", "mnist-test-images: expected weights"),
        ("model.safetensors -o r.html --with no", "no: expected weights"),
        ("unread.pt -o mine.html", "expected a new name or an earlier report"),
        ("unread.pt -o no/r.html", "make it first"),
    ],
)
def test_report_refuses(arguments: str, message: str, model: Path, capsys: Any) -> None:
    """The target is looked at before the work."""
    Path("mine.html").write_text("mine")
    assert message in refuse(capsys, "report", *arguments.split())
    assert not Path("r.html").exists()
    assert Path("mine.html").read_text() == "mine"


# -- doctor ----------------------------------------------------------------------------------


def test_doctor(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    real = metadata.version

    def pretend(distribution: str) -> str:
        if distribution == "voila":
            raise metadata.PackageNotFoundError(distribution)
        return "7.2.0" if distribution == "ipykernel" else real(distribution)

    monkeypatch.setattr(metadata, "version", pretend)
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"wskit {wskit.__version__} in ")
    assert f"jupyterlab: {real('jupyterlab')}" in lines
    assert "voila: none; pip install 'wskit[app]'" in lines
    assert lines[-1].startswith("ipykernel 7.2.0 draws panels in a second thread")
    assert any(line.startswith(f"cache: {data.cache_folder()}, ") for line in lines)


# -- data ------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WSKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WSKIT_OFFLINE", "1")
    monkeypatch.delenv("WSKIT_MIRROR", raising=False)
    return tmp_path / "cache"


def test_data_list(cache: Path, capsys: Any) -> None:
    assert cli.main(["data", "list"]) == 0
    rows = [row.split() for row in capsys.readouterr().out.split("\n")]
    assert rows[0] == ["package", "name", "MB", "cached", "licence"]
    assert ["cifar-resnets", "cifar-resnet20", "1.1", "False", "BSD-2-Clause"] in rows


@pytest.mark.parametrize("words", ["fetch cifar-resnet20", "fetch no-such-file", "mirror room"])
def test_data_errors_are_one_line(words: str, cache: Path, capsys: Any) -> None:
    refuse(capsys, "data", *words.split())


def test_data_verify(cache: Path, capsys: Any) -> None:
    assert cli.main(["data", "verify"]) == 0
    assert capsys.readouterr().out == f"no files in {cache}\n"
    assert cli.main(["data", "verify", "cifar-resnet20"]) == 1
    assert "missing" in capsys.readouterr().out


def test_data_arguments_arrive(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    monkeypatch.setattr(data, "fetch", lambda name: Path("cache") / name)
    monkeypatch.setattr(data, "mirror", lambda folder, *names: [folder / name for name in names])
    assert cli.main(["data", "fetch", "mnist"]) == 0
    assert cli.main(["data", "mirror", str(tmp_path), "a", "b"]) == 0
    places = [Path("cache", "mnist"), tmp_path / "a", tmp_path / "b"]
    assert capsys.readouterr().out.split() == list(map(str, places))


def test_warnings_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def first_time(name: str) -> Path:
        import warnings

        warnings.simplefilter("always")
        warnings.warn(f"the hash of {name} is recorded", stacklevel=2)
        return Path(name)

    monkeypatch.setattr(data, "fetch", first_time)
    assert cli.main(["data", "fetch", "zoo"]) == 0
    assert capsys.readouterr().err == "wskit: the hash of zoo is recorded\n"


def test_a_closed_pipe_is_no_traceback() -> None:
    """``wskit data list | head -1``; the list is longer than what a reader of one line takes."""
    command = f"{sys.executable} -u -m wskit data list | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout != ""
    assert done.stderr == ""
