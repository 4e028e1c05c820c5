"""Opening: the same weights from every source, lazily, under the same names."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_kit import FORMATS, Fresh, Lazy, tied, weights, write
from safetensors.torch import load_file, save_file, save_model
from torch import nn

from wskit.checkpoints import Checkpoint, open_checkpoint, save_weights
from wskit.errors import CheckpointError


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    return left.dtype == right.dtype and bool(torch.equal(left.nan_to_num(), right.nan_to_num()))


def assert_holds_weights(ckpt: Checkpoint) -> None:
    expected = weights()
    assert set(ckpt) == set(expected)
    for name, value in expected.items():
        assert same(ckpt[name], value)
        assert ckpt.shape(name) == tuple(value.shape)
        assert ckpt.dtype(name) == value.dtype


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_weights(tmp_path, kind):
    path = write(tmp_path, kind)
    with open_checkpoint(path) as ckpt:
        assert_holds_weights(ckpt)
        assert ckpt.source == str(path)
        assert ckpt.nbytes == 4 * (12 + 8 + 3)
        assert torch.isnan(ckpt["bias"]).sum() == 1


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".th"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("nest", ["", "state_dict", "model", "model_state_dict", "params"])
def test_torch_files_with_nested_prefixed_names(tmp_path, suffix, zipped, nest):
    state = {f"module._orig_mod.{name}": value for name, value in weights().items()}
    path = tmp_path / f"w{suffix}"
    saved = {nest: state, "epoch": 7, "best_prec1": 91.5} if nest else state
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    with open_checkpoint(str(path)) as ckpt:
        assert_holds_weights(ckpt)
        assert list(ckpt) == list(weights()), "the order of the state dict is kept"
        assert dict(ckpt.metadata) == ({"epoch": 7, "best_prec1": 91.5} if nest else {})


def test_a_training_checkpoint_keeps_the_optimizer_out_and_says_so(tmp_path):
    state = {
        "model": nn.Linear(3, 2).state_dict(),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
        "arch": "linear",
    }
    torch.save(state, tmp_path / "t.pt")
    with open_checkpoint(tmp_path / "t.pt") as ckpt:
        assert list(ckpt) == ["weight", "bias"]
        assert ckpt.left_out == ("optimizer",)
        assert dict(ckpt.metadata) == {"arch": "linear"}


def test_two_sets_of_weights_must_be_told_apart():
    both = {"state_dict": {"w": torch.zeros(1)}, "model": {"w": torch.ones(1)}}
    with pytest.raises(CheckpointError, match="got the dicts 'state_dict', 'model'; choose one"):
        open_checkpoint(both)
    assert open_checkpoint(both, within="model")["w"].item() == 1
    assert open_checkpoint({"ema": {"w": torch.ones(1)}}, within="ema")["w"].item() == 1
    with pytest.raises(CheckpointError, match="expected a dict under within='emma'"):
        open_checkpoint(both, within="emma")


def test_names_that_become_one_are_refused_and_stripping_is_optional():
    state = {"module.w": torch.zeros(1), "w": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"'module\.w' and 'w' both become 'w'"):
        open_checkpoint(state)
    assert list(open_checkpoint(state, strip_prefixes=())) == ["module.w", "w"]
    assert list(open_checkpoint({"net.w": torch.zeros(1)}, strip_prefixes=["net."])) == ["w"]


def test_it_is_a_read_only_mapping(tmp_path):
    ckpt = open_checkpoint(weights())
    assert "bias" in ckpt and "layer" not in ckpt and len(ckpt) == 3
    assert ckpt.get("nothing") is None
    with pytest.raises(KeyError, match=r"holds no tensor 'layer2.weights'; did you mean"):
        ckpt["layer2.weights"]
    with pytest.raises(KeyError, match="holds no tensor"):
        ckpt.shape("x")
    with pytest.raises(TypeError, match="does not support item assignment"):
        ckpt["bias"] = torch.zeros(1)
    assert repr(ckpt) == "Checkpoint('dict': 3 tensors, 92 B)"


@pytest.mark.parametrize("kind", FORMATS)
def test_closing(tmp_path, kind):
    with open_checkpoint(write(tmp_path, kind)) as ckpt:
        kept = ckpt["layer2.weight"]
    assert same(kept, weights()["layer2.weight"]), "what was read stays valid"
    assert ckpt.shape("bias") == (3,)
    with pytest.raises(CheckpointError, match="it was closed; open it again"):
        ckpt["bias"]
    ckpt.close()  # twice does no harm
    assert "closed" in repr(ckpt)


@pytest.mark.parametrize("kind", FORMATS)
def test_rows_are_those_of_the_tensor(tmp_path, kind):
    path = write(tmp_path, kind)
    with open_checkpoint(path) as ckpt:
        for name, first, last in [("layer2.weight", 1, 3), ("layer2.weight", 2, 9), ("bias", 0, 2)]:
            assert same(ckpt.rows(name, first, last), weights()[name][first:last])
        assert ckpt.rows("layer2.weight", 3, 3).shape == (0, 3)
        with pytest.raises(KeyError, match=r"did you mean 'bias'"):
            ckpt.rows("bia", 0, 1)
    with pytest.raises(CheckpointError, match="it was closed"):
        ckpt.rows("bias", 0, 1)


@pytest.mark.parametrize("kind", ["safetensors", "zip"])
@pytest.mark.parametrize("how", ["cut", "written to", "replaced"])
def test_a_file_that_changes_while_it_is_open_gives_no_garbage(tmp_path, kind, how):
    path = write(tmp_path, kind)
    with open_checkpoint(path, mapped=False) as ckpt:
        assert same(ckpt["bias"], weights()["bias"])
        if how == "cut":
            os.truncate(path, path.stat().st_size - 4)
        elif how == "written to":
            os.utime(path, ns=(0, 0))  # where the clock is coarse, the next line changes nothing
            path.write_bytes(path.read_bytes()[:-4] + b"abcd")
        else:
            path.write_bytes(b"")
            (tmp_path / "other").mkdir()
            write(tmp_path / "other", kind).replace(path)
        for read in (lambda: ckpt["bias"], lambda: ckpt.rows("bias", 0, 2)):
            with pytest.raises(
                CheckpointError, match=r"'bias': .* changed or replaced after it was"
            ):
                read()


def test_a_module_and_a_mapping_are_live_views():
    model = nn.Linear(3, 2)
    with open_checkpoint(nn.DataParallel(model)) as ckpt:
        assert list(ckpt) == ["weight", "bias"]
        with torch.no_grad():
            model.weight.fill_(5.0)
        assert ckpt["weight"].unique().item() == 5.0
        assert not ckpt["weight"].requires_grad
        assert_same_memory(ckpt["weight"], model.weight)
    again = open_checkpoint(open_checkpoint(model))
    assert again.shape("weight") == (2, 3)
    assert again["bias"].shape == (2,)


def test_lazy_weights_are_not_read(without_type_checks):
    lazy = Lazy({"a": torch.ones(2), "b": torch.ones(3, 2)})
    ckpt = open_checkpoint(lazy)
    assert (ckpt.nbytes, lazy.reads, ckpt.views) == (32, [], False)
    assert ckpt.rows("b", 1, 2).shape == (1, 2)
    lazy._like = {}
    with pytest.raises(CheckpointError, match=r"Lazy, tensor 'a': .*KeyError: 'a'"):
        ckpt["a"]


def assert_same_memory(left: torch.Tensor, right: torch.Tensor) -> None:
    assert left.data_ptr() == right.data_ptr()


@pytest.mark.parametrize("suffix", ["pt", "th", "safetensors", "module"])
def test_tied_tensors_stay_tied(tmp_path, suffix):
    model = tied()
    source = tmp_path / f"tied.{suffix}"
    if suffix == "safetensors":
        save_model(model, source)  # the library's own convention for tied tensors
    elif suffix != "module":
        zipped = suffix == "pt"
        torch.save(model.state_dict(), source, _use_new_zipfile_serialization=zipped)
    with open_checkpoint(model if suffix == "module" else source) as ckpt:
        assert set(ckpt) == {"embed.weight", "head.weight", "head.bias"}
        assert_same_memory(ckpt["embed.weight"], ckpt["head.weight"])
        assert ckpt.nbytes == 4 * (40 * 30 + 30), "tied tensors count once"
        assert set(ckpt.ties.items()) < {
            ("head.weight", "embed.weight"),
            ("embed.weight", "head.weight"),
        }


def test_tensors_made_on_request_are_not_taken_for_tied(tmp_path, without_type_checks):
    fresh = Fresh.fromkeys("123")
    assert not open_checkpoint(fresh).ties, "the same address, freed and used again, is no tie"
    path = save_weights(fresh, tmp_path / "w.safetensors")
    assert {name: value[0].item() for name, value in load_file(path).items()} == {
        "1": 1.0,
        "2": 2.0,
        "3": 3.0,
    }


DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16,
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64,
    torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "th"])
def test_every_dtype_and_0_d_and_empty_tensors(tmp_path, suffix):
    # torch's old format knows no dtypes that came after it.
    dtypes = [d for d in DTYPES if suffix != "th" or not (d == torch.uint16 or "8_e" in str(d))]
    values = {str(dtype): torch.tensor([0, 1, 1]).to(dtype) for dtype in dtypes}
    values |= {"scalar": torch.tensor(3), "empty": torch.zeros(0, 4)}
    path = tmp_path / f"w.{suffix}"
    if suffix == "safetensors":
        save_file(values, path)
    else:
        torch.save(values, path, _use_new_zipfile_serialization=suffix == "pt")
    with open_checkpoint(path) as ckpt:
        assert not ckpt.ties
        for name, value in values.items():
            assert ckpt.dtype(name) == ckpt[name].dtype == value.dtype
            assert ckpt.shape(name) == ckpt[name].shape == value.shape
            assert ckpt[name].to(torch.complex64).tolist() == value.to(torch.complex64).tolist()


def test_npz_compressed_or_not_any_byte_order_fortran_and_0_d(tmp_path):
    arrays = {
        "big": np.arange(6, dtype=">f8").reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float16).reshape(2, 3)),
        "scalar": np.array(4),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 3)),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        with open_checkpoint(tmp_path / "a.npz") as ckpt:
            assert list(ckpt) == list(arrays)
            for name, array in arrays.items():
                assert np.array_equal(ckpt[name].numpy(), array)
                assert ckpt[name].dtype == ckpt.dtype(name)
                assert ckpt[name].shape == ckpt.shape(name) == array.shape


def write_shards(folder: Path, suffix: str) -> Path:
    """Write the weights as two shards with an index, in Hugging Face's layout."""
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    weight_map = {}
    for number, (name, value) in enumerate(weights().items()):
        shard = f"{stem}-0000{min(number, 1)}.{suffix}"
        weight_map[name] = shard
        values = {other: weights()[other] for other, file in weight_map.items() if file == shard}
        if suffix == "safetensors":
            save_file(values, folder / shard)
        else:
            torch.save(values, folder / shard)
        assert value.shape
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("by", ["folder", "index"])
def test_sharded_folders(tmp_path, suffix, by):
    index = write_shards(tmp_path, suffix)
    with open_checkpoint(tmp_path if by == "folder" else index) as ckpt:
        assert_holds_weights(ckpt)
        assert list(ckpt) == list(weights())
    with pytest.raises(CheckpointError, match="closed"):
        ckpt["bias"]


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "any.pth"])
def test_folders_with_one_file(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    write(tmp_path, "safetensors" if name.endswith("safetensors") else "zip").rename(
        tmp_path / name
    )
    assert_holds_weights(open_checkpoint(tmp_path))


def test_a_snapshot_of_the_hugging_face_cache_is_links_to_its_blobs(tmp_path):
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    write_shards(snapshot, "safetensors")
    for number, file in enumerate(sorted(snapshot.iterdir())):
        file.rename(blobs / str(number))
        file.symlink_to(f"../../blobs/{number}")
    assert_holds_weights(open_checkpoint(snapshot))


def shapes_of(reference: str) -> dict[str, tuple[int, ...]]:
    with open_checkpoint(reference) as ckpt:
        assert ckpt.source == reference
        return {name: tuple(ckpt[name].shape) for name in ckpt}


def test_the_hub_over_http_then_from_its_cache(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants", reason="no extra hub")
    repositories = {"org/single/resolve/v1.0": tmp_path / "a", "org/sharded/resolve/main": tmp_path}
    (tmp_path / "a").mkdir()
    write(tmp_path / "a", "safetensors").rename(tmp_path / "a" / "model.safetensors")
    write_shards(tmp_path, "bin")
    expected = {name: tuple(value.shape) for name, value in weights().items()}
    # What HF_HOME and HF_HUB_OFFLINE set when the client is imported.
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with serving(repositories) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        assert shapes_of("hf://org/single@v1.0") == expected
        assert shapes_of("hf://org/sharded") == expected
        with pytest.raises(CheckpointError, match=r"hf://org/none: .* no such file"):
            open_checkpoint("hf://org/none")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert shapes_of("hf://org/single@v1.0") == expected
    assert shapes_of("hf://org/sharded") == expected
    with pytest.raises(CheckpointError, match=r"hf://org/none: expected one of model.safetensors"):
        open_checkpoint("hf://org/none")


def serving(repositories):
    """Serve folders as the hub serves repositories."""
    import contextlib
    import hashlib
    import http.server
    import threading

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, *, body):
            folder, _, name = self.path.strip("/").rpartition("/")
            file = repositories.get(folder, Path("/nowhere")) / name
            content = file.read_bytes() if file.is_file() else b""
            self.send_response(200 if content else 404)
            if not content:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", "a" * 40)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    @contextlib.contextmanager
    def server():
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
            threading.Thread(target=listening.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{listening.server_port}"
            listening.shutdown()

    return server()


def test_the_hub_without_its_client(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"not installed; pip install 'wskit\[hub\]'"):
        open_checkpoint("hf://org/name@main")


@pytest.mark.parametrize("reference", ["hf://", "hf://name", "hf://a/b/c", "hf://a/b@"])
def test_references_that_name_no_repository(reference):
    with pytest.raises(CheckpointError, match="expected hf://org/name or hf://org/name@revision"):
        open_checkpoint(reference)


def test_the_html_is_escaped_and_shortened(tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    state = {f"{evil}{i}": torch.zeros(2, 3) for i in range(100)}
    ckpt = open_checkpoint({"state_dict": state, evil: evil, "opt": [1]})
    page = ckpt._repr_html_()
    assert "<img" not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") == 20 + 2
    assert page.count("<tr") == 1 + 20 + 1
    assert "2 × 3" in page and "float32" in page and "24 B" in page
    assert "100 tensors, 2.3 KiB" in page and "left out: opt" in page
    assert "background" not in page, "colours are the theme's"
    assert "scalar" in open_checkpoint({"a": torch.tensor(1)})._repr_html_()


@pytest.mark.slow
def test_memory_of_opening_and_reading(tmp_path, benchmark_module):
    """128 MiB: a loader that reads the file fails the first bound eightfold."""
    stem = benchmark_module.make_files(tmp_path, mebibytes=128, tensors=8)
    for suffix in (".safetensors", ".pt"):
        grown = benchmark_module.measure(stem, suffix, warm=False)
        assert max(grown["open"]) < 16
        assert grown["tensor"] == 16
        assert max(grown["read"]) < 16 + 16
    saved = benchmark_module.measure_save(tmp_path / "saved.safetensors", 128, 8)
    assert saved["save"] < 4 * 16, "one tensor in memory at a time, and what malloc keeps"


@pytest.fixture
def benchmark_module(monkeypatch):
    import importlib.util

    path = Path(__file__).parent.parent / "benchmarks" / "checkpoint_memory.py"
    monkeypatch.syspath_prepend(path.parent)  # for what the benchmarks share
    spec = importlib.util.spec_from_file_location("checkpoint_memory", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_not_mapped_is_the_same_in_memory_of_its_own(tmp_path, kind):
    with open_checkpoint(write(tmp_path, kind), mapped=False) as ckpt:
        assert_holds_weights(ckpt)
        if kind == "safetensors":
            assert not ckpt.views
            ckpt["bias"].fill_(7.0)  # a mapping's next reader would see it
            assert_holds_weights(ckpt)


def test_scalars_and_ties_need_no_mapping(tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    path = save_weights(
        {"a": shared, "n": torch.tensor(3), "b": shared}, tmp_path / "x.safetensors"
    )
    with open_checkpoint(path, mapped=False) as ckpt:
        assert (ckpt["n"].item(), dict(ckpt.ties)) == (3, {"b": "a"})
        assert torch.equal(ckpt["b"], shared)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is Linux's")
def test_memory_of_what_is_not_mapped_is_free_after_use(tmp_path):
    n, path = 2**22, tmp_path / "x.safetensors"
    save_weights({str(i): torch.zeros(n) for i in range(12)}, path)

    def grown(mapped: bool) -> int:
        before = resident()
        with open_checkpoint(path, mapped=mapped) as ckpt:
            for name in ckpt:
                ckpt[name].sum()
            return resident() - before

    assert grown(mapped=False) < 3 * 4 * n < 10 * 4 * n < grown(mapped=True)


def test_tensors_of_torch_files_are_found_in_the_file(tmp_path):
    """Views, ties, other strides and nothing at all, beside storages of an optimizer."""
    base = torch.arange(20.0)
    weights = {"view": base[5:11].reshape(2, 3), "tied": base[5:11].reshape(2, 3), "base": base}
    weights |= {"turned": torch.arange(6.0).reshape(2, 3).T, "none": torch.empty(0, 3)}
    weights |= {"half": torch.ones(7, 3).bfloat16(), "conj": torch.ones(2, 2) * (1 + 2j)}
    weights["conj"] = weights["conj"].conj()
    torch.save({"optimizer": [torch.ones(9)], "state_dict": weights}, tmp_path / "x.pt")
    with open_checkpoint(tmp_path / "x.pt", mapped=False) as ckpt:
        assert ckpt.ties == {"tied": "view"}
        for name, tensor in weights.items():
            assert torch.equal(ckpt[name], tensor)
            assert torch.equal(ckpt.rows(name, 1, 2), tensor[1:2])
        ckpt["view"].fill_(7.0)  # memory of its own
        assert torch.equal(ckpt["view"], weights["view"])


def resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
