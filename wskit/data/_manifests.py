"""What the manifests describe: one `Resource` a file.

A manifest is a Frictionless Data Package (v2) with a few ``wskit:`` properties: ``wskit:urls``
(where the file is, in order of preference), ``wskit:citation``, ``wskit:kind``,
``wskit:maxBytes`` and ``wskit:sha256Prefix`` (bounds on a file whose size or hash is not known),
``wskit:unknown`` (the fields that are not known) and ``wskit:note``.
"""

import difflib
import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar, cast, get_args
from urllib.parse import urlsplit

from wskit.errors import DataError

Kind = Literal["weights", "dataset", "zoo"]

# No leading dot or slash, no backslash, no drive: such a path cannot leave its folder. It is short
# enough for every file system, with what is added to it while a file is on its way.
_SAFE_PATH = re.compile(r"(?=.{1,200}$)[A-Za-z0-9][\w.+-]*(/[A-Za-z0-9][\w.+-]*)*", re.ASCII)
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{0,64}")
_URL = re.compile(r"https?://[!-~]+")
_MAX_SIZE = 1 << 63  # bytes; a table of sizes holds no more
_KINDS = {str: "a text", list: "a list", int: "a whole number"}

T = TypeVar("T")


@dataclass(frozen=True)
class Resource:
    """One file that a manifest describes.

    Attributes
    ----------
    name : str
        Unique over all manifests; what `wskit.data.fetch` takes.
    package : str
        The manifest that describes it, and its folder in the cache.
    title : str
        One line on what it is.
    kind : {"weights", "dataset", "zoo"}
        Weights of one model, images with labels, or the weights of many models.
    file : str
        Path inside the package's folder, with forward slashes.
    bytes : int or None
        Size; None where nobody published it.
    max_bytes : int
        A download larger than this is refused: `bytes` where known, else the manifest's bound.
    sha256 : str or None
        Hexadecimal digest; None where nobody published it.
    sha256_prefix : str
        What is known of a digest that is not known in full; mostly empty.
    licence, source, citation : str
        Licence ("unknown" where the authors state none), origin, BibTeX entry.
    urls : tuple of str
        Where to download it, tried in this order.
    unknown : tuple of str
        The manifest's fields that are declared unknown.
    note : str
        Remarks of the manifest; mostly empty.
    """

    name: str
    package: str
    title: str
    kind: Kind
    file: str
    bytes: int | None
    max_bytes: int
    sha256: str | None
    sha256_prefix: str
    licence: str
    source: str
    citation: str
    urls: tuple[str, ...]
    unknown: tuple[str, ...]
    note: str


def manifest_folder() -> Path:
    """Return the folder of the manifests: in the wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "_data_manifests"
    return shipped if shipped.is_dir() else package.parent / "data_manifests"


def resources() -> tuple[Resource, ...]:
    """Return every resource of every manifest, package by package.

    Raises
    ------
    DataError
        If a manifest cannot be read, or two resources have the same name.
    """
    folder = manifest_folder()
    found = [r for path in sorted(folder.glob("*.json")) for r in _read(path)]
    if not found:
        raise DataError(f"{folder} holds no manifest (*.json): reinstall wskit")
    seen: dict[str, str] = {}
    for r in found:
        if r.name in seen or r.name in {other.package for other in found}:
            raise DataError(
                f"manifest {r.package}.json names a resource {r.name!r}, which is also the name of "
                f"a package or of a resource of {seen.get(r.name, r.name)}.json: rename one"
            )
        seen[r.name] = r.package
    return tuple(found)


def select(name: str) -> tuple[Resource, ...]:
    """Return the resource called `name`, or all resources of the package called `name`.

    Raises
    ------
    DataError
        If there is neither; the message proposes close names.
    """
    if not isinstance(name, str):
        raise DataError(
            f"expected the name of a resource or package, got {name!r:.80}; `wskit data list` and "
            "data.catalog() show all"
        )
    known = resources()
    chosen = tuple(r for r in known if name in (r.name, r.package))
    if chosen:
        return chosen
    names = sorted({r.name for r in known} | {r.package for r in known})
    close = difflib.get_close_matches(name, names, n=3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise DataError(
        f"no manifest has a resource or package called {name!r}; {hint}"
        "`wskit data list` and data.catalog() show all"
    )


def describe(name: str) -> Resource:
    """Return what the manifest says of one file: size, licence, citation; nothing is downloaded.

    Raises
    ------
    DataError
        If no resource has this name. A package's name is refused with the names of its resources.

    Examples
    --------
    >>> describe("cifar-resnet20").bytes
    1099231
    """
    chosen = select(name)
    if chosen[0].name != name:
        raise DataError(
            f"{name!r} is a package of {len(chosen)} files; describe one of them: "
            f"{', '.join(r.name for r in chosen)}"
        )
    return chosen[0]


def _read(path: Path) -> list[Resource]:
    """Read one manifest, believing nothing of what it says."""
    try:
        package = json.loads(path.read_text(encoding="utf-8"))
        if _get(package, "name", str) != path.stem:
            raise ValueError(f"its name is {package['name']!r}, its file {path.name}")
        found = [_resource(entry, package) for entry in _get(package, "resources", list)]
        if not found:
            raise ValueError("it has no resources")
        _check_apart([r.file for r in found])
        return found
    except RecursionError as error:
        reason = "it is nested too deeply"
        raise DataError(f"manifest {path} cannot be used: {reason}; mend or remove it") from error
    except ValueError as error:
        raise DataError(f"manifest {path} cannot be used: {error}; mend or remove it") from error
    except OSError as error:
        raise DataError(
            f"manifest {path} cannot be read: {error.strerror}; mend or remove it"
        ) from error


def _resource(entry: object, package: dict[str, Any]) -> Resource:
    """Turn a resource of a descriptor into a `Resource`; raise ValueError."""
    name = _get(entry, "name", str)
    try:
        return _described(name, cast("dict[str, Any]", entry), package)
    except ValueError as error:
        raise ValueError(f"resource {name!r}: {error}") from error


def _described(name: str, entry: dict[str, Any], package: dict[str, Any]) -> Resource:
    file, kind = _get(entry, "path", str), _get(package, "wskit:kind", str)
    for value in (name, package["name"], file):
        if not _SAFE_PATH.fullmatch(value):
            raise ValueError(f"{value!r} is not a plain path inside a folder")
    if "/" in name:
        raise ValueError("a name has no slash")
    if kind not in get_args(Kind):
        raise ValueError(f"wskit:kind {kind!r} is not one of {get_args(Kind)}")
    sha256 = _get(entry, "hash", str) if "hash" in entry else None
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise ValueError(f"hash {sha256!r} is not sha256:<64 hex digits>")
    prefix = _get(entry, "wskit:sha256Prefix", str, "")
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(f"wskit:sha256Prefix {prefix!r} is not the beginning of a sha256")
    urls = _texts(entry, "wskit:urls")
    if not urls or not all(map(_is_address, urls)):
        raise ValueError(f"wskit:urls {urls!r} are not http(s) addresses")
    size = None if entry.get("bytes") is None else _size(entry, "bytes")
    licences = _get(package, "licenses", list, [])
    return Resource(
        name=name,
        package=package["name"],
        title=_get(entry, "title", str),
        kind=cast("Kind", kind),
        file=file,
        bytes=size,
        max_bytes=_size(entry, "wskit:maxBytes") if size is None else size,
        sha256=sha256 and sha256.removeprefix("sha256:"),
        sha256_prefix=prefix,
        licence="; ".join(_get(x, "name", str) for x in licences) or "unknown",
        source="; ".join(_get(x, "path", str) for x in _get(package, "sources", list)),
        citation=_get(package, "wskit:citation", str),
        urls=urls,
        unknown=(*_texts(package, "wskit:unknown"), *_texts(entry, "wskit:unknown")),
        note=_get(entry, "wskit:note", str, ""),
    )


def _get(values: object, field: str, kind: type[T], *default: T) -> T:
    """Return a field of an object, if it is one and the field is of this kind."""
    if not isinstance(values, dict):
        raise ValueError(f"expected an object with the field {field!r}, got {values!r:.80}")
    if field not in values:
        if default:
            return default[0]
        raise ValueError(f"it lacks the field {field!r}")
    found = values[field]
    if type(found) is not kind:  # True is no number here
        raise ValueError(f"{field} is {found!r:.80}, expected {_KINDS[kind]}")
    if isinstance(found, str) and not found.isprintable():
        raise ValueError(f"{field} is {found!r:.80}, expected one line without control characters")
    return found


def _texts(values: dict[str, Any], field: str) -> tuple[str, ...]:
    """Return a field that is a list of texts; empty if there is none."""
    return tuple(_get({field: text}, field, str) for text in _get(values, field, list, []))


def _size(entry: dict[str, Any], field: str) -> int:
    """Return a field that is a number of bytes."""
    found = _get(entry, field, int)
    if not 0 < found < _MAX_SIZE:
        raise ValueError(f"{field} is {found!r:.40}, which no file has")
    return found


def _is_address(url: str) -> bool:
    """Tell whether this is an http(s) address that can be asked."""
    try:
        parts = urlsplit(url)
        return bool(_URL.fullmatch(url) and parts.hostname and parts.port != 0)
    except ValueError:  # of the port or the brackets
        return False


def _check_apart(files: list[str]) -> None:
    """Raise ValueError unless each file can lie beside the others, whatever the file system."""
    known = {file.lower() for file in files}
    if len(known) < len(files):
        raise ValueError("two of its resources have the same path")
    for file in known:
        for parent in PurePosixPath(file).parents:
            if str(parent) in known:
                raise ValueError(f"the path {str(parent)!r} is a file's and a folder's")
