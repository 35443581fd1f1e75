"""Enumeration of candidate layouts: every combination of degrees, batch split and state options.

Candidates satisfy TP x SP x PP x DP = devices by construction, and use what the stack can execute or
what the user pinned. Everything else is left to the rules, so that what they reject is counted
and can be explained.
"""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from planner.diagnostics import PlanError, usage_error
from planner.layouts import pins, zero_bubble
from planner.layouts.compilation import offers_pointwise
from planner.layouts.degrees import GRID_MODES, divisors, expert_ranks, grid_edge, grid_ranks
from planner.layouts.division import END_LAYERS
from planner.layouts.layout import (
    FIELDS,
    FREE_RECOMPUTE,
    FULL_RECOMPUTE,
    NO_RECOMPUTE,
    OFFLOAD_TIERS,
    RECOMPUTE,
    SCHEDULES,
    SHARDS_WEIGHTS,
    SOME_RECOMPUTE,
    TENSOR_MODES,
    LayoutColumns,
)
from planner.layouts.pins import listed_number, listed_recompute
from planner.layouts.problem import Problem
from planner.layouts.sequences import ring_degrees

_Row = tuple[float, ...]
_MESH = (
    *("tensor_mode", "tensor_parallel", "tensor_depth", "sequence_parallel_degree"),
    *("pipeline_parallel", "data_parallel", "expert_parallel"),
)
_BATCH = ("micro_batch", "num_microbatches")
_SCHEDULE = ("schedule", "num_model_chunks")
_STATES = (
    *("zero_stage", "sequence_parallel", "recompute", "recompute_pointwise"),
    *("offload_tier", "offload_optimizer", "offload_parameters"),
)
MOST_LAYOUTS = 2_000_000
"""What is judged within 2 GB of memory."""
MOST_IN_V = 128
"""Stages of which a V is tried unless it is pinned; the order of more takes seconds to put together."""
_ENUMERATED = (*_MESH, *_BATCH, *_SCHEDULE, *_STATES)
"""Columns that candidates differ in; every other one has its neutral value."""


def enumerate_layouts(problem: Problem, *, keeping_pins: bool = False, most: int = MOST_LAYOUTS) -> LayoutColumns:
    """All candidate layouts of a problem, in a fixed order.

    ``keeping_pins`` leaves those out that a pinned column of theirs contradicts, which is quicker than to judge them.

    Raises:
        PlanError: there are more than ``most``.
    """
    pinned = _pinned_columns(problem) if keeping_pins else {}
    states = functools.cache(lambda *place: np.array(_kept(_state_options(problem, *place), _STATES, pinned)))
    batches = functools.cache(lambda data: _kept(_batch_splits(problem, data), _BATCH, pinned))
    schedules = functools.cache(lambda *place: _kept(_schedules(problem, *place), _SCHEDULE, pinned))
    meshes = _kept(_meshes(problem), _MESH, pinned)
    rows, count, listed = [], 0, len(listed_recompute(problem.pins) or ())
    for mesh in meshes:
        number, tensor, _, _, pipeline, data, _ = map(int, mesh)
        mode, options = TENSOR_MODES[number], (tensor > 1, pipeline > 1, pipeline == listed)
        rows.append(_rows_of(mesh, batches(data), schedules(mode, pipeline), states(mode, *options)))
        count += len(rows[-1])
        if count > most:
            raise too_many(problem, f"more than {most:,} layouts")
    table = np.vstack([np.empty((0, len(_ENUMERATED))), *rows])
    return LayoutColumns.of(dict(zip(_ENUMERATED, table.T, strict=True)), len(table))


def too_many(problem: Problem, what: str) -> PlanError:
    """The refusal of a question with too many layouts, or stages of layouts, to judge."""
    return usage_error(
        f"the question has {what}: {problem.num_devices:,} devices and a global batch of "
        f"{problem.global_batch:,} divide in too many ways",
        location="--global-batch",
        hint="use a global batch or a number of GPUs with fewer divisors, such as a power of 2, or pin a degree",
    )


def _pinned_columns(problem: Problem) -> dict[str, float]:
    """The columns that have to have one value, and which."""
    pinned: dict[str, float] = {}
    for field, value in problem.pins.items():
        if field == pins.LAYERS:
            pinned |= _pinned_stages(problem, value)
        elif field == RECOMPUTE:
            listed = listed_recompute(problem.pins)
            pinned |= {} if listed is None else {"pipeline_parallel": len(listed)}
        else:
            column, number = pins.column_value(field, value)
            pinned[column] = number
    return pinned


def _pinned_stages(problem: Problem, layers_per_stage: str) -> dict[str, float]:
    """The number of stages that pinned layers leave; 0 where they are not those of the model."""
    num_stages = pins.listed_stages(layers_per_stage)
    if num_stages is None:
        return {}
    possible = pins.pinned_layers(layers_per_stage, problem.model.num_layers, num_stages) is not None
    return {"pipeline_parallel": num_stages if possible else 0}


def _kept(rows: list[_Row], names: Sequence[str], pinned: Mapping[str, float]) -> list[_Row]:
    """The rows with the pinned value in each of these columns that has one."""
    wanted = [(at, pinned[name]) for at, name in enumerate(names) if name in pinned]
    return [row for row in rows if all(row[at] == value for at, value in wanted)] if wanted else rows


def _rows_of(
    mesh: _Row, batches: list[_Row], schedules: list[_Row], states: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The candidates of one mesh: every split of its batch and every schedule with every option of its states."""
    divided = np.array([(*mesh, *batch, *schedule) for batch in batches for schedule in schedules])
    if not len(divided) or not len(states):
        return np.empty((0, len(_ENUMERATED)))
    return np.hstack([np.repeat(divided, len(states), axis=0), np.tile(states, (len(divided), 1))])


def _options(problem: Problem, field: str, executable: Sequence[str]) -> list[int]:
    """Numbers of the values to try: what the stack executes, and what is pinned even if it does not."""
    tried = {*executable, problem.pins.get(field, executable[0])}
    return [number for number, word in enumerate(FIELDS[field].words) if word in tried]


def _meshes(problem: Problem) -> list[_Row]:
    """(tensor mode, TP, depth, SP, PP, DP, EP) for every way to write the devices as TP x SP x PP x DP."""
    modes, num_devices = _tensor_modes(problem), problem.num_devices
    grids = {
        tensor: [(mode, depth) for mode in modes for depth in _depths(problem, TENSOR_MODES[mode], tensor)]
        for tensor in divisors(num_devices)
    }
    return [
        (mode, tensor, depth, sequence, pipeline, num_devices // tensor // sequence // pipeline, experts)
        for tensor in grids
        for sequence in _sequence_degrees(problem, num_devices // tensor)
        for pipeline in _pipelines(problem, num_devices // tensor // sequence)
        for mode, depth in grids[tensor]
        for experts in _expert_degrees(problem, tensor, num_devices // tensor // pipeline)
    ]


def _tensor_modes(problem: Problem) -> list[int]:
    """Tensor modes to try: grids for the families alone that have them."""
    grids = problem.model.family in problem.stack.grid_families
    executable = [mode for mode in problem.stack.tensor_modes if grids or mode not in GRID_MODES]
    return _options(problem, "tensor_mode", executable)


def _sequence_degrees(problem: Problem, num_devices: int) -> list[int]:
    """Degrees to try where the stack has it: those that divide heads and tokens, in a ring tokens into tiles."""
    model, pinned = problem.model, problem.pins.get("sequence_parallel_degree")
    tried = {1, *([int(pinned)] if pinned else [])}
    if model.family in problem.stack.all_to_all_families:
        tried |= {*divisors(math.gcd(model.num_heads, model.kv_heads, problem.seq_len))}
    tried |= {*ring_degrees(problem)}
    return sorted(degree for degree in tried if num_devices % degree == 0)


def _expert_degrees(problem: Problem, tensor_parallel: int, replicas: int) -> list[int]:
    """Degrees of expert parallelism to try: those that divide the experts and the ranks that may hold different ones.

    ``replicas``: TP x SP x DP ranks over TP.
    """
    experts, pinned = problem.model.experts, problem.pins.get("expert_parallel")
    tried = {1, *([int(pinned)] if pinned else [])}
    if experts is not None and problem.model.family in problem.stack.experts.families:
        ranks = expert_ranks(problem.stack, tensor_parallel, replicas)
        tried |= {*divisors(math.gcd(experts.count, ranks))}
    return sorted(tried)


def _pipelines(problem: Problem, num_devices: int) -> list[int]:
    """Numbers of stages to try: one alone for a stack without a schedule for more."""
    can_divide = any(word != "none" for word in _schedule_words(problem))
    return divisors(num_devices) if can_divide else [1]


def _depths(problem: Problem, mode: str, tensor_parallel: int) -> list[int]:
    """Depths of the tensor-parallel grid to try.

    None where mode and degree only repeat another mode, or make no grid, unless the user pins the mode.
    """
    if mode not in GRID_MODES:
        return [1] if (mode == "none") == (tensor_parallel == 1) else []
    if tensor_parallel == 1:
        return []
    depths = divisors(tensor_parallel) if mode == "2.5d" else [1]
    if problem.pins.get("tensor_mode") == mode:
        return depths
    edges = {depth: grid_edge(mode, tensor_parallel, depth) for depth in depths}
    return [depth for depth, edge in edges.items() if grid_ranks(mode, edge, depth) == tensor_parallel]


def _batch_splits(problem: Problem, data_parallel: int) -> list[_Row]:
    """(micro batch, micro batches) of one data-parallel rank; one invalid split if none is whole."""
    local, rest = divmod(problem.global_batch, data_parallel)
    if rest:
        return [(1, max(1, local))]
    return [(micro, local // micro) for micro in divisors(local)]


def _schedules(problem: Problem, mode: str, pipeline_parallel: int) -> list[_Row]:
    """(schedule, model chunks) for a number of stages; of interleaved grids one stands for all chunks."""
    counts = _chunk_counts(problem, pipeline_parallel)
    some = counts[:1] if mode in GRID_MODES else counts
    chunks = {"none": [1], "1f1b": [1], "interleaved": some, "zbv": _v_chunks(problem)}
    possible = [word for word in _schedule_words(problem) if (word == "none") == (pipeline_parallel == 1)]
    if pipeline_parallel > MOST_IN_V and "schedule" not in problem.pins:
        possible = [word for word in possible if word != "zbv"]
    return [(SCHEDULES.index(word), count) for word in possible for count in chunks[word]]


def _v_chunks(problem: Problem) -> list[int]:
    """Model chunks of a stage under a V, and a pinned count, even if it is not that."""
    return sorted({zero_bubble.CHUNKS, int(problem.pins.get("num_model_chunks", zero_bubble.CHUNKS))})


def _schedule_words(problem: Problem) -> list[str]:
    """Schedules to try: a V for the families alone that run under it."""
    in_v = problem.model.family in problem.stack.zero_bubble_families
    executable = [schedule for schedule in problem.stack.schedules if in_v or schedule != "zbv"]
    return [SCHEDULES[i] for i in _options(problem, "schedule", executable)]


def _chunk_counts(problem: Problem, pipeline_parallel: int) -> list[int]:
    """Model chunks of a stage that its layers divide into, and a pinned count; 2 if there is none."""
    whole: list[int] = []
    for extra in range(END_LAYERS + 1 if problem.stack.ends_as_layers else 1):
        per_stage, rest = divmod(problem.model.num_layers + extra, pipeline_parallel)
        whole += [] if rest or not per_stage else [count for count in divisors(per_stage) if count > 1]
    pinned = problem.pins.get("num_model_chunks")
    return sorted({*whole, *([int(pinned)] if pinned else [])}) or [2]


def _state_options(problem: Problem, mode: str, has_ranks: bool, has_stages: bool, is_listed: bool) -> list[_Row]:
    """(ZeRO, sequence parallel, recompute, also pointwise, tier, offloaded shares of the optimizer and of the weights).

    ``has_ranks`` and ``has_stages``: whether tensor and pipeline parallelism divide anything; ``is_listed``: whether
    a pin lists what the stages recompute.
    What a rule refuses whatever its other options are, such as offload without ZeRO, is there without them.
    """
    zeros = _options(problem, "zero_stage", [str(stage) for stage in problem.stack.zero_stages])
    in_slices = problem.stack.sequence_parallel and problem.model.family in problem.stack.slice_families
    split = in_slices and mode == "1d" and has_ranks
    sequences = _options(problem, "sequence_parallel", ("false", "true") if split else ("false",))
    in_pipeline = SHARDS_WEIGHTS in problem.stack.zero_stages_with_pipeline
    alone, grid = not has_ranks and (not has_stages or in_pipeline), mode in GRID_MODES
    return [
        (zero, sequence, recompute, pointwise, *offload)
        for zero, sequence, recompute in itertools.product(zeros, sequences, recomputes(problem, is_listed=is_listed))
        for pointwise in _recomputes_pointwise(problem, zero, whole=mode == "none")
        for offload in _offloads(problem, zero, alone=alone, grid=grid)
    ]


def recomputes(problem: Problem, *, is_listed: bool) -> list[int]:
    """What the stages may recompute: anything, as a pin lists it, or one word for all where the user names one."""
    listed = listed_recompute(problem.pins)
    if listed is not None and is_listed:
        return [listed_number(listed)]
    if problem.stack.recompute in ("per-layer", "alike"):
        named = RECOMPUTE in problem.forbids or (RECOMPUTE in problem.pins and listed is None)
        return [NO_RECOMPUTE, FULL_RECOMPUTE, SOME_RECOMPUTE] if named else [FREE_RECOMPUTE]
    executable = ("none",) if problem.stack.recompute == "none" else ("none", "all")
    return _options(problem, RECOMPUTE, executable)


def _recomputes_pointwise(problem: Problem, zero_stage: int, *, whole: bool) -> list[int]:
    """Whether compiled blocks that are ``whole`` make again what they can; where they may."""
    may = offers_pointwise(problem) and zero_stage < SHARDS_WEIGHTS and whole
    return _options(problem, "recompute_pointwise", ("false", "true") if may else ("false",))


def _offloads(problem: Problem, zero_stage: int, *, alone: bool, grid: bool) -> list[tuple[int, float, float]]:
    """(tier, optimizer share, weight share) up to the allowed tier; weights leave after the optimizer.

    ``alone``: where nothing else divides the weights that ZeRO 3 divides.
    """
    stack, sharded = problem.stack, zero_stage >= SHARDS_WEIGHTS
    if grid or zero_stage == 0 or (sharded and not alone):
        return [(0, 0.0, 0.0), *_pinned_offload(problem)]
    tiers = _options(problem, "offload.tier", stack.offload_tiers)
    allowed = [tier for tier in tiers if 0 < tier <= OFFLOAD_TIERS.index(problem.allow_offload)]
    of_optimizer = stack.zero3_offload_fractions if sharded else stack.offload_optimizer_fractions
    of_weights = stack.zero3_offload_fractions if sharded else ()
    shares = [(share, 0.0) for share in _shares(problem, "offload.optimizer", of_optimizer)]
    shares += [(1.0, share) for share in _shares(problem, "offload.parameters", of_weights)]
    return [(0, 0.0, 0.0), *((tier, *both) for tier in allowed for both in shares)]


def _pinned_offload(problem: Problem) -> list[tuple[int, float, float]]:
    """The one way to offload that pins name, if they name any."""
    if not any(field.startswith("offload.") for field in problem.pins):
        return []
    tier, optimizer = problem.pins.get("offload.tier", "cpu"), float(problem.pins.get("offload.optimizer", 1))
    return [(OFFLOAD_TIERS.index(tier), optimizer, float(problem.pins.get("offload.parameters", 0)))]


def _shares(problem: Problem, field: str, fractions: Sequence[float]) -> list[float]:
    """Shares above 0 to try: the stack's and the pinned one."""
    return sorted({*fractions, float(problem.pins.get(field, 0))} - {0.0})
