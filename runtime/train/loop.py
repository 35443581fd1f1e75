"""The training loop of one rank."""

import math
import os
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist

from planner.diagnostics import Diagnostic, ExitCode, PlanError
from planner.handover.texts import Tokenizer, check_vocabulary
from planner.handover.work import METRICS_FILE, NVME_FOLDER, RunOptions
from planner.plans.plan import Plan
from runtime.checkpoints.loading import start_from
from runtime.engines.choice import make_engine
from runtime.engines.engine import Engine
from runtime.train.checkpointing import Checkpointing
from runtime.train.data import PackedBatches, read_tokens
from runtime.train.display import StepDisplay, show_message, show_result
from runtime.train.measure import MetricsFile, header, prediction_record, result_lines
from runtime.train.memory import FIRST_STEPS, RankMemory, forget_peaks, gather_memory, memory_records
from runtime.train.profile import StepProfile, profiled_step, slowest_rank
from runtime.train.steps import WARM_UP_STEPS, Step, has_updated, median_step_s, skipped_updates


def run_training(plan: Plan, options: RunOptions, folder: Path) -> ExitCode:
    """Train ``options.steps`` steps and report; every rank of the process group calls it.

    Rank 0 displays, and writes metrics to ``folder``. The answer says whether the run is done, or was asked to end.

    Raises:
        PlanError: the plan, the data or the loss does not allow it.
    """
    batches = _load_batches(plan, options)
    nvme = os.environ.get(NVME_FOLDER)
    engine = make_engine(
        plan, seed=options.seed, learning_rate=options.learning_rate, nvme_folder=None if nvme is None else Path(nvme)
    )
    is_first = dist.get_rank() == 0
    display = StepDisplay(options.steps, shown=is_first)
    saving = Checkpointing(engine, plan, options, folder, display.say)
    if options.init_from is not None and options.resume is None:
        start_from(engine, options.init_from)
    if saving.done:
        engine.settle(batches.batch(saving.done, engine.rows))
    stage, device = engine.position.stage, engine.device
    boosted = memory_records(gather_memory(stage, device))
    forget_peaks(device)
    metrics_path = folder / METRICS_FILE
    steps: list[Step] = []
    with MetricsFile(metrics_path if is_first else None, after=saving.done) as metrics, display:
        about = {} if saving.done == 0 else {"step": saving.done}
        metrics.write("header", **about, **header(plan, steps=options.steps, seed=options.seed), memory=boosted)
        for number in range(saving.done, options.steps):
            learning_rate = learning_rate_at(number, options)
            engine.set_learning_rate(learning_rate)
            engine.seed_step(options.seed, number)
            saving.before_step()
            step = _timed_step(engine, batches, number)
            steps.append(step)
            tokens_per_s = plan.problem.global_batch * plan.problem.seq_len / step.seconds
            reading = {"memory": memory_records(gather_memory(stage, device))} if len(steps) <= FIRST_STEPS else {}
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
            saving.after_step(number + 1, metrics)
            if saving.ends:
                return ExitCode.SAVED
        memory = gather_memory(stage, device)
        profile = _profile(engine, batches, options)
        metrics.write("summary", **_summary(steps, memory), predicted=prediction_record(plan), **profile._asdict())
    if is_first:
        lines = result_lines(plan, steps, memory, profile.terms_s)
        show_result(steps, lines, str(metrics_path), first=saving.done + 1)
    return ExitCode.OK


def learning_rate_at(step: int, options: RunOptions) -> float:
    """The learning rate of a step, counted from 0: a linear rise, then constant.

    Without the rise the first steps of a large model, whose moments are still empty, throw its loss up.
    """
    return options.learning_rate * min(1.0, (step + 1) / max(options.warmup_steps, 1))


def _load_batches(plan: Plan, options: RunOptions) -> PackedBatches:
    problem = plan.problem
    tokenizer = Tokenizer(options.tokenizer)
    check_vocabulary(tokenizer, problem.model.vocab_size)
    needed = options.steps * problem.global_batch * problem.seq_len + 1
    tokens = read_tokens(options.data, tokenizer, needed)
    if dist.get_rank() == 0 and (note := tokens.note(needed)):
        show_message(note)
    return PackedBatches(tokens.used, seq_len=problem.seq_len, global_batch=problem.global_batch, seed=options.seed)


def _timed_step(engine: Engine, batches: PackedBatches, number: int) -> Step:
    batch = batches.batch(number, engine.rows)
    # The loss of a step is read on the host, so the clock does not run ahead of the device.
    start = time.perf_counter()
    loss = engine.step(batch)
    seconds = time.perf_counter() - start
    return Step(loss, seconds, has_updated(engine.optimizer))


def _profile(engine: Engine, batches: PackedBatches, options: RunOptions) -> StepProfile:
    """Terms of one more step, after the measured ones; none of a run too short to be measured."""
    if options.steps <= WARM_UP_STEPS:
        return StepProfile({}, {})
    batch = {name: tensor.to(engine.device) for name, tensor in batches.batch(options.steps - 1, engine.rows).items()}
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
