"""What panels share that show the plane through three models: it is filled coarse to fine."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from wskit.landscape import Evaluator, LossPlane, Plane, iterate_mixtures
from wskit.widgets._panel import Panel, Task

MARGIN = 0.5  # of the landscape around the triangle


class PlanePanel(Panel):
    """A panel with a landscape, which a thread computes on one grid after the other.

    Attributes
    ----------
    landscape : LossPlane or None
        The latest that was computed for the present three models.
    """

    landscape: LossPlane | None = None

    _plane: Plane | None = None
    _square = False  # the landscape's grid: see `Plane.grid`
    _points_at_once = 4  # of the landscape, at most, between two looks at Cancel

    def _draw_plane(self) -> None:
        """Show `landscape`, or `_shown_plane` before there is one."""
        raise NotImplementedError

    def _fill(
        self,
        evaluate: Evaluator,
        models: Sequence[Mapping[str, Tensor]],
        names: tuple[str, str, str],
        sizes: Sequence[int],
    ) -> None:
        """Compute the landscape on one grid in a thread, show it, and go on to a finer one."""
        plane, (n, *finer) = self._plane, sizes
        assert plane is not None
        x, y = plane.grid(n, margin=MARGIN, square=self._square)
        points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
        at, corners = plane.coefficients(points), plane.corners

        def work(task: Task) -> LossPlane:
            parts: list[pd.DataFrame] = []
            for part in iterate_mixtures(evaluate, models, at, chunk_size=self._points_at_once):
                parts.append(part)
                task.report(int(part.index[-1]) + 1, len(at))
            table = pd.concat(parts)
            measures = {str(name): table[name].to_numpy().reshape(n, n) for name in table}
            return LossPlane(x, y, measures, corners, names)

        def show(found: LossPlane) -> None:
            self.landscape = found
            self._draw_plane()
            if finer:
                self._fill(evaluate, models, names, finer)
            else:
                self._say()

        self._run(work, show, thread=f"Computing the landscape, {n} × {n} points.")

    def _shown_plane(self, measures: Iterable[Any], names: tuple[str, str, str]) -> LossPlane:
        """Return the landscape, or before there is one a plane where nothing is evaluated."""
        if self.landscape is not None:
            return self.landscape
        assert self._plane is not None
        x, y = self._plane.grid(2, margin=MARGIN, square=self._square)
        nothing = {str(name): np.full((2, 2), np.nan) for name in measures}
        return LossPlane(x, y, nothing, self._plane.corners, names)
