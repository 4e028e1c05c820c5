"""Soups: averages of fine-tuned models, chosen by a held-out score, and the ensemble beside them.

What holds for all of them (Wortsman et al. 2022, arXiv:2203.05482):

- Ingredients are models of one architecture that were fine-tuned from one start. They are given
  as a mapping of names to weights, as a sequence, or as a `Zoo`; in the last two an ingredient's
  name is its place, "0" being the first.
- Nothing is chosen on the test set: what picks and weighs ingredients is a held-out set, and what
  is reported is measured on another.
- The running statistics of a batch norm are averaged with all else, which is not what they would
  be of the averaged weights: recompute them on training data, `wskit.averaging.recalibrate_bn`,
  in the score as well as of the result.
- Dtypes, integer tensors, ties and errors are as in `wskit.averaging`.
"""

from wskit.soups._greedy import greedy_soup, greedy_steps
from wskit.soups._learned import learned_soup
from wskit.soups._scores import held_out_score, logit_ensemble
from wskit.soups._soup import Soup, uniform_soup

__all__ = [
    "Soup",
    "greedy_soup",
    "greedy_steps",
    "held_out_score",
    "learned_soup",
    "logit_ensemble",
    "uniform_soup",
]
