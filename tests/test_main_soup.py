"""``wskit soup``: the methods of `wskit.averaging` on files, and where a soup came from."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wskit
from wskit import __main__ as cli
from wskit import averaging
from wskit.checkpoints import hash_files, open_checkpoint, save_weights
from wskit.errors import CheckpointError


def model(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(50, generator=generator), "n": torch.tensor(seed)}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Three ingredients and a base."""
    return [str(save_weights(model(seed), tmp_path / f"{seed}.safetensors")) for seed in range(4)]


MODELS, BASE = [model(seed) for seed in range(3)], model(3)


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("linear", [], averaging.average(MODELS)),
        (
            "linear",
            ["--coefficients", "0.5", "0.75", "-0.25"],
            averaging.average(MODELS, [0.5, 0.75, -0.25]),
        ),
        ("slerp", ["--t", "0.25"], averaging.slerp(*MODELS[:2], 0.25)),
        (
            "task",
            ["--base", "3", "--scale", "0.5"],
            averaging.add_task_vectors(BASE, [averaging.task_vector(m, BASE) for m in MODELS], 0.5),
        ),
        (
            "ties",
            ["--base", "3", "--density", "0.3"],
            averaging.merge_ties(MODELS, BASE, density=0.3),
        ),
        (
            "dare",
            ["--base", "3", "--seed", "7", "--density", "0.5"],
            averaging.merge_dare(MODELS, BASE, seed=7, density=0.5),
        ),
        ("model-stock", ["--base", "3"], averaging.merge_model_stock(MODELS, BASE)),
    ],
)
def test_methods(
    files: list[str], tmp_path: Path, capsys: Any, method: str, options: list[str], expected: Any
) -> None:
    ingredients = files[: 2 if method == "slerp" else 3]
    options = [files[3] if option == "3" else option for option in options]
    out = tmp_path / "soup.safetensors"
    assert cli.main(["soup", *ingredients, "-o", str(out), "--method", method, *options]) == 0
    assert capsys.readouterr() == (f"{out}\n", "")
    with open_checkpoint(out) as ckpt:
        assert all(torch.equal(ckpt[name], expected[name]) for name in expected)
        made_of = json.loads(ckpt.metadata["soup"])
    digests = {Path(f).name: hashlib.sha256(Path(f).read_bytes()).hexdigest() for f in files}
    assert made_of["ingredients"] == [
        {"path": f, "sha256": {Path(f).name: digests[Path(f).name]}} for f in ingredients
    ]
    assert (made_of["wskit"], made_of["torch"]) == (wskit.__version__, torch.__version__)
    assert made_of["method"] == method
    if method == "linear":
        assert made_of["coefficients"] == ([0.5, 0.75, -0.25] if options else [1 / 3] * 3)
    elif method != "slerp":
        assert made_of["base"] == {
            "path": files[3],
            "sha256": {"3.safetensors": digests["3.safetensors"]},
        }


def test_shards_and_companions(files: list[str], tmp_path: Path, capsys: Any) -> None:
    folder = save_weights(model(5), tmp_path / "hf")
    (folder / "config.json").write_text("{}")
    arguments = ["soup", files[0], str(folder), "-o", str(tmp_path / "out"), "--copy-from", "2"]
    assert cli.main([*arguments, "--shard-size", "0.2KB"]) == 0
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        ".wskit.json",
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    with open_checkpoint(out) as ckpt:
        made_of = json.loads(ckpt.metadata["soup"])
    assert made_of["ingredients"][1] == {"path": str(folder), "sha256": hash_files(folder)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "ties"], "--method ties needs --base"),
        (["--method", "dare", "--base", "3"], "--method dare needs --seed"),
        (["--t", "0.5"], "--method linear takes no --t; leave it out"),
        (["--method", "model-stock", "--base", "3", "--scale", "1"], "takes no --scale; leave it"),
        (["--method", "slerp", "--t", "0.5"], "--method slerp takes two ingredients, got 3"),
        (
            ["--coefficients", "0.5", "0.5"],
            "3 models need 3 coefficients, got an array of shape (2,)",
        ),
        (["--coefficients", "1", "1", "1"], "must sum to 1, got 3; divide them"),
        (["--copy-from", "4"], "--copy-from takes the number of an ingredient, 1 to 3, got 4"),
        (["--shard-size", "big"], "--shard-size takes bytes, as 5GB, 200MB or 1000, got 'big'"),
        (["--method", "ties", "--base", "none.npz"], "none.npz: expected weights, found nothing"),
    ],
)
def test_errors_are_one_line(
    files: list[str], tmp_path: Path, capsys: Any, options: list[str], message: str
) -> None:
    options = [files[3] if option == "3" else option for option in options]
    assert cli.main(["soup", *files[:3], "-o", str(tmp_path / "out"), *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("wskit: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "kind", ["an ingredient", "its folder", "a link to it", "a hard link", "a shard", "a note"]
)
def test_nothing_of_the_user_s_is_replaced(
    files: list[str], tmp_path: Path, capsys: Any, kind: str
) -> None:
    one = Path(files[0])
    sharded = save_weights(model(4), tmp_path / "sharded", shard_size=1)
    output = {
        "an ingredient": one,
        "its folder": one.parent,
        "a link to it": tmp_path / "link.safetensors",
        "a hard link": tmp_path / "hard.safetensors",
        "a shard": next(sharded.glob("model-00001*")),
        "a note": tmp_path / "mine.safetensors",
    }[kind]
    if kind == "a link to it":
        output.symlink_to(one)
    elif kind == "a hard link":
        output.hardlink_to(one)
    elif kind == "a note":
        save_weights(model(4), output)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert cli.main(["soup", files[0], str(sharded), "-o", str(output)]) == 2
    error = capsys.readouterr().err
    assert "would replace its ingredient" in error or "an earlier soup, got a file" in error
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_earlier_soup_is_replaced(files: list[str], tmp_path: Path, capsys: Any) -> None:
    for output in (tmp_path / "soup.safetensors", tmp_path / "soup"):
        for _ in range(2):
            assert cli.main(["soup", *files[:2], "-o", str(output)]) == 0


def test_hashes_of_every_format(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", w=np.zeros(2))
    assert hash_files(tmp_path / "w.npz").keys() == {"w.npz"}
    sharded = save_weights(model(0), tmp_path / "sharded", shard_size=1)
    names = {path.name for path in sharded.glob("model*")}
    assert len(names) == 3
    for source in (sharded, sharded / "model.safetensors.index.json"):
        found = hash_files(source)
        assert found.keys() == names
        assert all(
            digest == hashlib.sha256((sharded / name).read_bytes()).hexdigest()
            for name, digest in found.items()
        )
    with pytest.raises(CheckpointError, match="expected weights, found nothing"):
        hash_files(tmp_path / "none")
