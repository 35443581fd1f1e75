"""A run from its first start to its end: started again from a checkpoint where it goes back or is to keep going."""

import contextlib
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import msgspec

from planner.checkpoints.folders import CHECKPOINTS, GONE, check_files, checkpoints_in, step_of
from planner.checkpoints.manifest import MANIFEST, read_manifest
from planner.diagnostics import ExitCode, PlanError, render
from planner.handover.metrics import read_records
from planner.handover.work import METRICS_FILE, PLAN_FILE, REWIND_FILE, Beginning, RunOptions
from planner.jobs.documents import are_apart, no_documents
from planner.jobs.job import Job
from planner.jobs.ramp import of_ramp
from planner.launch.devices import Devices
from planner.launch.folder import note_event
from planner.launch.processes import Outcome, execute, training
from planner.launch.ranks import Interrupted, interruptible
from planner.launch.replanning import change_words, replanned
from planner.outputs import say, write_output
from planner.plans.plan import Plan, canonical_json

SECONDS_A_MINUTE = 60.0


def _step(path: Path) -> int:
    return step_of(path.with_suffix("")) or 0


def _written(path: Path) -> tuple[str, int]:
    """What tells a checkpoint from another one that had its name."""
    return path.name, (path / MANIFEST).stat().st_mtime_ns


class Keeper:
    """Starts the ranks of one run, as often as it takes."""

    def __init__(self, plan: Plan, folder: Path, job: Job, options: RunOptions, *, keep_going: bool) -> None:
        """Run ``plan``, which is in ``folder`` with its job, and end with its ranks unless it is to ``keep_going``."""
        self._planned, self._running = plan, plan
        self._folder, self._job, self._options, self._keep_going = folder, job, options, keep_going
        minutes = job.schedule.stop_after_minutes
        until_s = time.time() + minutes * SECONDS_A_MINUTE if minutes else None
        self._begins = Beginning(resume=options.resume, init_from=options.init_from, until_s=until_s)
        self._devices = Devices(plan, job.faults.devices_file) if keep_going and plan.problem.num_nodes == 1 else None
        self._present = {_written(path) for path in self._all()}
        self._in_place, self._last = 0, self._newest()

    def run(self, began_s: float | None = None) -> Outcome:
        """Until the run has ended, or is not to be started again; it was begun at the Unix time ``began_s``.

        Raises:
            PlanError: there is no plan for the devices that are left.
        """
        nodes = self._planned.problem.num_nodes
        if self._keep_going and nodes > 1 and not self._options.node_rank:
            say(
                f"note: a plan for {nodes} nodes is not planned again for fewer: ranks start again once all {nodes} "
                "are there; where one is gone for good, solve for those that are left and go on with "
                f"`--resume {self._folder}`"
            )
        try:
            while True:
                self._begins = msgspec.structs.replace(self._begins, began_s=began_s or time.time())
                began_s = None
                self._fit_devices()
                outcome = self._once()
                if not self._goes_on(outcome):
                    return self._ended(outcome)
                with interruptible():
                    time.sleep(0 if outcome.code == ExitCode.REWIND else self._job.faults.restart_wait_s)
        except Interrupted as interrupted:
            return self._ended(Outcome(code=128 + interrupted.number, interrupted_by=interrupted.number))

    def _ended(self, outcome: Outcome) -> Outcome:
        """Note an end that is not that of the last step, whose ranks have said so themselves."""
        if outcome.code and not self._options.node_rank:
            interrupted = outcome.asked_to_end or outcome.interrupted_by is not None or outcome.code == ExitCode.SAVED
            with contextlib.suppress(OSError):
                note_event(self._folder, "end", code=int(outcome.code), interrupted=interrupted)
        return outcome

    def _once(self) -> Outcome:
        work = training(self._running, self._folder, self._options, self._begins)
        if self._devices is None:
            return execute(work)
        devices = self._devices
        work = replace(work, devices=devices.chosen(self._running.layout.num_devices))
        return execute(work, wants_save=devices.have_changed)

    def _goes_on(self, outcome: Outcome) -> bool:
        if outcome.code == ExitCode.REWIND:
            return self._rewinds()
        if not self._keep_going or outcome.asked_to_end:
            return False
        if outcome.code == ExitCode.SAVED and self._devices is not None and self._devices.have_changed():
            self._begin_again("the devices changed")
            return True
        return outcome.died and self._restarts(outcome)

    def _rewinds(self) -> bool:
        """Go back before the steps that rank 0 has left in a note."""
        steps: list[int] = []
        note = self._folder / REWIND_FILE
        if self._options.node_rank == 0:
            steps = json.loads(note.read_text(encoding="utf-8"))
            note.unlink()
            checkpoint = self._before(min(steps))
            where = f"goes back to {checkpoint or 'its beginning'}"
            say(f"the run {where}, and passes over the batches of steps {', '.join(map(str, steps))}")
        self._begin_again("going back", tuple(steps))
        return True

    def _before(self, step: int) -> Path | None:
        """The newest checkpoint without ``step``, or the oldest; those after it are removed, for they follow the fault.

        Without any of its own the run goes back to where it began.
        """
        own = self._own()
        early = [path for path in own if _step(path) < step] or own[:1]
        for path in own:
            if early and path > early[-1]:
                gone = path.with_name(path.name + GONE)
                path.rename(gone)
                shutil.rmtree(gone, ignore_errors=True)
        return early[-1] if early else self._options.resume

    def _restarts(self, outcome: Outcome) -> bool:
        """Whether the ranks, which have died, start again."""
        limits, newest = self._job.faults, self._newest()
        self._in_place = self._in_place + 1 if newest == self._last else 1
        self._last = newest
        if self._begins.restarts >= limits.max_restarts:
            say(f"the run ends after {self._begins.restarts} restarts, as many as `faults.max_restarts` allows")
            return False
        # Only node 0 has checkpoints; the others wait for it in vain where it does not start again.
        if self._in_place > limits.max_restarts_in_place and self._options.node_rank == 0:
            most = limits.max_restarts_in_place
            say(f"the run ends after {most} restarts in one place, as many as `faults.max_restarts_in_place` allows")
            return False
        self._begin_again(f"its ranks ended with {outcome.code}", count=1)
        if self._options.node_rank == 0:
            where = self._begins.resume or "its beginning"
            say(f"restart {self._begins.restarts} of at most {limits.max_restarts}, from {where}")
        return True

    def _begin_again(self, reason: str, pass_over: tuple[int, ...] = (), count: int = 0) -> None:
        begun = self._begins
        since_s = begun.down_since_s
        if since_s is None or self._has_told(begun.down_since_s):
            since_s = self._last_record_s()
        self._begins = msgspec.structs.replace(
            begun,
            resume=self._newest(),
            pass_over=tuple(sorted({*begun.pass_over, *pass_over})),
            restarts=begun.restarts + count,
            reason=reason,
            down_since_s=since_s,
        )

    def _all(self) -> list[Path]:
        return checkpoints_in(self._folder / CHECKPOINTS)

    def _own(self) -> list[Path]:
        """Checkpoints of this run: written since it began, or those up to the one that it went on from."""
        resumed = self._options.resume
        first = -1
        if resumed is not None and resumed.parent == (self._folder / CHECKPOINTS).resolve():
            first = step_of(resumed) or -1
        return [path for path in self._all() if _step(path) <= first or _written(path) not in self._present]

    def _newest(self) -> Path | None:
        """The newest checkpoint that is as it was written; where the run has none, what it was told to go on from."""
        for path in reversed(self._own()):
            try:
                check_files(path, read_manifest(path), ())
            except PlanError as error:
                say("\n".join(map(render, error.diagnostics)))
            else:
                return path.resolve()
        return self._options.resume

    def _has_told(self, since_s: float | None) -> bool:
        """Whether a step was done after the last time without steps."""
        events = [one for one in read_records(self._folder / METRICS_FILE) if one.get("event") == "restart"]
        return since_s is not None and any(one["time_s"] > since_s for one in events)

    def _last_record_s(self) -> float:
        try:
            return (self._folder / METRICS_FILE).stat().st_mtime
        except OSError:
            return time.time()

    def _check_job(self, plan: Plan) -> None:
        """Refuse a plan under which the job cannot go on: its batch has to grow, or documents to stay apart."""
        resumed = self._begins.resume
        done = 0 if resumed is None else _step(resumed)
        found = list(of_ramp(self._job, plan.problem, plan.layout, done))
        found += no_documents(plan.layout) if are_apart(self._job) else ()
        if found:
            hint = "`faults.replan_pins` can pin `micro_batch`, a degree or a mode with which it can"
            raise PlanError(*(msgspec.structs.replace(one, hint=hint) for one in found), exit_code=ExitCode.NEGATIVE)

    def _fit_devices(self) -> None:
        """Have the plan that runs be one for the devices that are there."""
        if self._devices is None:
            return
        count = self._devices.count()
        self._devices.used = count
        if count >= self._planned.layout.num_devices:
            new = self._planned
        elif count == self._running.layout.num_devices:
            return
        else:
            new = replanned(self._planned, count, self._job.faults.replan_pins)
            self._check_job(new)
        if new.digest == self._running.digest:
            return
        before, self._running = self._running, new
        number = len(list(self._folder.glob(f"{PLAN_FILE}-*"))) + 1
        for name in (PLAN_FILE, f"{PLAN_FILE}-{number}"):
            write_output(canonical_json(new), self._folder / name, what="plan", force=True, option="--run-dir")
        say(change_words(before, new, count) + f"; the plan is in {self._folder / f'{PLAN_FILE}-{number}'}")
        note_event(
            self._folder,
            "replan",
            devices=count,
            plan_digest=new.digest,
            before_devices=before.layout.num_devices,
            after_devices=new.layout.num_devices,
            before_step_s=before.predicted.step_s,
            after_step_s=new.predicted.step_s,
        )
