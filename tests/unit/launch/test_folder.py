"""The folder of a run: whose it is, and what is refused."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from planner.checkpoints.folders import find_checkpoint
from planner.diagnostics import ExitCode, PlanError
from planner.handover.work import METRICS_FILE, PLAN_FILE, RunOptions
from planner.launch import folder as folders
from planner.launch.folder import check_run_dir, never_stepped, run_folder, steps_done
from planner.launch.runs import is_run
from planner.plans.plan import Plan, canonical_json, read_plan

ROOT = Path(__file__).parents[3]
HOLDER = """
import fcntl, sys, time
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("process 7 on some-host", file=lock, end="", flush=True)
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def plan() -> Plan:
    return read_plan(ROOT / "plans" / "gpt2-vanilla.plan")


def refused(options: RunOptions, *, force: bool = False) -> Any:
    with pytest.raises(PlanError) as caught:
        check_run_dir(options, force=force)
    assert caught.value.exit_code == ExitCode.USAGE
    (found,) = caught.value.diagnostics
    assert found.hint
    return found


def test_runs_of_a_plan_that_start_together_have_folders_of_their_own(plan: Plan, tmp_path: Path) -> None:
    options = RunOptions(output=tmp_path)
    with run_folder(plan, "some", options) as first, run_folder(plan, "some", options) as second:
        assert first != second
        assert {first.parent, second.parent} == {tmp_path / "some"}
        assert re.fullmatch(r"\d{8}T\d{6}Z(-\d\d)?", first.name)
        assert sorted([second.name, first.name]) == [first.name, second.name]
        assert (first / PLAN_FILE).read_bytes() == canonical_json(plan)


def test_a_name_leads_to_no_other_folder(plan: Plan, tmp_path: Path) -> None:
    with run_folder(plan, "..", RunOptions(output=tmp_path / "runs")) as folder:
        assert folder.parent == tmp_path / "runs" / "plan"


def test_runs_of_one_second_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    then = folders._now()
    monkeypatch.setattr(folders, "_now", lambda: then)
    names = [folders._new(tmp_path, 0).name for _ in range(3)]
    assert names == sorted(names)
    assert names[1:] == [f"{names[0]}-02", f"{names[0]}-03"]
    assert folders._new(tmp_path, 1).name == f"{names[0]}-node1"


def test_a_folder_is_held_and_let_go(plan: Plan, tmp_path: Path) -> None:
    options = RunOptions(run_dir=tmp_path / "new" / "run")
    with run_folder(plan, "some", options) as folder:
        assert folder == options.run_dir
        found = refused(options, force=True)
        assert found.message.startswith(f"another run has this folder: process {os.getpid()} on ")
        assert found.location == f"--run-dir {folder}"
        with pytest.raises(PlanError, match="another run has this folder"), run_folder(plan, "x", options, force=True):
            pass
    (folder / METRICS_FILE).write_text('{"record": "step"}\n')
    assert refused(options).message == "there is a run in this folder already"
    assert steps_done(folder) == 1
    with run_folder(plan, "some", options, force=True):
        assert steps_done(folder) == 0


def test_a_folder_is_let_go_by_the_death_of_who_holds_it(plan: Plan, tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / folders.LOCK_FILE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert refused(RunOptions(run_dir=tmp_path)).message == "another run has this folder: process 7 on some-host"
        holder.kill()
    with run_folder(plan, "some", RunOptions(run_dir=tmp_path)) as folder:
        assert str(os.getpid()) in (folder / folders.LOCK_FILE).read_text()


def test_nodes_share_a_folder_and_not_their_files(plan: Plan, tmp_path: Path) -> None:
    options = [RunOptions(run_dir=tmp_path / "run", node=node) for node in (0, 1)]
    with run_folder(plan, "some", options[1]) as second, run_folder(plan, "some", options[0]) as first:
        assert (first, second) == (tmp_path / "run", tmp_path / "run" / "node1")


def test_files_of_something_else_are_named(plan: Plan, tmp_path: Path) -> None:
    for name in ("b", "a", "d", "c"):
        (tmp_path / name).touch()
    found = refused(RunOptions(run_dir=tmp_path))
    assert found.message == "this folder has other files: a, b, c and 1 more"
    assert "`--force`" in found.hint
    check_run_dir(RunOptions(run_dir=tmp_path), force=True)
    with pytest.raises(PlanError), run_folder(plan, "some", RunOptions(run_dir=tmp_path)):
        pass
    assert not (tmp_path / PLAN_FILE).exists()


def test_what_is_no_folder_is_refused(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refused(RunOptions(run_dir=tmp_path / "file"), force=True).message == "this is no folder"
    message = "cannot be written there: Not a directory"
    with pytest.raises(PlanError, match=message) as caught, run_folder(plan, "x", RunOptions(output=tmp_path / "file")):
        pass
    assert caught.value.exit_code == ExitCode.USAGE
    both = RunOptions(run_dir=tmp_path / "new", output=tmp_path)
    assert refused(both).location == "--output"
    check_run_dir(RunOptions(run_dir=tmp_path / "new"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_steps_are_counted_without_a_line_that_was_cut_off(tmp_path: Path) -> None:
    assert steps_done(tmp_path) == 0
    lines = b'{"record": "header"}\n{"record": "step", "step": 1}\n{"record": "step", "step": 2}\n{"record": "st'
    (tmp_path / METRICS_FILE).write_bytes(lines)
    assert steps_done(tmp_path) == 2


def saved(run: Path, *steps: int) -> None:
    for step in steps:
        (run / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
        (run / "checkpoints" / f"step-{step:08d}" / "manifest.json").write_text(str(step))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_checkpoints_after_the_one_that_a_run_goes_on_from_are_put_aside_with_their_records(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = RunOptions(run_dir=tmp_path / "run")
    with run_folder(plan, "some", options) as folder:
        (folder / METRICS_FILE).write_text('{"record": "step", "step": 30}\n')
        saved(folder, 10, 20, 30)
    with run_folder(plan, "some", options, goes_on=True, done=10) as folder:
        assert names(folder) == ["step-00000010"]
        assert names(folder / "before-1") == ["step-00000020", "step-00000030"]
        assert steps_done(folder) == steps_done(folder / "before-1") == 1
        assert is_run(folder / "before-1")
        assert find_checkpoint(folder / "before-1").name == "step-00000030"
        saved(folder, 20)
    message = capsys.readouterr().err
    assert "goes on after step 10: step-00000020, step-00000030 of the one before are in" in message
    assert f"--resume {tmp_path / 'run' / 'before-1'}" in message
    with run_folder(plan, "some", options, goes_on=True, done=20) as folder:
        assert names(folder) == ["step-00000010", "step-00000020"]
    assert capsys.readouterr().err == ""


def test_a_run_that_begins_anew_in_a_folder_leaves_the_checkpoints_of_the_one_before(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = RunOptions(run_dir=tmp_path / "run")
    for number in (1, 2):
        with run_folder(plan, "some", options, force=True) as folder:
            saved(folder, 70)
        assert ("begins anew: step-00000070" in capsys.readouterr().err) == (number == 2)
    assert names(tmp_path / "run" / "before-1") == ["step-00000070"]
    assert "there is a run in this folder already" in refused(options).message
    with run_folder(plan, "some", options, force=True) as folder:
        assert names(folder / "before-2") == ["step-00000070"]
        assert names(folder) == []


def test_other_nodes_put_nothing_aside(plan: Plan, tmp_path: Path) -> None:
    saved(tmp_path / "run" / "node1", 7)
    with run_folder(plan, "some", RunOptions(run_dir=tmp_path / "run", node=1), force=True) as folder:
        assert names(folder) == ["step-00000007"]


def test_a_run_that_ended_before_its_first_step_does_not_keep_its_folder(plan: Plan, tmp_path: Path) -> None:
    options = RunOptions(run_dir=tmp_path / "run")
    assert not never_stepped(options)
    with run_folder(plan, "some", options) as folder:
        (folder / METRICS_FILE).write_text('{"record": "event", "event": "end"}\n')
        (folder / "rank-0.log").write_text("it failed")
    assert never_stepped(options)
    assert not never_stepped(RunOptions())
    with run_folder(plan, "some", options, force=never_stepped(options)):
        assert not (folder / METRICS_FILE).exists()
    other = RunOptions(run_dir=tmp_path / "run", node=1)
    with run_folder(plan, "some", other):
        pass
    assert never_stepped(other)
    (folder / METRICS_FILE).write_text('{"record": "step", "step": 1}\n')
    assert not never_stepped(options)
    assert not never_stepped(other)
    (folder / METRICS_FILE).unlink()
    (folder / "note.txt").write_text("mine")
    assert not never_stepped(options)
