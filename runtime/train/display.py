"""The one place of the runtime that writes to the terminal."""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import NamedTuple, Self

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from planner.jobs.batches import BatchSchedule
from planner.plans.plan import Plan
from planner.specs.units import format_bytes, format_rate, format_seconds
from runtime.train.measure import ResultLine
from runtime.train.memory import RankMemory
from runtime.train.steps import Step, skipped_updates

PIPED_WIDTH = 120
"""Columns of the closing table where the output goes to no terminal."""
BAR_WIDTH = 10
LEAST_WIDTH_WITH_BAR = 60
IMPORTANCE = ("loss", "no_update", "left", "tokens_per_s", "step_s", "mfu", "memory", "learning_rate")
"""Which parts of the line of a step stay where a terminal is narrow."""


class _StepLine(NamedTuple):
    """The step, a bar, and of what is known of it as much as the terminal has room for at the moment."""

    task: Task
    """Its fields have the parts."""

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """It takes what there is."""
        return Measurement(1, options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One line."""
        total = int(self.task.total or 0)
        counter = f"step {int(self.task.completed):>{len(str(total))}}/{total}"
        cells: list[RenderableType] = [counter]
        room = options.max_width - len(counter) - 1
        if options.max_width >= LEAST_WIDTH_WITH_BAR:
            cells.append(ProgressBar(total=total, completed=self.task.completed, width=BAR_WIDTH))
            room -= BAR_WIDTH + 1
        parts: dict[str, str] = self.task.fields.get("parts") or {"loss": self.task.description}
        if room >= len(parts["loss"]):
            cells.append(Text(", ".join(fitting(parts, room)), no_wrap=True))
        line = Table.grid(padding=(0, 1))
        line.add_row(*cells)
        yield line


class _StepColumn(ProgressColumn):
    def render(self, task: Task) -> _StepLine:
        return _StepLine(task)


def fitting(parts: Mapping[str, str], room: int) -> list[str]:
    """Those of the ``parts`` of a line, in their order, that ``room`` columns hold, by :data:`IMPORTANCE`."""
    chosen: set[str] = set()
    for name in sorted(parts, key=IMPORTANCE.index):
        if sum(len(parts[one]) + 2 for one in (*chosen, name)) - 2 <= room:
            chosen.add(name)
    return [text for name, text in parts.items() if name in chosen]


class _Display:
    """A bar on stderr while it is a terminal; what is written elsewhere is up to its kind."""

    def __init__(self, *columns: ProgressColumn, total: int, shown: bool) -> None:
        """Count to ``total``; a display that is not ``shown`` writes nothing."""
        self._total, self._shown = total, shown
        self._console = Console(stderr=True, highlight=False)
        disable = not (shown and self._console.is_terminal)
        self._progress = Progress(*columns, console=self._console, disable=disable)
        self._task = self._progress.add_task("starting", total=total)

    def __enter__(self) -> Self:
        """Show the bar."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()

    def say(self, text: str) -> None:
        """A message above the bar; every rank that is shown says it."""
        if self._shown:
            self._console.print(text, soft_wrap=True, markup=False)


class StepDisplay(_Display):
    """Progress of training: beside the bar, a plain line every so many steps where there is no terminal."""

    def __init__(self, plan: Plan, batches: BatchSchedule, *, every: int, shown: bool) -> None:
        """Count the steps of ``batches``; a display that is not ``shown`` writes nothing."""
        super().__init__(_StepColumn(), total=batches.steps, shown=shown)
        self._plan, self._batches, self._every, self._memory_bytes = plan, batches, every, 0
        self._first: tuple[int, float] | None = None

    def begin(self, done: int) -> None:
        """Go on after so many steps."""
        self._progress.update(self._task, completed=done)

    def step(self, number: int, step: Step, learning_rate: float, memory: Sequence[RankMemory]) -> None:
        """Step ``number``, counted from 1, is done; ``memory`` was read after it, of every rank or of none."""
        self._memory_bytes = max((one.allocated_bytes for one in memory), default=self._memory_bytes)
        self._first = self._first or (number, time.monotonic())
        if not self._progress.disable:
            self._progress.update(self._task, completed=number, parts=self._parts(number, step, learning_rate))
        elif self._shown and (number % self._every == 0 or number in (1, self._total)):
            text = ", ".join(self._parts(number, step, learning_rate).values())
            self._console.print(f"step {number}/{self._total}: {text}", soft_wrap=True)

    def _parts(self, number: int, step: Step, learning_rate: float) -> dict[str, str]:
        """What there is to say of a step, by the names of :data:`IMPORTANCE`."""
        problem, predicted = self._plan.problem, self._plan.predicted
        batch, whole = self._batches.batch(number - 1), problem.global_batch
        compared = f"predicted {format_seconds(predicted.step_s)}" if step.is_whole else f"batch {batch} of {whole}"
        parts = {
            "loss": f"loss {step.loss:.4f}",
            "learning_rate": f"rate {learning_rate:.3g}",
            "tokens_per_s": format_rate(batch * problem.seq_len / step.seconds, "tokens/s"),
            "mfu": self._mfu(predicted.mfu * predicted.step_s / step.seconds * batch / whole),
            "memory": format_bytes(self._memory_bytes),
            "step_s": f"{format_seconds(step.seconds)} a step, {compared}",
            "no_update": "" if step.updated else "no update",
            "left": self._left(number),
        }
        return {name: text for name, text in parts.items() if text}

    def _mfu(self, share: float) -> str:
        """Of the rate that the hardware spec states, which may be less than the device's."""
        return f"MFU {share:.1%}" if share <= 1 else f"MFU over 100% of {self._plan.problem.hardware.name}'s rate"

    def _left(self, number: int) -> str:
        """How long the rest of the sequences take at the pace so far, once there is one."""
        first, since_s = self._first or (number, 0.0)
        if number in (first, self._total):
            return ""
        consumed = self._batches.consumed
        pace_s = (time.monotonic() - since_s) / (consumed(number) - consumed(first))
        left_s = pace_s * (self._batches.samples - consumed(number))
        return f"{timedelta(seconds=round(left_s))} left"

    def evaluation(self, number: int, loss: float) -> None:
        """After step ``number`` the held-out part had this loss."""
        if self._shown:
            text = f"step {number}/{self._total}: held-out loss {loss:.4f}, perplexity {math.exp(min(loss, 700)):.4g}"
            self._progress.console.print(text, soft_wrap=True)


class PhaseDisplay(_Display):
    """Progress over named parts of one job: beside the bar, a line for each part where there is no terminal."""

    def __init__(self, count: int, *, shown: bool) -> None:
        """Count ``count`` parts; a display that is not ``shown`` writes nothing."""
        self._begun = 0
        columns = MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        super().__init__(*columns, total=count, shown=shown)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was, with the last part done."""
        self._progress.update(self._task, completed=self._begun)
        super().__exit__(kind, error, trace)

    def phase(self, name: str) -> None:
        """The next part begins."""
        if not self._progress.disable:
            self._progress.update(self._task, completed=self._begun, description=name)
        elif self._shown:
            self._console.print(f"{self._begun + 1}/{self._total} {name}", soft_wrap=True)
        self._begun += 1


def show_result(
    steps: Sequence[Step], lines: Sequence[ResultLine], metrics_path: str, *, ends: tuple[int, int]
) -> None:
    """The result on stdout: loss of the first and the last step, whose numbers are ``ends``, and the rest of it.

    That is skipped updates, and predicted against measured.
    """
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
    console.print(f"loss: {steps[0].loss:.4f} at step {ends[0]}, {steps[-1].loss:.4f} at step {ends[1]}")
    if skipped := skipped_updates(steps):
        console.print(
            f"{skipped} of {len(steps)} steps updated nothing: gradients overflowed in fp16, and the scale of the loss "
            "came down; the median leaves them out",
            soft_wrap=True,
        )
    table = Table(box=None, pad_edge=False)
    for title in ("", "predicted", "measured", "predicted / measured"):
        table.add_column(title, no_wrap=True)
    for line in lines:
        table.add_row(*line)
    console.print(table)
    console.print(f"metrics: {metrics_path}", soft_wrap=True)


def show_message(text: str) -> None:
    """A message on stderr, as it is."""
    sys.stderr.write(text.rstrip() + "\n")
    sys.stderr.flush()
