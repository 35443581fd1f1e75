"""Which steps count: in fp16 a step whose gradients overflow updates nothing."""

import pytest

from runtime.train.steps import Step, has_updated, median_step_s
from tests.runtime.training import MakePlan, Ranks, make_engine, own_batches

pytestmark = pytest.mark.runtime
TOO_LARGE = 2.0**40


def test_the_median_is_of_steps_that_updated_after_the_first_three() -> None:
    steps = [Step(1.0, 9.0), Step(1.0, 8.0), Step(1.0, 7.0), Step(1.0, 1.0, updated=False), Step(1.0, 3.0)]
    assert median_step_s(steps) == 3.0
    assert median_step_s([*steps, Step(1.0, 5.0)]) == 4.0
    assert median_step_s(steps[:2]) == 8.5
    assert median_step_s(steps[:4]) is None
    assert median_step_s([Step(1.0, 1.0, updated=False)]) is None


@pytest.mark.parametrize("fields", [{}, {"data_parallel": 2, "zero_stage": 1}], ids=["naive", "zero1"])
def test_an_overflow_in_fp16_is_a_step_without_update(fields: dict[str, int], plan: MakePlan, ranks: Ranks) -> None:
    chosen = plan(precision="fp16", **fields)

    def updates(rank: int) -> list[tuple[bool, bool]]:
        engine = make_engine(chosen)
        mixin = getattr(engine.optimizer, "mixed_precision", None) or engine.optimizer.mixed_precision_mixin
        found = []
        for number, batch in enumerate(own_batches(engine, chosen)):
            scale = mixin.grad_scaler.scale
            if number == 0:
                scale.fill_(TOO_LARGE)
            before = [weight.detach().clone() for weight in engine.model.parameters()]
            engine.step(batch)
            moved = any(not old.equal(new) for old, new in zip(before, engine.model.parameters(), strict=True))
            found.append((has_updated(engine.optimizer), moved))
            scale.fill_(2.0**8)
        return found

    for found in ranks(chosen.layout.num_devices, updates):
        assert found == [(False, False), (True, True), (True, True)]


def test_other_precisions_always_update(plan: MakePlan, ranks: Ranks) -> None:
    def updates(rank: int) -> list[bool]:
        found = []
        for precision in ("bf16", "fp32"):
            chosen = plan(precision=precision)
            engine = make_engine(chosen)
            engine.step(next(own_batches(engine, chosen)))
            found.append(has_updated(engine.optimizer))
        return found

    assert ranks(1, updates) == [[True, True]]
