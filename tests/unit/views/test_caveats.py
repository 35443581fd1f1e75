"""What limits a prediction is said with numbers, and what is said to be typed helps."""

import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from planner.cost_model.errors import KINDS
from planner.plans.plan import Plan, read_plan, seal, write_plan
from planner.plans.prediction import ExpectedError
from planner.plans.question import Question, build_problem
from planner.solver import solve
from planner.validation import validate
from planner.validation.evidence import FILE, covered, encoded, evidence_of
from planner.views.caveats import _KINDS, caveats, certainty, expected_error, tight_memory
from planner.views.report import report
from tests.helpers import Run, changed

ROOT = Path(__file__).parents[3]


@cache
def plan(name: str) -> Plan:
    return read_plan(ROOT / "plans" / f"{name}.plan")


def with_error(error: ExpectedError, name: str = "gpt3-96xa100-40g") -> Plan:
    return changed(plan(name), predicted={"expected_error": error})


def words(basis: str, runs: int = 6, **fields: Any) -> str:
    error = ExpectedError(memory=0.0097, step_time=0.087, runs=runs, basis=basis, **fields)
    return expected_error(with_error(error))


def test_expected_errors_name_their_runs_and_where_these_were() -> None:
    assert words("pipeline") == (
        "8.7% of the step time (8.7% in 6 measured runs with pipelines on 2 GPUs (h200-141g; one host with two H200), "
        "models of 1.32B to 2.65B parameters), 1.0% of the memory"
    )
    assert words("tensor", transfer=0.05).endswith(
        "parameters; 5.0% more as none was on a100-40g, which is not calibrated), 1.0% of the memory"
    )


def test_what_another_card_adds_says_whether_it_was_calibrated() -> None:
    error = ExpectedError(memory=0.03, step_time=0.15, runs=5, basis="pipeline", transfer=0.05)
    near = changed(with_error(error), problem={"hardware": {"calibrated": True}})
    assert expected_error(near) == (
        "15.0% of the step time (10.0% in 5 measured runs with pipelines on 2 GPUs (h200-141g; one host with two "
        "H200), models of 1.32B to 2.65B parameters; 5.0% more as none was on a100-40g), 3.0% of the memory"
    )


def test_expected_errors_of_all_runs_name_no_kind() -> None:
    assert " runs with " not in words("all")
    assert "in 6 measured runs on 1 to 2 GPUs (h200-141g" in words("all")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_layout_has_words(kind: str) -> None:
    assert f" runs{_KINDS[kind]} " in words(kind)


def test_a_stack_without_measured_runs_names_the_published_ones_that_are_replayed() -> None:
    megatron = changed(with_error(ExpectedError(memory=0.05, step_time=0.3, runs=0, basis="none")), problem={})
    megatron = changed(megatron, problem={"stack": {"name": "megatron"}})
    runs = evidence_of("megatron", "pipeline")
    assert runs is not None
    assert f"missed the step time by {runs[1].step_time:.1%} ({runs[1].runs} runs)" in expected_error(megatron)
    assert "replays of published runs with pipelines on 8 to 6144 GPUs" in expected_error(megatron)
    note = caveats(megatron)[-1]
    assert "a100-40g, and only a100-80g, h100-80g" in note.message
    assert "GPUs, and" not in note.message


def test_a_stack_of_which_nothing_is_known_says_so() -> None:
    unknown = changed(plan("gpt3-96xa100-40g"), problem={"stack": {"name": "of-my-own"}})
    assert "it is not recorded on what" in expected_error(unknown)
    unmeasured = changed(with_error(ExpectedError(memory=0.01, step_time=0.087, runs=0, basis="none")), problem={})
    unmeasured = changed(unmeasured, problem={"stack": {"name": "of-my-own"}})
    assert expected_error(unmeasured) == (
        "8.7% of the step time (a rule, as gptplan measured fewer than 3 runs of stack of-my-own for it), "
        "1.0% of the memory"
    )
    assert "none of stack of-my-own is recorded" in caveats(unknown)[-1].message


def test_what_is_beyond_the_measured_runs_is_named_with_numbers() -> None:
    (note,) = caveats(plan("gpt3-1024xa100-40g"))
    assert (note.rule, note.severity) == ("EST002", "note")
    for part in (
        "1024 GPUs, and at most 2",
        "128 nodes, and at most 1",
        "a100-40g, and only h200-141g",
        "175B parameters",
    ):
        assert part in note.message
    assert note.values["devices"] == (2, 2)
    known_card = {"hardware": {"name": "h200-141g"}}
    (note,) = caveats(changed(plan("gpt2-pp"), problem=known_card))
    assert note.message == "the expected error is extrapolated: 124M parameters, and only 1.32B to 2.65B"
    like_measured = {**known_card, "model": {"num_layers": 48, "hidden_size": 1536, "ffn_hidden_size": 6144}}
    assert not caveats(changed(plan("gpt2-pp"), problem=like_measured))
    assert not caveats(changed(plan("gpt2-pp"), problem=like_measured, layout={"schedule": "zbv"}))
    by_hand = {**like_measured, "stack": {"name": "colossalai-hf"}}
    (note,) = caveats(changed(plan("gpt2-pp"), problem=by_hand, layout={"schedule": "zbv"}))
    assert note.message == "the expected error is extrapolated: schedule zbv, and only 1f1b, interleaved"


def test_memory_without_room_for_its_error_is_a_warning_that_can_be_acted_on(gptplan: Run, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"model": "gpt3-6.7b", "gpus": 4, "gpu": "a100-40g", "stack": "megatron"}
    answer = solve(build_problem(Question(**asked, reserve="0")))
    assert answer.plan is not None
    (warning,) = tight_memory(answer.plan)
    stage = answer.plan.predicted.stages[warning.values["stage"]]
    room = stage.capacity_bytes - stage.peak_bytes - warning.values["usual_reserve_bytes"]
    assert warning.values["free_bytes"] == pytest.approx(room, abs=1)
    assert room < warning.values["error_bytes"]
    assert warning.values["fits_probability"] == stage.fits_probability < 0.95
    option, amount = shlex.split(warning.hint.split("`")[1])
    assert option == "--confidence"
    better = solve(build_problem(Question(**asked, reserve="0", confidence=float(amount))))
    assert better.plan is not None
    assert not list(tight_memory(better.plan))
    assert (better.plan.predicted.fits_probability or 0) >= 0.95
    file = tmp_path / "tight.plan"
    write_plan(answer.plan, file)
    shown = gptplan("show", file)
    assert f"warning[EST001]: {warning.message}" in shown.out
    assert gptplan("show", file, "--json").document()["warnings"][0]["values"] == warning.values
    assert f"Warning: stage {warning.values['stage']} fits" in report(answer.plan)
    solved = gptplan("solve", "--model", "gpt3-6.7b", "--gpus", 4, "--stack", "megatron", "--reserve", 0, "--json")
    assert solved.document()["warnings"][0]["values"] == warning.values


def test_a_plan_with_room_has_no_warning_and_one_tight_stage_is_enough() -> None:
    roomy = plan("gpt2-pp")
    assert not list(tight_memory(roomy))
    stages = roomy.predicted.stages
    full = msgspec.structs.replace(stages[1], peak_bytes=stages[1].capacity_bytes - 2**30, fits_probability=None)
    tight = seal(changed(roomy, predicted={"stages": (stages[0], full)}))
    (warning,) = tight_memory(tight)
    assert (warning.values["stage"], warning.values["tight_stages"]) == (1, [1])


def test_how_sure_a_plan_is_stands_beside_it() -> None:
    memory, step, others = certainty(plan("gpt3-96xa100-40g"))
    assert re.match(
        r"fits: with a probability of 9\d\.\d% at least, 95% asked; stage \d+ has [\d.]+ [GM]iB more", memory
    )
    assert re.match(r"step time: [\d,.]+ s to [\d,.]+ s with a probability of 90%", step)
    assert re.match(r"runners-up: \d+ other choices' intervals overlap", others)


def test_no_interval_is_shown_for_cores_as_runs_of_gpus_tell_none() -> None:
    answer = solve(build_problem(Question(model="gpt2-tiny", gpus=1, gpu="local-cpu")))
    assert answer.plan is not None
    assert certainty(answer.plan)[1].startswith("step time: no interval, as all measured runs are of GPUs")


def test_zero_3_without_room_for_its_second_stream_has_a_warning() -> None:
    """gpt3-2.7b on two cards: 2 bytes for each of a rank's 1.33 billion parameters, 2.5 GiB."""
    asked: dict[str, Any] = {"model": "gpt3-2.7b", "gpus": 2, "gpu": "a100-40g", "global_batch": 2, "reserve": "0"}
    answer = solve(build_problem(Question(**asked, pin=("zero_stage=3",))))
    assert answer.plan is not None
    roomy = answer.plan
    assert "EST003" not in {one.rule for one in caveats(roomy)}
    stage = roomy.predicted.stages[0]
    tight = msgspec.structs.replace(stage, peak_bytes=stage.capacity_bytes - 2 * 2**30)
    (warning,) = [one for one in caveats(changed(roomy, predicted={"stages": (tight,)})) if one.rule == "EST003"]
    assert warning.values["kept_bytes"] == pytest.approx(2.65e9, rel=0.02)
    assert warning.values["free_bytes"] < 2 * 2**30


def test_the_kept_evidence_is_that_of_the_tables() -> None:
    tables = sorted((ROOT / "tests" / "validation").glob("h200_runs.csv"))
    found = encoded(covered(validate(tables).replays)).splitlines()[1:-1]
    kept = [line for line in FILE.read_text().splitlines() if line.startswith('"colossalai/')]
    assert [line.rstrip(",") for line in found] == [line.rstrip(",") for line in kept]
    assert len(kept) == 5
