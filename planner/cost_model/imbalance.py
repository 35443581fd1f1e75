"""Tokens of the fullest rank among those that divide experts, as a multiple of the mean: a distribution, no number.

Which experts tokens pick is no matter of the layout, and no two layers or steps are alike. Where neither a figure nor a
histogram is given, the loads of a layer's experts are Dirichlet distributed with the concentration that the model
states, and the tokens multinomial given those. A rank's load is then beta distributed; the largest of several
is taken as that of independent gamma variables with the same variance, which leaves out that the loads sum to one: the
largest is so no less likely to be large.
"""

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from planner.cost_model.sources import formula
from planner.layouts.layout import LayoutColumns
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats, Integers
from planner.specs import ExpertsSpec

MEAN = math.exp(-math.exp(-float(np.euler_gamma)))
"""Probability up to the mean of the largest of many: 0.57, of a Gumbel distribution."""
JUDGED = 0.99
"""Probability with which no rank of a layout gets more tokens than memory is judged by."""
RANGE = (0.05, 0.95)
"""Probabilities of the ends of the range of a step time."""


@formula("wang2024", "wilson1931", "definition")
def fullest_factor(
    spec: ExpertsSpec, ranks: Integers, tokens: Floats, probability: float, layers: Integers | float = 1
) -> Floats:
    """Up to ``probability`` the tokens of the fullest of ``ranks`` ranks over their mean, ``tokens``.

    Of one layer, or of ``layers`` independent ones together. With ``E`` experts of concentration ``a`` on ``r`` ranks
    the load of a rank has the relative variance ``(1 - 1/r) (r / (a E) + 1 / tokens) / layers``, the inverse of ``k``;
    the gamma variable of the shape ``k`` is ``(1 - 1/9k + z / 3 sqrt(k))^3`` by Wilson and Hilferty, with ``z`` of
    ``probability^(1/r)`` as all ranks have to stay below. At most every token has one of its experts there, or all.
    """
    if spec.fullest is not None:
        return np.where(ranks > 1, np.minimum(spec.fullest, _most(spec, ranks)), 1.0)
    if spec.load:
        return np.array([_of_histogram(spec.load, int(count)) for count in ranks])
    alone = ranks == 1
    spread = (1.0 - 1.0 / ranks) * (ranks / (spec.concentration * spec.count) + 1.0 / np.maximum(tokens, 1.0))
    deviation = np.sqrt(np.where(alone, 0.0, spread) / np.maximum(layers, 1))
    counts, inverse = np.unique(ranks, return_inverse=True)
    normal = np.array([NormalDist().inv_cdf(probability ** (1.0 / count)) for count in counts.tolist()])[inverse]
    factor = np.maximum(1.0 - deviation**2 / 9.0 + normal * deviation / 3.0, 0.0) ** 3
    return np.where(alone, 1.0, np.clip(factor, 1.0, _most(spec, ranks)))


def _most(spec: ExpertsSpec, ranks: Integers) -> Floats:
    """Where all tokens pick as many experts of one rank as it has."""
    held = spec.count / ranks
    return np.asarray(ranks * np.minimum(held / spec.top_k, 1.0))


@lru_cache(maxsize=1024)
def _of_histogram(load: tuple[float, ...], ranks: int) -> float:
    """The fullest rank of a measured histogram, with as many experts on each, in their order."""
    if len(load) % ranks:
        return float(max(load) * len(load) / sum(load))
    return float(np.array(load).reshape(ranks, -1).sum(axis=1).max() * ranks / sum(load))


def fullest_tokens(
    problem: Problem, columns: LayoutColumns, sent: Floats, probability: float, layers: Integers | float = 1
) -> Floats:
    """Tokens that reach the fullest rank of an expert group from ranks that send ``sent`` each, experts counted."""
    spec = problem.model.experts
    if spec is None:
        return np.zeros(len(columns))
    return sent * fullest_factor(spec, columns.expert_parallel, sent, probability, layers)


def is_drawn(problem: Problem) -> bool:
    """Whether the tokens of the fullest rank are a guess: experts, and neither a figure nor a histogram of them."""
    spec = problem.model.experts
    return spec is not None and spec.fullest is None and not spec.load


def judged_probability(problem: Problem, columns: LayoutColumns) -> Floats:
    """Probability that no rank of a layout gets more tokens than its memory was judged by; 1 where none can."""
    drawn = (columns.expert_parallel > 1) & is_drawn(problem)
    return np.where(drawn, JUDGED, 1.0)
