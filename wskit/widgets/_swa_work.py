"""The work of SwaExplorer: models of a window of epochs, measured once each."""

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from torch import Tensor

from wskit.averaging import ExponentialMean, Trajectory
from wskit.errors import AveragingError
from wskit.landscape import Evaluator, evaluate_models

MODELS = ("iterate", "average", "EMA")
AT_ONCE = 2  # models: more would have a moved window wait for its numbers

Train = Callable[[float, int, int, int], Iterable[Mapping[str, Tensor]]]


@dataclass(frozen=True)
class Window:
    """Rows ``start:stop:every`` of a trajectory, and the decay of their exponential mean."""

    start: int
    stop: int
    every: int
    decay: float

    @property
    def rows(self) -> range:
        return range(self.start, self.stop, self.every)

    def key(self, model: str, row: int) -> tuple[object, ...]:
        """Return what tells the model from all others of the run."""
        window = {"average": (self.start, self.every), "EMA": (self.start, self.every, self.decay)}
        return (model, *window.get(model, ()), row)

    def weights(
        self, run: Trajectory, model: str, rows: Sequence[int]
    ) -> Iterator[Mapping[str, Tensor]]:
        """Yield the iterates of these rows, or the means of the window up to each of them."""
        if model == "EMA":
            mean = ExponentialMean(self.decay)
            for row in range(self.start, max(rows, default=-1) + 1, self.every):
                mean.add(run.model(row))
                if row in rows:
                    yield mean.weights
            return
        for row in rows:
            is_mean = model == "average"
            yield run.window_mean(self.start, row + 1, self.every) if is_mean else run.model(row)


class Measured:
    """What was measured of a run's models; none is measured twice."""

    def __init__(self, run: Trajectory, evaluate: Evaluator) -> None:
        self.run, self.evaluate = run, evaluate
        self._found: dict[tuple[object, ...], dict[Hashable, float]] = {}

    def curve(
        self, window: Window, report: Callable[[int, int], None] = lambda done, total: None
    ) -> pd.DataFrame:
        """Return the measures of all iterates, and of the means up to each row of the window."""
        everywhere = range(len(self.run))
        rows = {"iterate": everywhere, "average": window.rows, "EMA": window.rows}
        return self._table(window, rows, report)

    def numbers(self, window: Window) -> pd.DataFrame:
        """Return the measures of the window's last iterate and of its two means."""
        table = self._table(window, dict.fromkeys(MODELS, window.rows[-1:]))
        numbers = table.drop(columns=["model", "epoch"])
        numbers.index = pd.Index(["last iterate", "average", "EMA"])
        return numbers

    def _table(
        self,
        window: Window,
        rows: Mapping[str, range],
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> pd.DataFrame:
        places = [(model, row) for model in rows for row in rows[model]]
        missing = [place for place in places if window.key(*place) not in self._found]
        weights = itertools.chain.from_iterable(
            window.weights(self.run, model, [row for m, row in missing if m == model])
            for model in rows
        )
        for done in range(0, len(missing), AT_ONCE):
            keys = [window.key(*place) for place in missing[done : done + AT_ONCE]]
            found = evaluate_models(self.evaluate, dict(zip(keys, weights, strict=False)))
            self._found.update(zip(keys, found.to_dict("records"), strict=True))
            report(done + len(keys), len(missing))
        table = pd.DataFrame([self._found[window.key(*place)] for place in places])
        table.insert(0, "model", [model for model, _ in places])
        table.insert(1, "epoch", self.run.steps[[row for _, row in places]])
        return table


def record(
    train: Train, settings: tuple[float, int, int, int], report: Callable[[int, int], None]
) -> Trajectory:
    """Train a new run with this rate, cycle, number of epochs and seed, and record its epochs."""
    epochs = settings[2]
    run = Trajectory(capacity=epochs)
    for epoch, weights in enumerate(train(*settings), start=1):
        run.append(epoch, weights)
        report(epoch, epochs)
    if not len(run):
        raise AveragingError("The training returned no weights; yield those of each epoch.")
    return run


def name_of(rate: float, cycle: int, seed: int, taken: Iterable[str]) -> str:
    """Return a run's name; a second one of these settings has a number."""
    name = f"rate {rate:g}, cycle {cycle}, seed {seed}"
    same = sum(each == name or each.startswith(f"{name} (") for each in taken)
    return f"{name} ({same + 1})" if same else name
