"""Single steps towards a valid file: a value changed, a key added or taken out, both degrees at once."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

from planner.codes import Config
from planner.diagnostics import Diagnostic
from planner.layouts.degrees import divisors
from planner.lint.config_rule import ConfigRule, apply
from planner.lint.dialects.plugins.keys import ARGUMENTS
from planner.lint.editing import inserted, removed, renamed
from planner.lint.judging import Judged
from planner.lint.registry import BY_ID
from planner.lint.repair import Tries, about, candidates, editable, key_of, keys_of, promising
from planner.lint.source import Symbol, Value, shortened, spelled
from planner.rules.rule import Rule

MAX_PAIRS = 40
OTHER_RANK = 4
"""How much farther a change of another key is than one of the key that a finding is about."""
PAIR_RANK = 10
"""How much farther a change of two values is than one of a single value."""
MAX_FOLLOWING = 4
"""Values that follow from one change."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One value of the file, before and after."""

    line: int
    key: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Step:
    """A changed text."""

    rank: int
    """How far the new value is from the old one: 0 is the nearest that is tried."""
    changes: tuple[Change, ...]
    text: str
    keys: frozenset[str]
    """Keys that it touches."""

    @classmethod
    def of(cls, change: Change, text: str, *keys: str, rank: int = 0) -> Self:
        """A single change."""
        return cls(rank=rank, changes=(change,), text=text, keys=frozenset(keys))


def steps_of(tries: Tries, judged: Judged, error: Diagnostic) -> Iterator[Step]:
    """Every step that may help against one violation, the nearest first for each key."""
    rule = BY_ID.get(error.rule)
    remedy = rule.remedy if isinstance(rule, ConfigRule) else "change"
    if error.rule in (Config.HIDDEN, Config.CONTRADICTION):
        # What is hidden or contradicts itself only its author knows.
        return
    if error.rule == Config.UNKNOWN_KEY:
        yield from _renamings(judged, error)
        yield from _removals(judged, error)
    elif remedy == "remove":
        yield from _removals(judged, error)
    else:
        yield from _additions(tries, judged, error)
    if remedy == "change":
        yield from _changed_values(tries, judged, error)


def _changed_values(tries: Tries, judged: Judged, error: Diagnostic) -> Iterator[Step]:
    exact = exact_value(error, judged)
    for number, key in enumerate(keys_of(error, judged.draft)):
        for step in _values(tries, judged, key, exact, error):
            yield replace(step, rank=step.rank + OTHER_RANK * number)
        if exact is not None:
            return
    if "mesh" in about(error):
        yield from pairs_of(tries, judged)


def settled(tries: Tries, keep: str = "") -> tuple[Tries, tuple[Change, ...]]:
    """The text with every value that follows from others put right, but not that of the key ``keep``."""
    changes: tuple[Change, ...] = ()
    for _ in range(MAX_FOLLOWING):
        following = next(_exact_steps(tries, keep), None)
        if following is None:
            break
        tries, change = following
        changes += change
    return tries, changes


def _exact_steps(tries: Tries, keep: str) -> Iterator[tuple[Tries, tuple[Change, ...]]]:
    for judged in tries.judged:
        for error in judged.errors:
            exact, key = exact_value(error, judged), key_of(error)
            if exact is None or key == keep:
                continue
            for step in _values(tries, judged, key, exact):
                after = tries.at(step.text)
                if after is not None and after.broken < tries.broken:
                    yield after, step.changes


def exact_value(error: Diagnostic, judged: Judged) -> Any:
    """The one value that keeps a rule, where there is only one."""
    rule = BY_ID.get(error.rule)
    if not isinstance(rule, ConfigRule) or rule.repaired is None:
        return None
    try:
        return apply(rule.repaired, judged.facts)
    except KeyError:
        return None


def _values(tries: Tries, judged: Judged, key: str, exact: Any, error: Diagnostic | None = None) -> Iterator[Step]:
    value = editable(tries, judged, key)
    if value is None:
        return
    if isinstance(value.content, Symbol) and isinstance(exact, str):
        exact = Symbol(exact)
    tried = [exact] if exact is not None else candidates(value, judged.draft, key, tries.asked)
    worth = tried if error is None else promising(tries, judged, error, key, tried)
    for rank, candidate in enumerate(tried):
        if candidate not in worth:
            continue
        after = spelled(candidate, tries.source.language)
        text = tries.source.with_text(value, after)
        yield Step.of(_change(judged, key, after), text, key, rank=rank)


def pairs_of(tries: Tries, judged: Judged) -> Iterator[Step]:
    """Both degrees at once, where no single one makes the mesh whole."""
    keys = [judged.draft.keys.get(name, "") for name in ("tensor_parallel", "pipeline_parallel")]
    first, second = (editable(tries, judged, key) for key in keys)
    if first is None or second is None or first.start == second.start:
        return
    old = [value.content if isinstance(value.content, int) else 1 for value in (first, second)]
    whole = divisors(tries.asked.gpus)
    pairs = [(t, p) for t in whole for p in whole if tries.asked.gpus % (t * p) == 0]
    pairs.sort(key=lambda pair: sum(abs(math.log(new / max(1, was))) for new, was in zip(pair, old, strict=True)))
    for rank, pair in enumerate(pairs[:MAX_PAIRS]):
        words = [spelled(degree, tries.source.language) for degree in pair]
        changes = tuple(_change(judged, key, word) for key, word in zip(keys, words, strict=True))
        edits = sorted(zip((first, second), words, strict=True), key=lambda edit: -edit[0].start)
        text = tries.source.text
        for value, word in edits:
            text = text[: value.start] + word + text[value.end :]
        yield Step(rank=PAIR_RANK + rank, changes=changes, text=text, keys=frozenset(keys))


def _change(judged: Judged, key: str, after: str) -> Change:
    draft = judged.draft
    before = shortened(draft.source.written(draft.settings[key]))
    return Change(line=draft.settings[key].line, key=draft.name(key), before=before, after=after)


def _removals(judged: Judged, error: Diagnostic) -> Iterator[Step]:
    key, source = key_of(error), judged.draft.source
    value = judged.draft.settings.get(key)
    text = removed(source, value, _written_key(judged, value, key)) if value is not None else None
    if text is not None:
        yield Step.of(_change(judged, key, "removed"), text, key)


def _renamings(judged: Judged, error: Diagnostic) -> Iterator[Step]:
    """The known argument that the unknown one is nearly called."""
    key, near, settings = key_of(error), str(error.values.get("near", "")), judged.draft.settings
    value = settings.get(key)
    text = renamed(judged.draft.source, value, key, near) if value is not None and near else None
    if value is not None and text is not None and near not in settings:
        yield Step.of(Change(line=value.line, key=key, before=key, after=near), text, key, near)


def _additions(tries: Tries, judged: Judged, error: Diagnostic) -> Iterator[Step]:
    """The keys that the rule wants and the file lacks, all of them at once."""
    rule = BY_ID.get(error.rule)
    added = judged.draft.dialect.additions.get(rule.field) if isinstance(rule, Rule) else None
    if isinstance(rule, ConfigRule) and rule.added is not None:
        added = apply(rule.added, judged.facts)
    missing = {key: value for key, value in (added or {}).items() if not _has(judged, key)}
    if len(missing) != 1:
        return
    if next(iter(missing)) in judged.draft.settings:
        # The key is there and stands for nothing.
        yield from _values(tries, judged, *next(iter(missing.items())))
        return
    ((key, value),) = missing.items()
    text = inserted(tries.source, _neighbours(tries, judged, error, key), key, value, _call_of(tries, judged))
    if text is None:
        return
    line = text.count("\n", 0, _first_difference(tries.source.text, text)) + 1
    after = "given" if value is True and key.startswith("--") else spelled(value, tries.source.language)
    yield Step.of(Change(line=line, key=key, before="not there", after=after), text, key)


def _written_key(judged: Judged, value: Value, key: str) -> str:
    """The key as a data file writes it, where the draft has another name for it."""
    source = judged.draft.source
    if source.language in ("python", "shell"):
        return key
    return next((name for name, there in source.settings.items() if there is value), key)


def _has(judged: Judged, key: str) -> bool:
    value = judged.draft.settings.get(key)
    return value is not None and value.content is not None


def _first_difference(old: str, new: str) -> int:
    return next((at for at, (left, right) in enumerate(zip(old, new, strict=False)) if left != right), len(old))


def _call_of(tries: Tries, judged: Judged) -> Any:
    """The call that a draft was read from; drafts come in the order of the calls."""
    number = next(index for index, one in enumerate(tries.judged) if one.draft is judged.draft)
    return tries.source.calls[number] if number < len(tries.source.calls) else None


def _neighbours(tries: Tries, judged: Judged, error: Diagnostic, key: str) -> list[str]:
    """Keys as the file has them beside which a new one belongs: those of the same table, the rule's own key first."""
    draft, parent = judged.draft, key.rpartition(".")[0]
    known = ARGUMENTS.get(draft.dialect.name, ())
    own = [key_of(error), *draft.keys.values(), *(name for name in known if name in draft.settings)]
    own += [name for name in draft.settings if name.rpartition(".")[0] == parent and not known]
    own = [name for name in dict.fromkeys(own) if name in draft.settings and name.rpartition(".")[0] == parent]
    if tries.source.language in ("python", "shell"):
        return own if "BATCH_SIZE" not in own else ["BATCH_SIZE", *own]
    there = {id(value): name for name, value in tries.source.settings.items()}
    return [there[id(draft.settings[name])] for name in own if id(draft.settings[name]) in there]
