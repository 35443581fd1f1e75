"""The plan file: canonical JSON that holds the answer and everything it was derived from.

A plan has no time, host or path in it, so the same question gives identical bytes. The digest
covers all other fields. :func:`read_plan` refuses what it cannot vouch for, each with its own
message.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from planner.diagnostics import Diagnostic, ExitCode, PlanError, usage_error
from planner.inputs import read_input
from planner.layouts.layout import Layout
from planner.layouts.pins import parse_pin
from planner.layouts.problem import MAX_DEVICES, MAX_GLOBAL_BATCH, Problem
from planner.outputs import Ours, write_output
from planner.plans.prediction import Prediction
from planner.specs.files import from_builtins, spec_digest, to_builtins

FORMAT_VERSION = 1
MAX_PLAN_BYTES = 64 * 1024**2
EDITED, NO_PLAN = "PLAN002", "PLAN003"
EDITED_HINT = "solve again instead of editing a plan: `gptplan solve` takes `--pin field=value`"


BY_HAND = "by-hand"
"""Status of a layout that a person wrote: nothing was chosen, and the bound is that of the best layout found."""
_STATED_BY_HAND = re.compile(rb'"status":\s*"by-hand"')


class Space(msgspec.Struct, frozen=True, kw_only=True):
    """How many layouts were looked at, and what became of them."""

    layouts: int
    valid: int
    fit: int
    rejected: dict[str, int]
    """Rule id to the layouts it rejects; one layout may break several rules."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the solver proved, in seconds (objective step-time) or bytes (objective memory)."""

    status: str
    objective: float
    bound: float
    gap: float
    space: Space
    bounded_out: int
    """Fitting layouts left out of the exact model because their lower bound exceeds the best."""
    lowest_bounded_out: float | None
    """The least of those lower bounds; ``None`` when nothing was left out."""
    ortools_version: str
    overlapping: int | None = None
    """Choices whose interval of the step time overlaps that of the fastest; ``None`` in older plans and for memory."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A frozen plan. ``predicted`` and ``evidence`` are for people; the runtime reads the rest."""

    format_version: int
    gptplan_version: str
    problem: Problem
    spec_digests: dict[str, str]
    """SHA-256 of the canonical form of each embedded spec, by kind."""
    layout: Layout
    predicted: Prediction
    evidence: Evidence
    digest: str = ""


def canonical_json(value: Any) -> bytes:
    """Sorted keys, two spaces, one trailing newline: equal values give equal bytes."""
    compact = msgspec.json.encode(to_builtins(value), order="sorted")
    return msgspec.json.format(compact, indent=2) + b"\n"


def seal(plan: Plan) -> Plan:
    """The plan with the digests of its specs and of all its other fields filled in."""
    digests = {kind: spec_digest(spec) for kind, spec in plan.problem.specs.items()}
    plan = msgspec.structs.replace(plan, spec_digests=digests, digest="")
    return msgspec.structs.replace(plan, digest=content_digest(to_builtins(plan)))


def content_digest(fields: dict[str, Any]) -> str:
    """SHA-256 of all fields of a document but the one that holds it."""
    covered = {key: value for key, value in fields.items() if key != "digest"}
    return "sha256:" + hashlib.sha256(canonical_json(covered)).hexdigest()


def write_plan(plan: Plan, path: Path, *, force: bool = False, ours: Ours | None = None) -> None:
    """Write ``plan`` as canonical JSON, in the place of another plan or of nothing, or with ``force`` of any file.

    ``ours`` tells which content is replaced without force, if not every plan.

    Raises:
        PlanError: the file cannot be written, or there is one that stays.
    """
    write_output(canonical_json(plan), path, what="plan", ours=ours or holds_plan, force=force)


def holds_plan(content: bytes) -> bool:
    """Whether a file holds a plan of any format, whole or not."""
    return content.lstrip().startswith(b"{") and b'"format_version"' in content and b'"gptplan_version"' in content


def holds_found_plan(content: bytes) -> bool:
    """Whether a file holds a plan that a search has found."""
    return holds_plan(content) and _STATED_BY_HAND.search(content) is None


def holds_frozen_plan(content: bytes) -> bool:
    """Whether a file holds a plan of a layout that somebody wrote."""
    return holds_plan(content) and _STATED_BY_HAND.search(content) is not None


def read_plan(path: Path) -> Plan:
    """Read and verify a plan file.

    Raises:
        PlanError: with exit code 2 if the file is missing or is no plan, with exit code 1 if it
            is a plan of an unknown format or was changed after it was written.
    """
    fields = _read_json(path)
    _check_format(fields, path)
    if fields.get("digest") != content_digest(fields):
        raise _refusal(
            EDITED,
            path,
            "the plan was changed after gptplan wrote it",
            f"its digest says {fields.get('digest')}, its content gives {content_digest(fields)}",
        )
    try:
        plan: Plan = from_builtins(fields, Plan)
    except msgspec.ValidationError as error:
        raise _refusal(NO_PLAN, path, "the plan does not have the fields of its format", str(error)) from error
    if nonsense := next(_nonsense(plan), ""):
        raise _refusal(NO_PLAN, path, "the plan contradicts itself, so that gptplan did not make it", nonsense)
    return plan


def _nonsense(plan: Plan) -> Iterator[str]:
    """What no plan says, however its layout is judged: each field alone is of its kind."""
    layout, problem = plan.layout, plan.problem
    if layout.num_devices > MAX_DEVICES or layout.global_batch > MAX_GLOBAL_BATCH:
        yield f"its layout is for {layout.num_devices} devices and a batch of {layout.global_batch}"
    if len(plan.predicted.stages) != layout.pipeline_parallel:
        yield f"it predicts {len(plan.predicted.stages)} stages and has {layout.pipeline_parallel}"
    typed = [(field, value) for field, value in problem.pins.items()]
    typed += [(field, value) for field, values in problem.forbids.items() for value in values]
    for field, value in typed:
        try:
            parse_pin(f"{field}={value}", "pins")
        except PlanError as error:
            yield str(error)


def _read_json(path: Path) -> dict[str, Any]:
    solve_hint = "make one with `gptplan solve --model gpt3 --gpus 96`"
    content = read_input(path, what="plan", most_bytes=MAX_PLAN_BYTES, hint=solve_hint)
    try:
        fields = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise usage_error(
            f"this is not a whole plan file: {error}",
            location=str(path),
            hint="it may have been cut off while it was copied; copy it again or solve again",
        ) from error
    if not isinstance(fields, dict) or "format_version" not in fields:
        raise usage_error("this JSON file is not a gptplan plan", location=str(path), hint=solve_hint)
    return fields


def _check_format(fields: dict[str, Any], path: Path) -> None:
    found = fields["format_version"]
    if found != FORMAT_VERSION:
        raise _refusal(
            "PLAN001",
            path,
            f"the plan has format {found!r}, this gptplan reads format {FORMAT_VERSION}",
            f"it was written by gptplan {fields.get('gptplan_version', 'unknown')}",
        )


def _refusal(rule: str, path: Path, message: str, detail: str) -> PlanError:
    hint = EDITED_HINT if rule == EDITED else "solve again with this gptplan"
    return PlanError(
        Diagnostic(rule=rule, message=message, location=str(path), detail=detail, hint=hint),
        exit_code=ExitCode.NEGATIVE,
    )
