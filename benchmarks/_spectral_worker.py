"""One side of ``spectral.py``: times the calls that it is told to, in the environment it runs in.

A request is a line of JSON on stdin, ``{"task": ..., "file": ..., "seconds": ...}``, its answer a
line on stdout. A task is called until `seconds` of CPU time are spent, at least once; the answer
holds the time of the fastest call, as this is the one that other processes disturbed least, and
the numbers that the call gave.
"""

import contextlib
import importlib.metadata
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

RANGES = {"alpha": [1, 1000]}  # powerlaw 2.0 keeps alpha under 3 without it
N, M = 128, 64  # of the matrices whose Marchenko-Pastur law is fitted
Call = Callable[[], Any]


def wskit_tasks(task: str, load: Callable[[], Any]) -> Call:
    """Make the call of ours, and leave to `load` what both sides need before the clock starts."""
    from wskit import features, fits, spectra
    from wskit.features._weightwatcher import fit_bulk
    from wskit.fits import _marchenko_pastur

    x = load()

    def table(**options: Any) -> dict[str, Any]:
        _marchenko_pastur._unit_law.cache_clear()  # as if the shapes were seen for the first time
        found = features.spectral_table(x, **options)
        return {"alpha": found["alpha"].tolist(), "n": found["n_eigenvalues"].tolist()}

    def one(eigenvalues: np.ndarray) -> dict[str, Any]:
        fit = fits.fit_power_law(eigenvalues)
        return {"alpha": fit.alpha, "xmin": fit.xmin, "ks": fit.ks}

    def marchenko_pastur() -> dict[str, Any]:
        sigma, _ = fit_bulk(np.sort(x), N, M)
        return {"sigma": sigma * np.sqrt(x.size / x.sum() * N)}

    def bare() -> dict[str, Any]:
        W = x["fc.weight"].double()
        return {"largest": torch.linalg.eigvalsh(W.mT @ W)[-1].item()}

    return {
        "power law": lambda: one(x),
        "marchenko-pastur": marchenko_pastur,
        "full": lambda: table(null_seed=0),
        "default": table,
        "power laws": lambda: {
            "alpha": [fits.fit_power_law(s.eigenvalues).alpha for s in spectra.spectra(x)]
        },
        "layer": lambda: one(spectra.spectrum(x["fc.weight"]).eigenvalues),
        "bare": bare,
        "bootstrap": lambda: {"interval": fits.alpha_interval(x, n_resamples=200, rng=0)},
        "powerlaw": lambda: powerlaw_fit(x, parameter_ranges=RANGES),
    }[task]


def peer_tasks(task: str, load: Callable[[], Any]) -> Call:
    """Make the call of powerlaw 1.5, or of WeightWatcher."""
    from weightwatcher import WeightWatcher
    from weightwatcher.WW_powerlaw import WWFit

    x = load()

    def fit() -> dict[str, Any]:
        found = WWFit(x)
        return {"alpha": found.alpha, "xmin": found.xmin, "ks": found.D}

    def marchenko_pastur() -> dict[str, Any]:
        plot = dict.fromkeys(("layer_name", "layer_id", "plot_id", "savedir", "color"), "")
        plot |= {"plot": False, "savefig": False, "hist_alpha": 1, "rescale": True}
        found = WeightWatcher().mp_fit(x, N=N, M=M, rf=1, orig_evals=x, **plot)
        return {"sigma": found[1]}

    def analyze(**options: Any) -> dict[str, Any]:
        found = WeightWatcher(model=x).analyze(**options)
        return {"alpha": found["alpha"].tolist(), "n": found["num_evals"].tolist()}

    return {
        "power law": fit,
        "marchenko-pastur": marchenko_pastur,
        "full": lambda: analyze(fit="PL", mp_fit=True, randomize=True),
        "default": analyze,
        "powerlaw": lambda: powerlaw_fit(x),
    }[task]


def powerlaw_fit(x: np.ndarray, **options: Any) -> dict[str, Any]:
    """Fit by the `powerlaw` package, whichever the environment has."""
    import powerlaw

    law = powerlaw.Fit(x, verbose=False, **options)
    return {"alpha": law.power_law.alpha, "xmin": law.power_law.xmin, "ks": law.power_law.D}


def load(path: str) -> Any:
    """Read eigenvalues, or a state dict without what a training script put around it."""
    if path.endswith(".npy"):
        return np.load(path)
    state = torch.load(path, weights_only=True, map_location="cpu")
    state = state.get("state_dict", state)
    return {name.removeprefix("module."): W for name, W in state.items()}


def best(call: Call, seconds: float) -> tuple[float, Any]:
    times: list[float] = []
    while not times or sum(times) < seconds:
        start = time.process_time()
        numbers = call()
        times.append(time.process_time() - start)
    return min(times), numbers


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    np.seterr(all="ignore")
    make = wskit_tasks if sys.argv[1] == "wskit" else peer_tasks
    answers = os.fdopen(os.dup(1), "w")
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):  # peers print
        for line in sys.stdin:
            request = json.loads(line)
            if request["task"] == "versions":
                names = request["names"]
                answer: Any = {name: importlib.metadata.version(name) for name in names}
            else:
                call = make(request["task"], lambda path=request["file"]: load(path))
                if request["warm"]:
                    call()
                seconds, numbers = best(call, request["seconds"])
                answer = {"seconds": seconds, "numbers": numbers}
            print(json.dumps(answer, default=float), file=answers, flush=True)


if __name__ == "__main__":
    main()
