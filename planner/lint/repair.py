"""Judging changed texts: what they break, and which values are worth a try in place of one."""

import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from planner.diagnostics import Diagnostic, PlanError
from planner.layouts.degrees import divisors
from planner.lint.config_rule import ConfigRule, asked_for
from planner.lint.draft import Asked, Draft
from planner.lint.judging import Judged
from planner.lint.registry import BY_ID
from planner.lint.source import Source, Unknown, Value, spelled
from planner.rules.rule import About

MAX_CANDIDATES = 28
FEW = 4
"""Fewer values are tried without asking which are worth it."""
MAX_TRIED_CHARACTERS = 500_000
"""Text that is judged again for suggestions, once for each configuration in it: a large file gets fewer."""
FACTS_OF_CANDIDATES = ("batch_unit", "micro_batch", "data_parallel")
"""Facts that say which values of a batch are worth a try."""
MAX_JUDGEMENTS = 900
"""Texts that are judged for the suggestions of one file."""

Check = Callable[[str], tuple[Source, list[Judged]]]
Broken = frozenset[tuple[int, str, str]]
"""Number of the configuration in its file, rule, and key of what is broken."""
_MESH = ("tensor_parallel", "pipeline_parallel")
_COUNTS = (*_MESH, "tensor_depth", "num_microbatches", "micro_batch", "num_model_chunks", "batch_size", "seq_len")
"""What is a whole number, so that one is tried for a text in its place."""


@dataclass(kw_only=True)
class _Memory:
    """What was judged for one file, however many texts the search went through."""

    characters: int = 0
    judgements: int = 0
    seen: dict[str, "Tries | None"] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Tries:
    """A judged text and the way to judge others, each once, within a budget."""

    check: Check
    source: Source
    judged: list[Judged]
    asked: Asked
    memory: _Memory = field(default_factory=_Memory)

    def at(self, text: str) -> "Tries | None":
        """Another text; ``None`` if it cannot be read or nothing is left to try."""
        memory = self.memory
        if text not in memory.seen:
            if (
                memory.characters + len(text) * len(self.judged) > MAX_TRIED_CHARACTERS
                or memory.judgements >= MAX_JUDGEMENTS
            ):
                return None
            memory.characters += len(text) * len(self.judged)
            try:
                source, judged = self.check(text)
                memory.judgements += len(judged)
                memory.seen[text] = Tries(
                    check=self.check, source=source, judged=judged, asked=self.asked, memory=memory
                )
            except PlanError:
                memory.seen[text] = None
        return memory.seen[text]

    @cached_property
    def broken(self) -> Broken:
        """Rules with the messages' keys that the text breaks."""
        return broken_rules(self.judged)


def key_of(diagnostic: Diagnostic) -> str:
    """The key of the file that a finding is about; empty where there is none."""
    return str(diagnostic.values.get("key", ""))


def broken_rules(judged: Iterable[Judged]) -> Broken:
    """Violated rules and the keys they are about."""
    return frozenset((number, error.rule, key_of(error)) for number, one in enumerate(judged) for error in one.errors)


def about(diagnostic: Diagnostic) -> tuple[About, ...]:
    """What the rule of a finding is about; nothing where it comes from no rule."""
    rule = BY_ID.get(diagnostic.rule)
    return () if rule is None else rule.about


def keys_of(diagnostic: Diagnostic, draft: Draft) -> list[str]:
    """Keys whose change may help: the one it is about, and the other degree where the mesh does not fit."""
    keys = [key_of(diagnostic)]
    rule = BY_ID.get(diagnostic.rule)
    if rule is not None and (rule.field == "data_parallel" or {"mesh", "degrees"} & {*rule.about}):
        keys += [draft.keys.get(name, "") for name in (*_MESH, "num_microbatches", "micro_batch")]
    return list(dict.fromkeys(key for key in keys if key))


def editable(tries: Tries, judged: Judged, key: str) -> Value | None:
    """The value of a key, if some text of the file defines it."""
    value = judged.draft.settings.get(key)
    if value is None or value.end < 0 or isinstance(value.content, Unknown | dict):
        return None
    return value


def promising(tries: Tries, judged: Judged, error: Diagnostic, key: str, values: list[Any]) -> list[Any]:
    """Those of some values for a key that may keep a rule, as far as its facts tell without reading the text again.

    Texts with the nearest and the farthest of them show which facts follow the key: where it is the fact that has the
    value itself, the rule is asked for every other value; where it is none, no value helps.
    """
    rule, value = BY_ID.get(error.rule), editable(tries, judged, key)
    if not isinstance(rule, ConfigRule) or value is None or len(values) < FEW or judged not in tries.judged:
        return values
    number, before = tries.judged.index(judged), judged.facts
    followed: set[str] = set()
    for probe in (values[0], values[-1]):
        there = tries.at(tries.source.with_text(value, spelled(probe, tries.source.language)))
        if there is None or len(there.judged) != len(tries.judged):
            return values
        after = there.judged[number].facts
        followed |= {name for name in asked_for(rule) if after.get(name) != before.get(name)}
        own = [name for name in followed if before.get(name) == value.content and after.get(name) == probe]
        if len(followed) > len(own):
            return values
    if len(followed) > 1:
        return values
    return [one for one in values if followed and rule.holds_for({**before, **dict.fromkeys(followed, one)})]


def _unlike(choice: Any, current: Any) -> float:
    """How far a choice is from what the file has: by number, or by spelling."""
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (choice, current))
    if numbers:
        return abs(float(choice) - float(current))
    if not isinstance(choice, str) or not isinstance(current, str):
        return 1.0
    return 1 - difflib.SequenceMatcher(None, choice.lower(), current.lower()[:100]).ratio()


def candidates(value: Value, draft: Draft, key: str, asked: Asked) -> list[Any]:
    """Values to try in place of ``value``, the nearest first."""
    current = value.content
    if key in draft.choices:
        others = [choice for choice in draft.choices[key] if choice != current or type(choice) is not type(current)]
        return sorted(others, key=lambda choice: _unlike(choice, current))
    if isinstance(current, bool):
        return [not current]
    if not isinstance(current, int | float):
        if not isinstance(current, str) or not any(draft.keys.get(name) == key for name in _COUNTS):
            return []
        meant = current.strip()
        written = [int(meant[:7])] if meant.isascii() and meant.isdecimal() else []
        return [*written, *divisors(asked.gpus)[:8]]
    start = max(1, round(min(abs(current), 10**6)))
    depth = draft.known("tensor_depth", 1)
    powers = {r**2 for r in range(1, 12)} | {r**3 for r in range(1, 6)} | {depth * r**2 for r in range(1, 8)}
    near = {start + step for step in range(-8, 9)} | {start * 2, start // 2, start * 4, start // 4}
    batch = {step * -(-start // step) for step in (2, 4, 8, 16, draft.known("pipeline_parallel", 1))}
    unit, micro_batch, ranks = (draft.facts.get(name) for name in FACTS_OF_CANDIDATES)
    unit = unit or (micro_batch or 1) * (ranks or 1)
    batch |= {start // unit * unit, (start // unit + 1) * unit}
    every = {*divisors(asked.gpus), *powers, *near, *batch} - {current}
    ranked = sorted((n for n in every if n >= 1), key=lambda n: (abs(math.log(n / start)), n))
    return ranked[:MAX_CANDIDATES]
