"""What is wrong with a loss, and what a job wants done about it: the same on every rank that sees the same losses."""

import math
import statistics
from collections import deque
from collections.abc import Iterable
from typing import Literal, NamedTuple

from planner.jobs.job import FaultsSection

DEVIATION = 1.4826
"""Standard deviation of a normal distribution over its median distance from the median (Rousseeuw and Croux 1993)."""
LEAST_DEVIATION = 1e-3
"""Of the median: losses that hardly differ make no spike of the next one."""

Kind = Literal["not_finite", "spike"]


class Fault(NamedTuple):
    """A loss with which something is wrong."""

    kind: Kind
    step: int
    """Counted from 1."""
    loss: float
    action: Literal["stop", "skip", "rewind"]
    most: float | None = None
    """The highest loss that would have been no spike."""
    is_limit: bool = False
    """Whether it stops the run only because there were as many faults as it may have."""
    norm: float | None = None
    """Of the gradients, where it is that which is no number."""

    @property
    def message(self) -> str:
        """What is wrong."""
        if self.norm is not None:
            return f"the norm of the gradients of step {self.step} is {self.norm}"
        if self.most is None:
            return f"the loss of step {self.step} is {self.loss}"
        return f"the loss of step {self.step}, {self.loss:.6g}, is a spike: it is above {self.most:.6g}"


class LossWatch:
    """Judges the losses of a run, step by step."""

    def __init__(self, settings: FaultsSection, losses: Iterable[float] = (), faults: Iterable[int] = ()) -> None:
        """Go on after ``losses``, the last ones without a fault, and after ``faults``, the steps that had one."""
        self._settings = settings
        self._recent = deque(losses, maxlen=settings.spike_window)
        self._faults = set(faults)

    @property
    def before_update(self) -> bool:
        """Whether a loss has to be known before its step updates the weights."""
        return "skip" in {self._settings.not_finite, self._settings.spike}

    def judge(self, step: int, loss: float) -> Fault | None:
        """What is wrong with the loss of a step, counted from 1, if anything; each step is judged once."""
        settings = self._settings
        most = self._highest()
        if not math.isfinite(loss):
            fault = Fault("not_finite", step, loss, settings.not_finite)
        elif settings.spike != "ignore" and most is not None and loss > most:
            fault = Fault("spike", step, loss, settings.spike, most)
        else:
            self._recent.append(loss)
            return None
        return self._limited(fault)

    def judge_norm(self, step: int, loss: float, norm: float | None) -> Fault | None:
        """The same of the norm of the gradients of a step whose loss is right; ``None`` where there is none."""
        if norm is None or math.isfinite(norm):
            return None
        return self._limited(Fault("not_finite", step, loss, self._settings.not_finite, norm=norm))

    def _limited(self, fault: Fault) -> Fault:
        self._faults.add(fault.step)
        if fault.action != "stop" and len(self._faults) > self._settings.max_faults:
            return fault._replace(action="stop", is_limit=True)
        return fault

    def _highest(self) -> float | None:
        """The highest loss that is no spike; ``None`` while too few are known."""
        if 2 * len(self._recent) < self._settings.spike_window:
            return None
        median = statistics.median(self._recent)
        distance = statistics.median(abs(loss - median) for loss in self._recent)
        deviation = max(DEVIATION * distance, LEAST_DEVIATION * abs(median))
        return median + self._settings.spike_deviations * deviation


def passed_over(fault: Fault, settings: FaultsSection) -> range:
    """The steps, counted from 1, whose batches a rewind passes over."""
    return range(max(1, fault.step - settings.pass_over + 1), fault.step + 1)
