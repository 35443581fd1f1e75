"""Where the time of a run went."""

from typing import Any

import pytest

from planner.launch.goodput import goodput


def step(time_s: float, step_s: float = 2.0, **more: Any) -> dict[str, Any]:
    return {"record": "step", "time_s": time_s, "step_s": step_s, "updated": True, **more}


def test_every_second_of_the_wall_time_has_a_term() -> None:
    spent = goodput(
        [
            {"record": "header", "began_s": 100.0, "time_s": 110.0, "redone_s": 0.0},
            step(112.0),
            step(117.0),  # a copy for a checkpoint before it took 2.5 s
            {"record": "checkpoint", "time_s": 117.0, "stall_s": 2.5},
            {"record": "evaluation", "time_s": 121.0},
            step(123.0, updated=False),
            # Killed after 6 s of work that is lost; somebody begins again 10 s later.
            {"record": "event", "event": "end", "time_s": 135.0},
            {"record": "header", "began_s": 139.0, "time_s": 144.0, "redone_s": 6.0},
            {"record": "step", "time_s": 144.5, "passed_over": True, "updated": False, "loss": None},
            {"record": "event", "event": "restart", "time_s": 144.6},
            step(147.0),
            {"record": "checkpoint", "time_s": 150.0, "stall_s": 1.0},
            {"record": "summary", "time_s": 150.25},
        ]
    )
    assert spent is not None
    assert spent.terms_s == pytest.approx(
        {
            "training": 6.0,
            "no_update": 2.0,
            "passed_over": 0.5,
            "start": 15.0,
            "evaluation": 4.0,
            "saving": 5.5,
            "redone": 6.0,
            "between_starts": 10.0,
            "other": 1.25,
        }
    )
    assert spent.wall_s == pytest.approx(50.25)
    assert spent.share == pytest.approx(6 / 50.25)


def test_records_without_times_tell_nothing() -> None:
    assert goodput([]) is None
    assert goodput([{"record": "header"}, {"record": "step", "step_s": 1.0, "updated": True}]) is None
