"""One declaration says what people read of a layout."""

from planner.layouts.layout import Layout, Offload
from planner.layouts.words import FACTS, in_one_line
from tests.helpers import layout


def test_every_field_is_declared_once() -> None:
    assert sorted(field for fact in FACTS for field in fact.fields) == sorted(Layout.__struct_fields__)


def test_a_line_says_what_makes_a_layout() -> None:
    assert in_one_line(layout()) == "TP 1 x PP 1 x DP 1, ZeRO 0, 8 micro batches of 1, recompute none"
    stages = layout(tensor_parallel=2, pipeline_parallel=2, num_microbatches=1, recompute_layers_per_stage=(2, 2))
    assert in_one_line(stages) == "TP 2 (1d) x PP 2 x DP 1, ZeRO 0, 1 micro batch of 1, recompute all"


def test_a_line_says_chunks_depth_sequence_parallelism_and_offload() -> None:
    everything = layout(
        tensor_mode="2.5d",
        tensor_parallel=8,
        tensor_depth=2,
        pipeline_parallel=2,
        schedule="interleaved",
        num_model_chunks=2,
        sequence_parallel=True,
        recompute_layers_per_stage=(1, 0),
        offload=Offload(optimizer=0.5, tier="cpu"),
    )
    assert in_one_line(everything) == (
        "TP 8 (2.5d, depth 2) x PP 2 (interleaved, 2 chunks a stage) x DP 1, ZeRO 0, 8 micro batches of 1, "
        "recompute 1 of 4 layers, sequence parallel, 50% of the optimizer to cpu"
    )
