"""Saving the states of an engine, while training waits or goes on."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor

from planner.checkpoints.manifest import KINDS, WEIGHTS, Facts, Kind
from runtime.checkpoints.engines import held_states
from runtime.checkpoints.routes import routes, stage_group
from runtime.checkpoints.writing import Keeping, Read, Writer, Written
from runtime.engines.engine import Engine
from runtime.states.loss_scale import read_loss_scale


class Progress(NamedTuple):
    """How far training is, which no engine knows."""

    step: int
    consumed_sequences: int
    skipped_steps: tuple[int, ...] = ()


class Saved(NamedTuple):
    """A save that has ended, well or not."""

    step: int
    written: Written
    stall_s: float
    """How long training stood still for it on this rank."""
    total_s: float
    """From its beginning until it was whole on the drive."""


class Saver:
    """Saves the states of an engine, one checkpoint at a time."""

    def __init__(
        self, engine: Engine, folder: Path, facts: Facts, *, asynchronous: bool, keeping: Keeping | None = None
    ) -> None:
        """Learn what every rank holds; all ranks have to call it, before training begins.

        Args:
            engine: whose states are saved.
            folder: of the checkpoints, the same for all ranks.
            facts: what stays the same during the run; the rest is filled in at each save.
            asynchronous: write copies while training goes on, for which host memory is taken now. Moments on a drive
                are there because host memory has no room for them: with those training waits.
            keeping: which checkpoints stay.

        Raises:
            PlanError: these states cannot be saved, and why.
        """
        self._engine, self._facts = engine, facts
        self._held = {one.name: one for one in held_states(engine) if not one.is_copy}
        stage = stage_group(engine.layout)
        found = routes(list(self._held.values()), stage)
        me = dist.get_rank()
        given = {route.name for route in found for source in route.sources if source.rank == me}
        self._given = [one for name, one in self._held.items() if name in given]
        self._writer = Writer(folder, stage, found, keeping or Keeping())
        self._copies = self._room() if asynchronous and engine.layout.offload.tier != "nvme" else None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._running: Future[Saved] | None = None

    def _room(self) -> dict[tuple[str, Kind], Tensor]:
        pinned = self._engine.device.type == "cuda"
        return {(one.name, kind): torch.empty(len(one), pin_memory=pinned) for one in self._given for kind in KINDS}

    @property
    def copied_bytes(self) -> int:
        """Host memory of this rank for copies that are written while training goes on."""
        return sum(copy.nbytes for copy in (self._copies or {}).values())

    def save(self, progress: Progress) -> Saved | None:
        """Save the states as they are; every rank has to call it after the same step.

        This is the outcome; of a save that goes on beside training it is told by :meth:`poll` and :meth:`finish`. One
        that is still being written is waited for: call :meth:`finish` before to learn what became of it.
        """
        start = time.perf_counter()
        self.finish()
        facts = self._facts_after(progress)
        kinds = KINDS if facts.optimizer_step else (WEIGHTS,)
        if self._copies is None:
            saved = self._write(facts, kinds, lambda name, kind: self._held[name].read(kind), start)
            return saved._replace(stall_s=saved.total_s)
        copies = self._copies
        for one in self._given:
            for kind in kinds:
                copies[one.name, kind].copy_(one.read(kind), non_blocking=True)
        if self._engine.device.type == "cuda":
            torch.cuda.synchronize()
        stall_s = time.perf_counter() - start

        def write() -> Saved:
            return self._write(facts, kinds, lambda name, kind: copies[name, kind], start)._replace(stall_s=stall_s)

        self._running = self._thread.submit(write)
        return None

    def finish(self) -> Saved | None:
        """Wait for what is being written; what became of it, once."""
        running, self._running = self._running, None
        return None if running is None else running.result()

    def poll(self) -> Saved | None:
        """What became of a save that has ended since, once and without waiting."""
        return self.finish() if self._running is not None and self._running.done() else None

    def _write(self, facts: Facts, kinds: Sequence[Kind], read: Read, start: float) -> Saved:
        written = self._writer.write(facts, kinds, read)
        return Saved(facts.step, written, stall_s=0.0, total_s=time.perf_counter() - start)

    def _facts_after(self, progress: Progress) -> Facts:
        return msgspec.structs.replace(
            self._facts,
            step=progress.step,
            consumed_sequences=progress.consumed_sequences,
            skipped_steps=progress.skipped_steps,
            optimizer_step=self._optimizer_step(),
            loss_scale=read_loss_scale(self._engine.optimizer),
        )

    def _optimizer_step(self) -> int:
        """Updates of the weights; a rank that holds nothing learns it from the others."""
        states = (one.optimizer.state.get(one.updated) for one in self._held.values())
        own = max((int(state["step"]) for state in states if state), default=0)
        most = torch.tensor(own)
        dist.all_reduce(most, dist.ReduceOp.MAX, group=self._writer.everyone)
        return int(most)
