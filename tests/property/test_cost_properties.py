"""What holds of costs for every layout: growth, sums and the shapes that the solver relies on."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from planner.cost_model import predict
from planner.cost_model.breakdown import step_breakdown
from planner.cost_model.host import host_bytes_per_rank, nvme_bytes_per_rank
from planner.cost_model.memory import stage_memory
from planner.cost_model.parameters import stage_parameters
from planner.cost_model.pipeline import stage_times
from planner.cost_model.reserve import usable_bytes
from planner.cost_model.states import state_bytes
from planner.cost_model.terms import total
from planner.layouts.layout import Layout, LayoutColumns
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats, StageColumns, stages_of, stages_of_layout
from planner.rules import screen, violations
from planner.solver.candidates import enumerate_layouts
from tests.helpers import layout, problem, problem_of, stages

COMMON = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def questions(draw: st.DrawFn) -> Problem:
    """Problems whose stack and model differ in everything that a cost formula branches on."""
    attention = draw(st.sampled_from(["flash", "unskipped", "materialised", "recomputed"]))
    modes = draw(st.sampled_from([("none", "1d"), ("none", "1d"), ("none", "2d", "2.5d", "3d")]))
    pieces = {
        "unit_parameters": draw(st.sampled_from([0, 0, 5000, 10**6])),
        "pinned_blocks": draw(st.booleans()),
        "gradients_reuse_weights": draw(st.booleans()),
        "pinned_weight": 2.0,
        "recompute_gathers": 1.0,
    }
    stack = {
        "zero_bucket_bytes": draw(st.sampled_from([0, 1000, 10**6])),
        "sharded": pieces,
        "tensor_modes": modes,
        "zero_stages": (0, 1, 2, 3),
        "zero_stages_with_accumulation": (0, 1, 3),
        "recompute": "per-layer",
        "offload_tiers": ("none", "cpu", "nvme"),
        "activations": {
            "attention": attention,
            "backward_elements": draw(st.sampled_from([0.0, 8.0])),
            "gathered_elements": draw(st.sampled_from([0.0, 2.0])),
            "mask_elements": 1.0,
            "causal_buffer_bytes": 1.0,
        },
    }
    model = {
        "num_layers": draw(st.integers(2, 12)),
        "dropout": draw(st.sampled_from([0.0, 0.1])),
        "tied_embeddings": draw(st.booleans()),
        "vocab_size": draw(st.sampled_from([100, 128, 5000])),
    }
    return problem(
        model=model,
        stack=stack,
        num_devices=draw(st.sampled_from([1, 2, 4, 8, 12])),
        devices_per_node=draw(st.sampled_from([2, 4])),
        global_batch=draw(st.sampled_from([4, 8, 12])),
        allow_offload=draw(st.sampled_from(["none", "cpu", "nvme"])),
        hardware={"kernel_launch_s": draw(st.sampled_from([0.0, 1e-3]))},
    )


def valid_columns(asked: Problem) -> LayoutColumns:
    columns = enumerate_layouts(asked)
    return columns.take(screen(asked, columns)[0])


def peaks(asked: Problem, columns: StageColumns) -> Floats:
    return stage_memory(asked, columns).peak_bytes()


def any_valid_layout(asked: Problem, data: st.DataObject) -> Layout:
    columns = valid_columns(asked)
    assume(len(columns))
    row = data.draw(st.integers(0, len(columns) - 1))
    count, num_layers = int(columns.pipeline_parallel[row]), asked.model.num_layers
    places = st.sets(st.integers(1, num_layers - 1), min_size=count - 1, max_size=count - 1)
    edges = [0, *sorted(data.draw(places)), num_layers]
    layers = [after - before for before, after in pairwise(edges)]
    whole = columns.layout(row, layers, layers if columns.recompute[row] else [0] * count, asked.precision)
    assume(not violations(asked, whole))
    return whole


@COMMON
@given(questions())
def test_peak_memory_never_falls_with_more_layers(asked: Problem) -> None:
    columns = stages_of(valid_columns(asked))
    counts = range(asked.model.num_layers + 2)
    table = np.array([peaks(asked, columns.with_layers(np.full(len(columns), count))) for count in counts])
    assert (np.diff(table, axis=0) >= 0).all()


def recomputing(columns: StageColumns, layers: int, recomputed: int) -> StageColumns:
    """The stages with so many layers and recomputed layers each."""
    return replace(
        columns, num_layers=np.full(len(columns), layers), recompute_layers=np.full(len(columns), recomputed)
    )


@COMMON
@given(questions())
def test_peak_memory_never_rises_with_more_recomputed_layers_from_one_on(asked: Problem) -> None:
    columns = stages_of(valid_columns(asked))
    assume(len(columns))
    counts = range(1, asked.model.num_layers + 1)
    table = np.array([peaks(asked, recomputing(columns, asked.model.num_layers, count)) for count in counts])
    assert (np.diff(table, axis=0) <= 1e-9 * table.max()).all()


@COMMON
@given(questions())
def test_forward_and_backward_memory_are_affine_in_layers_and_recomputed_layers(asked: Problem) -> None:
    """Apart from buckets and gradients, which are at most something else."""
    columns = stages_of(valid_columns(asked))
    assume(len(columns))
    for phase in ("forward", "backward"):
        table = np.array(
            [[affine_part(asked, recomputing(columns, n, r), phase) for r in (1, 2, 3)] for n in (4, 5, 6)]
        )
        scale = 1e-9 * table.max()
        assert np.diff(table, n=2, axis=0) == pytest.approx(0.0, abs=scale)
        assert np.diff(table, n=2, axis=1) == pytest.approx(0.0, abs=scale)
        assert np.diff(np.diff(table, axis=0), axis=1) == pytest.approx(0.0, abs=scale)


def affine_part(asked: Problem, columns: StageColumns, phase: str) -> Floats:
    terms = stage_memory(asked, columns).phases[phase]
    return total({name: column for name, column in terms.items() if name not in ("communication_buckets", "gradients")})


@COMMON
@given(questions(), st.sampled_from([host_bytes_per_rank, nvme_bytes_per_rank]))
def test_host_and_nvme_never_hold_less_with_more_layers(asked: Problem, held: Any) -> None:
    columns = stages_of(valid_columns(asked))
    fewer, more = (held(asked, columns.with_layers(np.full(len(columns), n))) for n in (1, 2))
    assert (more >= fewer).all()


@COMMON
@given(questions())
def test_peak_memory_never_falls_with_a_larger_micro_batch(asked: Problem) -> None:
    columns = valid_columns(asked)
    larger = replace(columns, micro_batch=columns.micro_batch + 1)
    assert (peaks(asked, stages_of(larger)) >= peaks(asked, stages_of(columns))).all()


@COMMON
@given(questions())
def test_room_does_not_depend_on_the_layers(asked: Problem) -> None:
    columns = stages_of(valid_columns(asked))
    more = columns.with_layers(columns.num_layers + 5)
    assert usable_bytes(asked, columns).tolist() == usable_bytes(asked, more).tolist()


@COMMON
@given(questions(), st.integers(0, 2))
def test_zero_never_adds_states(asked: Problem, stage: int) -> None:
    assume(stage < 2 or asked.stack.sharded.unit_parameters == 0)  # pieces have unused ends
    columns = valid_columns(asked)
    lower = state_bytes(asked, stages_of(replace(columns, zero_stage=np.full(len(columns), stage))))
    higher = state_bytes(asked, stages_of(replace(columns, zero_stage=np.full(len(columns), stage + 1))))
    for name in ("weights", "gradients", "master_weights", "optimizer_moments"):
        assert (higher[name] <= lower[name]).all()


@COMMON
@given(st.sampled_from([1, 2, 3, 4, 6, 8]), st.sampled_from([2, 3, 4]), st.sampled_from([0, 1, 16, 64]), st.booleans())
def test_more_tensor_parallelism_never_adds_parameters(degree: int, factor: int, multiple: int, tied: bool) -> None:
    asked = problem(model={"vocab_size": 1000, "tied_embeddings": tied}, stack={"vocab_multiple": multiple})
    few = total(stage_parameters(asked, stages(tensor_parallel=degree, pipeline_parallel=2)))
    many = total(stage_parameters(asked, stages(tensor_parallel=degree * factor, pipeline_parallel=2)))
    assert (many <= few).all()


@COMMON
@given(questions())
def test_stage_times_are_affine_in_the_layers_of_a_pipeline(asked: Problem) -> None:
    columns = valid_columns(asked)
    piped = stages_of(columns.take(columns.pipeline_parallel > 1))
    assume(len(piped))
    table = [stage_times(asked, piped.with_layers(np.full(len(piped), count))) for count in range(1, 6)]
    for part in ("microbatch", "tail"):
        seconds = np.array([total(getattr(times, part)) for times in table])
        assert np.diff(seconds, n=2, axis=0) == pytest.approx(0.0, abs=1e-9 * seconds.max())
        assert (np.diff(seconds, axis=0) >= 0).all()


@COMMON
@given(questions(), st.data())
def test_a_prediction_sums_to_its_totals(asked: Problem, data: st.DataObject) -> None:
    predicted = predict(asked, any_valid_layout(asked, data))
    assert sum(predicted.breakdown_s.values()) == pytest.approx(predicted.step_s)
    assert all(seconds > 0 for seconds in predicted.breakdown_s.values())
    for stage in predicted.stages:
        assert sum(stage.breakdown_bytes.values()) == stage.peak_bytes
        assert min(stage.breakdown_bytes.values()) >= 0
    assert 0 < predicted.mfu < 1
    assert predicted.tokens_per_s == pytest.approx(asked.global_batch * asked.seq_len / predicted.step_s)


@COMMON
@given(questions(), st.data())
def test_embedding_head_and_optimizer_cost_time_on_the_stages_that_have_them(
    asked: Problem, data: st.DataObject
) -> None:
    times = stage_times(asked, stages_of_layout(any_valid_layout(asked, data)))
    assert times.microbatch["embedding"][0] > 0
    assert times.microbatch["loss_head"][-1] > 0
    assert (times.tail["optimizer"] + times.tail["offload"] > 0).all()


@COMMON
@given(questions(), st.data())
def test_embedding_head_and_optimizer_are_in_every_step(asked: Problem, data: st.DataObject) -> None:
    """A step without them is shorter, whichever stage is the slowest."""
    whole = any_valid_layout(asked, data)
    times = stage_times(asked, stages_of_layout(whole))
    once = sum(float(total(times.microbatch)[stage]) for stage in range(whole.pipeline_parallel))
    chunks = whole.num_model_chunks
    slowest, last = float(total(times.microbatch).max()), float(total(times.tail).max())
    least = once / chunks + (whole.num_microbatches - 1 / chunks) * slowest + last
    assert predict(asked, whole).step_s >= least - 1e-12
    if whole.pipeline_parallel == 1:
        optimizer = {"optimizer", "offload"} & predict(asked, whole).breakdown_s.keys()
        assert optimizer
        assert {"embedding", "loss_head"} <= predict(asked, whole).breakdown_s.keys()


@COMMON
@given(questions(), st.data())
def test_all_terms_of_one_rank_are_compute(asked: Problem, data: st.DataObject) -> None:
    alone = msgspec.structs.replace(asked, num_devices=1)
    terms = predict(alone, any_valid_layout(alone, data)).breakdown_s.keys()
    assert terms <= {"forward_backward", "recompute", "host", "embedding", "loss_head", "optimizer", "offload"}


@pytest.mark.parametrize(
    ("divided", "absent"),
    [
        ({"tensor_parallel": 1, "pipeline_parallel": 2, "data_parallel": 2}, "tensor_parallel_communication"),
        ({"tensor_parallel": 2, "pipeline_parallel": 2, "data_parallel": 1}, "data_parallel_communication"),
        ({"tensor_parallel": 2, "pipeline_parallel": 1, "data_parallel": 2}, "pipeline_communication"),
        ({"tensor_parallel": 2, "pipeline_parallel": 1, "data_parallel": 2}, "tied_embedding_reduction"),
    ],
)
def test_a_degree_of_one_costs_no_communication(divided: dict[str, Any], absent: str) -> None:
    whole = layout(**divided, num_microbatches=4)
    assert absent not in step_breakdown(problem_of(whole), stages_of_layout(whole))
