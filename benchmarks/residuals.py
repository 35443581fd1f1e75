"""What the predictions of a stack missed by, as tables of its spec: ``python -m benchmarks.residuals``."""

from collections import defaultdict
from collections.abc import Iterable

from benchmarks.measured_runs import Replay, mean, replay_runs
from planner.cost_model.errors import KINDS, kind_columns
from planner.layout import columns_of

FEWEST_RUNS = 3
"""A kind of layout with fewer measured runs has no figure of its own."""


def residuals(replays: Iterable[Replay]) -> dict[str, dict[str, float]]:
    """Fields of :class:`planner.spec.ErrorSpec` by kind of layout, and of all runs."""
    by_kind: dict[str, list[Replay]] = defaultdict(list)
    for replay in replays:
        by_kind["all"].append(replay)
        by_kind[KINDS[int(kind_columns(columns_of(replay.layout))[0])]].append(replay)
    return {
        kind: {
            "memory": round(mean([abs(run.memory_error) for run in runs]), 4),
            "step_time": round(mean([abs(run.time_error) for run in runs]), 3),
            "runs": len(runs),
        }
        for kind, runs in by_kind.items()
        if len(runs) >= FEWEST_RUNS
    }


def main() -> None:
    """Print the tables."""
    for kind, fields in residuals(replay_runs()).items():
        print(f"[errors.{kind}]")
        print("\n".join(f"{name} = {value}" for name, value in fields.items()), end="\n\n")


if __name__ == "__main__":
    main()
