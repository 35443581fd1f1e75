"""How a micro batch divides into forward and backward."""

import numpy as np
import pytest

from planner.cost_model.passes import PassTimes, end_passes, pass_times
from planner.cost_model.pipeline import stage_times
from planner.cost_model.terms import total
from planner.layouts.problem import Problem
from planner.layouts.stages import StageColumns
from tests.helpers import problem, stages
from tests.unit.cost_model.test_pipeline import EMBEDDING_S, HEAD_S, LAYER_S, SEND_S
from tests.unit.cost_model.test_zero_bubble import LOGITS_S, in_v


def divided(asked: Problem, columns: StageColumns) -> PassTimes:
    return pass_times(asked, columns, stage_times(asked, columns))


def test_pass_times_by_hand() -> None:
    found = divided(problem(num_devices=2), stages(pipeline_parallel=2, layers_per_stage=(1, 3)))
    # Backward is twice forward, and the embedding moves three hidden states forward and five backward.
    assert found.forward_s[0] == pytest.approx(LAYER_S + 3 / 8 * EMBEDDING_S)
    assert found.backward_s[0] == pytest.approx(2 * LAYER_S + 5 / 8 * EMBEDDING_S)
    assert found.send_s.tolist() == pytest.approx([SEND_S, SEND_S])


@pytest.mark.parametrize(
    "fields",
    [
        {"pipeline_parallel": 2, "recompute_layers_per_stage": (2, 1)},
        {"pipeline_parallel": 4, "tensor_parallel": 2, "sequence_parallel": True, "num_microbatches": 4},
        {"pipeline_parallel": 2, "schedule": "interleaved", "num_model_chunks": 2},
        {"tensor_parallel": 4},
    ],
)
def test_pass_times_and_sends_add_up_to_the_time_of_a_microbatch(fields: dict[str, object]) -> None:
    columns, asked = stages(**fields), problem(num_devices=8)
    found = divided(asked, columns)
    count, chunks = len(columns), int(columns.layouts.num_model_chunks[0])
    ends = np.array([(stage in (0, count - 1)) * 1.0 for stage in range(count)])
    sends = np.full(count, 2.0 * chunks) if chunks > 1 else (2.0 - ends) * (count > 1)
    whole = found.forward_s + found.backward_s + sends * found.send_s
    assert whole.tolist() == pytest.approx(total(stage_times(asked, columns).microbatch).tolist())


def test_end_passes_by_hand() -> None:
    embedding, head = end_passes(problem(), in_v())
    assert [column.tolist() for column in embedding] == [
        pytest.approx([3 / 8 * EMBEDDING_S, 0]),
        pytest.approx([5 / 8 * EMBEDDING_S, 0]),
    ]
    forward = (HEAD_S - LOGITS_S) / 3 + LOGITS_S / 2
    assert [column.tolist() for column in head] == [pytest.approx([forward, 0]), pytest.approx([HEAD_S - forward, 0])]


def test_pass_times_give_forward_its_share_of_what_the_host_takes() -> None:
    asked = problem(num_devices=2, stack={"traffic": {"layer_host_s": 1.0, "forward_host_share": 0.5}})
    columns = stages(pipeline_parallel=2, recompute_layers_per_stage=(2, 0))
    whole, found = stage_times(asked, columns).microbatch, divided(asked, columns)
    # Of the host's time of two layers, a half and again a half to recompute; without recomputation a half of it.
    assert found.forward_s[0] - 2 * LAYER_S - 3 / 8 * EMBEDDING_S == pytest.approx(whole["host"][0] / 3)
    alone = divided(asked, columns.with_recompute(np.array([0, 0])))
    assert alone.forward_s[0] - 2 * LAYER_S - 3 / 8 * EMBEDDING_S == pytest.approx((6 - 6 * LAYER_S) / 2)
