"""``verify``: the layout of a plan beside one process, on a model made small."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from planner.cli.parameters import Json, PlanFile, print_json
from planner.diagnostics import Diagnostic, ExitCode, render, usage_error
from planner.handover.verification import WORKAROUNDS, Verification
from planner.handover.work import STACK, VerifyOptions
from planner.outputs import say
from planner.specs.files import did_you_mean, to_builtins

if TYPE_CHECKING:
    from planner.launch.shrink import Shrunken

RULE = "VER001"


class Verify(VerifyOptions, frozen=True, kw_only=True):
    """The options of ``verify``."""

    plan: PlanFile
    as_json: Json = False


def verify(options: Verify) -> int:
    """Train a plan's layout on a small model and compare losses and gradients with one process."""
    import tempfile

    from planner.launch.machine import check_machine, check_toolchain
    from planner.launch.placing import check_alone
    from planner.launch.shrink import shrink
    from planner.rules.reading import read_sound_plan
    from planner.views.terminal import print_content
    from planner.views.verify import verification

    _check_workarounds(options)
    check_alone()
    plan, name = read_sound_plan(options.plan), str(options.plan)
    if plan.problem.stack.name != STACK:
        check_machine(plan, name)
    most = _most_processes(options)
    small = shrink(plan, max_processes=most, on_gpus=options.on_gpus, own_precision=options.own_precision)
    check_machine(small.plan, name)
    check_toolchain(small.plan)
    _say_what_runs(small, options)
    with tempfile.TemporaryDirectory(prefix="gptplan-verify-") as folder:
        result = Path(folder) / "result.json"
        code = _run(small, result, options)
        if code:
            return code
        found = msgspec.json.decode(result.read_bytes(), type=Verification)
    if options.as_json:
        print_json(document(small, found, options))
    else:
        print_content(*verification(small, found))
    if found.holds:
        return ExitCode.OK
    say(render(_finding(small, found)))
    return ExitCode.NEGATIVE


def _check_workarounds(options: Verify) -> None:
    for name in options.without:
        if name not in WORKAROUNDS:
            known = ", ".join(WORKAROUNDS)
            hint = " ".join(filter(None, (did_you_mean(name, WORKAROUNDS), f"use one of {known}")))
            raise usage_error(f"there is no workaround {name}", location="--without", hint=hint)


def _most_processes(options: Verify) -> int:
    """No more than there are GPUs; without any, what :func:`check_machine` will refuse."""
    from planner.launch.machine import present_gpus

    num_gpus = len(present_gpus()) if options.on_gpus else 0
    return min(options.max_processes, num_gpus) if num_gpus else options.max_processes


def _say_what_runs(small: "Shrunken", options: Verify) -> None:
    where = "GPUs" if options.on_gpus else "processes"
    say(f"training {options.steps} steps on {small.plan.layout.num_devices} {where} and on one")
    for name in options.without:
        say(f"warning: switched off: {WORKAROUNDS[name]}")


def _run(small: "Shrunken", result: Path, options: Verify) -> int:
    from planner.launch.nvme import check_nvme
    from planner.launch.processes import execute, say_interrupted, verifying
    from planner.plans.plan import write_plan

    own = msgspec.structs.replace(options, nvme_path=options.nvme_path or result.parent)
    if small.plan.layout.offload.tier == "nvme":
        check_nvme(small.plan, own.nvme_path)
    path = result.with_name(options.plan.name)
    write_plan(small.plan, path)
    # What the libraries print must not mix with the answer.
    outcome = execute(verifying(small.plan, path, result, own), stdout=2)
    say_interrupted(outcome, "there is no answer: the layout was not compared to the end")
    return outcome.code


def document(small: "Shrunken", found: Verification, options: Verify) -> dict[str, Any]:
    """The JSON document of a verification."""
    model = small.plan.problem.model
    shape = ["family", "num_layers", "hidden_size", "num_heads", "kv_heads", "head_size", "ffn_hidden_size"]
    shape += ["vocab_size", "tied_embeddings"]
    return {
        "verified": found.holds,
        "layout": to_builtins(small.plan.layout),
        "changes": small.changes,
        "model": {field: getattr(model, field) for field in shape} | {"seq_len": small.plan.problem.seq_len},
        "without": options.without,
        **to_builtins(found),
    }


def _finding(small: "Shrunken", found: Verification) -> Diagnostic:
    worst = max((step.gradient for step in found.steps), key=lambda g: float("inf") if g.value is None else g.value)
    value = "no number" if worst.value is None else f"{worst.value:.1e}"
    limits = found.tolerance
    message = f"the layout does not train like one process: gradients differ by up to {value}"
    detail = (
        f"largest in {worst.parameter} on rank {worst.rank}, stage {worst.stage}; allowed in "
        f"{small.plan.layout.precision}: {limits.gradient:.0e} of a gradient, {limits.loss:.0e} of the loss, "
        f"{limits.replicas:.0e} between ranks"
    )
    if found.missing:
        detail += f"\nno rank has a gradient of {', '.join(found.missing)}"
    return Diagnostic(rule=RULE, message=message, detail=detail, hint="do not train with this layout; report it")
