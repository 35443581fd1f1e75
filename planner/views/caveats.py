"""What limits a prediction, decided here for whatever shows it: room for its error, and what that error rests on."""

import math
from collections.abc import Iterator

import msgspec

from planner import codes
from planner.cost_model.reserve import device_overhead_bytes, other_stream_bytes, reserve_bytes
from planner.diagnostics import Diagnostic
from planner.handover.work import STACK
from planner.layouts.stages import stages_of_layout
from planner.plans.plan import Plan
from planner.specs.units import MIB, format_gib
from planner.validation.evidence import Evidence, evidence_of, kind_of, parameters_of

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
    """A warning where a stage has less room beyond the usual reserve than predictions of its memory miss by.

    The usual reserve is that of the specs, whatever the user asked to leave free.
    """
    problem, predicted = plan.problem, plan.predicted
    share = predicted.expected_error.memory
    reserves = reserve_bytes(msgspec.structs.replace(problem, reserve=None), stages_of_layout(plan.layout)).tolist()
    rooms = [
        stage.capacity_bytes - stage.peak_bytes - usual
        for stage, usual in zip(predicted.stages, reserves, strict=False)
    ]
    tight = [n for n, room in enumerate(rooms) if room < share * predicted.stages[n].peak_bytes]
    if not tight:
        return
    number = min(tight, key=lambda n: rooms[n] - share * predicted.stages[n].peak_bytes)
    stage, room, usual = predicted.stages[number], rooms[number], reserves[number]
    # With this reserve a peak p that fits leaves p times the error beyond the usual one.
    enough = math.ceil((usual + share * stage.capacity_bytes) / (1 + share) / MIB)
    miss = share * stage.peak_bytes
    free = f"{format_gib(room)} free" if room >= 0 else f"{format_gib(-room)} less free than the usual reserve"
    yield Diagnostic(
        rule=codes.TIGHT_MEMORY,
        severity="warning",
        message=f"stage {number} has {free}, and predictions of its memory miss by {format_gib(miss)} ({share:.1%})",
        values={
            "stage": number,
            "free_bytes": round(room),
            "error_bytes": round(miss),
            "error": share,
            "usual_reserve_bytes": round(usual),
            "tight_stages": tight,
        },
        detail=f"{format_gib(stage.capacity_bytes)} less {format_gib(stage.peak_bytes)} at the peak and "
        f"{format_gib(usual)} that is usually left free; so tight: {len(tight)} of {len(rooms)} stages",
        hint=f"use `--reserve {enough}MiB` for a plan with room for that error",
    )


def _two_streams(plan: Plan) -> Iterator[Diagnostic]:
    """A warning where ZeRO 3 has no room to keep its blocks of two streams, which its step time takes for granted.

    With less, the allocator gives cached blocks back and asks for new ones in every step, and waits for the device.
    """
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
        known = f"a rule, as no run of stack {plan.problem.stack.name} was measured for it"
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
    scale, letter = next(one for one in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1, "")) if parameters >= one[0])
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
    if not least <= size <= most:
        yield f"{_size(size)} parameters, and only {_range(_size(least), _size(most))}"
