"""A panel to walk on the plane of three models, within their triangle and beyond its edges."""

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import matplotlib as mpl
import numpy as np
import pandas as pd
import traitlets
from jaxtyping import Float64
from matplotlib.axes import Axes
from torch import Tensor

from wskit import plots
from wskit.errors import LandscapeError
from wskit.geometry import weight_distances
from wskit.landscape import (
    Evaluator,
    evaluate_mixtures,
    plane_through,
    random_direction,
)
from wskit.widgets._panel import ROW, alone, button, labelled
from wskit.widgets._picture import FigurePicture, PointPicture
from wskit.widgets._plane import PlanePanel
from wskit.widgets._region_code import FIGSIZE, N_RANDOM, cell
from wskit.widgets._region_view import number_table

_REACH = (-0.5, 1.5)  # of the two shares
_COARSE = (7, 13)  # grids that are shown before the last one
_SLOTS = ("first", "second", "third")


class RegionExplorer(PlanePanel):
    """Walk on the plane of three models: the measures at a point, live, and the landscape.

    Parameters
    ----------
    models : mapping of names to mappings of str to Tensor, or sequence of these
        Of one architecture, at least three. Those of a sequence have their positions for names.
    evaluate : Evaluator
        See `wskit.landscape.Evaluator`. All measures that it returns are shown, so that it may
        return the accuracy on each of several tasks. Called in two threads at once.
    base : mapping of str to Tensor, optional
        The model that all were fine-tuned from, for the random control.
    map : DataFrame of a row a model, optional
        In the order of `models`: two columns of places, measured from the base's; then what the
        models are coloured by, then what they have markers for, both optional.
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
        Compare with points as far from the base (Euclidean) in five random directions, of which
        the mean is shown. A random direction moves all weights alike, and not, as fine-tuning
        does, some layers more than others.
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
        If there are fewer than three models, the map does not fit them, or as
        `wskit.landscape.evaluate_mixtures` for the first three.
    """

    first = traitlets.TraitType[Any, Any](None, allow_none=True)
    second = traitlets.TraitType[Any, Any](None, allow_none=True)
    third = traitlets.TraitType[Any, Any](None, allow_none=True)
    c1 = traitlets.Float(1 / 3, min=_REACH[0], max=_REACH[1])
    c2 = traitlets.Float(1 / 3, min=_REACH[0], max=_REACH[1])
    measure = traitlets.Unicode("loss")
    show_random = traitlets.Bool(False)

    def __init__(
        self,
        models: Mapping[Any, Mapping[str, Tensor]] | Sequence[Mapping[str, Tensor]],
        evaluate: Evaluator,
        *,
        base: Mapping[str, Tensor] | None = None,
        map: pd.DataFrame | None = None,
        resolution: int = 25,
        unit: str | None = None,
    ) -> None:
        self.models = dict(models) if isinstance(models, Mapping) else dict(enumerate(models))
        self.evaluate, self.base, self._places, self._unit = evaluate, base, map, unit
        if len(self.models) < 3:
            raise LandscapeError(f"a triangle needs three models, got {len(self.models)}.")
        if resolution < 2:
            raise LandscapeError(f"resolution must be at least 2, got {resolution}.")
        if map is not None and (len(map) != len(self.models) or map.shape[1] < 2):
            raise LandscapeError(
                f"the map needs a row for each of the {len(self.models)} models and two columns "
                f"of places, got {map.shape[0]} rows and {map.shape[1]} columns."
            )
        self._sizes = [*(size for size in _COARSE if size < resolution), resolution]
        self.ax: Axes | None = None
        self.map_ax: Axes | None = None
        self._corners = pd.DataFrame()
        self._directions: list[dict[str, Tensor]] = []
        self.numbers = pd.DataFrame()
        for slot, name in zip(_SLOTS, self.models, strict=False):
            setattr(self, slot, name)
        # What is wrong with the first three is raised; with others, it is said in the panel.
        self._measure_corners()
        super().__init__()
        self._build()
        self.observe(self._on_models, list(_SLOTS))
        self.observe(self._on_move, ["c1", "c2", "show_random"])
        self.observe(self._on_measure, "measure")
        self._choose()

    # -- what may be set ---------------------------------------------------------------------

    @traitlets.validate(*_SLOTS)
    def _known_model(self, proposal: Any) -> Any:
        if proposal.value not in self.models:
            raise LandscapeError(
                f"There is no model {proposal.value!r}; choose one of {list(self.models)[:10]}."
            )
        return proposal.value

    @traitlets.validate("measure")
    def _known_measure(self, proposal: Any) -> str:
        if proposal.value not in self._corners:
            raise LandscapeError(
                f"There is no measure {proposal.value!r}; choose one of {list(self._corners)}."
            )
        return str(proposal.value)

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
    def _rows(self) -> dict[str, int]:
        order = list(self.models)
        return {str(name): order.index(name) for name in self.chosen}

    def describe(self) -> str:
        """Say in words what the two pictures and the table show."""
        pictures = [plots.describe(ax.figure) for ax in (self.ax, self.map_ax) if ax is not None]
        return "\n".join([*pictures, self.numbers.to_string()])

    def static_image(self) -> bytes:
        """Return the picture of the landscape as PNG."""
        return self._picture.png

    def code(self) -> str:
        """Return a cell of plain calls that gives what the panel shows.

        The cell takes ``models`` and ``evaluate``, which the panel was given; and what else it
        was given of ``base`` and ``map``.
        """
        return cell(self)

    # -- the controls ------------------------------------------------------------------------

    def _build(self) -> None:
        choices = [(str(name), name) for name in self.models]
        corners = []
        for slot in _SLOTS:
            box = widgets.Dropdown(options=choices, description=f"{slot.title()} model")
            corners.append(labelled(box))
            traitlets.link((self, slot), (box, "value"))
        low, high = _REACH
        sliders = []
        for trait, slot in (("c1", "first"), ("c2", "second")):
            slider = widgets.FloatSlider(
                min=low, max=high, step=0.01, value=getattr(self, trait), readout_format=".2f"
            )
            slider.description = f"Share of the {slot}"
            sliders.append(labelled(slider, "26em"))
            traitlets.link((self, trait), (slider, "value"))
        measure = widgets.Dropdown(options=list(self._corners), description="Landscape of")
        traitlets.link((self, "measure"), (measure, "value"))
        random = widgets.Checkbox(description="Random control", indent=False)
        random.disabled = self.base is None
        traitlets.link((self, "show_random"), (random, "value"))
        centre = button("Centre", "bullseye", self._to_centre)
        centre.layout.width = "max-content"
        self._picture, self._map = PointPicture(*FIGSIZE), FigurePicture(*FIGSIZE)
        self._table = widgets.HTML()
        pictures = [self._picture, *([] if self._places is None else [self._map])]
        self.children = [
            widgets.HBox(corners, layout=ROW),
            widgets.HBox([*sliders, centre], layout=ROW),
            widgets.HBox([labelled(measure), labelled(random)], layout=ROW),
            self._state_view,
            self._table,
            widgets.HBox(pictures, layout=ROW | {"align_items": "flex-start"}),
        ]
        self._state_view.layout.flex = "none"  # in a column, that is its height
        self.add_class("wskit-region-explorer")

    def _to_centre(self) -> None:
        self.c1 = self.c2 = 1 / 3

    # -- the work ----------------------------------------------------------------------------

    @alone
    def _on_models(self, _: Any) -> None:
        self._choose()

    @alone
    def _on_move(self, _: Any) -> None:
        self._try(self._move)

    @alone
    def _on_measure(self, _: Any) -> None:
        self._try(self._draw_plane)

    def _three(self) -> list[Mapping[str, Tensor]]:
        return [self.models[name] for name in self.chosen]

    def _measure_corners(self) -> None:
        found = evaluate_mixtures(self.evaluate, self._three(), np.eye(3))
        found.index = pd.Index([str(name) for name in self.chosen])
        self._corners = found

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
            self._fill(self.evaluate, self._three(), self._names(), self._sizes)

        self._try(begin)

    def _names(self) -> tuple[str, str, str]:
        return str(self.first), str(self.second), str(self.third)

    def _move(self) -> None:
        """Evaluate the point, and show where it is."""
        found = evaluate_mixtures(self.evaluate, self._three(), self.coefficients[None])
        found.index = pd.Index(["point"])
        parts = [found, self._corners]
        if self.show_random:
            parts.append(self._random())
        self.numbers = pd.concat(parts)
        self._table.value = number_table(self.numbers, self.coefficients)
        if self._plane is not None and self.ax is not None:
            self._picture.move(self.coefficients @ self._plane.corners)

    def _random(self) -> pd.DataFrame:
        """Evaluate points as far from the base in random directions; return their mean."""
        assert self.base is not None
        if not self._directions:
            self._directions = [
                random_direction(self.base, seed=seed, normalize="unit") for seed in range(N_RANDOM)
            ]
        moving = [name for name, d in self._directions[0].items() if d.any()]
        apart = weight_distances(self._three(), self.base, names=moving)
        c = self.coefficients
        # |sum c w - w0|^2, from the distances: the coefficients sum to 1.
        squared = c @ apart.update_norms() ** 2 - c @ apart.euclidean() ** 2 @ c / 2
        at = np.hstack([np.ones((N_RANDOM, 1)), max(squared, 0) ** 0.5 * np.eye(N_RANDOM)])
        table = evaluate_mixtures(self.evaluate, [self.base, *self._directions], at)
        return table.mean().to_frame("random").T

    def _say(self) -> None:
        """Say where the point is."""
        names = ", ".join(self._names())
        inside = self.coefficients.min() >= -1e-9
        where = "inside" if inside else "outside"
        beyond = ""
        if self.ax is not None and self._plane is not None:
            x, y = self.coefficients @ self._plane.corners
            (left, right), (low, high) = self.ax.get_xlim(), self.ax.get_ylim()
            beyond = "" if left <= x <= right and low <= y <= high else ", beyond the picture"
        self.message = f"The point is {where} the triangle of {names}{beyond}."
        self.status = "done"

    # -- drawing -----------------------------------------------------------------------------

    def _draw_plane(self) -> None:
        plane = self._plane
        if plane is None:
            return
        figure = self._picture.new_figure()
        with mpl.rc_context(plots.STYLE):
            self.ax = plots.plot_loss_plane(
                self._shown_plane(self._corners, self._names()),
                measure=self.measure,
                unit=self._unit,
                point=self.coefficients @ plane.corners,
                ax=figure.add_subplot(),
            )
        self._picture.draw_with_point(self.ax)

    def _draw_map(self) -> None:
        if self._places is None:
            return
        figure = self._map.new_figure()
        groupings = [self._places[name] for name in list(self._places)[2:4]]
        options: dict[str, Any] = dict(zip(("groups", "markers"), groupings, strict=False))
        if self.base is None:
            options["base"] = None
        with mpl.rc_context(plots.STYLE):
            self.map_ax = plots.plot_model_map(
                self._places.iloc[:, :2],
                chosen=self._rows,
                ax=figure.add_subplot(),
                **options,
            )
        self._map.draw(plots.describe(figure))
