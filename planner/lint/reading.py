"""Reading a dialect: typed values of settings, gathered into a draft."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from planner.codes import Config
from planner.diagnostics import Diagnostic
from planner.lint.draft import UNDECIDED, Asked, Dialect, Draft, Fields
from planner.lint.source import Source, Symbol, Unknown, Value, shortened, spelled
from planner.rules.rule import About
from planner.specs import ModelSpec
from planner.specs.files import did_you_mean

MAX_COUNT = 2_000_000
NOT_ALL_WAYS = "not every way through the script is judged; give its arguments with --set"
OPEN = "open"
"""Severity of what only running the file would tell: no error, and not judged."""


class Reading(Fields):
    """A draft in the making. Lives only while its dialect reads one configuration."""

    def __init__(self, dialect: Dialect, source: Source, asked: Asked) -> None:
        """Nothing read yet, and the model that the user named."""
        self.dialect, self.source, self.asked = dialect, source, asked
        self.settings: Mapping[str, Value] = source.settings
        self.fields: dict[str, Any] = {}
        self.keys: dict[str, str] = {}
        self.facts: dict[str, Any] = {}
        self.choices: dict[str, tuple[Any, ...]] = {}
        self.spoken: dict[str, str] = {}
        self.warns: set[About] = {*dialect.warns}
        self.model: ModelSpec | None = asked.model
        self.diagnostics: list[Diagnostic] = []
        self.assumptions: list[str] = [*source.assumed, *_way(source)]
        self.unmodelled: list[str] = []
        self.read: set[str] = set()
        self.needless_lines: set[int] = set()
        self.autos: list[str] = []
        """Keys that are left to the trainer."""

    def tell(self, **facts: Any) -> None:
        """Keep the facts that are known.

        Raises:
            KeyError: the dialect does not declare one of them.
        """
        for name, value in facts.items():
            if value is not None and value is not UNDECIDED:
                self.dialect.facts[name]
                self.facts[name] = value

    def mesh(self, degree: Any, stages: Any, context: Any = 1, chunks: Any = 1) -> None:
        """Set the degrees, with the mode of tensor parallelism and the schedule that follow from them."""
        self.fields |= {
            "tensor_parallel": degree,
            "tensor_mode": UNDECIDED if degree is UNDECIDED else "1d" if degree > 1 else "none",
            "tensor_depth": 1,
            "pipeline_parallel": stages,
            "context_parallel": context,
        }
        self.schedule(stages, chunks)

    def divide_sequences(self) -> None:
        """Have the layout's sequences divided by the ranks of the context: the stack has a formula for them."""
        self.fields["sequence_parallel_degree"] = self.fields["context_parallel"]
        if "context_parallel" in self.keys:
            self.keys["sequence_parallel_degree"] = self.keys["context_parallel"]

    def schedule(self, stages: Any, chunks: Any) -> None:
        """Set the schedule of a pipeline whose stages have some chunks of layers each."""
        known = UNDECIDED not in (stages, chunks)
        turns = UNDECIDED if not known else "interleaved" if chunks > 1 else "1f1b"
        self.fields |= {"schedule": "none" if stages == 1 else turns, "num_model_chunks": 1 if stages == 1 else chunks}

    def ranks(self) -> int | None:
        """What the degrees leave of the GPUs; nothing where one of them is not decided."""
        degrees = [self.fields.get(f"{name}_parallel", 1) for name in ("tensor", "pipeline", "context")]
        return None if UNDECIDED in degrees else max(1, self.asked.gpus // max(1, math.prod(degrees)))

    def offload(self, optimizer: Any, parameters: Any) -> None:
        """Set what leaves the device from the two devices that a file names."""
        devices = (optimizer, parameters)
        self.fields |= {
            "offload.optimizer": float(optimizer in ("cpu", "nvme")),
            "offload.parameters": float(parameters in ("cpu", "nvme")),
            "offload.tier": next((tier for tier in ("nvme", "cpu") if tier in devices), "none"),
        }

    def no_formula(self, reason: str) -> None:
        """Remember once why nothing can be predicted."""
        if reason not in self.unmodelled:
            self.unmodelled.append(reason)

    def draft(self) -> Draft:
        """What was read."""
        frozen: dict[type, Callable[[Any], Any]] = {list: tuple, set: frozenset}
        read = {field.name: getattr(self, field.name) for field in fields(Draft)}
        return Draft(**{name: frozen.get(type(value), lambda same: same)(value) for name, value in read.items()})


def _way(source: Source) -> list[str]:
    """Which branches of a script that cannot be told are taken."""
    taken = [f"the condition on line {line} {'holds' if holds else 'does not hold'}" for line, holds in source.path]
    return [*taken, *([NOT_ALL_WAYS] if source.cut else [])]


@dataclass(frozen=True)
class _Kind:
    """What a value has to be."""

    words: str
    accepts: Callable[[Any], bool]
    made: Callable[[Any], Any] = lambda content: content
    choices: tuple[Any, ...] = ()
    may_be_auto: bool = True
    may_be_none: bool = True
    """``None`` stands for the default."""


_WORD = _Kind("a text", lambda content: isinstance(content, str), may_be_auto=False)
_FLAG = _Kind("true or false", lambda content: isinstance(content, bool), choices=(False, True))
_NUMBER = _Kind(
    "a number", lambda content: isinstance(content, int | float) and not isinstance(content, bool), made=float
)


class Keys:
    """Typed reading of settings; what cannot be used becomes a diagnostic and :data:`UNDECIDED`."""

    def __init__(self, reading: Reading, settings: Mapping[str, Value] | None = None) -> None:
        """Read ``settings``, or all that the reading has, into ``reading``."""
        self.reading, self.source = reading, reading.source
        self.settings = reading.settings if settings is None else settings
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
        self._looked_at(key, name)
        if isinstance(value.content, Unknown):
            message = f"{value.content.name or self.name(key)} cannot be told: {value.content.why}"
            return self._complain(key, value, Config.HIDDEN, message, "give it with --set, or write it as a constant")
        return value.content

    def _looked_at(self, key: str, name: str) -> None:
        self.reading.read.add(key)
        if name:
            self.reading.keys[name] = key

    def plain(self, *keys: str, name: str = "") -> Any:
        """The value of the first key, or nothing where it is hidden, as what a script makes of it is no constant."""
        found = self.get(*keys)
        if found is None or isinstance(found[1].content, Unknown):
            return None
        return self.raw(*keys, name=name)

    def given(self, *keys: str) -> bool:
        """Whether one of the keys has a value, which ``None`` is not."""
        return any(key in self.settings and self.settings[key].content is not None for key in keys)

    def on(self, *keys: str) -> bool:
        """Whether one of the keys has a value other than ``None`` and false, as an option of a command does."""
        return any(key in self.settings and self.settings[key].content not in (None, False) for key in keys)

    def count(self, *keys: str, default: Any = None, name: str = "", least: int = 1) -> Any:
        """A whole number from ``least``."""

        def accepts(content: Any) -> bool:
            whole = isinstance(content, int) or (isinstance(content, float) and content.is_integer())
            return whole and not isinstance(content, bool) and least <= content <= MAX_COUNT

        return self._typed(keys, _Kind(f"a whole number from {least} to {MAX_COUNT}", accepts, int), default, name)

    def choice(self, *keys: str, choices: tuple[Any, ...], default: Any = None, name: str = "") -> Any:
        """One of ``choices``."""

        def accepts(content: Any) -> bool:
            return not isinstance(content, bool | dict | tuple) and content in choices

        words = f"one of {', '.join(map(repr, choices))}"
        kind = _Kind(words, accepts, choices=choices, may_be_auto=False, may_be_none=None not in choices)
        return self._typed(keys, kind, default, name)

    def word(self, *keys: str, default: str | None = None, name: str = "") -> Any:
        """A text; the dialect's rules say which are known."""
        return self._typed(keys, _WORD, default, name)

    def flag(self, *keys: str, default: bool = False, name: str = "") -> Any:
        """True or false; an option of a script is given or not, whatever stands behind it."""
        there = self.get(*keys)
        if self.source.language == "shell" and there is not None:
            self._looked_at(there[0], name)
            return there[1].content is not False
        return self._typed(keys, _FLAG, default, name)

    def number(self, *keys: str, default: float | None = 0.0, name: str = "") -> Any:
        """A number."""
        return self._typed(keys, _NUMBER, default, name)

    def read(self, *facts: str) -> list[Any]:
        """Tell the facts that are values of their keys, read by their kind, and return these values."""
        values = []
        for name in facts:
            fact = self.reading.dialect.facts[name]
            key, told = fact.key or name, fact.field or name
            if fact.kind is int:
                value = self.count(key, default=fact.default, name=told, least=fact.least)
            else:
                readers: dict[Any, Callable[..., Any]] = {float: self.number, bool: self.flag, str: self.word}
                value = readers[fact.kind](key, default=fact.default, name=told)
            self.reading.tell(**{name: value})
            self.reading.keys.setdefault(name, key)
            values.append(value)
        return values

    def _typed(self, keys: tuple[str, ...], kind: _Kind, default: Any, name: str) -> Any:
        content = self.raw(*keys, default=default, name=name)
        found = self.get(*keys)
        if found is None or content is UNDECIDED:
            return content
        key, value = found
        if kind.choices:
            self.reading.choices[key] = kind.choices
        if content is None and kind.may_be_none:
            return default
        if isinstance(content, Symbol):
            why = f"{self.name(key)} is `{shortened(content)}`, which is imported or not defined"
            return self._complain(key, value, Config.HIDDEN, why, "give it with --set, or write it as a constant")
        if content == "auto" and kind.may_be_auto:
            return self._auto(key)
        return kind.made(content) if kind.accepts(content) else self._wrong(key, value, kind)

    def left_open(self, key: str, why: str) -> Any:
        """Say that a value is told elsewhere."""
        message = f"{self.name(key)} cannot be told: {why}"
        return self._complain(key, self.settings[key], Config.HIDDEN, message, "write the number that it will be")

    def place(self, key: str) -> str:
        """``file:line: KEY = value`` for the definition of a key."""
        return self.source.place_of(self.settings, key)

    def name(self, key: str) -> str:
        """The key as its definition calls it."""
        return self.source.name_of(self.settings, key)

    def _auto(self, key: str) -> Any:
        """One warning for all such keys."""
        reading, ending = self.reading, "so the trainer decides"
        reading.autos += [] if key in reading.autos else [key]
        verb = "is" if len(reading.autos) == 1 else "are"
        merged = Diagnostic(
            rule=Config.HIDDEN,
            severity="warning",
            message=f"{', '.join(reading.autos)} {verb} auto, {ending}",
            location=self.place(reading.autos[0]),
            values={"key": key},
            hint="check again with what the trainer puts there",
        )
        reading.diagnostics[:] = [*(d for d in reading.diagnostics if not d.message.endswith(ending)), merged]
        return UNDECIDED

    def _wrong(self, key: str, value: Value, kind: _Kind) -> Any:
        near = did_you_mean(str(value.content).lower(), [str(choice) for choice in kind.choices])
        listed = ", ".join(spelled(choice, self.source.language) for choice in kind.choices)
        hint = near or (f"use one of {listed}" if kind.choices else "")
        meant = str(value.content).strip()
        if not hint and isinstance(value.content, str) and meant.isascii() and meant.isdecimal():
            hint = f"use {int(meant[:9])}"
        message = f"{self.name(key)} is {shortened(self.source.written(value))}, and it has to be {kind.words}"
        return self._complain(key, value, Config.WRONG_KIND, message, hint or f"use {kind.words}")

    def _complain(self, key: str, value: Value, code: Config, message: str, hint: str) -> Any:
        about = message if code == Config.HIDDEN else key
        place = self.place(key)
        if isinstance(value.content, Unknown):
            place = f"{self.source.shown}:{value.content.line}:{value.content.column}"
        if about not in self.complained:
            self.complained.add(about)
            severity = OPEN if code == Config.HIDDEN else "error"
            values = {"key": key}
            found = Diagnostic(rule=code, severity=severity, message=message, location=place, values=values, hint=hint)
            self.reading.diagnostics.append(found)
        return UNDECIDED


@dataclass(frozen=True)
class Unknowns:
    """What is said of a key that a table does not have."""

    message: str
    """A template of the table and the name."""
    cutoff: float
    """How alike a known key has to be to be meant."""
    severity: str = "error"
    far: bool = True
    """Whether a key that is like no other is named as well."""


@lru_cache(maxsize=4096)
def _nearly(name: str, known: frozenset[str], cutoff: float) -> list[str]:
    """The known name that is most like another one; suggestions judge a file many times."""
    return get_close_matches(name, sorted(known), n=1, cutoff=cutoff)


def refuse_unknown(keys: Keys, table: str, known: Collection[str], unknowns: Unknowns) -> None:
    """Name the keys of one table that its framework does not read, with the one that is nearly called so."""
    for key, value in keys.settings.items():
        parent, _, name = ("", "", key) if key.startswith("-") else key.rpartition(".")
        if parent != table or name in known:
            continue
        likely = _nearly(name, frozenset(known), unknowns.cutoff)
        if not likely and not unknowns.far:
            continue
        keys.reading.diagnostics.append(
            Diagnostic(
                rule=Config.UNKNOWN_KEY,
                severity=unknowns.severity,
                hint=f"did you mean `{likely[0]}`?" if likely else f"remove {key}",
                message=unknowns.message.format(table=table, name=name),
                location=f"{keys.source.shown}:{value.line}: {key}",
                values={"key": key, "near": "".join(likely)},
            )
        )
