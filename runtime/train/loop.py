"""The training loop of one rank."""

import math
import os
import time
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from planner.data.refusal import unusable
from planner.diagnostics import ExitCode
from planner.handover.work import JOB_FILE, METRICS_FILE, NVME_FOLDER, SOURCES_FILE, Beginning
from planner.jobs.batches import batches_of, constant_batches
from planner.jobs.faults import Fault, LossWatch, passed_over
from planner.jobs.job import FaultsSection, Job
from planner.jobs.reading import read_job
from planner.jobs.schedule import learning_rate_at
from planner.jobs.sources import check_evaluation, open_samples, read_sources
from planner.layouts.compilation import is_compiled
from planner.plans.plan import Plan
from runtime.checkpoints.loading import start_from
from runtime.engines.choice import make_engine
from runtime.engines.engine import Batch, Engine
from runtime.exchange import from_first
from runtime.train.checkpointing import Checkpointing
from runtime.train.clipping import Clipping
from runtime.train.data import Batches
from runtime.train.display import StepDisplay, show_result
from runtime.train.expert_load import expert_load
from runtime.train.faults import History, Return, ending, tell_fault
from runtime.train.measure import MetricsFile, header, prediction_record, result_lines
from runtime.train.memory import FIRST_STEPS, RankMemory, forget_peaks, gather_memory, memory_records
from runtime.train.profile import NO_PROFILE, StepProfile, profiled_step, slowest_rank
from runtime.train.steps import WARM_UP_STEPS, Step, has_updated, line_every, median_step_s, skipped_updates
from runtime.train.trackers import Trackers

LARGEST_EXPONENT = 700.0
"""Of e, in double precision."""


def run_training(plan: Plan, folder: Path, begins: Beginning) -> ExitCode:
    """Learn the job in ``folder`` and report; every rank of the process group calls it.

    Rank 0 displays, and writes metrics to ``folder``. The answer says whether the run is done, or was asked to end.

    Raises:
        PlanError: the plan, the data or the loss does not allow it.
    """
    job = read_job(folder / JOB_FILE)
    data = _Data.of(plan, job, folder)
    nvme = os.environ.get(NVME_FOLDER)
    engine = make_engine(
        plan,
        seed=job.seed,
        learning_rate=job.optimizer.learning_rate,
        nvme_folder=None if nvme is None else Path(nvme),
        end_of_document=data.end_of_document,
    )
    engine.set_optimizer(job.optimizer)
    _check_same_data(data.fingerprint, engine.device)
    is_first = dist.get_rank() == 0
    every = line_every(job.logging.every_steps, data.steps)
    display = StepDisplay(plan, data.training.sizes, every=every, shown=is_first)
    saving = Checkpointing(engine, plan, job, folder, begins=begins, say=display.say)
    if begins.init_from is not None and not saving.done:
        start_from(engine, begins.init_from)
    if saving.done:
        display.begin(saving.done)
        engine.settle(_batch(engine, data, saving.done))
    stage, device = engine.position.stage, engine.device
    boosted = memory_records(gather_memory(stage, device))
    forget_peaks(device)
    metrics_path = folder / METRICS_FILE
    clipping = Clipping(engine, job.optimizer.clip_norm) if job.optimizer.clip_norm else None
    watch = _watch(job.faults, metrics_path, saving.done)
    trackers = Trackers(plan, job, folder, done=saving.done, say=display.say) if is_first else None
    follow = None if trackers is None else trackers.record
    # The launcher has removed those of another run, and may have told of this one already.
    with (
        closing(trackers) if trackers is not None else nullcontext(),
        MetricsFile(metrics_path if is_first else None, after=saving.done, follow=follow) as metrics,
        display,
    ):
        about = {"step": saving.done} if saving.done else {}
        about |= header(plan, steps=data.steps, seed=job.seed)
        digests = {"job_digest": job.digest, "data_fingerprint": data.fingerprint}
        times = {"began_s": begins.began_s, "redone_s": metrics.redone_s}
        metrics.write("header", **about, **digests, **times, memory=boosted)
        steps = _steps(_Run(plan, job, engine, data, saving, watch, clipping, Return(begins), metrics, display))
        if saving.ends is not None or not steps:
            return saving.ends or ExitCode.OK
        memory = gather_memory(stage, device)
        profile = _profile(engine, data)
        metrics.write("summary", **_summary(steps, memory), predicted=prediction_record(plan), **profile._asdict())
    if is_first:
        lines = result_lines(plan, steps, memory, profile)
        learned = [number for number in range(saving.done + 1, data.steps + 1) if number not in saving.passed_over]
        show_result(steps, lines, str(metrics_path), ends=(learned[0], learned[-1]))
    return ExitCode.OK


class _Data(NamedTuple):
    """What a rank reads, and how much of it."""

    training: Batches
    evaluation: Batches | None
    evaluation_batches: int
    fingerprint: str
    end_of_document: int | None
    """Where documents are kept apart."""

    @staticmethod
    def of(plan: Plan, job: Job, folder: Path) -> "_Data":
        """What the launcher has left in ``folder``."""
        problem, sources = plan.problem, read_sources(folder / SOURCES_FILE)
        opened = open_samples(sources, job, problem.seq_len)
        make = partial(Batches, vocab_size=problem.model.vocab_size)
        count = check_evaluation(opened, job, problem.global_batch)
        held_out = opened.evaluation
        return _Data(
            make(opened.training, batches_of(job, problem)),
            None if held_out is None else make(held_out, constant_batches(problem.global_batch, count)),
            count,
            sources.fingerprint,
            sources.end_of_document,
        )

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.training.sizes.steps


def _batch(engine: Engine, data: _Data, step: int) -> Batch:
    """This rank's rows of the batch of a step, counted from 0, for which ``engine`` is made ready."""
    engine.set_batch(data.training.sizes.batch(step))
    return data.training.batch(step, engine.rows)


def _check_same_data(fingerprint: str, device: torch.device) -> None:
    """Refuse ranks whose files differ, as those of two nodes may: together they would see what no job says."""
    own = int(fingerprint.removeprefix("sha256:")[:15], 16)
    extremes = torch.tensor([own, -own], dtype=torch.int64, device=device)
    dist.all_reduce(extremes, dist.ReduceOp.MAX)
    if extremes[0] != -extremes[1]:
        message = "the data of this run is not the same on every node"
        raise unusable(message, SOURCES_FILE, "name the same files everywhere, best on a shared drive")


class _Run(NamedTuple):
    """What a step is made with, and told to."""

    plan: Plan
    job: Job
    engine: Engine
    data: _Data
    saving: Checkpointing
    watch: LossWatch
    clipping: Clipping | None
    returns: Return
    metrics: MetricsFile
    display: StepDisplay


def _watch(settings: FaultsSection, metrics: Path, done: int) -> LossWatch:
    """What judges losses, on every rank from the same ones: those that rank 0 finds in the metrics."""
    own = History.of(metrics, done=done, most=settings.spike_window) if dist.get_rank() == 0 else None
    return LossWatch(settings, *from_first(own, History))


def _steps(run: _Run) -> list[Step]:
    """All steps of a run that something is learned from, and what is evaluated and saved between them."""
    data, saving = run.data, run.saving
    steps: list[Step] = []
    if not run.engine.compiles and is_compiled(run.plan.problem, run.plan.layout):
        run.display.say("nothing is compiled without a C compiler, Triton and PyTorch 2.4: steps take longer")
    for number in range(saving.done, data.steps):
        learning_rate = learning_rate_at(number, data.training.sizes, run.job)
        run.engine.set_learning_rate(learning_rate)
        run.engine.seed_step(run.job.seed, number)
        saving.before_step()
        if number + 1 in saving.passed_over:
            run.engine.agree()
            about = {"loss": None, "updated": False, "passed_over": True}
            run.metrics.write("step", step=number + 1, **about, learning_rate=learning_rate)
        else:
            steps.append(_timed_step(run, number))
            _tell(run, number, steps, learning_rate)
        if saving.ends is None:
            _evaluate_and_save(run, number + 1)
        if saving.ends is not None:
            break
    return steps


def _evaluate_and_save(run: _Run, step: int) -> None:
    """What is due after a step, counted from 1."""
    data = run.data
    if data.evaluation is not None and (step % run.job.evaluation.every_steps == 0 or step == data.steps):
        _evaluate(run.engine, data, step, run.metrics, run.display)
    run.saving.after_step(step, run.metrics)


def _tell(run: _Run, number: int, steps: list[Step], learning_rate: float) -> None:
    """Record and show the last of ``steps``, and do what the job wants done about its loss.

    Raises:
        PlanError: the job wants the run to end.
    """
    step, engine, global_batch = steps[-1], run.engine, run.data.training.sizes.batch(number)
    memory: list[RankMemory] = []
    loads: dict[str, Any] = {}
    if len(steps) <= FIRST_STEPS or (number + 1) % line_every(run.job.logging.every_steps, run.data.steps) == 0:
        memory = gather_memory(engine.position.stage, engine.device)
        loads = expert_load(engine)
    run.metrics.write(
        "step",
        step=number + 1,
        loss=_finite(step.loss),
        step_s=step.seconds,
        updated=step.updated,
        **({} if run.clipping is None else {"gradient_norm": _finite(step.gradient_norm)}),
        global_batch=global_batch,
        tokens_per_s=global_batch * run.plan.problem.seq_len / step.seconds,
        learning_rate=learning_rate,
        **loads,
        **({"memory": memory_records(memory)} if memory else {}),
    )
    run.display.step(number + 1, step, learning_rate, memory)
    run.returns.tell(number + 1, run.metrics, run.display.say)
    fault = step.fault
    if fault is None:
        return
    found = tell_fault(fault, engine, run.data.training, run.metrics, run.display.say)
    if fault.action == "stop":
        raise ending(fault, found, run.plan)
    if fault.action == "rewind":
        run.saving.rewind(passed_over(fault, run.job.faults), run.metrics)


def _evaluate(engine: Engine, data: _Data, step: int, metrics: MetricsFile, display: StepDisplay) -> None:
    """Loss and perplexity, ``exp(loss)``, of the held-out batches, every one of which has as many tokens."""
    if data.evaluation is None:
        return
    start = time.perf_counter()
    engine.set_batch(data.evaluation.sizes.whole)
    batches = (data.evaluation.batch(number, engine.rows) for number in range(data.evaluation_batches))
    loss = math.fsum(map(engine.evaluate, batches)) / data.evaluation_batches
    is_number = loss < LARGEST_EXPONENT
    metrics.write(
        "evaluation",
        step=step,
        loss=_finite(loss),
        perplexity=math.exp(loss) if is_number else None,
        batches=data.evaluation_batches,
        seconds=time.perf_counter() - start,
    )
    display.evaluation(step, loss)


def _timed_step(run: _Run, number: int) -> Step:
    engine, watch, clipping = run.engine, run.watch, run.clipping
    batch = _batch(engine, run.data, number)
    found: list[Fault | None] = []

    def is_right(loss: float) -> bool:
        found.append(watch.judge(number + 1, loss))
        return found[-1] is None

    # The loss of a step is read on the host, so the clock does not run ahead of the device.
    start = time.perf_counter()
    loss = engine.step(batch, is_right if watch.before_update else None)
    seconds = time.perf_counter() - start
    is_kept = found[-1] is None if watch.before_update else is_right(loss)
    norm = clipping.norm if clipping is not None and is_kept and has_updated(engine.optimizer) else None
    fault = found[-1] or watch.judge_norm(number + 1, loss, norm)
    updated = has_updated(engine.optimizer) and (fault is None or not (watch.before_update or fault.norm is not None))
    return Step(loss, seconds, updated, fault, norm, is_whole=_is_whole(run.data, number))


def _is_whole(data: _Data, step: int) -> bool:
    return data.training.sizes.batch(step) == data.training.sizes.whole


def _profile(engine: Engine, data: _Data) -> StepProfile:
    """Terms of more steps, after the measured ones; none of a run too short to be measured, or to come to it."""
    if data.steps <= WARM_UP_STEPS or not _is_whole(data, data.steps - 1):
        return NO_PROFILE
    last = _batch(engine, data, data.steps - 1)
    batch = {name: tensor.to(engine.device) for name, tensor in last.items()}
    return slowest_rank(profiled_step(engine.device, lambda: engine.accumulate_gradients(batch), engine.update))


def _finite(number: float | None) -> float | None:
    """A number as JSON has it."""
    return number if number is not None and math.isfinite(number) else None


def _summary(steps: list[Step], memory: list[RankMemory]) -> dict[str, Any]:
    return {
        "first_loss": _finite(steps[0].loss),
        "last_loss": _finite(steps[-1].loss),
        "median_step_s": median_step_s(steps),
        "skipped_updates": skipped_updates(steps),
        "ranks": memory_records(memory),
    }
