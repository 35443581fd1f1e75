"""How much of a set's error is not knowing how its runs were made: ``python -m benchmarks.conditions TABLE.csv SET``.

The facts of a set may name other sets for runs that were made under other conditions (``others``). Each row is
predicted under every one of them, and scored once as the facts tell it and once under the condition that its step time
is nearest to. The second is no prediction, since it looks at the step time: it is what a prediction could reach that
was told each run's condition. Its memory does not look at memory, so that it says whether the conditions are real.

The spread says how far apart likes are whatever is predicted: rows that differ in nothing but the ZeRO stage 0 or 1, as
the larger ratio of measured to predicted step time over the smaller one.
"""

import argparse
import math
import sys
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, quantiles
from typing import NamedTuple

from planner.diagnostics import PlanError
from planner.validation.facts import KnownFacts, builtin_facts
from planner.validation.replay import Replay, replay
from planner.validation.report import memory_pairs, time_pair
from planner.validation.score import Pair, error_pct, ranking
from planner.validation.tables import Table, read_table

Likes = dict[str, list[float]]


class Judged(NamedTuple):
    """One row as its facts tell it, and under the condition that its step time is nearest to."""

    told: Replay
    nearest: Replay


def conditions(known: KnownFacts, name: str) -> Iterator[KnownFacts]:
    """The facts with all rows of a set under one condition: its own, and each of those that it names."""
    own = known.tables[name]
    for other in ("", *dict.fromkeys(runs["facts"] for runs in own.get("others", ()))):
        others = [{"facts": other}] if other else []
        yield replace(known, tables={**known.tables, name: {**own, "others": others}})


def judged(table: Table, name: str) -> list[Judged]:
    """Every row of the set with a measured step time that can be replayed."""
    known = builtin_facts()
    forced, found = list(conditions(known, name)), []
    for row in (row for row in table.rows if row.set_name == name):
        told = replay(row, table.dialect, known=known)
        if time_pair(told):
            found.append(Judged(told, min((replay(row, table.dialect, known=one) for one in forced), key=_distance)))
    return found


def _distance(one: Replay) -> float:
    measured, predicted = time_pair(one) or (1.0, 1.0)
    return abs(math.log(predicted / measured))


def report(replays: Sequence[Replay]) -> str:
    """Mean absolute errors of step time and memory, and the mean regret, in percent."""
    times = [abs(error_pct(*pair)) for one in replays if (pair := time_pair(one))]
    memory = [abs(error_pct(*pair)) for pair in memory_pairs(replays, "reserved")]
    groups: dict[Hashable, list[Pair]] = {}
    for one in replays:
        if pair := time_pair(one):
            groups.setdefault(_cells(one, ("model", "n_gpus", "global_batch")), []).append(pair)
    best = ranking(groups).top1_regret_pct
    regret = "nothing to rank" if best is None else f"predicted best slower by {best:.1f} %"
    return f"step time {fmean(times):.1f} %, memory {fmean(memory):.1f} %, {regret}"


def spread(replays: Sequence[Replay]) -> str:
    """How far apart rows are that differ in their ZeRO stage alone."""
    likes: Likes = {}
    for one in replays:
        if pair := time_pair(one):
            columns = ("model", "n_gpus", "tp", "pp", "dp", "micro_batch", "global_batch")
            likes.setdefault(_cells(one, columns), []).append(pair[0] / pair[1])
    ratios = sorted(_ratios(likes))
    if len(ratios) < 2:
        return "no two rows that differ in their ZeRO stage alone"
    middle, ninth = quantiles(ratios, n=10)[4], quantiles(ratios, n=10)[8]
    return (
        f"{len(ratios)} pairs that differ in their ZeRO stage alone: a factor of {middle:.2f}, one in ten {ninth:.2f}"
    )


def _ratios(likes: Mapping[str, Sequence[float]]) -> Iterator[float]:
    return (max(ratios) / min(ratios) for ratios in likes.values() if len(ratios) > 1)


def _cells(one: Replay, columns: Sequence[str]) -> str:
    return " ".join(one.row.text(column) for column in columns)


def main() -> int:
    """Print both scores and both spreads of a set."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conditions")
    parser.add_argument("table", type=Path)
    parser.add_argument("set", help="a set of the table whose facts name other conditions")
    options = parser.parse_args()
    if options.set not in builtin_facts().tables:
        parser.error(f"no facts of a set `{options.set}` are built in; docs/validation-facts.md lists those that are")
    try:
        rows = judged(read_table(options.table), options.set)
    except PlanError as error:
        parser.error(f"{options.table}: {error}")
    if not rows:
        parser.error(f"{options.table} has no row of `{options.set}` with a step time that can be replayed")
    print("as the facts tell:          ", report([one.told for one in rows]))
    print("under the nearest condition:", report([one.nearest for one in rows]))
    print(spread([one.told for one in rows]))
    print("under the nearest condition,", spread([one.nearest for one in rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
