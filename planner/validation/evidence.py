"""What the measured runs of a stack cover, by kind of layout: what an expected error rests on, and what is beyond it.

The data is in evidence.json, which `make validate` writes from the tables that it replays.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import msgspec

from planner.cost_model.errors import kind_of
from planner.cost_model.parameters import model_parameters
from planner.layouts.problem import Problem
from planner.validation.facts import facts_of
from planner.validation.replay import Replay
from planner.validation.report import memory_pair, time_pair
from planner.validation.score import errors

FILE = Path(__file__).with_name("evidence.json")
FEWEST_RUNS = 3
"""A kind of layout with fewer measured runs has no figure of its own."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """Runs that were measured and can be replayed. Ranges are the least and the most."""

    runs: int
    """With a step time."""
    step_time: float | None
    """Mean absolute error of their predicted step times, as a share."""
    memory_runs: int
    memory: float | None
    """The same of their peak memory."""
    devices: tuple[int, int]
    nodes: int
    """The most that one run was on."""
    hardware: tuple[str, ...]
    parameters: tuple[int, int]
    """Of their models."""
    sets: tuple[str, ...]
    hosts: tuple[str, ...] = ()
    """What is known of the machines."""
    schedules: tuple[str, ...] = ()
    """Of their pipelines."""


def parameters_of(problem: Problem) -> int:
    """Parameters of the model."""
    return sum(model_parameters(problem.model).values())


def covered(replays: Iterable[Replay]) -> dict[str, Evidence]:
    """What replayed rows cover by ``stack/kind``: ``all`` of a stack, and each kind with enough rows."""
    rows: dict[str, list[Replay]] = defaultdict(list)
    for replay in replays:
        if replay.case and (time_pair(replay) or memory_pair(replay)):
            for kind in ("all", kind_of(replay.case.layout)):
                rows[f"{replay.case.problem.stack.name}/{kind}"].append(replay)
    return {key: _evidence(own) for key, own in rows.items() if key.endswith("/all") or len(own) >= FEWEST_RUNS}


def _evidence(replays: Sequence[Replay]) -> Evidence:
    problems = [replay.case.problem for replay in replays if replay.case]
    times = errors([pair for replay in replays if (pair := time_pair(replay))])
    memory = errors([pair for replay in replays if (pair := memory_pair(replay))])
    devices, parameters = [one.num_devices for one in problems], [parameters_of(one) for one in problems]
    sets = sorted({replay.row.set_name for replay in replays})
    return Evidence(
        runs=times.n,
        step_time=_share(times.mean_abs_pct),
        memory_runs=memory.n,
        memory=_share(memory.mean_abs_pct),
        devices=(min(devices), max(devices)),
        nodes=max(one.num_nodes for one in problems),
        hardware=tuple(sorted({one.hardware.name for one in problems})),
        parameters=(min(parameters), max(parameters)),
        sets=tuple(sets),
        hosts=tuple(hosts for name in sets if (hosts := facts_of(name).hosts)),
        schedules=tuple(sorted({replay.case.layout.schedule for replay in replays if replay.case} - {"none"})),
    )


def _share(percent: float | None) -> float | None:
    return None if percent is None else round(percent / 100, 3)


@cache
def _known() -> dict[str, Evidence]:
    return msgspec.json.decode(FILE.read_bytes(), type=dict[str, Evidence])


def evidence_of(stack: str, kind: str) -> tuple[str, Evidence] | None:
    """What measured runs of a stack with layouts of a kind cover, else all of its runs; ``None`` without any."""
    known = _known()
    return next(((name, known[key]) for name in (kind, "all") if (key := f"{stack}/{name}") in known), None)


def encoded(found: dict[str, Evidence]) -> str:
    """The content of evidence.json, an entry a line."""
    lines = (f'"{key}": {msgspec.json.encode(found[key]).decode()}' for key in sorted(found))
    return "{\n" + ",\n".join(lines) + "\n}\n"
