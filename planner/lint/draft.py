"""What a dialect makes of a file: the fields of a layout, the facts of its rules, and where each of them stands."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from planner.diagnostics import Diagnostic
from planner.layouts.problem import Reserve
from planner.lint.source import Source, Symbol, Unknown, Value, shortened, spelled
from planner.specs import HardwareSpec, ModelSpec
from planner.specs.files import did_you_mean

MAX_COUNT = 1_000_000
OWN_RULES = ("STK", "RC", "ZER004", "ZER005", "OFF004")
"""Prefixes of rules about what gptplan's own runtime does, whatever the framework."""


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


@dataclass(kw_only=True)
class Draft:
    """A configuration in gptplan's words. Filled by one dialect, then read only."""

    dialect: str
    framework: str
    """For people."""
    stack: str
    """Stack spec that executes and costs it."""
    settings: Mapping[str, Value] = field(default_factory=dict)
    """What the keys below name: the settings of the file, or a plugin's own arguments before them."""
    own_rules: tuple[str, ...] = OWN_RULES
    """Prefixes of layout rules that say what gptplan's stack executes, not what the framework of the file takes."""
    restated: frozenset[str] = frozenset()
    """Layout rules that the dialect's own rules say in its own words."""
    words: Mapping[str, str] = field(default_factory=dict)
    """How the framework calls a layout field, where the file does not set it."""
    spoken: dict[str, str] = field(default_factory=dict)
    """How messages call a layout field that several keys of the file make together."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Layout field to its value or :data:`UNDECIDED`."""
    keys: dict[str, str] = field(default_factory=dict)
    """Layout field or fact to the key of the file that sets it."""
    choices: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Key to all the values it may have."""
    facts: dict[str, Any] = field(default_factory=dict)
    model: ModelSpec | None = None
    diagnostics: list[Diagnostic] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)
    read: set[str] = field(default_factory=set)
    """Keys that the dialect has looked at."""
    autos: list[str] = field(default_factory=list)
    """Keys that are left to the trainer."""
    unmodelled: list[str] = field(default_factory=list)
    """What of the file a layout cannot say, so that nothing is predicted."""

    needless_lines: set[int] = field(default_factory=set)
    """Lines of hidden values that nothing depends on any more."""

    def known(self, name: str, default: Any = None) -> Any:
        """A decided field, or ``default``."""
        value = self.fields.get(name, default)
        return default if value is UNDECIDED else value

    def decided(self, *names: str) -> bool:
        """Whether all fields are decided."""
        return all(self.fields.get(name) is not UNDECIDED for name in names)


class Keys:
    """Typed reading of settings; what cannot be used becomes a diagnostic and :data:`UNDECIDED`."""

    def __init__(self, source: Source, settings: Mapping[str, Value], draft: Draft) -> None:
        """Read ``settings`` of ``source`` into ``draft``."""
        self.source, self.settings, self.draft = source, settings, draft
        self.complained: set[str] = set()

    def get(self, *keys: str) -> tuple[str, Value] | None:
        """The first of the keys that the file has."""
        return next(((key, self.settings[key]) for key in keys if key in self.settings), None)

    def has(self, *keys: str) -> bool:
        """Whether the file has one of the keys."""
        return self.get(*keys) is not None

    def raw(self, *keys: str, default: Any = None, name: str = "") -> Any:
        """The plain value of the first key, :data:`UNDECIDED` if it is hidden."""
        found = self.get(*keys)
        if found is None:
            return default
        key, value = found
        self.draft.read.add(key)
        if name:
            self.draft.keys[name] = key
        if isinstance(value.content, Unknown):
            hidden = value.content.name or self.name(key)
            message = f"{hidden} cannot be told: {value.content.why}"
            self._complain(key, value, "CFG001", message, "write it as a constant")
            return UNDECIDED
        return value.content

    def plain(self, *keys: str, name: str = "") -> Any:
        """The value of the first key, or nothing where it is hidden, as what a script makes of it is no constant."""
        found = self.get(*keys)
        if found is None or isinstance(found[1].content, Unknown):
            return None
        return self.raw(*keys, name=name)

    def given(self, *keys: str) -> bool:
        """Whether one of the keys has a value, which ``None`` is not."""
        return any(key in self.settings and self.settings[key].content is not None for key in keys)

    def count(self, *keys: str, default: Any = None, name: str = "", least: int = 1) -> Any:
        """A whole number from ``least``."""
        content = self.raw(*keys, default=default, name=name)
        found = self.get(*keys)
        if found is None or content is UNDECIDED:
            return content
        key, value = found
        if content is None:
            return default
        if isinstance(content, Symbol):
            return self._symbol(key, value)
        if content == "auto":
            return self._auto(key, value)
        whole = isinstance(content, int) or (isinstance(content, float) and content.is_integer())
        if isinstance(content, bool) or not whole or not least <= content <= MAX_COUNT:
            self._bad(key, value, f"a whole number from {least} to {MAX_COUNT}")
            return UNDECIDED
        return int(content)

    def choice(self, *keys: str, choices: tuple[Any, ...], default: Any = None, name: str = "") -> Any:
        """One of ``choices``."""
        content = self.raw(*keys, default=default, name=name)
        found = self.get(*keys)
        if found is None or content is UNDECIDED:
            return content
        key, value = found
        self.draft.choices[key] = choices
        if isinstance(content, Symbol):
            return self._symbol(key, value)
        if isinstance(content, bool | dict | tuple) or content not in choices:
            self._bad(key, value, f"one of {', '.join(map(repr, choices))}", choices)
            return UNDECIDED
        return content

    def word(self, *keys: str, default: str | None = None, name: str = "") -> Any:
        """A text; the dialect's rules say which are known."""
        content = self.raw(*keys, default=default, name=name)
        found = self.get(*keys)
        if found is None or content is UNDECIDED:
            return content
        if content is None:
            return default
        if isinstance(content, Symbol):
            return self._symbol(*found)
        if not isinstance(content, str):
            self._bad(*found, "a text")
            return UNDECIDED
        return content

    def flag(self, *keys: str, default: bool = False, name: str = "") -> Any:
        """True or false; an option of a script is given or not, whatever stands behind it."""
        there = self.get(*keys)
        if self.source.language == "shell" and there is not None:
            self.draft.read.add(there[0])
            self.draft.keys |= {name: there[0]} if name else {}
            return there[1].content is not False
        content = self.raw(*keys, default=default, name=name)
        found = self.get(*keys)
        if found is None or content is UNDECIDED:
            return content
        self.draft.choices[found[0]] = (False, True)
        return default if content is None else self._truth(*found)

    def _truth(self, key: str, value: Value) -> Any:
        content = value.content
        if content == "auto":
            return self._auto(key, value)
        if isinstance(content, Symbol):
            return self._symbol(key, value)
        if not isinstance(content, bool):
            self._bad(key, value, "true or false", (False, True))
            return UNDECIDED
        return content

    def number(self, *keys: str, default: float = 0.0, name: str = "") -> Any:
        """A number."""
        content = self.raw(*keys, default=default, name=name)
        found = self.get(*keys)
        if found is None or content is UNDECIDED:
            return content
        if content is None:
            return default
        if isinstance(content, Symbol):
            return self._symbol(*found)
        if content == "auto":
            return self._auto(*found)
        if isinstance(content, bool) or not isinstance(content, int | float):
            self._bad(*found, "a number")
            return UNDECIDED
        return float(content)

    def place(self, key: str) -> str:
        """``file:line: KEY = value`` for the definition of a key."""
        value = self.settings.get(key)
        if value is None:
            return self.source.shown
        written = shortened(self.source.written(value))
        if self.source.language == "shell":
            setting = self.name(key) if value.content is True else f"{self.name(key)} {written}"
        else:
            setting = f"{self.name(key)} = {written}"
        return f"{self.source.shown}:{value.line}: {setting}"

    def name(self, key: str) -> str:
        """The key as its definition calls it: ``TENSOR_PARALLEL`` where ``parallel.tensor.size`` only repeats it."""
        value = self.settings.get(key)
        if value is None or value.end < 0:
            return key
        return next((other for other, there in self.source.settings.items() if there is value), key)

    def _symbol(self, key: str, value: Value) -> Any:
        why = f"{self.name(key)} is `{shortened(value.content)}`, which is imported or not defined"
        self._complain(key, value, "CFG001", why, "write it as a constant")
        return UNDECIDED

    def _auto(self, key: str, value: Value) -> Any:
        """One warning for all such keys."""
        autos = self.draft.autos
        if key not in autos:
            autos.append(key)
        listed, verb = ", ".join(autos), "is" if len(autos) == 1 else "are"
        merged = Diagnostic(
            rule="CFG001",
            severity="warning",
            message=f"{listed} {verb} auto, so the trainer decides",
            location=self.place(autos[0]),
            values={"key": key},
            hint="check again with what the trainer puts there",
        )
        others = [found for found in self.draft.diagnostics if not found.message.endswith("so the trainer decides")]
        self.draft.diagnostics[:] = [*others, merged]
        return UNDECIDED

    def _bad(self, key: str, value: Value, wanted: str, choices: tuple[Any, ...] = ()) -> None:
        near = did_you_mean(str(value.content).lower(), [str(choice) for choice in choices])
        shown = shortened(self.source.written(value))
        hint = near or (f"use one of {', '.join(spelled(c, self.source.language) for c in choices)}" if choices else "")
        meant = str(value.content).strip()
        if not hint and isinstance(value.content, str) and meant.isascii() and meant.isdecimal():
            hint = f"use {int(meant[:9])}"
        hint = hint or f"use {wanted}"
        self._complain(key, value, "CFG002", f"{self.name(key)} is {shown}, and it has to be {wanted}", hint)

    def _complain(self, key: str, value: Value, code: str, message: str, hint: str, severity: str = "error") -> None:
        about = message if code == "CFG001" else key
        if about in self.complained:
            return
        self.complained.add(about)
        place = self.place(key)
        if isinstance(value.content, Unknown):
            place = f"{self.source.shown}:{value.content.line}:{value.content.column}"
        self.draft.diagnostics.append(
            Diagnostic(rule=code, severity=severity, message=message, location=place, values={"key": key}, hint=hint)
        )
