"""Reading JSON, TOML and YAML with the place of every value."""

import json
import re
import tomllib
from dataclasses import replace
from typing import Any

import yaml

from planner.codes import Config
from planner.lint.json_positions import JsonReader
from planner.lint.limits import MAX_NESTING, Budget, refused
from planner.lint.source import Note, Source, Unknown, Value, contradiction, flatten, shortened, unreadable
from planner.lint.syntax import not_of

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where PyYAML was built with it, as suggestions read a file many times."""
_DEEPSPEED_MARKS = ("zero_optimization", "train_batch_size", "train_micro_batch_size_per_gpu")
"""Keys of files that DeepSpeed reads as Hjson, with comments."""


def read_json(text: str, shown: str) -> Source:
    """The settings of a JSON object.

    Raises:
        PlanError: not JSON, or no object.
    """
    reader = JsonReader(text, relaxed=any(f'"{mark}"' in text for mark in _DEEPSPEED_MARKS))
    try:
        root = reader.read()
    except json.JSONDecodeError as error:
        raise not_of("JSON", error.msg, text, shown, (error.lineno, error.colno)) from error
    except (ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0] or "it nests too deeply"
        raise unreadable(Config.OTHER_LANGUAGE, f"this is not JSON: {reason}", shown) from error
    return Source(
        shown=shown,
        text=text,
        language="json",
        settings=flatten(_table(root, shown, "JSON object"), Budget(shown)),
        notes=tuple(reader.notes),
    )


def _table(root: Value, shown: str, kind: str) -> dict[str, Value]:
    if not isinstance(root.content, dict):
        raise unreadable(
            Config.OTHER_LANGUAGE, f"this is not a {kind}", shown, hint="write the settings as keys with values"
        )
    return root.content


def read_toml(text: str, shown: str) -> Source:
    """The settings of a TOML file.

    Raises:
        PlanError: not TOML.
    """
    try:
        fields = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        match = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        place = (int(match[1]), int(match[2])) if match else (1, 1)
        raise not_of("TOML", str(error).partition(" (at")[0] or "it nests too deeply", text, shown, place) from error
    places = _toml_places(text)
    return Source(
        shown=shown, text=text, language="toml", settings=flatten(_placed(fields, places, "", 0), Budget(shown))
    )


_TOML_TABLE = re.compile(r"\[\[?([^\]\n]+)\]\]?\s*(?:#.*)?")
_TOML_KEY = re.compile(r"""[A-Za-z0-9_.\-"' \t]+""")


def _toml_places(text: str) -> dict[str, Value]:
    """For keys that stand on a line of their own, where their value is; a value that spans lines has no end."""
    places: dict[str, Value] = {}
    table, offset = "", 0
    for number, line in enumerate(text.split("\n"), start=1):
        header = _TOML_TABLE.fullmatch(line.strip())
        key, equals, rest = line.partition("=")
        if header:
            table = _bare(header[1]) + "."
        elif equals and _TOML_KEY.fullmatch(key):
            written = _one_value(rest)
            start = offset + len(line) - len(rest.lstrip())
            end = start + len(written) if written else -1
            content = None if not written else tomllib.loads(f"x = {written}")["x"]
            places[table + _bare(key)] = Value(content=content, line=number, column=1, start=start, end=end)
        offset += len(line) + 1
    return places


def _bare(key: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in key.split("."))


def _one_value(rest: str) -> str:
    """The value at the start of a line's rest: the longest text that TOML reads as one, before a comment."""
    for written in (rest, rest.rpartition("#")[0], rest.partition("#")[0]):
        trimmed = written.strip()
        try:
            if trimmed and set(tomllib.loads(f"x = {trimmed}")) == {"x"} and "#" not in trimmed:
                return trimmed
        except (ValueError, RecursionError):
            continue
    return ""


def _placed(fields: dict[str, Any], places: dict[str, Value], prefix: str, line: int) -> dict[str, Value]:
    placed = {}
    for key, item in fields.items():
        place = places.get(prefix + key)
        known = Value(content=None, line=max(1, line), column=1, start=0, end=-1) if place is None else place
        same = place is not None and place.content == item
        content = _placed(item, places, f"{prefix}{key}.", known.line) if isinstance(item, dict) else _plain(item)
        placed[key] = Value(
            content=content, line=known.line, column=known.column, start=known.start, end=known.end if same else -1
        )
    return placed


def _plain(item: Any) -> Any:
    if isinstance(item, list):
        return tuple(_plain(part) for part in item)
    return item if isinstance(item, bool | int | float | str) else str(item)


def read_yaml(text: str, shown: str) -> Source:
    """The settings of a YAML mapping.

    Raises:
        PlanError: not YAML, no mapping, or larger than can be read in bounded time.
    """
    try:
        root = yaml.compose(text, Loader=_LOADER)
        reader = _YamlReader(text, Budget(shown))
        value = None if root is None else reader.value(root, 0)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise not_of("YAML", error.problem or "it cannot be read", text, shown, place) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0] or "it nests too deeply"
        raise unreadable(Config.OTHER_LANGUAGE, f"this is not YAML: {reason}", shown) from error
    if value is None:
        raise unreadable(Config.OTHER_LANGUAGE, "there is nothing in this YAML file", shown)
    settings = flatten(_table(value, shown, "YAML mapping"), reader.budget)
    for key, there in settings.items():
        if isinstance(there.content, Unknown):
            settings[key] = replace(there, content=_interpolated(settings, key, text, 0))
    return Source(shown=shown, text=text, language="yaml", settings=settings, notes=tuple(reader.notes))


_INTERPOLATION = re.compile(r"""['"]?\$\{(?:multiply:\s*(\d{1,6}),\s*\$\{)?(\.*)([\w.]{1,200})\}{1,2}['"]?""")
MAX_INTERPOLATIONS = 4


def _interpolated(settings: dict[str, Value], key: str, text: str, depth: int) -> Any:
    """What OmegaConf puts in for ``${.key}`` and ``${multiply:4, ${.key}}``, where the file itself has that key."""
    value = settings[key]
    found = _INTERPOLATION.fullmatch(text[value.start : value.end].strip()) if value.end >= 0 else None
    if not isinstance(value.content, Unknown) or found is None or depth > MAX_INTERPOLATIONS:
        return value.content
    factor, dots, path = found.groups()
    parents = key.split(".")[: -len(dots)] if dots else []
    # Some files are put below a name of their own before their paths are resolved.
    names = [".".join([*parents, path])] if dots else [path, path.partition(".")[2]]
    name = next((name for name in names if name in settings), None)
    content = None if name is None else _interpolated(settings, name, text, depth + 1)
    if factor and type(content) is int:
        return int(factor) * content
    return content if isinstance(content, int | float | str) and not factor else value.content


class _YamlReader:
    """Turns a node graph into values, with a budget: aliases can make a small file very large."""

    def __init__(self, text: str, budget: Budget) -> None:
        self.text = text
        self.budget = budget
        self.notes: list[Note] = []
        self.scalars = yaml.SafeLoader("")

    def value(self, node: Any, depth: int) -> Value:
        self.budget.spend(10)
        if depth > MAX_NESTING:
            raise refused("nesting", self.budget.shown)
        mark = node.start_mark
        content: Any
        if isinstance(node, yaml.MappingNode):
            content = self._mapping(node, depth)
        elif isinstance(node, yaml.SequenceNode):
            content = tuple(self.value(item, depth + 1).content for item in node.value)
        else:
            content = self._scalar(node)
        end = node.end_mark.index if isinstance(node, yaml.ScalarNode) or node.flow_style else -1
        # An anchor or a tag stands before the value and stays when the value is replaced.
        properties = re.compile(r"(?:[&!]\S*\s+)*").match(self.text, mark.index)
        start = properties.end() if properties else mark.index
        return Value(content=content, line=mark.line + 1, column=mark.column + 1, start=start, end=end)

    def _mapping(self, node: Any, depth: int) -> dict[str, Value]:
        table: dict[str, Value] = {}
        inherited: dict[str, Value] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)[:200] if isinstance(key_node, yaml.ScalarNode) else "?"
            value = self.value(value_node, depth + 1)
            if key_node.tag == "tag:yaml.org,2002:merge":
                # The first of several tables counts, and what stands beside them counts before all.
                for merged in value.content if isinstance(value.content, tuple) else (value.content,):
                    inherited = {**(merged if isinstance(merged, dict) else {}), **inherited}
                    self.budget.spend(len(inherited))
                continue
            if key in table and table[key].content != value.content:
                mark = key_node.start_mark
                detail = f"on line {table[key].line} and on line {value.line}"
                self.notes.append(contradiction(key, (mark.line + 1, mark.column + 1), detail))
            table[key] = value
        return {**inherited, **table}

    def _scalar(self, node: Any) -> Any:
        known = {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool", "null", "str")}
        if node.tag not in known:
            why = f"YAML tag {node.tag[:60]} is not read"
            return Unknown(why=why, line=node.start_mark.line + 1, column=node.start_mark.column + 1)
        content = self.scalars.construct_object(node)
        if isinstance(content, str) and ("${" in content or content == "???"):
            why = f"`{shortened(content)}` is put in when it runs"
            return Unknown(why=why, line=node.start_mark.line + 1, column=node.start_mark.column + 1)
        # YAML 1.1 takes 1e-5 for text; frameworks mean the number.
        if (
            isinstance(content, str)
            and not node.style
            and re.fullmatch(r"[+-]?\d{1,20}(\.\d*)?[eE][+-]?\d{1,3}", content)
        ):
            return float(content)
        return content
