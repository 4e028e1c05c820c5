"""``wskit report``: what it opens, what it writes, what it refuses."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from wskit import __main__ as cli
from wskit import _report_command, data
from wskit.checkpoints import save_weights


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of weights in the current folder."""
    monkeypatch.chdir(tmp_path)
    weights = {"fc.weight": torch.randn(70, 60, generator=torch.Generator().manual_seed(0))}
    return save_weights(weights, tmp_path / "model.safetensors")


def test_a_file(model: Path, capsys: Any) -> None:
    assert cli.main(["report", "model.safetensors", "-o", "r.html"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("r.html\n", "")
    text = Path("r.html").read_text(encoding="utf-8")
    assert "<h1>model.safetensors</h1>" in text
    assert "conv=&#39;slices&#39;" in text
    assert cli.main(["report", "model.safetensors", "-o", "r.html", "--conv", "unfold"]) == 0
    assert "conv=&#39;unfold&#39;" in Path("r.html").read_text(encoding="utf-8")


def test_a_folder_with_another(model: Path, capsys: Any) -> None:
    folder = save_weights({"fc.weight": torch.ones(70, 60)}, "folder")
    assert cli.main(["report", str(folder), "-o", "r.html", "--with", str(model)]) == 0
    assert capsys.readouterr().out == "r.html\n"
    text = Path("r.html").read_text(encoding="utf-8")
    assert "1 of 1 tensor can be compared with" in text
    assert text.count("<th>fc.weight</th>") == 6, "a row of each table"


def test_a_name_of_the_manifests(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    asked = []

    def fetch(name: str, **options: Any) -> Path:
        asked.append((name, options))
        return model

    monkeypatch.setattr(data, "fetch", fetch)
    assert cli.main(["report", "cifar-resnet20", "-o", "r.html"]) == 0
    assert asked == [("cifar-resnet20", {"progress": False})]
    Path("cifar-resnet20").mkdir()  # what lies here comes first
    assert cli.main(["report", "cifar-resnet20", "-o", "r.html"]) == 2
    assert len(asked) == 1
    assert "expected a folder of weights" in capsys.readouterr().err


def test_a_reference_to_the_hub(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def open_checkpoint(source: str) -> Any:
        opened.append(source)
        return original(model)

    original = _report_command.open_checkpoint
    monkeypatch.setattr(_report_command, "open_checkpoint", open_checkpoint)
    assert cli.main(["report", "hf://org/name@main", "-o", "r.html"]) == 0
    assert opened == ["hf://org/name@main"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none", "-o", "r.html"], "none: expected a file, a folder, hf://org/name, or a name of"),
        (["cifar-resnets", "-o", "r.html"], "it is a package of"),
        (["mnist-test-images", "-o", "r.html"], "mnist-test-images: expected a file, a folder"),
        (["model.safetensors", "-o", "r.pdf"], "expected a name that ends in .html"),
        (["model.safetensors", "-o", "mine.html"], "expected a new name or an earlier report"),
        (["model.safetensors", "-o", "r.html", "--with", "no"], "no: expected a file, a folder"),
        (["model.safetensors", "-o", "r.html", "--device", "abacus"], "--device abacus: expected"),
        (["mine.html", "-o", "r.html"], "rename the file to what it is"),
    ],
)
def test_what_is_refused(arguments: list[str], message: str, model: Path, capsys: Any) -> None:
    Path("mine.html").write_text("mine")
    assert cli.main(["report", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(rf"wskit: [^\n]*{re.escape(message)}[^\n]*\n", captured.err)
    assert not Path("r.html").exists()
    assert Path("mine.html").read_text() == "mine"


def test_a_target_is_refused_before_the_work(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(_report_command, "examine", pytest.fail)
    assert cli.main(["report", "model.safetensors", "-o", "no/r.html"]) == 2
    assert "make it first" in capsys.readouterr().err
