"""Writes docs/job.md from the structs of planner/jobs: ``python -m docs.job_page``."""

import inspect
from pathlib import Path

import msgspec

from planner.jobs.reading import Key, keys, sections

PAGE = Path(__file__).with_name("job.md")

_HEAD = """\
# Jobs

A plan says how a model is divided, a job what it learns: data, tokenizer, optimizer, schedule, evaluation. A job is a
TOML file; `gptplan job -o job.toml` writes one with every key and its default, and `gptplan check job.toml --plan
FILE.plan` judges it on any machine. `--set section.key=value` stands above the file. A key that is left out has its
default.

This page is written by `make docs` from the structs in `planner/jobs/job.py`; do not edit it.
"""


def job_page() -> str:
    """The whole page."""
    found = list(keys().values())
    return "\n".join([_HEAD, *(_section(name, struct, found) for name, struct in sections().items())])


def _section(name: str, struct: type[msgspec.Struct], found: list[Key]) -> str:
    title = f"## `[{name}]`" if name else "## Above all sections"
    own = [key for key in found if key.section == name]
    rows = [f"| `{key.name}` | {key.words} | {_default(key)} | {key.description} |" for key in own]
    text = inspect.getdoc(struct) or ""
    return "\n".join([title, "", text, "", "| key | value | default | meaning |", "|---|---|---|---|", *rows, ""])


def _default(key: Key) -> str:
    if key.default in (None, "", ()):
        return "none"
    return f"`{key.default}`"


def main() -> None:
    """Write the page."""
    PAGE.write_text(job_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
