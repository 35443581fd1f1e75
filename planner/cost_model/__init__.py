"""What a layout costs: pure functions over columns of layouts and stages, one file per quantity."""

import msgspec

from planner.cost_model.breakdown import step_breakdown
from planner.cost_model.errors import expected_error, kind_of
from planner.cost_model.expert_shares import sent_tokens
from planner.cost_model.flops import model_flops_per_step
from planner.cost_model.host import host_bytes_per_rank, nvme_bytes_per_rank
from planner.cost_model.imbalance import JUDGED, MEAN, RANGE, fullest_factor, is_drawn
from planner.cost_model.intervals import step_interval
from planner.cost_model.memory import predicted_stages
from planner.cost_model.schedule_graph import schedule_step_seconds
from planner.layouts.compilation import is_compiled
from planner.layouts.layout import Layout
from planner.layouts.problem import Problem
from planner.layouts.stages import StageColumns, stages_of_layout
from planner.plans.prediction import Prediction

_THROTTLING = "clock throttling and stragglers"
NOT_MODELLED = (
    "loading of data, logging, evaluation and checkpoints",
    "contention between kinds of communication, and network congestion by other jobs",
    _THROTTLING,
    "allocator fragmentation beyond the reserved share, and how it rounds blocks of some MiB",
    "gradient buckets that communication still holds when DDP lays them out anew",
)
"""What a prediction leaves out, for every layout; of a card whose clock is known to fall, stragglers alone."""


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
    fewest, most = _routed_range(problem, stages, step_s)
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
        not_modelled=_not_modelled(problem),
        schedule_step_s=schedule_step_seconds(problem, stages),
        fits_probability=min(stage.fits_probability or 0.0 for stage in predicted),
        step_s_interval=(fewest * low, most * high),
    )


def _not_modelled(problem: Problem) -> tuple[str, ...]:
    falls = problem.hardware.efficiency.tiles is not None and problem.hardware.efficiency.tiles.droop > 0
    return tuple("stragglers" if falls and one == _THROTTLING else one for one in NOT_MODELLED)


def _routed_range(problem: Problem, stages: StageColumns, step_s: float) -> tuple[float, float]:
    """Step times where the fullest ranks have as many tokens in all layers as at the ends of their range. Units: s."""
    spec, columns = problem.model.experts, stages.layouts
    if spec is None or not is_drawn(problem) or columns.expert_parallel[0] == 1:
        return step_s, step_s
    sent, ends = sent_tokens(problem, stages), []
    for probability in RANGE:
        factor = float(fullest_factor(spec, columns.expert_parallel, sent, probability)[0])
        model = msgspec.structs.replace(problem.model, experts=msgspec.structs.replace(spec, fullest=factor))
        ends.append(sum(step_breakdown(msgspec.structs.replace(problem, model=model), stages).values()))
    return min(ends[0], step_s), max(ends[1], step_s)


def _assumptions(problem: Problem, layout: Layout) -> tuple[str, ...]:
    """What the prediction takes for granted, in words."""
    tiles = problem.hardware.efficiency.tiles
    rate = "the efficiency curve" if tiles is None else "the rate of the tiles"
    if tiles is not None and tiles.droop:
        rate = f"{rate}, at the clock that a step full of them leaves,"
    stated = [
        f"matrix products reach {rate} of hardware spec {problem.hardware.name}",
        f"ranks fill nodes of {problem.devices_per_node} in order, tensor-parallel ranks next to each other",
        _ATTENTION_WORDS[problem.stack.activations.attention],
    ]
    if layout.expert_parallel > 1:
        stated.append(_routing_words(problem, layout))
    if layout.pipeline_parallel > 1:
        stated.append("every stage boundary is as slow as the slowest one")
    own = problem.stack.compiled
    if own is not None and is_compiled(problem, layout):
        stated.append(f"blocks and loss are compiled, for which the first step takes {own.start_s:g} s longer")
    return tuple(stated)


def _routing_words(problem: Problem, layout: Layout) -> str:
    """How full the fullest rank of an expert group is taken to be, and why."""
    stages, spec = stages_of_layout(layout), problem.model.experts
    assert spec is not None
    groups, sent = stages.layouts.expert_parallel, sent_tokens(problem, stages)
    mean, least, most, judged = (
        float(fullest_factor(spec, groups, sent, probability)[0]) for probability in (MEAN, *RANGE, JUDGED)
    )
    ranks = f"the fullest of {layout.expert_parallel} ranks that divide experts gets {mean:.2f} times the mean"
    if not is_drawn(problem):
        return f"{ranks} of tokens, as the model says"
    return (
        f"{ranks} of tokens in a layer, {least:.2f} to {most:.2f} in the interval of the step time and {judged:.2f} "
        f"for its memory: loads of experts with a Dirichlet concentration of {spec.concentration:g}"
    )
