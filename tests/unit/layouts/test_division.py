"""Even divisions where the embedding and the loss head may take the place of a layer each."""

import msgspec
import numpy as np
import pytest

from planner.layouts.division import (
    divides_evenly,
    even_layers,
    full_stage,
    has_to_be_even,
    is_even,
    missing_layers,
    most_chunks,
)
from planner.layouts.layout import Layout, columns_of
from planner.layouts.problem import Problem
from planner.layouts.stages import stages_of_layout
from planner.plans.question import Question, build_problem
from planner.rules import violations
from planner.solver import solve
from planner.solver.candidates import enumerate_layouts
from planner.specs import ModelSpec, StackSpec
from planner.specs.files import load_spec
from tests.helpers import layout, problem

PAPERS = (7, *(8,) * 14, 7)
"""Llama 3 405B: 126 layers on 16 stages of 8 chunks, one fewer on the ends (arXiv 2407.21783, section 3.3.2)."""


def asked(num_layers: int, *, ends: bool = True, uneven: bool = False) -> Problem:
    stack = {"ends_as_layers": ends, "uneven_stages": uneven}
    return problem(model={"num_layers": num_layers}, stack=stack, num_devices=16, global_batch=16)


def interleaved(stages: int, chunks: int, layers: tuple[int, ...]) -> Layout:
    return layout(
        pipeline_parallel=stages,
        num_model_chunks=chunks,
        schedule="interleaved",
        num_microbatches=16,
        layers_per_stage=layers,
    )


def test_stages_of_llama_3_405b() -> None:
    question, one = asked(126), interleaved(16, 8, PAPERS)
    columns, stages = columns_of(one), stages_of_layout(one)
    assert (full_stage(question, columns)[0], missing_layers(question, columns)[0]) == (8, 2)
    assert divides_evenly(question, columns)[0]
    fewest, most = even_layers(question, stages, np.ones(16, dtype=bool))
    assert (fewest.tolist(), most.tolist()) == ([7, *[8] * 14, 7], [8] * 16)
    assert is_even(question, PAPERS, 8)
    assert most_chunks(question, columns)[0] == 128
    assert not {"PP001", "PP006", "PP010", "PP011"} & {one.rule for one in violations(question, one)}
    without = {one.rule for one in violations(asked(126, ends=False), one)}
    assert {"PP001", "PP006", "PP011"} <= without


@pytest.mark.parametrize(
    ("layers", "chunks", "even"),
    [
        ((2, 2, 2), 2, True),
        ((1, 2, 2), 2, True),
        ((2, 2, 1), 1, True),
        ((2, 1, 2), 1, False),
        ((1, 3, 2), 1, False),
        ((3, 4, 4), 3, False),
    ],
)
def test_one_layer_may_be_missing_at_each_end(layers: tuple[int, ...], chunks: int, *, even: bool) -> None:
    assert is_even(asked(sum(layers)), layers, chunks) == even
    assert is_even(asked(sum(layers), ends=False), layers, chunks) == (len(set(layers)) == 1)


def test_no_end_is_left_without_a_layer() -> None:
    columns = columns_of(layout(pipeline_parallel=4))
    assert not divides_evenly(asked(3), columns)[0]
    assert divides_evenly(asked(4), columns)[0]


def test_what_has_to_be_even() -> None:
    plain, chunked = columns_of(layout(pipeline_parallel=2)), columns_of(interleaved(2, 2, (2, 2)))
    assert [has_to_be_even(asked(4, uneven=True), columns)[0] for columns in (plain, chunked)] == [False, True]
    assert has_to_be_even(asked(4), plain)[0]


def test_a_layout_without_an_even_division_has_too_many_layers_for_the_model() -> None:
    stages = stages_of_layout(layout(pipeline_parallel=4, layers_per_stage=(2, 2, 1, 1)))
    everywhere = np.ones(4, dtype=bool)
    assert even_layers(asked(5), stages, everywhere).most.tolist() == [6] * 4
    assert even_layers(asked(5, uneven=True), stages, everywhere).most.tolist() == [0] * 4


@pytest.mark.parametrize("stack", ["megatron", "torchtitan"])
def test_the_layout_of_llama_3_405b_is_searched(stack: str) -> None:
    """The chunks of one layer on 16,384 GPUs are among the candidates of the stacks that have them."""
    from_file = load_spec(stack, StackSpec)
    question = msgspec.structs.replace(
        problem(num_devices=16384, devices_per_node=8, global_batch=2048, seq_len=8192),
        model=load_spec("llama3-405b", ModelSpec),
        stack=from_file,
        pins={"tensor_parallel": "8", "pipeline_parallel": "16", "micro_batch": "1"},
    )
    columns = enumerate_layouts(question, keeping_pins=True)
    counts = np.unique(columns.num_model_chunks[columns.schedule_is("interleaved")])
    assert counts.tolist() == [2, 4, 8]
    assert all(divides_evenly(question, columns)[columns.schedule_is("interleaved")])


def test_the_solver_takes_a_layer_from_both_ends() -> None:
    question = msgspec.structs.replace(
        asked(6), pins={"pipeline_parallel": "4", "schedule": "1f1b", "data_parallel": "4"}
    )
    answer = solve(question)
    assert answer.plan is not None
    assert answer.plan.layout.layers_per_stage == (1, 2, 2, 1)


def test_the_layout_of_llama_3_405b_is_valid_and_the_answer_no_slower() -> None:
    """Table 4 there: 16,384 H100 at 400 TFLOP/s each, 6.7 s a step.

    The paper recomputes nothing, which takes memory that this stack does not leave; Megatron-LM recomputes as many
    layers in every chunk, which of one layer are all or none.
    """
    asked = Question(model="llama3-405b", gpu="h100-80g", gpus=16384, stack="megatron", precision="bf16")
    asked = msgspec.structs.replace(asked, global_batch=2048, seq_len=8192)
    pins = ("tensor_parallel=8", "sequence_parallel_degree=1", "pipeline_parallel=16", "num_model_chunks=8")
    papers, answer = (solve(build_problem(msgspec.structs.replace(asked, pin=pin))) for pin in (pins, ()))
    assert papers.plan is not None
    assert answer.plan is not None
    one, predicted = papers.plan.layout, papers.plan.predicted
    assert (papers.status, answer.status, one.layers_per_stage, one.data_parallel) == (
        "optimal",
        "optimal",
        PAPERS,
        128,
    )
    published_s = predicted.step_s * predicted.model_flops_per_s_per_gpu / 400e12
    assert predicted.step_s == pytest.approx(published_s, rel=0.1)
    assert answer.plan.predicted.step_s <= predicted.step_s
