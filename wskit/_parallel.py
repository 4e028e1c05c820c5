"""Tasks through joblib: one after the other, in processes, or on a cluster; as they come."""

from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import joblib

from wskit.errors import WskitError


def results(
    tasks: Iterable[Any], *, n_jobs: int | None, error: type[WskitError], kept: object
) -> Iterator[Any]:
    """Yield what `joblib.delayed` tasks return, the first that is done first.

    Parameters
    ----------
    tasks
        Made by `joblib.delayed`.
    n_jobs
        As for `joblib.Parallel`.
    error
        What is raised when the processes or the cluster are gone.
    kept
        The folder in which the caller keeps what was finished, or None.
    """
    stored = "" if kept is None else f" What was finished is in {kept}; call again to go on."
    try:
        yield from joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered")(tasks)
    except BrokenProcessPool as gone:
        raise error(
            "a worker process ended while it worked, as one does that takes too much memory: give "
            f"fewer n_jobs, or smaller tasks.{stored}"
        ) from gone
    except CancelledError as gone:
        raise error(
            "the cluster's scheduler is gone: start it and its workers again, and make a new "
            f"Client.{stored}"
        ) from gone
