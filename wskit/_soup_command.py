"""``wskit soup``: which merge rule, of what, to where; the rules and the files are elsewhere."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wskit import __version__, averaging
from wskit.checkpoints import Checkpoint, hash_files, open_checkpoint, save_weights
from wskit.errors import WskitError

# What each method needs, and what it may have beside that.
METHODS: dict[str, tuple[set[str], set[str]]] = {
    "linear": (set(), {"coefficients"}),
    "slerp": ({"t"}, set()),
    "task": ({"base"}, {"scale"}),
    "ties": ({"base"}, {"density", "scale"}),
    "dare": ({"base", "seed"}, {"density", "scale"}),
    "model-stock": ({"base"}, set()),
}
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def run(options: argparse.Namespace) -> int:
    """Merge the ingredients into a file or a folder, and print its path."""
    chosen, size = _chosen(options), _bytes(options.shard_size)
    copy_from = _ingredient(options, options.copy_from) if options.copy_from is not None else None
    base = chosen.pop("base", None)
    models = [open_checkpoint(path) for path in options.ingredients]
    origin = open_checkpoint(base) if base else None
    _check_output(Path(options.output).expanduser(), [*models, *([origin] if origin else [])])
    merged = _merge(options.method, models, origin, chosen)
    sources = {path: hash_files(path) for path in [*options.ingredients, *([base] if base else [])]}
    made_of = {
        "wskit": __version__,
        "torch": torch.__version__,
        "method": options.method,
        "ingredients": [{"path": path, "sha256": sources[path]} for path in options.ingredients],
        **({"base": {"path": base, "sha256": sources[base]}} if base else {}),
        **chosen,
    }
    if options.method == "linear":
        made_of.setdefault("coefficients", [1 / len(models)] * len(models))
    path = save_weights(
        merged,
        options.output,
        metadata={"soup": json.dumps(made_of)},
        shard_size=size,
        copy_from=copy_from,
        progress=sys.stderr.isatty(),
    )
    print(path)
    return 0


def _chosen(options: argparse.Namespace) -> dict[str, Any]:
    """Return the method's options that were given; refuse what it does not know, or lacks."""
    needed, allowed = METHODS[options.method]
    every = set().union(*(a | b for a, b in METHODS.values()))
    given = {name: value for name in sorted(every) if (value := getattr(options, name)) is not None}
    if wrong := sorted(given.keys() - needed - allowed):
        raise WskitError(f"--method {options.method} takes no --{wrong[0]}; leave it out")
    if missing := sorted(needed - given.keys()):
        raise WskitError(f"--method {options.method} needs --{missing[0]}")
    return given


def _check_output(output: Path, ingredients: Iterable[Checkpoint]) -> None:
    """Refuse an output that is, holds or leads to an ingredient, or a file that is no soup."""
    target = output.resolve()
    for ingredient in ingredients:
        for file in ingredient.files:
            place, folder = file.resolve(), file.parent.resolve()
            held = target in {place, *place.parents, folder, *folder.parents}
            if held or (output.exists() and output.samefile(file)):
                raise WskitError(
                    f"{output}: the soup would replace its ingredient {ingredient.source}; choose "
                    "another name."
                )
    if output.is_file() and "soup" not in open_checkpoint(output).metadata:
        raise WskitError(
            f"{output}: expected nothing or an earlier soup, got a file that wskit soup did not "
            "write; move it away, or choose another name."
        )


def _ingredient(options: argparse.Namespace, number: int) -> Path:
    if not 1 <= number <= len(options.ingredients):
        raise WskitError(
            f"--copy-from takes the number of an ingredient, 1 to {len(options.ingredients)},"
            f" got {number}"
        )
    return Path(options.ingredients[number - 1])


def _merge(
    method: str,
    models: Sequence[Mapping[str, Tensor]],
    base: Mapping[str, Tensor] | None,
    chosen: Mapping[str, Any],
) -> Mapping[str, Tensor]:
    if base is None:
        if method == "linear":
            return averaging.average(models, lazy=True, **chosen)
        if len(models) != 2:
            raise WskitError(f"--method slerp takes two ingredients, got {len(models)}")
        return averaging.slerp(models[0], models[1], lazy=True, **chosen)
    if method == "task":
        vectors = [averaging.task_vector(model, base, lazy=True) for model in models]
        return averaging.add_task_vectors(base, vectors, lazy=True, **chosen)
    if method == "ties":
        return averaging.merge_ties(models, base, lazy=True, **chosen)
    if method == "dare":
        return averaging.merge_dare(models, base, lazy=True, **chosen)
    return averaging.merge_model_stock(models, base, lazy=True)


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(|KB|MB|GB)", text.upper())
    if match is None:
        raise WskitError(f"--shard-size takes bytes, as 5GB, 200MB or 1000, got {text!r}")
    return int(float(match[1]) * _UNITS[match[2]])
