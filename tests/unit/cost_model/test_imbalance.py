"""Tokens of the fullest rank: against draws, by hand, and where a model says them."""

from typing import Any

import numpy as np
import pytest

from planner.cost_model.imbalance import JUDGED, MEAN, fullest_factor, is_drawn, judged_probability
from planner.specs import ExpertsSpec
from tests.helpers import changed, expert_problem, stages, tiny_mixtral

MANY = 1e9
DRAWN = tiny_mixtral(experts={"fullest": None})


def spec(**fields: Any) -> ExpertsSpec:
    return ExpertsSpec(**{"count": 8, "top_k": 2, "ffn_hidden_size": 8, **fields})


def factor(one: ExpertsSpec, ranks: int, probability: float, tokens: float = MANY, layers: int = 1) -> float:
    return float(fullest_factor(one, np.array([ranks]), np.array([tokens]), probability, layers)[0])


@pytest.mark.parametrize(("count", "ranks"), [(8, 2), (8, 8), (64, 64), (128, 16)])
def test_fullest_factor_is_that_of_drawn_loads(count: int, ranks: int) -> None:
    one = spec(count=count)
    drawn = np.random.default_rng(0).dirichlet([one.concentration] * count, 20_000)
    fullest = drawn.reshape(len(drawn), ranks, -1).sum(axis=2).max(axis=1) * ranks
    assert factor(one, ranks, MEAN) == pytest.approx(fullest.mean(), rel=0.02)
    for probability in (0.95, JUDGED):
        assert factor(one, ranks, probability) == pytest.approx(np.quantile(fullest, probability), rel=0.03)


def test_fullest_factor_of_few_tokens_is_that_of_drawn_tokens() -> None:
    # Routing that is even in the mean, and 64 tokens a rank: the counts of 8 ranks are multinomial.
    even = spec(concentration=1e9)
    drawn = np.random.default_rng(0).multinomial(8 * 64, [1 / 8] * 8, 20_000).max(axis=1) / 64
    assert factor(even, 8, MEAN, tokens=64) == pytest.approx(drawn.mean(), rel=0.02)
    assert factor(even, 8, MEAN) == pytest.approx(1.0, abs=1e-3)


def test_fullest_factor_of_several_layers_is_nearer_to_the_mean() -> None:
    one = spec()
    several = [factor(one, 8, JUDGED, layers=layers) for layers in (1, 4, 32)]
    assert several == sorted(several, reverse=True)
    # Layers of the same loads each: sixteen as many experts, as it were.
    assert several[1] == pytest.approx(factor(spec(concentration=64.0), 8, JUDGED))


def test_fullest_factor_is_at_most_what_a_token_can_send() -> None:
    # A token passes four of eight experts, one of which each rank has: all tokens are twice the mean.
    assert factor(spec(concentration=1.0, top_k=4), 8, JUDGED) == 2.0
    assert factor(spec(concentration=1.0, top_k=2), 8, JUDGED) == 4.0
    assert factor(spec(concentration=1.0), 1, JUDGED) == 1.0


def test_fullest_factor_is_what_the_model_says() -> None:
    assert factor(spec(fullest=1.5), 4, MEAN) == factor(spec(fullest=1.5), 4, JUDGED) == 1.5
    assert factor(spec(fullest=1.5), 1, MEAN) == 1.0
    measured = spec(load=(3.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0))
    assert factor(measured, 4, MEAN) == 4 / 8 * 4
    assert factor(measured, 8, JUDGED) == 3 / 8 * 8


def test_memory_is_judged_by_more_where_loads_are_drawn() -> None:
    columns = stages(data_parallel=2, expert_parallel=2).layouts
    assert judged_probability(expert_problem(model=DRAWN), columns).tolist() == [JUDGED]
    assert judged_probability(expert_problem(model=DRAWN), stages(data_parallel=2).layouts).tolist() == [1.0]
    assert judged_probability(expert_problem(), columns).tolist() == [1.0]
    assert is_drawn(expert_problem(model=DRAWN))
    assert not is_drawn(changed(expert_problem(), model=tiny_mixtral(experts={"fullest": None, "load": (1.0,) * 4})))
