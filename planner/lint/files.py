"""Opening a configuration: size, kind of file, encoding and language."""

import codecs
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from planner.codes import Config
from planner.diagnostics import PlanError, usage_error
from planner.lint import data_source, limits, python_source, shell_source
from planner.lint.dialects.plugins.keys import BESIDE, KNOWN_CALLS
from planner.lint.limits import MAX_BYTES, MAX_FILES
from planner.lint.source import Language, Source, unreadable

SUFFIXES: dict[str, Language] = {
    ".py": "python",
    ".json": "json",
    ".toml": "toml",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".sh": "shell",
    ".bash": "shell",
    ".args": "shell",
    ".slurm": "shell",
    ".sbatch": "shell",
}
"""Languages by the ending of a file's name."""
PLAN_SUFFIX = ".plan"

_HINT = "name a Python, JSON, TOML, YAML or shell file, or a gptplan plan"


def files_of(folder: Path) -> list[Path]:
    """Files of a folder and the folders in it, hidden ones and links to folders left out, by name.

    Raises:
        PlanError: a folder cannot be read, or there are more than :data:`MAX_FILES` files.
    """
    found: list[Path] = []
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            paths = sorted(here.iterdir(), reverse=True)
        except OSError as error:
            raise usage_error(
                f"cannot read the folder: {error.strerror}", location=str(here), hint="name a folder that can be read"
            ) from error
        for path in paths:
            if path.name.startswith("."):
                continue
            if path.is_dir() and not path.is_symlink():
                waiting.append(path)
            elif path.suffix.lower() in (*SUFFIXES, PLAN_SUFFIX) and path.is_file():
                found.append(path)
        if len(found) > MAX_FILES:
            raise usage_error(
                f"there are more than {MAX_FILES} files in this folder", location=str(folder), hint="name a smaller one"
            )
    return sorted(found)


def read_text(path: Path, shown: str) -> str:
    """The text of a file, with line feeds as the only other line ends than carriage return and line feed.

    Raises:
        PlanError: no ordinary file, empty, larger than :data:`MAX_BYTES`, or not UTF-8 text.
    """
    try:
        # Without blocking on a pipe; what a link leads to is what counts.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise unreadable(Config.UNREADABLE, "this is no ordinary file", shown, hint=_HINT)
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise unreadable(Config.UNREADABLE, f"cannot read the file: {error.strerror}", shown, hint=_HINT) from error
    if len(raw) > MAX_BYTES:
        raise limits.refused("bytes", shown)
    return decoded(raw, shown)


def byte_order_mark(path: Path) -> bytes:
    """The mark that some editors put before UTF-8 text, which the text of :func:`read_text` does not have."""
    with path.open("rb") as file:
        return codecs.BOM_UTF8 if file.read(3) == codecs.BOM_UTF8 else b""


def decoded(raw: bytes, shown: str) -> str:
    """Bytes as text.

    Raises:
        PlanError: empty, binary or another encoding than UTF-8.
    """
    if not raw.strip():
        raise unreadable(Config.UNREADABLE, "the file is empty", shown, hint=_HINT)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reason = f"byte {raw[error.start]:#04x} at offset {error.start} is not UTF-8"
        raise unreadable(Config.UNREADABLE, f"this is no text file: {reason}", shown, hint=_HINT) from error
    if "\0" in text:
        raise unreadable(Config.UNREADABLE, "this is no text file: it has null characters", shown, hint=_HINT)
    return re.sub(r"\r(?!\n)", "\n", text)


def language_of(text: str, name: str) -> Language:
    """The language by the file's ending, else by its first characters."""
    if known := SUFFIXES.get(Path(name).suffix.lower()):
        return known
    start = text.lstrip()[:200]
    if start.startswith("{"):
        return "json"
    if start.startswith(("--", "#!/bin/", "#!/usr/bin/env bash", "#!/usr/bin/env sh", "torchrun ")):
        return "shell"
    return "shell" if re.search(r"(?m)^[^#\n]*\s--[a-z][a-z-]+[ =]", text) else "python"


def is_plan(text: str) -> bool:
    """Whether a text looks like a gptplan plan, edited or not."""
    if not text.lstrip().startswith("{") or '"format_version"' not in text:
        return False
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and "format_version" in fields and "layout" in fields


def read_source(
    text: str, shown: str, language: Language | None = None, given: Mapping[str, str] | None = None
) -> Source:
    """Parse a text in its language, with the values of names that the user knows.

    Raises:
        PlanError: it is not of that language, or larger than can be read in bounded time.
    """
    language = language or language_of(text, shown)
    limits.check_size(text, language, shown)
    match language:
        case "python":
            return python_source.read_python(text, shown, KNOWN_CALLS, BESIDE, given)
        case "json":
            return data_source.read_json(text, shown)
        case "toml":
            return data_source.read_toml(text, shown)
        case "yaml":
            return data_source.read_yaml(text, shown)
        case "shell":
            return shell_source.read_shell(text, shown, given or {}, lambda name: _beside(shown, name))


def _beside(shown: str, name: str) -> str | None:
    """A script in the same folder; nothing where there is none that can be read in bounded time."""
    path = Path(shown).parent / name
    try:
        text = read_text(path, str(path)) if path.is_file() else None
        if text is not None:
            limits.check_size(text, "shell", str(path))
    except (OSError, ValueError, PlanError):
        return None
    return text
