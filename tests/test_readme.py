"""What README.md shows and says is so: pictures, times, commands, snippets, links."""

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from notebook_kit import NOTEBOOKS, ROOT
from PIL import Image
from zoo_kit import small_cnn_zoo

from wskit import __main__ as cli
from wskit import checkpoints, data
from wskit.errors import DataError

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {"README.md": TEXT} | {
    name: (NOTEBOOKS / name).read_text(encoding="utf-8") for name in ("index.md", "TEACHING.md")
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PICTURE = re.compile(r"!\[([^\]]*)\]\((?:notebooks/)?images/([\w.]+)\)")


def load_make() -> ModuleType:
    """Import notebooks/images/make.py, which is a script and in no package."""
    spec = importlib.util.spec_from_file_location("make", NOTEBOOKS / "images" / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = load_make()
REMEDY = "run python notebooks/images/make.py"


def commands() -> list[str]:
    """Lines of the shell in README.md and in the site's start page, without comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", "\n".join(PAGES.values()), re.MULTILINE | re.DOTALL)
    parts = [part for block in blocks for line in block.splitlines() for part in line.split("&&")]
    return [shlex.join(words) for part in parts if (words := shlex.split(part, comments=True))]


def test_every_picture_is_one_that_is_made() -> None:
    shown = [picture for text in PAGES.values() for picture in PICTURE.findall(text)]
    made = {*make.TAKEN, *make.BADGES, make.DRAWN}
    assert {name for _, name in shown} == made
    assert made == {path.name for path in make.HERE.iterdir() if path.suffix in {".png", ".svg"}}
    assert all(len(words) > 10 for words, _ in shown), "every picture has a text"
    assert TEXT.count("![") == len(PICTURE.findall(TEXT)), "none comes from elsewhere"


@pytest.mark.parametrize("name", make.TAKEN)
def test_pictures_are_those_of_the_tutorials(name: str) -> None:
    assert (make.HERE / name).read_bytes() == make.taken(name), REMEDY


@pytest.mark.parametrize("name", make.BADGES)
def test_badges_are_current(name: str) -> None:
    assert (make.HERE / name).read_bytes() == make.badge(name), REMEDY


def test_a_picture_that_no_cell_draws_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(make.TAKEN, "soups.png", ("05_model_soups", "plots.plot_nothing("))
    with pytest.raises(LookupError, match=r"no cell of 05_model_soups\.ipynb"):
        make.taken("soups.png")


def test_the_first_picture_is_drawn_by_the_first_snippet() -> None:
    with Image.open(make.HERE / make.DRAWN) as image:
        assert image.info["Source"] == make.snippets()[0], REMEDY


def test_the_first_picture_is_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_figure_stays_open: None
) -> None:
    """Where the ResNet-20 is at hand; where it is not, the test above stands alone."""
    monkeypatch.setenv("WSKIT_OFFLINE", "1")
    try:
        data.fetch("cifar-resnet20", progress=False)
    except DataError as error:
        pytest.skip(str(error))
    (tmp_path / "again.png").write_bytes(make.drawn())
    pixels = []
    for path in (tmp_path / "again.png", make.HERE / make.DRAWN):
        with Image.open(path) as image:
            pixels.append(torch.tensor(list(image.convert("L").tobytes()), dtype=torch.float32))
    assert (pixels[0] - pixels[1]).abs().mean() < 2  # of 255: another processor's last digits


def test_the_table_has_every_tutorial_with_its_times() -> None:
    named = [match[2] for match in make.ROW.finditer(TEXT)]
    assert named == [path.stem for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))]
    assert make.with_times(TEXT) == TEXT, REMEDY
    wrong = make.ROW.sub(r"\1 | 1 minutes | never |", TEXT)
    assert wrong != TEXT
    assert make.with_times(wrong) == TEXT


def test_the_figures_are_those_of_the_benchmarks() -> None:
    assert make.with_figures(TEXT) == TEXT, REMEDY
    assert TEXT.count("x |\n") == len(make.FIGURES), "all are ratios"
    with pytest.raises(LookupError, match="no row 'nothing' with 'ratio' in its part 'zoo: ratio'"):
        make.figure("zoo: ratio", "nothing", "ratio")


@pytest.mark.parametrize("command", commands())
def test_every_command_exists(command: str) -> None:
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
    program, arguments = Path(words[0]).name, words[1:]
    if program == "wskit":
        cli.make_parser(arguments[0]).parse_args(arguments)
    elif program == "make":
        rules = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{arguments[0]}:", rules, re.MULTILINE)
    elif program == "pip":
        extras = re.findall(r"\.\[([\w,]+)\]", arguments[-1])[0].split(",")
        assert set(extras) <= PROJECT["optional-dependencies"].keys()
    else:
        assert program in {"python3", "git", "cd"}


@pytest.mark.parametrize("page", PAGES)
def test_every_command_named_in_passing_exists(page: str) -> None:
    named = set(re.findall(r"`wskit ([a-z][\w-]*)(?: ([a-z]\w*))?", PAGES[page]))
    assert named
    for command, action in named:
        with pytest.raises(SystemExit) as stop:
            words = [command, *([action] if action else []), "--help"]
            cli.make_parser(command).parse_args(words)
        assert stop.value.code == 0, command
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([\w-]+)`", PAGES[page]):
        assert re.search(rf"^{target}:", rules, re.MULTILINE), target


def test_the_first_snippet_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, no_figure_stays_open: None
) -> None:
    torch.manual_seed(0)
    layers = {"layer3.2.conv2.weight": torch.randn(16, 16, 3, 3), "fc.weight": torch.randn(10, 60)}
    small = checkpoints.save_weights(layers, tmp_path / "small.safetensors")
    monkeypatch.setattr(data, "fetch", lambda name: small)
    assert make.drawn().startswith(b"\x89PNG")
    names: dict[str, Any] = {}
    exec(make.snippets()[0], names)
    assert "fc.weight" in capsys.readouterr().out
    assert names["table"].name.tolist() == list(layers)
    names["ax"].figure.clear()
    import matplotlib.pyplot as plt

    plt.close(names["ax"].figure)


def test_the_second_snippet_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "path" / "to").mkdir(parents=True)
    small_cnn_zoo(tmp_path / "path" / "to" / "zoo", runs=12)
    monkeypatch.chdir(tmp_path)
    assert len(make.snippets()) == 2
    exec(make.snippets()[1], {})
    assert "r2" in capsys.readouterr().out


def test_every_link_is_good() -> None:
    where = PROJECT["urls"]["Repository"].removeprefix("https://github.com/")
    for text in PAGES.values():
        for owner_and_name in re.findall(r"(?:github\.com|/gh|/github)/([\w-]+/[\w-]+)", text):
            assert owner_and_name == where
    for link in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / link).exists(), link
    for link in re.findall(r"\]\(#([\w-]+)\)", TEXT):
        headings = re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
        assert link in {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in headings}
    for notebook in re.findall(r"(?:main/|tree/)(notebooks/\S+?\.ipynb)", TEXT):
        assert (ROOT / notebook).exists()
