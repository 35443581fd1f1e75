"""Writes docs/validation-facts.md from the structs of planner/validation: ``python -m docs.facts_page``."""

from pathlib import Path

from docs.specs_page import leaves
from planner.validation.facts import ROW_FACTS, KnownNetwork, SetFacts, builtin_facts
from planner.validation.tables import DIALECTS

PAGE = Path(__file__).with_name("validation-facts.md")

_HEAD = """\
# What a table does not say

`gptplan validate TABLE.csv` replays measured runs, and a run needs more than most tables state: the training stack,
the precision, whether attention was fused, the network. A row that lacks such a thing gets it, in this order, from its
own cell, from the facts of its set, and from those of `any-set`; every filling is printed. A row with a cell that
gptplan does not know is left out with that reason, and the others are scored.

The facts of published sets are in `planner/validation/facts.toml`. Those of your own stand in a file of the same form,
`gptplan validate TABLE.csv --facts FILE.toml`: a table for each set by the name in its column `set`.

```toml
[my-cluster]
stack = "megatron"
precision = "bf16"
network = "1 x 100 Gbit/s"
[my-cluster.why]
network = "one card a node, says its data sheet"

[another-set]
like = "my-cluster"
zero_stage = 1

[networks."our fabric"]
adapters = "4 x 200 Gbit/s"
efficiency = 0.7
latency = "10 us"
ring = "90 Gbit/s"
```

A table of a set that gptplan knows stands over what it knows, key by key. `like` takes the facts and reasons of another
set where the table states none. `why` has a reason by key, which is printed with the filling. Names in the column
`interconnect` that `[networks]` explains stand for its adapters; `8 x 200 Gbit/s` there, or as `network`, needs none,
nor do words around it that name its kind, as in `NVLink; 1 x InfiniBand EDR 100 Gb/s`.
A network may also have `ring`, the most that one collective reaches out of a node, `switched`, where a switch joins the
cards of a node, and `peak`, the peaks of the cards in such machines as a multiple of the spec's.

This page is written by `make docs` from the structs in `planner/validation/`; do not edit it.
"""
_ROWS = """\
## Columns of single rows

These columns state a fact of one row, over those of its set: {columns}. Words are those of the keys below, `yes` and
`no` for true and false. The other keys have columns of their own names or meaning: `precision`, `flash_attention`,
`recompute`, `zero_stage`, `gpu_mem_gb`, `vocab`, `micro_batch`, `interconnect`, `sequence_parallel`, `vpp`.

A table is one of {count} kinds, told by its header. Columns that a table may lack are marked with `?`.

{dialects}
"""


def facts_page() -> str:
    """The whole page."""
    dialects = "\n".join(f"- {one.name}: `{one.words}`" for one in DIALECTS)
    columns = ", ".join(f"`{name}`" for name in ROW_FACTS)
    known = sorted(name for name in builtin_facts().tables)
    parts = [
        _HEAD,
        _ROWS.format(columns=columns, count=len(DIALECTS), dialects=dialects),
        "## Keys of a set\n",
        _keys(SetFacts),
        "\n## Keys of a network\n",
        _keys(KnownNetwork),
        "\n## Sets that gptplan knows\n",
        ", ".join(f"`{name}`" for name in known) + ".",
    ]
    return "\n".join(parts) + "\n"


def _keys(struct: type) -> str:
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    lines += [f"| `{leaf.key}` | {leaf.kind} | {leaf.default} | {leaf.meaning} |" for leaf in leaves(struct)]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(facts_page(), encoding="utf-8")
