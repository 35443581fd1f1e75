"""A verification for people: every step of the layout beside one process, and a verdict, on stdout."""

from rich.table import Table

from planner.handover.verification import ReplicaDifference, Verification
from planner.launch.shrink import Shrunken
from planner.views.console import stdout_console


def print_verification(small: Shrunken, found: Verification) -> None:
    """What ran, a row for each step, and whether everything is within the tolerance."""
    console = stdout_console()
    console.print("\n".join(_what_ran(small)), soft_wrap=True, markup=False)
    console.print()
    console.print(_table(found))
    limits = found.tolerance
    console.print(
        f"\nallowed in {small.plan.layout.precision}: loss {limits.loss:.0e}, gradient {limits.gradient:.0e}, "
        f"between ranks {limits.replicas:.0e}",
        soft_wrap=True,
    )
    if found.missing:
        console.print(f"no rank has a gradient of {', '.join(found.missing)}", soft_wrap=True, markup=False)
    console.print(_verdict(found), soft_wrap=True)


def _what_ran(small: Shrunken) -> list[str]:
    layout, model = small.plan.layout, small.plan.problem.model
    kind = {"none": "none"}.get(layout.tensor_mode, f"{layout.tensor_parallel} ({layout.tensor_mode})")
    recomputed = "+".join(map(str, layout.recompute_layers_per_stage))
    words = [
        f"tensor parallel {kind}",
        f"pipeline parallel {layout.pipeline_parallel} ({layout.schedule})",
        f"data parallel {layout.data_parallel}",
        f"ZeRO stage {layout.zero_stage}",
        f"sequence parallel {'yes' if layout.sequence_parallel else 'no'}",
        f"{layout.num_microbatches} micro batches of {layout.micro_batch}",
        f"layers {'+'.join(map(str, layout.layers_per_stage))}, recomputed {recomputed}",
        layout.precision,
    ]
    if layout.offload.tier != "none":
        words.append(f"offload of {layout.offload.words}")
    lines = [
        f"layout: {', '.join(words)}",
        f"model:  {model.num_layers} layers, hidden size {model.hidden_size}, {model.num_heads} heads, "
        f"vocabulary {model.vocab_size}, {small.plan.problem.global_batch} sequences of {small.plan.problem.seq_len}",
    ]
    if small.changes:
        lines.append(f"differs from the plan: {', '.join(small.changes)}")
    return lines


def _table(found: Verification) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("step", "loss", "one process", "difference", "gradient off by"):
        table.add_column(heading, justify="right")
    table.add_column("at most, in")
    table.add_column("on rank", justify="right")
    table.add_column("stage", justify="right")
    table.add_column("ranks differ by", justify="right")
    table.add_column("in")
    for step in found.steps:
        gradient, replicas = step.gradient, step.replicas
        apart = ("-", "") if replicas is None else (_number(replicas.value), _replicas_place(replicas))
        table.add_row(
            str(step.step),
            f"{step.loss:.6f}",
            f"{step.reference_loss:.6f}",
            _number(step.loss_difference),
            _number(gradient.value),
            gradient.parameter,
            str(gradient.rank),
            str(gradient.stage),
            *apart,
        )
    return table


def _replicas_place(replicas: ReplicaDifference) -> str:
    if replicas.value == 0:
        return ""
    first, second = replicas.ranks
    return f"{replicas.parameter} of ranks {first} and {second}"


def _number(value: float | None) -> str:
    return "no number" if value is None else f"{value:.1e}"


def _verdict(found: Verification) -> str:
    steps, count = len(found.steps), found.num_parameters
    if found.holds:
        return f"verified: losses and the gradients of all {count} parameters agree in {steps} steps"
    return "NOT verified: the layout does not train like one process"
