"""The command line: lab, app, doctor, data, soup, and copies of the tutorials.

Only arguments and printing are here. What goes wrong on purpose (`WskitError`) is one line on
stderr and exit status 2; an interruption is 130.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from wskit import __version__, course
from wskit.errors import WskitError

FIRST = "00_start_here.ipynb"
APPS = ("esd", "zoo", "regions", "swa", "soups")
CONV = ("slices", "unfold", "per-slice", "fft")
METHODS = ("linear", "slerp", "task", "ties", "dare", "model-stock")
# Tornado's own limit loses uploads over 10 MiB without a word.
WEBSOCKET_BYTES = 200 * 2**20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status."""
    options = _parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.showwarning = _print_warning
        try:
            status: int = options.run(options)
        except WskitError as error:
            print(f"wskit: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return 130
        except BrokenPipeError:  # `wskit data list | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wskit", description="Neural networks' weights as data.")
    parser.add_argument("--version", action="version", version=f"wskit {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    lab = commands.add_parser("lab", help="open the tutorials in JupyterLab")
    lab.add_argument("--no-browser", action="store_true", help="only print the address")
    lab.add_argument("--port", type=int, help="default: 8888, or the next that is free")
    lab.add_argument("--dir", type=Path, help="copy the tutorials there and work in the copies")
    lab.add_argument("jupyter", nargs="*", metavar="-- ...", help="further arguments of JupyterLab")
    lab.set_defaults(run=_lab)

    _add_app(commands.add_parser("app", help="open one panel as a page of its own"))

    doctor = commands.add_parser("doctor", help="print versions, device, folders, what is missing")
    doctor.set_defaults(run=_doctor)

    for name, run, text in (
        ("copy-notebooks", _copy_notebooks, "write the tutorials to a folder"),
        ("student-copies", _student_copies, "write the tutorials without their solutions"),
        ("grading-sources", _grading_sources, "write them as nbgrader's source assignments"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("dir", type=Path)
        command.set_defaults(run=run)

    slides = commands.add_parser("slides", help="write the tutorials' slides, a file each")
    slides.add_argument("names", nargs="*", metavar="NAME", help="01_esd, or 01; default: all")
    slides.add_argument("-o", "--output", required=True, type=Path, metavar="DIR")
    slides.set_defaults(run=_slides)

    _add_report(commands.add_parser("report", help="write a page on a set of weights"))
    _add_soup(commands.add_parser("soup", help="merge models that do not fit in memory"))

    data = commands.add_parser("data", help="the files that the tutorials can download")
    actions = data.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("list", help="what there is").set_defaults(run=_data_list)
    fetch = actions.add_parser("fetch", help="download and check a file or a package")
    fetch.add_argument("name")
    fetch.set_defaults(run=_data_fetch)
    verify = actions.add_parser("verify", help="check the files in the cache; exit 1 if any is bad")
    verify.add_argument("names", nargs="*", metavar="NAME")
    verify.set_defaults(run=_data_verify)
    mirror = actions.add_parser("mirror", help="fill a folder for a room without internet")
    mirror.add_argument("dir", type=Path)
    mirror.add_argument("names", nargs="*", metavar="NAME")
    mirror.set_defaults(run=_data_mirror)
    return parser


def _add_app(app: argparse.ArgumentParser) -> None:
    app.add_argument("name", choices=APPS)
    app.add_argument(
        "source", nargs="?", type=Path, help="your own: esd takes a checkpoint, zoo a folder"
    )
    app.add_argument("--no-browser", action="store_true", help="only print the address")
    app.add_argument("--port", type=int, help="default: 8866, or another that is free")
    app.set_defaults(run=_app)


def _add_report(report: argparse.ArgumentParser) -> None:
    report.add_argument("checkpoint", help="a file, a folder, hf://org/name, or a name of the data")
    report.add_argument("-o", "--output", required=True, help="an .html file")
    report.add_argument("--with", dest="other", metavar="OTHER", help="weights to compare with")
    report.add_argument("--conv", default="slices", choices=CONV, help="default: slices")
    report.add_argument("--device", help="where to compute, as cuda; default: the CPU")
    report.set_defaults(run=_report)


def _add_soup(soup: argparse.ArgumentParser) -> None:
    soup.add_argument("ingredients", nargs="+", metavar="INGREDIENT", help="a file or a folder")
    soup.add_argument("-o", "--output", required=True, help="a .safetensors file, or a folder")
    soup.add_argument("--method", default="linear", choices=METHODS, help="default: linear")
    soup.add_argument("--coefficients", nargs="+", type=float, metavar="C", help="sum to 1")
    soup.add_argument("--base", help="what the ingredients were fine-tuned from")
    soup.add_argument("--t", type=float, help="slerp: 0 is the first ingredient, 1 the second")
    soup.add_argument("--density", type=float, help="the share of the changes that is kept")
    soup.add_argument("--scale", type=float, help="of the changes that are added to the base")
    soup.add_argument("--seed", type=int, help="of the changes that dare keeps")
    soup.add_argument("--shard-size", default="5GB", help="of a folder's files; default: 5GB")
    soup.add_argument(
        "--copy-from", type=int, metavar="N", help="copy the N-th ingredient's configuration too"
    )
    soup.set_defaults(run=_soup)


def _lab(options: argparse.Namespace) -> int:
    try:
        from jupyterlab.labapp import LabApp
    except ImportError as error:
        raise WskitError(
            f"expected JupyterLab, which is not installed ({error}): pip install 'wskit[lab]'"
        ) from error
    folder = course.notebooks_folder()
    in_wheel = folder.name == "_notebooks"  # nobody should work inside site-packages
    if options.dir or in_wheel:
        copies = course.copy_notebooks(options.dir or "wskit-notebooks", changed="keep")
        _print_copies(copies)
        folder = copies.folder
    LabApp.launch_instance(argv=_lab_arguments(folder.resolve(), options))
    return 0


def _app(options: argparse.Namespace) -> int:
    from wskit._apps import run

    return run(options)


def _lab_arguments(folder: Path, options: argparse.Namespace) -> list[str]:
    arguments = [
        f"--ServerApp.root_dir={folder}",
        f"--LabApp.default_url=/lab/tree/{FIRST}",
        # Each start would ask a server for newer versions, and the manager of extensions too.
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
        f"--ServerApp.tornado_settings={{'websocket_max_message_size': {WEBSOCKET_BYTES}}}",
    ]
    if options.no_browser:
        arguments.append("--no-browser")
    if options.port is not None:
        arguments.append(f"--ServerApp.port={options.port}")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        # The only user of many a container. The server still listens on this machine alone, and
        # still asks for its token.
        arguments.append("--allow-root")
    return [*arguments, *options.jupyter]


def _doctor(_: argparse.Namespace) -> int:
    from wskit._doctor import examine

    lines, sound = examine()
    print(*lines, sep="\n")
    return 0 if sound else 1


def _report(options: argparse.Namespace) -> int:
    from wskit._report_command import run

    return run(options)


def _soup(options: argparse.Namespace) -> int:
    from wskit._soup_command import run

    return run(options)


def _copy_notebooks(options: argparse.Namespace) -> int:
    _print_copies(course.copy_notebooks(options.dir))
    return 0


def _student_copies(options: argparse.Namespace) -> int:
    _print_copies(course.student_copies(options.dir))
    return 0


def _grading_sources(options: argparse.Namespace) -> int:
    _print_copies(course.grading_sources(options.dir))
    return 0


def _slides(options: argparse.Namespace) -> int:
    from wskit._slides import write_slides

    print(*write_slides(options.output, options.names), sep="\n")
    return 0


def _print_copies(copies: course.Copies) -> None:
    print(f"{copies.folder}: {len(copies.written)} new")
    if copies.kept:
        print("left as you changed them:", ", ".join(path.name for path in copies.kept))


def _data_list(_: argparse.Namespace) -> int:
    from wskit import data

    table = data.catalog()
    megabytes = (table["bytes"] / 1e6).astype(object)
    table["MB"] = megabytes.map("{:.1f}".format, na_action="ignore").fillna("?")
    print(table[["package", "name", "MB", "cached", "licence"]].to_string(index=False))
    return 0


def _data_fetch(options: argparse.Namespace) -> int:
    from wskit import data

    print(data.fetch(options.name))
    return 0


def _data_verify(options: argparse.Namespace) -> int:
    from wskit import data

    table = data.verify(*options.names)
    if table.empty:
        print(f"no files in {data.cache_folder()}")
        return 0
    print(table.drop(columns="path").to_string(index=False))
    return 0 if set(table["state"]) <= {"ok", "unrecorded"} else 1


def _data_mirror(options: argparse.Namespace) -> int:
    from wskit import data

    paths = data.mirror(options.dir, *options.names)
    print(*paths, sep="\n")
    return 0


def _print_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning as one line, without the place in the code that a user cannot change."""
    print(f"wskit: {message}", file=file or sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
