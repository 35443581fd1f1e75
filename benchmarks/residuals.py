"""What a stack's predictions missed by, as tables of its spec: ``python -m benchmarks.residuals TABLE.csv ...``."""

import sys
from collections import defaultdict
from pathlib import Path

from planner.cost_model.errors import kind_of
from planner.validation import Report, validate
from planner.validation.evidence import FEWEST_RUNS
from planner.validation.replay import Replay
from planner.validation.report import memory_pair, time_pair
from planner.validation.score import errors

RUNS = Path(__file__).parent.parent / "tests" / "validation" / "h200_runs.csv"


def residuals(report: Report, stack: str) -> dict[str, dict[str, float]]:
    """Fields of :class:`planner.specs.ErrorSpec` by kind of layout, and of all runs, of the rows on one stack.

    Only rows count that measured allocated memory and step time.
    """
    by_kind: dict[str, list[Replay]] = defaultdict(list)
    for replay in report.replays:
        if replay.case is None or replay.case.problem.stack.name != stack:
            continue
        if "allocated" in replay.memory_bytes and time_pair(replay) is not None:
            by_kind["all"].append(replay)
            by_kind[kind_of(replay.case.layout)].append(replay)
    return {kind: _fields(runs) for kind, runs in by_kind.items() if len(runs) >= FEWEST_RUNS}


def _fields(runs: list[Replay]) -> dict[str, float]:
    memory = errors([pair for run in runs if (pair := memory_pair(run))]).mean_abs_pct or 0.0
    step_time = errors([pair for run in runs if (pair := time_pair(run))]).mean_abs_pct or 0.0
    return {"memory": round(memory / 100, 4), "step_time": round(step_time / 100, 3), "runs": len(runs)}


def main() -> None:
    """Print the tables of every stack that the runs were on."""
    report = validate([Path(name) for name in sys.argv[1:]] or [RUNS])
    stacks = sorted({replay.case.problem.stack.name for replay in report.replays if replay.case})
    for stack in stacks:
        for kind, fields in residuals(report, stack).items():
            print(f"# {stack}\n[errors.{kind}]")
            print("\n".join(f"{name} = {value}" for name, value in fields.items()), end="\n\n")


if __name__ == "__main__":
    main()
