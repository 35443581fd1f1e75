"""Writing the nearest valid configuration: which values are changed, added to nothing, or taken out."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from planner.configs.draft import Asked
from planner.configs.judging import Judged
from planner.configs.removal import removed
from planner.configs.repair import (
    ABOUT_MESH,
    RULES_OF_KEYS,
    Broken,
    Check,
    Tries,
    broken_rules,
    candidates,
    editable,
    keys_of,
)
from planner.configs.source import Source, Value, shortened, spelled
from planner.diagnostics import Diagnostic
from planner.rules.rule import divisors

MAX_STEPS = 20
MAX_PAIRS = 40


@dataclass(frozen=True, kw_only=True)
class Change:
    """One value of the file, before and after."""

    line: int
    key: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class _Option:
    """A changed text that breaks fewer rules."""

    left: int
    rank: int
    """How far the new value is from the old one: 0 is the nearest that was tried."""
    changes: tuple[Change, ...]
    text: str


def fix(check: Check, source: Source, asked: Asked) -> tuple[str, list[Change]]:
    """The nearest text without violations and what was changed.

    Takes the nearest value that helps, step by step; if that ends with violations left, the value that helps most.
    The text that comes back may still break rules.
    """
    found: list[tuple[str, list[Change]]] = []
    for nearest_first in (True, False):
        text, changes, left = _improve(check, source.text, asked, nearest_first=nearest_first)
        if not left:
            return text, changes
        found.append((text, changes))
    return found[0]


def _improve(check: Check, text: str, asked: Asked, *, nearest_first: bool) -> tuple[str, list[Change], Broken]:
    changes: list[Change] = []
    left: Broken = frozenset()
    for _ in range(MAX_STEPS):
        source, judged = check(text)
        left = broken_rules(judged)
        options = list(_options(Tries(check=check, source=source, judged=judged, asked=asked), left)) if left else []
        if not options:
            break
        best = min(options, key=lambda o: (o.rank, o.left) if nearest_first else (o.left, o.rank))
        changes += best.changes
        text = best.text
    return text, _merged(changes), left


def _merged(changes: list[Change]) -> list[Change]:
    """One change for each value: from what the file had to what it has now."""
    merged: dict[tuple[str, int], Change] = {}
    for change in changes:
        place = (change.key, change.line)
        first = merged.get(place, change)
        merged[place] = Change(line=first.line, key=first.key, before=first.before, after=change.after)
    return [change for change in merged.values() if change.before != change.after]


def _options(tries: Tries, left: Broken) -> Iterator[_Option]:
    """Every change that leaves fewer violations than ``left``."""
    for rank, changes, text in _changes(tries):
        broken = tries.broken(text)
        if broken is not None and len(broken) < len(left):
            yield _Option(left=len(broken), rank=rank, changes=changes, text=text)


def _changes(tries: Tries) -> Iterator[tuple[int, tuple[Change, ...], str]]:
    done: set[str] = set()
    for judged in tries.judged:
        for error in judged.errors:
            rule = RULES_OF_KEYS.get(error.rule)
            if rule is not None and rule.remedy != "change":
                yield from _removals(tries, judged, error)
                continue
            exact = _exact(error, judged)
            for key in keys_of(error, judged.draft):
                if exact is not None or key not in done:
                    yield from _values(tries, judged, key, exact)
                done.add(key)
            if error.rule in ABOUT_MESH:
                yield from _pairs(tries, judged)


def _values(tries: Tries, judged: Judged, key: str, exact: Any) -> Iterator[tuple[int, tuple[Change, ...], str]]:
    value = editable(tries, judged, key)
    if value is None:
        return
    tried = [exact] if exact is not None else candidates(value, judged.draft, key, tries.asked)
    for rank, candidate in enumerate(tried):
        after = spelled(candidate, tries.source.language)
        yield rank, (_change(tries, value, key, after),), tries.source.with_text(value, after)


def _pairs(tries: Tries, judged: Judged) -> Iterator[tuple[int, tuple[Change, ...], str]]:
    """Both degrees at once, where no single one makes the mesh whole."""
    keys = [judged.draft.keys.get(name, "") for name in ("tensor_parallel", "pipeline_parallel")]
    values = [editable(tries, judged, key) for key in keys]
    first, second = values
    if first is None or second is None or first.start == second.start:
        return
    old = [value.content if isinstance(value.content, int) else 1 for value in (first, second)]
    whole = divisors(tries.asked.gpus)
    pairs = [(t, p) for t in whole for p in whole if tries.asked.gpus % (t * p) == 0]
    pairs.sort(key=lambda pair: sum(abs(math.log(new / max(1, was))) for new, was in zip(pair, old, strict=True)))
    for rank, pair in enumerate(pairs[:MAX_PAIRS]):
        words = [spelled(degree, tries.source.language) for degree in pair]
        changes = tuple(_change(tries, v, k, w) for v, k, w in zip((first, second), keys, words, strict=True))
        edits = sorted(zip((first, second), words, strict=True), key=lambda edit: -edit[0].start)
        text = tries.source.text
        for value, word in edits:
            text = text[: value.start] + word + text[value.end :]
        yield rank, changes, text


def _change(tries: Tries, value: Value, key: str, after: str) -> Change:
    return Change(line=value.line, key=key, before=shortened(tries.source.written(value)), after=after)


def _removals(tries: Tries, judged: Judged, error: Diagnostic) -> Iterator[tuple[int, tuple[Change, ...], str]]:
    """The setting taken out; nothing where a key has to be added, which no value of the file can do."""
    key = str(error.values.get("key", ""))
    value = judged.draft.settings.get(key)
    if RULES_OF_KEYS[error.rule].remedy != "remove" or value is None:
        return
    text = removed(tries.source, value, key)
    if text is not None:
        yield 0, (_change(tries, value, key, "removed"),), text


def _exact(error: Diagnostic, judged: Judged) -> Any:
    rule = RULES_OF_KEYS.get(error.rule)
    if rule is None or rule.repaired is None:
        return None
    facts = {**judged.draft.facts}
    if judged.layout is not None:
        facts.setdefault("data_parallel", judged.layout.data_parallel)
    try:
        return rule.repaired(facts)
    except KeyError:
        return None


def listed_changes(changes: list[Change]) -> str:
    """``line 4: TENSOR_PARALLEL = 6 -> 4`` for every change."""
    return "\n".join(f"line {change.line}: {change.key}: {change.before} -> {change.after}" for change in changes)
