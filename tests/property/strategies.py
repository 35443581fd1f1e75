"""Small problems for hypothesis: models of 2 to 6 layers on 1 to 8 slow devices, some too small for them."""

from typing import Any

from hypothesis import strategies as st

from planner.layouts.problem import Problem, Reserve
from planner.specs import TilesSpec
from planner.specs.units import Bytes, Seconds
from tests.helpers import problem, slow_hardware

DEVICES = st.sampled_from([4, 2, 8, 6, 4, 3, 1])
ZERO_STAGES = st.sampled_from([(0,), (0, 1), (0, 1, 2), (0, 3), (1, 3)])
MODES = st.sampled_from([("none", "1d"), ("none", "1d"), ("none", "1d", "2d", "2.5d", "3d"), ("none", "2d", "2.5d")])
MEMORY = st.one_of(st.integers(100_000, 600_000), st.integers(60_000, 300_000), st.just(10**7))
SCHEDULES = st.sampled_from([("none", "1f1b"), ("none", "1f1b", "zbv"), ("none", "1f1b", "interleaved")])
TILES = TilesSpec(multiprocessors=3, rate=0.5, start_s=Seconds(0.01), shapes=((8, 8, 1.0), (4, 8, 0.8), (2, 2, 0.3)))


@st.composite
def models(draw: st.DrawFn) -> dict[str, Any]:
    """Overrides of a small model."""
    return {
        "num_layers": draw(st.integers(2, 6)),
        "tied_embeddings": draw(st.booleans()),
        "dropout": draw(st.sampled_from([0.0, 0.1])),
        "vocab_size": draw(st.sampled_from([100, 16, 512])),
    }


@st.composite
def stacks(draw: st.DrawFn) -> dict[str, Any]:
    """Overrides of a stack that executes little, so that few layouts are enough to try them all."""
    zero_stages = draw(ZERO_STAGES)
    return {
        "zero_stages": zero_stages,
        "zero_stages_with_pipeline": tuple(stage for stage in zero_stages if stage < 2),
        "zero_stages_with_accumulation": zero_stages[:2],
        "tensor_modes": draw(MODES),
        "offload_tiers": draw(st.sampled_from([("none",), ("none", "cpu"), ("none", "cpu", "nvme")])),
        "schedules": draw(SCHEDULES),
        "zero_bubble_families": ("gpt2",),
        "zero_bubble_tied_families": draw(st.sampled_from([("gpt2",), ()])),
        "sequence_parallel": draw(st.sampled_from([False, False, True])),
        "recompute": draw(st.sampled_from(["per-layer", "all-or-nothing", "per-layer", "none"])),
        "uneven_stages": draw(st.sampled_from([True, True, False])),
        "rank_order": draw(st.sampled_from(["data-pipeline-tensor", "pipeline-data-tensor"])),
        "pipeline_slices": draw(st.booleans()),
        "traffic": {
            "optimizer_bytes": draw(st.sampled_from([40.0, 40.0, 1.0])),
            "collective_s": Seconds(draw(st.sampled_from([0.0, 0.1]))),
            "layer_fixed_s": Seconds(draw(st.sampled_from([0.0, 0.1]))),
        },
        "zero_traffic": {"by_layer": draw(st.sampled_from([False, False, True]))},
        "zero_bucket_bytes": Bytes(draw(st.sampled_from([0, 1000, 10**6]))),
        "ends_as_layers": draw(st.sampled_from([False, True])),
    }


@st.composite
def problems(draw: st.DrawFn, /, **overrides: Any) -> Problem:
    """A small problem; ``overrides`` are fixed fields."""
    hardware = slow_hardware(memory_bytes=Bytes(draw(MEMORY)))
    hardware["node_link"] |= draw(st.sampled_from([{}, {}, {"latency_s": Seconds(0.2)}]))
    hardware["efficiency"] = hardware.get("efficiency", {}) | draw(st.sampled_from([{}, {"tiles": TILES}]))
    if draw(st.booleans()):
        hardware["devices_per_node"] = 2
    fields: dict[str, Any] = {
        "num_devices": draw(DEVICES),
        "devices_per_node": hardware.get("devices_per_node", 4),
        "global_batch": draw(st.sampled_from([8, 6, 4, 12])),
        "allow_offload": draw(st.sampled_from(["none", "none", "cpu", "nvme"])),
        "objective": draw(st.sampled_from(["step-time", "memory"])),
        "reserve": draw(st.sampled_from([None, Reserve(num_bytes=Bytes(500))])),
    }
    return problem(model=draw(models()), hardware=hardware, stack=draw(stacks()), **(fields | overrides))
