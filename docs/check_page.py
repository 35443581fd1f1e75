"""Writes docs/check.md from the readers of configurations: ``python -m docs.check_page``."""

from pathlib import Path

from planner.lint.limits import LIMITS

PAGE = Path(__file__).with_name("check.md")

_HEAD = """\
# What `gptplan check` reads

`gptplan check FILE --gpus N` judges configurations that people wrote for other programs. It reads them and runs
nothing: no import, no shell, no substitution of commands.

This page is written by `make docs`; do not edit it.
"""
_LIMITS = """
## Limits

Any file is answered in time that grows with its length, or refused with exit code 2 and a message that names the
limit.

| limit | at most |
|---|---|"""


def check_page() -> str:
    """The whole page."""
    return "\n".join(
        [_HEAD, _LIMITS.lstrip("\n"), *(f"| {meaning} | {most:,} |" for most, meaning in LIMITS.values()), ""]
    )


if __name__ == "__main__":
    PAGE.write_text(check_page(), encoding="utf-8")
