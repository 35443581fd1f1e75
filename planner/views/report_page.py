"""A plan as one HTML page that needs nothing else: no script, no font, no picture from elsewhere."""

from collections.abc import Iterable, Sequence
from html import escape

from planner.plans.plan import BY_HAND, Plan
from planner.plans.prediction import TERM_WORDS, StagePrediction
from planner.specs.units import format_bytes, format_gap, format_gib, format_rate, format_seconds
from planner.views.report_pictures import MEMORY_COLOURS, legend, memory_bars, pipeline_picture, stacked_bar

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --paper: #ffffff; --line: #d1d9e0; --card: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9198a1; --paper: #0d1117; --line: #3d444d; --card: #161b22; }
}
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; } td, th { padding: .15rem 1.2rem .15rem 0; text-align: left; vertical-align: top; }
th { font-weight: 600; color: var(--soft); } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1rem 0; overflow-x: auto; } svg { max-width: 100%; height: auto; } svg text { fill: var(--ink); }
.soft { color: var(--soft); } .legend span { display: inline-block; margin-right: 1rem; }
.legend i { display: inline-block; width: .8rem; height: .8rem; margin-right: .35rem; border-radius: 2px; }
.wide { overflow-x: auto; } code { overflow-wrap: anywhere; }
"""


GENERATOR = '<meta name="generator" content="gptplan report">'
"""By which a page is known."""


def is_page(content: bytes) -> bool:
    """Whether a file holds a page that `gptplan report` wrote."""
    return GENERATOR.encode() in content


def page(plan: Plan) -> str:
    """The whole page."""
    problem, predicted = plan.problem, plan.predicted
    title = f"{problem.model.name} on {problem.num_devices} x {problem.hardware.name}"
    summary = (
        f"{_verdict(plan)}. Predicted: {format_seconds(predicted.step_s)} a step, {predicted.tokens_per_s:,.0f} "
        f"tokens/s, {format_rate(predicted.model_flops_per_s_per_gpu, 'FLOP/s')} per GPU, MFU {predicted.mfu:.1%}."
    )
    sections = [
        ("Question", _pairs(_question(plan))),
        ("Layout", _pairs(_layout(plan)) + _figure(pipeline_picture(plan.layout), "Stages of the pipeline")),
        ("Memory of each stage", _memory(plan)),
        ("Where the step goes", _time(plan)),
        ("Proof", _pairs(_evidence(plan))),
        ("Assumed", _bullets(predicted.assumptions)),
        ("Not modelled", _bullets(predicted.not_modelled)),
    ]
    body = "".join(f"<h2>{escape(name)}</h2>\n{content}\n" for name, content in sections)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{GENERATOR}\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n<p>{escape(summary)}</p>\n{body}"
        f'<p class="soft">gptplan {escape(plan.gptplan_version)}, plan <code>{escape(plan.digest)}</code></p>\n'
        "</body>\n</html>\n"
    )


def _verdict(plan: Plan) -> str:
    evidence = plan.evidence
    goal = {"step-time": "fastest", "memory": "least memory"}[plan.problem.objective]
    if evidence.status == "optimal":
        return f"Optimal: proven {goal} of {evidence.space.fit:,} layouts that fit"
    if evidence.status == BY_HAND:
        return f"Written by hand, not chosen; at most {format_gap(evidence.gap)} from the {goal}"
    return f"{evidence.status.capitalize()}: at most {format_gap(evidence.gap)} from the {goal}"


def _question(plan: Plan) -> list[tuple[str, str]]:
    problem, model = plan.problem, plan.problem.model
    rows = [
        (
            "Model",
            f"{model.title}: {model.num_layers} layers, hidden size {model.hidden_size:,}, {model.num_heads} "
            f"heads, vocabulary {model.vocab_size:,}",
        ),
        ("Devices", f"{problem.num_devices} x {problem.hardware.title}, {problem.devices_per_node} a node"),
        ("Stack", f"{problem.stack.title} {problem.stack.version}"),
        ("Batch", f"{problem.global_batch:,} sequences of {problem.seq_len:,} tokens"),
        ("Precision", problem.precision),
        ("Objective", problem.objective),
        ("Offload allowed", problem.allow_offload),
    ]
    rows += [("Pinned", f"{field} = {value}") for field, value in problem.pins.items()]
    rows += [("Forbidden", f"{field} = {', '.join(values)}") for field, values in problem.forbids.items()]
    return rows


def _layout(plan: Plan) -> list[tuple[str, str]]:
    layout = plan.layout
    depth = f", depth {layout.tensor_depth}" if layout.tensor_depth > 1 else ""
    chunks = f", {layout.num_model_chunks} chunks a stage" if layout.num_model_chunks > 1 else ""
    recomputed, layers = sum(layout.recompute_layers_per_stage), sum(layout.layers_per_stage)
    return [
        ("Tensor parallel", f"{layout.tensor_parallel} ({layout.tensor_mode}{depth})"),
        ("Pipeline parallel", f"{layout.pipeline_parallel} ({layout.schedule}{chunks})"),
        ("Data parallel", f"{layout.data_parallel}, ZeRO stage {layout.zero_stage}"),
        ("Sequence parallel", "yes" if layout.sequence_parallel else "no"),
        ("Micro batches", f"{layout.num_microbatches} of {layout.micro_batch}"),
        ("Recomputed", f"{recomputed} of {layers} layers"),
        ("Offload", layout.offload.words),
        ("Precision", layout.precision),
    ]


def _evidence(plan: Plan) -> list[tuple[str, str]]:
    evidence, space = plan.evidence, plan.evidence.space
    words = format_seconds if plan.problem.objective == "step-time" else format_bytes
    rows = [
        ("Verdict", _verdict(plan)),
        ("Objective", words(evidence.objective)),
        ("Lower bound", f"{words(evidence.bound)}, gap {evidence.gap:.2%}"),
        ("Searched", f"{space.layouts:,} layouts, {space.valid:,} valid, {space.fit:,} that fit"),
        ("Left out by bound", f"{evidence.bounded_out:,} layouts"),
        ("Proven with", f"OR-Tools {evidence.ortools_version}"),
    ]
    error = plan.predicted.expected_error
    rows.append(
        ("Expected error", error.words(plan.problem.hardware.name, calibrated=plan.problem.hardware.calibrated))
    )
    exact = plan.predicted.schedule_step_s
    if plan.layout.pipeline_parallel > 1 and exact is not None:
        rows.append(("Longest path of the schedule", format_seconds(exact)))
    rejected = sorted(space.rejected.items(), key=lambda item: -item[1])
    rows.append(("Rejected by rule", ", ".join(f"{rule} {count:,}" for rule, count in rejected) or "none"))
    return rows


def _memory(plan: Plan) -> str:
    stages = plan.predicted.stages
    terms = _ranked(stages)
    head = _row(("stage", "layers", "recomputed", "peak", "reserve", "capacity", "free", "peak in"), cell="th", words=1)
    divided = zip(stages, plan.layout.layers_per_stage, plan.layout.recompute_layers_per_stage, strict=True)
    rows = "".join(
        _row(
            (
                str(number),
                str(layers),
                str(recomputed),
                format_gib(stage.peak_bytes),
                format_gib(stage.reserve_bytes),
                format_gib(stage.capacity_bytes),
                format_gib(stage.capacity_bytes - stage.peak_bytes - stage.reserve_bytes),
                stage.peak_phase,
            ),
            words=1,
        )
        for number, (stage, layers, recomputed) in enumerate(divided)
    )
    bars = _figure(memory_bars(stages, terms), "Predicted memory at the peak, reserve and capacity of each stage")
    key = legend([*(name.replace("_", " ") for name in terms), "reserve"], MEMORY_COLOURS)
    return f'{bars}{key}<div class="wide"><table>{head}{rows}</table></div>'


def _ranked(stages: Sequence[StagePrediction]) -> list[str]:
    """Names of the memory terms, the largest over all stages first."""
    totals: dict[str, int] = {}
    for stage in stages:
        for name, value in stage.breakdown_bytes.items():
            totals[name] = totals.get(name, 0) + value
    return sorted((name for name, total in totals.items() if total), key=lambda name: -totals[name])


def _time(plan: Plan) -> str:
    predicted = plan.predicted
    terms = sorted(((n, s) for n, s in predicted.breakdown_s.items() if s > 0), key=lambda term: -term[1])
    words = [TERM_WORDS.get(name, name.replace("_", " ")) for name, _ in terms]
    rows = "".join(
        _row((word, format_seconds(seconds), f"{seconds / predicted.step_s:.1%}"))
        for word, (_, seconds) in zip(words, terms, strict=True)
    )
    bar = _figure(stacked_bar([seconds for _, seconds in terms], words), "Step time by term")
    return f"{bar}{legend(words, MEMORY_COLOURS)}<table>{rows}</table>"


def _pairs(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<table>{cells}</table>"


def _row(values: Sequence[str], *, cell: str = "td", words: int = 0) -> str:
    """A row of numbers, but for the first value and, if ``words``, the last."""
    last = len(values) - words
    cells = (
        f"<{cell}{' class=' + chr(34) + 'n' + chr(34) if 0 < index < last else ''}>{escape(value)}</{cell}>"
        for index, value in enumerate(values)
    )
    return f"<tr>{''.join(cells)}</tr>"


def _bullets(lines: Sequence[str]) -> str:
    if not lines:
        return "<p>Nothing.</p>"
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _figure(svg: str, label: str) -> str:
    return f'<figure role="group" aria-label="{escape(label)}">{svg}</figure>'
