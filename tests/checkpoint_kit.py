"""Files for the checkpoints' tests: one set of weights in every format, and forged ones."""

import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from wskit._base.weights import DerivedWeights

OLD_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
FORMATS = ("safetensors", "zip", "old", "npz")


def weights() -> dict[str, torch.Tensor]:
    """Three tensors whose alphabetical order is not their order."""
    generator = torch.Generator().manual_seed(0)
    return {
        "layer2.weight": torch.randn(4, 3, generator=generator),
        "layer10.weight": torch.randn(2, 4, generator=generator),
        "bias": torch.tensor([1.0, float("nan"), float("inf")]),
    }


class Lazy(DerivedWeights):
    """A dict of tensors as lazy weights, which note what is read of them."""

    def __init__(self, values: dict[str, torch.Tensor]) -> None:
        super().__init__(values)
        self.reads = []

    def __getitem__(self, name):
        self.reads.append(name)
        return self._like[name]


class Blocks(Lazy):
    """Lazy weights that are read in blocks only, as those of a lazy merge."""

    block_reads = True
    block_entries = 2**18

    def __getitem__(self, name):
        raise AssertionError("a whole tensor was read")

    def read_block(self, name, start, stop, out=None):
        self.reads.append((name, start, stop))
        return out.copy_(self._like[name].reshape(-1)[start:stop])


class Fresh(dict):
    """A mapping that makes its tensors on request, so that they may get the same address."""

    def __getitem__(self, name):
        return torch.full((1000,), float(name))

    def items(self):
        return ((name, self[name]) for name in self)


def tied() -> torch.nn.Module:
    nn = torch.nn
    model = nn.ModuleDict({"embed": nn.Linear(40, 30, bias=False), "head": nn.Linear(40, 30)})
    model["head"].weight = model["embed"].weight
    return model


def write(folder: Path, kind: str) -> Path:
    """Write `weights` in one format; return the file."""
    values = weights()
    if kind == "safetensors":
        path = folder / "w.safetensors"
        save_file(values, path)
    elif kind == "npz":
        path = folder / "w.npz"
        np.savez_compressed(path, **{name: value.numpy() for name, value in values.items()})
    else:
        path = folder / {"zip": "w.pt", "old": "w.th"}[kind]
        torch.save(values, path, _use_new_zipfile_serialization=kind == "zip")
    return path


def zip_with_pickle(path: Path, pickled: bytes, *, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write what torch.save would write, around a pickle of ours and one storage of 16 bytes."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", bytes(16))
        archive.writestr("archive/version", "3\n")
    return path


def old_with_pickle(path: Path, pickled: bytes) -> Path:
    """Write a file of torch's old format around a pickle of ours."""
    rest = [pickle.dumps(1001, protocol=2), pickle.dumps({}, protocol=2), pickled]
    path.write_bytes(OLD_MAGIC + b"".join(rest) + pickle.dumps([], protocol=2))
    return path


def calling(function: str, arguments: object) -> bytes:
    """Pickle a dict with one entry: what ``function(*arguments)`` returns."""
    module, _, name = function.rpartition(".")
    inner = pickle.dumps(arguments, protocol=2)[2:-1]  # without its frame
    return b"\x80\x02}X\x01\x00\x00\x00ac" + f"{module}\n{name}\n".encode() + inner + b"Rs."


def forged_safetensors(path: Path, header: bytes, data: bytes = b"", length: int = -1) -> Path:
    """Write a safetensors file with any header, which may lie about its own length."""
    path.write_bytes(struct.pack("<Q", len(header) if length < 0 else length) + header + data)
    return path


def npz_with(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """Write a zip of raw members under the suffix .npz."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def npy_header(descr: str, shape: tuple[int, ...]) -> bytes:
    """Return the beginning of an .npy file that claims this dtype and shape."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return head.getvalue()
