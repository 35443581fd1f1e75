"""Which checkpoint is meant."""

from pathlib import Path

import pytest

from planner.checkpoints.manifest import MANIFEST
from planner.diagnostics import PlanError
from planner.handover.work import NEWEST, RunOptions
from planner.launch.resuming import Resumed, _named, check_steps


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The runs of a plan: the newest of them was ended before it had saved."""
    for name, step in (("20260101T000000Z", 10), ("20260102T000000Z", 5)):
        folder = tmp_path / "gpt" / name / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_text("{}")
    (tmp_path / "gpt" / "20260103T000000Z" / "checkpoints" / "step-00000005.part").mkdir(parents=True)
    (tmp_path / "gpt" / "note.txt").write_text("no run")
    return tmp_path


def test_of_a_folder_of_runs_it_is_the_newest_with_a_complete_checkpoint(runs: Path) -> None:
    newest = runs / "gpt" / "20260102T000000Z"
    assert _named("gpt", RunOptions(resume=runs / "gpt")) == newest
    assert _named("gpt", RunOptions(resume=Path(NEWEST), output=runs)) == newest
    assert _named("other", RunOptions(resume=runs / "gpt" / "20260101T000000Z")).name == "20260101T000000Z"


@pytest.mark.parametrize("name", ["nowhere", "gpt/20260103T000000Z"])
def test_any_other_folder_is_taken_as_it_is_named(name: str, runs: Path) -> None:
    assert _named("gpt", RunOptions(resume=runs / name)) == runs / name


def test_a_checkpoint_with_all_steps_of_the_run_is_refused() -> None:
    found = Resumed(RunOptions(resume=Path("step-00000050")), goes_on=True, step=50)
    check_steps(found, 51)
    with pytest.raises(PlanError, match="the checkpoint is after step 50, and the run has 50 steps"):
        check_steps(found, 50)
    check_steps(Resumed(RunOptions(), goes_on=False), 1)
