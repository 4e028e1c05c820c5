"""The Fisher information of each weight, and averages that it weighs."""

import math
from collections.abc import Mapping, Sequence

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from wskit._checks import calling, check_tensor, check_whole
from wskit._weights import Layout, all_finite, block_size, header_of, layout_of
from wskit.averaging._average import checked, numbered
from wskit.averaging._lazy import LazyMerge, entries
from wskit.errors import AveragingError

_GRADIENTS = 2**24  # entries of gradients that are in memory at a time


def fisher_average(
    weights: Sequence[Mapping[str, Tensor]],
    fishers: Sequence[Mapping[str, Tensor]],
    coefficients: ArrayLike | None = None,
    *,
    floor: float = 1e-6,
    lazy: bool = False,
) -> Mapping[str, Tensor]:
    r"""Average models, each weight by how much the model's predictions depend on it.

    Fisher merging (Matena and Raffel 2022, arXiv:2111.09832): entry by entry, with the diagonals
    F_i of the models' Fisher information,

    .. math::
        \frac{\sum_i c_i F_i \theta_i}{\sum_i c_i F_i},

    the most probable weights if each model's posterior is a Gaussian of the precision F_i.

    Parameters
    ----------
    weights : sequence of mappings of str to Tensor
    fishers : sequence of mappings of str to Tensor
        One a model, such as `fisher_diagonal` returns, with a tensor for each floating-point
        tensor of the model, of its shape.
    coefficients : array of shape (models,), optional
        The paper's \lambda: positive, and with the sum 1. None gives each model 1/n.
    floor : float, default 1e-6
        A smaller Fisher information counts as this, so that weights on which no model depends are
        averaged as `average` does it. The default is that of the authors' code; the scale of F
        goes with the squares of the gradients, so look at yours.
    lazy : bool, default False
        As for `average`.

    Returns
    -------
    mapping of str to Tensor
        As `average` returns it.

    Raises
    ------
    AveragingError
        As `average`, and if a Fisher information is missing, of another shape, negative or NaN.

    Examples
    --------
    >>> models = [{"w": torch.tensor([0.0, 1.0])}, {"w": torch.tensor([4.0, 3.0])}]
    >>> fishers = [{"w": torch.tensor([3.0, 0.0])}, {"w": torch.tensor([1.0, 0.0])}]
    >>> fisher_average(models, fishers)["w"]
    tensor([1., 2.])
    """
    models = numbered(weights)
    first, *labels = models
    layout = layout_of(models[first], first)
    for label in labels:
        layout.check(models[label], label)
    c = checked(coefficients, len(models)) or [1 / len(models)] * len(models)
    if min(c) <= 0 or not 0 < floor < math.inf:
        raise AveragingError(
            f"coefficients and floor must be positive, got {min(c):g} for the smallest "
            f"coefficient and {floor:g} for the floor."
        )
    if len(fishers) != len(models):
        raise AveragingError(
            f"each model needs a Fisher diagonal, got {len(models)} models and {len(fishers)} "
            "diagonals."
        )
    for label, fisher in zip(models, fishers, strict=True):
        _check_fisher(layout, fisher, label)
    result = _FisherMerge(layout, models, list(fishers), c, floor)
    return result if lazy else result.read()


def fisher_diagonal(
    module: nn.Module, x: Tensor, *, n_draws: int | None = None, seed: int = 0
) -> dict[str, Tensor]:
    r"""Compute the diagonal of a classifier's Fisher information, for small models.

    .. math::
        F = \frac1n \sum_x E_{y \sim p(y | x, \theta)}
            \big[ (\nabla_\theta \log p(y | x, \theta))^2 \big],

    with the labels y that the model itself predicts, not those of the data (Matena and Raffel
    2022, arXiv:2111.09832). It costs a gradient for every image and every class or draw.

    Parameters
    ----------
    module : torch.nn.Module
        Maps images to logits of shape (images, classes), and must be in evaluation mode.
    x : Tensor, shape (images, ...)
    n_draws : int, optional
        None takes the expectation over all classes exactly. With a thousand classes, say, take
        the mean over so many labels an image instead, drawn from the model's prediction.
    seed : int, default 0
        Of the labels that are drawn, on the CPU.

    Returns
    -------
    dict of str to Tensor
        For each floating-point tensor of the module's `state_dict`, of its shape and dtype; 0 for
        one that is not a parameter, a running statistic, say.

    Raises
    ------
    AveragingError
        If the module is in training mode or cannot be fed the images, there is no image, `n_draws`
        is not positive, or a logit or a result is not finite.

    Examples
    --------
    >>> module = torch.nn.Linear(1, 2, bias=False).eval()
    >>> with torch.no_grad():
    ...     module.weight.zero_()
    Parameter containing:
    tensor([[0.],
            [0.]], requires_grad=True)
    >>> fisher_diagonal(module, torch.tensor([[2.0]]))["weight"].flatten()  # p (1 - p) x^2
    tensor([1., 1.])
    """
    if module.training:
        raise AveragingError("the module is in training mode; call its eval() first.")
    check_tensor(x, AveragingError, "x")
    if x.ndim == 0 or len(x) == 0:
        raise AveragingError(f"one image at least is needed, got the shape {tuple(x.shape)}.")
    if n_draws is not None:
        check_whole(n_draws, AveragingError, "n_draws")
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    generator = torch.Generator().manual_seed(seed)

    def log_probability(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = torch.func.functional_call(module, weights, (image[None],))
        return logits.log_softmax(-1)[0].gather(0, label[None])[0]

    gradients = torch.func.vmap(torch.func.grad(log_probability), (None, 0, 0))
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    n_at_once = max(1, _GRADIENTS // max(1, sum(p.numel() for p in parameters.values())))
    for images in x.split(max(1, n_at_once // 2)):
        with torch.no_grad():
            p = _probabilities(module, images)
        if n_draws is None:
            labels, shares = torch.arange(p.shape[1], device=p.device).repeat(len(p)), p.flatten()
        else:
            drawn = torch.multinomial(p.cpu(), n_draws, replacement=True, generator=generator)
            labels = drawn.flatten().to(p.device)
            shares = torch.full_like(labels, 1 / n_draws, dtype=p.dtype)
        owners = torch.arange(len(p), device=p.device).repeat_interleave(len(labels) // len(p))
        for part in torch.arange(len(labels), device=p.device).split(n_at_once):
            of_part = gradients(parameters, images[owners[part]], labels[part])
            for name, g in of_part.items():
                total[name] += torch.tensordot(shares[part].to(g.dtype), g.square_(), 1) / len(x)
    for name, F in total.items():
        if not all_finite(F):
            raise AveragingError(
                f"the Fisher diagonal of tensor {name!r} holds NaN or inf; look for such values in "
                "the images, or scale them down."
            )
    first = {id(p): name for name, p in module.named_parameters()}
    tied = {name: first[id(p)] for name, p in module.named_parameters(remove_duplicate=False)}
    return {
        name: total[tied[name]] if name in tied else torch.zeros_like(tensor)
        for name, tensor in module.state_dict().items()
        if tensor.is_floating_point()
    }


def _probabilities(module: nn.Module, images: Tensor) -> Tensor:
    with calling(AveragingError, "the module", "give it images that it is made for"):
        logits = module(images)
    check_tensor(logits, AveragingError, "what the module makes of images")
    if logits.ndim != 2 or len(logits) != len(images):
        raise AveragingError(
            "the module must map images to logits of shape (images, classes), and made "
            f"{tuple(logits.shape)} of {len(images)} images; wrap it."
        )
    if not logits.isfinite().all():
        raise AveragingError(
            "the module's logits hold NaN or inf, and so no probabilities; look for such values "
            "in the images and in the weights."
        )
    p: Tensor = logits.double().softmax(-1)
    return p


class _FisherMerge(LazyMerge):
    def __init__(
        self,
        layout: Layout,
        ingredients: Mapping[str, Mapping[str, Tensor]],
        fishers: list[Mapping[str, Tensor]],
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
            values, information = entries(model, name, part), entries(fisher, name, part)
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
                        f"the Fisher diagonal of {label} holds NaN, inf or negative numbers in "
                        f"tensor {name!r}; compute it anew."
                    )
                F = F.clamp(min=self._floor).mul_(c)
                below[block] += F
                above[block] += F.mul_(values[block].to(above))
        assert above is not None
        return above.div_(below)


def _check_fisher(layout: Layout, fisher: Mapping[str, Tensor], label: str) -> None:
    for name in layout.spans:
        if name not in fisher:
            raise AveragingError(
                f"tensor {name!r} is missing in the Fisher diagonal of {label}; give zeros where "
                "there is nothing to weigh by."
            )
        shape, _ = header_of(fisher, name, f"the Fisher diagonal of {label}")
        if shape != layout.shapes[name]:
            raise AveragingError(
                f"tensor {name!r} has the shape {layout.shapes[name]}, and {shape} in the Fisher "
                f"diagonal of {label}; they must be of one model."
            )
