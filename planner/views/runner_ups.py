"""The layouts behind the best one: what each does otherwise, and what it trades for that."""

from rich.table import Table

from planner.layouts.layout import Layout
from planner.plans.plan import Plan
from planner.plans.prediction import TERM_WORDS, Prediction
from planner.solver.answer import Answer
from planner.specs.units import format_gib, format_seconds

_HEADINGS = ("#", "step", "slower", "fullest stage", "mode", "TP", "PP", "DP", "ZeRO", "micro batches", "recompute")
LEAST_SHARE = 0.0005
"""Terms that change by less than this share of the step are not worth a word."""


def runner_up_table(plan: Plan, answer: Answer) -> Table:
    """One line for each layout, the best one first."""
    table = Table(box=None, pad_edge=False)
    for name in _HEADINGS:
        table.add_column(name, justify="right")
    table.add_column("against the best")
    entries = [(plan.layout, plan.predicted), *((r.layout, r.predicted) for r in answer.runners_up)]
    for rank, (layout, predicted) in enumerate(entries, start=1):
        table.add_row(
            str(rank),
            format_seconds(predicted.step_s),
            f"{predicted.step_s / plan.predicted.step_s - 1:+.1%}",
            format_gib(max(stage.peak_bytes for stage in predicted.stages)),
            layout.tensor_mode,
            str(layout.tensor_parallel),
            str(layout.pipeline_parallel),
            str(layout.data_parallel),
            str(layout.zero_stage),
            f"{layout.num_microbatches} of {layout.micro_batch}",
            recomputed(layout),
            "; ".join([*otherwise(plan.layout, layout), *trades(plan.predicted, predicted)]),
        )
    return table


def recomputed(layout: Layout) -> str:
    """How many layers recompute, over all stages."""
    layers = sum(layout.recompute_layers_per_stage)
    return {0: "none", sum(layout.layers_per_stage): "all"}.get(layers, str(layers))


def otherwise(best: Layout, other: Layout) -> list[str]:
    """What differs between two layouts and is in no column."""
    found = []
    if other.schedule != best.schedule or other.num_model_chunks != best.num_model_chunks:
        chunks = f" x {other.num_model_chunks}" if other.num_model_chunks > 1 else ""
        found.append(f"schedule {other.schedule}{chunks}")
    if other.sequence_parallel != best.sequence_parallel:
        found.append(f"{'with' if other.sequence_parallel else 'without'} sequence parallelism")
    if other.tensor_depth != best.tensor_depth:
        found.append(f"depth {other.tensor_depth}")
    if other.offload != best.offload:
        offload = other.offload
        weights = f" and {offload.parameters:.0%} of the weights" if offload.parameters else ""
        moved = f"{offload.optimizer:.0%} of the optimizer{weights} on {offload.tier}"
        found.append("no offload" if offload.tier == "none" else moved)
    return found


def trades(best: Prediction, other: Prediction) -> list[str]:
    """The term of the step that a layout saves most in, and the one that it loses most in."""
    names = dict.fromkeys((*best.breakdown_s, *other.breakdown_s))
    more = {name: other.breakdown_s.get(name, 0.0) - best.breakdown_s.get(name, 0.0) for name in names}
    ends = dict.fromkeys((min(names, key=more.__getitem__), max(names, key=more.__getitem__)))
    return [
        f"{format_seconds(abs(more[name]))} {'more' if more[name] > 0 else 'less'} {TERM_WORDS.get(name, name)}"
        for name in ends
        if abs(more[name]) > LEAST_SHARE * best.step_s
    ]
