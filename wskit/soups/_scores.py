"""What modules say with other weights: scores on held-out data, and the ensemble."""

import copy
import hashlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from wskit._checks import calling, check_mapping, check_tensor, check_whole
from wskit.errors import SoupError
from wskit.soups._soup import Ingredients, label_of, layout_of_all, pool_of


def held_out_score(
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    test_x: Tensor | None = None,
    batch_size: int = 1024,
) -> Callable[[Mapping[str, Tensor]], float]:
    """Make a score of weights: the module's accuracy on held-out data, in evaluation mode.

    Parameters
    ----------
    module : nn.Module
        Is copied, and not changed.
    x : Tensor of shape (images, ...)
        Held-out: neither trained on nor tested on.
    y : Tensor of shape (images,)
        Classes, from 0.
    test_x : Tensor of shape (test images, ...), optional
        The images that the result will be tested on. Where given, they are compared with `x`.
    batch_size : int, default 1024
        Images at a time.

    Returns
    -------
    callable
        Maps weights, with the names of ``module.state_dict()``, to the share of right answers.
        Logits that hold NaN are no answer, and count as a wrong one: where all do, the score is
        0, so that `greedy_soup` tries such weights last.

    Raises
    ------
    SoupError
        If there is not a class for each image, or an image is in `test_x` as well; on evaluation,
        if the weights do not fit the module.

    Examples
    --------
    >>> score = held_out_score(nn.Linear(1, 2), torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1]))
    >>> score({"weight": torch.tensor([[1.0], [0.0]]), "bias": torch.zeros(2)})
    1.0
    """
    check_labels(x, y)
    check_whole(batch_size, SoupError, "batch_size")
    if test_x is not None:
        _refuse_shared(x, test_x)
    own = copy.deepcopy(module).eval()

    def score(weights: Mapping[str, Tensor]) -> float:
        load(own, weights, "the weights")
        parts = zip(x.split(batch_size), y.split(batch_size), strict=True)
        with torch.no_grad():
            right = [_count_right(_logits(own, part), wanted) for part, wanted in parts]
        return int(torch.stack(right).sum()) / len(x)

    return score


def _count_right(logits: Tensor, wanted: Tensor) -> Tensor:
    return ((logits.argmax(-1) == wanted) & ~logits.isnan().any(-1)).sum()


def logit_ensemble(
    module: nn.Module, ingredients: Ingredients, x: Tensor, *, batch_size: int = 1024
) -> Tensor:
    """Mean of the ingredients' logits: the rival of a soup, at the cost of all of them.

    Wortsman et al. (2022, arXiv:2203.05482) average logits, not probabilities.

    Parameters
    ----------
    module : nn.Module
        Is copied, and not changed; called in evaluation mode.
    ingredients : mapping of str to weights, sequence of weights, or Zoo
        One after the other is in memory.
    x : Tensor of shape (images, ...)
    batch_size : int, default 1024
        Images at a time.

    Returns
    -------
    Tensor of shape (images, classes)

    Raises
    ------
    SoupError
        If there is no ingredient, or its weights do not fit the module.
    AveragingError
        If two ingredients differ in names, shapes, dtypes, ties or masks.

    Examples
    --------
    >>> models = [{"weight": torch.tensor([[w]])} for w in (1.0, 5.0)]
    >>> logit_ensemble(nn.Linear(1, 1, bias=False), models, torch.tensor([[2.0]]))
    tensor([[6.]])
    """
    check_tensor(x, SoupError, "x")
    check_whole(batch_size, SoupError, "batch_size")
    pool = pool_of(ingredients)
    layout_of_all(pool)
    own = copy.deepcopy(module).eval()
    total: Tensor | None = None
    for name, model in pool.items():
        load(own, model, label_of(name))
        with torch.no_grad():
            logits = torch.cat([_logits(own, part) for part in x.split(batch_size)])
        total = logits if total is None else total + logits
    assert total is not None
    return total / len(pool)


def _logits(own: nn.Module, part: Tensor) -> Tensor:
    with calling(SoupError, "the module", "give it images that it is made for"):
        found: Tensor = own(part)
    return found


def check_labels(x: Tensor, y: Tensor) -> None:
    """Raise unless there is a class for each image."""
    check_tensor(x, SoupError, "x")
    check_tensor(y, SoupError, "y")
    if x.ndim == 0 or len(x) == 0 or y.shape != (len(x),):
        raise SoupError(
            f"a class for each image is needed, got {len(x)} images and classes of shape "
            f"{tuple(y.shape)}; give as many classes as images."
        )


def load(own: nn.Module, weights: Mapping[str, Tensor], label: str) -> None:
    """Load weights into a module, and say in one sentence what does not fit."""
    check_mapping(weights, SoupError, label)
    try:
        own.load_state_dict(dict(weights))
    except RuntimeError as error:
        what = " ".join(str(error).partition("\n")[2].split()).rstrip(".")
        raise SoupError(f"{label} do not fit {type(own).__name__}: {what}.") from error


def _refuse_shared(x: Tensor, test_x: Tensor) -> None:
    if x.shape[1:] != test_x.shape[1:]:
        raise SoupError(
            f"held-out and test images differ in shape: {tuple(x.shape[1:])} and "
            f"{tuple(test_x.shape[1:])}."
        )
    tested = set(_digests(test_x))
    shared = sum(digest in tested for digest in _digests(x))
    if shared:
        raise SoupError(
            f"{shared} of the {len(x)} held-out images are test images too, and a score that "
            "chooses a soup must not see these; split the data anew."
        )


def _digests(x: Tensor) -> list[bytes]:
    rows = x.detach().to("cpu", torch.float32).flatten(1).contiguous().numpy()
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]
