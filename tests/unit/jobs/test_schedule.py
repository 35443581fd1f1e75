"""The learning rate of a step."""

import math

import pytest

from planner.jobs.batches import constant_batches
from planner.jobs.reading import read_job
from planner.jobs.schedule import learning_rate_at


def rates(kind: str, steps: int = 100, **more: float) -> list[float]:
    settings = {"warmup_steps": 10, "final_share": 0.1, **more}
    job = read_job(
        None,
        [f"schedule.kind={kind}", "optimizer.learning_rate=2", *(f"schedule.{k}={v}" for k, v in settings.items())],
    )
    return [learning_rate_at(step, constant_batches(1, steps), job) for step in range(steps + 5)]


@pytest.mark.parametrize("kind", ["constant", "cosine", "linear", "wsd"])
def test_every_schedule_rises_linearly_to_the_highest(kind: str) -> None:
    assert rates(kind)[:11] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.0])
    assert max(rates(kind)) == pytest.approx(2.0)


def test_constant_stays() -> None:
    assert rates("constant")[10:] == [2.0] * 95


def test_linear_falls_by_the_same_every_step() -> None:
    found = rates("linear")
    # 90 steps from 2 to 0.2: by 0.02 each
    assert (found[11], found[55], found[99]) == pytest.approx((1.98, 1.1, 0.22))
    assert found[100:] == pytest.approx([0.2] * 5)


def test_cosine_is_halfway_in_the_middle() -> None:
    found = rates("cosine")
    assert (found[55], found[100]) == pytest.approx((1.1, 0.2))
    assert found[32] == pytest.approx(2 * (0.1 + 0.9 * (1 + math.cos(math.pi * 22 / 90)) / 2))


def test_wsd_falls_over_its_share_at_the_end() -> None:
    found = rates("wsd", decay_share=0.2)
    assert found[10:81] == [2.0] * 71
    assert (found[90], found[99], found[100]) == pytest.approx((1.1, 0.29, 0.2))
    assert rates("wsd", decay_share=1)[:12] == pytest.approx(rates("linear")[:12])


def test_without_a_warm_up_and_in_a_run_shorter_than_it() -> None:
    assert rates("cosine", warmup_steps=0)[0] == 2.0
    assert rates("linear", steps=5)[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates("linear", steps=10)[10] == pytest.approx(2.0)
