"""What a dialect makes of a file: the fields of a layout, the facts of its rules, and where each of them stands."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from planner.diagnostics import Diagnostic
from planner.layouts.problem import Reserve
from planner.lint.source import Source, Value
from planner.rules.rule import About, RuleText
from planner.specs import HardwareSpec, ModelSpec


class _Undecided:
    """The type of :data:`UNDECIDED`."""

    def __repr__(self) -> str:
        return "not known"


UNDECIDED: Final = _Undecided()
"""A value that the file has and that cannot be told without running it, or that is not usable."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the user said beside the file."""

    gpus: int
    hardware: HardwareSpec
    devices_per_node: int
    model: ModelSpec | None = None
    global_batch: int | None = None
    seq_len: int | None = None
    reserve: Reserve | None = None
    given: Mapping[str, str] = field(default_factory=dict)
    """Values of names that only running the file would tell."""


@dataclass(frozen=True)
class Fact:
    """What a dialect can tell of a configuration, for its rules and their messages."""

    kind: type | tuple[type, ...]
    meaning: str
    key: str = ""
    """Where a person looks for it, if not under the fact's own name."""
    default: Any = None
    """What it is where the file does not say, for one that is the value of its key."""
    least: int = 1
    """The least of a whole number."""
    field: str = ""
    """The layout field that it sets."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What is true of every configuration of one framework."""

    name: str
    framework: str
    """For people."""
    stack: str
    """Stack spec that executes and costs it."""
    facts: Mapping[str, Fact]
    """All that it can tell its rules."""
    words: Mapping[str, str]
    """How the framework calls a layout field, where the file does not set it."""
    replaced: tuple[str, ...] = ()
    """Layout rules that the dialect's own rules say in its own words, or that the framework does not have."""
    warns: tuple[About, ...] = ("runtime",)
    """What layout rules are about that only gptplan's stack refuses, so that they are warnings."""
    additions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Field of a layout rule to the keys that keep it where the file lacks them."""


class Fields:
    """What a file says of a layout."""

    fields: Mapping[str, Any]
    """Layout field to its value or :data:`UNDECIDED`."""

    def known(self, name: str, default: Any = None) -> Any:
        """A decided field, or ``default``."""
        value = self.fields.get(name, default)
        return default if value is UNDECIDED else value

    def decided(self, *names: str) -> bool:
        """Whether all fields are decided."""
        return all(self.fields.get(name) is not UNDECIDED for name in names)


@dataclass(frozen=True, kw_only=True)
class Draft(Fields):
    """A configuration in gptplan's words."""

    dialect: Dialect
    source: Source
    settings: Mapping[str, Value]
    """What the keys below name: the settings of the file, or a plugin's own arguments before them."""
    fields: Mapping[str, Any]
    keys: Mapping[str, str]
    """Layout field or fact to the key of the file that sets it."""
    facts: Mapping[str, Any]
    choices: Mapping[str, tuple[Any, ...]]
    """Key to all the values it may have."""
    spoken: Mapping[str, str]
    """How messages call a layout field that several keys of the file make together."""
    warns: frozenset[About]
    """What layout rules are about that are warnings for this file."""
    model: ModelSpec | None
    diagnostics: tuple[Diagnostic, ...]
    assumptions: tuple[str, ...]
    unmodelled: tuple[str, ...]
    """What of the file a layout cannot say, so that nothing is predicted."""
    read: frozenset[str]
    """Keys that the dialect has looked at."""
    needless_lines: frozenset[int]
    """Lines of hidden values that nothing depends on any more."""

    def name(self, key: str) -> str:
        """A key as the file calls it."""
        return self.source.name_of(self.settings, key)

    def only_warns(self, rule: RuleText | None) -> bool:
        """Whether a layout rule says what gptplan's stack executes, not what the framework of the file takes."""
        return rule is not None and bool(self.warns & {*rule.about})

    @property
    def names(self) -> dict[str, str]:
        """How messages call the layout fields that the framework has words for."""
        there = {field: self.name(self.keys[field]) for field in self.dialect.words if self.keys.get(field)}
        return {**self.dialect.words, **there, **self.spoken}
