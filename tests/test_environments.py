"""Binder's and the container's files say what the Makefile does, in fields that exist."""

import json
import re
import shutil
import stat
import subprocess
import sys

from notebook_kit import ROOT

# Of the development container reference; a misspelt field is ignored without a word.
FIELDS = {
    *("name", "image", "build", "features", "forwardPorts", "portsAttributes", "mounts", "runArgs"),
    *("onCreateCommand", "updateContentCommand", "postCreateCommand", "postStartCommand"),
    *("postAttachCommand", "waitFor", "remoteUser", "containerUser", "containerEnv", "remoteEnv"),
    *("customizations", "hostRequirements", "workspaceFolder", "workspaceMount", "shutdownAction"),
}
PORT_FIELDS = {"label", "protocol", "onAutoForward", "requireLocalPort", "elevateIfNeeded"}


def container() -> dict:
    return json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))


def test_the_container_s_fields_exist():
    described = container()
    assert described.keys() <= FIELDS
    assert "image" in described
    for port, attributes in described["portsAttributes"].items():
        assert int(port) in described["forwardPorts"]
        assert attributes.keys() <= PORT_FIELDS
        assert attributes["onAutoForward"] in {"notify", "openBrowser", "silent", "ignore"}
    assert described["customizations"].keys() == {"vscode"}
    assert described["customizations"]["vscode"].keys() <= {"extensions", "settings"}


def test_the_container_makes_the_environment_of_make():
    described = container()
    assert described["updateContentCommand"] == "make .venv/.ready"
    path = described["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    venv = re.search(r"^VENV := (\S+)$", rules, re.MULTILINE)[1]
    assert path.endswith(f"/{venv}/bin/python")
    assert re.search(r"^READY := \$\(VENV\)/\.ready$", rules, re.MULTILINE)
    assert "chromium" in described["onCreateCommand"], "for the tests in a browser"
    for target in re.findall(r"make ([a-z]+)", described["postAttachCommand"]):
        assert re.search(rf"^{target}:", rules, re.MULTILINE)


def test_python_is_one_that_the_versions_are_for():
    first = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()[0]
    version = re.search(r"Python (3\.\d+)", first)[1]
    runtime = (ROOT / ".binder" / "runtime.txt").read_text(encoding="utf-8").strip()
    assert runtime == f"python-{version}"
    assert container()["image"].startswith(f"python:{version}")


def test_binder_installs_this_checkout_in_known_versions():
    folder = ROOT / ".binder"
    lines = (folder / "requirements.txt").read_text(encoding="utf-8").split("\n")
    constraints = next(line.removeprefix("-c ") for line in lines if line.startswith("-c "))
    assert (folder / constraints).resolve() == ROOT / "constraints.txt"  # from the file's folder
    assert "-e .[lab]" in lines  # from the checkout


def test_binder_s_last_step_runs():
    script = ROOT / ".binder" / "postBuild"
    assert script.stat().st_mode & stat.S_IXUSR
    bash = shutil.which("bash")
    path = f"{sys.prefix}/bin:/usr/bin:/bin"
    ran = subprocess.run(
        [bash, str(script)], env={"PATH": path}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "tutorials" in ran.stdout
