"""What follows a run beside its metrics file: TensorBoard and Weights & Biases, as its job says. Rank 0 has them."""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from planner.diagnostics import Diagnostic, PlanError
from planner.handover.work import TENSORBOARD_FOLDER
from planner.jobs.job import Job
from planner.plans.plan import Plan

_OF_STEP = ("loss", "learning_rate", "global_batch", "tokens_per_s", "step_s", "gradient_norm", "fullest_expert")
_OF = {"step": ("train", _OF_STEP), "evaluation": ("evaluation", ("loss", "perplexity"))}


class _Tracker(Protocol):
    def add(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class Trackers:
    """Those that are open; one that fails is told and left out, for training goes on without it."""

    def __init__(self, plan: Plan, job: Job, folder: Path, *, done: int, say: Callable[[str], None]) -> None:
        """Open those that ``job`` wants for the run in ``folder``, of which so many steps are ``done``.

        Raises:
            PlanError: one cannot begin.
        """
        self._say, self._open = say, dict[str, _Tracker]()
        wanted: dict[str, Callable[[], _Tracker]] = {}
        if job.logging.tensorboard:
            wanted["tensorboard"] = lambda: _TensorBoard(folder / TENSORBOARD_FOLDER, done)
        if job.logging.wandb != "off":
            wanted["wandb"] = lambda: _WeightsAndBiases(plan, job, folder)
        for key, begin in wanted.items():
            try:
                self._open[key] = begin()
            except Exception as error:
                message = f"`logging.{key}` cannot begin: {type(error).__name__}: {error}"
                hint = f"`gptplan run --set logging.{key}={'off' if key == 'wandb' else 'false'}` goes without it"
                raise PlanError(Diagnostic(rule="USAGE", message=message, hint=hint)) from error

    def record(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Pass on the numbers of a record that has some."""
        values = scalars(kind, fields)
        for key, tracker in list(self._open.items()) if values else ():
            self._tried(key, partial(tracker.add, values, fields["step"]))

    def close(self) -> None:
        """Write what is not written yet."""
        for key, tracker in list(self._open.items()):
            self._tried(key, tracker.close)

    def _tried(self, key: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            del self._open[key]
            self._say(f"warning: `logging.{key}` has ended: {error}; training goes on without it")


def scalars(kind: str, fields: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record by their names in a tracker."""
    group, names = _OF.get(kind, ("", ()))
    found = {f"{group}/{name}": fields[name] for name in names if fields.get(name) is not None}
    if group == "train" and fields.get("memory"):
        found["train/memory_bytes"] = max(one["allocated_bytes"] for one in fields["memory"])
    return found


class _TensorBoard:
    def __init__(self, folder: Path, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # TensorBoard hides what an earlier start has written of steps that are done again.
        self._writer = SummaryWriter(str(folder), purge_step=done + 1)

    def add(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, plan: Plan, job: Job, folder: Path) -> None:
        import wandb

        # The same run after a resume: it is known by its folder and by what it learns.
        own = hashlib.sha256(f"{folder.resolve()} {job.digest}".encode()).hexdigest()[:16]
        config = {"model": plan.problem.model.name, "plan_digest": plan.digest, "job_digest": job.digest}
        self._run: Any = wandb.init(
            project="gptplan",
            name="/".join(folder.resolve().parts[-2:]),
            id=own,
            resume="allow",
            dir=str(folder),
            mode=job.logging.wandb,
            config=config,
        )
        # A step of its own: by its count, Weights & Biases would drop those that are done again.
        self._run.define_metric("*", step_metric="step")

    def add(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, "step": step})

    def close(self) -> None:
        self._run.finish()
