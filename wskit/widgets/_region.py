"""A panel to walk on the plane of three models, within their triangle and beyond its edges."""

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import traitlets
from jaxtyping import Float64
from matplotlib.axes import Axes
from torch import Tensor

from wskit import plots
from wskit.errors import LandscapeError
from wskit.geometry import weight_distances
from wskit.landscape import Evaluator, evaluate_mixtures, plane_through, random_direction
from wskit.widgets._panel import Name, button, call, html_table, labelled, open_weights, row, spaced
from wskit.widgets._picture import Picture
from wskit.widgets._plane import MARGIN, PlanePanel

_REACH = (-0.5, 1.5)  # of the two shares
_COARSE = (7, 13)  # grids that are shown before the last one
_SLOTS = ("first", "second", "third")
_RANDOM = 5  # directions of the random control; direction i has the seed i


class RegionExplorer(PlanePanel):
    """Walk on the plane of three models: the measures at a point, live, and the landscape.

    Parameters
    ----------
    models : mapping of names to weights, or sequence of weights
        At least three of one architecture: mappings of str to Tensor, networks, paths or names.
        Those of a sequence have their positions for names.
    evaluate : Evaluator
        See `wskit.landscape.Evaluator`. All measures that it returns are shown: the accuracy on
        each of several tasks, say. Two threads call it at once.
    base : weights, optional
        The model that all were fine-tuned from, for the random control.
    map : DataFrame, optional
        One row per model, in their order: two columns of places, measured from the base's; then,
        both optional, what the models are coloured by and what they have markers for.
    resolution : int, default 25
        Columns and rows of the landscape. Coarser ones are shown before it.
    unit : str, optional
        Of losses: "nats" where they are cross-entropies. None writes none.

    Attributes
    ----------
    first, second, third : names of models
        The corners; set them, or choose them in the panel.
    c1, c2 : float
        Shares of the first and the second model, in [-0.5, 1.5]; that of the third is
        1 - c1 - c2. The point is inside the triangle where none is negative.
    measure : str
        What the landscape shows.
    show_random : bool
        Compare with points as far from the base (Euclidean) in five random directions, and show
        their mean. A random direction moves all weights alike; fine-tuning moves some layers more
        than others.
    coefficients : array of shape (3,)
        The three shares.
    numbers : DataFrame
        The measures, in the rows "point", the three models, and "random" where that is shown.
    landscape : LossPlane or None
        The latest that was computed for these three models.
    ax, map_ax : Axes or None
        Of the latest pictures.

    Raises
    ------
    LandscapeError
        If there are fewer than three models, the map does not fit them, or `evaluate` cannot
        measure the first three.
    """

    first = traitlets.TraitType[Any, Any]()
    second = traitlets.TraitType[Any, Any]()
    third = traitlets.TraitType[Any, Any]()
    c1 = traitlets.Float(1 / 3, min=_REACH[0], max=_REACH[1])
    c2 = traitlets.Float(1 / 3, min=_REACH[0], max=_REACH[1])
    measure = traitlets.Unicode("loss")
    show_random = traitlets.Bool(False)

    def __init__(
        self,
        models: Mapping[Any, Any] | Sequence[Any],
        evaluate: Evaluator,
        *,
        base: Any = None,
        map: pd.DataFrame | None = None,
        resolution: int = 25,
        unit: str | None = None,
    ) -> None:
        named = models if isinstance(models, Mapping) else dict(enumerate(models))
        self.models = {name: open_weights(model) for name, model in named.items()}
        self.base = None if base is None else open_weights(base)
        self.evaluate, self._places, self._unit = evaluate, map, unit
        if len(self.models) < 3:
            raise LandscapeError(f"a triangle needs three models, got {len(self.models)}.")
        if map is not None and (len(map) != len(self.models) or map.shape[1] < 2):
            raise LandscapeError(
                f"the map needs one row for each of the {len(self.models)} models and two columns "
                f"of places, got {map.shape[0]} rows and {map.shape[1]} columns."
            )
        self._sizes = [*(size for size in _COARSE if size < resolution), resolution]
        self.ax: Axes | None = None
        self.map_ax: Axes | None = None
        self._corners = pd.DataFrame()
        self._directions: list[dict[str, Tensor]] = []
        self.numbers: pd.DataFrame = pd.DataFrame()
        for slot, name in zip(_SLOTS, self.models, strict=False):
            setattr(self, slot, name)
        # What is wrong with the first three is raised; with others, the panel says it.
        self._measure_corners()
        super().__init__()
        self._build()
        self._heed(self, list(_SLOTS), lambda _: self._choose())
        self._heed(self, ["c1", "c2", "show_random"], lambda _: self._try(self._move))
        self._heed(self, "measure", lambda _: self._try(self._draw_plane))
        self._choose()

    # -- what may be set ---------------------------------------------------------------------

    @traitlets.validate(*_SLOTS, "measure")
    def _known(self, proposal: Any) -> Any:
        is_measure = proposal.trait.name == "measure"
        offered = list(self._corners) if is_measure else self.models
        return self._check_offered(proposal, offered, LandscapeError)

    @traitlets.validate("show_random")
    def _has_base(self, proposal: Any) -> bool:
        if proposal.value and self.base is None:
            raise LandscapeError("The random control needs the base; give it to the panel.")
        return bool(proposal.value)

    # -- what is shown -----------------------------------------------------------------------

    @property
    def chosen(self) -> list[Any]:
        """Names of the three models."""
        return [self.first, self.second, self.third]

    @property
    def coefficients(self) -> Float64[np.ndarray, "3"]:
        return np.array([self.c1, self.c2, 1 - self.c1 - self.c2])

    @property
    def _names(self) -> tuple[str, str, str]:
        return str(self.first), str(self.second), str(self.third)

    def code(self) -> str:
        """Return a cell of plain calls that gives what the panel shows.

        The cell takes ``models`` and ``evaluate``, which the panel was given; and what else it
        was given of ``base`` and ``map``.
        """
        lines = [
            "import numpy as np",
            "from wskit import geometry, landscape, plots",
            "",
            f"chosen = [models[name] for name in {self.chosen!r}]",
            f"c = np.array({self.coefficients.tolist()!r})",
            "numbers = landscape.evaluate_mixtures(evaluate, chosen, [c, *np.eye(3)])",
            f'numbers.index = ["point", *{self._names!r}]',
        ]
        if self.show_random:
            lines += [
                "directions = [",
                '    landscape.random_direction(base, seed=seed, normalize="unit")',
                f"    for seed in range({_RANDOM})",
                "]",
                "moving = [name for name, d in directions[0].items() if d.any()]",
                "apart = geometry.weight_distances(chosen, base, names=moving)",
                "# |sum c w - w0|^2, from the distances: the coefficients sum to 1.",
                "squared = c @ apart.update_norms() ** 2 - c @ apart.euclidean() ** 2 @ c / 2",
                f"at = np.eye({_RANDOM}, {_RANDOM + 1}, k=1) * max(squared, 0) ** 0.5",
                "at[:, 0] = 1  # of the base",
                "control = landscape.evaluate_mixtures(evaluate, [base, *directions], at)",
                'numbers.loc["random"] = control.mean()',
            ]
        if self.landscape is not None:
            n = len(self.landscape.x)
            look = {"measure": self.measure, "unit": self._unit}
            lines += [
                "plane = landscape.plane_through(*chosen)",
                f"x, y = plane.grid({n}, margin={MARGIN})",
                f"names = {self._names!r}",
                "found = landscape.loss_plane(evaluate, *chosen, x=x, y=y, names=names)",
                "point = c @ plane.corners",
                f"ax = {call('plots.plot_loss_plane', 'found', **look, point=Name('point'))}",
            ]
        if self._places is not None:
            named = {key: Name(f"map[{column!r}]") for key, column in self._groupings.items()}
            drawn = call("plots.plot_model_map", "map.iloc[:, :2]", **named, **self._marks)
            lines.append(f"map_ax = {drawn}")
        return "\n".join([*lines, "numbers"])

    # -- the controls ------------------------------------------------------------------------

    def _build(self) -> None:
        choices = [(str(name), name) for name in self.models]
        corners = [self._control(slot, f"{slot.title()} model", choices) for slot in _SLOTS]
        low, high = _REACH
        sliders = []
        for trait, slot in (("c1", "first"), ("c2", "second")):
            slider = widgets.FloatSlider(min=low, max=high, step=0.01, value=1 / 3)
            slider.description = f"Share of the {slot}"
            sliders.append(self._link(trait, labelled(slider, "26em")))
        measure = self._control("measure", "Landscape of", list(self._corners))
        random = self._control("show_random", "Random control")
        random.disabled = self.base is None
        self._picture, self._map = Picture(), Picture()
        self._pictures = [self._picture, *([] if self._places is None else [self._map])]
        self._table = widgets.HTML()
        self.children = [
            row(*corners),
            row(*sliders, button("Centre", "bullseye", self._to_centre)),
            row(measure, random),
            self._state_view,
            self._table,
            row(*self._pictures),
        ]
        self.add_class("wskit-region-explorer")

    def _to_centre(self) -> None:
        self.c1 = self.c2 = 1 / 3

    # -- the work ----------------------------------------------------------------------------

    def _three(self) -> list[Mapping[str, Tensor]]:
        return [self.models[name] for name in self.chosen]

    def _measure_corners(self) -> None:
        found = evaluate_mixtures(self.evaluate, self._three(), np.eye(3))
        self._corners = found.set_axis(self._names)

    def _choose(self) -> None:
        """Begin with three models: their measures, the point, the map, then the landscape."""
        if self._task is not None:
            self.cancel()  # it was the landscape of others
        self.landscape = self._plane = self.ax = None
        self._picture.blank()

        def begin() -> None:
            self._draw_map()
            self._measure_corners()
            self._move()
            self._plane = plane_through(*self._three())
            self._draw_plane()
            self._fill(self.evaluate, self._three(), self._names, self._sizes)

        self._try(begin)

    def _move(self) -> None:
        """Evaluate the point, and show where it is."""
        found = evaluate_mixtures(self.evaluate, self._three(), self.coefficients[None])
        parts = [found.set_axis(["point"]), self._corners]
        if self.show_random:
            parts.append(self._random())
        self.numbers = pd.concat(parts)
        columns = self.numbers.index
        shares = pd.DataFrame("", [f"share of the {slot}" for slot in _SLOTS], range(len(columns)))
        shares[0] = self.coefficients.round(4)
        measured = self.numbers.T.rename(spaced).set_axis(range(len(columns)), axis=1)
        table = pd.concat([shares, measured]).set_axis(columns, axis=1)
        self._table.value = html_table(table, "At the point and at the models")
        if self._plane is not None and self.ax is not None:
            self._picture.move(self.coefficients @ self._plane.corners)

    def _random(self) -> pd.DataFrame:
        """Evaluate points as far from the base in random directions; return their mean."""
        assert self.base is not None
        if not self._directions:
            self._directions = [
                random_direction(self.base, seed=seed, normalize="unit") for seed in range(_RANDOM)
            ]
        moving = [name for name, d in self._directions[0].items() if d.any()]
        apart = weight_distances(self._three(), self.base, names=moving)
        c = self.coefficients
        # |sum c w - w0|^2, from the distances: the coefficients sum to 1.
        squared = c @ apart.update_norms() ** 2 - c @ apart.euclidean() ** 2 @ c / 2
        at = np.eye(_RANDOM, _RANDOM + 1, k=1) * max(squared, 0) ** 0.5
        at[:, 0] = 1
        table = evaluate_mixtures(self.evaluate, [self.base, *self._directions], at)
        return table.mean().to_frame("random").T

    def _say(self) -> None:
        """Say where the point is."""
        where = "inside" if self.coefficients.min() >= -1e-9 else "outside"
        beyond = ""
        if self.ax is not None and self._plane is not None:
            x, y = self.coefficients @ self._plane.corners
            (left, right), (low, high) = self.ax.get_xlim(), self.ax.get_ylim()
            beyond = "" if left <= x <= right and low <= y <= high else ", beyond the picture"
        names = ", ".join(self._names)
        self.message, self.status = f"The point is {where} the triangle of {names}{beyond}.", "done"

    # -- drawing -----------------------------------------------------------------------------

    @property
    def _groupings(self) -> dict[str, Any]:
        """Columns of the map, by the names of `plots.plot_model_map`."""
        columns = [] if self._places is None else list(self._places)[2:4]
        return dict(zip(("groups", "markers"), columns, strict=False))

    @property
    def _marks(self) -> dict[str, Any]:
        order = list(self.models)
        rows = {str(name): order.index(name) for name in self.chosen}
        return {"chosen": rows} | ({"base": None} if self.base is None else {})

    def _draw_plane(self) -> None:
        if self._plane is None:
            return
        self.ax = self._picture.plot(
            plots.plot_loss_plane,
            self._shown_plane(self._corners, self._names),
            measure=self.measure,
            unit=self._unit,
            point=self.coefficients @ self._plane.corners,
        )

    def _draw_map(self) -> None:
        places = self._places
        if places is None:
            return
        options = {key: places[column] for key, column in self._groupings.items()} | self._marks
        self.map_ax = self._map.plot(plots.plot_model_map, places.iloc[:, :2], **options)
