"""The nearest valid values, as a message suggests them.

A value is tried by writing it into the text and judging the text again, so nothing is suggested that the check
itself would refuse.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from planner.configs.draft import Asked, Draft, Keys
from planner.configs.judging import Judged
from planner.configs.source import Source, Unknown, Value, spelled
from planner.diagnostics import Diagnostic, PlanError
from planner.rules import CONFIG_RULES, RULES
from planner.rules.rule import divisors

MAX_CANDIDATES = 28
MAX_TRIED_CHARACTERS = 4_000_000
"""Text that is judged again for suggestions: a large file gets fewer."""

Check = Callable[[str], tuple[Source, list[Judged]]]
Broken = frozenset[tuple[int, str, str]]
"""Number of the configuration in its file, rule, and key of what is broken."""
RULES_OF_KEYS = {rule.id: rule for rule in CONFIG_RULES}
_FIELDS = {rule.id: rule.field for rule in RULES}
ABOUT_MESH = ("DEV001", "MEG001", "GEM001", "HPP005", "DSP009")
"""Rules that the degrees do not divide the GPUs."""
_MESH = ("tensor_parallel", "pipeline_parallel")


@dataclass(kw_only=True)
class Tries:
    """Judges changed texts, each once, within a budget."""

    check: Check
    source: Source
    judged: list[Judged]
    asked: Asked
    characters: int = 0
    seen: dict[str, Broken | None] = field(default_factory=dict)

    def broken(self, text: str) -> Broken | None:
        """Rules with the messages' keys that a text breaks; ``None`` if it cannot be read or nothing is left to try."""
        if text not in self.seen:
            if self.characters > MAX_TRIED_CHARACTERS:
                return None
            self.characters += len(text)
            try:
                self.seen[text] = broken_rules(self.check(text)[1])
            except PlanError:
                self.seen[text] = None
        return self.seen[text]


def broken_rules(judged: Iterable[Judged]) -> Broken:
    """Violated rules and the keys they are about."""
    return frozenset(
        (number, error.rule, str(error.values.get("key", "")))
        for number, one in enumerate(judged)
        for error in one.errors
    )


def with_hints(tries: Tries, judged: Judged) -> Judged:
    """The same findings, with the values that would keep each rule as hints."""
    found = tuple(
        _hinted(tries, judged, diagnostic) if diagnostic.severity == "error" else diagnostic
        for diagnostic in judged.diagnostics
    )
    return Judged(
        draft=judged.draft, diagnostics=found, problem=judged.problem, layout=judged.layout, missing=judged.missing
    )


def _hinted(tries: Tries, judged: Judged, diagnostic: Diagnostic) -> Diagnostic:
    rule = RULES_OF_KEYS.get(diagnostic.rule)
    if diagnostic.rule.startswith("CFG") or (rule and (rule.repaired is not None or rule.remedy != "change")):
        return diagnostic
    for key in keys_of(diagnostic, judged.draft):
        hint = _nearest(tries, judged, diagnostic, key)
        if hint:
            return msgspec.structs.replace(diagnostic, hint=hint)
    return diagnostic


def keys_of(diagnostic: Diagnostic, draft: Draft) -> list[str]:
    """Keys whose change may help: the one it is about, and the other degree where the mesh does not fit."""
    keys = [str(diagnostic.values.get("key", ""))]
    about_mesh = _FIELDS.get(diagnostic.rule) == "data_parallel" or diagnostic.rule in ABOUT_MESH
    if about_mesh or diagnostic.rule in ("HPP003", "TP010", "TP023", "OLD001", "PP004", "PP006"):
        keys += [draft.keys.get(name, "") for name in (*_MESH, "num_microbatches", "micro_batch")]
    return list(dict.fromkeys(key for key in keys if key))


def editable(tries: Tries, judged: Judged, key: str) -> Value | None:
    """The value of a key, if some text of the file defines it."""
    value = judged.draft.settings.get(key)
    if value is None or value.end < 0 or isinstance(value.content, Unknown | dict):
        return None
    return value


def _nearest(tries: Tries, judged: Judged, diagnostic: Diagnostic, key: str) -> str:
    value = editable(tries, judged, key)
    if value is None:
        return ""
    before = broken_rules(tries.judged)
    number = next(index for index, one in enumerate(tries.judged) if one is judged)
    this = (number, diagnostic.rule, str(diagnostic.values.get("key", "")))
    keeping: list[tuple[Any, Broken]] = []
    for candidate in candidates(value, judged.draft, key, tries.asked):
        after = tries.broken(tries.source.with_text(value, spelled(candidate, tries.source.language)))
        if after is not None and this not in after:
            keeping.append((candidate, after - before))
    if not keeping:
        return ""
    return _phrase(tries, judged, key, value, keeping)


def _phrase(tries: Tries, judged: Judged, key: str, value: Value, keeping: list[tuple[Any, Broken]]) -> str:
    name = Keys(tries.source, judged.draft.settings, judged.draft).name(key)
    joint = " " if name.startswith("--") else " = "
    near = _around(value.content, [candidate for candidate, _ in keeping])
    harmless = [candidate for candidate, new in keeping if not new]
    best = _around(value.content, harmless)
    words = _listed([spelled(candidate, tries.source.language) for candidate in (near if near else best)])
    if not best:
        return f"use {name}{joint}{words}, and change what then breaks {_rules(keeping[0][1])}"
    if set(map(repr, best)) == set(map(repr, near)):
        return f"use {name}{joint}{words}"
    best = [candidate for candidate in near if candidate in best] or best
    kept = _listed([spelled(candidate, tries.source.language) for candidate in best])
    lost = {rule for candidate, new in keeping if candidate in near and new for _, rule, _ in new}
    whole = bool(lost & {*ABOUT_MESH})
    what = "leaves a whole DP" if whole else f"keeps {_listed(sorted(lost))} as well"
    verb = what if len(best) == 1 else what.replace("leaves", "leave").replace("keeps", "keep")
    return f"use {name}{joint}{words}; with {tries.asked.gpus} GPUs only {kept} {verb}"


def _rules(broken: Broken) -> str:
    return _listed(sorted({rule for _, rule, _ in broken}))


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]


def _around(current: Any, values: list[Any]) -> list[Any]:
    """The nearest value below and above a number; all others as they are, at most four."""
    if isinstance(current, bool) or not isinstance(current, int | float):
        return values[:4]
    numbers = [value for value in values if isinstance(value, int | float)]
    below = max((value for value in numbers if value < current), default=None)
    above = min((value for value in numbers if value > current), default=None)
    return [value for value in (below, above) if value is not None]


def candidates(value: Value, draft: Draft, key: str, asked: Asked) -> list[Any]:
    """Values to try in place of ``value``, the nearest first."""
    current = value.content
    if key in draft.choices:
        return [choice for choice in draft.choices[key] if choice != current or type(choice) is not type(current)]
    if isinstance(current, bool):
        return [not current]
    if not isinstance(current, int | float):
        return divisors(asked.gpus)[:8] if isinstance(current, str) else []
    start = max(1, round(min(abs(current), 10**6)))
    depth = draft.known("tensor_depth", 1)
    powers = {r**2 for r in range(1, 12)} | {r**3 for r in range(1, 6)} | {depth * r**2 for r in range(1, 8)}
    near = {start + step for step in range(-8, 9)} | {start * 2, start // 2, start * 4, start // 4}
    batch = {step * -(-start // step) for step in (2, 4, 8, 16, draft.known("pipeline_parallel", 1))}
    every = {*divisors(asked.gpus), *powers, *near, *batch} - {current}
    ranked = sorted((n for n in every if n >= 1), key=lambda n: (abs(math.log(n / start)), n))
    return ranked[:MAX_CANDIDATES]
