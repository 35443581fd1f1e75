"""A profiled step in the terms of the cost model, from kernels and the host's clock."""

import pytest

from planner.cost_model import predict
from runtime.train.measure import TERMS, communication_words, predicted_terms, result_lines
from runtime.train.memory import RankMemory
from runtime.train.profile import Kernel, Phase, StepProfile, longest_kernels, overlap, step_terms
from tests.helpers import layout, problem
from tests.runtime.training import MakePlan

ALL_REDUCE, SEND = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL", "ncclDevKernel_SendRecv"


def test_collectives_run_beside_what_computes_or_not() -> None:
    kernels = (Kernel("gemm", 0.0, 0.4), Kernel(ALL_REDUCE, 0.3, 0.6), Kernel("gemm", 0.5, 0.7), Kernel(SEND, 0.0, 0.7))
    assert overlap(Phase(1.0, kernels), 1) == pytest.approx({"all": 0.3, "beside_compute": 0.2})


def test_what_a_step_leaves_to_the_next_counts_once() -> None:
    gathers = (Kernel("adam", 0.0, 0.2), Kernel(ALL_REDUCE, 0.1, 0.4), Kernel("gemm", 0.2, 1.0))
    row = Phase(2.0, (*gathers, *(Kernel(name, start + 1.0, end + 1.0) for name, start, end in gathers)))
    assert overlap(row, 2) == pytest.approx({"all": 0.3, "beside_compute": 0.3})


def test_communication_counts_where_nothing_is_computed() -> None:
    kernels = (Kernel("gemm", 0.0, 0.4), Kernel(ALL_REDUCE, 0.3, 0.6), Kernel("gemm", 0.5, 0.7))
    gradients, update = Phase(1.0, kernels), Phase(0.2, (Kernel("adam", 1.0, 1.1),))
    terms = step_terms(gradients, update, overlap(Phase(1.2, (*kernels, *update.kernels)), 1))
    assert terms == pytest.approx(
        {"compute": 0.6, "communication": 0.1, "pipeline": 0.0, "optimizer": 0.2, "host": 0.3}
    )
    assert sum(terms.values()) == pytest.approx(1.2)


def test_waiting_for_another_stage_is_the_pipeline() -> None:
    kernels = (Kernel("gemm", 0.0, 0.4), Kernel(SEND, 0.1, 0.9))
    terms = step_terms(Phase(0.9, kernels), Phase(0.1, ()), overlap(Phase(1.0, kernels), 1))
    assert terms == pytest.approx(
        {"compute": 0.4, "communication": 0.0, "pipeline": 0.5, "optimizer": 0.1, "host": 0.0}
    )


def test_gathering_of_weights_after_the_update_is_communication() -> None:
    gradients = Phase(1.0, (Kernel("gemm", 0.0, 1.0),))
    update = Phase(0.5, (Kernel("adam", 1.0, 1.2), Kernel(ALL_REDUCE, 1.1, 1.4)))
    behind = Phase(2.9, (*gradients.kernels, *update.kernels, Kernel("gemm", 1.3, 2.3)))
    terms = [step_terms(gradients, update, overlap(row, 1)) for row in (update, behind)]
    assert [one["communication"] for one in terms] == pytest.approx([0.2, 0.1])
    assert [one["optimizer"] for one in terms] == pytest.approx([0.3, 0.3])


def test_the_closing_table_says_what_was_hidden(plan: MakePlan) -> None:
    told = [StepProfile({}, {}, collectives) for collectives in ({"all": 0.4, "beside_compute": 0.3}, {"all": 0.0}, {})]
    memory, asked = [RankMemory(0, 0, 1, 1, 1, 1)], plan()
    names = [[line.name.strip() for line in result_lines(asked, [], memory, one)] for one in told]
    assert ["hidden beside computation" in of_one for of_one in names] == [True, False, False]


def test_predicted_terms_sum_to_the_predicted_step() -> None:
    breakdown = {
        part: float(2**number) for number, part in enumerate(part for parts in TERMS.values() for part in parts)
    }
    assert sum(predicted_terms(breakdown).values()) == sum(breakdown.values())
    assert predicted_terms({"pipeline_bubble": 2.0})["pipeline"] == 2.0


def test_every_predicted_term_has_a_measured_one() -> None:
    from tests.validation.test_recorded_runs import REPORT

    known = {part for parts in TERMS.values() for part in parts}
    seen = {name for one in REPORT.replays if one.predicted for name in one.predicted.breakdown_s}
    assert seen
    assert seen <= known


def test_kernels_are_summed_by_name() -> None:
    kernels = [Kernel("a", 0, 1), Kernel("b", 0, 3), Kernel("a", 4, 5)]
    assert longest_kernels(kernels) == {"b": 3, "a": 2}


@pytest.mark.parametrize(
    ("degrees", "words"),
    [
        ({"tensor_parallel": 2}, "tensor-parallel communication"),
        ({"data_parallel": 2}, "data-parallel communication"),
        ({"tensor_parallel": 2, "data_parallel": 2}, "tensor-parallel and data-parallel communication"),
        ({"pipeline_parallel": 2}, "communication"),
    ],
)
def test_communication_is_called_what_it_is_for(degrees: dict[str, int], words: str) -> None:
    assert communication_words(layout(**degrees)) == words


def test_every_term_of_a_prediction_is_one_of_a_profile() -> None:
    predicted = predict(problem(num_devices=4), layout(tensor_parallel=2, pipeline_parallel=2))
    assert sum(predicted_terms(predicted.breakdown_s).values()) == pytest.approx(predicted.step_s)
