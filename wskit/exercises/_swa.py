"""The self-checks of tutorial 04: averages of weights."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wskit.exercises._verdict import AnswerError, Verdict, verdict_on

if TYPE_CHECKING:
    from wskit.averaging import Trajectory
    from wskit.landscape import Evaluation

_WON = 0.8  # of the runs, for a design to pass


def check_merge_means(merge_means: object) -> Verdict:
    """Check exercise 4.1: ``merge_means(a, n_a, b, n_b)`` is the mean of two means' models.

    Parameters
    ----------
    merge_means : callable
        Takes two dicts of tensors, each after it the number of models that it is the mean of;
        returns the mean of all, whose integer tensors are those of the first.

    Returns
    -------
    Verdict
    """
    return verdict_on(_merge_means, merge_means, "each model counts once.")


def _merge_means(merge_means: Callable[..., Any]) -> None:
    a = {"w": torch.tensor([1.0, 2.0]), "v": torch.tensor([[3.0]]), "n": torch.tensor(5)}
    b = {"w": torch.tensor([5.0, -2.0]), "v": torch.tensor([[7.0]]), "n": torch.tensor(8)}
    before = {k: (a[k].clone(), b[k].clone()) for k in a}
    found = merge_means(a, 3, b, 1)
    if not isinstance(found, Mapping) or set(found) != set(a):
        raise AnswerError(f"return a dict with the names {sorted(a)}.")
    for k, W in found.items():
        if not isinstance(W, Tensor) or W.shape != a[k].shape:
            raise AnswerError(f"{k!r} must stay a tensor of shape {tuple(a[k].shape)}.")
    if any(not torch.equal(a[k], x) or not torch.equal(b[k], y) for k, (x, y) in before.items()):
        raise AnswerError("the means that were given have changed; make new tensors instead.")
    if torch.allclose(found["w"], torch.tensor([3.0, 0.0])):
        raise AnswerError("this is half of the way; but one mean is of more models than the other.")
    if torch.allclose(found["w"], torch.tensor([4.0, -1.0])):
        raise AnswerError("the numbers are exchanged: which mean stands for more models?")
    if not torch.allclose(found["w"], torch.tensor([2.0, 1.0])):
        raise AnswerError(
            f"1 and 2 of three models, 5 and -2 of one more, gave {found['w'].tolist()}."
        )
    if not torch.allclose(found["v"], torch.tensor([[4.0]])):
        raise AnswerError("one tensor is right and another is not; treat all of them alike.")
    if found["n"].is_floating_point() or int(found["n"]) != 5:
        raise AnswerError("'n' is a counter: it is the first dict's, and stays a whole number.")
    if not torch.allclose(merge_means(a, 3, b, 0)["w"], a["w"]):
        raise AnswerError("a mean of no models must change nothing.")


def check_design(
    design: object,
    runs: "Sequence[Trajectory]",
    tests: "Sequence[Evaluation]",
    *,
    rival: Sequence[Mapping[str, Tensor]],
) -> Verdict:
    """Check exercise 4.2: ``design(epochs)`` is a better average of a run than the rival.

    Parameters
    ----------
    design : callable
        Takes a number of epochs; returns as many coefficients, which sum to 1.
    runs : sequence of Trajectory
        One a seed.
    tests : sequence of Evaluation
        Of each seed; "error" is among their measures.
    rival : sequence of mapping of str to Tensor
        A model for each seed.

    Returns
    -------
    Verdict
        Passed if the designed average has the lower mean error, and the lower error in eight of
        ten seeds.
    """
    return verdict_on(lambda answer: _design(answer, runs, tests, rival), design, "")


def _design(
    design: Callable[..., Any],
    runs: "Sequence[Trajectory]",
    tests: "Sequence[Evaluation]",
    rival: Sequence[Mapping[str, Tensor]],
) -> str:
    # Here, as it loads pandas and tqdm: a check of another exercise needs neither.
    from wskit.landscape import evaluate_mixtures

    epochs = len(runs[0])
    c = np.asarray(design(epochs), dtype=float)
    if c.shape != (epochs,):
        raise AnswerError(f"{epochs} coefficients are needed, got an array of shape {c.shape}.")
    if not np.isfinite(c).all() or abs(c.sum() - 1) > 1e-6:
        raise AnswerError(
            f"the coefficients must sum to 1, and these sum to {c.sum():.3g}: the weights would "
            "be scaled. Divide by the sum."
        )
    errors = []
    for run, test, other in zip(runs, tests, rival, strict=True):
        models = [run.model(row) for row in range(epochs)]
        mine, theirs = (
            evaluate_mixtures(test, these, of[None])["error"][0]
            for these, of in ((models, c), ([other], np.ones(1)))
        )
        errors.append((mine, theirs))
    own, others = np.array(errors).T
    won = (own < others).mean()
    words = (
        f"{own.mean():.2f} % of error beside {others.mean():.2f} %, and lower in {won:.0%} of "
        f"{len(own)} runs."
    )
    if own.mean() >= others.mean() or won < _WON:
        raise AnswerError(words)
    return words
