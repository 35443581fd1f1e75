"""What a layout costs: pure functions over columns of layouts and stages, one file per quantity."""

from planner.cost_model.errors import expected_error, kind_of
from planner.cost_model.flops import model_flops_per_step
from planner.cost_model.host import host_bytes_per_rank, nvme_bytes_per_rank
from planner.cost_model.intervals import step_interval
from planner.cost_model.memory import predicted_stages
from planner.cost_model.pipeline import step_breakdown
from planner.cost_model.schedule_graph import schedule_step_seconds
from planner.layouts.compilation import is_compiled
from planner.layouts.layout import Layout
from planner.layouts.problem import Problem
from planner.layouts.stages import stages_of_layout
from planner.plans.prediction import Prediction

NOT_MODELLED = (
    "loading of data, logging, evaluation and checkpoints",
    "contention between kinds of communication, and network congestion by other jobs",
    "clock throttling and stragglers",
    "allocator fragmentation beyond the reserved share, and how it rounds blocks of some MiB",
    "gradient buckets that communication still holds when DDP lays them out anew",
)
"""What a prediction leaves out, for every layout."""


_ATTENTION_WORDS = {
    "flash": "attention kernels skip the masked half of the scores",
    "unskipped": "attention kernels store no scores and compute the masked half as well",
    "materialised": "attention materialises all scores",
    "recomputed": "attention materialises all scores and makes them again in backward",
}


def predict(problem: Problem, layout: Layout) -> Prediction:
    """Predicted step time and memory of one whole, valid layout."""
    stages = stages_of_layout(layout)
    breakdown = step_breakdown(problem, stages)
    step_s = sum(breakdown.values())
    flops_per_s = model_flops_per_step(problem) / step_s / problem.num_devices
    ranks = min(problem.devices_per_node, problem.num_devices)
    predicted = predicted_stages(problem, stages)
    low, high = step_interval(problem, kind_of(layout))
    return Prediction(
        step_s=step_s,
        tokens_per_s=problem.global_batch * problem.seq_len / step_s,
        model_flops_per_s_per_gpu=flops_per_s,
        mfu=flops_per_s / problem.hardware.peak_flops_per_s[layout.precision],
        breakdown_s=breakdown,
        stages=predicted,
        host_bytes_per_node=round(float(host_bytes_per_rank(problem, stages).max()) * ranks),
        nvme_bytes_per_node=round(float(nvme_bytes_per_rank(problem, stages).max()) * ranks),
        expected_error=expected_error(problem, stages.layouts),
        assumptions=_assumptions(problem, layout),
        not_modelled=NOT_MODELLED,
        schedule_step_s=schedule_step_seconds(problem, stages),
        fits_probability=min(stage.fits_probability or 0.0 for stage in predicted),
        step_s_interval=(step_s * low, step_s * high),
    )


def _assumptions(problem: Problem, layout: Layout) -> tuple[str, ...]:
    """What the prediction takes for granted, in words."""
    rate = "the efficiency curve" if problem.hardware.efficiency.tiles is None else "the rate of the tiles"
    stated = [
        f"matrix products reach {rate} of hardware spec {problem.hardware.name}",
        f"ranks fill nodes of {problem.devices_per_node} in order, tensor-parallel ranks next to each other",
        _ATTENTION_WORDS[problem.stack.activations.attention],
    ]
    if layout.pipeline_parallel > 1:
        stated.append("every stage boundary is as slow as the slowest one")
    own = problem.stack.compiled
    if own is not None and is_compiled(problem, layout):
        stated.append(f"blocks and loss are compiled, for which the first step takes {own.start_s:g} s longer")
    return tuple(stated)
