"""What words of a script stand for: variables, defaults, arrays and arithmetic, with the place of every character."""

import re
from dataclasses import dataclass, replace

from planner.diagnostics import PlanError
from planner.lint.constants import Constants, HiddenError
from planner.lint.limits import MAX_LENGTH, Budget
from planner.lint.shell.words import Hidden, Piece, Variable, Word
from planner.lint.source import Value
from planner.lint.syntax import parse


@dataclass(frozen=True)
class Bit:
    """A run of text that a value is made of: where it is written, or why it cannot be told."""

    text: str
    start: int = -1
    """-1 where it is computed or stands in another file."""
    used: int = -1
    """Offset behind the place where the script uses it."""
    why: str = ""
    place: int = 0
    """Offset that a message names."""


Bits = tuple[Bit, ...]


@dataclass(kw_only=True)
class Expander:
    """The variables of a script while it is followed."""

    budget: Budget
    variables: dict[str, list[Bits]]
    elsewhere: int = -1
    """Offset of the command that reads the file that is followed now; -1 in the script itself."""

    def store(self, name: str, value: list[Bits]) -> None:
        """Give a variable its values; more than one is an array."""
        self.budget.spend(sum(map(len, value)))
        if sum(map(len, value)) > MAX_LENGTH:
            value = [(Bit("", why="the value is too large to be meant"),)]
        self.variables[name] = value

    def bounded(self, bits: Bits) -> Bits:
        """The same, unless it is too long."""
        self.budget.spend(len(bits))
        if sum(len(bit.text) + 1 for bit in bits) > 4 * MAX_LENGTH:
            return (Bit("", why="the value is too large to be meant"),)
        return bits

    def plain(self, word: Word) -> str | None:
        """The text of a word; nothing where it cannot be told."""
        bits = self.expand(word)
        return None if any(bit.why for bit in bits) else "".join(bit.text for bit in bits)

    def expand(self, word: Word) -> Bits:
        """What a word stands for, not split into fields."""
        bits: list[Bit] = []
        for part in word.parts:
            if isinstance(part, Piece):
                bits.append(self._bit(part.text, part.start))
            elif isinstance(part, Variable):
                bits += self._variable(part)
            else:
                bits.append(self._computed(part))
        return self.bounded(tuple(bit for bit in bits if bit.text or bit.why))

    def _bit(self, text: str, start: int) -> Bit:
        if self.elsewhere >= 0:
            return Bit(text, place=self.elsewhere)
        return Bit(text, start, start + len(text), place=start)

    def _hidden(self, why: str, start: int) -> Bit:
        return Bit("", why=why, place=start if self.elsewhere < 0 else self.elsewhere)

    def _variable(self, part: Variable) -> Bits:
        values = self._values(part)
        if part.operator == "#":
            number = str(len(values)) if values and part.index in ("@", "*") else None
            place = part.start if self.elsewhere < 0 else self.elsewhere
            return (Bit(number, place=place),) if number else (self._hidden(f"`{part.name}` is counted", part.start),)
        unset = values is None or (part.operator.startswith(":") and not any(bit for bits in values for bit in bits))
        if part.operator.endswith(("-", "=")) and unset and part.word is not None:
            found = self.expand(part.word)
            if part.operator.endswith("="):
                self.store(part.name, [found])
            return found
        if part.operator.endswith("+"):
            return () if unset or part.word is None else self.expand(part.word)
        if values is None:
            named = part.name[0].isalpha() or part.name[0] == "_"
            why = f"variable {part.name} is not assigned a constant"
            return (
                self._hidden(why if named else f"`${part.name}` is only given when the script is called", part.start),
            )
        return self._used(values, part)

    def _used(self, values: list[Bits], part: Variable) -> Bits:
        """Values where a word uses them; of a plain one the place is known where an option can be put behind it."""
        if len(values) == 1 and len(values[0]) == 1 and not re.search(r"\s", values[0][0].text) and self.elsewhere < 0:
            return (replace(values[0][0], used=part.end),)
        return tuple(bit for value in values for bit in (*value, Bit(" ")))[:-1]

    def _values(self, part: Variable) -> list[Bits] | None:
        name, index = part.name, part.index
        if name in ("@", "*"):
            return self.variables.get("@")
        if name.isdecimal():
            given = self.variables.get("@")
            if given is not None and 1 <= int(name[:6]) <= len(given):
                return [given[int(name[:6]) - 1]]
            return self.variables.get(name)
        if not index or index in ("@", "*"):
            found = self.variables.get(name)
            return found if found is None or index else found[:1] if len(found) > 1 else found
        if (direct := self.variables.get(f"{name}[{index}]")) is not None:
            return direct
        values = self.variables.get(name, [])
        return [values[int(index)]] if index.isdecimal() and len(index) < 6 and int(index) < len(values) else None  # noqa: PLR2004

    def _computed(self, part: Hidden) -> Bit:
        if not part.arithmetic:
            return self._hidden(f"`{part.text[:60]}` would have to be run, and nothing is executed", part.start)
        number = self.number(part.text)
        if number is None:
            return self._hidden(f"`{part.text[:60]}` cannot be computed", part.start)
        return Bit(number, place=part.start if self.elsewhere < 0 else self.elsewhere)

    def number(self, expression: str) -> str | None:
        """The result of arithmetic, as the shell has whole numbers."""
        if len(expression) > MAX_LENGTH:
            return None
        names: dict[str, Value] = {}
        for name in re.findall(r"[A-Za-z_]\w*|(?<=\$)\d", expression):
            values = self._values(Variable(name, 0))
            text = "".join(bit.text for bit in values[0]) if values and not any(b.why for b in values[0]) else ""
            if not re.fullmatch(r"\s*-?\d{1,18}\s*", text):
                return None
            names[f"v{name}"] = Value(content=int(text), line=1, column=1)
        formula = re.sub(r"\$?\{?([A-Za-z_]\w*|(?<=\$)\d)\}?", r"v\1", expression).replace("/", "//").replace("$v", "v")
        formula = re.sub(r"!(?!=)", " not ", formula.replace("&&", " and ").replace("||", " or ")).strip()
        try:
            tree = parse(formula.replace("\n", " "), self.budget.shown)
            node = getattr(tree.body[0], "value", None) if len(tree.body) == 1 else None
            content = None if node is None else Constants(formula, self.budget).value(node, names).content
        except (PlanError, HiddenError):
            self.budget.spend()
            return None
        return str(int(content)) if isinstance(content, bool | int) else None


def split(bits: Bits) -> list[Bits]:
    """Fields of a value: what blanks separate."""
    fields: list[Bits] = []
    current: list[Bit] = []
    for bit in bits:
        if bit.why or not re.search(r"\s", bit.text):
            current.append(bit)
            continue
        for found in re.finditer(r"\s+|\S+", bit.text):
            if not found[0].isspace():
                current.append(part_of(bit, found.start(), found.end()))
            elif current:
                fields.append(tuple(current))
                current = []
    return [*fields, tuple(current)] if current else fields


def part_of(bit: Bit, first: int, end: int) -> Bit:
    """Some of the characters of a run."""
    if bit.start < 0:
        return replace(bit, text=bit.text[first:end])
    return Bit(bit.text[first:end], bit.start + first, bit.start + end, bit.why, bit.place + first)
