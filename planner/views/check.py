"""What people read of a check: findings, the verdict, the layout, memory with its error, and one line for a folder."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from planner.diagnostics import Diagnostic, render
from planner.layouts.layout import Layout
from planner.layouts.problem import Problem
from planner.layouts.words import in_one_line
from planner.lint.check import MEMORY_ERROR, Checked
from planner.plans.prediction import Prediction
from planner.specs.units import format_gib, format_rate, format_seconds
from planner.views.console import stdout_console


def verdict(checked: Checked) -> str:
    """``valid and fits; 1.34x slower than the best: ...`` or what stands in the way."""
    if not checked.valid:
        count = len(checked.judged.errors)
        return f"not valid: {count} {'rule is' if count == 1 else 'rules are'} broken"
    if checked.predicted is None:
        return f"valid by every rule that could be checked; no prediction: {checked.no_prediction}"
    if checked.misfits:
        return f"valid, and does not fit{_closely(checked)}{_unexecuted(checked)}; {comparison(checked)}"
    return f"valid and fits{_tightly(checked.predicted)}{_unexecuted(checked)}; {comparison(checked)}"


def _tightly(predicted: Prediction) -> str:
    tight = any(s.peak_bytes * (1 + MEMORY_ERROR) > s.capacity_bytes - s.reserve_bytes for s in predicted.stages)
    return f", with less room than the {MEMORY_ERROR:.0%} error of the memory model" if tight else ""


def _unexecuted(checked: Checked) -> str:
    rules = ", ".join(checked.not_executed)
    return (
        f" by the formulas alone, as stack {checked.judged.draft.stack} does not execute it ({rules})" if rules else ""
    )


def _closely(checked: Checked) -> str:
    peak = max(stage.peak_bytes for stage in checked.predicted.stages) if checked.predicted else 0
    if not 0 < checked.short_bytes <= peak * MEMORY_ERROR:
        return ""
    return f" by {format_gib(checked.short_bytes)}, less than the {MEMORY_ERROR:.0%} error of the memory model"


def comparison(checked: Checked) -> str:
    """How far the layout is from the best one for the same GPUs and batch."""
    slower, best = checked.slower, checked.best
    if slower is None or best is None or best.plan is None:
        return (
            "the best layout was not looked for" if best is None else f"no best layout to compare with: {best.status}"
        )
    proven = "" if best.status == "optimal" else f" (at most {best.gap or 0:.1%} from the optimum)"
    if checked.misfits:
        return f"the best that fits is {in_one_line(best.plan.layout)}, {format_seconds(best.plan.predicted.step_s)}"
    if slower <= 1 + 1e-9:
        return f"no layout for these GPUs is faster{proven}"
    step = format_seconds(best.plan.predicted.step_s)
    return f"{slower:.2f}x slower than the best{proven}: {in_one_line(best.plan.layout)}, {step}"


def print_checked(checked: Checked) -> None:
    """Every finding, then the verdict; then layout, time and memory where they are known."""
    console = stdout_console()
    for diagnostic in checked.diagnostics:
        console.print(render(diagnostic) + "\n", markup=False, soft_wrap=True)
    draft, problem = checked.judged.draft, checked.judged.problem
    console.print(f"{checked.source.shown}: {draft.framework}: {verdict(checked)}", markup=False, soft_wrap=True)
    if not checked.valid:
        return
    if draft.assumptions:
        console.print(f"assumes: {'; '.join(draft.assumptions)}", markup=False, soft_wrap=True)
    if problem is not None and checked.judged.layout is not None:
        console.print()
        console.print(_layout(problem, checked.judged.layout))
    if checked.predicted is not None and problem is not None:
        _print_prediction(console, checked.predicted)


def _tensor(layout: Layout) -> str:
    return f"{layout.tensor_mode}, sequence parallel" if layout.sequence_parallel else layout.tensor_mode


def _schedule(layout: Layout) -> str:
    chunks = layout.num_model_chunks
    return f"{layout.schedule}, {chunks} chunks" if chunks > 1 else layout.schedule


def _layout(problem: Problem, layout: Layout) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for _ in range(4):
        table.add_column()
    offload = layout.offload
    rows = [
        ("model", problem.model.name, "GPUs", f"{problem.num_devices} x {problem.hardware.name}"),
        (
            "tensor parallel",
            f"{layout.tensor_parallel} ({_tensor(layout)})",
            "global batch",
            f"{problem.global_batch} x {problem.seq_len} tokens",
        ),
        (
            "pipeline parallel",
            f"{layout.pipeline_parallel} ({_schedule(layout)})",
            "micro batches",
            f"{layout.num_microbatches} of {layout.micro_batch}",
        ),
        ("data parallel", f"{layout.data_parallel} (set automatically)", "precision", layout.precision),
        (
            "ZeRO stage",
            str(layout.zero_stage),
            "offload",
            f"{offload.optimizer:.0%} of the optimizer to {offload.tier}" if offload.optimizer else "none",
        ),
        (
            "recompute",
            f"{sum(layout.recompute_layers_per_stage)} of {sum(layout.layers_per_stage)} layers",
            "stack",
            f"{problem.stack.name} {problem.stack.version}",
        ),
    ]
    for left, left_value, right, right_value in rows:
        table.add_row(left, left_value, f"  {right}", right_value)
    return table


def _print_prediction(console: Console, predicted: Prediction) -> None:
    console.print(
        f"\nstep {format_seconds(predicted.step_s)}   {predicted.tokens_per_s:,.0f} tokens/s   "
        f"{format_rate(predicted.model_flops_per_s_per_gpu, 'FLOP/s')} per GPU   MFU {predicted.mfu:.1%}\n",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False)
    for name in ("stage", "peak", "error", "+ reserve", "of", "free"):
        table.add_column(name, justify="right")
    for number, stage in enumerate(predicted.stages):
        table.add_row(
            str(number),
            format_gib(stage.peak_bytes),
            f"+-{format_gib(stage.peak_bytes * MEMORY_ERROR)}",
            format_gib(stage.reserve_bytes),
            format_gib(stage.capacity_bytes),
            format_gib(stage.capacity_bytes - stage.peak_bytes - stage.reserve_bytes),
        )
    console.print(table)


def folder_line(path: Path, checked: Sequence[Checked]) -> str:
    """One line for a file of a folder."""
    broken = [error for one in checked for error in one.judged.errors]
    if broken:
        words = ", ".join(f"{error.rule} {_line(error)}".strip() for error in broken[:4])
        return f"{path}: not valid: {words}{', ...' if len(broken) > 4 else ''}"  # noqa: PLR2004 - fits a line
    words = "; ".join(dict.fromkeys(_short(one) for one in checked))
    return f"{path}: {words}"


def _line(diagnostic: Diagnostic) -> str:
    parts = diagnostic.location.split(":")
    return f"line {parts[1]}" if len(parts) > 1 and parts[1].isdecimal() else ""


def _short(checked: Checked) -> str:
    if checked.predicted is None:
        return f"valid; no prediction: {checked.no_prediction}"
    fits = "valid and fits" if checked.fits else "valid, and does not fit"
    return f"{fits}: {in_short(checked.predicted)}"


def in_short(predicted: Prediction) -> str:
    """Memory of the fullest stage, and the step time."""
    fullest = max(predicted.stages, key=lambda stage: stage.peak_bytes)
    step = format_seconds(predicted.step_s)
    return f"{format_gib(fullest.peak_bytes)} of {format_gib(fullest.capacity_bytes)}, step {step}"
