"""Words of shell text: plain characters, quotes and expansions, each with its place."""

import re
from dataclasses import dataclass
from functools import cached_property

from planner.lint.limits import MAX_NESTING

_LITERAL = re.compile(r"[^\s'\"\\$`;&|()<>#]+")
_QUOTED = re.compile(r"[^\"\\$`]+")
_NAME = re.compile(r"[A-Za-z_]\w*|[0-9@*#?$!-]")
_BRACED = re.compile(r"(#?)([A-Za-z_]\w*|[0-9]+|[@*#?])(\[[^\]]*\])?(.*)", re.DOTALL)


@dataclass(frozen=True)
class Piece:
    """A run of plain characters; ``text`` stands at ``start`` of the script."""

    text: str
    start: int
    quoted: bool = False


@dataclass(frozen=True)
class Variable:
    """``$name``, ``${name[index]}``, ``${name:-word}``; ``operator`` is what follows the name, ``#`` for a length."""

    name: str
    start: int
    index: str = ""
    operator: str = ""
    word: "Word | None" = None
    quoted: bool = False
    end: int = -1
    """Offset behind it."""


@dataclass(frozen=True)
class Hidden:
    """What only running would tell: a substituted command; or arithmetic, which can be computed."""

    text: str
    start: int
    arithmetic: bool = False


Part = Piece | Variable | Hidden


@dataclass(frozen=True)
class Word:
    """Parts that stand together."""

    parts: tuple[Part, ...]
    start: int

    @cached_property
    def literal(self) -> str | None:
        """The text of a word without expansions."""
        plain = [part.text for part in self.parts if isinstance(part, Piece)]
        return "".join(plain) if len(plain) == len(self.parts) else None


class Words:
    """Takes words off a text, from ``at`` on."""

    def __init__(self, text: str, at: int = 0) -> None:
        """Start at an offset."""
        self.text, self.at, self.depth = text, at, 0

    def word(self) -> Word | None:
        """The word that begins here, if one does."""
        start, parts = self.at, list[Part]()
        while self.at < len(self.text):
            if found := _LITERAL.match(self.text, self.at):
                parts.append(Piece(found[0], self.at))
                self.at = found.end()
            elif not self._special(parts, start):
                break
        return Word(tuple(parts), start) if self.at > start and parts else None

    def _special(self, parts: list[Part], start: int) -> bool:
        """Take a quote, an escape or an expansion; false at what ends a word."""
        here = self.text[self.at]
        if here == "'":
            end = self.text.find("'", self.at + 1)
            end = len(self.text) if end < 0 else end
            parts.append(Piece(self.text[self.at + 1 : end], self.at + 1, quoted=True))
            self.at = end + 1
        elif here == '"':
            self.at += 1
            self.run(parts, len(self.text), '"')
            self.at += 1
        elif here == "\\":
            self._escape(parts)
        elif here == "#" and self.at > start:
            parts.append(Piece("#", self.at))
            self.at += 1
        elif here in "$`":
            self._expansion(parts, quoted=False)
        else:
            return False
        return True

    def _escape(self, parts: list[Part]) -> None:
        ended = re.compile(r"\\(\r?\n|$)").match(self.text, self.at)
        if not ended:
            parts.append(Piece(self.text[self.at + 1], self.at + 1, quoted=True))
        self.at = ended.end() if ended else self.at + 2

    def run(self, parts: list[Part], end: int, stop: str = "") -> None:
        """What stands in double quotes, or up to ``end`` whatever it is; quotes of its own are none of it."""
        parts.append(Piece("", self.at, quoted=True))
        while self.at < end:
            here = self.text[self.at]
            if here == stop:
                return
            if here == '"':
                self.at += 1
                continue
            if here == "\\":
                self._escape(parts)
            elif here in "$`":
                self._expansion(parts, quoted=True)
            else:
                found = _QUOTED.match(self.text, self.at, end)
                taken = found[0] if found else here
                parts.append(Piece(taken, self.at, quoted=True))
                self.at += len(taken)

    def closing(self, start: int, opened: str, closed: str) -> int:
        """Where the bracket that is open at ``start`` closes; the end of the text if it does not."""
        depth = 1
        for found in re.compile(rf"\\.|'[^']*'|[{re.escape(opened + closed)}]", re.DOTALL).finditer(self.text, start):
            depth += (found[0] == opened) - (found[0] == closed)
            if depth == 0:
                return found.start()
        return len(self.text)

    def _expansion(self, parts: list[Part], *, quoted: bool) -> None:
        start = self.at
        if self.text[start] == "`":
            end = self.text.find("`", start + 1)
            end = len(self.text) if end < 0 else end
            parts.append(Hidden(self.text[start : end + 1], start))
            self.at = end + 1
        elif self.text.startswith("$((", start):
            end = self.closing(start + 3, "(", ")")
            parts.append(Hidden(self.text[start + 3 : end], start, arithmetic=True))
            self.at = end + 2
        elif self.text.startswith("$(", start):
            end = self.closing(start + 2, "(", ")")
            parts.append(Hidden(self.text[start : end + 1], start))
            self.at = end + 1
        elif self.text.startswith("${", start):
            end = self.closing(start + 2, "{", "}")
            parts.append(self._braced(start + 2, end, quoted=quoted))
            self.at = end + 1
        elif found := _NAME.match(self.text, start + 1):
            parts.append(Variable(found[0], start, quoted=quoted, end=found.end()))
            self.at = found.end()
        else:
            parts.append(Piece("$", start, quoted=quoted))
            self.at = start + 1

    def _braced(self, start: int, end: int, *, quoted: bool) -> Part:
        found = _BRACED.fullmatch(self.text[start:end])
        if not found or self.depth > MAX_NESTING:
            return Hidden(self.text[start - 2 : end + 1][:200], start - 2)
        length, name, index, rest = found.groups()
        known = re.match(r":?[-=+?]", rest)
        operator = known[0] if known else ""
        if rest and not operator:
            return Hidden(self.text[start - 2 : end + 1][:200], start - 2)
        inner: list[Part] = []
        if operator:
            self.depth += 1
            self.at = end - len(rest) + len(operator)
            at = self.at
            self.run(inner, end)
            self.depth -= 1
            return Variable(name, start - 2, (index or "")[1:-1], operator, Word(tuple(inner), at), quoted, end + 1)
        return Variable(name, start - 2, (index or "")[1:-1], "#" if length else "", None, quoted, end + 1)
