"""What gptplan knows, for people: rules, models and hardware."""

from collections.abc import Sequence

from planner.cost_model.parameters import active_parameters, model_parameters
from planner.layouts.pins import Pinnable
from planner.rules import RuleText
from planner.specs import HardwareSpec, ModelSpec, StackSpec
from planner.specs.files import short_names
from planner.specs.networks import network_text
from planner.specs.units import format_gib, format_rate
from planner.views.content import Table


def rules_table(rules: Sequence[RuleText]) -> Table:
    """One line for each rule."""
    return Table(("rule", "what it finds", "field"), [(rule.id, rule.title, rule.field) for rule in rules], (0, 1, 2))


def rule_lines(rule: RuleText) -> list[str]:
    """One rule's page."""
    named = (("field", rule.field), ("message", rule.message), ("hint", rule.hint), ("source", rule.source))
    return [f"{rule.id}: {rule.title}\n\n{rule.why}\n", *(f"{name + ':':9}{text}" for name, text in named)]


def models_table(specs: Sequence[ModelSpec]) -> Table:
    """Shapes and sizes of models, smallest first."""
    sized = sorted(((sum(model_parameters(spec).values()), spec) for spec in specs), key=lambda pair: pair[0])
    rows = [
        [
            ", ".join((s.name, *short_names(s.name))),
            f"{n:,}{_active(s)}",
            *map(str, (s.num_layers, s.hidden_size, s.num_heads, s.max_seq_len, s.global_batch)),
        ]
        for n, s in sized
    ]
    return Table(("model", "parameters", "layers", "hidden", "heads", "positions", "global batch"), rows)


def _active(spec: ModelSpec) -> str:
    """Of a model with experts the parameters that a token passes."""
    return f", {active_parameters(spec):,} a token" if spec.experts is not None else ""


def hardware_table(specs: Sequence[HardwareSpec]) -> Table:
    """Memory, peak and links of hardware."""
    rows = [
        (
            spec.name,
            format_gib(spec.memory_bytes),
            format_rate(spec.memory_bandwidth_bytes_per_s, "B/s"),
            format_rate(max(spec.peak_flops_per_s.values()), "FLOP/s"),
            f"{spec.devices_per_node} device{'s' * (spec.devices_per_node > 1)}",
            format_rate(spec.node_link.bandwidth_bytes_per_s, "B/s"),
            network_text(spec.network),
        )
        for spec in specs
    ]
    return Table(("hardware", "memory", "bandwidth", "peak", "a node", "inside a node", "between nodes"), rows)


def stacks_table(specs: Sequence[StackSpec]) -> Table:
    """What training stacks execute."""
    headings = ("stack", "version", "tensor modes", "schedules", "ZeRO stages", "offload", "recompute")
    rows = [
        (
            spec.name,
            spec.version,
            *(" ".join(map(str, words)) for words in (spec.tensor_modes, spec.schedules, spec.zero_stages)),
            " ".join(spec.offload_tiers),
            spec.recompute,
        )
        for spec in specs
    ]
    return Table(headings, rows, (0, 1, 2, 3, 4, 5, 6))


def pins_table(fields: Sequence[Pinnable]) -> Table:
    """Every field of a layout that can be pinned."""
    rows = [(one.field, one.values, one.meaning, f"--pin {one.example}") for one in fields]
    return Table(("field", "values", "meaning", "example"), rows, (0, 1, 2, 3))


def pin_lines(one: Pinnable) -> list[str]:
    """One field's page."""
    return [
        f"{one.field}: {one.meaning}\n",
        f"{'values:':9}{one.values}",
        f"{'example:':9}--pin {one.example}, or --forbid {one.example}"
        if one.forbids
        else f"{'example:':9}--pin {one.example}",
    ]
