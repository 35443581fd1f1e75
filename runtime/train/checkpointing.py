"""When a run saves and from where it goes on: all ranks save together, where one of them wishes it."""

import importlib.metadata
import json
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch.distributed as dist

from planner import __version__
from planner.checkpoints.folders import CHECKPOINTS
from planner.checkpoints.manifest import Facts
from planner.diagnostics import ExitCode, PlanError, render
from planner.handover.work import REWIND_FILE, Beginning
from planner.jobs.batches import batches_of
from planner.jobs.job import Job
from planner.plans.plan import Plan
from planner.specs.units import format_bytes, format_seconds
from runtime.checkpoints.loading import load
from runtime.checkpoints.saving import Progress, Saved, Saver
from runtime.checkpoints.writing import Keeping
from runtime.engines.engine import Engine, Wishes
from runtime.exchange import from_first
from runtime.train.measure import PACKAGES, MetricsFile

SECONDS_A_MINUTE = 60.0


class _Places(NamedTuple):
    """Where checkpoints are, and what else is the same for all ranks of all nodes: rank 0 says so."""

    folder: Path
    resumed: Path | None
    pass_over: tuple[int, ...]


class Checkpointing:
    """The checkpoints of one run; every rank of it has one."""

    def __init__(
        self, engine: Engine, plan: Plan, job: Job, folder: Path, *, begins: Beginning, say: Callable[[str], None]
    ) -> None:
        """Load what the run goes on from and be ready to save; ``folder`` is that of the run.

        ``say`` shows a message.

        Raises:
            PlanError: the states of this layout cannot be saved, or those of the checkpoint cannot be used.
        """
        self._engine, self._job, self._say, self._until_s = engine, job, say, begins.until_s
        self._note = folder / REWIND_FILE
        places = from_first(_Places((folder / CHECKPOINTS).resolve(), begins.resume, begins.pass_over), _Places)
        self._batches = batches_of(job, plan.problem)
        self._saver = self._saver_of(plan, places.folder) if job.checkpoint.every_steps else None
        self.done = 0
        """Steps that are behind the checkpoint that the run goes on from."""
        self.passed_over = set(places.pass_over)
        """Steps, counted from 1, whose batches nothing is learned from."""
        if places.resumed is not None:
            facts = load(engine, places.resumed).facts
            self.done = facts.step
            self.passed_over |= set(facts.skipped_steps)
        self.ends: ExitCode | None = None
        """How the run ends before its last step, where it does."""
        self._asked, self._last_s = False, time.monotonic()
        self._is_first = dist.get_rank() == 0
        if self._saver is not None:
            signal.signal(signal.SIGUSR1, self._ask)

    def _saver_of(self, plan: Plan, folder: Path) -> Saver:
        settings = self._job.checkpoint
        facts = Facts(
            step=0,
            consumed_sequences=0,
            optimizer_step=0,
            seed=self._job.seed,
            precision=plan.layout.precision,
            model=plan.problem.model,
            plan_digest=plan.digest,
            job_digest=self._job.digest,
            gptplan_version=__version__,
            versions={name: importlib.metadata.version(name) for name in PACKAGES},
        )
        keeping = Keeping(settings.keep, settings.keep_every)
        return Saver(self._engine, folder, facts, asynchronous=not settings.wait, keeping=keeping)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def before_step(self) -> None:
        """Put what this rank wishes into the message of the step's loss."""
        minutes = self._job.checkpoint.every_minutes
        is_due = minutes > 0 and time.monotonic() - self._last_s > minutes * SECONDS_A_MINUTE
        is_over = self._until_s is not None and time.time() > self._until_s
        self._engine.wishes = Wishes(save=self._is_first and is_due, end=self._asked or (self._is_first and is_over))

    def after_step(self, step: int, metrics: MetricsFile) -> None:
        """Save if it is time to, and say what has become of earlier saves; ``step`` counts from 1.

        Raises:
            PlanError: the last save of the run has failed.
        """
        if self._saver is None:
            return
        self._tell(self._saver.poll(), metrics)
        wished, every = self._engine.agreed, self._job.checkpoint.every_steps
        self.ends = ExitCode.SAVED if wished.end else None
        is_last = wished.end or step == self._batches.steps
        if is_last or wished.save or step % every == 0:
            self._tell(self._saver.finish(), metrics)
            self._last_s = time.monotonic()
            self._tell(self._saver.save(self._progress(step)), metrics, is_last=is_last)
        if is_last:
            self._tell(self._saver.finish(), metrics, is_last=True)

    def _progress(self, step: int) -> Progress:
        skipped = tuple(sorted(one for one in self.passed_over if one <= step))
        return Progress(step, self._batches.consumed(step), skipped)

    def rewind(self, steps: Sequence[int], metrics: MetricsFile) -> None:
        """End this run so that its launcher starts it again before ``steps``, which it then passes over."""
        if self._saver is not None:
            self._tell(self._saver.finish(), metrics)
        if self._is_first:
            self._note.write_text(json.dumps(list(steps)), encoding="utf-8")
        self.ends = ExitCode.REWIND

    def _tell(self, saved: Saved | None, metrics: MetricsFile, *, is_last: bool = False) -> None:
        if saved is None:
            return
        failure = saved.written.failure
        if failure is not None and is_last:
            raise PlanError(failure, exit_code=ExitCode.NEGATIVE)
        if not self._is_first:
            return
        if failure is not None:
            self._say(f"{render(failure)}\ntraining goes on without a checkpoint of step {saved.step}")
            metrics.write("checkpoint", step=saved.step, failure=failure.message)
            return
        size, total, stall = saved.written.num_bytes, saved.total_s, saved.stall_s
        metrics.write("checkpoint", step=saved.step, bytes=size, stall_s=stall, total_s=total)
        self._say(
            f"step {saved.step}: saved {format_bytes(size)} in {format_seconds(total)}, for which training stood still "
            f"{format_seconds(stall)}: {saved.written.folder}"
        )
