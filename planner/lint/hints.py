"""The nearest valid values, as a message suggests them.

A value is tried by writing it into the text and judging the text again, with what depends on it and what is wrong
elsewhere mended, so nothing is suggested that the check itself would refuse.
"""

from dataclasses import dataclass, replace
from typing import Any

import msgspec

from planner.diagnostics import Diagnostic
from planner.lint.config_rule import ConfigRule
from planner.lint.judging import Judged
from planner.lint.registry import BY_ID
from planner.lint.repair import Broken, Tries, about, candidates, editable, key_of, keys_of, promising
from planner.lint.source import Value, spelled
from planner.lint.steps import MAX_FOLLOWING, Change, pairs_of, settled, steps_of

MAX_COMPLETED = 8
"""Values of one key that are tried together with further changes."""


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """A value that keeps the rule in question."""

    value: Any
    lost: Broken
    """What it breaks that was not broken, and what stays broken about the same key, all else mended."""


def with_hints(tries: Tries, judged: Judged) -> Judged:
    """The same findings, with the values that would keep each rule as hints."""
    found = tuple(
        _hinted(tries, judged, diagnostic) if diagnostic.severity == "error" else diagnostic
        for diagnostic in judged.diagnostics
    )
    return replace(judged, diagnostics=found)


def _hinted(tries: Tries, judged: Judged, diagnostic: Diagnostic) -> Diagnostic:
    rule = BY_ID.get(diagnostic.rule)
    if rule is None or (isinstance(rule, ConfigRule) and (rule.repaired is not None or rule.remedy != "change")):
        return diagnostic
    for key in keys_of(diagnostic, judged.draft):
        hint = _nearest(tries, judged, diagnostic, key)
        if hint:
            return msgspec.structs.replace(diagnostic, hint=hint)
    hint = _pair(tries, judged, diagnostic)
    return msgspec.structs.replace(diagnostic, hint=hint) if hint else diagnostic


def _pair(tries: Tries, judged: Judged, diagnostic: Diagnostic) -> str:
    """The nearest two degrees, where no single one divides the GPUs."""
    for step in pairs_of(tries, judged) if "mesh" in about(diagnostic) else ():
        there = tries.at(step.text)
        if there is not None and settled(there)[0].broken < tries.broken:
            return f"use {' and '.join(_written(change) for change in step.changes)}"
    return ""


def _written(change: Change) -> str:
    return f"{change.key}{' ' if change.key.startswith('--') else ' = '}{change.after}"


def _nearest(tries: Tries, judged: Judged, diagnostic: Diagnostic, key: str) -> str:
    value = editable(tries, judged, key)
    if value is None:
        return ""
    number = tries.judged.index(judged)
    this = (number, diagnostic.rule, key_of(diagnostic))
    related = {(number, one.rule, key_of(one)) for one in judged.errors if key in keys_of(one, judged.draft)}
    free = frozenset(map(key_of, judged.errors)) - {key}
    keeping: list[_Tried] = []
    done: set[bool] = set()
    every = candidates(value, judged.draft, key, tries.asked)
    for candidate in promising(tries, judged, diagnostic, key, every):
        above = _is_above(candidate, value.content)
        if above in done:
            # Candidates come by distance, so one that is harmless is the nearest on its side.
            continue
        after = tries.at(tries.source.with_text(value, spelled(candidate, tries.source.language)))
        if after is None or this in after.broken:
            continue
        lost = after.broken - tries.broken | after.broken & related
        if lost and len(keeping) < MAX_COMPLETED:
            lost = _completed(after, number, key, lost, free)[0]
        keeping.append(_Tried(value=candidate, lost=lost))
        if above is not None and not lost:
            done.add(above)
    return _phrase(tries, judged, key, value, keeping) if keeping else ""


def _is_above(candidate: Any, current: Any) -> bool | None:
    """Whether a number is larger than another one; nothing where one of them is no number."""
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (candidate, current))
    return candidate > current if numbers else None


def _completed(
    tries: Tries, number: int, key: str, lost: Broken, free: frozenset[str] | None
) -> tuple[Broken, tuple[Change, ...]]:
    """What of ``lost`` is left after changes elsewhere: of what follows from other values, and of the ``free`` keys.

    ``None`` for ``free`` lets every other key change. The changes of keys that were not wrong come with it.
    """
    taken: tuple[Change, ...] = ()
    for _ in range(MAX_FOLLOWING):
        tries, following = settled(tries, key)
        lost, taken = lost & tries.broken, taken + following
        step = _following(tries, number, key, lost, free) if lost else None
        if step is None:
            break
        tries, changes = step
        taken += changes
    return lost & tries.broken, taken


def _following(
    tries: Tries, number: int, key: str, lost: Broken, free: frozenset[str] | None
) -> tuple[Tries, tuple[Change, ...]] | None:
    """The nearest change of another key that mends some of ``lost`` and breaks nothing that does not follow."""
    judged = tries.judged[number]
    for error in judged.errors:
        if (number, error.rule, key_of(error)) not in lost:
            continue
        for step in steps_of(tries, judged, error):
            there = tries.at(step.text) if key not in step.keys and (free is None or step.keys <= free) else None
            if there is None:
                continue
            after, more = settled(there, key)
            if after.broken < tries.broken:
                return after, step.changes + more
    return None


def _phrase(tries: Tries, judged: Judged, key: str, value: Value, keeping: list[_Tried]) -> str:
    name = judged.draft.name(key)
    use = f"use {name}{' ' if name.startswith('--') else ' = '}"
    near = _around(value.content, [tried.value for tried in keeping])
    harmless = [tried.value for tried in keeping if not tried.lost]
    best = [candidate for candidate in near if candidate in harmless] or _around(value.content, harmless)

    def words(values: list[Any]) -> str:
        return _listed([spelled(candidate, tries.source.language) for candidate in values])

    if not {*map(repr, best)} & {*map(repr, near)}:
        nearest, mended = _with_others(tries, judged, key, value, [t for t in keeping if t.value in near], use)
        if not best:
            return nearest
        alone = f"{use.removeprefix('use ')}{words(best)}"
        return f"{nearest}, or {alone}" if mended else f"use {alone}"
    if not set(map(repr, best)) < set(map(repr, near)):
        return f"{use}{words(best)}"
    lost = {rule for tried in keeping if tried.value in near for _, rule, _ in tried.lost}
    verb = ("leaves", "keeps") if len(best) == 1 else ("leave", "keep")
    if any("mesh" in BY_ID[rule].about for rule in lost if rule in BY_ID):
        return f"{use}{words(near)}; with {tries.asked.gpus} GPUs only {words(best)} {verb[0]} a whole DP"
    return f"{use}{words(near)}; only {words(best)} {verb[1]} {_listed(sorted(lost))} as well"


def _with_others(
    tries: Tries, judged: Judged, key: str, value: Value, near: list[_Tried], use: str
) -> tuple[str, bool]:
    """The nearest value with what has to change elsewhere, and whether that mends everything."""
    for tried in near:
        written = spelled(tried.value, tries.source.language)
        after = tries.at(tries.source.with_text(value, written))
        if after is None:
            continue
        left, taken = _completed(after, tries.judged.index(judged), key, tried.lost, None)
        if taken and not left:
            return f"{use}{written} with {' and '.join(map(_written, taken))}", True
    written = spelled(near[0].value, tries.source.language)
    rules = _listed(sorted({rule for _, rule, _ in near[0].lost}))
    return f"{use}{written}, and change what then breaks {rules}", False


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
