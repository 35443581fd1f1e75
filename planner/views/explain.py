"""Tables for people: answers, plans, rules and specs on a terminal. Readable without colour."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from planner.cost_model.parameters import model_parameters
from planner.diagnostics import Diagnostic, render
from planner.layouts.layout import Layout
from planner.plans.plan import BY_HAND, Evidence, Plan
from planner.plans.prediction import TERM_WORDS, Prediction
from planner.rules import RuleText
from planner.solver.answer import Answer, LeastDevices
from planner.specs import HardwareSpec, ModelSpec
from planner.specs.units import format_bytes, format_gap, format_gib, format_rate, format_seconds
from planner.views.console import stdout_console
from planner.views.runner_ups import runner_up_table


def print_answer(answer: Answer, plan: Plan, path: Path | None) -> None:
    """The chosen layout, what was proven, and where the plan is if it is anywhere."""
    console = stdout_console()
    _print_plan(console, plan)
    console.print(f"\nsearched {_space(plan.evidence)} in {format_seconds(answer.solve_s)}", soft_wrap=True)
    if answer.runners_up:
        console.print()
        console.print(runner_up_table(plan, answer))
    if path is not None:
        console.print(f"\nplan: {path}", soft_wrap=True)


def least_devices_text(least: LeastDevices) -> str:
    """Why a number of GPUs is the least, or why none suffices."""
    if least.num_devices is None:
        lines = [f"no number of GPUs up to {least.most_devices} is enough:"]
    elif least.num_devices == 1:
        lines = ["1 GPU is enough"]
    else:
        lines = [f"{least.num_devices} GPUs is the least:"]
    if least.excluded_by_bound:
        count = least.excluded_by_bound
        lines.append(
            f"  {_ranges(range(1, count + 1))}: the training states alone take {format_gib(least.state_bytes)}, "
            f"more than {count} x {format_gib(least.usable_bytes_per_device)}"
        )
    for counts, why in ((least.no_valid_layout, "no valid layout"), (least.none_fits, "valid layouts, but none fits")):
        if counts:
            lines.append(f"  {_ranges(counts)}: {why}")
    if least.nearest_miss is not None:
        miss = least.nearest_miss
        missed = "; ".join(reason.message for reason in miss.reasons)
        if miss.short_bytes is not None:
            missed = f"misses by {format_bytes(miss.short_bytes)} a GPU"
        lines.append(f"  the nearest of these, {miss.num_devices}: {missed}")
    return "\n".join(lines)


def _ranges(counts: Sequence[int], most: int = 12) -> str:
    """``"1-79, 81, 83-87"`` for rising counts; a long list is cut."""
    runs: list[list[int]] = []
    for count in counts:
        if runs and count == runs[-1][1] + 1:
            runs[-1][1] = count
        else:
            runs.append([count, count])
    words = [str(first) if first == last else f"{first}-{last}" for first, last in runs]
    return ", ".join(words if len(words) <= most else [*words[:most], f"... {counts[-1]}"])


def print_plan(plan: Plan) -> None:
    """A plan that was read from a file."""
    console = stdout_console()
    _print_plan(console, plan)
    console.print(f"\nsearched {_space(plan.evidence)}", soft_wrap=True)
    console.print(f"made by gptplan {plan.gptplan_version}, OR-Tools {plan.evidence.ortools_version}")
    console.print(f"digest: {plan.digest}", soft_wrap=True)


def _print_plan(console: Console, plan: Plan) -> None:
    problem, predicted, hardware = plan.problem, plan.predicted, plan.problem.hardware
    console.print(
        f"{problem.model.name} on {problem.num_devices} x {problem.hardware.name} with {problem.stack.name} "
        f"{problem.stack.version}: {_verdict(plan.evidence, problem.objective)}\n",
        soft_wrap=True,
    )
    console.print(_layout_table(plan))
    console.print(
        f"\nstep {format_seconds(predicted.step_s)}   {predicted.tokens_per_s:,.0f} tokens/s   "
        f"{format_rate(predicted.model_flops_per_s_per_gpu, 'FLOP/s')} per GPU   MFU {predicted.mfu:.1%}",
        soft_wrap=True,
    )
    if plan.layout.pipeline_parallel > 1 and predicted.schedule_step_s is not None:
        console.print(f"longest path of the pipeline's schedule {format_seconds(predicted.schedule_step_s)}")
    console.print(
        f"expected error: {predicted.expected_error.words(hardware.name, calibrated=hardware.calibrated)}\n",
        soft_wrap=True,
    )
    console.print(_time_table(predicted))
    console.print()
    console.print(_memory_table(plan.layout, predicted))
    if predicted.host_bytes_per_node:
        of = format_gib(problem.hardware.host.memory_bytes)
        console.print(f"\nhost memory: {format_gib(predicted.host_bytes_per_node)} of a node's {of}", soft_wrap=True)
    if predicted.nvme_bytes_per_node:
        of = format_gib(problem.hardware.host.nvme_capacity_bytes)
        console.print(f"NVMe: {format_gib(predicted.nvme_bytes_per_node)} of a node's {of}", soft_wrap=True)
    for words, lines in (("assumes", predicted.assumptions), ("not modelled", predicted.not_modelled)):
        console.print(f"\n{words}: {'; '.join(lines)}", soft_wrap=True)


def _verdict(evidence: Evidence, objective: str) -> str:
    goal = {"step-time": "fastest", "memory": "least memory"}[objective]
    if evidence.status == BY_HAND:
        return f"written by hand, not chosen; at most {format_gap(evidence.gap)} from the {goal}"
    if evidence.status == "optimal":
        return f"optimal, proven {goal} of {evidence.space.fit:,} layouts that fit"
    return f"{evidence.status}, at most {format_gap(evidence.gap)} from the {goal}"


def _space(evidence: Evidence) -> str:
    space = evidence.space
    return f"{space.layouts:,} layouts, {space.valid:,} valid, {space.fit:,} that fit"


def _layout_table(plan: Plan) -> Table:
    layout, problem = plan.layout, plan.problem
    table = Table(box=None, show_header=False, pad_edge=False)
    for _ in range(4):
        table.add_column()
    recomputed = sum(layout.recompute_layers_per_stage)
    rows = [
        (
            "tensor parallel",
            f"{layout.tensor_parallel} ({layout.tensor_mode})",
            "global batch",
            f"{problem.global_batch} x {problem.seq_len} tokens",
        ),
        (
            "pipeline parallel",
            f"{layout.pipeline_parallel} ({layout.schedule})",
            "micro batches",
            f"{layout.num_microbatches} of {layout.micro_batch}",
        ),
        ("data parallel", str(layout.data_parallel), "recompute", f"{recomputed} of {problem.model.num_layers} layers"),
        ("ZeRO stage", str(layout.zero_stage), "offload", layout.offload.words),
        ("sequence parallel", "yes" if layout.sequence_parallel else "no", "precision", layout.precision),
    ]
    for left, left_value, right, right_value in rows:
        table.add_row(left, left_value, f"  {right}", right_value)
    return table


def _time_table(predicted: Prediction) -> Table:
    table = Table("where the step goes", box=None, pad_edge=False)
    table.add_column("time", justify="right")
    table.add_column("share", justify="right")
    for name, seconds in sorted(predicted.breakdown_s.items(), key=lambda term: -term[1]):
        table.add_row(TERM_WORDS.get(name, name), format_seconds(seconds), f"{seconds / predicted.step_s:.1%}")
    return table


def _memory_table(layout: Layout, predicted: Prediction) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("stage", "layers", "recomputed", "peak", "+ reserve", "of", "free"):
        table.add_column(name, justify="right")
    table.add_column("peak in")
    table.add_column("largest terms")
    divided = zip(predicted.stages, layout.layers_per_stage, layout.recompute_layers_per_stage, strict=True)
    for number, (stage, layers, recomputed) in enumerate(divided):
        terms = sorted(stage.breakdown_bytes.items(), key=lambda term: -term[1])[:3]
        table.add_row(
            str(number),
            str(layers),
            str(recomputed),
            format_gib(stage.peak_bytes),
            format_gib(stage.reserve_bytes),
            format_gib(stage.capacity_bytes),
            format_gib(stage.capacity_bytes - stage.peak_bytes - stage.reserve_bytes),
            stage.peak_phase,
            ", ".join(f"{name.replace('_', ' ')} {format_gib(value)}" for name, value in terms),
        )
    return table


def print_check(plan: Plan, diagnostics: Sequence[Diagnostic]) -> None:
    """The verdict on a layout, with every violation."""
    console = stdout_console()
    if diagnostics:
        console.print("\n\n".join(render(d) for d in diagnostics), markup=False, soft_wrap=True)
        return
    step = format_seconds(plan.predicted.step_s)
    console.print(f"valid and fits; predicted step {step}\n")
    console.print(_memory_table(plan.layout, plan.predicted))


def print_rules(rules: Sequence[RuleText]) -> None:
    """One line for each rule."""
    table = Table("rule", "what it finds", "field", box=None, pad_edge=False)
    for rule in rules:
        table.add_row(rule.id, rule.title, rule.field)
    stdout_console().print(table)


def print_rule(rule: RuleText) -> None:
    """One rule's page."""
    console = stdout_console()
    console.print(f"{rule.id}: {rule.title}\n\n{rule.why}\n", markup=False, soft_wrap=True)
    for name, text in (("field", rule.field), ("message", rule.message), ("hint", rule.hint), ("source", rule.source)):
        console.print(f"{name + ':':9}{text}", markup=False, soft_wrap=True)


def print_code(code: str, meaning: str) -> None:
    """What a code means that comes from no rule."""
    stdout_console().print(f"{code}: {meaning}", markup=False, soft_wrap=True)


def print_models(specs: Sequence[ModelSpec]) -> None:
    """Shapes and sizes of the built-in models, smallest first."""
    table = Table("model", box=None, pad_edge=False)
    for name in ("parameters", "layers", "hidden", "heads", "positions", "global batch"):
        table.add_column(name, justify="right")
    for spec in sorted(specs, key=lambda s: sum(model_parameters(s).values())):
        parameters = sum(model_parameters(spec).values())
        counts = (spec.num_layers, spec.hidden_size, spec.num_heads, spec.max_seq_len, spec.global_batch)
        table.add_row(spec.name, f"{parameters:,}", *map(str, counts))
    stdout_console().print(table)


def print_hardware(specs: Sequence[HardwareSpec]) -> None:
    """Memory, peak and links of the built-in hardware."""
    table = Table("hardware", box=None, pad_edge=False)
    for name in ("memory", "bandwidth", "peak", "a node", "inside a node", "between nodes"):
        table.add_column(name, justify="right")
    for spec in specs:
        peak = max(spec.peak_flops_per_s.values())
        table.add_row(
            spec.name,
            format_gib(spec.memory_bytes),
            format_rate(spec.memory_bandwidth_bytes_per_s, "B/s"),
            format_rate(peak, "FLOP/s"),
            f"{spec.devices_per_node} devices",
            format_rate(spec.node_link.bandwidth_bytes_per_s, "B/s"),
            f"{spec.network.nics_per_node} x {format_rate(spec.network.bandwidth_bytes_per_s, 'B/s')}",
        )
    stdout_console().print(table)
