"""What the list of runners-up says of each: what it does otherwise and what it trades."""

import msgspec
import pytest

from planner.layouts.layout import Layout, Offload
from planner.layouts.words import differences
from planner.plans.question import Question, build_problem
from planner.solver import solve
from planner.views.answer import found, trades
from planner.views.terminal import print_content
from tests.helpers import layout


def changed(best: Layout, **fields: object) -> Layout:
    return msgspec.structs.replace(best, **fields)


def test_what_is_in_no_column_is_said() -> None:
    best = layout()
    assert differences(best, changed(best, micro_batch=2, tensor_parallel=4)) == []
    other = changed(best, schedule="interleaved", num_model_chunks=3, sequence_parallel=not best.sequence_parallel)
    assert differences(best, other) == [
        "schedule interleaved, 3 chunks a stage",
        f"{'without' if best.sequence_parallel else 'with'} sequence parallelism",
    ]
    offloaded = changed(best, offload=Offload(optimizer=1.0, parameters=0.4, tier="cpu"))
    assert differences(best, offloaded) == ["100% of the optimizer and 40% of the weights to cpu"]
    assert differences(offloaded, best) == ["no offload"]


def test_a_trade_names_the_term_that_shrinks_most_and_the_one_that_grows_most(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = solve(build_problem(Question(model="gpt3-13b", gpus=32)), top=4)
    assert answer.plan is not None
    best = answer.plan.predicted
    assert trades(best, best) == []
    for runner_up in answer.runners_up:
        told = trades(best, runner_up.predicted)
        changes = [
            runner_up.predicted.breakdown_s[name] - best.breakdown_s[name]
            for name in best.breakdown_s
            if name in runner_up.predicted.breakdown_s
        ]
        assert len(told) <= 2
        assert any(" more " in words for words in told) == (max(changes) > 0.0005 * best.step_s)
    print_content(*found(answer, answer.plan, None))
    out = capsys.readouterr().out
    assert "against the best" in out
    assert any(trade in out for trade in trades(best, answer.runners_up[0].predicted))
