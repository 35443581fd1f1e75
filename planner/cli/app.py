"""The command line: reads options, calls the planner, renders its answer, sets the exit code.

Imports nothing heavy at module level, so that ``gptplan --help`` answers at once.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from planner import __version__
from planner.cli import ending
from planner.cli import plan_options as plan_commands
from planner.cli.calibrate_options import calibrate
from planner.layouts.problem import Objective
from planner.specs import OffloadTier, Precision, TensorMode

app = typer.Typer(
    name="gptplan",
    help="Plan the training of GPT-style models on Colossal-AI: find the fastest layout that is valid and fits, "
    "freeze it in a plan file, and run it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ModelOption = Annotated[str, typer.Option("--model", help="Built-in model (see `gptplan models`) or a TOML file.")]
GpusOption = Annotated[int, typer.Option("--gpus", help="How many GPUs; TP x PP x DP is exactly this.")]
GpuOption = Annotated[str, typer.Option("--gpu", help="Built-in card (see `gptplan hardware`) or a TOML file.")]
StackOption = Annotated[str, typer.Option("--stack", help="Training framework: colossalai, megatron or a TOML file.")]
NodeOption = Annotated[int | None, typer.Option("--gpus-per-node", help="GPUs of one node. [default: the card's]")]
BatchOption = Annotated[int | None, typer.Option("--global-batch", help="Sequences a step. [default: the model's]")]
SeqOption = Annotated[int | None, typer.Option("--seq-len", help="Tokens a sequence. [default: the model's]")]
PrecisionOption = Annotated[Precision | None, typer.Option("--precision", help="[default: the model's]")]
ObjectiveOption = Annotated[Objective, typer.Option("--objective", help="What to minimise.")]
ModeOption = Annotated[TensorMode | None, typer.Option("--mode", help="Tensor mode. [default: any]")]
PinOption = Annotated[list[str] | None, typer.Option("--pin", help="Fix a layout field, as field=value; repeatable.")]
ForbidOption = Annotated[
    list[str] | None, typer.Option("--forbid", help="Rule a value out, as field=value; repeatable.")
]
OffloadOption = Annotated[OffloadTier, typer.Option("--allow-offload", help="How far optimizer states may move.")]
ReserveOption = Annotated[
    str | None, typer.Option("--reserve", help="Memory to leave free: 2GiB or 6%. [default: context, NCCL, fragments]")
]
LimitOption = Annotated[float | None, typer.Option("--time-limit", help="Seconds the search may take. [default: none]")]
MinGpusOption = Annotated[
    bool, typer.Option("--min-gpus", help="Find the least number of GPUs that the model fits on, at most --gpus.")
]
TopOption = Annotated[int, typer.Option("--top", help="How many layouts to list, the best included.")]
VaryOption = Annotated[
    list[str],
    typer.Option(
        "--vary",
        help="What to vary, as key=value,value; repeatable. Keys: gpus, gpu, model, global_batch, seq_len, precision, "
        "stack, reserve, allow_offload, and the bandwidths node_link and network.",
    ),
]
OutputOption = Annotated[
    Path | None, typer.Option("-o", "--output", help="Plan file. [default: plans/MODEL-NxGPU.plan]")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
PlanArgument = Annotated[Path, typer.Argument(metavar="FILE.plan", help="A plan that `gptplan solve` wrote.")]
RuleArgument = Annotated[str, typer.Argument(metavar="RULE", help="A rule id, such as TP001.")]


@app.command()
def solve(  # noqa: PLR0913 - one parameter for each option
    model: ModelOption,
    gpus: GpusOption,
    gpu: GpuOption = "a100-40g",
    stack: StackOption = "colossalai",
    gpus_per_node: NodeOption = None,
    global_batch: BatchOption = None,
    seq_len: SeqOption = None,
    precision: PrecisionOption = None,
    objective: ObjectiveOption = "step-time",
    mode: ModeOption = None,
    pin: PinOption = None,
    forbid: ForbidOption = None,
    allow_offload: OffloadOption = "none",
    reserve: ReserveOption = None,
    time_limit: LimitOption = None,
    top: TopOption = 1,
    min_gpus: MinGpusOption = False,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the best layout and write it to a plan file."""
    from planner.cli import solving
    from planner.plans import question

    asked = question.Question(
        model=model, gpus=gpus, gpu=gpu, stack=stack, gpus_per_node=gpus_per_node, global_batch=global_batch,
        seq_len=seq_len, precision=precision, objective=objective, mode=mode, pin=pin or (), forbid=forbid or (),
        allow_offload=allow_offload, reserve=reserve,
    )  # fmt: skip
    options = solving.SolveOptions(time_limit_s=time_limit, top=top, min_gpus=min_gpus, output=output, as_json=as_json)
    _end(solving.solve(asked, options))


@app.command()
def sweep(  # noqa: PLR0913 - one parameter for each option
    vary: VaryOption,
    model: Annotated[str | None, typer.Option("--model", help="Built-in model or a TOML file, unless varied.")] = None,
    gpus: Annotated[int | None, typer.Option("--gpus", help="How many GPUs, unless varied.")] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", help="Built-in card or a TOML file. [default: a100-40g]")] = None,
    stack: Annotated[str | None, typer.Option("--stack", help="Training framework. [default: colossalai]")] = None,
    gpus_per_node: NodeOption = None,
    global_batch: BatchOption = None,
    seq_len: SeqOption = None,
    precision: PrecisionOption = None,
    objective: ObjectiveOption = "step-time",
    mode: ModeOption = None,
    pin: PinOption = None,
    forbid: ForbidOption = None,
    allow_offload: Annotated[
        OffloadTier | None, typer.Option("--allow-offload", help="How far optimizer states may move. [default: none]")
    ] = None,
    reserve: ReserveOption = None,
    time_limit: Annotated[
        float | None, typer.Option("--time-limit", help="Seconds each search may take. [default: none]")
    ] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", help="Processes. [default: one a core]")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the rows to a CSV file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Solve a grid of questions and show how the best layout moves."""
    from planner.cli import sweeping

    asked = {
        "model": model, "gpus": gpus, "gpu": gpu, "stack": stack, "gpus_per_node": gpus_per_node,
        "global_batch": global_batch, "seq_len": seq_len, "precision": precision, "objective": objective,
        "mode": mode, "pin": tuple(pin or ()), "forbid": tuple(forbid or ()), "allow_offload": allow_offload,
        "reserve": reserve,
    }  # fmt: skip
    given = {field: value for field, value in asked.items() if value is not None}
    options = sweeping.SweepOptions(time_limit_s=time_limit, jobs=jobs, out=out, as_json=as_json)
    _end(sweeping.sweep(given, vary, options))


@app.command()
def run(  # noqa: PLR0913 - one parameter for each option
    plan: PlanArgument,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 50,
    data: Annotated[
        Path | None, typer.Option(help="Text file or folder. [default: the source text of Python's standard library]")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="A tokenizer.json. [default: every byte is a token]")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for metrics and logs.")] = Path("runs"),
    seed: Annotated[int, typer.Option(help="Seed of weights and data order.")] = 0,
    learning_rate: Annotated[float, typer.Option(help="Learning rate of AdamW.")] = 3e-4,
    warmup_steps: Annotated[int, typer.Option(help="Steps over which the learning rate rises.")] = 10,
    nvme_path: Annotated[
        Path | None, typer.Option(help="Folder on a local NVMe drive, for a plan that offloads to one.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="TABLE", help="CSV table to append this run to, for `gptplan validate`.")
    ] = None,
    node_rank: Annotated[int, typer.Option(help="Which node this is, when the plan needs several.")] = 0,
    rendezvous: Annotated[
        str | None, typer.Option(help="HOST:PORT of node 0, when the plan needs several nodes.")
    ] = None,
) -> None:
    """Execute a plan on Colossal-AI, on this machine's GPUs or CPU cores."""
    from planner.cli import running
    from planner.launch import workers as launch

    options = launch.RunOptions(
        steps=steps, data=data, tokenizer=tokenizer, output=output, seed=seed, learning_rate=learning_rate,
        warmup_steps=warmup_steps, nvme_path=nvme_path, record=record,
        node_rank=node_rank, rendezvous=rendezvous,
    )  # fmt: skip
    _end(running.run(plan, options))


@app.command()
def show(plan: PlanArgument, as_json: JsonOption = False) -> None:
    """Print a plan: layout, predicted time and memory, and what was proven."""
    from planner.cli import reading

    _end(reading.show(plan, as_json=as_json))


plan_commands.add_to(app)


@app.command()
def check(  # noqa: PLR0913 - one parameter for each option
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A plan, a hand-written configuration, or a folder of them.")
    ],
    gpus: Annotated[int | None, typer.Option("--gpus", help="How many GPUs it is for. A plan says so itself.")] = None,
    gpu: GpuOption = "a100-40g",
    model: Annotated[
        str | None, typer.Option("--model", help="Built-in model or a TOML file. [default: what the file names]")
    ] = None,
    gpus_per_node: NodeOption = None,
    global_batch: Annotated[
        int | None, typer.Option("--global-batch", help="Sequences a step, where the file does not say.")
    ] = None,
    seq_len: Annotated[
        int | None, typer.Option("--seq-len", help="Tokens a sequence, where the file does not say.")
    ] = None,
    reserve: ReserveOption = None,
    fix: Annotated[bool, typer.Option("--fix", help="Write the nearest valid configuration.")] = False,
    as_plan: Annotated[
        bool, typer.Option("--as-plan", help="Freeze the layout in a plan that `run` executes.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Where --fix or --as-plan writes. [default: FILE.fixed.*, plans/FILE.plan]"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say rule by rule what is wrong with a configuration, without running it, and whether it fits."""
    from planner.cli import checking

    options = checking.CheckOptions(
        gpus=gpus, gpu=gpu, model=model, gpus_per_node=gpus_per_node, global_batch=global_batch, seq_len=seq_len,
        reserve=reserve, fix=fix, as_plan=as_plan, output=output, as_json=as_json,
    )  # fmt: skip
    _end(checking.check(config, options))


@app.command()
def validate(  # noqa: PLR0913 - one parameter for each option
    tables: Annotated[list[Path], typer.Argument(metavar="TABLE.csv ...", help="Tables of measured runs.")],
    sets: Annotated[list[str] | None, typer.Option("--set", help="Only rows of this set; repeatable.")] = None,
    gpu: Annotated[
        str | None, typer.Option("--gpu", help="Built-in card or a TOML file. [default: what each row names]")
    ] = None,
    max_memory_error: Annotated[
        float | None, typer.Option("--max-memory-error", help="Largest mean memory error of a set, in percent.")
    ] = None,
    max_time_error: Annotated[
        float | None, typer.Option("--max-time-error", help="Largest mean step-time error of a set, in percent.")
    ] = None,
    worst: Annotated[int, typer.Option("--worst", help="How many of the worst rows to list.")] = 10,
    out: Annotated[Path | None, typer.Option("--out", help="Write the rows with predictions to a CSV file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Replay measured runs through the cost model and report the error; exit code 1 over a limit."""
    from planner.cli import validating
    from planner.validation import Limits

    options = validating.ValidateOptions(
        sets=sets or (), gpu=gpu, limits=Limits(max_memory_error, max_time_error), out=out, worst=worst,
        as_json=as_json,
    )  # fmt: skip
    _end(validating.validate_tables(tables, options))


app.command()(calibrate)


@app.command()
def rules(as_json: JsonOption = False) -> None:
    """List every rule."""
    from planner.cli import listing

    _end(listing.rules(as_json=as_json))


@app.command()
def explain(
    rule: Annotated[str, typer.Argument(help="A rule id, such as TP001.")], as_json: JsonOption = False
) -> None:
    """Say what a rule demands, why, and where it comes from."""
    from planner.cli import listing

    _end(listing.explain(rule, as_json=as_json))


@app.command()
def models(as_json: JsonOption = False) -> None:
    """List the built-in models."""
    from planner.cli import listing

    _end(listing.models(as_json=as_json))


@app.command()
def hardware(as_json: JsonOption = False) -> None:
    """List the built-in hardware."""
    from planner.cli import listing

    _end(listing.hardware(as_json=as_json))


@app.callback(invoke_without_command=True)
def _global(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"gptplan {__version__}")
        raise typer.Exit


def _end(code: int) -> None:
    raise typer.Exit(code)


def main(argv: list[str] | None = None) -> None:
    """Run a command and exit; no traceback reaches a user."""
    sys.exit(_run(argv))


def _run(argv: list[str] | None) -> int:
    try:
        code: Any = app(args=argv, standalone_mode=True)
    except BaseException as error:
        return ending.exit_code(error)
    return int(code or 0)


if __name__ == "__main__":
    main()
