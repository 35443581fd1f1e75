"""What limits a prediction, decided here for whatever shows it: room for its error, and what that error rests on."""

from collections.abc import Iterator

import msgspec
import numpy as np

from planner import codes
from planner.cost_model.errors import kind_of
from planner.cost_model.intervals import (
    DISTANCES,
    INTERVAL,
    NODES,
    confidence_of,
    distance_of,
    fits_probabilities,
    memory_bound,
)
from planner.cost_model.reserve import device_overhead_bytes, fragmentation_share, other_stream_bytes, room
from planner.diagnostics import Diagnostic
from planner.handover.work import STACK
from planner.layouts.layout import SHARDS_WEIGHTS
from planner.layouts.stages import stages_of_layout
from planner.plans.plan import Plan
from planner.specs.units import format_gib, format_probability, format_seconds
from planner.validation.evidence import FEWEST_RUNS, Evidence, evidence_of, parameters_of

_KINDS = {
    "grid": " with grids",
    "sharded": " with ZeRO stage 3",
    "offload": " with offload",
    "pipeline": " with pipelines",
    "tensor": " with tensor parallelism",
    "data": " with data parallelism alone",
}


def caveats(plan: Plan) -> list[Diagnostic]:
    """What to know before a plan is trusted: a warning where memory is tight, a note where nothing like it was run."""
    return [*tight_memory(plan), *_two_streams(plan), *_extrapolation(plan)]


def tight_memory(plan: Plan) -> Iterator[Diagnostic]:
    """A warning where a stage is less sure to fit than was asked, or than is usual where a reserve was stated."""
    problem, stages = plan.problem, plan.predicted.stages
    wanted, chances = confidence_of(problem), stage_probabilities(plan)
    tight = [n for n, chance in enumerate(chances) if chance < wanted]
    if not tight:
        return
    columns = stages_of_layout(plan.layout)
    number = min(tight, key=lambda n: chances[n])
    stage, kind = stages[number], kind_of(plan.layout)
    fragments = stage.peak_bytes * float(fragmentation_share(problem, columns)[number])
    usual = float(device_overhead_bytes(problem, columns)[number]) + fragments
    share = memory_bound(problem, kind, wanted)
    miss, free = share * (stage.peak_bytes + fragments), stage.capacity_bytes - stage.peak_bytes - usual
    has = f"{format_gib(free)} free" if free >= 0 else f"{format_gib(-free)} less free than the usual reserve"
    yield Diagnostic(
        rule=codes.TIGHT_MEMORY,
        severity="warning",
        message=f"stage {number} fits with a probability of {format_probability(chances[number])} at least, "
        f"not {wanted:.0%}: it has {has}, and predictions of its memory miss by up to {format_gib(miss)} ({share:.1%})",
        values={
            "stage": number,
            "fits_probability": chances[number],
            "free_bytes": round(free),
            "error_bytes": round(miss),
            "error": share,
            "usual_reserve_bytes": round(usual),
            "tight_stages": tight,
        },
        detail=f"{format_gib(stage.capacity_bytes)} less {format_gib(stage.peak_bytes)} at the peak and "
        f"{format_gib(usual)} that process and fragments take; so tight: {len(tight)} of {len(stages)} stages",
        hint=f"add `--confidence {wanted:g}` for a plan with room for that error",
    )


def _two_streams(plan: Plan) -> Iterator[Diagnostic]:
    """A warning where ZeRO 3 has no room to keep its blocks of two streams, which its step time takes for granted.

    With less, the allocator gives cached blocks back and asks for new ones in every step, and waits for the device.
    """
    if plan.layout.zero_stage < SHARDS_WEIGHTS:
        return
    problem, stages = plan.problem, stages_of_layout(plan.layout)
    kept, overhead = other_stream_bytes(problem, stages).tolist(), device_overhead_bytes(problem, stages).tolist()
    stage = plan.predicted.stages[0]
    free = stage.capacity_bytes - overhead[0] - stage.peak_bytes
    if kept[0] <= max(free, 0.0):
        return
    yield Diagnostic(
        rule=codes.TWO_STREAMS,
        severity="warning",
        message=f"ZeRO stage 3 keeps {format_gib(kept[0])} beside its peak in blocks of a second stream, and the "
        f"device has {format_gib(max(free, 0.0))}",
        values={"kept_bytes": round(kept[0]), "free_bytes": round(free)},
        detail="the allocator then frees blocks and asks for new ones in every step, for which the predicted step "
        "time has nothing",
        hint="use more GPUs, or a smaller micro batch such as `--pin micro_batch=1`",
    )


def stage_probabilities(plan: Plan) -> list[float]:
    """Probability, at least, that each stage fits; worked out where a plan is too old to have it."""
    known = [stage.fits_probability for stage in plan.predicted.stages if stage.fits_probability is not None]
    if len(known) == len(plan.predicted.stages):
        return known
    peaks = np.array([float(stage.peak_bytes) for stage in plan.predicted.stages])
    rooms = room(plan.problem, stages_of_layout(plan.layout), peaks).tolist()
    return fits_probabilities(plan.problem, kind_of(plan.layout), rooms)


def certainty(plan: Plan) -> list[str]:
    """How sure memory and step time are, and how far the question is from what was measured."""
    problem, predicted, kind = plan.problem, plan.predicted, kind_of(plan.layout)
    chances = stage_probabilities(plan)
    least = min(range(len(chances)), key=chances.__getitem__)
    stage = predicted.stages[least]
    spare = stage.capacity_bytes - stage.peak_bytes - stage.reserve_bytes
    far = {name: DISTANCES[distance_of(problem, kind, name)] for name in ("memory", "step_time")}
    sure = f"{format_probability(chances[least])} at least, {confidence_of(problem):.0%} asked"
    spare_words = f"stage {least} has {format_gib(spare)} more free than its reserve"
    lines = [f"fits: with a probability of {sure}; {spare_words} ({far['memory']})"]
    if problem.hardware.device == "cpu":
        lines.append("step time: no interval, as all measured runs are of GPUs; cores that others use too take longer")
    elif predicted.step_s_interval is not None:
        low, high = map(format_seconds, predicted.step_s_interval)
        nodes = NODES[int(problem.num_nodes > 1)]
        lines.append(
            f"step time: {low} to {high} with a probability of {INTERVAL:.0%} ({far['step_time']}; on {nodes})"
        )
    if plan.evidence.overlapping is not None:
        others = "choice's interval overlaps" if plan.evidence.overlapping == 1 else "choices' intervals overlap"
        lines.append(f"runners-up: {plan.evidence.overlapping:,} other {others} that of the fastest")
    return lines


def expected_error(plan: Plan) -> str:
    """What such predictions missed by, in how many runs, and on what these were."""
    error, hardware = plan.predicted.expected_error, plan.problem.hardware
    rests = _evidence(plan)
    if error.runs:
        basis = _KINDS.get(error.basis, "")
        known = f"{error.step_time - error.transfer:.1%} in {error.runs} measured runs{basis}"
        known += f" on {_covered(rests[1])}" if rests else ", it is not recorded on what"
        if error.transfer:
            known += f"; {error.transfer:.1%} more as none was on {hardware.name}"
            known += "" if hardware.calibrated else ", which is not calibrated"
    else:
        known = f"a rule, as gptplan measured fewer than {FEWEST_RUNS} runs of stack {plan.problem.stack.name} for it"
        known += "".join(f"; {missed}" for missed in _missed(rests))
    return f"{error.step_time:.1%} of the step time ({known}), {error.memory:.1%} of the memory"


def _evidence(plan: Plan) -> tuple[str, Evidence] | None:
    error = plan.predicted.expected_error
    return evidence_of(plan.problem.stack.name, error.basis if error.runs else kind_of(plan.layout))


def _missed(rests: tuple[str, Evidence] | None) -> Iterator[str]:
    """By how much replays of published runs missed, which the figures of an unmeasured stack do not rest on."""
    if rests is not None:
        kind, runs = rests
        missed = [
            f"the {what} by {share:.1%} ({count} run{'s' * (count != 1)})"
            for what, share, count in (
                ("step time", runs.step_time, runs.runs),
                ("memory", runs.memory, runs.memory_runs),
            )
            if share is not None
        ]
        yield f"replays of published runs{_KINDS.get(kind, '')} on {_covered(runs)} missed {' and '.join(missed)}"


def _covered(runs: Evidence) -> str:
    where = "; ".join(runs.hosts) or f"at most {_nodes(runs.nodes)}"
    devices, models = _range(*map(str, runs.devices)), _range(*map(_size, runs.parameters))
    return f"{devices} GPUs ({', '.join(runs.hardware)}; {where}), models of {models} parameters"


def _range(least: str, most: str) -> str:
    return least if least == most else f"{least} to {most}"


def _size(parameters: int) -> str:
    scale, letter = next(
        one for one in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"), (1, "")) if parameters >= one[0]
    )
    return f"{parameters / scale:.3g}{letter}"


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"


def _extrapolation(plan: Plan) -> Iterator[Diagnostic]:
    """A note where the question is beyond the runs that the expected error rests on, with each such quantity."""
    problem, rests = plan.problem, _evidence(plan)
    name = problem.stack.name
    if rests is None:
        message = f"the expected error rests on no run that is known: none of stack {name} is recorded"
        beyond, values = [], {"stack": name}
    else:
        beyond, values = list(_beyond(plan, rests[1])), msgspec.to_builtins(rests[1])
        message = f"the expected error is extrapolated: {'; '.join(beyond)}"
    if rests is None or beyond:
        try_it = "`gptplan run FILE.plan --steps 20` puts measured figures beside the predicted ones"
        hint = try_it if name == STACK else "`gptplan validate TABLE.csv` compares predictions with runs of your own"
        yield Diagnostic(rule=codes.EXTRAPOLATED, severity="note", message=message, values=values, hint=hint)


def _beyond(plan: Plan, runs: Evidence) -> Iterator[str]:
    problem, size = plan.problem, parameters_of(plan.problem)
    least, most = runs.parameters
    if problem.num_devices > runs.devices[1]:
        yield f"{problem.num_devices} GPUs, and at most {runs.devices[1]} were measured"
    if problem.num_nodes > runs.nodes:
        yield f"{_nodes(problem.num_nodes)}, and at most {runs.nodes}"
    if problem.hardware.name not in (*runs.hardware, *problem.stack.measured_on):
        yield f"{problem.hardware.name}, and only {', '.join(runs.hardware)}"
    if runs.schedules and plan.layout.schedule not in ("none", *runs.schedules):
        yield f"schedule {plan.layout.schedule}, and only {', '.join(runs.schedules)}"
    if not least <= size <= most:
        yield f"{_size(size)} parameters, and only {_range(_size(least), _size(most))}"
