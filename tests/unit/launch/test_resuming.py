"""Which checkpoint is meant."""

from pathlib import Path

import pytest

from planner.checkpoints.manifest import MANIFEST
from planner.diagnostics import PlanError
from planner.handover.work import NEWEST, RunOptions
from planner.launch.resuming import Resumed, _data_of, _named, check_steps, reordered


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


def test_another_seed_or_other_data_is_a_warning() -> None:
    found = Resumed(RunOptions(), goes_on=True, step=50, seed=3, data_fingerprint="sha256:a")
    assert reordered(found, 3, "sha256:a") == []
    assert reordered(Resumed(RunOptions(), goes_on=False), 3, "sha256:a") == []
    (seed,) = reordered(found, 4, "sha256:a")
    assert "the seed is 4, and was 3: of the samples of the 50 steps" in seed.message
    (data,) = reordered(found, 3, "sha256:b")
    assert data.message.startswith("the data, with that of evaluations, is in other files")
    assert data.severity == "warning"


def test_the_data_of_a_checkpoint_is_that_of_the_start_that_made_it(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    assert _data_of(metrics, 10) == ""
    metrics.write_text(
        '{"record": "header", "data_fingerprint": "a"}\n'
        '{"record": "step", "step": 10}\n'
        '{"record": "header", "step": 10, "data_fingerprint": "b"}\n'
        '{"record": "head'
    )
    assert [_data_of(metrics, step) for step in (5, 10, 11)] == ["a", "a", "b"]
