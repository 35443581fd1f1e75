"""Findings that hold on some ways through a script only: which are the script's own, and which its caller's."""

from collections import defaultdict
from dataclasses import replace

import msgspec

from planner.diagnostics import Diagnostic
from planner.lint.judging import Judged
from planner.lint.reading import OPEN

Path = tuple[tuple[int, bool], ...]
"""Lines of conditions that cannot be told, and whether each holds."""


def settled(judged: list[Judged]) -> list[Judged]:
    """The same, where an error that only several conditions together lead to is open.

    An error is the script's own if every way through it has it, or every way on which one condition holds or does not.
    Where not all ways are followed, only the first of these can be told.
    """
    paths = {path for one in judged for path in one.draft.source.paths}
    if len(paths) <= 1:
        return judged
    broken: dict[tuple[str, str], set[Path]] = defaultdict(set)
    for one in judged:
        for error in one.errors:
            broken[_subject(error)].update(one.draft.source.paths)

    def said(one: Judged, found: Diagnostic) -> Diagnostic:
        there = broken[_subject(found)]
        source = one.draft.source
        choices = {choice for path in source.paths for choice in path}
        own = there == paths or (
            not source.cut and any(all(path in there for path in paths if choice in path) for choice in choices)
        )
        if found.severity != "error" or own:
            return found
        some = f"on {len(there)} of {len(paths)} ways through the script"
        return msgspec.structs.replace(found, severity=OPEN, detail=f"{found.detail}; {some}" if found.detail else some)

    return [replace(one, diagnostics=tuple(said(one, found) for found in one.diagnostics)) for one in judged]


def _subject(error: Diagnostic) -> tuple[str, str]:
    return str(error.rule), str(error.values.get("key", ""))
