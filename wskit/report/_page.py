"""A report as one page that needs nothing else."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath

import pandas as pd

from wskit._exchange import atomic, writing
from wskit._texts import DASH, size_text
from wskit.errors import CheckpointError, ReportError
from wskit.report import _tables as tables
from wskit.report._pictures import Picture, depth_picture, spectrum_picture
from wskit.report._report import Comparison, Provenance, Report, Specimen
from wskit.report._style import STYLE
from wskit.report._tables import safe, save_link, table

# Nothing is loaded and no script runs, whatever a tensor's name says.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"
_MARK = '<meta name="generator" content="wskit report">'
_HEAD = 1000  # bytes of a page that hold its mark

_WORDS = {
    "Spectrum": "The eigenvalues of WᵀW, where W is a layer's weight as a matrix: its squared "
    "singular values. Those of a random matrix follow the Marchenko-Pastur law, a bulk with "
    "sharp edges.",
    "α": "The exponent of the power law that the largest eigenvalues follow, density ∝ λ^-α. The "
    "smaller, the heavier the tail. In well-trained networks it was found between 2 and 6 "
    "(Martin, Peng and Mahoney 2021).",
    "Spikes": "Eigenvalues beyond the edge of the Marchenko-Pastur bulk.",
    "Phase": "What a spectrum looks like, from random-like over bulk+spikes and bulk-decay to "
    "heavy-tailed; and rank-collapse (Martin and Mahoney 2021). The thresholds are wskit's.",
    "Verdict": "trained: bulk+spikes, bulk-decay or heavy-tailed. random: random-like, or "
    "bleeding-out. collapsed: rank-collapse. unclear: under 50 eigenvalues, none beyond the edge "
    "of chance, no law that fits, or a product of factors.",
    "Stable rank": "The squared Frobenius norm over the squared spectral norm: how many "
    "directions matter.",
    "Shuffled weights": "The same entries in random order: what remains of a spectrum without "
    "any correlation.",
}


def write_report(report: Report, path: str | os.PathLike[str]) -> Path:
    """Write a report as one HTML file that loads nothing and runs nothing.

    It is written beside its target and moved into place when it is whole. A file that is there
    is replaced only if it is an earlier report.

    Parameters
    ----------
    report : Report
        Of `examine`.
    path : str or path
        The target, whose suffix is ``.html``, in a folder that exists.

    Returns
    -------
    Path
        The target's path.

    Raises
    ------
    ReportError
        If the suffix or the folder is not as said, another file is there, or it cannot be written.

    Examples
    --------
    >>> import tempfile, torch
    >>> from wskit.report import examine
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_report(examine({"fc.weight": torch.eye(4)}), f"{folder}/report.html")
    ...     path.read_text(encoding="utf-8")[:15]
    '<!DOCTYPE html>'
    """
    target = check_target(path)
    content = page(report).encode("utf-8")
    with _reporting(), atomic(target) as file:
        file.write(content)
    return target


def check_target(path: str | os.PathLike[str]) -> Path:
    """Return where a report is to be written; refuse a place where it could not be.

    Parameters
    ----------
    path : str or path
        As for `write_report`.

    Returns
    -------
    Path

    Raises
    ------
    ReportError
        As `write_report`.

    Examples
    --------
    >>> check_target("report.html").name
    'report.html'
    """
    target = Path(path).expanduser()
    if target.suffix.lower() not in (".html", ".htm"):
        raise ReportError(f"{target}: expected a name that ends in .html; a report is a web page.")
    with _reporting(), writing(target):
        has_parent, is_taken = target.parent.is_dir(), target.exists() and not _is_report(target)
    if not has_parent:
        raise ReportError(f"{target}: expected the folder {target.parent} to exist; make it first.")
    if is_taken:
        raise ReportError(
            f"{target}: expected a new name or an earlier report, found something else; choose "
            "another name."
        )
    return target


@contextmanager
def _reporting() -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise ReportError(str(error)) from error


def _is_report(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return _MARK.encode() in file.read(_HEAD)


def page(report: Report) -> str:
    """Return the page as text."""
    title = _title(report.provenance)
    sections = [
        _in_short(report),
        _specimens("Layers worth a look", report.specimens, report.spectral),
        _by_depth(report),
        *([_comparison(report.comparison)] if report.comparison else []),
        _all_tables(report),
        _words(),
        _origin(report),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{_MARK}\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{safe(title)}: weights examined</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<header><h1>{safe(title)}</h1><p class="soft">The weights, examined by wskit '
        f"{safe(report.provenance.versions['wskit'])} on {safe(report.provenance.date)}</p>"
        f"</header>\n<main>\n{''.join(sections)}</main>\n</body>\n</html>\n"
    )


def _title(found: Provenance) -> str:
    if found.files.empty:
        return f"Weights in memory ({found.source})"
    return PurePath(found.source).name or found.source


def _section(title: str, *parts: str) -> str:
    return f"<section>\n<h2>{safe(title)}</h2>\n{''.join(parts)}</section>\n"


def _in_short(report: Report) -> str:
    *found, limits = report.summary
    lead = f'<p class="lead">{safe(" ".join(found[:3]))}</p>'
    rest = "".join(f"<li>{safe(sentence)}</li>" for sentence in found[3:])
    doubts = f"<p>To be wary of:</p><ul>{rest}</ul>" if rest else ""
    remarkable = "".join(
        f"<li><code>{safe(s.name)}</code>: {safe(s.why)}</li>" for s in report.specimens
    )
    items = f"<p>Worth a look are:</p><ul>{remarkable}</ul>" if remarkable else ""
    limits = f'<p class="soft">{safe(limits)}</p>'
    return _section("In short", lead, _cards(report), items, doubts, limits)


def _cards(report: Report) -> str:
    has = report.spectral["log_norm"].notna()
    sound = report.spectral[report.spectral["warning"] == ""]["alpha"].dropna()
    cards = {
        "parameters": f"{report.provenance.n_parameters:,}",
        "layers with a spectrum": str(int(has.sum())),
        "of them look trained": str(int((report.remarks["verdict"] == "trained").sum())),
        "median α, where it can be read": f"{sound.median():.2f}" if len(sound) else DASH,
    }
    if report.comparison:
        moved = report.comparison.distances
        compared = int((moved["reason"] == "").sum())
        cards["tensors compared"] = str(compared)
    texts = "".join(
        f"<div><dd>{safe(value)}</dd><dt>{safe(key)}</dt></div>" for key, value in cards.items()
    )
    return f'<dl class="cards">{texts}</dl>'


def _specimens(title: str, specimens: Sequence[Specimen], table: pd.DataFrame) -> str:
    if not specimens:
        return ""
    n = int(table["log_norm"].notna().sum())
    note = (
        f'<p class="soft">{len(specimens)} of {n} layers with a spectrum. Blue are the '
        "eigenvalues; grey is what the same entries give in random order.</p>"
    )
    figures = "".join(map(_specimen, specimens))
    return _section(title, note, f'<div class="pictures">{figures}</div>\n')


def _specimen(specimen: Specimen) -> str:
    s = specimen.spectrum
    phase = f", {specimen.laws.phase}" if specimen.laws.phase else ""
    caption = f"{size_text(s)}{phase}: {specimen.why}."
    if specimen.null is None:
        caption += " Shuffled weights are not shown: too many, or factors of a product."
    picture = _image(spectrum_picture(specimen), f"Spectrum of {specimen.name}. ")
    return (
        f"<figure><h3>{safe(specimen.name)}</h3>{picture}"
        f"<figcaption>{safe(caption)}</figcaption></figure>\n"
    )


def _image(picture: Picture, about: str) -> str:
    return (
        f'<img src="{picture.address}" width="{picture.width}" height="{picture.height}" '
        f'alt="{safe(about)}{_lines(picture.description)}">'
    )


def _lines(text: str) -> str:
    return "&#10;".join(safe(line) for line in text.split("\n"))


def _by_depth(report: Report) -> str:
    shown = report.spectral[report.spectral["log_norm"].notna()]
    if shown["alpha"].notna().sum() < 2:
        return ""
    picture = depth_picture(shown, "alpha", x="layer, in the order of the weights", y=r"$\alpha$")
    note = (
        "<p>Hollow points have a warning, which the table of remarks gives in words: read "
        "nothing into them.</p>"
    )
    return _section("α through the depth", note, _image(picture, "Alpha of each layer. "))


def _comparison(found: Comparison) -> str:
    parts = [f'<p class="lead">{safe(" ".join(found.summary))}</p>']
    compared = found.distances[found.distances["reason"] == ""]
    if len(compared) > 1:
        picture = depth_picture(
            compared, "relative", x="tensor, in the order of the weights", y="distance / length"
        )
        parts.append(_image(picture, "Distance of each tensor, over the length of the other's. "))
    figures = "".join(map(_specimen, found.specimens))
    if figures:
        parts.append("<p>Spectra of the difference, where there is most to see:</p>")
        parts.append(f'<div class="pictures">{figures}</div>')
    return _section("Compared with the other weights", *parts)


def _all_tables(report: Report) -> str:
    n, file = len(report.spectral), report.provenance
    parts = [
        _details(
            f"Remarks on {n} layers",
            table("What to say of each layer, from the first on.",
                  tables.remark_columns(report.remarks)),
            save_link(report.remarks, "remarks.csv"),
        ),
        _details(
            f"Spectra of {n} layers",
            table("Spectra and the laws fitted to them.", tables.spectral_columns(report.spectral)),
            save_link(report.spectral, "spectra.csv"),
        ),
        _details(
            "Weight correlation",
            table("How alike the neurons of a layer are: mean |cosine| of any two.",
                  tables.correlation_columns(report.correlation)),
            save_link(report.correlation, "correlation.csv"),
        ),
        _details(
            f"All {len(report.inventory)} tensors",
            table("Every tensor, and why it has no matrix where it has none.",
                  tables.inventory_columns(report.inventory, file.ties)),
            save_link(report.inventory, "tensors.csv"),
        ),
    ]  # fmt: skip
    if report.comparison:
        found = report.comparison
        parts += [
            _details(
                f"Distances of {len(found.distances)} tensors",
                table("How far each tensor is from the other's, the farthest first.",
                      tables.distance_columns(found.distances)),
                save_link(found.distances, "distances.csv"),
            ),
            _details(
                f"Spectra of {len(found.spectral)} differences",
                table("Spectra of what was added to the other's weights.",
                      tables.spectral_columns(found.spectral)),
                save_link(found.spectral, "differences.csv"),
            ),
        ]  # fmt: skip
    return _section("All tables", *parts)


def _details(title: str, *parts: str) -> str:
    return f"<details><summary>{safe(title)}</summary>{''.join(parts)}</details>\n"


def _words() -> str:
    return _section("What the words mean", _facts(_WORDS.items()))


def _origin(report: Report) -> str:
    parts = [_source(report.provenance)]
    if report.comparison:
        parts += ["<h3>Compared with</h3>", _source(report.comparison.provenance)]
    versions = ", ".join(f"{name} {text}" for name, text in report.provenance.versions.items())
    facts = {"Convolutions": f"conv={report.conv!r}", "Computed by": versions}
    return _section("Where this comes from", *parts, _facts(facts.items()))


def _source(found: Provenance) -> str:
    dtypes = ", ".join(f"{name} ({n})" for name, n in found.dtypes.items())
    facts = {"Source": found.source, "dtypes (tensors)": dtypes}
    if found.ties:
        facts["Tied tensors"] = "; ".join(f"{name} to {to}" for name, to in found.ties.items())
    facts |= {f"Metadata: {key}": str(value)[:300] for key, value in found.metadata.items()}
    if found.files.empty:
        return _facts([*facts.items(), ("Files", "none: the weights were in memory")])
    return _facts(facts.items()) + table("Files read.", tables.file_columns(found.files))


def _facts(pairs: Iterable[tuple[str, str]]) -> str:
    items = "".join(f"<dt>{safe(key)}</dt><dd>{safe(value)}</dd>" for key, value in pairs)
    return f'<dl class="facts">{items}</dl>'
