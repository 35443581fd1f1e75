"""The nearest valid values, as a message suggests them.

A value is tried by writing it into the text and judging the text again, with what depends on it and what is wrong
elsewhere mended, so nothing is suggested that the check itself would refuse.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from planner.configs.draft import Keys
from planner.configs.judging import Judged
from planner.configs.repair import ABOUT_MESH, RULES_OF_KEYS, Broken, Tries, broken_rules, candidates, editable, keys_of
from planner.configs.source import Value, spelled
from planner.configs.steps import Step, exact_value, steps_of
from planner.diagnostics import Diagnostic

MAX_FOLLOWING = 4
"""Further changes after which a value is no longer suggested."""
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


def _nearest(tries: Tries, judged: Judged, diagnostic: Diagnostic, key: str) -> str:
    value = editable(tries, judged, key)
    if value is None:
        return ""
    before = broken_rules(tries.judged)
    number = next(index for index, one in enumerate(tries.judged) if one is judged)
    this = (number, diagnostic.rule, str(diagnostic.values.get("key", "")))
    about = {error for error in before if error[0] == number and error[2] == key}
    keeping: list[_Tried] = []
    for candidate in candidates(value, judged.draft, key, tries.asked):
        text = tries.source.with_text(value, spelled(candidate, tries.source.language))
        after = tries.broken(text)
        if after is None or this in after:
            continue
        lost = after - before | after & about
        if lost and len(keeping) < MAX_COMPLETED:
            lost = _completed(tries, text, number, key, lost, _offending(tries.judged[number], key))[0]
        keeping.append(_Tried(value=candidate, lost=lost))
    return _phrase(tries, judged, key, value, keeping) if keeping else ""


def _offending(judged: Judged, key: str) -> frozenset[str]:
    """Keys that other violations are about."""
    found = {name for error in judged.errors for name in keys_of(error, judged.draft)}
    return frozenset(found - {key})


def _completed(
    tries: Tries, text: str, number: int, key: str, lost: Broken, free: frozenset[str] | None
) -> tuple[Broken, tuple[Step, ...]]:
    """What of ``lost`` is left after changes elsewhere: of what follows from other values, and of the ``free`` keys.

    ``None`` for ``free`` lets every other key change. The steps that were taken come with it.
    """
    taken: list[Step] = []
    while lost and len(taken) < MAX_FOLLOWING:
        source, judged = tries.check(text)
        inner = Tries(check=tries.check, source=source, judged=judged, asked=tries.asked, seen=tries.seen,
                      judgements=tries.judgements)  # fmt: skip
        step = _following(inner, judged[number], key, lost, free) if number < len(judged) else None
        tries.judgements = inner.judgements
        if step is None:
            break
        taken.append(step)
        text = step.text
        lost &= tries.broken(text) or frozenset()
    return lost, tuple(taken)


def _following(tries: Tries, judged: Judged, key: str, lost: Broken, free: frozenset[str] | None) -> Step | None:
    """The nearest change of another key that mends some of ``lost`` and breaks nothing."""
    now = broken_rules(tries.judged)
    for error in judged.errors:
        name = str(error.values.get("key", ""))
        if error.rule not in {rule for _, rule, _ in lost}:
            continue
        for step in steps_of(tries, judged, error):
            derived = exact_value(error, judged) is not None and name != key
            if key in step.keys or not (derived or free is None or step.keys <= free):
                continue
            after = tries.broken(step.text)
            if after is not None and after < now:
                return step
    return None


def _phrase(tries: Tries, judged: Judged, key: str, value: Value, keeping: list[_Tried]) -> str:
    name = Keys(tries.source, judged.draft.settings, judged.draft).name(key)
    use = f"use {name}{' ' if name.startswith('--') else ' = '}"
    near = _around(value.content, [tried.value for tried in keeping])
    harmless = [tried.value for tried in keeping if not tried.lost]
    best = [candidate for candidate in near if candidate in harmless] or _around(value.content, harmless)

    def words(values: list[Any]) -> str:
        return _listed([spelled(candidate, tries.source.language) for candidate in values])

    if not best:
        return _with_others(tries, judged, key, value, keeping[0], use)
    if not set(map(repr, best)) < set(map(repr, near)):
        return f"{use}{words(best)}"
    lost = {rule for tried in keeping if tried.value in near for _, rule, _ in tried.lost}
    what = "leaves a whole DP" if lost & {*ABOUT_MESH} else f"keeps {_listed(sorted(lost))} as well"
    verb = what if len(best) == 1 else what.replace("leaves", "leave").replace("keeps", "keep")
    return f"{use}{words(near)}; with {tries.asked.gpus} GPUs only {words(best)} {verb}"


def _with_others(tries: Tries, judged: Judged, key: str, value: Value, tried: _Tried, use: str) -> str:
    """The nearest value with what has to change elsewhere."""
    written = spelled(tried.value, tries.source.language)
    number = next(index for index, one in enumerate(tries.judged) if one is judged)
    text = tries.source.with_text(value, written)
    left, taken = _completed(tries, text, number, key, tried.lost, None)
    if left or not taken:
        rules = _listed(sorted({rule for _, rule, _ in tried.lost}))
        return f"{use}{written}, and change what then breaks {rules}"
    joint = " " if use.endswith(" ") and "--" in use else " = "
    changes = [f"{change.key}{joint}{change.after}" for step in taken for change in step.changes]
    return f"{use}{written} with {' and '.join(changes)}"


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
