"""The command line, as a user and as a shell script see it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
from notebook_kit import ROOT

import wskit
from wskit import __main__ as cli
from wskit import course, data


@pytest.fixture
def tutorials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout's notebooks folder with an empty first tutorial."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    empty = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (folder / "00_start_here.ipynb").write_text(json.dumps(empty), encoding="utf-8")
    monkeypatch.setattr(course, "notebooks_folder", lambda: folder)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The arguments with which JupyterLab would have been started."""
    from jupyterlab.labapp import LabApp

    calls: list[Sequence[str]] = []
    monkeypatch.setattr(LabApp, "launch_instance", lambda *, argv: calls.append(argv))
    return calls


def test_version(capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"wskit {wskit.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["labs"], ["data"], ["lab", "--port", "many"]])
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


def test_copies(tutorials: Path, tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["student-copies", "class"]) == 0
    assert cli.main(["copy-notebooks", "mine"]) == 0
    assert capsys.readouterr().out == "class: 1 new\nmine: 1 new\n"
    (tmp_path / "mine" / "00_start_here.ipynb").write_text("{}", encoding="utf-8")
    assert cli.main(["copy-notebooks", "mine"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("wskit: expected no changed tutorial in mine, found 00_start_here.ipynb")
    assert err.count("\n") == 1


def test_lab_in_a_checkout(tutorials: Path, launched: list[Sequence[str]]) -> None:
    assert cli.main(["lab", "--no-browser", "--port", "9999", "--", "--debug"]) == 0
    (arguments,) = launched
    assert f"--ServerApp.root_dir={tutorials}" in arguments
    assert "--LabApp.default_url=/lab/tree/00_start_here.ipynb" in arguments
    assert "--ServerApp.port=9999" in arguments
    assert "--no-browser" in arguments
    assert arguments[-1] == "--debug"
    assert not (tutorials.parent / "wskit-notebooks").exists()


@pytest.mark.parametrize("options", [[], ["--dir", "elsewhere"]])
def test_lab_from_a_wheel_works_in_copies(
    tutorials: Path,
    launched: list[Sequence[str]],
    options: list[str],
    monkeypatch: Any,
    capsys: Any,
) -> None:
    wheel = tutorials.rename(tutorials.with_name("_notebooks"))
    monkeypatch.setattr(course, "notebooks_folder", lambda: wheel)
    copies = wheel.parent / (options[-1] if options else "wskit-notebooks")
    assert cli.main(["lab", *options]) == 0
    (copies / "00_start_here.ipynb").write_text("my answers", encoding="utf-8")
    capsys.readouterr()
    assert cli.main(["lab", *options]) == 0
    assert "left as you changed them: 00_start_here.ipynb" in capsys.readouterr().out
    assert (copies / "00_start_here.ipynb").read_text(encoding="utf-8") == "my answers"
    assert all(f"--ServerApp.root_dir={copies}" in arguments for arguments in launched)
    assert "--no-browser" not in launched[0]


@pytest.mark.parametrize(("user", "allowed"), [(0, True), (1000, False)])
def test_root_is_allowed(
    tutorials: Path, launched: list[Sequence[str]], user: int, allowed: bool, monkeypatch: Any
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert cli.main(["lab"]) == 0
    assert ("--allow-root" in launched[0]) is allowed


def test_lab_without_jupyterlab(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "jupyterlab.labapp", None)
    assert cli.main(["lab"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("wskit: expected JupyterLab, which is not installed")
    assert err.endswith("pip install 'wskit[lab]'\n")


def test_lab_really_starts(tutorials: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folders = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    environment = {f"JUPYTER_{name}": str(tmp_path / "jupyter") for name in folders}
    command = [sys.executable, "-m", "wskit", "lab", "--no-browser", "--port", str(port)]
    command += ["--dir", "work", "--", "--IdentityProvider.token=secret"]
    with (tmp_path / "log").open("w+") as log:
        server = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, **environment, "PYTHONPATH": str(tutorials_site(tutorials))},
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
        try:
            page = _wait_for(f"http://127.0.0.1:{port}/?token=secret", server)
            assert page.split("?")[0].endswith("/lab/tree/00_start_here.ipynb")
            url = f"http://127.0.0.1:{port}/api/contents?token=secret"
            with urllib.request.urlopen(url, timeout=10) as answer:
                names = [entry["name"] for entry in json.load(answer)["content"]]
            assert names == ["00_start_here.ipynb"]
        except BaseException:
            log.seek(0)
            print(log.read())
            raise
        finally:
            server.kill()  # it has no kernels, and a busy machine may be slow to say goodbye
            server.wait()


def tutorials_site(tutorials: Path) -> Path:
    """Make a folder in which wskit is as a wheel installs it, with these tutorials."""
    site = tutorials.parent / "site"
    site.mkdir()
    package = site / "wskit"
    package.mkdir()
    for path in (ROOT / "wskit").iterdir():
        if path.suffix == ".py":
            (package / path.name).write_bytes(path.read_bytes())
        elif path.name.startswith("_") and path.name != "__pycache__":  # the command line's own
            shutil.copytree(path, package / path.name)
    tutorials.rename(package / "_notebooks")
    return site


def _wait_for(url: str, server: subprocess.Popen[bytes], seconds: float = 180) -> str:
    """Return the address that `url` leads to, once the server answers."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return str(answer.geturl())
        except (URLError, ConnectionError):
            time.sleep(0.3)
    raise AssertionError(f"no answer from {url}")


def test_doctor(capsys: Any) -> None:
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert f"wskit {wskit.__version__}" in out
    for name in ("torch", "jupyterlab", "nbval", "playwright"):
        assert f"  {name:18} {metadata.version(name)}\n" in out
    assert f"  cache              {data.cache_folder()}" in out
    assert "GB free" in out
    assert "WSKIT_OFFLINE" in out


@pytest.mark.parametrize(
    ("name", "version", "status", "lines"),
    [
        (
            "torch",
            None,
            1,
            ["torch              missing", "pip install --upgrade wskit  (for t"],
        ),
        ("numpy", "1.26.4", 1, ["numpy              1.26.4, but >=2.0 is needed", "(for numpy)"]),
        (
            "jupyterlab",
            None,
            0,
            ["jupyterlab         missing", "pip install 'wskit[lab]'  (for j"],
        ),
        ("playwright", None, 0, ["to have it: pip install 'wskit[browser]'", "To do\n  nothing"]),
        ("ipykernel", "7.2.0", 0, ["pip install 'ipykernel>=7.4'  (ipykernel 7.2.0 runs widgets"]),
    ],
)
def test_doctor_says_what_to_do(
    name: str, version: str | None, status: int, lines: list[str], monkeypatch: Any, capsys: Any
) -> None:
    real = metadata.version

    def pretend(distribution: str) -> str:
        if distribution != name:
            return real(distribution)
        if version is None:
            raise metadata.PackageNotFoundError(distribution)
        return version

    monkeypatch.setattr(metadata, "version", pretend)
    assert cli.main(["doctor"]) == status
    out = capsys.readouterr().out
    for line in lines:
        assert line in out


def test_doctor_of_unpacked_files(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    assert cli.main(["doctor"]) == 2
    assert "wskit: expected wskit to be installed, found only its files" in capsys.readouterr().err


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WSKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WSKIT_OFFLINE", "1")
    monkeypatch.delenv("WSKIT_MIRROR", raising=False)
    return tmp_path / "cache"


def test_data_list(cache: Path, capsys: Any) -> None:
    assert cli.main(["data", "list"]) == 0
    rows = capsys.readouterr().out.split("\n")
    assert rows[0].split() == ["package", "name", "MB", "cached", "licence"]
    assert any(
        row.split() == ["cifar-resnets", "cifar-resnet20", "1.1", "False", "BSD-2-Clause"]
        for row in rows
    )


def test_data_errors_are_one_line(cache: Path, capsys: Any) -> None:
    for arguments in (["fetch", "cifar-resnet20"], ["fetch", "no-such-file"], ["mirror", "room"]):
        assert cli.main(["data", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("wskit: ")
        assert err.count("\n") == 1


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
    assert capsys.readouterr().out.split() == [
        str(Path("cache") / "mnist"),
        str(tmp_path / "a"),
        str(tmp_path / "b"),
    ]


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
