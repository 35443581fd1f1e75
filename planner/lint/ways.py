"""Findings that hold on some ways through a script only: which are the script's own, and which its caller's."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import msgspec

from planner.diagnostics import Diagnostic
from planner.lint.config_rule import ConfigRule, asked_for
from planner.lint.judging import Judged
from planner.lint.reading import OPEN
from planner.lint.registry import BY_ID
from planner.lint.source import Source

Path = tuple[tuple[int, int], ...]
"""Lines of conditions that cannot be told, and which branch is taken."""
_COUNTED = ("tensor_parallel", "pipeline_parallel", "context_parallel", "micro_batch", "global_batch", "num_layers")
"""Facts that others are computed from, which no key of the file sets."""


def settled(judged: list[Judged]) -> list[Judged]:
    """The same, where an error that only several conditions together lead to is open.

    An error is the script's own if every way through it has it, or every way that takes one branch of a condition.
    Where not all ways are followed, what the error is about has to depend on no other condition on those that are.
    """
    paths = {path for one in judged for path in one.draft.source.paths}
    if len(paths) <= 1:
        return judged
    broken: dict[tuple[str, str], set[Path]] = defaultdict(set)
    for one in judged:
        for error in one.errors:
            broken[_subject(error)].update(one.draft.source.paths)

    def said(one: Judged, found: Diagnostic) -> Diagnostic:
        there, source = broken[_subject(found)], one.draft.source
        choices = {choice for path in source.paths for choice in path}
        own = there == paths or any(all(path in there for path in paths if choice in path) for choice in choices)
        if own and source.cut and there != paths:
            own = len(_conditions(judged, one, found)) <= 1
        if found.severity != "error" or own:
            return found
        some = f"on {len(there)} of {len(paths)} ways through the script"
        return msgspec.structs.replace(found, severity=OPEN, detail=f"{found.detail}; {some}" if found.detail else some)

    return [replace(one, diagnostics=tuple(said(one, found) for found in one.diagnostics)) for one in judged]


def _subject(error: Diagnostic) -> tuple[str, str]:
    return str(error.rule), str(error.values.get("key", ""))


def _conditions(judged: list[Judged], one: Judged, found: Diagnostic) -> set[int]:
    """Lines of the conditions that the values which an error is about depend on, as the followed ways tell."""
    lines: set[int] = set()
    keys = [*_keys(one, found)]
    for key in keys:
        mine = _written(one.draft.source, key)
        for choice in one.draft.source.paths[0]:
            others = [other for other in judged if choice not in other.draft.source.paths[0]]
            if any(_written(other.draft.source, key) != mine and _differs_in(one, other, choice) for other in others):
                lines.add(choice[0])
    return lines if keys else {-1, -2}


def _differs_in(one: Judged, other: Judged, choice: tuple[int, int]) -> bool:
    """Whether two ways take the same branches but for one, as far as both meet a condition."""
    there = dict(other.draft.source.paths[0])
    return all(there.get(line, branch) == branch for line, branch in one.draft.source.paths[0] if line != choice[0])


def _written(source: Source, key: str) -> object:
    """What a way has for an option, and where."""
    value = source.settings.get(key)
    return None if value is None else (value.line, value.column, str(value.content))


def _keys(one: Judged, found: Diagnostic) -> Iterator[str]:
    """Options that decide whether a rule is kept; none where that cannot be told."""
    rule, keys = BY_ID.get(found.rule), one.draft.keys
    if rule is None and found.values.get("key"):
        yield str(found.values["key"])
    if not isinstance(rule, ConfigRule) or ("options" in asked_for(rule) and not rule.options):
        return
    for fact in asked_for(rule) - {"options", "num_devices"}:
        yield from (keys[name] for name in ((fact,) if keys.get(fact) else _COUNTED) if keys.get(name))
    yield from rule.options
