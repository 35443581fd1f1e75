"""How data that cannot be used is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from planner.diagnostics import PlanError, usage_error

CODE = "RUN006"


def unusable(message: str, where: Path | str, hint: str = "", detail: str = "") -> PlanError:
    """The refusal of data or of a tokenizer."""
    return usage_error(message, rule=CODE, location=str(where), hint=hint, detail=detail)


def no_document(bad: Mapping[Any, int], where: Path | str, field: str) -> PlanError:
    """The refusal of files without any document, of which ``bad`` counts what is there instead."""
    found = ", ".join(f"{count:,} {what}" for what, count in bad.items())
    hint = "name files that have text"
    if set(bad) - {"empty"}:
        hint = f"JSONL, Parquet and Arrow are read by their field `{field}`; name another with `data.field` of the job"
        hint += ", or `tokenize --field`"
    return unusable(f"there is no document in it: {found or 'the file is empty'}", where, hint)


def not_installed(package: str, what: str, where: Path | str) -> PlanError:
    """The refusal of a file that takes an optional package."""
    hint = f"pip install {package}, or `pip install 'gptplan[data]'` for all of them"
    return unusable(f"{what} takes the package {package}, which is not installed", where, hint)
