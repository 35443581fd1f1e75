"""A verification for people: every step of the layout beside one process, and a verdict."""

from planner.handover.verification import ReplicaDifference, Verification
from planner.launch.shrink import Shrunken
from planner.layouts.words import DATA, PIPELINE, SEQUENCE, TENSOR, ZERO
from planner.specs import ModelSpec
from planner.views.content import Table


def verification(small: Shrunken, found: Verification) -> list[str | Table]:
    """What ran, a row for each step, and whether everything is within the tolerance."""
    limits = found.tolerance
    missing = ", ".join(found.missing)
    rerouted = max((step.routing for step in found.steps if step.routing is not None), default=None)
    return [
        *_what_ran(small),
        "",
        _table(found),
        f"\nallowed in {small.plan.layout.precision}: loss {limits.loss:.0e}, gradient {limits.gradient:.0e}, "
        f"between ranks {limits.replicas:.0e}",
        *([] if rerouted is None else [_rerouted(rerouted, limits.routing)]),
        *([f"no rank has a gradient of {missing}"] if missing else []),
        _verdict(found),
    ]


def _what_ran(small: Shrunken) -> list[str]:
    layout, model = small.plan.layout, small.plan.problem.model
    recomputed = "+".join(map(str, layout.recompute_layers_per_stage))
    words = [
        f"{TENSOR.name} none" if layout.tensor_mode == "none" else f"{TENSOR.name} {TENSOR.words(layout)}",
        *(f"{fact.name} {fact.words(layout)}" for fact in (PIPELINE, DATA, ZERO, SEQUENCE)),
        f"{layout.num_microbatches} micro batches of {layout.micro_batch}",
        f"layers {'+'.join(map(str, layout.layers_per_stage))}, recomputed {recomputed}",
        layout.precision,
    ]
    if layout.offload.tier != "none":
        words.append(f"offload of {layout.offload.words}")
    experts = f"{model.experts.count} experts of which {model.experts.top_k}, " if model.experts is not None else ""
    lines = [
        f"layout: {', '.join(words)}",
        f"model:  {model.num_layers} layers, hidden size {model.hidden_size}, {_heads(model)}, {experts}"
        f"vocabulary {model.vocab_size}, {small.plan.problem.global_batch} sequences of {small.plan.problem.seq_len}",
    ]
    if small.changes:
        lines.append(f"differs from the plan: {', '.join(small.changes)}")
    return lines


def _rerouted(share: float, limit: float) -> str:
    return (
        f"tokens go to the experts that one process picks: rounding would send up to {share:.1e} of them elsewhere, "
        f"allowed are {limit:.0e}"
    )


def _heads(model: ModelSpec) -> str:
    return f"{model.num_heads} heads" + f" with {model.kv_heads} of keys" * (model.kv_heads < model.num_heads)


def _table(found: Verification) -> Table:
    headings = ("step", "loss", "one process", "difference", "gradient off by", "at most, in", "on rank", "stage")
    rows = []
    for step in found.steps:
        gradient, replicas = step.gradient, step.replicas
        apart = ("-", "") if replicas is None else (_number(replicas.value), _replicas_place(replicas))
        losses = (f"{step.loss:.6f}", f"{step.reference_loss:.6f}", _number(step.loss_difference))
        worst = (_number(gradient.value), gradient.parameter, str(gradient.rank), str(gradient.stage))
        rows.append((str(step.step), *losses, *worst, *apart))
    return Table((*headings, "ranks differ by", "in"), rows, left=(5, 9))


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
