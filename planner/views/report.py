"""A plan as a page: question, layout, memory, time, proof and assumptions."""

from planner.diagnostics import Diagnostic
from planner.layouts.words import FACTS
from planner.plans.plan import Plan
from planner.specs.units import format_bytes, format_seconds
from planner.views import pictures
from planner.views.caveats import caveats, certainty, expected_error
from planner.views.content import Bullets, Fields, Section
from planner.views.html import capitalized, page
from planner.views.plan import conventions, exact_path, figures, memory_table, searched, time_table, verdict


def report(plan: Plan) -> str:
    """The whole page, as HTML."""
    layout, predicted = plan.layout, plan.predicted
    limits = [_sentence(caveat) for caveat in caveats(plan)]
    facts = Fields([fact.field(layout) for fact in FACTS])
    return page(
        f"{plan.problem.model.name} on {plan.problem.num_devices} x {plan.problem.hardware.name}",
        f"{capitalized(verdict(plan))}. Predicted: {', '.join(figures(predicted))}.",
        [
            *([Section("Before you trust it", [Bullets(limits)])] if limits else []),
            Section("Question", [_question(plan)]),
            Section("Layout", [facts, pictures.pipeline(layout)]),
            Section("Memory of each stage", [pictures.memory_bars(predicted.stages), memory_table(layout, predicted)]),
            Section("Where the step goes", [pictures.time_bar(predicted), time_table(predicted)]),
            Section("Proof", [_proof(plan)]),
            Section("Assumed", [Bullets(predicted.assumptions)]),
            Section("Not modelled", [Bullets(predicted.not_modelled)]),
        ],
        made_by=f"gptplan {plan.gptplan_version}",
        digest=plan.digest,
    )


def _sentence(caveat: Diagnostic) -> str:
    detail = f" ({caveat.detail})" if caveat.detail else ""
    return f"{caveat.severity.capitalize()}: {caveat.message}{detail}; {caveat.hint}"


def _question(plan: Plan) -> Fields:
    problem, model = plan.problem, plan.problem.model
    shape = f"{model.num_layers} layers, hidden size {model.hidden_size:,}, {model.num_heads} heads"
    return Fields(
        [
            ("model", f"{model.title}: {shape}, vocabulary {model.vocab_size:,}"),
            ("devices", f"{problem.num_devices} x {problem.hardware.title}, {problem.devices_per_node} a node"),
            ("stack", f"{problem.stack.title} {problem.stack.version}"),
            ("batch", f"{problem.global_batch:,} sequences of {problem.seq_len:,} tokens"),
            ("precision", problem.precision),
            *conventions(problem),
            ("objective", problem.objective),
            ("offload allowed", problem.allow_offload),
            *(("pinned", f"{field} = {value}") for field, value in problem.pins.items()),
            *(("forbidden", f"{field} = {', '.join(values)}") for field, values in problem.forbids.items()),
        ]
    )


def _proof(plan: Plan) -> Fields:
    evidence, words = plan.evidence, format_seconds if plan.problem.objective == "step-time" else format_bytes
    rejected = sorted(evidence.space.rejected.items(), key=lambda item: -item[1])
    return Fields(
        [
            ("verdict", verdict(plan)),
            ("objective", words(evidence.objective)),
            ("lower bound", f"{words(evidence.bound)}, gap {evidence.gap:.2%}"),
            ("searched", searched(evidence)),
            ("left out by bound", f"{evidence.bounded_out:,} layouts"),
            ("proven with", f"OR-Tools {evidence.ortools_version}"),
            *((name, words) for name, _, words in (line.partition(": ") for line in certainty(plan))),
            ("expected error", expected_error(plan)),
            *exact_path(plan, "longest path of the schedule"),
            ("rejected by rule", ", ".join(f"{rule} {count:,}" for rule, count in rejected) or "none"),
        ]
    )
