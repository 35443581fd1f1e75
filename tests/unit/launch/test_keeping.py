"""How often a run is started again, from where, and when not; its ranks are made up here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.checkpoints.folders import CHECKPOINTS, step_name
from planner.checkpoints.manifest import MANIFEST
from planner.diagnostics import ExitCode, PlanError
from planner.handover.options import decode
from planner.handover.work import METRICS_FILE, PLAN_FILE, REWIND_FILE, Beginning, RunOptions
from planner.jobs.job import FaultsSection, Job, ScheduleSection
from planner.launch import devices, keeping
from planner.launch.devices import Devices, numbers_in
from planner.launch.keeping import Keeper
from planner.launch.processes import Outcome, Work
from planner.launch.replanning import replanned
from planner.plans.plan import Plan, read_plan
from planner.plans.question import Question, build_problem
from planner.solver import solve
from tests.helpers import changed

DIED = Outcome(code=137, died=True)
DONE = Outcome(code=0)
MOST = 50

Step = Callable[[Path], Outcome]
"""What a start of the ranks does in the folder of the run, and how they end."""


@pytest.fixture(scope="module")
def plan() -> Plan:
    found = solve(build_problem(Question(model="gpt2-tiny", gpu="local-cpu", gpus=4, pin=("tensor_parallel=2",)))).plan
    assert found is not None
    return found


class Runs:
    """Starts a run whose ranks do what the test says, and notes what each start was told."""

    def __init__(self, plan: Plan, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plan, self.folder = plan, folder
        self.begun: list[Beginning] = []
        self.devices: list[int] = []
        self.schedule = ScheduleSection()
        self._patch = monkeypatch
        monkeypatch.setattr(keeping, "check_files", lambda *_: None)
        monkeypatch.setattr(keeping, "read_manifest", lambda *_: None)

    def __call__(
        self, steps: list[Step], *, keep_going: bool = True, resume: Path | None = None, **faults: Any
    ) -> Outcome:
        following = iter(steps)

        def execute(work: Work, **_: Any) -> Outcome:
            self.begun.append(decode(work.argv[-1], Beginning))
            self.devices.append(work.num_ranks)
            assert len(self.begun) < MOST
            return next(following)(self.folder)

        self._patch.setattr(keeping, "execute", execute)
        job = Job(schedule=self.schedule, faults=FaultsSection(**{"restart_wait_s": 0, **faults}))
        return Keeper(
            self.plan, self.folder, job, RunOptions(resume=resume, rendezvous="localhost:29500"), keep_going=keep_going
        ).run()


@pytest.fixture
def runs(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(plan, tmp_path, monkeypatch)


def saved(folder: Path, step: int) -> Path:
    path = folder / CHECKPOINTS / step_name(step)
    path.mkdir(parents=True)
    (path / MANIFEST).write_text("{}")
    return path


def dies_after(step: int) -> Step:
    def ranks(folder: Path) -> Outcome:
        saved(folder, step)
        return DIED

    return ranks


def test_it_goes_on_from_the_newest_checkpoint(runs: Runs, tmp_path: Path) -> None:
    assert runs([dies_after(5), dies_after(10), lambda _: DONE]) == DONE
    assert [one.resume for one in runs.begun] == [None, *(tmp_path / CHECKPOINTS / step_name(s) for s in (5, 10))]
    assert [one.restarts for one in runs.begun] == [0, 1, 2]
    assert runs.begun[1].reason == "its ranks ended with 137"


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(code=1),
        Outcome(code=1, out_of_memory=True),
        Outcome(code=137, died=True, asked_to_end=True),
        Outcome(code=143, interrupted_by=15, asked_to_end=True),
        Outcome(code=ExitCode.SAVED, asked_to_end=True),
        Outcome(code=ExitCode.SAVED),
    ],
    ids=["refused", "out of memory", "killed while it ended", "interrupted", "asked", "saved"],
)
def test_what_would_fail_again_or_was_meant_is_not_started_again(outcome: Outcome, runs: Runs) -> None:
    assert runs([lambda _: outcome]) == outcome


def test_without_keep_going_a_death_is_the_end(runs: Runs) -> None:
    assert runs([lambda _: DIED], keep_going=False) == DIED


def test_there_are_so_many_restarts_in_all_and_in_one_place(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs([lambda _: DIED] * 10, max_restarts_in_place=3) == DIED
    assert len(runs.begun) == 4
    assert "ends after 3 restarts in one place" in capsys.readouterr().err
    runs.begun.clear()
    assert runs([dies_after(step) for step in range(1, 10)], max_restarts_in_place=1, max_restarts=5) == DIED
    assert len(runs.begun) == 6
    assert "ends after 5 restarts, as many as `faults.max_restarts` allows" in capsys.readouterr().err


def test_a_plan_for_several_nodes_says_that_it_is_not_planned_again(
    runs: Runs, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs([dies_after(5), lambda _: DONE]) == DONE
    assert "not planned again" not in capsys.readouterr().err
    runs.plan = changed(plan, problem={"devices_per_node": 2})
    assert runs([dies_after(10), lambda _: DONE], devices_file="nowhere") == DONE
    message = "note: a plan for 2 nodes is not planned again for fewer: ranks start again once all 2 are there"
    assert message in capsys.readouterr().err
    runs([lambda _: DONE], keep_going=False)
    assert "not planned again" not in capsys.readouterr().err


def goes_back(*steps: int) -> Step:
    def ranks(folder: Path) -> Outcome:
        (folder / REWIND_FILE).write_text(json.dumps(steps))
        return Outcome(code=ExitCode.REWIND)

    return ranks


def test_it_goes_back_before_what_is_passed_over_and_forgets_what_came_after(runs: Runs, tmp_path: Path) -> None:
    for step in (10, 20, 30):
        saved(tmp_path, step)
    newest = tmp_path / CHECKPOINTS / step_name(30)
    assert runs([goes_back(30, 31), goes_back(5), lambda _: DONE], keep_going=False, resume=newest) == DONE
    assert [one.pass_over for one in runs.begun] == [(), (30, 31), (5, 30, 31)]
    assert [one.resume and one.resume.name for one in runs.begun[1:]] == [step_name(20), step_name(10)]
    assert [path.name for path in (tmp_path / CHECKPOINTS).iterdir()] == [step_name(10)]
    assert not (tmp_path / REWIND_FILE).exists()


def test_checkpoints_of_another_run_in_its_folder_are_none_of_its_own(runs: Runs, tmp_path: Path) -> None:
    saved(tmp_path, 90)
    assert runs([lambda _: DIED, dies_after(5), lambda _: DONE]) == DONE
    assert [one.resume and one.resume.name for one in runs.begun] == [None, None, step_name(5)]


def test_it_is_planned_again_for_what_is_there(runs: Runs, plan: Plan, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "devices"
    file.write_text("0, 1, 2, 3")

    def left(*numbers: int) -> Step:
        def ranks(folder: Path) -> Outcome:
            file.write_text(" ".join(map(str, numbers)))
            return DIED

        return ranks

    steps = [left(0, 2, 3), left(1), left(1, 2, 3, 0, 5), lambda _: DONE]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "FILE_EVERY_S", 0.0)
        assert runs(steps, devices_file=str(file), replan_pins=("pipeline_parallel=1",)) == DONE
    assert runs.devices == [4, 2, 1, 4], "three devices divide no batch of eight"
    assert [read_plan(tmp_path / f"{PLAN_FILE}-{number}").layout.num_devices for number in (1, 2, 3)] == [2, 1, 4]
    assert read_plan(tmp_path / PLAN_FILE) == plan
    events = [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert [(one["event"], one["devices"], one["after_devices"]) for one in events] == [
        ("replan", 3, 2),
        ("replan", 1, 1),
        ("replan", 4, 4),
    ]
    assert "3 devices are there: TP " in capsys.readouterr().err


def test_a_new_plan_under_which_the_batch_cannot_grow_is_refused(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "devices").write_text("0")
    runs.schedule = ScheduleSection(ramp_start=4, ramp_increment=4, ramp_samples=100)
    pins = ("micro_batch=8",)
    with pytest.raises(PlanError, match="takes batches from 8 on in steps of") as refusal:
        runs([lambda _: DONE], devices_file=str(tmp_path / "devices"), replan_pins=pins)
    assert "`faults.replan_pins` can pin `micro_batch`" in refusal.value.diagnostics[0].hint
    runs.schedule = ScheduleSection()
    assert runs([lambda _: DONE], devices_file=str(tmp_path / "devices"), replan_pins=pins) == DONE


def test_a_plan_that_cannot_be_is_refused(plan: Plan) -> None:
    with pytest.raises(PlanError, match="2 of 4 devices are left, and no layout of the model fits on them"):
        replanned(plan, 2, ["pipeline_parallel=3"])


@pytest.mark.parametrize("text", [None, "0,one", "\xff"])
def test_a_file_that_is_no_list_of_devices_is_refused_at_the_start(
    text: str | None, plan: Plan, tmp_path: Path
) -> None:
    file = tmp_path / "devices"
    if text is not None:
        file.write_text(text, encoding="latin-1")
    with pytest.raises(PlanError, match="this is no list of devices"):
        Devices(plan, str(file))


def test_devices_are_there_once_and_a_file_that_is_being_written_changes_nothing(plan: Plan, tmp_path: Path) -> None:
    file = tmp_path / "devices"
    file.write_text("3,1,1\n")
    assert numbers_in(file) == (3, 1)
    found = Devices(plan, str(file))
    assert found.count() == 2
    file.write_text("half of")
    found._looked_s = -1e9
    assert found.count() == 2
