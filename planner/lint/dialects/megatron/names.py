"""How Megatron-LM's options are named, and which files have them."""

from typing import Any

from planner.lint.dialects.megatron.keys import MARKS, OWN
from planner.lint.source import Unknown, Value


def dashed(settings: Any) -> dict[str, Value]:
    """Settings under the names of the command line, whether written with dashes or as in a data file."""
    found: dict[str, Value] = {}
    for key, value in settings.items():
        if not isinstance(value.content, dict):
            found.setdefault(dashed_name(key), value)
    return found


def dashed_name(key: str) -> str:
    """A key as the command line has it: ``model.num_layers`` and ``--num_layers`` are ``--num-layers``."""
    last = key.rpartition(".")[2] if not key.startswith("-") else key
    return "--" + last.lstrip("-").replace("_", "-")


def is_megatron(settings: Any, *, shell: bool) -> bool:
    """Whether some keys are options of Megatron-LM: one that nothing else has, or several that models share.

    A command has them with dashes; in a data file they have values that such an option can have.
    """
    if shell:
        names = {key for key in settings if "_" not in key}
        return bool(names & {*OWN}) or len(names & {*MARKS}) > 1
    plain = (int, bool, type(None), Unknown)
    names = {dashed_name(key) for key, value in settings.items() if isinstance(value.content, plain)}
    return bool(names & {*OWN}) or len(names & {*MARKS}) > 2  # noqa: PLR2004 - two are in every model's file
