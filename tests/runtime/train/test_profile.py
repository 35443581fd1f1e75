"""A profiled step in the terms of the cost model, from kernels and the host's clock."""

import pytest

from planner.cost_model import predict
from runtime.train.measure import TERMS, communication_words, predicted_terms
from runtime.train.profile import Kernel, Phase, longest_kernels, step_terms
from tests.helpers import layout, problem

ALL_REDUCE, SEND = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL", "ncclDevKernel_SendRecv"


def test_communication_counts_where_nothing_is_computed() -> None:
    kernels = (Kernel("gemm", 0.0, 0.4), Kernel(ALL_REDUCE, 0.3, 0.6), Kernel("gemm", 0.5, 0.7))
    terms = step_terms(Phase(1.0, kernels), Phase(0.2, (Kernel("adam", 1.0, 1.1),)))
    assert terms == pytest.approx(
        {"compute": 0.6, "communication": 0.1, "pipeline": 0.0, "optimizer": 0.2, "host": 0.3}
    )
    assert sum(terms.values()) == pytest.approx(1.2)


def test_waiting_for_another_stage_is_the_pipeline() -> None:
    kernels = (Kernel("gemm", 0.0, 0.4), Kernel(SEND, 0.1, 0.9))
    terms = step_terms(Phase(0.9, kernels), Phase(0.1, ()))
    assert terms == pytest.approx(
        {"compute": 0.4, "communication": 0.0, "pipeline": 0.5, "optimizer": 0.1, "host": 0.0}
    )


def test_gathering_of_weights_after_the_update_is_communication() -> None:
    update = Phase(0.5, (Kernel("adam", 1.0, 1.2), Kernel(ALL_REDUCE, 1.1, 1.4)))
    terms = step_terms(Phase(1.0, (Kernel("gemm", 0.0, 1.0),)), update)
    assert terms["communication"] == pytest.approx(0.2)
    assert terms["optimizer"] == pytest.approx(0.3)


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
