"""Predictions against Colossal-AI trained by hand, and a calibrated spec against the built-in one."""

import csv
from pathlib import Path

from benchmarks.library.cases import read_cases
from benchmarks.library.run import cells
from docs.speed_page import PAGE
from planner.calibration.refit import refit
from planner.specs import HardwareSpec
from planner.specs.files import load_spec
from planner.validation import validate

FOLDER = Path(__file__).parent
TABLE = FOLDER / "library_runs.csv"
CASES = FOLDER.parent.parent / "benchmarks" / "library" / "h200.toml"
LARGE = 4096
"""The hidden size from which the device is never waiting for the host."""
REPORT = validate([TABLE])
SCORE = REPORT.sets["colossalai-h200-library"]


def test_every_run_is_replayed_and_predicted_to_fit() -> None:
    assert (SCORE.rows, SCORE.scored, SCORE.outcome.fit_as_fit) == (20, 20, 20)


def test_peak_memory_is_within_a_few_percent() -> None:
    assert SCORE.memory.mean_abs_pct is not None
    assert SCORE.memory.mean_abs_pct < 2
    assert SCORE.memory_by_kind["device"].mean_abs_pct is not None
    assert SCORE.memory_by_kind["device"].mean_abs_pct < 5


def test_step_time_of_models_that_do_not_wait_for_the_host_is_within_a_few_percent() -> None:
    errors = [
        abs(one.predicted.step_s / one.case.measured.step_s - 1)
        for one in REPORT.replays
        if one.case and one.predicted and one.case.measured.step_s
        if one.case.problem.model.hidden_size >= LARGE
    ]
    assert len(errors) == 9
    assert sum(errors) / len(errors) < 0.04
    assert max(errors) < 0.07


def test_a_calibrated_spec_predicts_runs_that_it_does_not_know() -> None:
    spec = load_spec(str(FOLDER / "h200_calibrated.toml"), HardwareSpec)
    assert spec.calibrated
    step_time = validate([FOLDER / "h200_runs.csv"], hardware=spec).sets["colossalai-h200"].step_time
    assert step_time.mean_abs_pct is not None
    assert step_time.max_abs_pct is not None
    assert step_time.mean_abs_pct < 6
    assert step_time.max_abs_pct < 15


def test_a_refit_to_half_of_the_runs_helps_the_other_half() -> None:
    spec = load_spec(str(FOLDER / "h200_calibrated.toml"), HardwareSpec)
    found = refit(TABLE, name="refit", stack=None, hardware=spec, date="2026-01-01")
    before, after = found.held_out_before.mean_abs_pct, found.held_out_after.mean_abs_pct
    assert before is not None
    assert after is not None
    assert after < 6
    assert before > 10


def test_the_rows_are_those_of_the_cases() -> None:
    with TABLE.open(newline="", encoding="utf-8") as file:
        rows = {row["id"].removeprefix("library-"): row for row in csv.DictReader(file)}
    cases = read_cases(CASES)
    assert [case.name for case in cases] == list(rows)
    for case in cases:
        stated = cells(case, "H200-SXM-141G", "colossalai-h200-library") | {"id": f"library-{case.name}"}
        assert {name: rows[case.name][name] for name in stated} == stated


def test_the_readme_says_how_much_faster_gptplan_trains() -> None:
    lines = [line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| gpt3-")]
    ratios = {line[0].removeprefix("| "): float(line[4].removesuffix(" |")) for line in lines if len(line) == 5}
    assert ratios.keys() == {"gpt3-1.3b", "gpt3-6.7b"}
    times = " and ".join(f"{round(ratio, 1)}" for ratio in ratios.values())
    readme = " ".join((FOLDER.parent.parent / "README.md").read_text(encoding="utf-8").split())
    assert f"the 1.3B and 6.7B models train {times} times as many tokens a second" in readme
