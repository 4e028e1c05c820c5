"""The Fisher information of each weight, and averages that it weighs."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from wskit._base.layout import Layout
from wskit._base.weights import all_finite, block_size, header
from wskit.averaging._average import Weights, check_coefficients, prepare
from wskit.averaging._merge import LazyMerge, read_entries
from wskit.errors import AveragingError

_GRADIENTS = 2**24  # entries of gradients that are in memory at a time


def fisher_average(
    weights: Iterable[Weights] | Mapping[str, Weights],
    fishers: Sequence[Mapping[str, Tensor]],
    coefficients: ArrayLike | None = None,
    *,
    floor: float = 1e-6,
    lazy: bool = False,
) -> Mapping[str, Tensor]:
    r"""Average models, each weight by how much the model's predictions depend on it.

    Fisher merging (Matena and Raffel 2022, arXiv:2111.09832). With the diagonals F_i of the
    models' Fisher information, each entry is

    .. math::
        \frac{\sum_i c_i F_i \theta_i}{\sum_i c_i F_i},

    the most probable weight if each model's posterior is a Gaussian of the precision F_i.

    Parameters
    ----------
    weights : sequence of weights, or mapping of str to weights
    fishers : sequence of mappings of str to Tensor
        One per model, such as `fisher_diagonal` returns: a tensor for each floating-point tensor
        of the model, of its shape.
    coefficients : array of shape (models,), optional
        The paper's \lambda: positive, with the sum 1. None gives each model 1/n.
    floor : float, default 1e-6
        Raises smaller Fisher information to this value, so that weights on which no model depends
        are averaged as by `average`. The default is that of the authors' code. The scale of F
        grows with the squares of the gradients, so look at yours.
    lazy : bool, default False
        As for `average`.

    Returns
    -------
    mapping of str to Tensor
        As `average` returns it.

    Raises
    ------
    AveragingError
        As `average`, and if a Fisher diagonal is missing, has another shape, or holds negative
        numbers or NaN.

    Examples
    --------
    >>> models = [{"w": torch.tensor([0.0, 1.0])}, {"w": torch.tensor([4.0, 3.0])}]
    >>> fishers = [{"w": torch.tensor([3.0, 0.0])}, {"w": torch.tensor([1.0, 0.0])}]
    >>> fisher_average(models, fishers)["w"]
    tensor([1., 2.])
    """
    layout, models = prepare(weights)
    c = check_coefficients(coefficients, len(models)) or [1 / len(models)] * len(models)
    if min(c) <= 0 or not 0 < floor < math.inf:
        raise AveragingError(f"coefficients and floor must be positive, got {c} and {floor}.")
    if len(fishers) != len(models):
        raise AveragingError(
            f"each model needs a Fisher diagonal, got {len(models)} models and {len(fishers)} "
            "diagonals."
        )
    for label, fisher in zip(models, fishers, strict=True):
        for name in layout.spans:
            shape = header(fisher, name)[0] if name in fisher else None
            if shape != layout.shapes[name]:
                raise AveragingError(
                    f"tensor {name!r} has the shape {layout.shapes[name]} in the models and "
                    f"{shape} in the Fisher diagonal of {label}."
                )
    result = _FisherMerge(layout, models, fishers, c, floor)
    return result if lazy else result.read()


def fisher_diagonal(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    r"""Compute the diagonal of a classifier's Fisher information, for small models.

    .. math::
        F = \frac1n \sum_x E_{y \sim p(y | x, \theta)}
            \big[ (\nabla_\theta \log p(y | x, \theta))^2 \big],

    with the labels y that the model itself predicts, not those of the data (Matena and Raffel
    2022, arXiv:2111.09832). The expectation is exact and costs a gradient for every image and
    class. The gradients of one image, one for each class, must fit into memory.

    Parameters
    ----------
    module : torch.nn.Module
        Maps images to logits of shape (images, classes), and must be in evaluation mode.
    x : Tensor of shape (images, ...)

    Returns
    -------
    dict of str to Tensor
        For each floating-point tensor of the module's `state_dict`, in its shape and dtype; 0 for
        one that is not a parameter, such as a running statistic.

    Raises
    ------
    AveragingError
        If the module is in training mode, or a logit or a result is not finite.

    Examples
    --------
    >>> module = nn.Linear(1, 2, bias=False).eval()
    >>> _ = nn.init.zeros_(module.weight)
    >>> fisher_diagonal(module, torch.tensor([[2.0]]))["weight"].flatten()  # p (1 - p) x^2
    tensor([1., 1.])
    """
    if module.training:
        raise AveragingError("the module is in training mode; call its eval() first.")
    parameters = {name: p.detach() for name, p in module.named_parameters()}

    def log_probabilities(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(module, weights, (image[None],))
        return logits.log_softmax(-1)[0]

    jacobians = torch.func.vmap(torch.func.jacrev(log_probabilities), (None, 0))
    with torch.no_grad():
        p = module(x).double().softmax(-1)
    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    n_at_once = max(1, _GRADIENTS // (p.shape[1] * sum(v.numel() for v in parameters.values())))
    for images, shares in zip(x.split(n_at_once), p.split(n_at_once), strict=True):
        for name, J in jacobians(parameters, images).items():  # (images, classes, ...)
            total[name] += torch.tensordot(shares.to(J.dtype), J.square_(), 2) / len(x)
    for name, F in total.items():
        if not all_finite(F):
            raise AveragingError(
                f"the Fisher diagonal of tensor {name!r} holds NaN or inf; look for such values in "
                "the images and the weights, or scale the images down."
            )
    first = {id(p): name for name, p in module.named_parameters()}
    tied = {name: first[id(p)] for name, p in module.named_parameters(remove_duplicate=False)}
    return {
        name: total[tied[name]] if name in tied else torch.zeros_like(tensor)
        for name, tensor in module.state_dict().items()
        if tensor.is_floating_point()
    }


class _FisherMerge(LazyMerge):
    """The average of models that is weighed by their Fisher diagonals."""

    def __init__(
        self,
        layout: Layout,
        ingredients: Mapping[str, Mapping[str, Tensor]],
        fishers: Sequence[Mapping[str, Tensor]],
        coefficients: list[float],
        floor: float,
    ) -> None:
        super().__init__(layout, ingredients)
        self._fishers, self._coefficients, self._floor = fishers, coefficients, floor

    def _values(self, name: str, part: slice) -> Tensor:
        above: Tensor | None = None
        for (label, model), fisher, c in zip(
            self._ingredients.items(), self._fishers, self._coefficients, strict=True
        ):
            values, information = read_entries(model, name, part), read_entries(fisher, name, part)
            if above is None:
                dtype = torch.promote_types(values.dtype, torch.float32)
                above = torch.zeros(len(values), dtype=dtype, device=values.device)
                below = torch.zeros_like(above)
            step = block_size(above.device)
            for low in range(0, len(above), step):
                block = slice(low, low + step)
                F = information[block].to(above)
                if not all_finite(F) or (F < 0).any():
                    raise AveragingError(
                        f"tensor {name!r} of the Fisher diagonal of {label} holds NaN, inf or "
                        "negative numbers; compute it anew."
                    )
                F = F.clamp(min=self._floor).mul_(c)
                below[block] += F
                above[block] += F.mul_(values[block].to(above))
        assert above is not None
        return above.div_(below)
