"""JSON with the place of every value: the standard decoder, told to keep where it is."""

import json
import re
from json import decoder, scanner
from typing import Any

from planner.lint.source import Note, Value, contradiction
from planner.lint.syntax import Places

_BESIDE_STRINGS = r'"(?:\\.|[^"\\])*"|'
_COMMENTS = re.compile(_BESIDE_STRINGS + r"//[^\n]*|#[^\n]*|/\*(?s:.*?)\*/")
_LAST_COMMA = re.compile(_BESIDE_STRINGS + r",(?=\s*[}\]])")
MAX_DIGITS = 300


class JsonReader(json.JSONDecoder):
    """One pass over a text, whose values are :class:`Value`; tables are dicts of them, lists are tuples."""

    def __init__(self, text: str, *, relaxed: bool = False) -> None:
        """Read nothing yet; ``relaxed`` lets comments and a comma before a closing bracket pass, as Hjson does."""
        super().__init__(object_pairs_hook=self._table, parse_int=_whole, parse_constant=_refused)
        self.text = _LAST_COMMA.sub(_blank, _COMMENTS.sub(_blank, text)) if relaxed else text
        self.notes: list[Note] = []
        self.place = Places(text).of
        self.parse_object = lambda at, strict, _, *hooks: decoder.JSONObject(  # type: ignore[attr-defined]
            at, strict, self._scan, *hooks
        )
        self.parse_array = lambda at, _: decoder.JSONArray(at, self._scan)  # type: ignore[attr-defined]
        self.scan_once, self.plain = self._scan, scanner.py_make_scanner(self)  # type: ignore[attr-defined]

    def read(self) -> Value:
        """The value of the whole text.

        Raises:
            ValueError: it is not one JSON value; ``json.JSONDecodeError`` tells the place.
        """
        value: Value = self.decode(self.text)
        return value

    def _scan(self, text: str, start: int) -> tuple[Value, int]:
        content, end = self.plain(text, start)
        if isinstance(content, list):
            content = tuple(item.content for item in content)
        line, column = self.place(start)
        return Value(content=content, line=line, column=column, start=start, end=end), end

    def _table(self, entries: list[tuple[str, Value]]) -> dict[str, Value]:
        table: dict[str, Value] = {}
        for key, value in entries:
            if key in table and table[key].content != value.content:
                detail = f"on line {table[key].line} and on line {value.line}"
                self.notes.append(contradiction(key, (value.line, value.column), detail))
            table[key] = value
        return table


def _blank(found: re.Match[str]) -> str:
    """Spaces for what is passed over, so that every other place stays; strings as they are."""
    return found[0] if found[0].startswith('"') else re.sub(r"[^\n]", " ", found[0])


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _refused(word: Any) -> None:
    raise ValueError(f"{word} is no number")
