"""``verify``: the layout of a plan beside one process, on a model made small."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from planner.cli.output import print_json
from planner.diagnostics import Diagnostic, ExitCode, render, usage_error
from planner.handover.verification import WORKAROUNDS, Verification
from planner.launch.nvme import check_nvme
from planner.launch.processes import run_command
from planner.launch.shrink import Shrunken, shrink
from planner.launch.toolchain import check_toolchain
from planner.launch.workers import STACK, VerifyOptions, check_machine, present_gpus, verify_command
from planner.plans.plan import read_plan, write_plan
from planner.specs.files import did_you_mean, to_builtins
from planner.views import verify as verify_view

RULE = "VER001"
LEAST_STEPS, MOST_STEPS = 1, 1000
MOST_PROCESSES = 1024


def verify(path: Path, options: VerifyOptions, *, as_json: bool) -> int:
    """Shrink the plan, train it both ways and print how far they are apart; 1 if further than rounding explains."""
    _check_options(options)
    plan = read_plan(path)
    if plan.problem.stack.name != STACK:
        check_machine(plan, str(path))
    small = shrink(
        plan, max_processes=_most_processes(options), on_gpus=options.on_gpus, own_precision=options.own_precision
    )
    check_machine(small.plan, str(path))
    check_toolchain(small.plan)
    _say_what_runs(small, options)
    with tempfile.TemporaryDirectory(prefix="gptplan-verify-") as folder:
        result = Path(folder) / "result.json"
        code = _run(small, Path(folder) / path.name, result, options)
        if code:
            return code
        found = msgspec.json.decode(result.read_bytes(), type=Verification)
    if as_json:
        print_json(document(small, found, options))
    else:
        verify_view.print_verification(small, found)
    if found.holds:
        return ExitCode.OK
    sys.stderr.write(render(_finding(small, found)) + "\n")
    return ExitCode.NEGATIVE


def _check_options(options: VerifyOptions) -> None:
    for option, value, least, most in (
        ("--steps", options.steps, LEAST_STEPS, MOST_STEPS),
        ("--max-processes", options.max_processes, 1, MOST_PROCESSES),
    ):
        if not least <= value <= most:
            raise usage_error(f"{option} takes {least} to {most}, not {value}", location=option)
    for name in options.without:
        if name not in WORKAROUNDS:
            known = ", ".join(WORKAROUNDS)
            hint = " ".join(filter(None, (did_you_mean(name, WORKAROUNDS), f"use one of {known}")))
            raise usage_error(f"there is no workaround {name}", location="--without", hint=hint)


def _most_processes(options: VerifyOptions) -> int:
    """No more than there are GPUs; without any, what :func:`check_machine` will refuse."""
    num_gpus = len(present_gpus()) if options.on_gpus else 0
    return min(options.max_processes, num_gpus) if num_gpus else options.max_processes


def _say_what_runs(small: Shrunken, options: VerifyOptions) -> None:
    where = "GPUs" if options.on_gpus else "processes"
    sys.stderr.write(f"training {options.steps} steps on {small.plan.layout.num_devices} {where} and on one\n")
    for name in options.without:
        sys.stderr.write(f"warning: switched off: {WORKAROUNDS[name]}\n")


def _run(small: Shrunken, path: Path, result: Path, options: VerifyOptions) -> int:
    nvme = None
    if small.plan.layout.offload.tier == "nvme":
        nvme = options.nvme_path or result.parent
        check_nvme(small.plan, nvme)
    write_plan(small.plan, path)
    # What the libraries print must not mix with the answer.
    return run_command(verify_command(small.plan, path, result, options, nvme_path=nvme), stdout=2)


def document(small: Shrunken, found: Verification, options: VerifyOptions) -> dict[str, Any]:
    """The JSON document of a verification."""
    model = small.plan.problem.model
    shape = ("num_layers", "hidden_size", "num_heads", "ffn_hidden_size", "vocab_size", "tied_embeddings")
    return {
        "verified": found.holds,
        "layout": to_builtins(small.plan.layout),
        "changes": small.changes,
        "model": {field: getattr(model, field) for field in shape} | {"seq_len": small.plan.problem.seq_len},
        "without": options.without,
        **to_builtins(found),
    }


def _finding(small: Shrunken, found: Verification) -> Diagnostic:
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
