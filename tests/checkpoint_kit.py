"""Files for the checkpoints' tests: one set of weights in every format, and forged ones."""

import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

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
