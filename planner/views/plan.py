"""A plan for people: its layout, what it is predicted to take, and what was proven of it."""

from collections.abc import Iterator, Sequence

from planner.diagnostics import Diagnostic, render
from planner.layouts.layout import Layout
from planner.layouts.problem import Problem
from planner.layouts.words import BATCHES, DATA, OFFLOAD, PIPELINE, PRECISION, RECOMPUTE, SEQUENCE, TENSOR, ZERO
from planner.plans.plan import BY_HAND, Evidence, Plan
from planner.plans.prediction import TERM_WORDS, Prediction, StagePrediction
from planner.specs.units import format_gap, format_gib, format_probability, format_rate, format_seconds
from planner.views.caveats import caveats, certainty, expected_error
from planner.views.content import Fields, Table

MEMORY_COLUMNS = (
    *("stage", "layers", "recomputed", "peak", "+ reserve", "of", "free", "fits", "peak in", "largest terms"),
)
_WORDS = ("peak in", "largest terms")
MOST_TERMS = 3


def from_file(plan: Plan) -> list[str | Fields | Table]:
    """A plan that was read from a file."""
    return [
        *summary(plan),
        f"\nsearched {searched(plan.evidence)}",
        f"made by gptplan {plan.gptplan_version}, OR-Tools {plan.evidence.ortools_version}",
        f"digest: {plan.digest}",
    ]


def judgement(plan: Plan, diagnostics: Sequence[Diagnostic]) -> list[str | Fields | Table]:
    """The verdict on a plan's layout, with every violation."""
    if diagnostics:
        return ["\n\n".join(map(render, diagnostics))]
    step = format_seconds(plan.predicted.step_s)
    return [f"valid and fits; predicted step {step}\n", memory_table(plan.layout, plan.predicted)]


def summary(plan: Plan) -> list[str | Fields | Table]:
    """All but how it was searched: question, verdict, layout, time, memory, assumptions."""
    problem, predicted, hardware = plan.problem, plan.predicted, plan.problem.hardware
    asked = f"{problem.num_devices} x {hardware.name} with {problem.stack.name} {problem.stack.version}"
    more = []
    if predicted.host_bytes_per_node:
        of = format_gib(hardware.host.memory_bytes)
        more.append(f"\nhost memory: {format_gib(predicted.host_bytes_per_node)} of a node's {of}")
    if predicted.nvme_bytes_per_node:
        of = format_gib(hardware.host.nvme_capacity_bytes)
        more.append(f"NVMe: {format_gib(predicted.nvme_bytes_per_node)} of a node's {of}")
    return [
        f"{problem.model.name} on {asked}: {verdict(plan)}\n",
        _layout_fields(plan),
        f"\n{'   '.join(figures(predicted))}",
        *(f"{name}: {value}" for name, value in conventions(problem)),
        *(f"{name} {value}" for name, value in exact_path(plan, "longest path of the pipeline's schedule")),
        *certainty(plan),
        f"expected error: {expected_error(plan)}\n",
        time_table(predicted),
        "",
        memory_table(plan.layout, predicted),
        *more,
        *(f"\n{render(caveat)}" for caveat in caveats(plan)),
        f"\nassumes: {'; '.join(predicted.assumptions)}",
        f"\nnot modelled: {'; '.join(predicted.not_modelled)}",
    ]


def _layout_fields(plan: Plan) -> Fields:
    layout = plan.layout
    left = [fact.field(layout) for fact in (TENSOR, PIPELINE, DATA, ZERO, SEQUENCE)]
    right = [fact.field(layout) for fact in (BATCHES, RECOMPUTE, OFFLOAD, PRECISION)]
    return Fields([*left, ("global batch", batch_words(plan.problem)), *right])


def batch_words(problem: Problem) -> str:
    """Sequences of one step and their length."""
    return f"{problem.global_batch} x {problem.seq_len} tokens"


def verdict(plan: Plan) -> str:
    """``optimal, proven fastest of 812 layouts that fit``, or how far from that it is at most."""
    evidence = plan.evidence
    goal = {"step-time": "fastest", "memory": "least memory"}[plan.problem.objective]
    if evidence.status == "optimal":
        return f"optimal, proven {goal} of {evidence.space.fit:,} layouts that fit"
    status = "written by hand, not chosen;" if evidence.status == BY_HAND else f"{evidence.status},"
    return f"{status} at most {format_gap(evidence.gap)} from the {goal}"


def searched(evidence: Evidence) -> str:
    """How many layouts there were."""
    space = evidence.space
    return f"{space.layouts:,} layouts, {space.valid:,} valid, {space.fit:,} that fit"


def figures(predicted: Prediction) -> list[str]:
    """Step time, throughput and utilization."""
    return [
        f"step {format_seconds(predicted.step_s)}",
        f"{predicted.tokens_per_s:,.0f} tokens/s",
        f"{format_rate(predicted.model_flops_per_s_per_gpu, 'FLOP/s')} per GPU",
        f"MFU {predicted.mfu:.1%}",
    ]


def conventions(problem: Problem) -> list[tuple[str, str]]:
    """What the MFU counts, and the links that the communication was predicted for."""
    peak = format_rate(problem.hardware.peak_flops_per_s[problem.precision], "FLOP/s")
    links = list(_links(problem))
    return [
        (
            "MFU",
            "model FLOP (layers, all attention scores as if nothing were masked, head; no recomputation) "
            f"of {peak}, the dense {problem.precision} peak",
        ),
        *([("network", "; ".join(links))] if links else []),
    ]


def _links(problem: Problem) -> Iterator[str]:
    link, network = problem.hardware.node_link, problem.hardware.network
    if min(problem.devices_per_node, problem.num_devices) > 1:
        rate = format_rate(link.bandwidth_bytes_per_s, "B/s")
        yield f"inside a node {rate} each way a GPU, of which {link.efficiency:.0%} are reached ({link.kind})"
    if problem.num_nodes > 1:
        adapters = min(network.nics_per_node, problem.devices_per_node)
        rate = f"{adapters} x {network.bandwidth_bytes_per_s * 8 / 1e9:g} Gbit/s a node"
        over = "" if network.oversubscription == 1 else f", {network.oversubscription:g} times oversubscribed"
        yield f"between nodes {rate}, of which {network.efficiency:.0%} are reached ({network.kind}){over}"


def exact_path(plan: Plan, name: str) -> list[tuple[str, str]]:
    """The exact length of the pipeline's schedule under ``name``, where there is a pipeline."""
    exact = plan.predicted.schedule_step_s
    return [(name, format_seconds(exact))] if plan.layout.pipeline_parallel > 1 and exact is not None else []


def time_table(predicted: Prediction) -> Table:
    """The terms of the step, the longest first."""
    terms = sorted(predicted.breakdown_s.items(), key=lambda term: -term[1])
    rows = [(term_words(name), format_seconds(s), f"{s / predicted.step_s:.1%}") for name, s in terms]
    return Table(("where the step goes", "time", "share"), rows)


def term_words(name: str) -> str:
    """A term of the step time in words."""
    return TERM_WORDS.get(name, name)


def memory_table(
    layout: Layout, predicted: Prediction, columns: Sequence[str] = MEMORY_COLUMNS, *, error: float = 0.0
) -> Table:
    """Those ``columns`` of the memory of each stage; ``error`` is the relative one of a peak."""
    divided = zip(predicted.stages, layout.layers_per_stage, layout.recompute_layers_per_stage, strict=True)
    rows = []
    for number, (stage, layers, recomputed) in enumerate(divided):
        cells = {
            "stage": str(number),
            "layers": str(layers),
            "recomputed": str(recomputed),
            "peak": format_gib(stage.peak_bytes),
            "error": f"+-{format_gib(stage.peak_bytes * error)}",
            "+ reserve": format_gib(stage.reserve_bytes),
            "of": format_gib(stage.capacity_bytes),
            "free": format_gib(stage.capacity_bytes - stage.peak_bytes - stage.reserve_bytes),
            "fits": "" if stage.fits_probability is None else format_probability(stage.fits_probability),
            "peak in": stage.peak_phase,
            "largest terms": _largest_terms(stage),
        }
        rows.append([cells[column] for column in columns])
    return Table(columns, rows, left=[n for n, column in enumerate(columns) if column in _WORDS])


def _largest_terms(stage: StagePrediction) -> str:
    terms = sorted(stage.breakdown_bytes.items(), key=lambda term: -term[1])[:MOST_TERMS]
    return ", ".join(f"{name.replace('_', ' ')} {format_gib(value)}" for name, value in terms)
