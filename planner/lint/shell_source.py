"""The options of what a shell script or a command line starts, without running either."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from planner.lint.limits import Budget
from planner.lint.shell.expansion import Bit, Bits, part_of, split
from planner.lint.shell.following import Follower, Way
from planner.lint.shell.syntax import Node, Parser
from planner.lint.source import Note, Source, Unknown, Value, contradiction
from planner.lint.syntax import Places

Beside = Callable[[str], str | None]
MAX_WAYS = 12
"""Ways through a script that are judged, and commands of one way."""
_OPTION = re.compile(r"--?[A-Za-z][\w-]*(?=[=\s]|$)")
_NUMBER = re.compile(r"[+-]?\d{1,18}")
_FLOAT = re.compile(r"[+-]?(\d{1,18}\.\d*|\.\d{1,18}|\d{1,18})([eE][+-]?\d{1,3})?")


def read_shell(text: str, shown: str, given: Mapping[str, str], read_beside: Beside) -> Source:
    """The options ``--name value`` of what a text starts; other ways through it, and other commands, are in ``ways``.

    An option without a value is ``True``; of several values the last counts. Names are kept as written.

    Args:
        text: the script.
        shown: its name, beside which a sourced file is looked for.
        given: values of variables that the user knows.
        read_beside: the text of a file of that name in the folder of the script, if it can be read.
    """
    reader, parser = _Script(text, shown, given, read_beside), Parser(text)
    nodes = parser.script()
    waiting: list[list[int]] = [[]]
    sources: list[Source] = []
    cut = False
    while waiting and len(sources) < MAX_WAYS:
        choices = waiting.pop(0)
        way = reader.follow(nodes, choices)
        made = [taken for _, taken, _ in way.choices]
        others = (
            (index, other) for index in range(len(choices), len(made)) for other in range(1, way.choices[index][2])
        )
        waiting += [[*made[:index], other] for index, other in islice(others, MAX_WAYS * 4 + 1)]
        for source in reader.sources(way):
            same = next((index for index, other in enumerate(sources) if _same(source, other)), None)
            if same is None:
                sources.append(source)
            elif source.paths[0] not in sources[same].paths:
                sources[same] = replace(sources[same], paths=(*sources[same].paths, *source.paths))
        cut |= len(waiting) > MAX_WAYS * 4
        del waiting[MAX_WAYS * 4 :]
    cut |= bool(waiting)
    first, *ways = (replace(source, cut=cut, documents=tuple(parser.documents)) for source in sources)
    return replace(first, ways=tuple(ways))


def _same(left: Source, right: Source) -> bool:
    plain = [{name: value.content for name, value in one.settings.items()} for one in (left, right)]
    return plain[0] == plain[1]


@dataclass(kw_only=True)
class _Options:
    """Options of one command."""

    settings: dict[str, Value] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)


class _Script:
    """A script whose ways share one budget."""

    def __init__(self, text: str, shown: str, given: Mapping[str, str], read_beside: Beside) -> None:
        self.text, self.shown, self.given, self.read_beside = text, shown, given, read_beside
        self.budget, self.places = Budget(shown), Places(text)

    def follow(self, nodes: list[Node], choices: list[int]) -> Way:
        """One way through the commands."""
        variables: dict[str, list[Bits]] = {name: [(Bit(value),)] for name, value in self.given.items()}
        follower = Follower(
            text=self.text, budget=self.budget, read_beside=self.read_beside, variables=variables, choices=choices
        )
        return follower.way(nodes)

    def sources(self, way: Way) -> list[Source]:
        """What each command of a way is given; where none has options, what stands in variables."""
        commands = [self._options(split(bits), place) for place, bits in way.launches]
        commands = [one for one in commands if one.settings]
        if not commands:
            loose = [one for values in way.variables.values() for bits in values for one in split(bits)]
            commands = [self._options(loose, 0)]
        variables = {name: self._value(values[0]) for name, values in way.variables.items() if len(values) == 1}
        taken = tuple((self.places.of(at)[0], branch) for at, branch, _ in way.choices)
        path = tuple((line, branch == 0) for line, branch in taken)
        return [
            Source(
                shown=self.shown,
                text=self.text,
                language="shell",
                settings=one.settings,
                notes=tuple(one.notes),
                variables=variables,
                options=one.ends,
                path=path,
                paths=(taken,),
            )
            for one in commands
        ]

    def _options(self, fields: list[Bits], place: int) -> _Options:
        found = _Options()
        index = 0
        while index < len(fields):
            bits = fields[index]
            text = _text(bits)
            index += 1
            match = _OPTION.match(text) if text.startswith("--") else None
            if match is None or (bits[0].why and not text):
                continue
            start = bits[0].start if bits[0].start >= 0 else place
            if match.end() < len(text):
                value, last = self._value(_after(bits, match.end() + 1)), bits
            elif index < len(fields) and _is_value(fields[index]):
                value, last = self._value(fields[index]), fields[index]
                index += 1
            else:
                line, column = self.places.of(start)
                value, last = Value(content=True, line=line, column=column), bits
            self._keep(found, match[0], value, (start, last[-1].used))
        return found

    def _keep(self, found: _Options, name: str, value: Value, span: tuple[int, int]) -> None:
        earlier = found.settings.get(name)
        place = self.places.of(span[0])
        plain = not isinstance(value.content, Unknown) and not (earlier and isinstance(earlier.content, Unknown))
        if earlier is not None and plain and earlier.content != value.content:
            detail = f"on line {earlier.line} and on line {place[0]}"
            found.notes.append(contradiction(name, place, detail, given=True))
        found.settings[name] = value
        if 0 <= span[0] < span[1]:
            found.ends[name] = span[1]

    def _value(self, bits: Bits) -> Value:
        hidden = next((bit for bit in bits if bit.why), None)
        first = bits[0] if bits else Bit("")
        line, column = self.places.of(max(first.start if first.start >= 0 else first.place, 0))
        if hidden is not None:
            there = self.places.of(max(hidden.place, 0))
            return Value(content=Unknown(why=hidden.why, line=there[0], column=there[1]), line=line, column=column)
        text = _text(bits)
        whole = len(bits) == 1 and first.start >= 0 and self.text.startswith(text, first.start)
        end = first.start + len(text) if whole else -1
        return Value(content=_number(text), line=line, column=column, start=max(first.start, 0), end=end)


def _text(bits: Bits) -> str:
    return "".join(bit.text for bit in bits)


def _is_value(bits: Bits) -> bool:
    text = _text(bits)
    return bool(bits) and (not text.startswith("-") or bool(_FLOAT.fullmatch(text)))


def _after(bits: Bits, skip: int) -> Bits:
    """The bits behind some characters."""
    left: list[Bit] = []
    for bit in bits:
        taken = min(skip, len(bit.text))
        skip -= taken
        if bit.why or len(bit.text) > taken:
            left.append(part_of(bit, taken, len(bit.text)))
    return tuple(left)


def _number(text: str) -> object:
    if _NUMBER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
