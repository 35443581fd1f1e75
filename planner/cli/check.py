"""``check``: plans, hand-written configurations and folders of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from planner.cli.parameters import Force, Json
from planner.diagnostics import usage_error
from planner.handover.options import Option, Range
from planner.inputs import is_folder
from planner.plans import question
from planner.plans.question import parse_reserve
from planner.specs import HardwareSpec, ModelSpec
from planner.specs.files import load_spec

if TYPE_CHECKING:
    from planner.lint.draft import Asked

COUNT = Range(most=10**6, example="1024")


Form = Literal["text", "json", "github", "sarif"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The options of ``check``."""

    config: Annotated[
        Path,
        Option("A plan, a hand-written configuration, a folder of them, or a job.", metavar="CONFIG", is_argument=True),
    ]
    gpus: Annotated[int | None, Option("How many GPUs it is for. A plan says so itself.", range=question.GPUS)] = None
    gpu: question.Gpu = "a100-40g"
    model: Annotated[
        str | None, Option("A model as `solve` takes it. [default: what the file names]", known=question.MODEL_NAMES)
    ] = None
    plan: Annotated[Path | None, Option("The plan that a job file is for.", metavar="FILE.plan")] = None
    gpus_per_node: question.GpusPerNode = None
    global_batch: Annotated[int | None, Option("Sequences a step, where the file does not say.", range=COUNT)] = None
    seq_len: Annotated[int | None, Option("Tokens a sequence, where the file does not say.", range=COUNT)] = None
    reserve: question.ReserveText = None
    fix: Annotated[bool, Option("Write the nearest valid configuration.")] = False
    as_plan: Annotated[bool, Option("Freeze the layout in a plan that `run` executes.")] = False
    output: Annotated[
        Path | None,
        Option("Where --fix or --as-plan writes. [default: FILE.fixed.*, plans/FILE.plan]", ("-o", "--output")),
    ] = None
    force: Force = False
    strict: Annotated[bool, Option("Take what only running the file would tell for an error.")] = False
    given: Annotated[
        tuple[str, ...],
        Option(
            "A name that is only known when it runs, as name=value; of a job a key, as for `run`; repeatable.",
            ("--set",),
        ),
    ] = ()
    form: Annotated[Form, Option("What is printed. [default: text]", ("--format",))] = "text"
    as_json: Json = False


def check(options: Check) -> int:
    """Say rule by rule what is wrong with a configuration, without running it, and whether it fits."""
    from planner.cli import checking
    from planner.cli.checking_jobs import check_job
    from planner.jobs.reading import is_job
    from planner.lint.files import PLAN_SUFFIX, is_plan, read_text

    path, form = options.config, "json" if options.as_json else options.form
    as_json = form == "json"
    if form in ("github", "sarif") and (options.fix or options.as_plan):
        raise usage_error(
            "--format github and sarif list findings", location="--format", hint="leave out --fix, --as-plan"
        )
    if is_folder(path):
        if options.fix or options.as_plan:
            raise usage_error("--fix and --as-plan take one file", location=str(path), hint="name a file of the folder")
        return checking.check_folder(path, _asked(options), form, strict=options.strict)
    if path.suffix == PLAN_SUFFIX or is_plan(text := read_text(path, str(path))):
        _refuse_unused(options, "a plan", ("--fix", "--as-plan", "--set"))
        return checking.check_plan(path, form)
    if options.plan is not None or is_job(text):
        _refuse_unused(options, "a job", ("--fix", "--as-plan"))
        return check_job(path, options.plan, form, options.given)
    asked = _asked(options)
    if options.fix:
        target = options.output or path.with_name(f"{path.stem}.fixed{path.suffix}")
        return checking.fix(path, text, asked, target, force=options.force, as_json=as_json)
    if options.as_plan:
        target = options.output or Path("plans") / f"{path.stem}{PLAN_SUFFIX}"
        return checking.freeze(path, text, asked, target, force=options.force, as_json=as_json)
    return checking.check_configuration(path, text, asked, form, strict=options.strict)


def _refuse_unused(options: Check, what: str, names: tuple[str, ...]) -> None:
    given = {"--fix": options.fix, "--as-plan": options.as_plan, "--set": options.given}
    for name in names:
        if given[name]:
            raise usage_error(
                f"{name} is for a configuration written by hand, and this is {what}",
                location=str(options.config),
                hint=f"leave `{name}` out",
            )


def _asked(options: Check) -> "Asked":
    from planner.lint.draft import Asked

    if options.gpus is None:
        raise usage_error(
            "how many GPUs is the configuration for",
            location="--gpus",
            hint="for example `gptplan check FILE --gpus 8`",
        )
    if options.fix and options.as_plan:
        raise usage_error("--fix and --as-plan cannot be used together", location="--fix", hint="run `--fix` first")
    hardware = load_spec(options.gpu, HardwareSpec)
    per_node = options.gpus_per_node or hardware.devices_per_node
    question.GPUS_PER_NODE.check("--gpus-per-node", per_node)
    return Asked(
        gpus=options.gpus,
        hardware=hardware,
        devices_per_node=per_node,
        global_batch=options.global_batch,
        model=load_spec(options.model, ModelSpec) if options.model is not None else None,
        seq_len=options.seq_len,
        reserve=parse_reserve(options.reserve, hardware) if options.reserve is not None else None,
        given=dict(map(_named, options.given)),
    )


def _named(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name.strip() or not equals:
        raise usage_error(f"{text} is not name=value", location="--set", hint="for example `--set TP=4`")
    return name.strip(), value
