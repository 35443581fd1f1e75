"""From a draft to a verdict: the problem and layout it stands for, and every rule that they break."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec

from planner.diagnostics import Diagnostic
from planner.layouts.degrees import divisors, makes_grid
from planner.layouts.layout import FIELDS, Layout, columns_of, layout_with
from planner.layouts.problem import Problem
from planner.lint.draft import UNDECIDED, Asked, Draft
from planner.lint.registry import BY_ID, CONFIG_RULES
from planner.lint.source import shortened
from planner.rules import RULES
from planner.rules.rule import Rule, names_of
from planner.specs import ModelSpec, StackSpec
from planner.specs.files import builtin_names, load_spec

MAX_ALTERNATIVES = 48
_PRIME = 7919
MAX_LISTED_STAGES = 4096
"""Layouts with more stages than any model has layers are judged without their lists."""
_DEFAULTS: dict[str, Any] = {
    **{field.name: field.neutral for field in FIELDS.values()},
    "precision": "fp16",
    "recompute": False,
    "recompute_num_layers": None,
    "context_parallel": 1,
    "seq_len": None,
    "layers_per_stage": None,
}
WRITTEN_CONFIDENCE = 0.9
"""Probability from which on a layout that a person wrote is said to fit: less than is asked of one that gptplan offers.

Layouts of GPT-3 that are known to run on 96 A100 of 40 GB are a few MiB short of the usual one.
"""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What the rules say of one draft."""

    draft: Draft
    facts: Mapping[str, Any]
    """Those of the draft, and the data parallelism that follows from them."""
    diagnostics: tuple[Diagnostic, ...]
    problem: Problem | None
    """``None`` where something of the question is not known."""
    layout: Layout | None
    missing: tuple[str, ...]
    """What is not known, in words."""

    @property
    def errors(self) -> list[Diagnostic]:
        """The violations."""
        return [diagnostic for diagnostic in self.diagnostics if diagnostic.severity == "error"]


def judge(draft: Draft, asked: Asked) -> Judged:
    """Every violation of a draft at once, in the order of the file."""
    stack = load_spec(draft.dialect.stack, StackSpec)
    missing = tuple(_missing(draft))
    candidates = [_question(asked, stack, fields, model) for fields, model in _alternatives(draft, asked)]
    facts = dict(draft.facts)
    if draft.decided("tensor_parallel", "pipeline_parallel", "context_parallel"):
        facts.setdefault("data_parallel", candidates[0][1].data_parallel)
    found = [*draft.diagnostics, *_config_violations(draft, facts), *_layout_violations(draft, candidates)]
    if any(diagnostic.severity == "error" for diagnostic in found):
        # What gptplan's stack does not execute is of interest once the file is valid.
        found = [one for one in found if one.severity == "error" or not draft.only_warns(BY_ID.get(one.rule))]
    problem, layout = candidates[0] if not missing else (None, None)
    return Judged(
        draft=draft,
        facts=facts,
        diagnostics=tuple(sorted(found, key=_order)),
        problem=problem,
        layout=layout,
        missing=missing,
    )


def _missing(draft: Draft) -> Iterator[str]:
    if draft.model is None:
        yield "the model (name it with --model)"
    for name, value in draft.fields.items():
        if value is UNDECIDED:
            yield f"{draft.keys.get(name) or draft.dialect.words.get(name, name)}"


def _alternatives(draft: Draft, asked: Asked) -> Iterator[tuple[dict[str, Any], ModelSpec]]:
    """All that the file may mean: one entry when everything is known, several values for what is not."""
    known = {name: value for name, value in draft.fields.items() if value is not UNDECIDED}
    open_fields = [name for name, value in draft.fields.items() if value is UNDECIDED]
    models = (draft.model,) if draft.model else _builtin_models()
    options = [models, *(_options(name, asked) for name in open_fields)]
    total = math.prod(map(len, options))
    for number in range(min(total, MAX_ALTERNATIVES)):
        # Steps of a prime number spread what is tried over all values of all of them.
        index, values = number * _PRIME % total if total > MAX_ALTERNATIVES else number, []
        for choices in options:
            index, place = divmod(index, len(choices))
            values.append(choices[place])
        yield {**_DEFAULTS, **known, **dict(zip(open_fields, values[1:], strict=True))}, values[0]


@cache
def _builtin_models() -> tuple[ModelSpec, ...]:
    return tuple(load_spec(name, ModelSpec) for name in builtin_names(ModelSpec))


def _options(name: str, asked: Asked) -> tuple[Any, ...]:
    counts = tuple(divisors(asked.gpus)[:4])
    return {
        "tensor_mode": ("1d", "2d", "2.5d", "3d", "none"),
        "schedule": ("1f1b", "none", "interleaved"),
        "zero_stage": (0, 1, 2, 3),
        "precision": ("fp16", "bf16", "fp32"),
        "sequence_parallel": (False, True),
        "recompute": (False, True),
        "offload.tier": ("none",),
        "seq_len": (128, 1024),
        "tensor_depth": (1, 2),
        "offload.optimizer": (0.0,),
        "offload.parameters": (0.0,),
    }.get(name, counts)


def _question(asked: Asked, stack: StackSpec, fields: dict[str, Any], model: ModelSpec) -> tuple[Problem, Layout]:
    group = fields["tensor_parallel"] * fields["pipeline_parallel"] * fields["context_parallel"]
    ranks = max(1, asked.gpus // group)
    layers = fields["layers_per_stage"] or _dealt(model.num_layers, fields["pipeline_parallel"])
    most = fields["recompute_num_layers"]
    recomputed = layers if most is None else tuple(min(most, own) for own in layers)
    layout = layout_with(
        fields | {"data_parallel": ranks},
        layers_per_stage=layers,
        recompute_layers_per_stage=recomputed if fields["recompute"] else (0,) * len(layers),
        precision=fields["precision"],
    )
    problem = Problem(
        model=model,
        hardware=asked.hardware,
        stack=stack,
        num_devices=asked.gpus,
        devices_per_node=asked.devices_per_node,
        global_batch=layout.global_batch,
        seq_len=fields["seq_len"] or model.seq_len,
        precision=fields["precision"],
        allow_offload=fields["offload.tier"],
        reserve=asked.reserve,
        confidence=WRITTEN_CONFIDENCE if asked.reserve is None else None,
    )
    return problem, layout


def _dealt(layers: int, stages: int) -> tuple[int, ...]:
    """Layers as Colossal-AI deals them: even, the rest to the stages in the middle."""
    if stages > MAX_LISTED_STAGES:
        return (layers,)
    share, rest = divmod(layers, stages)
    first = stages // 2 - rest // 2
    return tuple(share + (first <= stage < first + rest) for stage in range(stages))


def _config_violations(draft: Draft, facts: Mapping[str, Any]) -> list[Diagnostic]:
    found = []
    for rule in CONFIG_RULES:
        if draft.dialect.name not in rule.dialects or rule.holds_for(facts):
            continue
        texts, values = rule.said_of(facts)
        key = draft.keys.get(rule.fact, "")
        known = key in draft.settings
        location = draft.source.place_of(draft.settings, key) if known else f"{draft.source.shown}: {rule.field}"
        values = _plain({**values, "key": key})
        found.append(Diagnostic(rule=rule.id, severity=rule.severity, values=values, location=location, **texts))
    return found


def _plain(value: Any) -> Any:
    """Values as JSON has them."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | None) else str(value)


def _layout_violations(draft: Draft, candidates: list[tuple[Problem, Layout]]) -> list[Diagnostic]:
    """What the rule table says, for every value of what is not known; only what is the same for all of them."""
    rules = [rule for rule in RULES if rule.id not in draft.dialect.replaced]
    names = names_of(draft.names)
    common: dict[tuple[str, str], Diagnostic] | None = None
    for problem, layout in candidates:
        columns = columns_of(layout)
        rules = [
            rule
            for rule in rules
            if not _follows(rule, problem, layout) and not rule.holds_for(problem, layout, columns)
        ]
        if not rules:
            return []
        found = [_diagnosed(rule, draft, rule.diagnose(problem, layout, names)) for rule in rules]
        broken = {(diagnostic.rule, diagnostic.message): diagnostic for diagnostic in found}
        common = broken if common is None else {key: common[key] for key in common if key in broken}
    return list((common or {}).values())


def _follows(rule: Rule, problem: Problem, layout: Layout) -> bool:
    """Whether a rule only repeats another one: layers per stage that the file does not set, a grid that is none."""
    too_many = layout.pipeline_parallel > problem.model.num_layers
    return (
        (too_many and "layers-per-stage" in rule.about)
        or ("recompute" in rule.about and problem.stack.recompute == "none")
        or ("grid" in rule.about and not makes_grid(columns_of(layout))[0])
    )


def _diagnosed(rule: Rule, draft: Draft, plain: Diagnostic) -> Diagnostic:
    """What a layout rule says, at the key of the file that it is about."""
    field, key = _key_of(rule, draft)
    word = draft.dialect.words.get(field, field)
    shown = draft.source.place_of(draft.settings, key) if key else f"{draft.source.shown}: {word}"
    warns = draft.only_warns(rule)
    return msgspec.structs.replace(
        plain,
        severity="warning" if warns else "error",
        hint=f"{draft.dialect.framework.partition(' ')[0]} may run it; gptplan does not" if warns else plain.hint,
        location=shortened_location(shown),
        values={**plain.values, "key": key},
    )


def _key_of(rule: Rule, draft: Draft) -> tuple[str, str]:
    """The layout field that a rule is about and the key that sets it."""
    field = "tensor_parallel" if rule.field == "data_parallel" else rule.field
    if "sequence-length" in rule.about:
        field = "seq_len"
    if not draft.keys.get(field) and rule.field == "data_parallel":
        field = "pipeline_parallel"
    if field == "recompute_layers_per_stage":
        return field, draft.keys.get(field) or draft.keys.get("recompute", "")
    return field, draft.keys.get(field, "")


def shortened_location(location: str) -> str:
    """A location of at most 200 characters."""
    return location if len(location) <= 200 else shortened(location)  # noqa: PLR2004


def _order(diagnostic: Diagnostic) -> tuple[int, int, str]:
    parts = diagnostic.location.split(":")
    line = next((int(part) for part in parts[1:3] if part.isdecimal()), 10**9)
    return (line, 0 if diagnostic.severity == "error" else 1, diagnostic.rule)
