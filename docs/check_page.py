"""Writes docs/check.md from the readers of configurations: ``python -m docs.check_page``."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from planner.lint.dialects.colossalai_2022 import keys as old
from planner.lint.dialects.deepspeed import keys as deepspeed
from planner.lint.dialects.megatron import keys as megatron
from planner.lint.dialects.plugins.keys import ARGUMENTS, MOE_HYBRID
from planner.lint.dialects.tabled.foreign import FOREIGN
from planner.lint.dialects.tabled.frameworks import TABLES, Table
from planner.lint.limits import LIMITS

CORPUS = Path(__file__).with_name("check_corpus.csv")
"""Counts over public repositories, which ``python -m benchmarks.check_corpus --write`` fills."""
PAGE = Path(__file__).with_name("check.md")

_HEAD = """\
# What `gptplan check` reads

`gptplan check FILE --gpus N` judges configurations that people wrote for other programs. It reads them and runs
nothing: no import, no shell, no substitution of commands.

| finding | means | exit code |
|---|---|---|
| `error` | a rule is broken, or the layout does not fit | 1 |
| `warning` | it runs, and not as its author may think, or it depends on the machine | 0 |
| `open` | a value that only running the file would tell; the rest is judged | 0, and 1 with `--strict` |

`--set name=value` fills what is open: a variable of a script, `args.name` of a program. Defaults of `add_argument()`,
of `typer.Option()`, of dataclasses and of `${NAME:-value}` are taken without it, and named. A file of a program that
gptplan does not judge is refused with exit code 2, as is one that is beyond a limit.

`--format` prints `text`, `json`, `github` (annotations that GitHub shows at their lines) or `sarif` (2.1.0).
`.pre-commit-hooks.yaml` has a hook, `gptplan-check`, whose arguments are a folder and `--gpus`.

This page is written by `make docs`; do not edit it.

## Shell scripts

The options of every command are read, with variables, arrays, functions, `set --`, arithmetic, defaults, `case`, `if`,
loops over words, and files beside the script that it sources. Here-documents are passed over. A condition that cannot
be told is taken both ways, each judged alone, with the lines of the conditions in its assumptions. What commands print
(`$(...)`), arguments of the call without a default, and variables from outside are open. Cuts and replacements such as
`${NAME%.sh}` are open too. After a loop whose end cannot be told, so is what it sets. An error that only several
conditions together lead to is open as well; one that a single condition leads to is an error.
"""


_ON_THE_WORLD = """
## On the world's files

Counts over files of 31 public repositories, thirteen of them at several versions, without files that are the same.
A file with exit code 1 counts as a false alarm unless its error was confirmed in the source of its framework
(benchmarks/true_errors.txt). Files whose error is open are not counted as broken.

Mutants are valid files with one damage each, thirty files a dialect: a degree that divides nothing, a word for a
number, a misspelt key, heads or layers that do not divide, a batch that is no multiple, a ZeRO stage that does not go,
two precisions, a missing key.

Decided values are compared with what the file's own program has: what bash makes of a script in a folder where it can
start nothing, what Python makes of a file of 2022 with stubs for its modules, what PyYAML, tomllib or json load. Values
that come from another library's interpolation, arguments of plugins, and scripts of which not every way is followed are
not compared. The slowest file is in seconds of one core, with its suggestions and its prediction.

`python -m benchmarks.readings JAIL FOLDER...` prepares the folder for scripts, and
`python -m benchmarks.check_corpus FOLDER... --mutants 30 --jail JAIL --write` writes the table.
"""


def check_page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_by_hand(), *map(_tabled, TABLES), *_foreign(), *_limits(), *_corpus(), ""])


def _by_hand() -> Iterator[str]:
    """What readers of their own read."""
    yield "## Colossal-AI, files of 2022\n"
    yield f"Known by {_listed(old.OWN)}, or by two of {_listed(old.MARKS)}. Constants, tables and calls of `dict()`.\n"
    yield "## Colossal-AI, plugins\n"
    yield (
        f"Calls of {_listed(ARGUMENTS)} and `{MOE_HYBRID}` in Python, with all arguments of 0.5.0; tables of "
        "them in data files.\n"
    )
    yield "## Megatron-LM and Megatron-DeepSpeed\n"
    yield f"Known by one of {_listed(megatron.OWN)}, or by several of {_listed(megatron.MARKS)}. Judged options:\n"
    judged = {fact.key or name for name, fact in megatron.FACTS.items()} | {*megatron.DIALECT.words.values()}
    yield f"{_listed(sorted(option for option in judged if option.startswith('--')))}. Others are passed over.\n"
    yield (
        "Step time and memory are predicted for models of GPT-2's and of Llama's parts: `--swiglu`, "
        "`--group-query-attention`, `--num-key-value-heads`, `--kv-channels`, `--normalization`, `--qk-layernorm`, "
        "`--position-embedding-type`, `--disable-bias-linear`, `--window-size`, `--squared-relu`; with "
        f"{_listed(megatron.UNMODELLED)} they are judged only.\n"
    )
    yield "## DeepSpeed\n"
    yield f"Known by one of {_listed(deepspeed.MARKS)}. Keys of `{deepspeed.ZERO}` that DeepSpeed refuses are errors.\n"


def _tabled(table: Table) -> str:
    marks = " and ".join(f"one of {_listed(one_of)}" for one_of in table.all_of)
    keys = sorted({key for group in (table.counts, table.flags) for keys in group.values() for key in keys})
    keys += [key for key, _ in table.choices.values()]
    lines = (
        f"## {table.dialect.framework}\n",
        f"Known by {marks}. Read: {_listed(keys)}. Costed as stack `{table.dialect.stack}`. Source: {table.source}.\n",
    )
    return "\n".join(lines)


def _foreign() -> Iterator[str]:
    yield "## Named and refused\n"
    yield f"Files of {', '.join(name for name, _ in FOREIGN)}.\n"


def _limits() -> Iterator[str]:
    yield "## Limits\n"
    yield "Any file is answered in time that grows with its length, or refused with the limit that it is beyond.\n"
    yield "| limit | at most |\n|---|---|"
    yield from (f"| {meaning} | {most:,} |" for most, meaning in LIMITS.values())


def _corpus() -> Iterator[str]:
    """How it did on files of public repositories."""
    yield _ON_THE_WORLD
    heads = (
        *("dialect", "files", "exit code 1", "of these false", "with open values", "mutants caught"),
        *("compared", "misread", "slowest"),
    )
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    with CORPUS.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            caught = f"{row['caught']} of {row['mutants']}"
            names = ("dialect", "files", "broken", "false_alarms", "open")
            cells = [*(row[name] for name in names), caught, row["compared"], row["misread"], f"{row['slowest_s']} s"]
            yield f"| {' | '.join(cells)} |"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


if __name__ == "__main__":
    PAGE.write_text(check_page(), encoding="utf-8")
