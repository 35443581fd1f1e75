"""How data that cannot be used is refused."""

from pathlib import Path

from planner.diagnostics import PlanError, usage_error

CODE = "RUN006"


def unusable(message: str, where: Path | str, hint: str = "", detail: str = "") -> PlanError:
    """The refusal of data or of a tokenizer."""
    return usage_error(message, rule=CODE, location=str(where), hint=hint, detail=detail)


def not_installed(package: str, what: str, where: Path | str) -> PlanError:
    """The refusal of a file that takes an optional package."""
    hint = f"pip install {package}, or `pip install 'gptplan[data]'` for all of them"
    return unusable(f"{what} takes the package {package}, which is not installed", where, hint)
