"""JSON with the place of every value, which the standard parser does not tell."""

import json
import re
from typing import Any, NoReturn

from planner.lint.limits import MAX_NESTING
from planner.lint.source import Note, Value, contradiction
from planner.lint.syntax import Places

_SPACE = re.compile(r"[ \t\n\r]*")
_SPACE_AND_COMMENTS = re.compile(r"(?:[ \t\n\r]+|//[^\n]*|#[^\n]*|/\*(?s:.*?)\*/)*")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,300})(\.\d{1,300})?([eE][+-]?\d{1,4})?")
_WORDS = {"true": True, "false": False, "null": None}


class JsonError(ValueError):
    """Not JSON: where and why."""

    def __init__(self, message: str, line: int, column: int) -> None:
        """Remember the place, from 1."""
        super().__init__(message)
        self.line, self.column = line, column


class JsonReader:
    """One pass over a text."""

    def __init__(self, text: str, *, relaxed: bool = False) -> None:
        """Read nothing yet; ``relaxed`` lets comments and a comma before a closing bracket pass, as Hjson does."""
        self.text = text
        self.relaxed = relaxed
        self.space = _SPACE_AND_COMMENTS if relaxed else _SPACE
        self.notes: list[Note] = []
        self.place = Places(text).of

    def read(self) -> Value:
        """The value of the whole text.

        Raises:
            JsonError: it is not one JSON value, or nests deeper than :data:`MAX_NESTING`.
        """
        value, end = self._value(self._skip(0), 0)
        end = self._skip(end)
        if end != len(self.text):
            self._fail("there is something after the end of the document", end)
        return value

    def _fail(self, message: str, offset: int) -> NoReturn:
        raise JsonError(message, *self.place(offset))

    def _skip(self, offset: int) -> int:
        match = self.space.match(self.text, offset)
        return match.end() if match else offset

    def _value(self, start: int, depth: int) -> tuple[Value, int]:
        if depth > MAX_NESTING:
            self._fail("it nests too deeply", start)
        first = self.text[start : start + 1]
        content: Any
        if first == "{":
            content, end = self._table(start + 1, depth)
        elif first == "[":
            content, end = self._list(start + 1, depth)
        elif first == '"':
            content, end = self._string(start)
        else:
            content, end = self._scalar(start)
        line, column = self.place(start)
        return Value(content=content, line=line, column=column, start=start, end=end), end

    def _string(self, start: int) -> tuple[str, int]:
        try:
            text, end = json.decoder.scanstring(self.text, start + 1, True)  # type: ignore[attr-defined]
        except json.JSONDecodeError as error:
            raise JsonError(error.msg, error.lineno, error.colno) from error
        return str(text), int(end)

    def _scalar(self, start: int) -> tuple[Any, int]:
        for word, content in _WORDS.items():
            if self.text.startswith(word, start):
                return content, start + len(word)
        match = _NUMBER.match(self.text, start)
        if match is None:
            self._fail("a value is expected here", start)
        number: Any = float(match[0]) if match[1] or match[2] else int(match[0])
        return number, match.end()

    def _table(self, offset: int, depth: int) -> tuple[dict[str, Value], int]:
        table: dict[str, Value] = {}
        offset = self._skip(offset)
        while self.text[offset : offset + 1] != "}":
            if self.text[offset : offset + 1] != '"':
                self._fail("a key in double quotes is expected here", offset)
            key_at = offset
            key, offset = self._string(offset)
            offset = self._skip(offset)
            if self.text[offset : offset + 1] != ":":
                self._fail("`:` is expected here", offset)
            value, offset = self._value(self._skip(offset + 1), depth + 1)
            if key in table and table[key].content != value.content:
                place = self.place(key_at)
                detail = f"on line {table[key].line} and on line {place[0]}"
                self.notes.append(contradiction(key, place, detail))
            table[key] = value
            offset = self._separator(offset, "}")
        return table, offset + 1

    def _list(self, offset: int, depth: int) -> tuple[tuple[Any, ...], int]:
        items: list[Any] = []
        offset = self._skip(offset)
        while self.text[offset : offset + 1] != "]":
            value, offset = self._value(offset, depth + 1)
            items.append(value.content)
            offset = self._separator(offset, "]")
        return tuple(items), offset + 1

    def _separator(self, offset: int, closing: str) -> int:
        offset = self._skip(offset)
        found = self.text[offset : offset + 1]
        if found == ",":
            after = self._skip(offset + 1)
            if self.text[after : after + 1] == closing and not self.relaxed:
                self._fail("a comma before the closing bracket", offset)
            return after
        if found != closing:
            self._fail(f"`,` or `{closing}` is expected here", offset)
        return offset
