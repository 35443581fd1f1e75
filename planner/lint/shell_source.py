"""Reading the options of a shell script or a command line, without running either."""

import re
from dataclasses import dataclass

from planner.diagnostics import PlanError
from planner.lint.constants import Constants, HiddenError
from planner.lint.limits import MAX_LENGTH, Budget
from planner.lint.source import Note, Source, Unknown, Value, contradiction
from planner.lint.syntax import parse

_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=")
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}$`]*))?\}|([A-Za-z_][A-Za-z0-9_]*))")
_ARITHMETIC = re.compile(r"\$\(\(((?:[^()$`]|\$\{?\w)*)\)\)")
_NUMBER = re.compile(r"[+-]?\d{1,18}")
_FLOAT = re.compile(r"[+-]?(\d{1,18}\.\d*|\.\d{1,18}|\d{1,18})([eE][+-]?\d{1,3})?")
_MESSAGE = re.compile(r"[ \t]*(?:echo|printf)\b")
_OPTION = re.compile(r"--?[A-Za-z][A-Za-z0-9_-]*$")


@dataclass(frozen=True)
class _Word:
    text: str
    start: int
    end: int


def read_shell(text: str, shown: str) -> Source:
    """The options ``--name value`` of a text, wherever they stand, with variables that are assigned constants.

    An option without a value is ``True``; of several values the first counts. Names are kept as written.
    """
    words = _words(text)
    reader = _Options(text, shown)
    patterns = _patterns(text)
    for index, word in enumerate(words):
        if word.end in patterns or _MESSAGE.match(text, text.rfind("\n", 0, word.start) + 1, word.start):
            continue
        if _OPTION.match(word.text.partition("=")[0]) and word.text.startswith("--"):
            reader.option(word, words[index + 1] if index + 1 < len(words) else None)
        elif match := _ASSIGNMENT.match(word.text):
            reader.assignment(match[1], word, match.end())
    return Source(
        shown=shown,
        text=text,
        language="shell",
        settings=reader.settings,
        notes=tuple(reader.notes),
        variables=reader.variables,
        options=reader.ends,
    )


def _patterns(text: str) -> set[int]:
    """Offsets of closing brackets that no bracket opened, and of bars before them: they end patterns of `case`."""
    found, depth = set(), 0
    for match in re.finditer(r"(?m)[()]|(?<!\S)#[^\n]*|(?<=[\w-])\|(?=[\s\w-])", text):
        if match[0] == "(":
            depth += 1
        elif match[0] == ")" and depth:
            depth -= 1
        elif match[0] in ")|":
            found.add(match.start())
    return found


def _words(text: str) -> list[_Word]:
    """Words of a script with their offsets; quotes around options and brackets of arrays separate words."""
    words: list[_Word] = []
    # A comment, a continued line, a command substitution, or a run of anything else that is no separator.
    token = re.compile(
        r"(?:(?<=\s)|^)#[^\n]*|\\\r?\n|\$\(\([^\n]{0,500}?\)\)|\$\([^()\n]{0,2000}\)|`[^`\n]{0,2000}`|"
        r"'[^'\s]*'|\"[^\"\s]*\"|[^\s'\"();|&`\\]+=\(?|[^\s'\"();|&`\\]+|[\\]",
        re.MULTILINE,
    )
    for match in token.finditer(text):
        found = match[0]
        if found.startswith("#") or found.startswith("\\"):
            continue
        start, end = match.span()
        if words and words[-1].end == start and not found.startswith("--"):
            joined = words[-1].text + _unquoted(found)
            words[-1] = _Word(joined[:MAX_LENGTH], words[-1].start, end)
        else:
            quoted = found[:1] in "'\"" and len(found) > 1
            words.append(_Word(_unquoted(found)[:MAX_LENGTH], start + quoted, end - quoted))
    return words


def _unquoted(found: str) -> str:
    return found[1:-1] if found[:1] in "'\"" and found[-1:] == found[:1] and len(found) > 1 else found.rstrip("(")


class _Options:
    """Options and variables, in the order of the text."""

    def __init__(self, text: str, shown: str) -> None:
        self.text, self.shown = text, shown
        self.settings: dict[str, Value] = {}
        self.ends: dict[str, int] = {}
        self.variables: dict[str, Value] = {}
        self.notes: list[Note] = []
        self.line, self.offset = 1, 0
        self.budget = Budget(shown)

    def place(self, offset: int) -> tuple[int, int]:
        if offset < self.offset:
            self.line, self.offset = 1, 0
        self.line += self.text.count("\n", self.offset, offset)
        self.offset = offset
        return self.line, offset - self.text.rfind("\n", 0, offset)

    def assignment(self, name: str, word: _Word, skip: int) -> None:
        value = self._value(_Word(word.text[skip:], word.start + skip, word.end))
        if name in self.variables and self.variables[name].content != value.content:
            why = f"{name} is assigned more than once"
            value = Value.hidden(Unknown(why=why, line=value.line, column=value.column))
        self.variables[name] = value

    def option(self, word: _Word, following: _Word | None) -> None:
        name, equals, inline = word.text.partition("=")
        line, column = self.place(word.start)
        self.ends[name] = word.end
        if equals:
            start = word.start + len(name) + 1
            value = self._value(_Word(inline, start, start + len(inline)))
        elif following is not None and self._belongs(word, following):
            value = self._value(following)
            self.ends[name] = following.end
        else:
            value = Value(content=True, line=line, column=column)
        self._keep(name, value, line, column)

    def _belongs(self, option: _Word, following: _Word) -> bool:
        """Whether the next word is the option's value: neither another option nor a new statement."""
        text = following.text
        if not text or (text.startswith("-") and not _FLOAT.fullmatch(text)) or _ASSIGNMENT.match(text):
            return False
        between = self.text[option.end : following.start].replace("\\\n", "").replace("\\\r\n", "")
        return "\n" not in between

    def _keep(self, name: str, value: Value, line: int, column: int) -> None:
        earlier = self.settings.get(name)
        if earlier is not None and earlier.content != value.content:
            detail = f"on line {earlier.line} and on line {line}"
            self.notes.append(contradiction(name, (line, column), detail, given=True))
        self.settings[name] = value

    def _value(self, word: _Word) -> Value:
        line, column = self.place(word.start)
        whole = _VARIABLE.fullmatch(word.text)
        if whole and (defined := self.variables.get(whole[1] or whole[3])):
            return defined
        content: object
        try:
            expanded = self._expanded(word.text)
            content = _number(expanded)
        except HiddenError as error:
            content = Unknown(why=error.hidden.why, line=line, column=column)
        plain = "$" not in word.text and word.text == self.text[word.start : word.end]
        end = word.end if plain or whole else -1
        return Value(content=content, line=line, column=column, start=word.start, end=end)

    def _expanded(self, text: str) -> str:
        if "$" not in text and "`" not in text:
            return text
        whole = _VARIABLE.fullmatch(text)
        if whole and whole[2] is not None:
            return whole[2]
        arithmetic = _ARITHMETIC.fullmatch(text)
        if arithmetic:
            return self._computed(arithmetic[1])
        parts, at = [], 0
        for match in _VARIABLE.finditer(text):
            parts += [text[at : match.start()], self._variable(match)]
            at = match.end()
            if sum(map(len, parts)) > MAX_LENGTH:
                raise HiddenError(None, "the value is too large to be meant")
        expanded = "".join([*parts, text[at:]])
        if found := re.search(r"\$[0-9@*#]", expanded):
            raise HiddenError(None, f"`{found[0]}` is only given when the script is called")
        if "$" in expanded or "`" in expanded:
            raise HiddenError(None, f"`{text[:60]}` would have to be run, and nothing is executed")
        return expanded

    def _variable(self, match: re.Match[str]) -> str:
        name = match[1] or match[3]
        value = self.variables.get(name)
        if value is None or isinstance(value.content, Unknown):
            raise HiddenError(None, f"variable {name} is not assigned a constant")
        return str(value.content)

    def _computed(self, expression: str) -> str:
        formula = re.sub(r"\$\{?(\w+)\}?", r"\1", expression).replace("/", "//").strip()
        try:
            tree = parse(formula, self.shown)
            statement = tree.body[0] if len(tree.body) == 1 else None
            expression_node = getattr(statement, "value", None)
            if expression_node is None:
                raise HiddenError(None, f"`{formula[:60]}` is no formula")
            return str(Constants(formula, self.budget).value(expression_node, self.variables).content)
        except PlanError as error:
            raise HiddenError(None, f"`{formula[:60]}` is no formula") from error


def _number(text: str) -> object:
    if _NUMBER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
