"""Why there is no layout, in words: each conflict with its requirements, and what to type for each way out."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from planner import codes
from planner.diagnostics import Diagnostic
from planner.layouts.pins import EVEN, LAYERS, listed
from planner.layouts.problem import Problem
from planner.solver.answer import Answer
from planner.solver.why_not.conflict import Conflict, Miss
from planner.solver.why_not.requirements import COUNT, FORBID, MEMORIES, PIN, Requirement, requirements
from planner.solver.why_not.ways_out import Changed, Way
from planner.specs.units import MIB, format_gib, format_seconds

_OPTIONS = {PIN: "--pin", FORBID: "--forbid"}
_LEAVE_OUT_ALL = "leave out every `--pin`, `--mode` and `--forbid`"
_NO_WAY = "no single change of GPU count, pins, offload, card, global batch or reserve was found that leaves a layout"
_PLACES = {"cpu": "the host", "nvme": "the host and NVMe"}
Told = tuple[str, str, dict[str, Any]]
"""What a way changes, what to type for it, and its values."""


def reasons_of(answer: Answer) -> list[Diagnostic]:
    """Each conflict with one diagnostic for each of its requirements, and then the ways out."""
    if answer.refusal is None:
        return []
    problem, conflicts = answer.refusal.problem, answer.refusal.conflicts
    found = [
        reason for conflict in conflicts for reason in _told(problem, conflict, besides=conflict is not conflicts[0])
    ]
    nowhere = Diagnostic(rule=codes.NO_WAY, severity="note", message=_NO_WAY)
    return [*found, *([_way(way) for way in answer.refusal.ways] or [nowhere])]


def _told(problem: Problem, conflict: Conflict, *, besides: bool) -> Iterator[Diagnostic]:
    yield _summary(problem, conflict, besides=besides)
    for requirement, witness, finding in zip(conflict.requirements, conflict.witnesses, conflict.findings, strict=True):
        if finding is None:
            yield _count(problem, witness) if requirement.rule == COUNT else _typed(problem, requirement)
        elif requirement in MEMORIES:
            yield finding
        else:
            yield msgspec.structs.replace(finding, location=f"{finding.location} ({_mesh_of(witness)})")


def _summary(problem: Problem, conflict: Conflict, *, besides: bool) -> Diagnostic:
    names = [_title(problem, requirement) for requirement in conflict.requirements]
    if len(names) == 1:
        message = "this requirement alone leaves no layout"
    else:
        message = f"these {len(names)} requirements together leave no layout, and any one less would leave one"
    without = [
        f"without {_title(problem, requirement)}: {_keeps(problem, conflict, requirement, witness)}"
        for requirement, witness in zip(conflict.requirements, conflict.witnesses, strict=True)
    ]
    return Diagnostic(
        rule=codes.NO_LAYOUT,
        message=f"{'apart from that, ' * besides}{message}: {', '.join(names)}",
        values={
            "requirements": [
                {"rule": requirement.rule, "field": requirement.field, "value": requirement.value}
                for requirement in conflict.requirements
            ]
        },
        detail="\n".join(without),
    )


def _keeps(problem: Problem, conflict: Conflict, requirement: Requirement, witness: Miss) -> str:
    """What a layout keeps that does not keep one of the conflict's requirements, and what else it does not keep."""
    alone, mesh = len(conflict.requirements) == 1, _mesh_of(witness)
    others = [one for one in requirements(problem) if one in witness.broken - {requirement}]
    also = ", ".join(_title(problem, one) for one in others)
    if alone:
        return f"{mesh} breaks {also}" if also else f"{mesh} breaks nothing else"
    return f"{mesh} keeps the others" + (f", and breaks {also}" if also else "")


def _title(problem: Problem, requirement: Requirement) -> str:
    """What a requirement is called among others: its rule, and what was typed for it."""
    typed = f"--gpus {problem.num_devices}" if requirement.rule == COUNT else _option(requirement)
    return f"{requirement.rule} ({typed})" if typed else requirement.rule


def _option(requirement: Requirement) -> str:
    option = _OPTIONS.get(requirement.rule)
    return f"{option} {requirement.field}={requirement.value}" if option else ""


def _mesh_of(miss: Miss) -> str:
    columns = miss.layout
    degrees = (int(c[0]) for c in (columns.tensor_parallel, columns.pipeline_parallel, columns.data_parallel))
    tensor, pipeline, data = degrees
    return f"TP {tensor} x PP {pipeline} x DP {data} on {_gpus(tensor * pipeline * data)}"


def _gpus(number: int) -> str:
    return f"{number} GPU" if number == 1 else f"{number} GPUs"


def _count(problem: Problem, witness: Miss) -> Diagnostic:
    return Diagnostic(
        rule=COUNT,
        message=f"TP x PP x DP has to be {_gpus(problem.num_devices)}",
        location=f"--gpus {problem.num_devices}",
        values={"num_devices": problem.num_devices},
        detail=f"{_mesh_of(witness)} would keep the other requirements",
    )


def _typed(problem: Problem, requirement: Requirement) -> Diagnostic:
    word, detail = "pinned to" if requirement.rule == PIN else "forbidden to be", ""
    if requirement.field == LAYERS and requirement.value != EVEN:
        layers = [int(part) for part in requirement.value.split(",")]
        model = problem.model
        detail = f"{len(layers)} stages with {sum(layers)} layers in all; {model.name} has {model.num_layers} layers"
    return Diagnostic(
        rule=requirement.rule,
        message=f"{requirement.field} is {word} {requirement.value}",
        location=_option(requirement),
        values={"field": requirement.field, "value": requirement.value},
        detail=detail,
    )


def _way(way: Way) -> Diagnostic:
    """A note on a changed problem: what its good layout takes, and what to type."""
    code, words_of = _WAYS[way.changed]
    change, hint, values = words_of(way)
    if way.without_choices:
        change, hint = f"without any pin or forbidden value, {change}", f"{_LEAVE_OUT_ALL}, and {hint}"
        values = values | {"field": "all"}
    layout, predicted = way.layout, way.predicted
    fullest = max(predicted.stages, key=lambda stage: stage.peak_bytes + stage.reserve_bytes)
    room = fullest.capacity_bytes - fullest.reserve_bytes
    mesh = f"TP {layout.tensor_parallel} x PP {layout.pipeline_parallel} x DP {layout.data_parallel}"
    return Diagnostic(
        rule=code,
        severity="note",
        message=f"{change}: {mesh} then takes {format_seconds(predicted.step_s)} a step "
        f"and {format_gib(fullest.peak_bytes)} of {format_gib(room)}",
        values=values | {"step_s": predicted.step_s, "peak_bytes": fullest.peak_bytes, "room_bytes": room},
        hint=hint,
    )


def _devices(way: Way) -> Told:
    asked, count = way.before, way.after
    if count < asked:
        words = f"{count} GPUs are the most below {asked} that have a layout"
    elif count == way.tried_to:
        words = f"{count} GPUs are the fewest above {asked} that have a layout"
    else:
        words = f"{count} GPUs are enough, and no count from {asked} to {way.tried_to} is"
    return words, f"use `--gpus {count}`", {"num_devices": count}


def _pin(way: Way) -> Told:
    values = {"field": way.field, "pinned": way.before}
    if way.after is None:
        layers = listed(way.layout.recompute_layers_per_stage)
        words = f"with {layers} recomputed layers per stage there is a layout"
        return words, f"leave out `--pin {way.field}={way.before}`", values
    words = f"with {way.field} {way.after} instead of {way.before} there is a layout"
    hint = f"use `--pin {way.field}={way.after}` instead of `{way.field}={way.before}`"
    return words, hint, values | {"value": way.after}


def _forbidden(way: Way) -> Told:
    words = f"with {way.field} {way.before} there is a layout"
    return words, f"leave out `--forbid {way.field}={way.before}`", {"field": way.field, "forbidden": way.before}


def _choices(way: Way) -> Told:
    return "without any pin or forbidden value there is a layout", _LEAVE_OUT_ALL, {"field": "all"}


def _offload(way: Way) -> Told:
    offload = way.layout.offload
    weights = f" and {offload.parameters:.0%} of the weights" if offload.parameters else ""
    words = f"with {offload.optimizer:.0%} of the optimizer{weights} on {_PLACES[offload.tier]} there is a layout"
    values = {"allow_offload": way.after, "optimizer": offload.optimizer, "parameters": offload.parameters}
    return words, f"add `--allow-offload {way.after}`", values


def _card(way: Way) -> Told:
    values = {"hardware": way.after, "devices_per_node": way.problem.devices_per_node}
    return f"{way.after} is the smallest built-in card with a layout", f"use `--gpu {way.after}`", values


def _batch(way: Way) -> Told:
    words = f"with a global batch of {way.after} instead of {way.before} there is a layout"
    return words, f"use `--global-batch {way.after}`", {"global_batch": way.after}


def _reserve(way: Way) -> Told:
    reserve = way.after // MIB
    words = f"a reserve of {reserve} MiB, which leaves less for driver, communication and allocator, would do"
    return words, f"use `--reserve {reserve}MiB`", {"reserve_bytes": way.after}


_WAYS: dict[Changed, tuple[str, Callable[[Way], Told]]] = {
    "num_devices": (codes.OTHER_COUNT, _devices),
    "pins": (codes.OTHER_PIN, _pin),
    "forbids": (codes.OTHER_PIN, _forbidden),
    "choices": (codes.OTHER_PIN, _choices),
    "allow_offload": (codes.OFFLOAD, _offload),
    "hardware": (codes.LARGER_CARD, _card),
    "global_batch": (codes.OTHER_BATCH, _batch),
    "reserve": (codes.SMALLER_RESERVE, _reserve),
}
