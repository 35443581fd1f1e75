"""What a configuration file says, whatever language it is written in: keys, values and where they stand."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from planner.codes import Config
from planner.diagnostics import Diagnostic, PlanError
from planner.lint.limits import MAX_NESTING, Budget, refused

Language = Literal["python", "json", "toml", "yaml", "shell"]

MAX_SHOWN = 60


class Symbol(str):
    """A name that only running the file would resolve, such as ``AMP_TYPE.NAIVE`` or an imported model."""

    __slots__ = ()


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """A value that cannot be told without running the file, and why."""

    why: str
    line: int
    column: int
    name: str = ""
    """The name that hides it, where another value is made from that name."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """A value with its place."""

    content: Any
    """A number, text, ``None``, :class:`Symbol`, :class:`Unknown`, a tuple of these, or a dict of :class:`Value`."""
    line: int
    """From 1."""
    column: int
    """From 1."""
    start: int = 0
    """Offset of the text that defines it, in characters; a repair writes there."""
    end: int = -1
    """-1 where no text can be replaced."""

    @classmethod
    def hidden(cls, unknown: Unknown) -> Self:
        """A value that cannot be told, where it is hidden."""
        return cls(content=unknown, line=unknown.line, column=unknown.column)


@dataclass(frozen=True, kw_only=True)
class Note:
    """A place of the file that could not be evaluated, or that contradicts another one."""

    code: Config
    message: str
    line: int
    column: int
    detail: str = ""
    hint: str = ""
    severity: str = "warning"
    key: str = ""
    """The key it is about, where there is one."""


def contradiction(key: str, place: tuple[int, int], detail: str, *, given: bool = False) -> Note:
    """The note that a key has two values; ``given`` for an option, which is no definition."""
    return Note(
        code=Config.CONTRADICTION,
        message=f"{key} is {'given' if given else 'defined'} twice with different values",
        line=place[0],
        column=place[1],
        detail=detail,
        hint=f"keep one {key}; the last one counts" if given else f"keep one definition of {key}",
        severity="warning" if given else "error",
        key=key,
    )


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of a class that a dialect knows, with its evaluated keyword arguments."""

    name: str
    line: int
    column: int
    arguments: dict[str, Value]
    complete: bool = True
    """Whether these are all; a table that is unpacked and cannot be told may hide some."""

    @property
    def place(self) -> tuple[int, int]:
        """Line and column."""
        return self.line, self.column


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file as read. Keys of nested tables are joined with dots."""

    shown: str
    """The path as the user wrote it."""
    text: str
    language: Language
    settings: Mapping[str, Value]
    notes: tuple[Note, ...] = ()
    calls: tuple[Call, ...] = ()
    others: tuple[Call, ...] = ()
    """Calls of what stands beside a plugin: Booster, which gives some their precision, and GPT2Config."""
    called: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Last names of everything the file calls or passes around, with line and column of the first use."""
    undefined: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Names that a Python file uses and nothing before defines, with line and column."""
    variables: Mapping[str, Value] = field(default_factory=dict)
    """What a shell script assigns."""
    documents: tuple[str, ...] = ()
    """Texts that a shell script passes to commands."""
    options: Mapping[str, int] = field(default_factory=dict)
    """Offset behind each option of a shell script with its value, where another one can be written."""

    assumed: tuple[str, ...] = ()
    """Defaults of arguments and values of the user that stand for what only running the file would tell."""
    path: tuple[tuple[int, bool], ...] = ()
    """Lines of conditions of a script that cannot be told, and whether each is taken to hold."""
    paths: tuple[tuple[tuple[int, int], ...], ...] = ()
    """Every path that leads to the same settings: lines of such conditions with the branch that is taken."""
    ways: "tuple[Source, ...]" = ()
    """The same file, as other branches of it or other commands in it have it."""
    cut: bool = False
    """Whether there are more ways than are followed."""

    def with_text(self, value: Value, replacement: str) -> str:
        """The text of the file with one value replaced."""
        return self.text[: value.start] + replacement + self.text[value.end :]

    def written(self, value: Value) -> str:
        """The value as the file spells it."""
        return self.text[value.start : value.end] if value.end >= 0 else spelled(value.content, self.language)

    def name_of(self, settings: Mapping[str, Value], key: str) -> str:
        """A key as its definition calls it: ``TENSOR_PARALLEL`` where ``parallel.tensor.size`` only repeats it."""
        value = settings.get(key)
        if value is None or value.end < 0:
            return key
        return next((other for other, there in self.settings.items() if there is value), key)

    def place_of(self, settings: Mapping[str, Value], key: str) -> str:
        """``file:line: KEY = value`` for the definition of a key."""
        value = settings.get(key)
        if value is None:
            return self.shown
        name, written = self.name_of(settings, key), shortened(self.written(value))
        if value.content is True and (self.language == "shell" or name in self.called):
            setting = name
        elif self.language == "shell":
            setting = f"{name} {written}"
        else:
            setting = f"{name} = {written}"
        return f"{self.shown}:{value.line}: {setting}"


def flatten(values: Mapping[str, Value], budget: Budget) -> dict[str, Value]:
    """Nested tables as dotted keys; each table is also there under its own key.

    Raises:
        PlanError: tables that are in each other many times make too many keys.
    """
    flat: dict[str, Value] = {}
    waiting = [("", values)]
    while waiting:
        prefix, table = waiting.pop()
        budget.spend(4 * len(table))
        if prefix.count(".") > MAX_NESTING:
            raise refused("nesting", budget.shown)
        for key, value in table.items():
            flat[prefix + key] = value
            if isinstance(value.content, dict):
                waiting.append((f"{prefix}{key}.", value.content))
    return flat


def spelled(value: Any, language: Language) -> str:
    """A plain value as a literal of the language."""
    if isinstance(value, tuple):
        inner = ", ".join(spelled(item, language) for item in value)
        return f"({inner})" if language == "python" else f"[{inner}]"
    if isinstance(value, bool) or value is None:
        words = {"python": ("True", "False", "None"), "shell": ("true", "false", "")}
        true, false, none = words.get(language, ("true", "false", "null"))
        return none if value is None else true if value else false
    if isinstance(value, Symbol):
        return str(value)
    if isinstance(value, str):
        quote = "" if language in ("shell", "yaml") else '"' if language in ("json", "toml") else "'"
        return f"{quote}{value}{quote}"
    return f"{value}"


def shortened(text: str) -> str:
    """One line of at most :data:`MAX_SHOWN` characters, free of control characters."""
    line = "".join(character if character.isprintable() else " " for character in " ".join(text[:200].split()))
    return line if len(line) <= MAX_SHOWN else line[: MAX_SHOWN - 3] + "..."


def unreadable(code: Config, message: str, location: str, *, detail: str = "", hint: str = "") -> PlanError:
    """A file that is not what it should be, for the command line (exit code 2)."""
    return PlanError(Diagnostic(rule=code, message=message, location=location, detail=detail, hint=hint))
