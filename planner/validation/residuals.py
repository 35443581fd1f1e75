"""What predictions of measured runs missed by, as :mod:`planner.cost_model.intervals` reads it."""

import math
from collections import defaultdict
from collections.abc import Iterable

import msgspec

from planner.cost_model.errors import kind_of
from planner.cost_model.intervals import FILE, Runs, asked_runs
from planner.validation.cases import MEMORY_KINDS
from planner.validation.replay import Replay
from planner.validation.report import memory_pairs, time_pair

__all__ = ["FILE", "encoded", "residuals"]

DIGITS = 3


def residuals(replays: Iterable[Replay]) -> list[Runs]:
    """Replayed rows by table, stack, card, kind of layout and model; a row counts for what it measured."""
    found: dict[Runs, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in replays:
        if one.case is None:
            continue
        key = msgspec.structs.replace(asked_runs(one.case.problem, kind_of(one.case.layout)), table=one.row.set_name)
        if pair := time_pair(one):
            found[key]["step_time"].append(_error(*pair))
        for kind in MEMORY_KINDS:
            for pair in memory_pairs([one], kind):
                found[key][kind].append(_error(*pair))
    runs = [
        msgspec.structs.replace(key, **{name: tuple(sorted(errors)) for name, errors in own.items()})
        for key, own in found.items()
    ]
    return sorted(
        runs, key=lambda one: (one.table, one.stack, one.hardware, one.kind, one.parameters, one.several_nodes)
    )


def _error(measured: float, predicted: float) -> float:
    return round(math.log(measured / predicted), DIGITS)


def encoded(runs: Iterable[Runs]) -> str:
    """The content of residuals.json, an entry a line."""
    return "[\n" + ",\n".join(msgspec.json.encode(one).decode() for one in runs) + "\n]\n"
