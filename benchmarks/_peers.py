"""Make the peers' environments, each with pinned versions, under `benchmarks/.peers`.

    python benchmarks/_peers.py [weightwatcher mergekit lightgbm]      or: make peers

An environment holds what pip installs for a peer, and sees the packages of the running one for all
else, torch above all, so that both sides compute with the same. Peers that need none are torch's
`swa_utils`, plain PyTorch loops and powerlaw 2.0, which come with wskit.
"""

import argparse
import os
import subprocess
import sys
import sysconfig
import venv
from importlib import metadata
from pathlib import Path

FOLDER = Path(__file__).parent / ".peers"
PEERS = {
    "weightwatcher": ("weightwatcher==0.7.7", "powerlaw==1.5"),
    "mergekit": ("mergekit==0.1.5",),
    "lightgbm": ("lightgbm==4.7.0",),
}
MISSING = "not measured: its environment is missing (`make peers`)"


def python_of(peer: str) -> Path | None:
    """Return the interpreter of a peer's environment, or None where it was not made."""
    folder = FOLDER / peer
    return _python(folder) if (folder / "ready").exists() else None


def packages_of(peer: str) -> Path | None:
    """Return the folder of a peer's packages, or None where they are missing."""
    return None if python_of(peer) is None else _packages(FOLDER / peer)


def make(peer: str) -> None:
    """Make an environment anew."""
    folder = FOLDER / peer
    venv.create(folder, with_pip=True, clear=True)
    # Packages of the running environment come after those of this one.
    (_packages(folder) / "running.pth").write_text(sysconfig.get_path("purelib"))
    same = folder / "constraints.txt"
    same.write_text(f"torch=={metadata.version('torch').split('+')[0]}\n")
    pip = [str(_python(folder)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-compile", "-c", str(same), *PEERS[peer]], check=True)
    (folder / "ready").write_text("\n".join(PEERS[peer]) + "\n")


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _packages(folder: Path) -> Path:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return folder / ("Lib" if os.name == "nt" else f"lib/{version}") / "site-packages"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", nargs="*", metavar="peer", help=", ".join(PEERS))
    for peer in parser.parse_args().peers or PEERS:
        ready = FOLDER / peer / "ready"
        if not ready.exists() or ready.read_text().split() != list(PEERS[peer]):
            make(peer)
        print(f"{peer}: {', '.join(PEERS[peer])}")


if __name__ == "__main__":
    main()
