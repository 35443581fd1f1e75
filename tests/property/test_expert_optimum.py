"""The solver's answer to small questions with experts, against the optimum of every layout."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planner.layouts.problem import Problem
from planner.solver import solve
from planner.specs import ExpertsSpec
from tests.helpers import changed, tiny_mixtral
from tests.property.brute_force import optimum
from tests.property.strategies import problems

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


@st.composite
def expert_problems(draw: st.DrawFn) -> Problem:
    """A small problem whose model has experts, which its stack divides in one of its ways."""
    asked = draw(problems(num_devices=4, global_batch=draw(st.sampled_from([4, 8]))))
    experts = ExpertsSpec(
        count=draw(st.sampled_from([4, 6])),
        top_k=2,
        ffn_hidden_size=8,
        shared=0,
        first_dense_layers=draw(st.sampled_from([0, 1])),
        fullest=draw(st.sampled_from([None, 1.0])),
    )
    own: dict[str, Any] = {
        "families": ("mixtral",),
        "zero_stages": draw(st.sampled_from([(0, 1), (1,)])),
        "by_tensor": draw(st.booleans()),
        "copies": draw(st.sampled_from([True, True, False])),
        "grouped": draw(st.booleans()),
    }
    family = {"families": ("mixtral",), "slice_families": ("mixtral",)}
    kept = {name: getattr(asked.model, name) for name in ("vocab_size", "tied_embeddings")}
    kept["num_layers"] = draw(st.sampled_from([2, 3, 4]))
    stack = changed(asked.stack, tensor_modes=("none", "1d"), experts=own, **family)
    return changed(asked, model=tiny_mixtral(**kept, experts=experts), stack=stack, allow_offload="none")


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(expert_problems())
def test_the_answer_is_the_optimum_of_all_layouts_of_experts(asked: Problem) -> None:
    answer, best = solve(asked), optimum(asked)
    if best is None:
        assert answer.status == "infeasible"
    else:
        assert answer.status == "optimal"
        assert answer.objective == pytest.approx(best, rel=1e-6)
