"""The tables of measured runs that lie beside the checkout, where they do: all rows are read, few are left out."""

from pathlib import Path

import pytest

from benchmarks.transfer import RUNS, calibrated_transfer, mean_transfer, transfers
from docs.validation_page import page
from planner.specs import StackSpec
from planner.specs.files import load_spec
from planner.validation import Report, validate

FOLDER = Path(__file__).parents[2].parent / "shared" / "data"
TABLES = sorted(FOLDER.glob("*.csv"))

pytestmark = pytest.mark.skipif(not TABLES, reason="no tables of measured runs beside the checkout")


@pytest.fixture(scope="module")
def report() -> Report:
    return validate(TABLES)


def test_every_row_is_scored_or_left_out_with_a_reason(report: Report) -> None:
    for name, one in report.sets.items():
        assert one.rows == one.scored + sum(one.skipped.values()), name


def test_no_row_from_memory_is_scored(report: Report) -> None:
    recalled = [one for one in report.replays if one.row.text("from_memory") == "yes"]
    assert recalled
    assert all(one.skipped and "from_memory" in one.skipped for one in recalled)


def test_gpt_sets_are_replayed(report: Report) -> None:
    for name in ("vTrain-single", "vTrain-multi"):
        assert report.sets[name].scored == report.sets[name].rows
    assert report.sets["BLOOM-prequel"].scored >= 90
    assert report.sets["BigScience-1B3-V100"].scored == 21
    assert report.sets["colossalai-h100"].scored >= 28


def test_memory_of_colossal_ai_runs(report: Report) -> None:
    allocated = report.sets["colossalai-h100"].memory_by_kind["allocated"]
    assert allocated.n >= 20
    assert allocated.mean_abs_pct is not None
    assert allocated.max_abs_pct is not None
    assert allocated.mean_abs_pct < 0.6
    assert allocated.max_abs_pct < 2
    for kind in ("reserved", "device"):
        mean = report.sets["colossalai-h100"].memory_by_kind[kind].mean_abs_pct
        assert mean is not None
        assert mean < 5, kind


@pytest.mark.parametrize(
    ("name", "mean"), [("BLOOM-prequel", 5), ("BigScience-1B3-V100", 6), ("Megatron-golden-mem", 3), ("seed-gpt2", 7)]
)
def test_memory_of_other_stacks(name: str, mean: float, report: Report) -> None:
    error = report.sets[name].memory
    assert error.n >= 11
    assert error.mean_abs_pct is not None
    assert error.mean_abs_pct < mean


def test_runs_of_nanotron(report: Report) -> None:
    playbook = report.sets["Ultrascale-playbook"]
    assert playbook.step_time.mean_abs_pct is not None
    assert playbook.step_time.mean_abs_pct < 16
    assert playbook.memory.mean_abs_pct is not None
    assert playbook.memory.mean_abs_pct < 8
    assert playbook.outcome.fit_as_oom == 0
    assert playbook.ranking.kendall_tau is not None
    assert playbook.ranking.kendall_tau > 0.84


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("colossalai-h100", 5),
        ("vTrain-single", 7),
        ("vTrain-multi", 9),
        ("Megatron-2020", 5),
        ("Narayanan2021-T2", 5),
        ("BLOOM-prequel", 9),
        ("MosaicML", 8),
        ("NVIDIA-dgxc", 4),
        ("BigScience-1B3-V100", 7),
        ("IBM-fms", 5),
    ],
)
def test_step_times(name: str, mean: float, report: Report) -> None:
    error = report.sets[name].step_time
    assert error.n >= 3
    assert error.mean_abs_pct is not None
    assert error.mean_abs_pct < mean


def test_what_fits_is_told_from_what_does_not(report: Report) -> None:
    for name in (
        "vTrain-single",
        "vTrain-multi",
        "colossalai-h100",
        "seed-gpt2",
        "seed-gpt3",
        "BLOOM-prequel",
        "MosaicML",
    ):
        assert report.sets[name].outcome.fit_as_oom == 0, name


def test_the_page_shows_every_set(report: Report) -> None:
    text = page(report, {})
    for name, one in report.sets.items():
        assert f"| {name} | {one.rows} | {one.scored} |" in text


def test_what_another_machine_adds_to_the_error_is_what_the_stack_states() -> None:
    found, stack = transfers([FOLDER / "h100_measurements.csv", RUNS]), load_spec("colossalai", StackSpec)
    assert stack.transfer_error == round(mean_transfer(found), 3)
    assert stack.calibrated_transfer_error == round(calibrated_transfer(found["colossalai-hf"].own), 3)
