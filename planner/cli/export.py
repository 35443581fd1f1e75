"""``export``: what starts a plan on a cluster, or in another framework."""

from pathlib import Path
from typing import Annotated

from planner.cli.parameters import Force, PlanFile
from planner.diagnostics import ExitCode, usage_error
from planner.export.options import OF_ONE_TARGET, ExportOptions, Target
from planner.handover.options import Option, declared
from planner.outputs import STDOUT, tell, write_output


class Export(ExportOptions, frozen=True, kw_only=True):
    """The options of ``export``."""

    plan: PlanFile
    to: Annotated[Target, Option("What it is for; docs/export.md says what each file does.")]
    output: Annotated[Path, Option("Where to write it.", ("-o", "--output"))] = STDOUT
    force: Force = False


def export(options: Export) -> int:
    """Write what starts a plan elsewhere: under Slurm, torchrun, Kubernetes or SSH, or without gptplan."""
    from planner.export.targets import TARGETS
    from planner.rules.reading import read_sound_plan

    _check(options)
    target = TARGETS[options.to]
    text = target.text_of(read_sound_plan(options.plan), options.plan, options)
    if options.output != STDOUT and options.output.resolve() == options.plan.resolve():
        raise usage_error("the file would replace the plan", location="-o", hint="name another file with `-o`")
    # What is there has been fitted to a cluster by somebody.
    write_output(text.encode(), options.output, what=target.what, force=options.force)
    if options.output != STDOUT:
        tell(f"{target.what}: {options.output}")
        tell(f"start it: {target.start.format(file=options.output)}")
    return ExitCode.OK


def _check(options: Export) -> None:
    """Refuse an option that is for another target, whose file would not have it."""
    for name, target in OF_ONE_TARGET.items():
        field = next(one for one in declared(ExportOptions) if one.field == name)
        if options.to != target and getattr(options, name) != field.default:
            raise usage_error(
                f"this is an option of `--to {target}`, and the file is for {options.to}",
                location=field.names[-1],
                hint=f"leave it out, or export with `--to {target}`",
            )
