"""Windows of a training run, and what was measured of their models."""

import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from torch import Tensor

from wskit.averaging import ExponentialMean, Trajectory
from wskit.landscape import Evaluator, evaluate_models

MODELS = {"iterate": "last iterate", "average": "average", "EMA": "EMA"}
AT_ONCE = 2  # models: more would have a moved window wait for its numbers


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
        """Return what distinguishes the model from all others of the run."""
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
        rows = dict.fromkeys(MODELS, window.rows) | {"iterate": range(len(self.run))}
        places = [(model, row) for model in rows for row in rows[model]]
        return self._table(window, places, report)

    def numbers(self, window: Window) -> pd.DataFrame:
        """Return the measures of the window's last iterate and of its two means."""
        table = self._table(window, [(model, window.rows[-1]) for model in MODELS])
        return table.drop(columns=["model", "epoch"]).set_axis(list(MODELS.values()))

    def _table(
        self,
        window: Window,
        places: list[tuple[str, int]],
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> pd.DataFrame:
        missing = [place for place in places if window.key(*place) not in self._found]
        weights = itertools.chain.from_iterable(
            window.weights(self.run, model, [row for m, row in missing if m == model])
            for model in MODELS
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
