"""Writing the nearest valid configuration: which values are changed, which keys are added, which are taken out."""

from collections.abc import Iterator
from dataclasses import dataclass

from planner.configs.draft import Asked
from planner.configs.repair import Broken, Check, Tries, broken_rules
from planner.configs.source import Source
from planner.configs.steps import Change, Step, steps_of

MAX_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class _Option:
    """A step that leaves fewer violations."""

    left: int
    step: Step


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
        best = min(options, key=lambda o: (o.step.rank, o.left) if nearest_first else (o.left, o.step.rank))
        changes += best.step.changes
        text = best.step.text
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
    """Every step that leaves fewer violations than ``left``."""
    done: set[str] = set()
    for judged in tries.judged:
        for error in judged.errors:
            for step in steps_of(tries, judged, error):
                if step.text in done:
                    continue
                done.add(step.text)
                broken = tries.broken(step.text)
                if broken is not None and len(broken) < len(left):
                    yield _Option(left=len(broken), step=step)


def listed_changes(changes: list[Change]) -> str:
    """``line 4: TENSOR_PARALLEL: 6 -> 4`` for every change."""
    return "\n".join(f"line {change.line}: {change.key}: {change.before} -> {change.after}" for change in changes)
