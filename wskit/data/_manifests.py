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
from pathlib import Path
from typing import Any, Literal, get_args

from wskit.errors import DataError

Kind = Literal["weights", "dataset", "zoo"]

# No leading dot or slash, no backslash, no drive: such a path cannot leave its folder.
_SAFE_PATH = re.compile(r"[A-Za-z0-9][\w.+-]*(/[A-Za-z0-9][\w.+-]*)*", re.ASCII)
_SHA256 = re.compile(r"sha256:([0-9a-f]{64})")


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
    """Read one manifest."""
    try:
        package = json.loads(path.read_text(encoding="utf-8"))
        if package["name"] != path.stem:
            raise ValueError(f"its name is {package['name']!r}, its file {path.name}")
        return [_resource(entry, package) for entry in package["resources"]]
    except KeyError as error:
        raise DataError(f"manifest {path} lacks the field {error}: mend or remove it") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"manifest {path} cannot be used: {error}; mend or remove it") from error


def _resource(entry: dict[str, Any], package: dict[str, Any]) -> Resource:
    """Turn a resource of a descriptor into a `Resource`; raise ValueError or KeyError."""
    name, file, size = entry["name"], entry["path"], entry.get("bytes")
    for value in (package["name"], file):
        if not isinstance(value, str) or not _SAFE_PATH.fullmatch(value):
            raise ValueError(f"resource {name!r}: {value!r} is not a plain path inside a folder")
    sha256 = _SHA256.fullmatch(entry["hash"]) if "hash" in entry else None
    if "hash" in entry and sha256 is None:
        raise ValueError(f"resource {name!r}: hash {entry['hash']!r} is not sha256:<64 hex digits>")
    urls = tuple(entry["wskit:urls"])
    if not urls or not all(url.startswith(("https://", "http://")) for url in urls):
        raise ValueError(f"resource {name!r}: wskit:urls {urls!r} are not http(s) addresses")
    if package["wskit:kind"] not in get_args(Kind):
        raise ValueError(f"wskit:kind {package['wskit:kind']!r} is not one of {get_args(Kind)}")
    return Resource(
        name=name,
        package=package["name"],
        title=entry["title"],
        kind=package["wskit:kind"],
        file=file,
        bytes=size,
        max_bytes=entry["wskit:maxBytes"] if size is None else size,
        sha256=sha256[1] if sha256 else None,
        sha256_prefix=entry.get("wskit:sha256Prefix", ""),
        licence="; ".join(x["name"] for x in package.get("licenses", [])) or "unknown",
        source="; ".join(x["path"] for x in package["sources"]),
        citation=package["wskit:citation"],
        urls=urls,
        unknown=(*package.get("wskit:unknown", ()), *entry.get("wskit:unknown", ())),
        note=entry.get("wskit:note", ""),
    )
