"""What a run says and does about a loss that is wrong, and what it knows of earlier ones."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from planner.diagnostics import Diagnostic, ExitCode, PlanError, render
from planner.handover.metrics import read_records
from planner.handover.work import Beginning
from planner.jobs.faults import Fault
from planner.plans.plan import Plan
from runtime.engines.engine import Engine
from runtime.exchange import of_everyone
from runtime.train.data import Batches
from runtime.train.measure import MetricsFile

_MOST_SHOWN = 8


class History(NamedTuple):
    """What the metrics of a run have of losses."""

    losses: list[float]
    """The last ones without a fault."""
    faults: list[int]
    """Steps that had one and were skipped or gone back from."""

    @staticmethod
    def of(path: Path, *, done: int, most: int) -> "History":
        """Read the first ``done`` steps, of which ``most`` losses are kept, and all faults; of no file: nothing."""
        records = read_records(path)
        faults = {one["step"] for one in records if one.get("event") == "fault" and one.get("action") != "stop"}
        losses = [
            one["loss"]
            for one in records
            if one.get("record") == "step" and one["loss"] is not None and one["step"] not in faults
            if one["step"] <= done
        ]
        return History(losses[-most:], sorted(faults))


class Share(NamedTuple):
    """What one rank had of a loss."""

    first_row: int
    stop_row: int
    loss: float


def tell_fault(
    fault: Fault, engine: Engine, batches: Batches, metrics: MetricsFile, say: Callable[[str], None]
) -> Diagnostic:
    """Record a fault with the data that did it, and show it unless it ends the run; every rank has to call it."""
    shares = _shares(engine)
    worst = _worst(shares)
    rows = slice(min(one.first_row for one in worst), max(one.stop_row for one in worst)) if worst else engine.rows
    origins = batches.origins(fault.step - 1, rows)
    metrics.event(
        "fault",
        step=fault.step,
        kind=fault.kind,
        action=fault.action,
        loss=fault.loss if math.isfinite(fault.loss) else None,
        highest=fault.most,
        samples=[origins[0]["sample"], origins[-1]["sample"]],
        data=origins[:_MOST_SHOWN],
    )
    shown = [
        f"sample {one['sample']}: {one['source']}, epoch {one['epoch'] + 1}, from token {one['first_token']:,} on"
        + (f" ({one['file']})" if one["file"] else "")
        for one in origins[:_MOST_SHOWN]
    ]
    more = len(origins) - len(shown)
    detail = "\n".join([*shown, *([f"and {more} more samples"] if more > 0 else [])])
    found = Diagnostic(rule="RUN007", message=fault.message, detail=detail)
    if fault.action == "skip":
        say(f"{render(found)}\nits update was skipped")
    return found


def _shares(engine: Engine) -> list[Share]:
    """Of every rank that has one."""
    own = None
    if engine.own_loss is not None:
        own = Share(engine.rows.start, engine.rows.stop, float(engine.own_loss.detach()))
    return [one for one in of_everyone(own, Share | None) if one is not None]


def _worst(shares: list[Share]) -> list[Share]:
    """Those that are no number, or the largest."""
    broken = [one for one in shares if not math.isfinite(one.loss)]
    if broken:
        return broken
    largest = max((one.loss for one in shares), default=0.0)
    return [one for one in shares if one.loss == largest]


def ending(fault: Fault, found: Diagnostic, plan: Plan) -> PlanError:
    """How a run ends that stops because of a fault."""
    hint = "lower `--learning-rate`"
    if plan.layout.precision == "fp16":
        hint += ", or solve again with `--precision bf16`"
    if fault.is_limit:
        hint += "; there were as many faults as `faults.max_faults` allows"
    else:
        hint += f"; `--set faults.{fault.kind}=rewind` goes back to a checkpoint and passes over the data"
    error = Diagnostic(rule=found.rule, message=found.message, detail=found.detail, hint=hint)
    return PlanError(error, exit_code=ExitCode.NEGATIVE)


class Return:
    """The end of a time without steps, told when the first step after it is done."""

    def __init__(self, begins: Beginning) -> None:
        """What the launcher says that was before."""
        self._restarts, self._reason, self._since_s = begins.restarts, begins.reason, begins.down_since_s

    def tell(self, step: int, metrics: MetricsFile, say: Callable[[str], None]) -> None:
        """``step``, counted from 1, is done."""
        if self._since_s is None:
            return
        downtime_s, self._since_s = time.time() - self._since_s, None
        metrics.event("restart", step=step, restarts=self._restarts, reason=self._reason, downtime_s=downtime_s)
        say(f"step {step} is done, {downtime_s:.1f} s after the last one: {self._reason}")
