"""Bad and hostile files: one sentence, nothing executed, no memory taken."""

import json
import math
import os
import pickle
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_kit import (
    FORMATS,
    OLD_MAGIC,
    calling,
    forged_safetensors,
    npy_header,
    npz_with,
    old_with_pickle,
    write,
    zip_with_pickle,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from wskit.checkpoints import open_checkpoint
from wskit.errors import CheckpointError


@pytest.fixture
def loading_fails_the_test(monkeypatch):
    """What is refused by its looks must never reach the loader."""

    def load(*_, **__):
        pytest.fail("torch.load was called")

    monkeypatch.setattr(torch, "load", load)


def refuses(path: Path, match: str, **options: object) -> None:
    """Opening raises one sentence that names the file."""
    with pytest.raises(CheckpointError, match=match) as caught:
        open_checkpoint(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message


# --- files that are no checkpoints -----------------------------------------------------------


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.npz", "folder", "m.index.json"])
def test_missing(tmp_path, name):
    refuses(tmp_path / name, "expected weights, found nothing; check the path")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".th", ".npz", ".index.json"])
def test_empty(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    path.touch()
    refuses(path, "got an empty file; get it again")


def test_not_a_regular_file(tmp_path):
    os.mkfifo(tmp_path / "w.pt")
    refuses(tmp_path / "w.pt", "expected a regular file")


@pytest.mark.parametrize("name", ["w.ckpt", "w.pkl", "w.tar"])
def test_wrong_suffix(tmp_path, name):
    write(tmp_path, "zip").rename(tmp_path / name)
    refuses(tmp_path / name, "expected a suffix of .safetensors, .pt, .pth")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".npz"])
def test_a_suffix_of_another_format(tmp_path, kind, suffix):
    path = write(tmp_path, kind)
    if path.suffix == suffix or (kind, suffix) == ("old", ".pt"):
        return
    path = path.rename(tmp_path / f"other{suffix}")
    refuses(path, "expected (a safetensors file|a file written by torch.save|an .npz|.npy|an unco)")


def test_folders_without_one_checkpoint(tmp_path):
    refuses(tmp_path, "expected a folder of weights .* got an empty one")
    (tmp_path / "readme.md").touch()
    refuses(tmp_path, "got 'readme.md'")
    for name in "ab":
        (tmp_path / f"{name}.pt").touch()
    refuses(tmp_path, "expected one checkpoint in the folder, got 'a.pt', 'b.pt'")


@pytest.mark.parametrize(
    "saved",
    [torch.zeros(2), [torch.zeros(2)], {}, {"a": 1, "state_dict": {}}, 3, {1: torch.ones(1)}],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_without_a_state_dict(tmp_path, saved, zipped):
    torch.save(saved, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    refuses(tmp_path / "w.pt", "expected a (dict of tensors|state dict)|tensors under names")


def test_safetensors_and_npz_without_tensors(tmp_path):
    save_file({}, tmp_path / "w.safetensors")
    refuses(tmp_path / "w.safetensors", "expected tensors, got a safetensors file that holds none")
    np.savez(tmp_path / "w.npz")
    refuses(tmp_path / "w.npz", "got 0 arrays")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_modules_and_mappings_without_plain_tensors():
    cases = {
        "meta": torch.zeros(2, device="meta"),
        "sparse_coo": torch.eye(2).to_sparse(),
        "quantized": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    }
    for kind, tensor in cases.items():
        with pytest.raises(CheckpointError, match=f"'w' is {kind}"):
            open_checkpoint({"w": tensor})
    with pytest.raises(CheckpointError, match="'weight' is uninitialized"):
        open_checkpoint(lazy_linear())
    with pytest.raises(CheckpointError, match="no tensor at all under the keys 'a'"):
        open_checkpoint({"a": np.zeros(2)})


def lazy_linear() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.LazyLinear(2)


# --- indexes ---------------------------------------------------------------------------------


def index_of(folder: Path, weight_map: object) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": weight_map}))
    return path


@pytest.mark.parametrize("shard", ["../x.safetensors", "a/../../x.safetensors", "/x.safetensors"])
def test_an_index_that_leads_outside(tmp_path, shard):
    (tmp_path / "in").mkdir()
    save_file({"w": torch.zeros(1)}, tmp_path / "x.safetensors")
    index = index_of(tmp_path / "in", {"w": shard})
    refuses(index, "expected shards inside the index's folder, got '.*'; do not use this index")
    index_of(tmp_path / "in", {"w": str(tmp_path / "x.safetensors")})
    refuses(index, "expected shards inside the index's folder")


def test_an_index_whose_shard_is_a_link_to_the_outside(tmp_path):
    (tmp_path / "in").mkdir()
    save_file({"w": torch.zeros(1)}, tmp_path / "x.safetensors")
    (tmp_path / "in" / "x.safetensors").symlink_to(tmp_path / "x.safetensors")
    refuses(index_of(tmp_path / "in", {"w": "x.safetensors"}), "is a link to .*do not use")
    (tmp_path / "in" / "x.safetensors").unlink()
    (tmp_path / "in" / "sub").symlink_to(tmp_path)
    refuses(index_of(tmp_path / "in", {"w": "sub/x.safetensors"}), "is a link to .*do not use")


def test_an_index_of_what_is_not_there(tmp_path):
    save_file({"w": torch.zeros(1)}, tmp_path / "x.safetensors")
    index = index_of(tmp_path, {"w": "x.safetensors", "v": "y.safetensors"})
    refuses(index, "expected the shard 'y.safetensors' beside it, found none")
    index_of(tmp_path, {"w": "x.safetensors", "v": "x.safetensors"})
    refuses(index, "expected tensor 'v' in x.safetensors, which does not hold it")
    index_of(tmp_path, {"w": index.name})
    refuses(index, "expected shards of .safetensors")


@pytest.mark.parametrize(
    "text", ["[]", "{", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}']
)
def test_an_index_that_is_none(tmp_path, text):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text)
    refuses(path, "expected an index")


# --- pickles that do more than hold tensors ----------------------------------------------------


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("pack", [zip_with_pickle, old_with_pickle])
def test_code_in_a_pickle_never_runs(tmp_path, protocol, pack):
    mark = tmp_path / "was-here"
    payload = pickle.dumps({"w": Evil(mark)}, protocol=protocol)
    pickle.loads(payload)
    assert mark.exists(), "the payload does work"
    mark.rmdir()
    refuses(pack(tmp_path / "w.pt", payload), "can run code")
    assert not mark.exists()


def test_code_hidden_in_the_other_pickles_of_an_old_file_never_runs(tmp_path):
    mark = tmp_path / "was-here"
    evil = pickle.dumps(Evil(mark), protocol=2)
    good = pickle.dumps({}, protocol=2)
    for place in range(4):
        parts = [good] * 4
        parts[place] = evil
        (tmp_path / "w.th").write_bytes(OLD_MAGIC + b"".join(parts))
        refuses(tmp_path / "w.th", "can run code")
    assert not mark.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_pickled_module(tmp_path, zipped):
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    refuses(
        tmp_path / "w.pt",
        r"it pickles 'torch\.nn\.modules\.linear\.Linear'.* save only the model's state_dict",
    )


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("builtins.bytearray", (10**12,)),
        ("_codecs.encode", ("ab", "hex")),
        ("torch.Tensor", (10**12,)),
        ("torch._utils._rebuild_device_tensor_from_cpu_tensor", (0, 0, 0, 0)),
        ("torch._tensor._rebuild_from_type_v2", (0, 0, 0, 0)),
    ],
)
def test_functions_that_weights_only_allows_and_that_can_take_any_memory(
    tmp_path, function, arguments, loading_fails_the_test
):
    payload = calling(function, arguments)
    for pack in (zip_with_pickle, old_with_pickle):
        refuses(pack(tmp_path / "w.pt", payload), f"it pickles {re.escape(repr(function))}")


# --- more memory than the file has -------------------------------------------------------------


def test_a_compressed_torch_zip_is_refused_unread(tmp_path, loading_fails_the_test):
    torch.save({"w": torch.zeros(2_000_000)}, tmp_path / "big.pt")
    bomb = tmp_path / "bomb.pt"
    with (
        zipfile.ZipFile(tmp_path / "big.pt") as source,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    assert bomb.stat().st_size < 20_000
    refuses(bomb, "expected an uncompressed zip, as torch.save writes it, got a compressed one")


def test_overlapping_zip_members_are_refused_unread(tmp_path, loading_fails_the_test):
    path = zip_with_pickle(tmp_path / "w.pt", pickle.dumps({}, protocol=2) + bytes(5000))
    content = path.read_bytes()
    start = content.index(b"PK\x01\x02")
    entry = content[start : content.index(b"PK\x01\x02", start + 1)]
    end = content.index(b"PK\x05\x06")
    tail = bytearray(content[end:])
    tail[8:12] = (13).to_bytes(2, "little") * 2  # 3 members and 10 copies of the first
    tail[12:16] = (end - start + 10 * len(entry)).to_bytes(4, "little")
    path.write_bytes(content[:end] + entry * 10 + tail)
    refuses(path, "bytes inside, but the zip claims")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("hide", [lambda t: {"w": t}, lambda t: {"a": [{"b": (t,)}], "w": t[:1]}])
def test_a_billion_numbers_in_one(tmp_path, zipped, hide):
    view = torch.zeros(1).expand(10**9)
    torch.save(hide(view), tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    assert (tmp_path / "w.pt").stat().st_size < 5000
    refuses(tmp_path / "w.pt", r"shape \(1000000000,\) spreads 4 stored bytes over 4000000000")


def test_a_storage_larger_than_its_file(tmp_path):
    for zipped in (True, False):
        path = tmp_path / "w.pt"
        torch.save({"w": torch.zeros(200)}, path, _use_new_zipfile_serialization=zipped)
        content = path.read_bytes()
        forged = content.replace(b"K\xc8", b"K\xff")  # 255 numbers instead of 200
        assert forged != content
        path.write_bytes(forged)
        refuses(path, "expected (a file written by torch.save|tensors no larger)")


def test_an_old_file_over_the_limit_is_refused_unread(tmp_path, loading_fails_the_test):
    path = write(tmp_path, "old")
    refuses(path, "max_bytes=100, as torch's old format is loaded whole, got", max_bytes=100)


def test_torchscript_and_other_zips(tmp_path, loading_fails_the_test):
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/data.pkl", b"")
        archive.writestr("script/constants.pkl", b"")
    refuses(tmp_path / "script.pt", "expected weights, got a TorchScript program")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("readme.txt", b"hello")
    refuses(tmp_path / "other.pt", "got a zip with 0 data.pkl")


# --- safetensors -------------------------------------------------------------------------------


def entry(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes


@pytest.mark.parametrize(
    "header",
    [
        {"w": entry(shape=[3])},
        {"w": entry(shape=[2**62, 4])},
        {"w": entry(shape=[-2])},
        {"w": entry(dtype="F64")},
        {"w": entry(dtype="X7")},
        {"w": entry(dtype="F4", shape=[16])},
        {"w": entry(data_offsets=[0, 2**40])},
        {"w": entry(data_offsets=[8, 0])},
        {"w": entry(data_offsets=[8, 16])},
        {"w": entry(), "v": entry()},
        {"w": entry(), "v": entry(data_offsets=[4, 12])},
        {"w": {"dtype": "F32"}},
        {"w": 3},
        {"w": entry(), "__metadata__": {"a": 1}},
        {"w": entry(), "__metadata__": []},
        [],
        3,
    ],
)
def test_forged_headers(tmp_path, header):
    path = forged_safetensors(tmp_path / "w.safetensors", json.dumps(header).encode(), bytes(8))
    refuses(path, "expected (a safetensors file|one of the dtypes)")


@pytest.mark.parametrize("length", [3, 2**20, 2**40, 2**63, 2**64 - 1])
def test_headers_that_lie_about_their_length(tmp_path, length):
    header = json.dumps({"w": entry()}).encode()
    path = forged_safetensors(tmp_path / "w.safetensors", header, bytes(8), length)
    refuses(path, "expected a safetensors file")


def test_a_name_that_comes_twice(tmp_path):
    one = json.dumps({"w": entry()})[1:-1]
    path = forged_safetensors(tmp_path / "w.safetensors", f"{{{one},{one}}}".encode(), bytes(8))
    refuses(path, "the name 'w' comes twice in the header")


def test_a_header_nested_without_end(tmp_path):
    path = forged_safetensors(tmp_path / "w.safetensors", b"[" * 100_000, bytes(8))
    refuses(path, "expected a safetensors file")


# --- npz ---------------------------------------------------------------------------------------


def test_object_arrays(tmp_path):
    mark = tmp_path / "was-here"
    np.savez(tmp_path / "w.npz", good=np.ones(2), bad=np.array([Evil(mark)], dtype=object))
    refuses(tmp_path / "w.npz", "array 'bad': expected numbers, got Python objects")
    assert not mark.exists()


@pytest.mark.parametrize("array", [np.array("text"), np.zeros(2, "f4,i4"), np.zeros(2, "M8[s]")])
def test_arrays_that_are_no_numbers(tmp_path, array):
    np.savez(tmp_path / "w.npz", bad=array)
    refuses(tmp_path / "w.npz", "array 'bad': expected numbers that torch has a dtype for, got")


def test_npz_bombs(tmp_path):
    path = tmp_path / "w.npz"
    npz_with(path, {"w.npy": npy_header("<f4", (10**12,)) + bytes(16)})
    refuses(path, "array 'w': expected as many bytes as its shape .* needs, 4000000000128, got 144")
    np.savez_compressed(path, w=np.zeros(1_000_000))
    assert path.stat().st_size < 10_000
    refuses(path, "max_bytes=1000000 in all, got 1 arrays of 8000000 bytes", max_bytes=10**6)
    assert open_checkpoint(path)["w"].shape == (1_000_000,), "zeros compress well: legitimate"
    header = npy_header("<f4", (10**9,))
    npz_with(path, {"w.npy": header})
    size = (4 * 10**9 + len(header)).to_bytes(4, "little")
    content = bytearray(path.read_bytes())
    for start, offset in ((content.index(b"PK\x03\x04"), 22), (content.index(b"PK\x01\x02"), 24)):
        content[start + offset : start + offset + 4] = size
    path.write_bytes(content)
    refuses(path, r"needs, 4000000128, got 4000000128 from 128 in the file")


def test_odd_npz_members(tmp_path):
    path = tmp_path / "w.npz"
    npz_with(path, {"w.txt": b"hello"})
    refuses(path, "expected .npy members with names of their own, got 'w.txt'")
    npz_with(path, {"w.npy": npy_header("<f4", (-1,))})
    refuses(path, "expected an array, got float32 of the shape")
    npz_with(path, {"w.npy": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(10**6)}, 8)
    refuses(path, "expected an .npz file, but it is damaged")


# --- bytes -------------------------------------------------------------------------------------

QUIET = [HealthCheck.function_scoped_fixture]


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A good file of each format."""
    folder = tmp_path_factory.mktemp("originals")
    return {kind: write(folder, kind) for kind in FORMATS}


def read_all(path: Path) -> bool:
    """Open and read everything; say whether it worked. Only CheckpointError may be raised."""
    try:
        with open_checkpoint(path, max_bytes=10**6) as ckpt:
            for name in ckpt:
                value = ckpt[name]
                assert value.shape == ckpt.shape(name)
                assert value.dtype == ckpt.dtype(name)
                assert math.prod(value.shape) * value.element_size() <= 10**6
                value.clone()
            ckpt._repr_html_()
            return True
    except CheckpointError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
        return False


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=40, suppress_health_check=QUIET)
@given(cut=st.integers(1, 4000))
def test_truncated_at_any_byte(originals, tmp_path, kind, cut):
    content = originals[kind].read_bytes()
    assert read_all(originals[kind])
    path = tmp_path / originals[kind].name
    path.write_bytes(content[: -1 - cut % len(content)])
    assert not read_all(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".th", ".npz", ".index.json"])
@settings(max_examples=30, suppress_health_check=QUIET)
@given(content=st.binary(max_size=200), magic=st.sampled_from([b"", b"PK\x03\x04", OLD_MAGIC]))
def test_any_bytes(tmp_path, suffix, content, magic):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(magic + content)
    assert not read_all(path)
