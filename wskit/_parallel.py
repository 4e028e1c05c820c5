"""Tasks through joblib: one after the other, in processes, or on a cluster; as they come."""

from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from wskit.errors import WskitError


def run_tasks(
    tasks: Iterable[Any], *, n_jobs: int | None, error: type[WskitError], kept: object
) -> Iterator[Any]:
    """Yield what `joblib.delayed` tasks return, in the order in which they finish.

    Parameters
    ----------
    tasks : iterable
        Made by `joblib.delayed`.
    n_jobs : int or None
        As for `joblib.Parallel`.
    error : type of WskitError
        The exception to raise when the processes or the cluster are gone.
    kept : path or None
        The folder in which the caller keeps what was finished.
    """
    import joblib

    stored = "" if kept is None else f" What was finished is in {kept}; call again to go on."
    try:
        yield from joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered")(tasks)
    except BrokenProcessPool as gone:
        raise error(
            "a worker process ended while it worked, perhaps for lack of memory; use fewer n_jobs, "
            f"or smaller tasks.{stored}"
        ) from gone
    except CancelledError as gone:
        raise error(
            "the cluster's scheduler is gone; start it and its workers again, and make a new "
            f"Client.{stored}"
        ) from gone
