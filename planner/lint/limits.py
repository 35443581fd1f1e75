"""How large a configuration may be, and how much work one may make: what is beyond is refused, never waited for."""

import re
from typing import Any

from planner.codes import Config
from planner.diagnostics import Diagnostic, PlanError

MAX_BYTES = 1024**2
MAX_TOKENS = 100_000
MAX_NESTING = 60
MAX_OPERATORS = 2000
MAX_STEPS = 500_000
MAX_LENGTH = 10_000
MAX_CONFIGURATIONS = 50
MAX_FILES = 1000
LIMITS: dict[str, tuple[int, str]] = {
    "bytes": (MAX_BYTES, "size of a file"),
    "tokens": (MAX_TOKENS, "words, numbers and single marks of a file"),
    "nesting": (MAX_NESTING, "brackets, tables or blocks inside each other"),
    "operators": (MAX_OPERATORS, "marks in a row without a word between them"),
    "steps": (MAX_STEPS, "values, names and table entries that are looked at while assignments are followed"),
    "length": (MAX_LENGTH, "characters or entries of one value"),
    "configurations": (MAX_CONFIGURATIONS, "plugins that one file configures"),
    "files": (MAX_FILES, "files of a folder"),
}
"""Every limit with its meaning, as docs/check.md lists them."""

_PIECE = re.compile(r"\w+|[^\w\s]")
_NESTED = {"python": "([{", "json": "[{", "toml": "[{", "yaml": "[{"}
"""Brackets that the parser of a language recurses into."""


def refused(limit: str, shown: str) -> PlanError:
    """A file beyond one of the limits, which the message names (exit code 2)."""
    most, meaning = LIMITS[limit]
    what = "nests too deeply" if limit == "nesting" else "is too large"
    message = f"the file {what} for gptplan, whose limit is {most:,}: {meaning}"
    hint = "name a configuration file, or keep in it only what configures the training"
    return PlanError(Diagnostic(rule=Config.UNREADABLE, message=message, location=shown, hint=hint))


def check_size(text: str, language: str, shown: str) -> None:
    """Refuse a text that would take a parser too long, too deep or too much memory.

    Raises:
        PlanError: it has more tokens, nests deeper or has a longer run of marks than the limits.
    """
    brackets = _NESTED.get(language, "")
    depth = run = dots = 0
    for count, match in enumerate(_PIECE.finditer(text)):
        piece = match[0]
        word = piece[0] == "_" or piece[0].isalnum()
        run = 0 if word else run + 1
        dots = dots + 1 if piece == "." else dots if word else 0
        if piece in brackets:
            depth += 1
        elif piece in ")]}":
            depth = max(0, depth - 1)
        if count >= MAX_TOKENS:
            raise refused("tokens", shown)
        if (brackets and depth > MAX_NESTING) or (language == "toml" and dots > MAX_NESTING):
            raise refused("nesting", shown)
        if brackets and run > MAX_OPERATORS:
            raise refused("operators", shown)


class Budget:
    """The steps that are left for one file."""

    def __init__(self, shown: str) -> None:
        """All of :data:`MAX_STEPS`."""
        self.shown, self.left = shown, MAX_STEPS

    def spend(self, steps: Any = 1) -> None:
        """Take some steps away.

        Raises:
            PlanError: no more are left.
        """
        self.left -= int(steps)
        if self.left < 0:
            raise refused("steps", self.shown)
