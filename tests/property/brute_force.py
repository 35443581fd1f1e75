"""The optimum by trying every candidate with every division of its layers, without the solver."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations, pairwise, product
from operator import contains

import msgspec
import numpy as np

from planner.cost_model import predict
from planner.cost_model.communication import message_wait_seconds, tied_embedding_seconds
from planner.cost_model.host import host_bytes_per_rank, nvme_bytes_per_rank
from planner.cost_model.memory import stage_memory
from planner.cost_model.pipeline import pipeline_bubble, stage_times
from planner.cost_model.reserve import reserve_bytes
from planner.cost_model.terms import total
from planner.cost_model.zero_bubble import v_seconds
from planner.layouts.layout import (
    FIELDS,
    FREE_RECOMPUTE,
    FULL_RECOMPUTE,
    NO_RECOMPUTE,
    RECOMPUTE,
    SOME_RECOMPUTE,
    Layout,
    LayoutColumns,
    columns_of,
)
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats, StageColumns, stages_of
from planner.plans.prediction import Prediction
from planner.rules import RULES, screen
from planner.solver.candidates import enumerate_layouts

EXACT = 1e-9
ROUNDING_BYTES = 64
"""More than the terms of a peak, each of which a prediction rounds to a whole byte."""


def compositions(num_layers: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Every way to write ``num_layers`` as ``parts`` ordered counts of 1 or more."""
    for cuts in combinations(range(1, num_layers), parts - 1):
        edges = (0, *cuts, num_layers)
        yield tuple(after - before for before, after in pairwise(edges))


def layouts(problem: Problem) -> Iterator[Layout]:
    """Every valid whole layout of the candidates of ``problem``.

    Of a list of recomputed layers that is pinned, those of the problem without it that recompute what it says.
    """
    listed = listed_recompute(problem)
    pins = {field: value for field, value in problem.pins.items() if listed is None or field != RECOMPUTE}
    asked = msgspec.structs.replace(problem, pins=pins)
    candidates = enumerate_layouts(asked)
    columns = candidates.take(screen(asked, candidates)[0])
    whole_rules = [rule for rule in RULES if rule.holds_layout is not None]
    for row in range(len(columns)):
        for layers in compositions(problem.model.num_layers, int(columns.pipeline_parallel[row])):
            if _pinned_away(problem, layers):
                continue
            for recompute in recomputed(int(columns.recompute[row]), layers, listed):
                layout = columns.layout(row, layers, recompute, problem.precision)
                if all(rule.holds_for(problem, layout) for rule in whole_rules):
                    yield layout


def listed_recompute(problem: Problem) -> tuple[int, ...] | None:
    """The list of recomputed layers that is pinned, if one is."""
    pinned = problem.pins.get(RECOMPUTE, "none")
    return None if pinned.isalpha() else tuple(map(int, pinned.split(",")))


def recomputed(word: int, layers: tuple[int, ...], listed: tuple[int, ...] | None = None) -> Iterator[tuple[int, ...]]:
    """Every way to recompute some of each stage's layers that a layout's column allows, or ``listed`` if it does."""
    allowed = {
        NO_RECOMPUTE: [range(1) for _ in layers],
        FULL_RECOMPUTE: [range(n, n + 1) for n in layers],
        SOME_RECOMPUTE: [range(1, n) for n in layers],
        FREE_RECOMPUTE: [range(n + 1) for n in layers],
    }
    if listed is None:
        yield from product(*allowed[word])
    elif len(listed) == len(layers) and all(map(contains, allowed[word], listed)):
        yield listed


def _pinned_away(problem: Problem, layers: tuple[int, ...]) -> bool:
    pinned = problem.pins.get("layers_per_stage")
    if pinned is None:
        return False
    return len(set(layers)) > 1 if pinned == "even" else ",".join(map(str, layers)) != pinned


def fits(problem: Problem, predicted: Prediction) -> bool:
    """Whether every stage fits its device and every node its host and its NVMe."""
    on_device = all(stage.peak_bytes <= stage.capacity_bytes - stage.reserve_bytes for stage in predicted.stages)
    host = problem.hardware.host
    on_host = predicted.host_bytes_per_node <= host.memory_bytes
    return on_device and on_host and predicted.nvme_bytes_per_node <= host.nvme_capacity_bytes


def objective_of(problem: Problem, predicted: Prediction) -> float:
    """Seconds of a step, or bytes of the fullest stage."""
    if problem.objective == "memory":
        return max(stage.peak_bytes for stage in predicted.stages)
    return predicted.step_s


def optimum(problem: Problem) -> float | None:
    """The best objective of all layouts that fit; ``None`` if none does.

    All are looked at in columns. Those that may fit are predicted one by one, from the best on, until no better one can
    follow, and so is the one that misses by the least: what counts is the prediction of a single layout.
    """
    found = list(layouts(problem))
    if not found:
        return None
    objectives, missing_bytes = in_columns(problem, found)
    missing = np.flatnonzero(missing_bytes > ROUNDING_BYTES)
    if len(missing):
        assert not fits(problem, predict(problem, found[missing[missing_bytes[missing].argmin()]]))
    best = None
    for row in np.argsort(objectives).tolist():
        if best is not None and objectives[row] > best * (1 - EXACT):
            break
        if missing_bytes[row] <= ROUNDING_BYTES:
            predicted = predict(problem, found[row])
            worth = objective_of(problem, predicted)
            assert abs(worth - objectives[row]) <= EXACT * worth + ROUNDING_BYTES * (problem.objective == "memory")
            best = min(worth, best or worth) if fits(problem, predicted) else best
    return best


def in_columns(problem: Problem, found: Sequence[Layout]) -> tuple[Floats, Floats]:
    """Of each layout its objective, and by how many bytes it misses the fullest device, host and drive."""
    each = [columns_of(layout) for layout in found]
    names = [field.column for field in FIELDS.values()]
    joined = {name: np.concatenate([getattr(one, name) for one in each]) for name in names}
    stages = replace(
        stages_of(LayoutColumns(**joined)),
        num_layers=np.concatenate([layout.layers_per_stage for layout in found]),
        recompute_layers=np.concatenate([layout.recompute_layers_per_stage for layout in found]),
    )
    starts, host = stages.first_rows(), problem.hardware.host
    peaks, ranks = stage_memory(problem, stages).peak_bytes(), min(problem.devices_per_node, problem.num_devices)
    kept = (
        (peaks, int(problem.hardware.memory_bytes) - reserve_bytes(problem, stages)),
        (host_bytes_per_rank(problem, stages) * ranks, int(host.memory_bytes)),
        (nvme_bytes_per_rank(problem, stages) * ranks, int(host.nvme_capacity_bytes)),
    )
    missing_bytes = np.max([np.maximum.reduceat(held - room, starts) for held, room in kept], axis=0)
    if problem.objective == "memory":
        return np.maximum.reduceat(peaks, starts), missing_bytes
    return step_seconds(problem, stages), missing_bytes


def step_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """The step time of each layout, as :func:`planner.cost_model.breakdown.step_breakdown` has it of one."""
    starts, times = stages.first_rows(), stage_times(problem, stages)
    per_stage, columns = total(times.microbatch), stages.layouts.take(starts)
    slowest = np.maximum.reduceat(per_stage, starts)
    bubble = pipeline_bubble(np.add.reduceat(per_stage, starts), slowest, columns.num_model_chunks)
    played = columns.num_microbatches * slowest + bubble
    once = message_wait_seconds(problem, stages) + tied_embedding_seconds(problem, stages)
    played = np.where(columns.schedule_is("zbv"), v_seconds(problem, stages), played)
    return played + np.maximum.reduceat(total(times.tail), starts) + once[starts]
