"""A check for people: what is off first, then what the groups reach beside what the plan assumed."""

from collections.abc import Sequence
from typing import Any

from planner.diagnostics import Diagnostic
from planner.doctor.examining import Report
from planner.doctor.groups import MeasuredGroup
from planner.doctor.judging import rates
from planner.doctor.readiness import Readiness
from planner.specs.units import format_bytes, format_rate, format_seconds
from planner.views.content import Table

_UNITS = {"sequence": "parallel", "tensor": "parallel", "data": "parallel", "pipeline": "neighbours", "node": "devices"}


def report(found: Report) -> list[str | Table]:
    """Everything of a check."""
    facts = found.facts
    devices = {", ".join(one.devices) or f"{one.cores} cores" for one in facts}
    lines: list[str | Table] = [
        f"{len(facts)} node(s), {found.num_ranks} rank(s): {'; '.join(sorted(devices))}; {found.seconds:.0f} s",
        *_drivers(found),
        *_speeds(found),
        *_networks(found),
    ]
    if found.groups:
        axes = dict.fromkeys(one.axis for one in found.groups)
        lines.append(Table(_HEADINGS, [_row(axis, found.groups) for axis in axes]))
    return [*lines, *_off(found.findings, "nothing is off")]


_HEADINGS = ("groups", "ranks", "bandwidth, slowest", "assumed", "latency, longest", "assumed")


def _row(axis: str, groups: Sequence[MeasuredGroup]) -> tuple[str, ...]:
    """The slowest group of an axis; all of them communicate at the same time."""
    of_axis = [one for one in groups if one.axis == axis]
    slowest = min(of_axis, key=lambda one: one.bandwidth_bytes_per_s)
    latency = max(one.latency_s for one in of_axis)
    assumed = slowest.assumed
    return (
        f"{axis} {_UNITS.get(axis, '')}".strip() + f", {len(of_axis)}",
        " ".join(map(str, slowest.ranks[:8])) + (" ..." if len(slowest.ranks) > 8 else ""),  # noqa: PLR2004
        format_rate(slowest.bandwidth_bytes_per_s, "B/s"),
        format_rate(assumed.bandwidth_bytes_per_s, "B/s") if assumed else "-",
        format_seconds(latency),
        format_seconds(assumed.latency_s) if assumed else "-",
    )


def _drivers(found: Report) -> list[str]:
    used = [gpu for one in found.facts for gpu in one.gpus]
    if not used:
        return []
    least = min(gpu.total_bytes - gpu.used_bytes for gpu in used)
    return [f"driver {used[0].driver}; at least {format_bytes(least)} of each GPU are free"]


def _speeds(found: Report) -> list[str]:
    speeds = sorted(rates(found.found.ranks).values())
    if not speeds:
        return []
    least, most = (format_rate(one, "FLOP/s") for one in (speeds[0], speeds[-1]))
    return [f"matrix products at {least} to {most}"]


def _networks(found: Report) -> list[str]:
    chosen = sorted({text for text in found.found.networks.values() if text})
    return [f"network: {'; '.join(chosen)}"] if chosen else []


def _off(findings: Sequence[Diagnostic], fine: str) -> list[str | Table]:
    if not findings:
        return [fine]
    order = sorted(findings, key=lambda one: one.severity != "error")
    rows = [(one.rule, one.severity, one.location, one.message, one.hint) for one in order]
    return ["", Table(("code", "", "where", "what is off", "what to do"), rows, left=range(5))]


def ready(found: Readiness) -> list[str | Table]:
    """What can be known without devices."""
    lines: list[str | Table] = [
        f"{one.name}: {one.files} file(s), {'' if one.is_exact else 'about '}{one.tokens:,} tokens"
        for one in found.judged.sources
    ]
    lines.append(f"{found.judged.batches.steps:,} steps, {found.judged.tokens:,} tokens")
    return [*lines, *([found.room] if found.room else []), *_off(found.findings, "nothing is off")]


def group_document(one: MeasuredGroup) -> dict[str, Any]:
    """A group as JSON has it."""
    assumed = one.assumed
    return {
        "axis": one.axis,
        "ranks": one.ranks,
        "bandwidth_bytes_per_s": one.bandwidth_bytes_per_s,
        "latency_s": one.latency_s,
        "assumed_bandwidth_bytes_per_s": assumed and assumed.bandwidth_bytes_per_s,
        "assumed_latency_s": assumed and assumed.latency_s,
    }
