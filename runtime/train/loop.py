"""The training loop of one rank."""

import math
import os
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from planner.data.refusal import unusable
from planner.diagnostics import Diagnostic, ExitCode, PlanError
from planner.handover.work import JOB_FILE, METRICS_FILE, NVME_FOLDER, SOURCES_FILE
from planner.jobs.job import Job, num_steps
from planner.jobs.reading import read_job
from planner.jobs.schedule import learning_rate_at
from planner.jobs.sources import check_evaluation, open_samples, read_sources
from planner.plans.plan import Plan
from runtime.checkpoints.loading import start_from
from runtime.engines.choice import make_engine
from runtime.engines.engine import Engine
from runtime.train.checkpointing import Checkpointing
from runtime.train.data import Batches
from runtime.train.display import StepDisplay, show_result
from runtime.train.measure import MetricsFile, header, prediction_record, result_lines
from runtime.train.memory import FIRST_STEPS, RankMemory, forget_peaks, gather_memory, memory_records
from runtime.train.profile import StepProfile, profiled_step, slowest_rank
from runtime.train.steps import WARM_UP_STEPS, Step, has_updated, median_step_s, skipped_updates

LARGEST_EXPONENT = 700.0
"""Of e, in double precision."""


def run_training(plan: Plan, folder: Path, *, resume: Path | None = None, init_from: Path | None = None) -> ExitCode:
    """Learn the job in ``folder`` and report; every rank of the process group calls it.

    Rank 0 displays, and writes metrics to ``folder``. The answer says whether the run is done, or was asked to end.

    Raises:
        PlanError: the plan, the data or the loss does not allow it.
    """
    job = read_job(folder / JOB_FILE)
    data = _Data.of(plan, job, folder)
    nvme = os.environ.get(NVME_FOLDER)
    engine = make_engine(
        plan, seed=job.seed, learning_rate=job.optimizer.learning_rate, nvme_folder=None if nvme is None else Path(nvme)
    )
    engine.set_optimizer(job.optimizer)
    _check_same_data(data.fingerprint, engine.device)
    is_first = dist.get_rank() == 0
    display = StepDisplay(data.steps, shown=is_first)
    saving = Checkpointing(engine, plan, job, folder, resume=resume, say=display.say)
    if init_from is not None and resume is None:
        start_from(engine, init_from)
    if saving.done:
        engine.settle(data.training.batch(saving.done, engine.rows))
    stage, device = engine.position.stage, engine.device
    boosted = memory_records(gather_memory(stage, device))
    forget_peaks(device)
    metrics_path = folder / METRICS_FILE
    with MetricsFile(metrics_path if is_first else None, after=saving.done) as metrics, display:
        about = {"step": saving.done} if saving.done else {}
        about |= header(plan, steps=data.steps, seed=job.seed)
        digests = {"job_digest": job.digest, "data_fingerprint": data.fingerprint}
        metrics.write("header", **about, **digests, memory=boosted)
        steps = _steps(plan, job, _Parts(engine, data, saving), metrics, display)
        if saving.ends:
            return ExitCode.SAVED
        memory = gather_memory(stage, device)
        profile = _profile(engine, data)
        metrics.write("summary", **_summary(steps, memory), predicted=prediction_record(plan), **profile._asdict())
    if is_first:
        lines = result_lines(plan, steps, memory, profile.terms_s)
        show_result(steps, lines, str(metrics_path), first=saving.done + 1)
    return ExitCode.OK


class _Data(NamedTuple):
    """What a rank reads, and how much of it."""

    training: Batches
    evaluation: Batches | None
    steps: int
    evaluation_batches: int
    fingerprint: str

    @staticmethod
    def of(plan: Plan, job: Job, folder: Path) -> "_Data":
        """What the launcher has left in ``folder``."""
        problem, sources = plan.problem, read_sources(folder / SOURCES_FILE)
        opened = open_samples(sources, job, problem.seq_len)
        make = partial(Batches, global_batch=problem.global_batch, vocab_size=problem.model.vocab_size)
        return _Data(
            make(opened.training),
            None if opened.evaluation is None else make(opened.evaluation),
            num_steps(job, problem.global_batch * problem.seq_len),
            check_evaluation(opened, job, problem.global_batch),
            sources.fingerprint,
        )


def _check_same_data(fingerprint: str, device: torch.device) -> None:
    """Refuse ranks whose files differ, as those of two nodes may: together they would see what no job says."""
    own = int(fingerprint.removeprefix("sha256:")[:15], 16)
    extremes = torch.tensor([own, -own], dtype=torch.int64, device=device)
    dist.all_reduce(extremes, dist.ReduceOp.MAX)
    if extremes[0] != -extremes[1]:
        message = "the data of this run is not the same on every node"
        raise unusable(message, SOURCES_FILE, "name the same files everywhere, best on a shared drive")


class _Parts(NamedTuple):
    """What a step is made with."""

    engine: Engine
    data: _Data
    saving: Checkpointing


def _steps(plan: Plan, job: Job, parts: _Parts, metrics: MetricsFile, display: StepDisplay) -> list[Step]:
    """All steps of a run, and what is evaluated and saved between them."""
    engine, data, saving = parts
    steps: list[Step] = []
    for number in range(saving.done, data.steps):
        learning_rate = learning_rate_at(number, data.steps, job)
        engine.set_learning_rate(learning_rate)
        engine.seed_step(job.seed, number)
        saving.before_step()
        step = _timed_step(engine, data.training, number)
        steps.append(step)
        tokens_per_s = plan.problem.global_batch * plan.problem.seq_len / step.seconds
        reading = {}
        if len(steps) <= FIRST_STEPS:
            reading = {"memory": memory_records(gather_memory(engine.position.stage, engine.device))}
        metrics.write(
            "step",
            step=number + 1,
            loss=step.loss if math.isfinite(step.loss) else None,
            step_s=step.seconds,
            updated=step.updated,
            tokens_per_s=tokens_per_s,
            learning_rate=learning_rate,
            **reading,
        )
        display.step(number + 1, step, tokens_per_s)
        _check_finite(step.loss, number + 1, plan)
        if data.evaluation is not None and ((number + 1) % job.evaluation.every_steps == 0 or number + 1 == data.steps):
            _evaluate(engine, data, number + 1, metrics, display)
        saving.after_step(number + 1, metrics)
        if saving.ends:
            break
    return steps


def _evaluate(engine: Engine, data: _Data, step: int, metrics: MetricsFile, display: StepDisplay) -> None:
    """Loss and perplexity, ``exp(loss)``, of the held-out batches, every one of which has as many tokens."""
    if data.evaluation is None:
        return
    start = time.perf_counter()
    batches = (data.evaluation.batch(number, engine.rows) for number in range(data.evaluation_batches))
    loss = math.fsum(map(engine.evaluate, batches)) / data.evaluation_batches
    is_number = loss < LARGEST_EXPONENT
    metrics.write(
        "evaluation",
        step=step,
        loss=loss if math.isfinite(loss) else None,
        perplexity=math.exp(loss) if is_number else None,
        batches=data.evaluation_batches,
        seconds=time.perf_counter() - start,
    )
    display.evaluation(step, loss)


def _timed_step(engine: Engine, batches: Batches, number: int) -> Step:
    batch = batches.batch(number, engine.rows)
    # The loss of a step is read on the host, so the clock does not run ahead of the device.
    start = time.perf_counter()
    loss = engine.step(batch)
    seconds = time.perf_counter() - start
    return Step(loss, seconds, has_updated(engine.optimizer))


def _profile(engine: Engine, data: _Data) -> StepProfile:
    """Terms of one more step, after the measured ones; none of a run too short to be measured."""
    if data.steps <= WARM_UP_STEPS:
        return StepProfile({}, {})
    last = data.training.batch(data.steps - 1, engine.rows)
    batch = {name: tensor.to(engine.device) for name, tensor in last.items()}
    return slowest_rank(profiled_step(engine.device, lambda: engine.accumulate_gradients(batch), engine.optimizer.step))


def _check_finite(loss: float, step: int, plan: Plan) -> None:
    if math.isfinite(loss):
        return
    hint = "lower `--learning-rate`"
    if plan.layout.precision == "fp16":
        hint += ", or solve again with `--precision bf16`"
    raise PlanError(
        Diagnostic(rule="RUN007", message=f"the loss of step {step} is {loss}", hint=hint), exit_code=ExitCode.NEGATIVE
    )


def _summary(steps: list[Step], memory: list[RankMemory]) -> dict[str, Any]:
    return {
        "first_loss": steps[0].loss,
        "last_loss": steps[-1].loss,
        "median_step_s": median_step_s(steps),
        "skipped_updates": skipped_updates(steps),
        "ranks": memory_records(memory),
    }
