"""The command line: lab, app, doctor, report, soup, data, and copies of the tutorials.

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
from typing import Any, get_args

from wskit import __version__, course
from wskit.errors import WskitError

FIRST = "00_start_here.ipynb"
# Tornado's own limit loses uploads over 10 MiB without a word.
WEBSOCKET_BYTES = 200 * 2**20
# A folder of Jupyter's settings: no question about news on the first screen.
LAB_SETTINGS = Path(__file__).with_name("_lab")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    options = make_parser(next((word for word in given if word[:1] != "-"), "")).parse_args(given)
    with warnings.catch_warnings():
        # One line, without the place in the code that a user cannot change.
        warnings.showwarning = lambda message, *_: print(f"wskit: {message}", file=sys.stderr)
        try:
            return options.run(options) or 0
        except WskitError as error:
            print(f"wskit: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return 130
        except BrokenPipeError:  # `wskit data list | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1


def make_parser(chosen: str) -> argparse.ArgumentParser:
    """Return the parser; only the command `chosen` has its arguments, for some load torch."""
    parser = argparse.ArgumentParser(prog="wskit", description="Neural networks' weights as data.")
    parser.add_argument("--version", action="version", version=f"wskit {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (add_arguments, run, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        command.set_defaults(run=run)
        if name == chosen:
            add_arguments(command)
    return parser


def _add_lab(lab: argparse.ArgumentParser) -> None:
    _add_server(lab, 8888)
    lab.add_argument(
        "--dir", type=Path, default="my-notebooks", help="your copies; default: my-notebooks"
    )
    lab.add_argument("jupyter", nargs="*", metavar="-- ...", help="further arguments of JupyterLab")


def _add_app(app: argparse.ArgumentParser) -> None:
    from wskit._apps import APPS

    app.add_argument("name", choices=APPS)
    app.add_argument("source", nargs="?", help="your own: esd takes a checkpoint, zoo a folder")
    _add_server(app, 8866)


def _add_server(command: argparse.ArgumentParser, port: int) -> None:
    command.add_argument("--no-browser", action="store_true", help="only print the address")
    command.add_argument(
        "--port", type=_read_port, help=f"default: {port}, or the next that is free"
    )


def _read_port(text: str) -> int:
    if not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to 65535, got {text}")
    return int(text)


def _read_device(text: str) -> str:
    import torch

    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no device that torch finds here") from error
    return text


def _add_folder(command: argparse.ArgumentParser) -> None:
    command.add_argument("dir", type=Path)


def _add_report(report: argparse.ArgumentParser) -> None:
    from wskit.spectra import ConvRule

    report.add_argument("checkpoint", help="a file, a folder, hf://org/name, or a name of the data")
    report.add_argument("-o", "--output", required=True, help="an .html file")
    report.add_argument("--with", dest="other", metavar="OTHER", help="weights to compare with")
    report.add_argument("--conv", default="slices", choices=get_args(ConvRule))
    report.add_argument(
        "--device", type=_read_device, help="where to compute, such as cuda; default: the CPU"
    )


def _add_soup(soup: argparse.ArgumentParser) -> None:
    from wskit._soup_command import METHODS

    soup.add_argument("ingredients", nargs="+", metavar="INGREDIENT", help="a file or a folder")
    soup.add_argument("-o", "--output", required=True, help="a .safetensors file, or a folder")
    soup.add_argument("--method", default="linear", choices=METHODS, help="default: linear")
    soup.add_argument("--coefficients", nargs="+", type=float, metavar="C", help="sum to 1")
    soup.add_argument("--base", help="what the ingredients were fine-tuned from")
    soup.add_argument("--t", type=float, help="slerp: 0 is the first ingredient, 1 the second")
    soup.add_argument("--density", type=float, help="share of the changes to keep")
    soup.add_argument(
        "--scale", type=float, help="factor of the changes that are added to the base"
    )
    soup.add_argument("--seed", type=int, help="seed of the choice of changes that dare keeps")
    soup.add_argument("--shard-size", default="5GB", help="of a folder's files; default: 5GB")
    soup.add_argument(
        "--copy-from", type=int, metavar="N", help="copy the N-th ingredient's configuration too"
    )


def _add_data(data: argparse.ArgumentParser) -> None:
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


def _lab(options: argparse.Namespace) -> None:
    try:
        from jupyterlab.labapp import LabApp
    except ImportError as error:
        raise WskitError(
            f"expected JupyterLab, which is not installed ({error}): pip install 'wskit[lab]'"
        ) from error
    copies = course.copy_notebooks(options.dir)
    _print_copies(copies)
    paths = [str(LAB_SETTINGS), *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(paths)
    LabApp.launch_instance(argv=_lab_arguments(copies.folder.resolve(), options))


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


def _app(options: argparse.Namespace) -> None:
    from wskit._apps import serve_app

    serve_app(options.name, options.source, port=options.port, browser=not options.no_browser)


def _doctor(_: argparse.Namespace) -> None:
    from wskit._doctor import examine

    print(*examine(), sep="\n")


def _report(options: argparse.Namespace) -> None:
    from wskit import report

    report.check_target(options.output)  # before the work, not after it
    found = report.examine(
        options.checkpoint,
        other=options.other,
        conv=options.conv,
        device=options.device,
        progress=sys.stderr.isatty(),
    )
    print(report.write_report(found, options.output))


def _soup(options: argparse.Namespace) -> None:
    from wskit._soup_command import run

    run(options)


def _copy_notebooks(options: argparse.Namespace) -> None:
    _print_copies(course.copy_notebooks(options.dir))


def _student_copies(options: argparse.Namespace) -> None:
    _print_copies(course.student_copies(options.dir))


def _print_copies(copies: course.Copies) -> None:
    print(f"{copies.folder}: {len(copies.new)} new, {len(copies.updated)} brought up to date")
    if copies.kept:
        print("left as you edited them:", ", ".join(path.name for path in copies.kept))
    if copies.beside:
        print("newer ones beside them:", ", ".join(path.name for path in copies.beside))


def _data_list(_: argparse.Namespace) -> None:
    from wskit import data

    table = data.catalog()
    megabytes = (table["bytes"] / 1e6).astype(object)
    table["MB"] = megabytes.map("{:.1f}".format, na_action="ignore").fillna("?")
    print(table[["package", "name", "MB", "cached", "licence"]].to_string(index=False))


def _data_fetch(options: argparse.Namespace) -> None:
    from wskit import data

    print(data.fetch(options.name))


def _data_verify(options: argparse.Namespace) -> int:
    from wskit import data

    table = data.verify(*options.names)
    if table.empty:
        print(f"no files in {data.cache_folder()}")
        return 0
    print(table.drop(columns="path").to_string(index=False))
    return 0 if set(table["state"]) <= {"ok", "unrecorded"} else 1


def _data_mirror(options: argparse.Namespace) -> None:
    from wskit import data

    print(*data.mirror(options.dir, *options.names), sep="\n")


def _add_nothing(_: argparse.ArgumentParser) -> None:
    pass


COMMANDS: dict[str, tuple[Any, Any, str]] = {
    "lab": (_add_lab, _lab, "open the tutorials in JupyterLab"),
    "app": (_add_app, _app, "open one panel as a page of its own"),
    "doctor": (_add_nothing, _doctor, "print versions, device, folders, what is missing"),
    "copy-notebooks": (_add_folder, _copy_notebooks, "write the tutorials to a folder"),
    "student-copies": (_add_folder, _student_copies, "write them without their solutions"),
    "report": (_add_report, _report, "write a page on a set of weights"),
    "soup": (_add_soup, _soup, "merge models that do not fit in memory"),
    "data": (_add_data, None, "the files that the tutorials can download"),
}


if __name__ == "__main__":
    sys.exit(main())
