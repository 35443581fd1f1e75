"""How the batch of a job grows, and which layouts it can grow under."""

from typing import Any

import pytest

from planner.jobs.batches import BatchSchedule, batches_of
from planner.jobs.job import Job
from planner.jobs.ramp import of_ramp, takes
from planner.jobs.reading import read_job
from planner.jobs.schedule import learning_rate_at
from planner.layouts.layout import Layout
from planner.rules import violations
from tests.helpers import changed, layout, problem, problem_of


def job(start: int, increment: int, samples: int, **schedule: Any) -> Job:
    ramp = {"ramp_start": start, "ramp_increment": increment, "ramp_samples": samples, **schedule}
    return read_job(None, [f"schedule.{key}={value}" for key, value in ramp.items()])


def found(start: int, increment: int, samples: int, global_batch: int = 8, **schedule: Any) -> BatchSchedule:
    return batches_of(job(start, increment, samples, **schedule), problem(global_batch=global_batch))


def test_the_batch_grows_over_equal_shares_of_the_samples() -> None:
    batches = found(2, 2, 30, steps=12)
    # From 2 over 4 and 6 to 8, for 10 samples each: 5 steps of 2; 3 of 4, to sample 22; 2 of 6, to 34; then 8.
    assert [batches.batch(step) for step in range(12)] == [2] * 5 + [4] * 3 + [6] * 2 + [8] * 2
    assert [batches.consumed(step) for step in range(13)] == [0, 2, 4, 6, 8, 10, 14, 18, 22, 28, 34, 42, 50]
    assert (batches.steps, batches.samples, batches.whole) == (12, 50, 8)
    assert [level.first_step for level in batches.levels] == [0, 5, 8, 10]


@pytest.mark.parametrize("ramp", [(2, 2, 30), (1, 1, 5), (4, 4, 1000), (3, 5, 1), (7, 1, 23)])
def test_every_sample_is_in_one_step_and_the_batch_is_that_of_megatron(ramp: tuple[int, int, int]) -> None:
    start, increment, samples = ramp
    batches, consumed = found(*ramp, steps=1000), 0
    for step in range(1000):
        # As Megatron-LM counts: so many increments as parts of the ramp are behind the samples that were taken.
        width = samples / ((8 - start) // increment)
        expected = 8 if consumed > samples else start + int(consumed / width) * increment
        assert (batches.consumed(step), batches.batch(step)) == (consumed, expected)
        consumed += expected


@pytest.mark.parametrize("tokens", [1, 16, 17, 80, 81, 272, 273, 5000])
def test_tokens_are_reached_in_as_few_whole_steps_as_they_take(tokens: int) -> None:
    batches = found(2, 2, 30, tokens=tokens)  # of 8 tokens a sequence
    assert batches.samples * 8 >= tokens
    assert batches.consumed(batches.steps - 1) * 8 < tokens


def test_without_a_ramp_every_step_is_the_same() -> None:
    batches = batches_of(Job(), problem())
    assert (batches.steps, batches.samples, batches.batch(7), batches.consumed(7)) == (50, 400, 8, 56)
    assert [batches_of(read_job(None, [f"schedule.tokens={n}"]), problem()).steps for n in (1, 64, 65)] == [1, 1, 2]


def test_the_learning_rate_goes_as_far_as_there_are_sequences() -> None:
    ramp = job(2, 2, 30, steps=12, warmup_steps=2, kind="linear", final_share=0)
    batches = batches_of(ramp, problem())
    rates = [learning_rate_at(step, batches, ramp) / 3e-4 for step in range(13)]
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    # 46 sequences are left after the two steps of the warm-up.
    assert rates[5] == pytest.approx(1 - 6 / 46)
    assert rates[11:] == pytest.approx([1 - 38 / 46, 0.0])


PIPELINE: dict[str, Any] = {"pipeline_parallel": 2, "num_microbatches": 8}
LAYOUTS: dict[str, tuple[Layout, tuple[int, int]]] = {
    "accumulation": (layout(), (1, 1)),
    "data parallel": (layout(data_parallel=2, num_microbatches=4, micro_batch=2), (4, 4)),
    "pipeline": (layout(**PIPELINE), (2, 1)),
    "pipelines": (layout(**PIPELINE, data_parallel=2), (4, 2)),
    "interleaved": (layout(**PIPELINE, schedule="interleaved", num_model_chunks=2), (2, 2)),
    "one micro batch": (layout(num_microbatches=1, micro_batch=8), (8, 8)),
    "ZeRO": (layout(data_parallel=4, num_microbatches=2, zero_stage=1), (4, 4)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_takes_the_batches_that_the_rules_let_through(name: str) -> None:
    chosen, expected = LAYOUTS[name]
    asked = problem_of(chosen, pins={"num_microbatches": str(chosen.num_microbatches)})
    answer, unit = takes(asked, chosen), chosen.micro_batch * chosen.data_parallel
    assert tuple(answer) == expected
    for count in range(1, chosen.num_microbatches + 1):
        smaller = changed(chosen, num_microbatches=count)
        assert answer.fits(smaller.global_batch, unit * answer.by) == (not violations(problem_of(smaller), smaller))


@pytest.mark.parametrize(
    ("ramp", "message", "hint"),
    [
        ((2, 2, 0), "ramp_samples is 0", "ramp_start = 4` and `schedule.ramp_increment = 2"),
        ((16, 2, 100), "cannot grow from 16 to the plan's 16", "ramp_start = 4"),
        ((4, 5, 100), "steps of 5 do not lead from 4 to the plan's batch of 16", "use 2, 4, 6, 12"),
        ((5, 1, 100), "batches from 4 on in steps of 2, not from 5 in steps of 1", "ramp_start = 4"),
        ((2, 2, 100), "2 data-parallel ranks x micro batches of 1, for 2 pipeline stages", "ramp_start = 4"),
    ],
)
def test_a_ramp_that_cannot_be_is_refused_with_one_that_can(
    ramp: tuple[int, int, int], message: str, hint: str
) -> None:
    chosen = LAYOUTS["pipelines"][0]
    (finding,) = of_ramp(job(*ramp), problem_of(chosen), chosen)
    assert message in finding.message
    assert hint in finding.hint


def test_a_ramp_that_is_over_binds_no_layout() -> None:
    chosen = LAYOUTS["one micro batch"][0]
    ramp = job(2, 2, 30)
    (finding,) = of_ramp(ramp, problem_of(chosen), chosen, done=9)
    assert "`schedule.ramp_start = 0`, or solve for smaller micro batches" in finding.hint
    assert not list(of_ramp(ramp, problem_of(chosen), chosen, done=10))
    assert not list(of_ramp(Job(), problem_of(chosen), chosen))
