"""Writing the nearest valid configuration: which values are changed, which keys are added, which are taken out."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from planner.lint.draft import Asked
from planner.lint.repair import Check, Tries
from planner.lint.source import Source
from planner.lint.steps import PAIR_RANK, Change, settled, steps_of

MAX_STEPS = 20
MAX_FIRST = 6
"""First ones of two steps that are tried against one violation."""


@dataclass(frozen=True, kw_only=True)
class _Option:
    """A step, with what follows from it, that leaves fewer violations."""

    left: int
    rank: int
    changes: tuple[Change, ...]
    tries: Tries


def fix(check: Check, source: Source, asked: Asked) -> tuple[str, list[Change]]:
    """The nearest text without violations and what was changed.

    Takes the nearest change that mends everything; where none does, the nearest that helps, step by step; if that
    ends with violations left, the change that helps most. The text that comes back may still break rules.
    """
    found: list[tuple[str, list[Change]]] = []
    for nearest_first in (True, False):
        read, judged = check(source.text)
        start = Tries(check=check, source=read, judged=judged, asked=asked)
        end, changes = _improve(start, nearest_first=nearest_first)
        if not end.broken:
            return end.source.text, changes
        found.append((end.source.text, changes))
    return found[0]


def _improve(tries: Tries, *, nearest_first: bool) -> tuple[Tries, list[Change]]:
    changes: list[Change] = []
    for _ in range(MAX_STEPS):
        options = list(_options(tries)) if tries.broken else []
        options = options or (list(_two_steps(tries)) if tries.broken else [])
        if not options:
            break
        best = min(options, key=lambda option: _order(option, nearest_first=nearest_first))
        changes += best.changes
        tries = best.tries
    return tries, _merged(changes)


def _order(option: _Option, *, nearest_first: bool) -> tuple[bool, int, int]:
    """A single change that mends everything comes first."""
    whole = option.left == 0 and option.rank < PAIR_RANK
    return (not whole, *((option.rank, option.left) if nearest_first else (option.left, option.rank)))


def _merged(changes: list[Change]) -> list[Change]:
    """One change for each value: from what the file had to what it has now."""
    merged: dict[tuple[str, int], Change] = {}
    for change in changes:
        place = (change.key, change.line)
        first = merged.get(place, change)
        merged[place] = Change(line=first.line, key=first.key, before=first.before, after=change.after)
    return [change for change in merged.values() if change.before != change.after]


def _options(tries: Tries) -> Iterator[_Option]:
    """Every step after which fewer violations are left."""
    done: set[str] = set()
    for judged in tries.judged:
        for error in judged.errors:
            for step in steps_of(tries, judged, error):
                there = tries.at(step.text) if step.text not in done else None
                done.add(step.text)
                if there is None:
                    continue
                after, following = settled(there)
                if len(after.broken) < len(tries.broken):
                    changes = step.changes + following
                    yield _Option(left=len(after.broken), rank=step.rank, changes=changes, tries=after)


def _two_steps(tries: Tries) -> Iterator[_Option]:
    """Two steps, where no single one leaves fewer violations: what the first breaks the second mends."""
    for judged in tries.judged:
        for error in judged.errors:
            for first in itertools.islice(steps_of(tries, judged, error), MAX_FIRST):
                there = tries.at(first.text)
                if there is None or len(there.broken) > len(tries.broken):
                    continue
                for second in _options(there):
                    yield _Option(
                        left=second.left,
                        rank=first.rank + second.rank,
                        changes=first.changes + second.changes,
                        tries=second.tries,
                    )


def listed_changes(changes: list[Change]) -> str:
    """``line 4: TENSOR_PARALLEL: 6 -> 4`` for every change."""
    return "\n".join(f"line {change.line}: {change.key}: {change.before} -> {change.after}" for change in changes)
