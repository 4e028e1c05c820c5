"""``wskit report``: which weights, and where the page goes; what it says is elsewhere."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

import torch

from wskit import data
from wskit.checkpoints import Checkpoint, open_checkpoint
from wskit.errors import WskitError
from wskit.report import check_target, examine, write_report


def run(options: argparse.Namespace) -> int:
    """Examine weights, write the page, and print its path."""
    check_target(options.output)  # before the work, not after it
    _check_device(options.device)
    show = sys.stderr.isatty()
    with ExitStack() as stack:
        weights = stack.enter_context(_open(options.checkpoint))
        other = stack.enter_context(_open(options.other)) if options.other else None
        report = examine(
            weights, other=other, conv=options.conv, device=options.device, progress=show
        )
        print(write_report(report, options.output))
    return 0


def _check_device(device: str | None) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise WskitError(
            f"--device {device}: expected a device of this machine, as cpu or cuda, but torch has "
            "none of that name here; leave it out"
        ) from error


def _open(source: str) -> Checkpoint:
    """Open a path or a ``hf://`` reference as it is; of any other name ask the manifests."""
    if source.startswith("hf://") or Path(source).expanduser().exists():
        return open_checkpoint(source)
    catalog = data.catalog()
    catalog = catalog[catalog["kind"] == "weights"]
    if source in set(catalog["package"]) - set(catalog["name"]):
        members = ", ".join(catalog["name"][catalog["package"] == source])
        raise WskitError(f"{source}: it is a package of several files; choose one of {members}")
    if source not in set(catalog["name"]):
        raise WskitError(
            f"{source}: expected a file, a folder, hf://org/name, or a name of `wskit data list`, "
            "found none of these; check its spelling"
        )
    return open_checkpoint(data.fetch(source, progress=sys.stderr.isatty()))
