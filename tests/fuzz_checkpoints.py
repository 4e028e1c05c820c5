"""Coverage-guided fuzzing of `open_checkpoint`; `make fuzz` runs it. Needs the extra `fuzz`.

``python tests/fuzz_checkpoints.py [seconds]``: every input must open and give its tensors, or be
refused by a `CheckpointError` of one line. Anything else ends the run, with the input in a file.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["wskit"]):
    from wskit.checkpoints import open_checkpoint, save_weights
    from wskit.errors import CheckpointError

import numpy as np
import torch

warnings.simplefilter("ignore")
SUFFIXES = (".safetensors", ".pt", ".npz", ".index.json", ".th", ".npy")
FOLDER = Path(tempfile.mkdtemp())


def try_input(data: bytes) -> None:
    """Open one file whose first byte chooses the suffix."""
    if not data:
        return
    path = FOLDER / f"w{SUFFIXES[data[0] % len(SUFFIXES)]}"
    path.write_bytes(data[1:])
    try:
        with open_checkpoint(path, max_bytes=2**20) as found:
            for name in found:
                assert found[name].shape == found.shape(name)
    except CheckpointError as error:
        assert "\n" not in str(error)


def seeds() -> Path:
    """Write whole files to begin with."""
    folder = FOLDER / "seeds"
    folder.mkdir()
    weights = {"a": torch.ones(2, 3), "b": torch.zeros(2, dtype=torch.int64)}
    save_weights(weights, FOLDER / "s.safetensors")
    torch.save(weights, FOLDER / "s.pt")
    torch.save(weights, FOLDER / "s.th", _use_new_zipfile_serialization=False)
    np.savez(FOLDER / "s.npz", a=np.ones(3))
    (FOLDER / "s.index.json").write_text('{"weight_map": {"a": "s.safetensors"}}')
    for number, suffix in enumerate(SUFFIXES[:5]):
        whole = (FOLDER / f"s{suffix}").read_bytes()
        (folder / suffix[1:]).write_bytes(bytes([number]) + whole)
    return folder


if __name__ == "__main__":
    seconds = sys.argv[1] if len(sys.argv) > 1 else "60"
    arguments = [sys.argv[0], f"-max_total_time={seconds}", "-max_len=4096", "-rss_limit_mb=4096"]
    atheris.Setup([*arguments, str(seeds())], try_input)
    atheris.Fuzz()
